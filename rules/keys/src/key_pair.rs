//! A P-256 key pair: who signs.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

use crate::{Algorithm, PublicKey, RandomError, Secret, SecureRandom, der, domain};

/// A P-256 private key with its public key. Cheap to clone; `Debug` shows the thumbprint only.
#[derive(Clone)]
pub struct KeyPair {
    private: Arc<EcdsaKeyPair>,
    public: PublicKey,
}

/// Why there is no key pair.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The generator failed.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// Not a PKCS#8 (RFC 5208) private key for P-256.
    #[error(
        "the private key is not PKCS#8 DER for ECDSA P-256; make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`"
    )]
    NotP256Pkcs8,
}

/// Signing failed inside the crypto library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The library gave no reason.
    #[error("the crypto library could not sign")]
    Failed,
}

impl KeyPair {
    /// Makes a new key. `rng` must be a cryptographic generator; the library mixes its own into it.
    pub fn generate(rng: &dyn SecureRandom) -> Result<Self, KeyError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, rng)
            .map_err(|_| RandomError::Unavailable)?;
        Self::from_pkcs8(document.as_ref())
    }

    /// Reads PKCS#8 DER, of version 1 or 2.
    pub fn from_pkcs8(pkcs8_der: &[u8]) -> Result<Self, KeyError> {
        let private = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8_der)
            .map_err(|_| KeyError::NotP256Pkcs8)?;
        let public =
            PublicKey::from_point(private.public_key().as_ref()).map_err(|_| KeyError::NotP256Pkcs8)?;
        Ok(Self { private: Arc::new(private), public })
    }

    /// The private key in PKCS#8 version 1 DER, for sealing or for a TLS library.
    pub fn to_pkcs8(&self) -> Result<Secret<Vec<u8>>, SignError> {
        let document = self.private.to_pkcs8v1().map_err(|_| SignError::Failed)?;
        Ok(Secret::new(document.as_ref().to_vec()))
    }

    /// The half that may be told.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Which algorithm this key signs with.
    pub fn algorithm(&self) -> Algorithm {
        Algorithm::EcdsaP256
    }

    /// Signs [`domain`]`(purpose, message)`: r‖s, 64 bytes. For every format of our own.
    pub fn sign_fixed(&self, purpose: &str, message: &[u8]) -> Result<[u8; SIGNATURE_BYTES], SignError> {
        self.sign_raw(&domain(purpose, message))
    }

    /// Signs `message` as it is: r‖s, 64 bytes (RFC 7518 section 3.4). For JWS alone, whose header names its type.
    pub fn sign_raw(&self, message: &[u8]) -> Result<[u8; SIGNATURE_BYTES], SignError> {
        // The per-signature nonce comes from the library whatever generator is passed.
        let signature = self.private.sign(&SystemRandom::new(), message).map_err(|_| SignError::Failed)?;
        signature.as_ref().try_into().map_err(|_| SignError::Failed)
    }

    /// Signs `message` as it is: DER `Ecdsa-Sig-Value` (RFC 3279). For X.509 alone.
    pub fn sign_asn1(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let fixed = self.sign_raw(message)?;
        let (r, s) = fixed.split_at(SIGNATURE_BYTES / 2);
        Ok(der::ecdsa_signature(r, s))
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({})", self.public.thumbprint())
    }
}

/// Length of r‖s on P-256.
pub const SIGNATURE_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key() -> KeyPair {
        KeyPair::generate(&SystemRandom::new()).unwrap()
    }

    #[test]
    fn a_signature_verifies_for_its_own_purpose_message_and_key_only() {
        let key = key();
        let signature = key.sign_fixed("snapshot", b"message").unwrap();
        let public = key.public_key();
        assert!(public.verify_fixed("snapshot", b"message", &signature).is_ok());
        assert!(public.verify_fixed("ledger-head", b"message", &signature).is_err());
        assert!(public.verify_fixed("snapshot", b"other", &signature).is_err());
        assert!(public.verify_raw(b"message", &signature).is_err(), "a signature of ours is no JWS");
        assert!(self::key().public_key().verify_fixed("snapshot", b"message", &signature).is_err());
    }

    #[test]
    fn the_two_forms_of_a_signature_are_not_taken_for_each_other() {
        let key = key();
        // Often enough that r or s needs a leading zero, or has one to lose.
        for n in 0..64_u8 {
            let message = [n; 9];
            let (fixed, asn1) = (key.sign_raw(&message).unwrap(), key.sign_asn1(&message).unwrap());
            assert!(key.public_key().verify_raw(&message, &fixed).is_ok());
            assert!(key.public_key().verify_asn1(&message, &asn1).is_ok());
            assert!(key.public_key().verify_raw(&message, &asn1).is_err());
            assert!(key.public_key().verify_asn1(&message, &fixed).is_err());
        }
    }

    #[test]
    fn a_key_survives_being_stored() {
        let key = key();
        let read = KeyPair::from_pkcs8(key.to_pkcs8().unwrap().expose()).unwrap();
        assert_eq!(read.public_key(), key.public_key());
        assert_eq!(read.algorithm(), Algorithm::EcdsaP256);
    }

    #[test]
    fn rejects_what_is_no_p256_key() {
        let truncated = key().to_pkcs8().unwrap().expose().iter().copied().take(60).collect::<Vec<_>>();
        let ed25519 = aws_lc_rs::signature::Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        for bytes in [&[][..], b"-----BEGIN", &truncated, ed25519.as_ref()] {
            assert_eq!(KeyPair::from_pkcs8(bytes).map(|_| ()), Err(KeyError::NotP256Pkcs8));
        }
    }

    #[test]
    fn debug_of_a_key_pair_shows_its_thumbprint_alone() {
        let key = key();
        assert_eq!(format!("{key:?}"), format!("KeyPair({})", key.public_key().thumbprint()));
        let error = KeyError::Random(RandomError::Unavailable);
        assert_eq!(error.to_string(), RandomError::Unavailable.to_string());
        assert_eq!(SignError::Failed.to_string(), "the crypto library could not sign");
    }
}
