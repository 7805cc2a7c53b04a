//! Payloads that only the callee can read, for where TLS ends before it does: JSON inside a compact JWE.
//!
//! A callee registers a public key for encryption; callers find it in the snapshot, so nobody is asked on the way. What
//! is sealed says nothing about who sealed it: the caller proves itself by its mode, as with every request.
//!
//! ```no_run
//! use countersign_sdk::{ServiceClient, sealed::Opener};
//!
//! # async fn call(users: ServiceClient, pkcs8: Vec<u8>, body: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! // The caller.
//! users.post("/users/7/iban").sealed_json(&"AT61 1904 3002 3457 3201").send().await?;
//! // The callee, with the private half of the key that it registered.
//! let iban: String = Opener::from_pkcs8([pkcs8.as_slice()])?.json(body)?;
//! # Ok(()) }
//! ```

use countersign_identity::SpiffeId;
use countersign_keys::{AgreementError, AgreementKey, AgreementPublicKey, SystemRandom};
use countersign_token::{JweError, jwe};
use countersign_wire::snapshot::KeyPurpose;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::live::Live;

/// Media type of a compact JWE (RFC 7516 section 8.2.1).
pub const SEALED_MEDIA_TYPE: &str = "application/jose";

/// Why a payload is not sealed, or cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SealedError {
    /// The recipient has registered no key for encryption.
    #[error("{recipient} has registered no key for encryption: nothing is sent to it in the clear instead")]
    NoKey {
        /// For whom it was.
        recipient: SpiffeId,
    },
    /// The registered key cannot be used.
    #[error("key for encryption of {recipient} cannot be used: it must be a P-256 key for ECDH-ES")]
    BadKey {
        /// Whose it is.
        recipient: SpiffeId,
    },
    /// A private key of our own.
    #[error(transparent)]
    PrivateKey(#[from] AgreementError),
    /// The JWE.
    #[error(transparent)]
    Jwe(#[from] JweError),
    /// What is inside is not the JSON that was expected.
    #[error("payload is not json of the expected shape")]
    NotJson,
}

/// Seals `body` for `recipient`, with the newest key that it has registered.
pub(crate) fn seal(body: &impl Serialize, recipient: &SpiffeId, live: &Live) -> Result<String, SealedError> {
    let mut registered = live.snapshot().workload_keys.iter();
    let jwk = registered.rfind(|key| key.purpose == KeyPurpose::Encryption && key.owner == *recipient);
    let jwk = jwk.ok_or_else(|| SealedError::NoKey { recipient: recipient.clone() })?;
    let key = AgreementPublicKey::from_jwk(jwk.jwk.as_str());
    let key = key.map_err(|_| SealedError::BadKey { recipient: recipient.clone() })?;
    let json = serde_json::to_vec(body).map_err(|_| SealedError::NotJson)?;
    Ok(jwe::encrypt(&json, &key, &SystemRandom::new())?)
}

/// Opens what was sealed for us: holds the private halves of the keys that we registered.
#[derive(Clone, Debug)]
pub struct Opener(Vec<AgreementKey>);

impl Opener {
    /// The keys that are in use, old ones too while somebody may still seal for them.
    ///
    /// # Errors
    /// One of them is not PKCS#8 DER of a P-256 key.
    pub fn from_pkcs8<'a>(keys: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, SealedError> {
        let keys = keys.into_iter().map(AgreementKey::from_pkcs8);
        Ok(Self(keys.collect::<Result<_, _>>()?))
    }

    /// The JSON in the body of a request.
    ///
    /// # Errors
    /// It was sealed for another key, changed on the way, or holds something else.
    pub fn json<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, SealedError> {
        let text = std::str::from_utf8(body).map_err(|_| SealedError::NotJson)?;
        let key_of = |kid: &str| self.0.iter().find(|key| key.public_key().thumbprint() == kid).cloned();
        let opened = jwe::decrypt(text, key_of)?;
        serde_json::from_slice(opened.expose()).map_err(|_| SealedError::NotJson)
    }
}
