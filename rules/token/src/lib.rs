//! Tokens: who somebody is, as signed text.
//!
//! Every kind of token is one file with `mint` and `verify`. All of them stand on one strict compact JWS
//! ([`jws`]): one algorithm per key, the few header members that its kind has, a registered `typ` ([`typ`]) and an
//! own signing key for each kind, so that a token of one kind never passes as another. Time is an argument.
//!
//! - [`access_token`]: what a user gets by login and shows at the gateway (RFC 9068, `at+jwt`).
//! - [`foreign_access_token`]: the same from an OpenID provider that knows nothing of us.
//! - [`txn_token`]: what the gateway makes of it for the services inside (`txntoken+jwt`); the external
//!   token never goes past the gateway.
//! - [`exchanged_token`]: the user's token for one hop, from the token service (RFC 8693); [`mod@exchange`] says
//!   which token may become which.
//! - [`service_token`]: what a service signs for one request of its own.
//! - [`jwt_svid`]: which workload it is, for who cannot show a certificate; [`client_assertion`]: the same towards
//!   the token service.
//! - [`dpop`] and [`confirmation`]: the key that a token is bound to, and the proof of it.
//! - [`revoked`]: what counts no longer, asked at every use.
//! - [`wit`], and [`wpt`] or [`http_signature`]: who a workload is in the form of the WIMSE drafts, and its proof.
//! - [`macaroon`]: what a service narrows to each request by itself, and [`bearer`]: what it does not have to understand. Neither
//!   is a JWS; [`replay`] remembers the tokens of whichever kind that count once.
//! - [`jwe`]: no token, but a payload that nobody may read between two workloads.
//!
//! ```
//! use countersign_identity::{Possession, SpiffeId, UnixTime};
//! use countersign_keys::{KeyPair, SystemRandom};
//! use countersign_token::{TxnToken, txn_token};
//!
//! let gateway: SpiffeId = "spiffe://fleamarket.test/countersign/gateway/edge".parse()?;
//! let (key, now) = (KeyPair::generate(&SystemRandom::new())?, UnixTime::from_secs(1_800_000_000));
//! let token = TxnToken {
//!     txn: "01JZ".into(), user_id: "u_1".into(), name: "alice".into(), roles: vec!["buyer".into()],
//!     scope: "fleamarket".into(), requested_by: gateway.clone(), expires: txn_token::expiry(now, None),
//!     actors: Vec::new(), possession: Possession::None,
//! }.mint(&key, now)?;
//!
//! let user = TxnToken::verify(&token, gateway.trust_domain(), now, |kid| {
//!     (kid == key.public_key().thumbprint()).then(|| (key.public_key().clone(), gateway.clone()))
//! })?;
//! assert_eq!(user.name, "alice");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod access_token;
pub mod actors;
pub mod bearer;
mod claims;
pub mod client_assertion;
pub mod confirmation;
pub mod dpop;
pub mod exchange;
pub mod exchanged_token;
pub mod foreign_access_token;
pub mod http_signature;
pub mod jwe;
pub mod jws;
pub mod jwt_svid;
pub mod macaroon;
pub mod replay;
pub mod revoked;
pub mod scope;
pub mod service_token;
pub mod signer;
pub mod times;
pub mod txn_token;
pub mod typ;
pub mod wit;
pub mod wpt;

pub use access_token::{AccessGrant, AccessToken, AccessTokenError};
pub use bearer::{BearerEntry, BearerError, BearerHash, BearerHolder, BearerId, BearerKey, BearerToken};
pub use claims::{CLAIM_DEPTH_MAX, CLAIM_VALUES_MAX, ClaimError};
pub use client_assertion::{ClientAssertion, ClientAssertionError};
pub use confirmation::{Confirmation, ConfirmationError, Shown};
pub use dpop::{DpopError, DpopNonces, DpopProof, DpopTarget, DpopUri, NonceError};
pub use exchange::{ExchangeError, ExchangeGrant, ExchangeRequest, SubjectKind, SubjectToken, Wanted};
pub use exchanged_token::{ExchangedToken, ExchangedTokenError, ExpectedToken};
pub use foreign_access_token::{ForeignIssuer, ForeignTokenError, ForeignTyp};
pub use http_signature::SignatureError;
pub use jwe::JweError;
pub use jws::JwsError;
pub use jwt_svid::{JwtSvid, JwtSvidError};
pub use replay::{ReplayCache, ReplayError, ReplayLimits, Sighting};
pub use revoked::{Revoked, RevokedError, TokenFacts};
pub use scope::{Scope, ScopeError};
pub use service_token::{BodyError, ServiceToken, ServiceTokenError};
pub use signer::{Signer, SignerHint};
pub use times::TimeError;
pub use txn_token::{TxnGrant, TxnToken, TxnTokenError};
pub use typ::TokenKind;
pub use wit::{ConfirmationKey, ProvenWorkload, Unproven, Wit, WitError, WitIssuer, WorkloadUri};
pub use wpt::{ProofTarget, WptError};
