//! Encrypted payloads, for where TLS ends before the callee does: compact JWE (RFC 7516) in exactly one form.
//!
//! ECDH-ES on P-256, directly (RFC 7518 section 4.6), with A256GCM; a header with `alg`, `enc`, `epk`, `kid` and
//! `typ` and nothing else. Nothing is ever decompressed: `zip` has been a way to fill memory (CVE-2024-28180,
//! CVE-2024-28122). An encrypted payload says nothing about who sent it; that is what tokens are for.
//!
//! ```
//! use countersign_keys::{AgreementKey, SystemRandom};
//! use countersign_token::jwe;
//!
//! let key = AgreementKey::generate()?;
//! let sealed = jwe::encrypt(b"for your eyes only", key.public_key(), &SystemRandom::new())?;
//! let opened = jwe::decrypt(&sealed, |kid| (kid == key.public_key().thumbprint()).then(|| key.clone()))?;
//! assert_eq!(opened.expose(), b"for your eyes only");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_keys::{
    AgreementError, AgreementJwkError, AgreementKey, AgreementPublicKey, RandomError, Secret, SecureRandom,
    agreement::{A256GCM, ECDH_ES, NONCE_BYTES, SealedContent, TAG_BYTES},
    random_bytes,
};

use crate::{
    claims::{ClaimError, Claims},
    jws::{HEADER_VALUE_BYTES_MAX, printable},
};

/// Encrypts `plaintext`, at most [`PLAINTEXT_BYTES_MAX`], to one recipient.
pub fn encrypt(
    plaintext: &[u8],
    recipient: &AgreementPublicKey,
    rng: &dyn SecureRandom,
) -> Result<String, JweError> {
    if plaintext.len() > PLAINTEXT_BYTES_MAX {
        return Err(JweError::PlaintextTooLong { bytes: plaintext.len() });
    }
    let (ephemeral, key) = recipient.agree(rng)?;
    let header = format!(
        r#"{{"alg":"{ECDH_ES}","enc":"{A256GCM}","epk":{},"kid":"{}","typ":"{JWE_TYP}"}}"#,
        ephemeral.to_ephemeral_jwk(),
        recipient.thumbprint(),
    );
    let header = URL_SAFE_NO_PAD.encode(header);
    let nonce: [u8; NONCE_BYTES] = random_bytes(rng)?;
    let sealed = key.seal(nonce, header.as_bytes(), plaintext)?;
    // The second part would hold an encrypted key; the key was agreed on.
    let mut token = format!("{header}..{}.", URL_SAFE_NO_PAD.encode(nonce));
    URL_SAFE_NO_PAD.encode_string(&sealed.ciphertext, &mut token);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(sealed.tag, &mut token);
    Ok(token)
}

/// Decrypts what was encrypted to the key that `key_of` finds for a `kid`, its thumbprint.
pub fn decrypt(
    token: &str,
    key_of: impl FnOnce(&str) -> Option<AgreementKey>,
) -> Result<Secret<Vec<u8>>, JweError> {
    let parts = Parts::split(token)?;
    let header = Header::read(&decode(parts.header)?)?;
    if !parts.encrypted_key.is_empty() {
        return Err(JweError::EncryptedKey);
    }
    let (nonce, tag) = (decode(parts.nonce)?, decode(parts.tag)?);
    let sealed = SealedContent {
        ciphertext: decode(parts.ciphertext)?,
        tag: tag.as_slice().try_into().map_err(|_| JweError::TagLength { bytes: tag.len() })?,
    };
    let nonce = nonce.as_slice().try_into().map_err(|_| JweError::NonceLength { bytes: nonce.len() })?;
    let key = key_of(&header.kid).ok_or_else(|| JweError::UnknownKey { kid: printable(&header.kid) })?;
    // A look-up that ignores the kid would try keys of other purposes.
    if key.public_key().thumbprint() != header.kid {
        return Err(JweError::WrongKey);
    }
    key.agree(&header.ephemeral)?.open(nonce, parts.header.as_bytes(), &sealed).map_err(|_| JweError::Damaged)
}

struct Parts<'a> {
    header: &'a str,
    encrypted_key: &'a str,
    nonce: &'a str,
    ciphertext: &'a str,
    tag: &'a str,
}

impl<'a> Parts<'a> {
    fn split(token: &'a str) -> Result<Self, JweError> {
        if token.len() > JWE_BYTES_MAX {
            return Err(JweError::TooLarge { bytes: token.len() });
        }
        let mut parts = token.splitn(PARTS + 1, '.');
        let mut next = || parts.next().ok_or(JweError::NotFiveParts);
        let parts_of_it = Self {
            header: next()?,
            encrypted_key: next()?,
            nonce: next()?,
            ciphertext: next()?,
            tag: next()?,
        };
        if parts.next().is_some() { Err(JweError::NotFiveParts) } else { Ok(parts_of_it) }
    }
}

struct Header {
    kid: String,
    ephemeral: AgreementPublicKey,
}

