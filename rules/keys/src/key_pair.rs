//! A key pair: who signs. ECDSA P-256 unless somebody asks for another of the three algorithms.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::encoding::{AsBigEndian, AsDer, EcPrivateKeyBin, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::{Algorithm, PublicKey, RandomError, Secret, SecureRandom, der, domain};

/// A private key with its public key. Cheap to clone; `Debug` shows the thumbprint only.
#[derive(Clone)]
pub struct KeyPair {
    private: Arc<Private>,
    public: PublicKey,
}

enum Private {
    EcdsaP256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
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
    /// Not a PKCS#8 private key of any algorithm that signs tokens.
    #[error(
        "the private key is not PKCS#8 DER for ECDSA P-256, Ed25519 or RSA of 2048 to 4096 bits; make one with `openssl genpkey -algorithm ed25519`"
    )]
    NotPkcs8,
}

/// Why there is no signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The library gave no reason.
    #[error("the crypto library could not sign")]
    Failed,
    /// This form of signature is for P-256 alone.
    #[error("a key for {} signs tokens alone; certificates and records need ECDSA P-256", algorithm.jose_name())]
    TokensOnly {
        /// The key's algorithm.
        algorithm: Algorithm,
    },
}

impl KeyPair {
    /// Makes a new P-256 key. `rng` must be a cryptographic generator; the library mixes its own into it.
    pub fn generate(rng: &dyn SecureRandom) -> Result<Self, KeyError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, rng)
            .map_err(|_| RandomError::Unavailable)?;
        Self::from_pkcs8(document.as_ref())
    }

    /// Makes a new Ed25519 key (RFC 8032), for tokens.
    pub fn generate_ed25519(rng: &dyn SecureRandom) -> Result<Self, KeyError> {
        let document = Ed25519KeyPair::generate_pkcs8(rng).map_err(|_| RandomError::Unavailable)?;
        Self::from_token_pkcs8(document.as_ref())
    }

    /// Makes a new RSA key of 2048 bits, for tokens in the form of the thesis. Takes about a tenth of a
    /// second. The library takes no generator but its own.
    pub fn generate_rsa() -> Result<Self, KeyError> {
        let private = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| RandomError::Unavailable)?;
        Self::of(Private::Rsa(Box::new(private))).ok_or(KeyError::NotPkcs8)
    }

    /// Reads PKCS#8 DER of a P-256 key, of version 1 or 2: a key for anything.
    pub fn from_pkcs8(pkcs8_der: &[u8]) -> Result<Self, KeyError> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8_der)
            .ok()
            .and_then(|private| Self::of(Private::EcdsaP256(private)))
            .ok_or(KeyError::NotP256Pkcs8)
    }

    /// Reads PKCS#8 DER of a key of any of the algorithms: a key for tokens. The key itself says which, and
    /// nothing around it.
    pub fn from_token_pkcs8(pkcs8_der: &[u8]) -> Result<Self, KeyError> {
        if let Ok(p256) = Self::from_pkcs8(pkcs8_der) {
            return Ok(p256);
        }
        let ed25519 = || Ed25519KeyPair::from_pkcs8(pkcs8_der).ok().map(Private::Ed25519);
        let rsa = || RsaKeyPair::from_pkcs8(pkcs8_der).ok().map(|key| Private::Rsa(Box::new(key)));
        ed25519().or_else(rsa).and_then(Self::of).ok_or(KeyError::NotPkcs8)
    }

    fn of(private: Private) -> Option<Self> {
        let public = match &private {
            Private::EcdsaP256(key) => PublicKey::from_point(key.public_key().as_ref()).ok(),
            Private::Ed25519(key) => PublicKey::from_ed25519(key.public_key().as_ref()).ok(),
            Private::Rsa(key) => PublicKey::from_rsa_der(key.public_key().as_ref()).ok(),
        }?;
        Some(Self { private: Arc::new(private), public })
    }

    /// The private key in PKCS#8 version 1 DER, for sealing or for a TLS library.
    pub fn to_pkcs8(&self) -> Result<Secret<Vec<u8>>, SignError> {
        let bytes = match &*self.private {
            Private::EcdsaP256(key) => key.to_pkcs8v1().map(|document| document.as_ref().to_vec()),
            Private::Ed25519(key) => key.to_pkcs8v1().map(|document| document.as_ref().to_vec()),
            Private::Rsa(key) => AsDer::<Pkcs8V1Der<'_>>::as_der(&**key).map(|der| der.as_ref().to_vec()),
        };
        bytes.map(Secret::new).map_err(|_| SignError::Failed)
    }

    /// The private key as a JWK (RFC 7518 section 6.2.2): for workloads that others make keys for (SPIFFE Workload API).
    ///
    /// # Errors
    /// [`SignError::TokensOnly`] for all but P-256, which nobody needs in this form.
    pub fn to_private_jwk(&self) -> Result<Secret<String>, SignError> {
        let Private::EcdsaP256(key) = &*self.private else {
            return Err(SignError::TokensOnly { algorithm: self.algorithm() });
        };
        let scalar: EcPrivateKeyBin<'_> = key.private_key().as_be_bytes().map_err(|_| SignError::Failed)?;
        let d = Secret::new(URL_SAFE_NO_PAD.encode(scalar.as_ref()));
        // The public members, with the private one before the end of the object.
        let public = self.public.to_jwk();
        let members = public.strip_suffix('}').ok_or(SignError::Failed)?;
        Ok(Secret::new(format!(r#"{members},"d":"{}"}}"#, d.expose())))
    }

    /// The half that may be told.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Which algorithm this key signs with.
    pub fn algorithm(&self) -> Algorithm {
        self.public.algorithm()
    }

    /// Signs [`domain`]`(purpose, message)`: r‖s, 64 bytes. For every format of our own; P-256 alone.
    pub fn sign_fixed(&self, purpose: &str, message: &[u8]) -> Result<[u8; SIGNATURE_BYTES], SignError> {
        self.sign_p256(&domain(purpose, message))
    }

    /// Signs `message` as it is, in the form that a JWS carries (RFC 7518 sections 3.3 and 3.4, RFC 8037
    /// section 3.1): 64 bytes, of RSA as many as the modulus has. For JWS alone, whose header names its type.
    pub fn sign_raw(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match &*self.private {
            Private::EcdsaP256(_) => self.sign_p256(message).map(Vec::from),
            Private::Ed25519(key) => {
                key.try_sign(message).map(|s| s.as_ref().to_vec()).map_err(|_| SignError::Failed)
            }
            Private::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
                    .map(|()| signature)
                    .map_err(|_| SignError::Failed)
            }
        }
    }

    /// Signs `message` as it is: DER `Ecdsa-Sig-Value` (RFC 3279). For X.509 alone; P-256 alone.
    pub fn sign_asn1(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let fixed = self.sign_p256(message)?;
        let (r, s) = fixed.split_at(SIGNATURE_BYTES / 2);
        Ok(der::ecdsa_signature(r, s))
    }

    fn sign_p256(&self, message: &[u8]) -> Result<[u8; SIGNATURE_BYTES], SignError> {
        let Private::EcdsaP256(key) = &*self.private else {
            return Err(SignError::TokensOnly { algorithm: self.algorithm() });
        };
        // The per-signature nonce comes from the library whatever generator is passed.
        let signature = key.sign(&SystemRandom::new(), message).map_err(|_| SignError::Failed)?;
        signature.as_ref().try_into().map_err(|_| SignError::Failed)
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({})", self.public.thumbprint())
    }
}

/// Length of r‖s on P-256, and of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn key() -> KeyPair {
        KeyPair::generate(&SystemRandom::new()).unwrap()
    }

    fn of_every_algorithm() -> [KeyPair; 3] {
        [key(), KeyPair::generate_ed25519(&SystemRandom::new()).unwrap(), KeyPair::generate_rsa().unwrap()]
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
    fn a_key_of_each_algorithm_verifies_its_own_signatures_and_no_others() {
        let keys = of_every_algorithm();
        for signer in &keys {
            let signature = signer.sign_raw(b"message").unwrap();
            for verifier in &keys {
                let fits = verifier.public_key().verify_raw(b"message", &signature).is_ok();
                assert_eq!(fits, verifier.public_key() == signer.public_key());
                assert!(verifier.public_key().verify_raw(b"other", &signature).is_err());
            }
        }
    }

    #[test]
    fn only_p256_signs_certificates_and_formats_of_our_own() {
        for key in &of_every_algorithm()[1..] {
            let refused = SignError::TokensOnly { algorithm: key.algorithm() };
            assert_eq!(key.sign_fixed("snapshot", b"message"), Err(refused));
            assert_eq!(key.sign_asn1(b"message"), Err(refused));
            // And nobody takes a raw signature of theirs for one.
            let raw = key.sign_raw(b"message").unwrap();
            assert!(key.public_key().verify_asn1(b"message", &raw).is_err());
            let separated = key.sign_raw(&domain("snapshot", b"message")).unwrap();
            assert!(key.public_key().verify_fixed("snapshot", b"message", &separated).is_err());
        }
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
        for key in of_every_algorithm() {
            let read = KeyPair::from_token_pkcs8(key.to_pkcs8().unwrap().expose()).unwrap();
            assert_eq!(read.public_key(), key.public_key());
            assert_eq!(read.algorithm(), key.algorithm());
        }
        let p256 = key();
        let read = KeyPair::from_pkcs8(p256.to_pkcs8().unwrap().expose()).unwrap();
        assert_eq!(read.public_key(), p256.public_key());
    }

    #[test]
    fn a_private_jwk_holds_the_key_and_is_refused_as_a_public_one() {
        let key = key();
        let jwk: serde_json::Value = serde_json::from_str(key.to_private_jwk().unwrap().expose()).unwrap();
        let d = URL_SAFE_NO_PAD.decode(jwk["d"].as_str().unwrap()).unwrap();
        assert_eq!(d.len(), 32);
        let pkcs8 = key.to_pkcs8().unwrap();
        assert!(pkcs8.expose().windows(32).any(|bytes| bytes == d));
        assert_eq!(jwk["kid"], key.public_key().thumbprint());
        assert_eq!(PublicKey::from_jwk(&jwk.to_string()), Err(crate::JwkError::Private));
        let ed25519 = KeyPair::generate_ed25519(&SystemRandom::new()).unwrap();
        assert!(matches!(ed25519.to_private_jwk(), Err(SignError::TokensOnly { .. })));
    }

    #[test]
    fn rejects_what_is_no_p256_key() {
        let truncated = key().to_pkcs8().unwrap().expose().iter().copied().take(60).collect::<Vec<_>>();
        for bytes in [&[][..], b"-----BEGIN", &truncated] {
            assert_eq!(KeyPair::from_pkcs8(bytes).map(|_| ()), Err(KeyError::NotP256Pkcs8));
            assert_eq!(KeyPair::from_token_pkcs8(bytes).map(|_| ()), Err(KeyError::NotPkcs8));
        }
        // A sound key of another algorithm signs tokens, and neither certificates nor snapshots.
        for other in &of_every_algorithm()[1..] {
            let pkcs8 = other.to_pkcs8().unwrap();
            assert_eq!(KeyPair::from_pkcs8(pkcs8.expose()).map(|_| ()), Err(KeyError::NotP256Pkcs8));
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
