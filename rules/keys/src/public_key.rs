//! A P-256 public key, as SubjectPublicKeyInfo and as JWK.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::{Algorithm, WeakKey, algorithm, der, domain, sha256};

/// A P-256 public key, known to be a point on the curve. Parsed once, so verifying is all that a
/// verification costs.
#[derive(Clone)]
pub struct PublicKey {
    point: [u8; POINT_BYTES],
    fixed: ParsedPublicKey,
}

/// Why these bytes are no public key of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// The key is of another kind or broken.
    #[error(transparent)]
    Weak(#[from] WeakKey),
}

/// Why a JSON Web Key (RFC 7517) is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwkError {
    /// Longer than any P-256 key.
    #[error("the JWK has {bytes} bytes, more than {JWK_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It holds a private member: someone published a secret.
    #[error("the JWK holds private key material; publish only kty, crv, x and y, and replace this key")]
    Private,
    /// Not a JSON object with these members, each once and of the right type.
    #[error("the JWK cannot be read: {reason}")]
    Malformed {
        /// What the JSON reader says; positions and member names, never values.
        reason: String,
    },
    /// Another kind of key.
    #[error("the JWK is {kty} {crv}, not EC P-256")]
    OtherKind {
        /// Its key type.
        kty: String,
        /// Its curve.
        crv: String,
    },
    /// For another algorithm or another use than verifying ES256.
    #[error("the JWK is not for verifying ES256 signatures")]
    OtherUse,
    /// A coordinate is not 32 bytes in canonical base64url, or the point is not on the curve.
    #[error("the JWK's coordinates are not a point on P-256")]
    NotOnCurve,
    /// Its `kid` is not its RFC 7638 thumbprint.
    #[error("the JWK's kid is not its thumbprint")]
    WrongKid,
}

/// A signature does not fit its message and key. There is nothing more to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit")]
pub struct SignatureInvalid;

impl PublicKey {
    /// Reads a DER `SubjectPublicKeyInfo` (RFC 5280 section 4.1.2.7).
    pub fn from_spki_der(spki_der: &[u8]) -> Result<Self, PublicKeyError> {
        algorithm::judge(spki_der)?;
        let spki = der::Spki::parse(spki_der).ok_or(WeakKey::Malformed)?;
        Self::from_point(spki.key)
    }

