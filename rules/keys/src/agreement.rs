//! Keys that others encrypt to: ECDH on P-256, and what two keys agree on (RFC 7518 section 4.6).
//!
//! A key for encryption is a type of its own and never one for signatures: the published form of neither is read as
//! the other. (PKCS#8 cannot tell them apart; what is sealed at rest is bound to its purpose.) What is agreed on is
//! good for one message, because one of the two keys was made for it.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::agreement::{
    ECDH_P256, EphemeralPrivateKey, ParsedPublicKey, PrivateKey, UnparsedPublicKey, agree, agree_ephemeral,
};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::{
    RandomError, Secret, SecureRandom,
    jwk::{point_of, short},
    sha256,
};

/// A private key that opens what was encrypted to its public half. Cheap to clone; `Debug` shows the thumbprint.
#[derive(Clone)]
pub struct AgreementKey {
    private: Arc<PrivateKey>,
    public: AgreementPublicKey,
}

/// What others encrypt to: a point on P-256.
#[derive(Clone, PartialEq, Eq)]
pub struct AgreementPublicKey([u8; POINT_BYTES]);

/// What two keys agreed on, as a key for AES-256-GCM. It seals or opens one message, and is gone.
pub struct ContentKey(LessSafeKey);

/// What a [`ContentKey`] made of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedContent {
    /// As long as the message.
    pub ciphertext: Vec<u8>,
    /// The authentication tag.
    pub tag: [u8; TAG_BYTES],
}

/// Why there is no key, nothing agreed on, or nothing opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AgreementError {
    /// The generator failed.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// Not a PKCS#8 (RFC 5208) private key on P-256.
    #[error("the private key for decryption is not PKCS#8 DER on P-256")]
    NotPkcs8,
    /// The message or what it is bound to was changed, or it was not encrypted to this key.
    #[error("the message does not open with this key")]
    Damaged,
    /// The crypto library gave no reason.
    #[error("the crypto library could not do it")]
    Failed,
}

/// Why a JWK is no key to encrypt to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgreementJwkError {
    /// Longer than any key of ours.
    #[error("the JWK has {bytes} bytes, more than {AGREEMENT_JWK_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not a JSON object with the members of such a key, each once and of the right type.
    #[error("the JWK cannot be read, or has members that a key for ECDH-ES does not have")]
    Malformed,
    /// It holds the private member: someone published a secret.
    #[error("the JWK holds private key material; publish only its public members, and replace this key")]
    Private,
    /// Another kind of key.
    #[error("the JWK is {kty} {crv}, not EC P-256")]
    OtherKind {
        /// Its key type.
        kty: String,
        /// Its curve.
        crv: String,
    },
    /// A key for signatures, or one that does not say what it is for.
    #[error("the JWK is not for encryption with ECDH-ES; publish it with \"use\": \"enc\"")]
    OtherUse,
    /// A coordinate is not 32 bytes in canonical base64url, or the point is not on the curve.
    #[error("the JWK's coordinates are not a point on P-256")]
    NotOnCurve,
    /// Its `kid` is not its RFC 7638 thumbprint.
    #[error("the JWK's kid is not its thumbprint")]
    WrongKid,
}

impl AgreementKey {
    /// Makes a new key. The library takes no generator but its own.
    pub fn generate() -> Result<Self, AgreementError> {
        Self::of(PrivateKey::generate(&ECDH_P256).map_err(|_| RandomError::Unavailable)?)
    }

    /// Reads PKCS#8 DER, as [`AgreementKey::to_pkcs8`] writes it.
    pub fn from_pkcs8(pkcs8_der: &[u8]) -> Result<Self, AgreementError> {
        Self::of(
            PrivateKey::from_private_key_der(&ECDH_P256, pkcs8_der).map_err(|_| AgreementError::NotPkcs8)?,
        )
    }

    /// The private key in PKCS#8 version 1 DER, for sealing.
    pub fn to_pkcs8(&self) -> Result<Secret<Vec<u8>>, AgreementError> {
        let document = AsDer::<Pkcs8V1Der<'_>>::as_der(&*self.private).map_err(|_| AgreementError::Failed)?;
        Ok(Secret::new(document.as_ref().to_vec()))
    }