impl Header {
    /// Judges first what would be done to the payload, then how the key comes about, then the rest: so a foreign
    /// form is refused for what is foreign about it.
    fn read(json: &[u8]) -> Result<Self, JweError> {
        let header = Claims::parse(json).map_err(JweError::Header)?;
        if header.has("zip") {
            return Err(JweError::Compressed);
        }
        let (alg, enc) = (text(&header, "alg")?, text(&header, "enc")?);
        if alg != ECDH_ES {
            return Err(JweError::ForbiddenAlgorithm { alg: printable(alg) });
        }
        if enc != A256GCM {
            return Err(JweError::ForbiddenEncryption { enc: printable(enc) });
        }
        if let Some(member) = header.names().find(|name| !HEADER_MEMBERS.contains(name)) {
            return Err(JweError::ForbiddenMember { member: printable(member) });
        }
        let (typ, kid) = (text(&header, "typ")?, text(&header, "kid")?);
        if typ != JWE_TYP {
            return Err(JweError::WrongKind { typ: printable(typ) });
        }
        if kid.len() > HEADER_VALUE_BYTES_MAX {
            return Err(JweError::KidTooLong { bytes: kid.len() });
        }
        let ephemeral = header.object("epk").map_err(JweError::Header)?;
        Ok(Self {
            kid: kid.to_owned(),
            ephemeral: AgreementPublicKey::from_ephemeral_jwk(&ephemeral.to_json())?,
        })
    }
}

fn text<'a>(header: &'a Claims, name: &'static str) -> Result<&'a str, JweError> {
    header.string(name).map_err(JweError::Header)
}

/// Canonical base64url only: no padding, no white space, no stray bits in the last character.
fn decode(part: &str) -> Result<Vec<u8>, JweError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| JweError::NotBase64Url)
}

/// Why a payload is not encrypted, or not decrypted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JweError {
    /// More plaintext than [`PLAINTEXT_BYTES_MAX`].
    #[error("the payload has {bytes} bytes, more than {PLAINTEXT_BYTES_MAX}; nothing was encrypted")]
    PlaintextTooLong {
        /// Its length.
        bytes: usize,
    },
    /// Longer than [`JWE_BYTES_MAX`].
    #[error("the encrypted payload is {bytes} bytes long, more than {JWE_BYTES_MAX}")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Not the compact form.
    #[error("an encrypted payload has exactly five parts between dots")]
    NotFiveParts,
    /// A part is not base64url in its one canonical form.
    #[error("a part of the encrypted payload is not canonical base64url without padding")]
    NotBase64Url,
    /// The header is no strict JSON object, or lacks a member.
    #[error("the header of the encrypted payload is not acceptable: {0}")]
    Header(#[source] ClaimError),
    /// `zip`: nothing is decompressed here.
    #[error("the encrypted payload is compressed; send it without zip")]
    Compressed,
    /// Another way of agreeing on a key, or none.
    #[error("the encrypted payload has alg {alg:?}, use {ECDH_ES}")]
    ForbiddenAlgorithm {
        /// What it says.
        alg: String,
    },
    /// Another cipher.
    #[error("the encrypted payload has enc {enc:?}, use {A256GCM}")]
    ForbiddenEncryption {
        /// What it says.
        enc: String,
    },
    /// A header member beyond the five, such as `crit`, `apu`, `apv`, `jku`.
    #[error("the header has the member {member:?}; only alg, enc, epk, kid and typ are allowed")]
    ForbiddenMember {
        /// Its name.
        member: String,
    },
    /// Something else that is encrypted.
    #[error("an encrypted {typ:?} is not a payload of ours, use {JWE_TYP}")]
    WrongKind {
        /// What it says it is.
        typ: String,
    },
    /// `kid` is longer than any name of a key.
    #[error("kid has {bytes} bytes, more than {HEADER_VALUE_BYTES_MAX}")]
    KidTooLong {
        /// Its length.
        bytes: usize,
    },
    /// `epk` is no key to agree with.
    #[error("the ephemeral key is not acceptable: {0}")]
    EphemeralKey(#[from] AgreementJwkError),
    /// There is an encrypted key, where the key was agreed on.
    #[error("the second part must be empty: with {ECDH_ES} no key is sent")]
    EncryptedKey,
    /// The nonce is not of 96 bits.
    #[error("the nonce has {bytes} bytes and not {NONCE_BYTES}")]
    NonceLength {
        /// Its length.
        bytes: usize,
    },
    /// The authentication tag is not whole: a short one is easier to guess.
    #[error("the authentication tag has {bytes} bytes and not {TAG_BYTES}")]
    TagLength {
        /// Its length.
        bytes: usize,
    },
    /// Encrypted to a key that is not here.
    #[error("no key for decryption here has the id {kid:?}; fetch the recipient's current key")]
    UnknownKey {
        /// Its thumbprint.
        kid: String,
    },
    /// The key that was looked up is not the one that `kid` names.
    #[error("the key at hand is not the one that the encrypted payload names")]
    WrongKey,
    /// Changed on the way, or not encrypted to this key.
    #[error("the encrypted payload was changed, or is not for this key")]
    Damaged,
    /// No key could be agreed on.
    #[error(transparent)]
    Agreement(#[from] AgreementError),
    /// No nonce.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// `typ` of an encrypted payload.
pub const JWE_TYP: &str = "countersign-payload+jwe";
/// Longest payload: that of a body whose digest is checked before its handler runs.
pub const PLAINTEXT_BYTES_MAX: usize = 256 * 1024;
/// Longest compact form, in bytes: the longest payload in base64url, and room for the rest.
pub const JWE_BYTES_MAX: usize = PLAINTEXT_BYTES_MAX.div_ceil(3) * 4 + 2 * 1024;
const PARTS: usize = 5;
const HEADER_MEMBERS: [&str; 5] = ["alg", "enc", "epk", "kid", "typ"];