    /// Reads an uncompressed point (SEC 1 section 2.3.3): 0x04, x, y, 65 bytes in all.
    pub fn from_point(point: &[u8]) -> Result<Self, PublicKeyError> {
        let point: [u8; POINT_BYTES] = point.try_into().map_err(|_| WeakKey::NotOnCurve)?;
        if point.first() != Some(&UNCOMPRESSED) {
            return Err(WeakKey::NotOnCurve.into());
        }
        let fixed = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).map_err(|_| WeakKey::NotOnCurve)?;
        Ok(Self { point, fixed })
    }

    /// The uncompressed point, 65 bytes.
    pub fn point(&self) -> &[u8] {
        &self.point
    }

    /// The DER `SubjectPublicKeyInfo`.
    pub fn spki_der(&self) -> Vec<u8> {
        [&der::P256_SPKI_PREFIX[..], &self.point[..]].concat()
    }

    /// Reads a JWK: strictly `kty`, `crv`, `x`, `y` and, if present, `kid`, `alg`, `use`.
    ///
    /// Private, duplicate and unknown members are refused: what we do not understand might restrict the key.
    pub fn from_jwk(json: &str) -> Result<Self, JwkError> {
        if json.len() > JWK_BYTES_MAX {
            return Err(JwkError::TooLong { bytes: json.len() });
        }
        let jwk: Jwk =
            serde_json::from_str(json).map_err(|e| JwkError::Malformed { reason: safe_reason(&e) })?;
        if jwk.has_private_member() {
            return Err(JwkError::Private);
        }
        let (kty, crv) = (jwk.kty.unwrap_or_default(), jwk.crv.unwrap_or_default());
        if kty != "EC" || crv != "P-256" {
            return Err(JwkError::OtherKind { kty, crv });
        }
        let for_es256 = jwk.alg.is_none_or(|alg| alg == Algorithm::EcdsaP256.jose_name());
        let for_signatures = jwk.usage.is_none_or(|usage| usage == "sig");
        if !for_es256 || !for_signatures {
            return Err(JwkError::OtherUse);
        }
        let key = Self::from_point(&point_of(jwk.x, jwk.y).ok_or(JwkError::NotOnCurve)?)
            .map_err(|_| JwkError::NotOnCurve)?;
        match jwk.kid {
            Some(kid) if kid != key.thumbprint() => Err(JwkError::WrongKid),
            _ => Ok(key),
        }
    }

    /// The JWK as JSON text, with `alg`, `kid` (the thumbprint) and `use: "sig"`, members in order.
    pub fn to_jwk(&self) -> String {
        let (x, y) = self.coordinates();
        let (alg, kid) = (Algorithm::EcdsaP256.jose_name(), self.thumbprint());
        format!(r#"{{"alg":"{alg}","crv":"P-256","kid":"{kid}","kty":"EC","use":"sig","x":"{x}","y":"{y}"}}"#)
    }

    /// RFC 7638 thumbprint (SHA-256) in base64url: the `kid` of every key of ours.
    pub fn thumbprint(&self) -> String {
        let (x, y) = self.coordinates();
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        URL_SAFE_NO_PAD.encode(sha256(canonical.as_bytes()))
    }

    /// Verifies r‖s over [`domain`]`(purpose, message)`; the counterpart of [`crate::KeyPair::sign_fixed`].
    pub fn verify_fixed(
        &self,
        purpose: &str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureInvalid> {
        self.verify_raw(&domain(purpose, message), signature)
    }

    /// Verifies r‖s over `message` as it is. For JWS alone.
    pub fn verify_raw(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureInvalid> {
        self.fixed.verify_sig(message, signature).map_err(|_| SignatureInvalid)
    }

    /// Verifies a DER `Ecdsa-Sig-Value` over `message` as it is. For X.509 alone.
    pub fn verify_asn1(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureInvalid> {
        aws_lc_rs::signature::UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point)
            .verify(message, signature)
            .map_err(|_| SignatureInvalid)
    }

    fn coordinates(&self) -> (String, String) {
        let (x, y) = self.point.get(1..).unwrap_or_default().split_at((POINT_BYTES - 1) / 2);
        (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y))
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.point == other.point
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.thumbprint())
    }
}

/// The longest JWK that is read.
pub const JWK_BYTES_MAX: usize = 1024;

const POINT_BYTES: usize = 65;
const UNCOMPRESSED: u8 = 4;

/// Every member that may occur, and the private ones so that they are refused by name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Jwk {
    kty: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    // The rest of an RSA public key, so that one is called foreign and not malformed.
    #[serde(rename = "n")]
    _n: Option<IgnoredAny>,
    #[serde(rename = "e")]
    _e: Option<IgnoredAny>,
    d: Option<IgnoredAny>,
    p: Option<IgnoredAny>,
    q: Option<IgnoredAny>,
    dp: Option<IgnoredAny>,
    dq: Option<IgnoredAny>,
    qi: Option<IgnoredAny>,
    oth: Option<IgnoredAny>,
    k: Option<IgnoredAny>,
}

impl Jwk {
    fn has_private_member(&self) -> bool {
        [&self.d, &self.p, &self.q, &self.dp, &self.dq, &self.qi, &self.oth, &self.k]
            .iter()
            .any(|m| m.is_some())
    }
}

fn point_of(x: Option<String>, y: Option<String>) -> Option<Vec<u8>> {
    let mut point = vec![UNCOMPRESSED];
    for coordinate in [x?, y?] {
        let bytes = URL_SAFE_NO_PAD.decode(coordinate).ok().filter(|bytes| bytes.len() == 32)?;
        point.extend(bytes);
    }
    Some(point)
}

