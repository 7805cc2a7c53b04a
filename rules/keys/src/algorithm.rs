//! Which algorithms exist, and which public keys are too weak or too foreign to certify.
//!
//! Certificates, and everything of a format of our own, are signed with ECDSA on P-256 (FIPS 186-5) with
//! SHA-256. A `SubjectPublicKeyInfo` (RFC 5280 section 4.1.2.7) with any other key is refused, each for its own
//! reason. Tokens know two algorithms more, and each key has exactly one: it follows from the key, and the token
//! does not choose.

use crate::der;

/// The signature algorithms in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// ECDSA on NIST P-256 with SHA-256: certificates, CRLs, `ES256` tokens, our own signatures.
    EcdsaP256,
    /// Ed25519 (RFC 8032): tokens alone.
    Ed25519,
    /// RSASSA-PKCS1-v1_5 with SHA-256 and a modulus of 2048 to 4096 bits: tokens alone, to compare with the
    /// thesis's form.
    RsaPkcs1Sha256,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 3] = [Self::EcdsaP256, Self::Ed25519, Self::RsaPkcs1Sha256];

    /// The name in a JWS header (RFC 7518 section 3.1; RFC 9864 section 2.2).
    pub fn jose_name(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ES256",
            Self::Ed25519 => "Ed25519",
            Self::RsaPkcs1Sha256 => "RS256",
        }
    }

    /// The algorithm of this name. `EdDSA` (RFC 8037) is what `Ed25519` was called before RFC 9864; of the two
    /// curves that it may mean only one is known here.
    pub fn from_jose_name(name: &str) -> Option<Self> {
        match name {
            "EdDSA" => Some(Self::Ed25519),
            _ => Self::ALL.into_iter().find(|algorithm| algorithm.jose_name() == name),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::{KeyPair, PublicKeyError, SystemRandom};
    use base64::Engine as _;

    #[test]
    fn every_algorithm_reads_back_its_name_and_eddsa_is_ed25519() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::from_jose_name(algorithm.jose_name()), Some(algorithm));
        }
        assert_eq!(Algorithm::from_jose_name("EdDSA"), Some(Algorithm::Ed25519));
        for foreign in ["none", "HS256", "PS256", "ES384", "es256", "ES256 ", ""] {
            assert_eq!(Algorithm::from_jose_name(foreign), None);
        }
    }

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = content.len();
        let header = match length {
            0..=0x7f => vec![tag, length as u8],
            0x80..=0xff => vec![tag, 0x81, length as u8],
            _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
        };
        [header, content.to_vec()].concat()
    }

    fn spki(algorithm: &[u8], parameters: &[u8], key: &[u8]) -> Vec<u8> {
        let identifier = [element(0x06, algorithm), parameters.to_vec()].concat();
        let bits = [&[0][..], key].concat();
        element(0x30, &[element(0x30, &identifier), element(0x03, &bits)].concat())
    }

    fn rsa(bits: usize) -> Vec<u8> {
        let mut modulus = vec![0, 0x80];
        modulus.resize(bits / 8 + 1, 1);
        let numbers = [element(0x02, &modulus), element(0x02, &[1, 0, 1])].concat();
        spki(der::OID_RSA, &[5, 0], &element(0x30, &numbers))
    }

    fn named(curve: &[u8], key: &[u8]) -> Vec<u8> {
        let parameters = [&[0x06, curve.len() as u8][..], curve].concat();
        spki(der::OID_EC_PUBLIC_KEY, &parameters, key)
    }

    #[test]
    fn accepts_a_p256_key_on_its_curve() {
        let key = KeyPair::generate(&SystemRandom::new()).unwrap();
        assert_eq!(judge(&key.public_key().spki_der()), Ok(Algorithm::EcdsaP256));
        assert_eq!(
            judge(&named(der::OID_P256, key.public_key().subject_public_key())),
            Ok(Algorithm::EcdsaP256)
        );
    }

    #[test]
    fn rejects_short_and_long_rsa_keys_each_for_its_reason() {
        assert_eq!(judge(&rsa(1024)), Err(WeakKey::RsaTooShort { bits: 1024 }));
        assert_eq!(judge(&rsa(2040)), Err(WeakKey::RsaTooShort { bits: 2040 }));
        assert_eq!(judge(&rsa(2048)), Err(WeakKey::Rsa { bits: 2048 }));
        assert_eq!(judge(&spki(der::OID_RSA, &[5, 0], &[0x30, 0])), Err(WeakKey::Malformed));
    }

    #[test]
    fn rejects_other_curves_and_other_algorithms_by_name() {
        let curve = |oid| judge(&named(oid, &[4; 97])).unwrap_err();
        assert_eq!(curve(der::OID_P384), WeakKey::OtherCurve { curve: "P-384".into() });
        assert_eq!(curve(der::OID_P521), WeakKey::OtherCurve { curve: "P-521".into() });
        assert_eq!(curve(der::OID_SECP256K1), WeakKey::OtherCurve { curve: "secp256k1".into() });
        assert_eq!(
            curve(&[0x2b, 0x24, 3, 3, 2, 8, 1, 1, 7]),
            WeakKey::OtherCurve { curve: "1.3.36.3.3.2.8.1.1.7".into() }
        );
        // Parameters written out instead of named have hidden weak curves (CVE-2020-0601).
        let explicit = judge(&spki(der::OID_EC_PUBLIC_KEY, &[0x30, 0], &[4; 65])).unwrap_err();
        assert_eq!(explicit, WeakKey::OtherCurve { curve: "without a name".into() });
        assert_eq!(judge(&spki(der::OID_ED25519, &[], &[1; 32])), Err(WeakKey::Ed25519));
        let dsa = judge(&spki(&[0x2a, 0x86, 0x48, 0xce, 0x38, 4, 1], &[], &[1])).unwrap_err();
        assert_eq!(dsa, WeakKey::OtherAlgorithm { oid: "1.2.840.10040.4.1".into() });
    }

    #[test]
    fn rejects_points_off_the_curve_compressed_or_infinite() {
        let good =
            KeyPair::generate(&SystemRandom::new()).unwrap().public_key().subject_public_key().to_vec();
        let mut off_curve = good.clone();
        off_curve[64] ^= 1;
        let compressed = [&[2 + (good[64] & 1)][..], &good[1..33]].concat();
        for point in [off_curve, compressed, vec![0], vec![4; 64]] {
            assert_eq!(judge(&named(der::OID_P256, &point)), Err(WeakKey::NotOnCurve));
        }
    }

    #[test]
    fn rejects_what_is_no_public_key() {
        let good = KeyPair::generate(&SystemRandom::new()).unwrap().public_key().spki_der();
        let trailing = [&good[..], &[0]].concat();
        for bytes in [&[][..], &good[..80], &trailing, b"0\x80\0\0"] {
            assert_eq!(judge(bytes), Err(WeakKey::Malformed));
        }
        assert_eq!(crate::PublicKey::from_spki_der(&[]), Err(PublicKeyError::Weak(WeakKey::Malformed)));
    }

    #[test]
    fn rejects_a_real_rsa_key_of_1024_bits() {
        const RSA_1024: &str = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDdlatRjRjogo3WojgGHFHYLugdUWAY9iR3fy4arWNA1KoS8kVw33cJibXr8bvwUAUparCwlvdbH6dvEOfou0/gCFQsHUfQrSDv+MuSUMAe8jzKE4qW+jK+xQU9a03GUnKHkkle+Q0pX/g6jXZ7r1/xAK5Do2kQ+X5xK9cipRgEKwIDAQAB";
        let der = base64::engine::general_purpose::STANDARD.decode(RSA_1024).unwrap();
        assert_eq!(judge(&der), Err(WeakKey::RsaTooShort { bits: 1024 }));
    }
}
