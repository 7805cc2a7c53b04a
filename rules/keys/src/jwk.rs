//! JSON Web Keys (RFC 7517, RFC 7518 section 6, RFC 8037) and their thumbprints (RFC 7638).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::{Algorithm, PublicKey, TokenKeyError, der, sha256};

/// Why a JSON Web Key (RFC 7517) is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwkError {
    /// Longer than any key of ours.
    #[error("the JWK has {bytes} bytes, more than {JWK_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It holds a private member: someone published a secret.
    #[error("the JWK holds private key material; publish only its public members, and replace this key")]
    Private,
    /// Not a JSON object with these members, each once and of the right type.
    #[error("the JWK cannot be read: {reason}")]
    Malformed {
        /// What the JSON reader says; positions and member names, never values.
        reason: String,
    },
    /// Another kind of key.
    #[error("the JWK is {kty} {crv}, neither EC P-256, OKP Ed25519 nor RSA")]
    OtherKind {
        /// Its key type.
        kty: String,
        /// Its curve.
        crv: String,
    },
    /// For another algorithm or another use than verifying the signatures of its kind of key.
    #[error("the JWK is not for verifying signatures of the algorithm that its key has")]
    OtherUse,
    /// A coordinate is not 32 bytes in canonical base64url, or the point is not on the curve.
    #[error("the JWK's coordinates are not a point on P-256")]
    NotOnCurve,
    /// Its Ed25519 or RSA key is refused.
    #[error("the JWK's key is not acceptable: {0}")]
    Key(#[from] TokenKeyError),
    /// Its `kid` is not its RFC 7638 thumbprint.
    #[error("the JWK's kid is not its thumbprint")]
    WrongKid,
}

pub(crate) fn read(json: &str) -> Result<PublicKey, JwkError> {
    if json.len() > JWK_BYTES_MAX {
        return Err(JwkError::TooLong { bytes: json.len() });
    }
    let jwk: Jwk = serde_json::from_str(json).map_err(|e| JwkError::Malformed { reason: safe_reason(&e) })?;
    if jwk.has_private_member() {
        return Err(JwkError::Private);
    }
    let key = jwk.key()?;
    let of_its_algorithm =
        jwk.alg.as_deref().is_none_or(|alg| Algorithm::from_jose_name(alg) == Some(key.algorithm()));
    let for_signatures = jwk.usage.as_deref().is_none_or(|usage| usage == "sig");
    if !of_its_algorithm || !for_signatures {
        return Err(JwkError::OtherUse);
    }
    match &jwk.kid {
        Some(kid) if !key.is_named(kid) => Err(JwkError::WrongKid),
        _ => Ok(key),
    }
}

pub(crate) fn write(key: &PublicKey) -> String {
    let (alg, kid) = (key.algorithm().jose_name(), key.thumbprint());
    match Members::of(key.algorithm(), key.subject_public_key()) {
        Some(Members::Ec { x, y }) => format!(
            r#"{{"alg":"{alg}","crv":"P-256","kid":"{kid}","kty":"EC","use":"sig","x":"{x}","y":"{y}"}}"#
        ),
        Some(Members::Okp { x }) => {
            format!(r#"{{"alg":"{alg}","crv":"Ed25519","kid":"{kid}","kty":"OKP","use":"sig","x":"{x}"}}"#)
        }
        Some(Members::Rsa { n, e }) => {
            format!(r#"{{"alg":"{alg}","e":"{e}","kid":"{kid}","kty":"RSA","n":"{n}","use":"sig"}}"#)
        }
        // A key whose thumbprint was computed has its members.
        None => String::new(),
    }
}

/// The members that a key is made of in the order of their names, and nothing else (RFC 7638 section 3.2).
pub(crate) fn thumbprint(algorithm: Algorithm, bits: &[u8]) -> Option<String> {
    let canonical = match Members::of(algorithm, bits)? {
        Members::Ec { x, y } => format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#),
        Members::Okp { x } => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#),
        Members::Rsa { n, e } => format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#),
    };
    Some(URL_SAFE_NO_PAD.encode(sha256(canonical.as_bytes())))
}

/// What each kind of key consists of, in base64url.
enum Members {
    Ec { x: String, y: String },
    Okp { x: String },
    Rsa { n: String, e: String },
}

impl Members {
    fn of(algorithm: Algorithm, bits: &[u8]) -> Option<Self> {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        Some(match algorithm {
            Algorithm::EcdsaP256 => {
                let (x, y) = bits.get(1..)?.split_at_checked(COORDINATE_BYTES)?;
                Self::Ec { x: text(x), y: text(y) }
            }
            Algorithm::Ed25519 => Self::Okp { x: text(bits) },
            Algorithm::RsaPkcs1Sha256 => {
                let (n, e) = der::rsa_numbers(bits)?;
                Self::Rsa { n: text(n), e: text(e) }
            }
        })
    }
}

/// Every member that may occur, and the private ones so that they are refused by name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Jwk {
    kty: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
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

    /// The members of exactly one kind of key: those of another beside them are two keys in one.
    fn key(&self) -> Result<PublicKey, JwkError> {
        let curve = self.crv.as_deref();
        match (self.kty.as_deref(), curve, &self.x, &self.y, &self.n, &self.e) {
            (Some("EC"), Some("P-256"), x, y, None, None) => {
                let point = point_of(x.as_deref(), y.as_deref()).ok_or(JwkError::NotOnCurve)?;
                PublicKey::from_point(&point).map_err(|_| JwkError::NotOnCurve)
            }
            (Some("OKP"), Some("Ed25519"), x, None, None, None) => {
                Ok(PublicKey::from_ed25519(&decode(x.as_deref()).unwrap_or_default())?)
            }
            (Some("RSA"), None, None, None, n, e) => {
                let number = |text: &Option<String>| {
                    // RFC 7518 section 6.3.1: no leading zeros, one spelling.
                    decode(text.as_deref()).filter(|bytes| bytes.first().is_some_and(|first| *first != 0))
                };
                let (n, e) =
                    number(n).zip(number(e)).ok_or(JwkError::Key(TokenKeyError::BadRsa { bits: 0 }))?;
                Ok(PublicKey::from_rsa_der(&der::rsa_public_key(&n, &e))?)
            }
            (kty, crv, ..) => Err(JwkError::OtherKind { kty: short(kty), crv: short(crv) }),
        }
    }
}

fn decode(text: Option<&str>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text?).ok()
}

