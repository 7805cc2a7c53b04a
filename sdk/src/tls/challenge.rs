//! Showing an authority of the outside that we hold a host: tls-alpn-01 (RFC 8737), answered inside the handshake.

use std::{collections::HashMap, fmt, sync::Arc};

use countersign_keys::KeyPair;
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::ClientHello,
    sign::CertifiedKey,
};

use super::IdentityError;

/// The application protocol of a validation, and of nothing else (RFC 8737 section 4).
pub(super) const ACME_TLS_1: &[u8] = b"acme-tls/1";

/// One answer that is due: shown to whoever validates this host, until it is withdrawn.
#[derive(Clone)]
pub struct Challenge {
    host: String,
    certified: Arc<CertifiedKey>,
}

impl Challenge {
    /// `certificate` is that of `countersign_pki::acme::challenge_certificate`, made for `host` and `key`.
    ///
    /// # Errors
    /// [`IdentityError::Key`].
    pub fn new(
        host: &str,
        certificate: CertificateDer<'static>,
        key: &KeyPair,
    ) -> Result<Self, IdentityError> {
        let pkcs8 = key.to_pkcs8().map_err(|_| IdentityError::Key)?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.expose().as_slice()));
        let signer =
            rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&private).map_err(|_| IdentityError::Key)?;
        // Nothing parses it: its critical extension is one that only the authority knows.
        let certified = Arc::new(CertifiedKey::new(vec![certificate], signer));
        Ok(Self { host: host.to_ascii_lowercase(), certified })
    }

    /// Whose validation it is for.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Challenge({})", self.host)
    }
}

/// The answers that are due, by host.
#[derive(Default)]
pub(super) struct Challenges(HashMap<String, Arc<CertifiedKey>>);

impl Challenges {
    pub(super) fn of(challenges: &[Challenge]) -> Self {
        let entry = |challenge: &Challenge| (challenge.host.clone(), Arc::clone(&challenge.certified));
        Self(challenges.iter().map(entry).collect())
    }

    /// `None`: an ordinary client. `Some(None)`: whoever asks so is answered by nothing.
    pub(super) fn asked_by(&self, hello: &ClientHello<'_>) -> Option<Option<Arc<CertifiedKey>>> {
        let offered: Vec<&[u8]> = hello.alpn()?.collect();
        if !offered.contains(&ACME_TLS_1) {
            return None;
        }
        // It offers that protocol and no other; a client that could speak HTTP afterwards is no validation.
        let alone = offered.len() == 1;
        let due = hello.server_name().and_then(|name| self.0.get(&name.to_ascii_lowercase()));
        Some(due.filter(|_| alone).cloned())
    }
}
