//! Chapters 4.2 and 5 of the thesis, to the letter: self-signed JWTs between services.
//!
//! | thesis | here |
//! |---|---|
//! | Listing 5.1, `ICertificateAuthorityService` | [`countersign_pki::truststore::CertificateAuthorityService`] |
//! | Listing 5.2, `ITokenValidationService` | [`TokenValidationService`], implemented by [`JwtValidationService`] |
//! | Listing 5.3, `ITokenCreatorService` | [`TokenCreatorService`], implemented by [`JwtCreatorService`] |
//! | Figure 5.2, the token | [`token`] |
//! | Algorithm 5.1, the validation of a request | [`validate_request`], in both ways to read its `else` |
//! | 5.3.2, the middleware before the controllers | [`JwtAuthenticationMiddleware`] |
//! | 5.2.2 step 5, asking for an unknown certificate | [`HttpClientFactory`] |
//! | 3.2.2, the project's closed PKI | [`ClosedPki`] |
//!
//! Where the thesis leaves something open, the kindest reading is taken: "the certificate is trusted" means all
//! five checks of `pki`, not merely a known root. What is wrong with the result is wrong with the mechanism:
//!
//! - The typeset `else` hangs on "certificate is trusted". A caller without a certificate then never gets in, and
//!   one with a worthless certificate gets in by somebody else's token. ([`DanglingElse`])
//! - The token's issuer is never compared with the certificate's subject.
//! - What once was put into the trust store stays there, whatever becomes of the certificate, until another
//!   certificate with the same subject takes its place.
//! - A missing token is answered by 403, which tells nobody that a token would help.
//! - The token says nothing about the request. Whoever sees it can send any request for five minutes.
//!
//! Asking for a certificate in the middle of a connection does not exist here: HTTP/2 forbids it (RFC 9113 section
//! 9.2.3), and in TLS 1.3 it needs an extension that `rustls` does not have. So the repeated request goes over a
//! new connection.

mod algorithm;
mod caller;
mod certificate;
mod closed_pki;
mod listener;
mod middleware;
pub mod token;
mod validation;

use std::sync::Arc;

use countersign_identity::UnixTime;

pub use algorithm::{DanglingElse, Request, Verdict, validate_request};
pub use caller::{ANSWER_BYTES_MAX, Attempt, CallError, Connection, HttpClientFactory, Reply};
pub use certificate::{sha1_thumbprint, subject};
pub use closed_pki::{ClosedPki, ClosedPkiError, ServiceIdentity};
pub use listener::{ClientCertificate, ListenError, Listener};
pub use middleware::{AuthenticatedRequest, JwtAuthentication, JwtAuthenticationMiddleware};
pub use token::{JwtCreatorService, TokenCreatorService};
pub use validation::{ISSUERS_MAX, JwtValidationService, TokenValidationService};

/// What the time is: the services of the thesis have no argument for it.
pub type Clock = Arc<dyn Fn() -> UnixTime + Send + Sync>;

/// The time as everything else here knows it.
#[must_use]
pub fn system_clock() -> Clock {
    Arc::new(countersign_sdk::clock::now)
}