/// An uncompressed point (SEC 1 section 2.3.3) of two coordinates, each of 32 bytes in canonical base64url.
pub(crate) fn point_of(x: Option<&str>, y: Option<&str>) -> Option<Vec<u8>> {
    let mut point = vec![UNCOMPRESSED];
    for coordinate in [x, y] {
        point.extend(decode(coordinate).filter(|bytes| bytes.len() == COORDINATE_BYTES)?);
    }
    Some(point)
}

/// What a stranger wrote, as far as it is fit for a log.
pub(crate) fn short(text: Option<&str>) -> String {
    text.unwrap_or_default().chars().filter(char::is_ascii_graphic).take(16).collect()
}

/// serde_json quotes offending values; a value might be a secret, so only kind and place are kept.
fn safe_reason(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Data => "a member is unknown, duplicate or of the wrong type",
        _ => "it is not JSON",
    };
    format!("{kind}, at line {} column {}", error.line(), error.column())
}

/// The longest JWK that is read: one of RSA with 4096 bits fits.
pub const JWK_BYTES_MAX: usize = 1024;
const COORDINATE_BYTES: usize = 32;
const UNCOMPRESSED: u8 = 4;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::{KeyPair, SystemRandom};

    fn key() -> PublicKey {
        KeyPair::generate(&SystemRandom::new()).unwrap().public_key().clone()
    }

    fn ed25519() -> PublicKey {
        KeyPair::generate_ed25519(&SystemRandom::new()).unwrap().public_key().clone()
    }

    fn rsa() -> PublicKey {
        KeyPair::generate_rsa().unwrap().public_key().clone()
    }

    /// The JWK with one member added or replaced.
    fn with(key: &PublicKey, member: &str, value: &str) -> String {
        let mut jwk: serde_json::Value = serde_json::from_str(&key.to_jwk()).unwrap();
        jwk[member] = serde_json::from_str(value).unwrap();
        jwk.to_string()
    }

    fn without(key: &PublicKey, members: &[&str]) -> String {
        let mut jwk: serde_json::Value = serde_json::from_str(&key.to_jwk()).unwrap();
        jwk.as_object_mut().unwrap().retain(|name, _| !members.contains(&name.as_str()));
        jwk.to_string()
    }

    #[test]
    fn a_key_survives_the_ways_it_is_written() {
        for key in [key(), ed25519(), rsa()] {
            assert_eq!(PublicKey::from_jwk(&key.to_jwk()).unwrap(), key);
            assert_eq!(PublicKey::from_jwk(&without(&key, &["kid", "use", "alg"])).unwrap(), key);
            assert_eq!(format!("{key:?}"), format!("PublicKey({})", key.thumbprint()));
        }
        let key = key();
        assert_eq!(PublicKey::from_spki_der(&key.spki_der()).unwrap(), key);
    }

    #[test]
    fn openssl_reads_the_subject_public_key_info_of_every_algorithm() {
        for (key, name) in [(key(), "P-256"), (ed25519(), "ED25519"), (rsa(), "(2048 bit)")] {
            let dir = countersign_testkit::temp_dir();
            let file = dir.path().join("key.der");
            std::fs::write(&file, key.spki_der()).unwrap();
            let output = std::process::Command::new("openssl")
                .args(["pkey", "-pubin", "-inform", "DER", "-noout", "-text", "-in"])
                .arg(&file)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && text.contains(name), "{text}");
        }
    }

    #[test]
    fn rejects_a_jwk_with_any_private_member() {
        for key in [key(), ed25519(), rsa()] {
            for member in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
                let jwk = with(&key, member, r#""AAAA""#);
                assert_eq!(PublicKey::from_jwk(&jwk), Err(JwkError::Private), "{member}");
            }
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
        assert_eq!(PublicKey::from_jwk(&with(&ed25519(), "crv", r#""X25519""#)), Err(kind("OKP", "X25519")));
        assert_eq!(PublicKey::from_jwk(&with(&key, "kty", r#""oct""#)), Err(kind("oct", "P-256")));
        for (member, value) in [("alg", r#""HS256""#), ("use", r#""enc""#), ("alg", r#""Ed25519""#)] {
            assert_eq!(PublicKey::from_jwk(&with(&key, member, value)), Err(JwkError::OtherUse));
        }
        assert_eq!(PublicKey::from_jwk(&with(&rsa(), "alg", r#""PS256""#)), Err(JwkError::OtherUse));
        let old_name = with(&ed25519(), "alg", r#""EdDSA""#);
        assert!(PublicKey::from_jwk(&old_name).is_ok(), "the name before RFC 9864 is the same algorithm");
    }

    #[test]
    fn rejects_two_keys_in_one_jwk() {
        let kind = |kty: &str, crv: &str| JwkError::OtherKind { kty: kty.into(), crv: crv.into() };
        let both = with(&key(), "n", r#""AQAB""#);
        assert_eq!(PublicKey::from_jwk(&both), Err(kind("EC", "P-256")));
        assert_eq!(PublicKey::from_jwk(&with(&rsa(), "x", r#""AQAB""#)), Err(kind("RSA", "")));
        assert_eq!(PublicKey::from_jwk(&with(&ed25519(), "y", r#""AQAB""#)), Err(kind("OKP", "Ed25519")));
    }

    #[test]
    fn rejects_coordinates_that_are_missing_short_padded_or_off_the_curve() {
        let key = key();
        let x = URL_SAFE_NO_PAD.encode(&key.subject_public_key()[1..33]);
        for value in [r#""""#, r#""AAAA""#, &format!(r#""{x}=""#), &format!(r#""{}""#, "A".repeat(43))] {
            assert_eq!(PublicKey::from_jwk(&with(&key, "x", value)), Err(JwkError::NotOnCurve), "{value}");
        }
        assert_eq!(PublicKey::from_jwk(r#"{"kty":"EC","crv":"P-256"}"#), Err(JwkError::NotOnCurve));
    }

    #[test]
    fn rejects_an_ed25519_key_of_the_wrong_length_or_of_small_order() {
        let refused = Err(JwkError::Key(TokenKeyError::BadEd25519));
        let key = ed25519();
        for bytes in [vec![], vec![9; 31], vec![9; 33], vec![0; 32]] {
            let x = format!(r#""{}""#, URL_SAFE_NO_PAD.encode(&bytes));
            assert_eq!(PublicKey::from_jwk(&with(&key, "x", &x)), refused, "{bytes:?}");
        }
        for first in [0, 1, 0xec, 0xed, 0xee] {
            for last in [0, 0x80] {
                let big = if first > 1 { 0xff } else { 0 };
                let mut bytes = [big; 32];
                bytes[0] = first;
                bytes[31] = (big & 0x7f) | last;
                assert_eq!(PublicKey::from_ed25519(&bytes), Err(TokenKeyError::BadEd25519), "{first} {last}");
            }
        }
    }

    #[test]
    fn rejects_an_rsa_key_that_is_short_long_even_or_of_another_exponent() {
        let key = rsa();
        let modulus = |bits: usize| format!(r#""{}""#, URL_SAFE_NO_PAD.encode(vec![0xff; bits / 8]));
        let refused = |json: String| match PublicKey::from_jwk(&json) {
            Err(JwkError::Key(TokenKeyError::BadRsa { bits })) => bits,
            other => unreachable!("{other:?}"),
        };
        assert_eq!(refused(with(&key, "n", &modulus(1024))), 1024);
        assert_eq!(refused(with(&key, "n", &modulus(2040))), 2040);
        assert_eq!(refused(with(&key, "n", &modulus(4104))), 4104);
        // At the limit its numbers are acceptable; only the name is still that of the key before.
        assert_eq!(PublicKey::from_jwk(&with(&key, "n", &modulus(4096))), Err(JwkError::WrongKid));
        // 3, 65537 with a leading zero, none at all.
        assert_eq!(refused(with(&key, "e", r#""Aw""#)), 2048);
        for e in [r#""AAEAAQ""#, r#""""#] {
            assert_eq!(refused(with(&key, "e", e)), 0);
        }
    }

    #[test]
    fn rejects_a_certificate_in_the_place_of_a_key() {
        // CVE-2025-49825: a certificate nested where a key is expected must not be unwrapped.
        let key = key();
        for member in ["x5c", "x5t#S256", "x5t", "crt"] {
            let jwk = with(&key, member, r#"["MIIB"]"#);
            assert!(matches!(PublicKey::from_jwk(&jwk), Err(JwkError::Malformed { .. })), "{member}");
        }
        let certificate = r#"{"kty":"EC","crv":"P-256","x":"MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A","y":""}"#;
        assert_eq!(PublicKey::from_jwk(certificate), Err(JwkError::NotOnCurve));
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
