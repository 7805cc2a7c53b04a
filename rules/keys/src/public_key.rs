//! A public key: who signed. Its algorithm is part of it.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    UnparsedPublicKey, VerificationAlgorithm,
};

pub use crate::jwk::{JWK_BYTES_MAX, JwkError};
use crate::{Algorithm, WeakKey, algorithm, der, domain, jwk};

/// A public key that was checked when it was read: on its curve, or long enough. Parsed once, so verifying
/// is all that a verification costs. Cheap to clone.
#[derive(Clone)]
pub struct PublicKey(Arc<Inner>);

struct Inner {
    algorithm: Algorithm,
    /// As `SubjectPublicKeyInfo` holds it: the point, or an `RSAPublicKey`.
    bits: Vec<u8>,
    parsed: ParsedPublicKey,
    thumbprint: String,
}

/// Why these bytes are no public key of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// The key is of another kind or broken.
    #[error(transparent)]
    Weak(#[from] WeakKey),
}

/// Why these bytes are no public key for tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenKeyError {
    /// Not an Ed25519 key, or one for which everybody can sign.
    #[error("the Ed25519 public key is not 32 bytes, or a point of small order")]
    BadEd25519,
    /// Not an RSA key of 2048 to 4096 bits with the exponent 65537.
    #[error(
        "the RSA public key has {bits} bits; it must have {} to {RSA_BITS_MAX}, and the exponent 65537",
        algorithm::RSA_BITS_MIN
    )]
    BadRsa {
        /// Length of the modulus, 0 if it cannot be read.
        bits: usize,
    },
}

/// A signature does not fit its message and key. There is nothing more to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit")]
pub struct SignatureInvalid;

impl PublicKey {
    /// Reads a DER `SubjectPublicKeyInfo` (RFC 5280 section 4.1.2.7) of a key that may be certified: P-256.
    pub fn from_spki_der(spki_der: &[u8]) -> Result<Self, PublicKeyError> {
        algorithm::judge(spki_der)?;
        let spki = der::Spki::parse(spki_der).ok_or(WeakKey::Malformed)?;
        Self::from_point(spki.key)
    }

    /// Reads an uncompressed point on P-256 (SEC 1 section 2.3.3): 0x04, x, y, 65 bytes in all.
    pub fn from_point(point: &[u8]) -> Result<Self, PublicKeyError> {
        if point.len() != POINT_BYTES || point.first() != Some(&UNCOMPRESSED) {
            return Err(WeakKey::NotOnCurve.into());
        }
        Self::of(Algorithm::EcdsaP256, point).ok_or_else(|| WeakKey::NotOnCurve.into())
    }

    /// Reads the 32 bytes of an Ed25519 key (RFC 8032 section 5.1.2).
    pub fn from_ed25519(point: &[u8]) -> Result<Self, TokenKeyError> {
        if point.len() != ED25519_BYTES || is_of_small_order(point) {
            return Err(TokenKeyError::BadEd25519);
        }
        Self::of(Algorithm::Ed25519, point).ok_or(TokenKeyError::BadEd25519)
    }

    /// Reads a DER `RSAPublicKey` (RFC 8017 appendix A.1.1).
    pub fn from_rsa_der(rsa_der: &[u8]) -> Result<Self, TokenKeyError> {
        let bits = der::rsa_modulus_bits(rsa_der).unwrap_or(0);
        let refused = TokenKeyError::BadRsa { bits };
        match der::rsa_numbers(rsa_der) {
            Some((_, F4)) if (algorithm::RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) => {
                Self::of(Algorithm::RsaPkcs1Sha256, rsa_der).ok_or(refused)
            }
            _ => Err(refused),
        }
    }

