//! Which algorithms exist, and which public keys are too weak or too foreign to certify.
//!
//! Workloads, authorities and token signers all use ECDSA on P-256 (FIPS 186-5) with SHA-256. A
//! `SubjectPublicKeyInfo` (RFC 5280 section 4.1.2.7) with any other key is refused, each for its own reason.

use crate::der;

/// The signature algorithms in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// ECDSA on NIST P-256 with SHA-256: certificates, CRLs, `ES256` tokens, our own signatures.
    EcdsaP256,
}

impl Algorithm {
    /// The name in a JWS header (RFC 7518 section 3.1).
    pub fn jose_name(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ES256",
        }
    }
}

/// Why a public key is not certified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WeakKey {
    /// RSA below any accepted strength; also the class of Debian-weak and ROCA keys of that size.
    #[error("the RSA key has {bits} bits, fewer than {RSA_BITS_MIN}; make an ECDSA P-256 key")]
    RsaTooShort {
        /// Length of the modulus.
        bits: usize,
    },
    /// RSA of fair size, but not an algorithm of this trust domain.
    #[error("the key is RSA with {bits} bits; workloads use ECDSA P-256")]
    Rsa {
        /// Length of the modulus.
        bits: usize,
    },
    /// An elliptic curve that is not P-256.
    #[error("the key is on curve {curve}; workloads use ECDSA P-256")]
    OtherCurve {
        /// The curve's name, or its object identifier in dots.
        curve: String,
    },
    /// Ed25519: a sound key, but foreign to our certificates.
    #[error("the key is Ed25519; workloads use ECDSA P-256")]
    Ed25519,
    /// Some other kind of key.
    #[error("the key's algorithm {oid} is not known here; workloads use ECDSA P-256")]
    OtherAlgorithm {
        /// The algorithm's object identifier in dots.
        oid: String,
    },
    /// A P-256 key whose point is not an uncompressed point on the curve.
    #[error("the P-256 public key is not an uncompressed point on the curve")]
    NotOnCurve,
    /// Not a `SubjectPublicKeyInfo` at all.
    #[error("the public key is not a DER SubjectPublicKeyInfo")]
    Malformed,
}

/// Judges a DER `SubjectPublicKeyInfo`: `Ok` only for a P-256 key on its curve.
pub fn judge(spki_der: &[u8]) -> Result<Algorithm, WeakKey> {
    let spki = der::Spki::parse(spki_der).ok_or(WeakKey::Malformed)?;
    match spki.algorithm {
        der::OID_EC_PUBLIC_KEY => match spki.curve {
            Some(der::OID_P256) => match crate::PublicKey::from_point(spki.key) {
                Ok(_) => Ok(Algorithm::EcdsaP256),
                Err(_) => Err(WeakKey::NotOnCurve),
            },
            Some(oid) => Err(WeakKey::OtherCurve { curve: curve_name(oid) }),
            None => Err(WeakKey::OtherCurve { curve: "without a name".into() }),
        },
        der::OID_RSA => match der::rsa_modulus_bits(spki.key) {
            Some(bits) if bits < RSA_BITS_MIN => Err(WeakKey::RsaTooShort { bits }),
            Some(bits) => Err(WeakKey::Rsa { bits }),
            None => Err(WeakKey::Malformed),
        },
        der::OID_ED25519 => Err(WeakKey::Ed25519),
        other => Err(WeakKey::OtherAlgorithm { oid: der::dotted(other) }),
    }
}

/// Below this an RSA key is called weak, not merely foreign.
pub const RSA_BITS_MIN: usize = 2048;

fn curve_name(oid: &[u8]) -> String {
    match oid {
        der::OID_P384 => "P-384".into(),
        der::OID_P521 => "P-521".into(),
        der::OID_SECP256K1 => "secp256k1".into(),
        other => der::dotted(other),
    }
}