/// serde_json quotes offending values; a value might be a secret, so only kind and place are kept.
fn safe_reason(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Data => "a member is unknown, duplicate or of the wrong type",
        _ => "it is not JSON",
    };
    format!("{kind}, at line {} column {}", error.line(), error.column())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::{KeyPair, SystemRandom};

    fn key() -> PublicKey {
        KeyPair::generate(&SystemRandom::new()).unwrap().public_key().clone()
    }

    /// The JWK with one member added or replaced.
    fn with(key: &PublicKey, member: &str, value: &str) -> String {
        let mut jwk: serde_json::Value = serde_json::from_str(&key.to_jwk()).unwrap();
        jwk[member] = serde_json::from_str(value).unwrap();
        jwk.to_string()
    }

    #[test]
    fn a_key_survives_the_ways_it_is_written() {
        let key = key();
        assert_eq!(PublicKey::from_jwk(&key.to_jwk()).unwrap(), key);
        assert_eq!(PublicKey::from_spki_der(&key.spki_der()).unwrap(), key);
        let bare = format!(
            r#"{{"kty":"EC","crv":"P-256","x":"{}","y":"{}"}}"#,
            key.coordinates().0,
            key.coordinates().1
        );
        assert_eq!(PublicKey::from_jwk(&bare).unwrap(), key);
        assert_eq!(format!("{key:?}"), format!("PublicKey({})", key.thumbprint()));
    }

    #[test]
    fn rejects_a_jwk_with_any_private_member() {
        for member in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
            assert_eq!(
                PublicKey::from_jwk(&with(&key(), member, r#""AAAA""#)),
                Err(JwkError::Private),
                "{member}"
            );
        }
    }

    #[test]
    fn rejects_unknown_duplicate_and_mistyped_members_without_quoting_them() {
        let key = key();
        let duplicate = key.to_jwk().replace(r#""kty":"EC""#, r#""kty":"EC","kty":"EC""#);
        for json in [with(&key, "x5u", r#""http://secret""#), with(&key, "crv", "256"), duplicate, "[".into()]
        {
            let error = PublicKey::from_jwk(&json).unwrap_err();
            assert!(matches!(error, JwkError::Malformed { .. }), "{json}: {error}");
            assert!(!error.to_string().contains("secret"));
        }
    }

    #[test]
    fn rejects_a_jwk_of_another_kind_or_for_another_use() {
        let key = key();
        let kind = |kty: &str, crv: &str| JwkError::OtherKind { kty: kty.into(), crv: crv.into() };
        assert_eq!(PublicKey::from_jwk(&with(&key, "crv", r#""P-384""#)), Err(kind("EC", "P-384")));
        assert_eq!(PublicKey::from_jwk(r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#), Err(kind("RSA", "")));
        for (member, value) in [("alg", r#""HS256""#), ("use", r#""enc""#)] {
            assert_eq!(PublicKey::from_jwk(&with(&key, member, value)), Err(JwkError::OtherUse));
        }
    }

    #[test]
    fn rejects_coordinates_that_are_missing_short_padded_or_off_the_curve() {
        let key = key();
        let x = key.coordinates().0;
        for value in [r#""""#, r#""AAAA""#, &format!(r#""{x}=""#), &format!(r#""{}""#, "A".repeat(43))] {
            assert_eq!(PublicKey::from_jwk(&with(&key, "x", value)), Err(JwkError::NotOnCurve), "{value}");
        }
        assert_eq!(PublicKey::from_jwk(r#"{"kty":"EC","crv":"P-256"}"#), Err(JwkError::NotOnCurve));
    }

    #[test]
    fn rejects_a_kid_that_is_not_the_thumbprint() {
        assert_eq!(PublicKey::from_jwk(&with(&key(), "kid", r#""other""#)), Err(JwkError::WrongKid));
    }

    #[test]
    fn rejects_a_jwk_one_byte_above_the_limit() {
        let jwk = key().to_jwk();
        let padded = |bytes: usize| format!("{jwk}{}", " ".repeat(bytes - jwk.len()));
        assert!(PublicKey::from_jwk(&padded(JWK_BYTES_MAX)).is_ok());
        let bytes = JWK_BYTES_MAX + 1;
        assert_eq!(PublicKey::from_jwk(&padded(bytes)), Err(JwkError::TooLong { bytes }));
    }
}