    /// The half that may be told.
    pub fn public_key(&self) -> &AgreementPublicKey {
        &self.public
    }

    /// What the sender agreed on with this key, who made `ephemeral` for one message (the recipient's half of
    /// [`AgreementPublicKey::agree`]).
    pub fn agree(&self, ephemeral: &AgreementPublicKey) -> Result<ContentKey, AgreementError> {
        let theirs = UnparsedPublicKey::new(&ECDH_P256, ephemeral.0);
        agree(&self.private, theirs, AgreementError::Failed, ContentKey::derive)
    }

    fn of(private: PrivateKey) -> Result<Self, AgreementError> {
        let public = private.compute_public_key().map_err(|_| AgreementError::Failed)?;
        let point = public.as_ref().try_into().map_err(|_| AgreementError::Failed)?;
        Ok(Self { private: Arc::new(private), public: AgreementPublicKey(point) })
    }
}

impl AgreementPublicKey {
    /// Reads a published JWK: strictly `kty`, `crv`, `x`, `y`, `use: "enc"` and, if present, `kid` and `alg`.
    pub fn from_jwk(json: &str) -> Result<Self, AgreementJwkError> {
        let jwk = Jwk::read(json)?;
        let for_agreement = jwk.alg.as_deref().is_none_or(|alg| alg == ECDH_ES);
        if jwk.usage.as_deref() != Some("enc") || !for_agreement {
            return Err(AgreementJwkError::OtherUse);
        }
        let key = jwk.key()?;
        match jwk.kid {
            Some(kid) if kid != key.thumbprint() => Err(AgreementJwkError::WrongKid),
            _ => Ok(key),
        }
    }

    /// Reads the `epk` of a JWE: strictly `kty`, `crv`, `x`, `y`, for it was made for this message alone.
    pub fn from_ephemeral_jwk(json: &str) -> Result<Self, AgreementJwkError> {
        let jwk = Jwk::read(json)?;
        if jwk.kid.is_some() || jwk.alg.is_some() || jwk.usage.is_some() {
            return Err(AgreementJwkError::OtherUse);
        }
        jwk.key()
    }

    /// The JWK to publish, as JSON text.
    pub fn to_jwk(&self) -> String {
        let ((x, y), kid) = (self.coordinates(), self.thumbprint());
        format!(
            r#"{{"alg":"{ECDH_ES}","crv":"P-256","kid":"{kid}","kty":"EC","use":"enc","x":"{x}","y":"{y}"}}"#
        )
    }

    /// The JWK that stands in `epk`, as JSON text: nothing but the point.
    pub fn to_ephemeral_jwk(&self) -> String {
        let (x, y) = self.coordinates();
        format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)
    }

    /// RFC 7638 thumbprint (SHA-256) in base64url: the `kid` of every key of ours.
    pub fn thumbprint(&self) -> String {
        // Exactly the members of section 3.2, in their order.
        URL_SAFE_NO_PAD.encode(sha256(self.to_ephemeral_jwk().as_bytes()))
    }

    /// Makes a key for one message, and agrees with this one: the public half goes into the message.
    pub fn agree(&self, rng: &dyn SecureRandom) -> Result<(Self, ContentKey), AgreementError> {
        let mine = EphemeralPrivateKey::generate(&ECDH_P256, rng).map_err(|_| RandomError::Unavailable)?;
        let public = mine.compute_public_key().map_err(|_| AgreementError::Failed)?;
        let ephemeral = Self(public.as_ref().try_into().map_err(|_| AgreementError::Failed)?);
        let theirs = UnparsedPublicKey::new(&ECDH_P256, self.0);
        let key = agree_ephemeral(mine, theirs, AgreementError::Failed, ContentKey::derive)?;
        Ok((ephemeral, key))
    }

    fn coordinates(&self) -> (String, String) {
        let (x, y) = self.0.get(1..).unwrap_or_default().split_at(COORDINATE_BYTES);
        (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y))
    }
}

