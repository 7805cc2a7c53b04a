//! What attackers hold, and what only the operator sees.

use std::{fmt, sync::Arc};

use countersign_identity::SpiffeId;
use countersign_keys::{KeyPair, sha256};
use countersign_pki::CertificateDer;
use countersign_wire::codes::{Code, Stage};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};

use super::{AttackError, observation::stage_of};

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Held {
    /// Whose name is in it.
    pub id: SpiffeId,
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the leaf, or another one: then it proves nothing.
    pub key: KeyPair,
    /// Serial number of the leaf, hex; empty where nobody of the deployment issued it.
    pub serial: String,
}

/// What a certificate of the deployment is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TLS, on both sides.
    Workload,
    /// Accepting connections alone.
    ServerOnly,
    /// Signing tokens and requests alone.
    Signing,
}

/// What the operator knows of a refusal: of it the caller learns a public code and the decision's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// `CSnnnn`
    pub code: Option<Code>,
    /// The facts.
    pub reason: String,
    /// `d_…`
    pub decision: Option<String>,
}

impl Held {
    /// As rustls wants it, with whatever key.
    ///
    /// # Errors
    /// The library cannot read the key.
    pub fn shown(&self) -> Result<Arc<CertifiedKey>, AttackError> {
        let failed = |error: &dyn fmt::Display| AttackError::equipment("a key for tls", error);
        let pkcs8 = self.key.to_pkcs8().map_err(|error| failed(&error))?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.expose().clone()));
        let key = any_supported_type(&key).map_err(|error| failed(&error))?;
        Ok(Arc::new(CertifiedKey::new(self.chain.clone(), key)))
    }

    /// SHA-256 of the leaf.
    #[must_use]
    pub fn thumbprint(&self) -> [u8; 32] {
        self.chain.first().map(|leaf| sha256(leaf)).unwrap_or_default()
    }
}

impl Why {
    /// Where the request ended.
    #[must_use]
    pub fn stage(&self) -> Option<Stage> {
        self.code.map(stage_of)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{code} at stage {}: {}", stage_of(code).as_str(), self.reason),
            None => f.write_str(&self.reason),
        }
    }
}
