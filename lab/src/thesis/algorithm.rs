//! Algorithm 5.1, line by line.

use countersign_identity::UnixTime;
use countersign_pki::{CertificateDer, truststore::CertificateAuthorityService};

use super::{TokenValidationService, certificate::subject, token};

/// What the algorithm looks at.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `request.Connection.ClientCertificate`, leaf first.
    pub client_certificate: Option<&'a [CertificateDer<'static>]>,
    /// `request.Headers[Authorization]`.
    pub authorization: Option<&'a str>,
}

/// On which `if` the `else` before "issuer is known" hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DanglingElse {
    /// On "certificate is not null": what section 5.2.2 describes, and what must have been meant.
    Meant,
    /// On "certificate is trusted": what is printed.
    Typeset,
}

/// How it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `authenticated ← true`
    Authenticated {
        /// The variable `issuer`: subject of the certificate, or what the token says where there is none.
        issuer: String,
    },
    /// `response.StatusCode ← 401Unauthorized`: come back with a certificate.
    Unauthorized,
    /// `response.StatusCode ← 403Forbidden`
    Forbidden,
}

/// Algorithm 5.1: whether a request comes from a service.
pub fn validate_request(
    request: Request<'_>,
    reading: DanglingElse,
    authorities: &dyn CertificateAuthorityService,
    tokens: &dyn TokenValidationService,
    now: UnixTime,
) -> Verdict {
    let Some(token) = request.authorization.map(without_scheme) else { return Verdict::Forbidden };
    let token_issuer = || token::parse(token).map(|token| token.claims.iss);
    let known_issuer = || token_issuer().filter(|issuer| tokens.contains_issuer_in_truststore(issuer));
    // "certificate is trusted", and below it "putCertificateIntoTruststore(certificate) is successful"
    let trusted = |chain: &[CertificateDer<'_>]| authorities.validate_certificate(chain, now);
    let put = |chain: &[CertificateDer<'_>]| {
        let leaf = chain.first().filter(|leaf| tokens.put_into_truststore(leaf));
        leaf.and_then(subject)
    };

    let mut missing_certificate = false;
    let issuer = match (request.client_certificate, reading) {
        (Some(chain), _) if trusted(chain) => put(chain),
        (Some(_), DanglingElse::Meant) | (None, DanglingElse::Typeset) => None,
        (None, DanglingElse::Meant) | (Some(_), DanglingElse::Typeset) => {
            let issuer = known_issuer();
            missing_certificate = issuer.is_none();
            issuer
        }
    };
    match issuer {
        // The overload without an issuer: nobody asks whether the token is that issuer's.
        Some(issuer) if tokens.validate_token_with_truststore(token) => Verdict::Authenticated { issuer },
        _ if missing_certificate => Verdict::Unauthorized,
        _ => Verdict::Forbidden,
    }
}

fn without_scheme(authorization: &str) -> &str {
    authorization.strip_prefix("Bearer ").unwrap_or(authorization)
}