impl ContentKey {
    /// Encrypts `plaintext`; `associated` is covered by the tag.
    pub fn seal(
        self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        plaintext: &[u8],
    ) -> Result<SealedContent, AgreementError> {
        let mut ciphertext = plaintext.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(associated), &mut ciphertext)
            .map_err(|_| AgreementError::Failed)?;
        Ok(SealedContent { ciphertext, tag: tag.as_ref().try_into().map_err(|_| AgreementError::Failed)? })
    }

    /// Decrypts what [`ContentKey::seal`] made, if not a bit of it or of `associated` was changed.
    pub fn open(
        self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        sealed: &SealedContent,
    ) -> Result<Secret<Vec<u8>>, AgreementError> {
        let mut plaintext = Secret::new([sealed.ciphertext.as_slice(), &sealed.tag].concat());
        let opened = self
            .0
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(associated), plaintext.expose_mut())
            .map_err(|_| AgreementError::Damaged)?
            .len();
        plaintext.expose_mut().truncate(opened);
        Ok(plaintext)
    }

    fn derive(agreed: &[u8]) -> Result<Self, AgreementError> {
        let key = Secret::new(concat_kdf(agreed, A256GCM.as_bytes(), b"", b"", CONTENT_KEY_BITS));
        let key = UnboundKey::new(&AES_256_GCM, key.expose()).map_err(|_| AgreementError::Failed)?;
        Ok(Self(LessSafeKey::new(key)))
    }
}

impl fmt::Debug for AgreementKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgreementKey({})", self.public.thumbprint())
    }
}

impl fmt::Debug for AgreementPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgreementPublicKey({})", self.thumbprint())
    }
}

impl fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentKey(..)")
    }
}

/// The Concat KDF (RFC 7518 section 4.6.2, NIST SP 800-56A section 5.8.1) in its one round: up to 256 bits.
fn concat_kdf(agreed: &[u8], algorithm: &[u8], party_u: &[u8], party_v: &[u8], bits: u32) -> [u8; 32] {
    let mut input = Secret::new(1_u32.to_be_bytes().to_vec());
    let bytes = input.expose_mut();
    bytes.extend_from_slice(agreed);
    for part in [algorithm, party_u, party_v] {
        bytes.extend_from_slice(&(part.len() as u32).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes.extend_from_slice(&bits.to_be_bytes());
    sha256(bytes)
}

/// Every member that may occur, and the private one so that it is refused by name.
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
    d: Option<IgnoredAny>,
}

impl Jwk {
    fn read(json: &str) -> Result<Self, AgreementJwkError> {
        if json.len() > AGREEMENT_JWK_BYTES_MAX {
            return Err(AgreementJwkError::TooLong { bytes: json.len() });
        }
        let jwk: Self = serde_json::from_str(json).map_err(|_| AgreementJwkError::Malformed)?;
        if jwk.d.is_some() { Err(AgreementJwkError::Private) } else { Ok(jwk) }
    }

    fn key(&self) -> Result<AgreementPublicKey, AgreementJwkError> {
        let (kty, crv) = (self.kty.as_deref(), self.crv.as_deref());
        if kty != Some("EC") || crv != Some("P-256") {
            return Err(AgreementJwkError::OtherKind { kty: short(kty), crv: short(crv) });
        }
        let point = point_of(self.x.as_deref(), self.y.as_deref());
        let point = point.and_then(|point| point.try_into().ok()).ok_or(AgreementJwkError::NotOnCurve)?;
        // The library computes the curve's equation: a point off the curve would give the private key away.
        ParsedPublicKey::try_from(UnparsedPublicKey::new(&ECDH_P256, point))
            .map_err(|_| AgreementJwkError::NotOnCurve)?;
        Ok(AgreementPublicKey(point))
    }
}

/// The one way of agreeing on a key (RFC 7518 section 4.6), as `alg` names it.
pub const ECDH_ES: &str = "ECDH-ES";
/// The one cipher (RFC 7518 section 5.3), as `enc` names it.
pub const A256GCM: &str = "A256GCM";
/// Length of a nonce.
pub const NONCE_BYTES: usize = NONCE_LEN;
/// Length of an authentication tag.
pub const TAG_BYTES: usize = 16;
/// The longest JWK that is read.
pub const AGREEMENT_JWK_BYTES_MAX: usize = 1024;
const CONTENT_KEY_BITS: u32 = 256;
const COORDINATE_BYTES: usize = 32;
const POINT_BYTES: usize = 1 + 2 * COORDINATE_BYTES;

#[cfg(test)]
mod tests;