    fn of(algorithm: Algorithm, bits: &[u8]) -> Option<Self> {
        let verification: &'static dyn VerificationAlgorithm = match algorithm {
            Algorithm::EcdsaP256 => &ECDSA_P256_SHA256_FIXED,
            Algorithm::Ed25519 => &ED25519,
            Algorithm::RsaPkcs1Sha256 => &RSA_PKCS1_2048_8192_SHA256,
        };
        let parsed = ParsedPublicKey::new(verification, bits).ok()?;
        let thumbprint = jwk::thumbprint(algorithm, bits)?;
        Some(Self(Arc::new(Inner { algorithm, bits: bits.to_vec(), parsed, thumbprint })))
    }

    /// The one algorithm whose signatures this key verifies.
    pub fn algorithm(&self) -> Algorithm {
        self.0.algorithm
    }

    /// The content of `subjectPublicKey` (RFC 5280 section 4.1.2.7): an uncompressed P-256 point of 65 bytes,
    /// an Ed25519 point of 32, or a DER `RSAPublicKey`.
    pub fn subject_public_key(&self) -> &[u8] {
        &self.0.bits
    }

    /// The DER `SubjectPublicKeyInfo`.
    pub fn spki_der(&self) -> Vec<u8> {
        match self.0.algorithm {
            Algorithm::EcdsaP256 => [&der::P256_SPKI_PREFIX[..], &self.0.bits].concat(),
            Algorithm::Ed25519 => [&der::ED25519_SPKI_PREFIX[..], &self.0.bits].concat(),
            Algorithm::RsaPkcs1Sha256 => der::rsa_spki(&self.0.bits),
        }
    }

    /// Reads a JWK (RFC 7517): strictly the members that its `kty` needs and, if present, `kid`, `alg`, `use`.
    ///
    /// Private, duplicate and unknown members are refused: what we do not understand might restrict the key.
    /// The algorithm follows from the key; an `alg` that says another is refused, none is no permission to
    /// choose (CVE-2026-22817).
    pub fn from_jwk(json: &str) -> Result<Self, JwkError> {
        jwk::read(json)
    }

    /// The JWK as JSON text, with `alg`, `kid` (the thumbprint) and `use: "sig"`, members in order.
    pub fn to_jwk(&self) -> String {
        jwk::write(self)
    }

    /// RFC 7638 thumbprint (SHA-256) in base64url: the `kid` of every key of ours.
    pub fn thumbprint(&self) -> String {
        self.0.thumbprint.clone()
    }

    /// Is this the key of that thumbprint?
    pub fn is_named(&self, thumbprint: &str) -> bool {
        self.0.thumbprint == thumbprint
    }

    /// Verifies what [`crate::KeyPair::sign_fixed`] made. P-256 alone.
    pub fn verify_fixed(
        &self,
        purpose: &str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureInvalid> {
        match self.0.algorithm {
            Algorithm::EcdsaP256 => self.verify_raw(&domain(purpose, message), signature),
            Algorithm::Ed25519 | Algorithm::RsaPkcs1Sha256 => Err(SignatureInvalid),
        }
    }

    /// Verifies a signature over `message` as it is, in the form that a JWS carries. For JWS alone.
    pub fn verify_raw(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureInvalid> {
        self.0.parsed.verify_sig(message, signature).map_err(|_| SignatureInvalid)
    }

    /// Verifies a DER `Ecdsa-Sig-Value` over `message` as it is. For X.509 alone; P-256 alone.
    pub fn verify_asn1(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureInvalid> {
        match self.0.algorithm {
            Algorithm::EcdsaP256 => UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.0.bits)
                .verify(message, signature)
                .map_err(|_| SignatureInvalid),
            Algorithm::Ed25519 | Algorithm::RsaPkcs1Sha256 => Err(SignatureInvalid),
        }
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.algorithm == other.0.algorithm && self.0.bits == other.0.bits
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.thumbprint())
    }
}

/// For a point of small order almost any signature fits almost any message: such a key proves nothing.
fn is_of_small_order(point: &[u8]) -> bool {
    let mut unsigned = point.to_vec();
    if let Some(last) = unsigned.last_mut() {
        *last &= 0x7f;
    }
    SMALL_ORDER.iter().any(|small| unsigned == small)
}

/// The longest RSA modulus: beyond it a verification costs more than it is worth.
pub const RSA_BITS_MAX: usize = 4096;
const POINT_BYTES: usize = 65;
pub(crate) const ED25519_BYTES: usize = 32;
const UNCOMPRESSED: u8 = 4;
/// 65537, the fourth Fermat number.
const F4: &[u8] = &[1, 0, 1];

/// The y coordinates of the points of order 1, 2, 4 and 8, with the second spellings of 0 and 1.
const SMALL_ORDER: [[u8; ED25519_BYTES]; 7] = [
    [0; ED25519_BYTES],
    ends(1, 0, 0),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
    ends(0xec, 0xff, 0x7f),
    ends(0xed, 0xff, 0x7f),
    ends(0xee, 0xff, 0x7f),
];

/// 32 bytes, the first and the last of which differ from the others.
const fn ends(first: u8, others: u8, last: u8) -> [u8; ED25519_BYTES] {
    let mut bytes = [others; ED25519_BYTES];
    let [head, .., tail] = &mut bytes;
    *head = first;
    *tail = last;
    bytes
}
