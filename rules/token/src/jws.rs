//! A strict compact JWS (RFC 7515 section 3.1, profiled by RFC 8725) of our own.
//!
//! Accepted is exactly one form: three parts of canonical base64url, a header with `alg`, `kid` and `typ`
//! and nothing else, and the one algorithm of the key that `kid` names. The header never chooses how it is
//! verified: no `none`, no HMAC, no `jku`, `jwk`, `x5u`, `x5c`, `crit`, `b64`, `zip`.
//! Why not a library: `docs/decisions/002-own-compact-jws.md`.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_keys::{Algorithm, KeyPair, PublicKey, SignError};

use crate::claims::{ClaimError, Claims};

/// Signs `claims_json` as a token of type `typ` by `key`, whose RFC 7638 thumbprint becomes the `kid`.
pub fn sign(key: &KeyPair, typ: &str, claims_json: &[u8]) -> Result<String, JwsError> {
    let header = serde_json::json!({
        "alg": key.algorithm().jose_name(),
        "kid": key.public_key().thumbprint(),
        "typ": typ,
    });
    let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(claims_json, &mut token);
    let signature = key.sign_raw(token.as_bytes())?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    if token.len() > TOKEN_BYTES_MAX {
        return Err(JwsError::TooLarge { bytes: token.len() });
    }
    Ok(token)
}

/// A token that was read but not verified: good for finding the key, and for nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unverified<'a> {
    /// Algorithm that the header claims.
    pub alg: Algorithm,
    /// Which key is said to have signed.
    pub kid: String,
    /// Which kind of token it says it is, lower case and without `application/`.
    pub typ: String,
    signing_input: &'a str,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// Reads a compact JWS of at most [`TOKEN_BYTES_MAX`].
pub fn parse(token: &str) -> Result<Unverified<'_>, JwsError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(JwsError::TooLarge { bytes: token.len() });
    }
    let (signing_input, signature) = token.rsplit_once('.').ok_or(JwsError::NotThreeParts)?;
    let (header, payload) = signing_input.split_once('.').ok_or(JwsError::NotThreeParts)?;
    if payload.contains('.') {
        return Err(JwsError::NotThreeParts);
    }
    let header = Claims::parse(&decode(header)?).map_err(JwsError::Header)?;
    if let Some(member) = header.names().find(|name| !HEADER_MEMBERS.contains(name)) {
        return Err(JwsError::ForbiddenMember { member: printable(member) });
    }
    let alg = header.string("alg").map_err(JwsError::Header)?;
    Ok(Unverified {
        alg: algorithm(alg).ok_or_else(|| JwsError::ForbiddenAlgorithm { alg: printable(alg) })?,
        kid: bounded(header.string("kid").map_err(JwsError::Header)?)?,
        typ: media_type(&bounded(header.string("typ").map_err(JwsError::Header)?)?),
        signing_input,
        payload: decode(payload)?,
        signature: decode(signature)?,
    })
}

impl Unverified<'_> {
    /// Verifies the signature with the key that the caller found for [`Unverified::kid`], and gives the
    /// payload's bytes. The key decides about the algorithm; the header had to agree.
    pub fn verify(&self, key: &PublicKey) -> Result<&[u8], JwsError> {
        // A look-up that ignores the kid would let any key of the set speak for any other.
        if self.kid != key.thumbprint() {
            return Err(JwsError::WrongKey);
        }
        key.verify_raw(self.signing_input.as_bytes(), &self.signature).map_err(|_| JwsError::BadSignature)?;
        Ok(&self.payload)
    }
}

/// Canonical base64url only: no padding, no white space, no stray bits in the last character.
fn decode(part: &str) -> Result<Vec<u8>, JwsError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| JwsError::NotBase64Url)
}

fn algorithm(name: &str) -> Option<Algorithm> {
    [Algorithm::EcdsaP256].into_iter().find(|algorithm| algorithm.jose_name() == name)
}

/// RFC 7515 section 4.1.9: compared without case, and `application/` may be left out.
fn media_type(typ: &str) -> String {
    let typ = typ.to_ascii_lowercase();
    typ.strip_prefix("application/").map_or_else(|| typ.clone(), str::to_owned)
}

fn bounded(value: &str) -> Result<String, JwsError> {
    if value.is_empty() || value.len() > HEADER_VALUE_BYTES_MAX {
        return Err(JwsError::HeaderValueLength { bytes: value.len() });
    }
    Ok(value.to_owned())
}

/// What strangers write goes into errors and so into logs: only a little, and nothing that moves a cursor.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(64).collect()
}

/// Why a text is no token of ours, whatever it says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// Longer than [`TOKEN_BYTES_MAX`].
    #[error("the token is {bytes} bytes long, more than {TOKEN_BYTES_MAX}")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Not `header.payload.signature`.
    #[error("a token has exactly three parts between dots")]
    NotThreeParts,
    /// A part is not base64url in its one canonical form.
    #[error("a part of the token is not canonical base64url without padding")]
    NotBase64Url,
    /// The header is no strict JSON object, or lacks `alg`, `kid` or `typ`.
    #[error("the token's header is not acceptable: {0}")]
    Header(#[source] ClaimError),
    /// A header member beyond `alg`, `kid` and `typ`.
    #[error("the token's header has the member {member:?}; only alg, kid and typ are allowed")]
    ForbiddenMember {
        /// Its name.
        member: String,
    },
    /// An algorithm that no key of ours has, `none` among them.
    #[error("the token's algorithm {alg:?} is not one of ours, use ES256")]
    ForbiddenAlgorithm {
        /// What it says.
        alg: String,
    },
    /// `kid` or `typ` is empty or longer than [`HEADER_VALUE_BYTES_MAX`].
    #[error("a header value of {bytes} bytes is empty or longer than {HEADER_VALUE_BYTES_MAX}")]
    HeaderValueLength {
        /// Its length.
        bytes: usize,
    },
    /// The key that was looked up is not the one that `kid` names.
    #[error("the key at hand is not the one that the token names")]
    WrongKey,
    /// The signature does not fit.
    #[error("the token's signature does not fit")]
    BadSignature,
    /// Could not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// Longest token, in bytes of its compact form.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Longest `kid` and `typ`.
pub const HEADER_VALUE_BYTES_MAX: usize = 128;
const HEADER_MEMBERS: [&str; 3] = ["alg", "kid", "typ"];
