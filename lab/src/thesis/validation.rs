//! Listing 5.2: the trust store of certificates once seen, and the validation of tokens against it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use countersign_keys::PublicKey;
use countersign_pki::CertificateDer;

use super::{
    Clock,
    certificate::{rsa_key, sha1_thumbprint, subject},
    token::{self, Unverified},
};

/// Listing 5.2, `ITokenValidationService`. Its two overloads have two names here.
pub trait TokenValidationService: Send + Sync {
    /// `PutIntoTruststore(certificate)`: remembers the certificate under its subject.
    fn put_into_truststore(&self, certificate: &CertificateDer<'_>) -> bool;
    /// `ContainsIssuerInTruststore(issuer)`.
    fn contains_issuer_in_truststore(&self, issuer: &str) -> bool;
    /// `ValidateTokenWithTruststore(token, issuer)`: the token is valid, and this issuer's.
    fn validate_token_of_issuer_with_truststore(&self, token: &str, issuer: &str) -> bool;
    /// `ValidateTokenWithTruststore(token)`: the token is valid, whoever its issuer is.
    fn validate_token_with_truststore(&self, token: &str) -> bool;
}

/// The `JWTValidationService` of the thesis. Nothing ever leaves its trust store, and the last certificate of a
/// subject replaces the one before.
pub struct JwtValidationService {
    audience: String,
    truststore: Mutex<BTreeMap<String, TrustedCertificate>>,
    clock: Clock,
}

#[derive(Clone)]
struct TrustedCertificate {
    kid: String,
    key: PublicKey,
}

impl JwtValidationService {
    /// Validates tokens for `audience`. The trust store is empty.
    #[must_use]
    pub fn new(audience: String, clock: Clock) -> Self {
        Self { audience, truststore: Mutex::default(), clock }
    }

    fn trusted(&self, issuer: &str) -> Option<TrustedCertificate> {
        self.truststore.lock().unwrap_or_else(PoisonError::into_inner).get(issuer).cloned()
    }

    fn is_valid(&self, token: &Unverified<'_>) -> bool {
        let Some(trusted) = self.trusted(&token.claims.iss) else { return false };
        let now = (self.clock)().secs();
        token.header.kid == trusted.kid
            && token.claims.aud == self.audience
            && (token.claims.nbf..token.claims.exp).contains(&now)
            && token.is_signed_by(&trusted.key)
    }
}

impl TokenValidationService for JwtValidationService {
    /// Fails where the certificate has no subject or no RSA key, and where [`ISSUERS_MAX`] others are known.
    fn put_into_truststore(&self, certificate: &CertificateDer<'_>) -> bool {
        let (Some(subject), Some(key)) = (subject(certificate), rsa_key(certificate)) else { return false };
        let trusted = TrustedCertificate { kid: sha1_thumbprint(certificate), key };
        let mut truststore = self.truststore.lock().unwrap_or_else(PoisonError::into_inner);
        if truststore.len() >= ISSUERS_MAX && !truststore.contains_key(&subject) {
            return false;
        }
        truststore.insert(subject, trusted);
        true
    }

    fn contains_issuer_in_truststore(&self, issuer: &str) -> bool {
        self.trusted(issuer).is_some()
    }

    fn validate_token_of_issuer_with_truststore(&self, token: &str, issuer: &str) -> bool {
        token::parse(token).is_some_and(|token| token.claims.iss == issuer && self.is_valid(&token))
    }

    fn validate_token_with_truststore(&self, token: &str) -> bool {
        token::parse(token).is_some_and(|token| self.is_valid(&token))
    }
}

/// Issuers in one trust store.
pub const ISSUERS_MAX: usize = 1024;
