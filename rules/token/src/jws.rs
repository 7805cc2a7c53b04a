//! A strict compact JWS (RFC 7515 section 3.1, profiled by RFC 8725) of our own.
//!
//! Accepted is exactly one form: three parts of canonical base64url, a header with `alg`, `kid` and `typ`
//! and nothing else but what its kind is known to need ([`TokenKind`]), and the one algorithm of the key that
//! `kid` names. The header never chooses how it is verified: no `none`, no HMAC, no `jku`, `x5u`, `x5c`, `crit`,
//! `b64`, `zip`. A `jwk` stands in a DPoP proof alone, where it says which key is held and not whose it is.
//! Why not a library: `docs/decisions/002-own-compact-jws.md`.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_keys::{Algorithm, JwkError, KeyPair, PublicKey, SignError};
use serde::Serialize;
use serde_json::Value;

use crate::{
    claims::{ClaimError, Claims},
    typ::{HeaderForm, TokenKind},
};

/// Signs `claims_json` as a token of `kind` by `key`, whose RFC 7638 thumbprint becomes the `kid`; in a DPoP proof
/// the key itself stands there.
pub fn sign_as(kind: TokenKind, key: &KeyPair, claims_json: &[u8]) -> Result<String, JwsError> {
    seal(kind, key, None, claims_json)
}

/// Signs as [`sign_as`], and names the certificate of the key by the SHA-256 of its DER (RFC 7515 section 4.1.8).
pub fn sign_certified(
    kind: TokenKind,
    key: &KeyPair,
    certificate_sha256: &[u8; 32],
    claims_json: &[u8],
) -> Result<String, JwsError> {
    seal(kind, key, Some(certificate_sha256), claims_json)
}

/// The header, its members in the order of their names.
#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwk: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    typ: &'a str,
    #[serde(rename = "x5t#S256", skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
}

fn header(kind: TokenKind, key: &KeyPair, certificate_sha256: Option<&[u8; 32]>) -> Vec<u8> {
    let (jwk, kid) = match kind.form() {
        HeaderForm::Embedded => (Some(bare_jwk(key.public_key())), None),
        HeaderForm::Keyless => (None, None),
        HeaderForm::Plain | HeaderForm::Certified | HeaderForm::Svid | HeaderForm::Foreign => {
            (None, Some(key.public_key().thumbprint()))
        }
    };
    let certificate = certificate_sha256.map(|hash| URL_SAFE_NO_PAD.encode(hash));
    let header = Header { alg: key.algorithm().jose_name(), jwk, kid, typ: kind.typ(), certificate };
    // Texts and nothing else: this cannot fail, and a token with an empty header would be accepted by nobody.
    serde_json::to_vec(&header).unwrap_or_default()
}

/// The members that make the key, and none that only name it: strangers expect no more in a header.
fn bare_jwk(key: &PublicKey) -> Value {
    let mut jwk: Value = serde_json::from_str(&key.to_jwk()).unwrap_or_default();
    if let Some(members) = jwk.as_object_mut() {
        members.retain(|name, _| !matches!(name.as_str(), "alg" | "kid" | "use"));
    }
    jwk
}

fn seal(
    kind: TokenKind,
    key: &KeyPair,
    certificate_sha256: Option<&[u8; 32]>,
    claims_json: &[u8],
) -> Result<String, JwsError> {
    if !kind.allows(key.algorithm()) {
        return Err(JwsError::ForbiddenAlgorithm { alg: key.algorithm().jose_name().into() });
    }
    let header = header(kind, key, certificate_sha256);
    let mut token = String::with_capacity((header.len() + claims_json.len()) * 4 / 3 + SIGNATURE_CHARS);
    URL_SAFE_NO_PAD.encode_string(header, &mut token);
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

/// Room for dots and the signature of every algorithm but RSA.
const SIGNATURE_CHARS: usize = 96;

/// A token that was read but not verified: good for finding the key, and for nothing else.
#[derive(Clone, PartialEq, Eq)]
pub struct Unverified<'a> {
    /// Algorithm that the header claims.
    pub alg: Algorithm,
    /// Which key is said to have signed: in a DPoP proof the thumbprint of its `jwk`, in a workload proof token
    /// mostly empty.
    pub kid: String,
    /// Which kind of token it says it is, lower case and without `application/`. A JWT-SVID may say nothing.
    pub typ: String,
    /// The SHA-256 of the certificate that is said to name the key's owner.
    pub certificate_sha256: Option<[u8; 32]>,
    /// The key that the proof says it is made with: that somebody holds it is all that it can prove.
    pub jwk: Option<PublicKey>,
    alg_name: String,
    form: HeaderForm,
    signing_input: &'a str,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// Reads a compact JWS of at most [`TOKEN_BYTES_MAX`] that says it is of `kind`.
pub fn parse_as(kind: TokenKind, token: &str) -> Result<Unverified<'_>, JwsError> {
    let wanted = Wanted { form: kind.form(), typ: kind.typ() };
    parse(&wanted, token, |typ| kind.is_called(typ), |alg| kind.allows(alg))
}

/// Reads a token of an issuer that knows nothing of our kinds: `is_called` says which `typ` it gives to those that are
/// for us, in lower case and without `application/`, empty if there is none.
pub(crate) fn parse_foreign(
    token: &str,
    is_called: impl FnOnce(&str) -> bool,
) -> Result<Unverified<'_>, JwsError> {
    let wanted = Wanted { form: HeaderForm::Foreign, typ: TokenKind::AccessToken.typ() };
    parse(&wanted, token, is_called, |_| true)
}

/// Which header a token has to have.
struct Wanted {
    form: HeaderForm,
    /// For messages.
    typ: &'static str,
}

fn parse<'a>(
    wanted: &Wanted,
    token: &'a str,
    is_called: impl FnOnce(&str) -> bool,
    allows: impl FnOnce(Algorithm) -> bool,
) -> Result<Unverified<'a>, JwsError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(JwsError::TooLarge { bytes: token.len() });
    }
    let (signing_input, signature) = token.rsplit_once('.').ok_or(JwsError::NotThreeParts)?;
    let (header, payload) = signing_input.split_once('.').ok_or(JwsError::NotThreeParts)?;
    if payload.contains('.') {
        return Err(JwsError::NotThreeParts);
    }
    let header = decode(header)?;
    let header = Claims::parse(&header).map_err(JwsError::Header)?;
    let form = wanted.form;
    let typ = match form {
        HeaderForm::Svid | HeaderForm::Foreign => optional(header.string("typ"))?,
        _ => Some(header.string("typ").map_err(JwsError::Header)?),
    };
    let typ = typ.map(bounded).transpose()?.map(|typ| media_type(&typ)).unwrap_or_default();
    if !is_called(&typ) {
        return Err(JwsError::OtherKind { typ: printable(&typ), want: wanted.typ });
    }
    if let Some(member) = header.names().find(|name| !form.members().contains(name)) {
        return Err(JwsError::ForbiddenMember { member: printable(member) });
    }
    let alg_name = header.string("alg").map_err(JwsError::Header)?;
    let alg = Algorithm::from_jose_name(alg_name)
        .filter(|alg| allows(*alg))
        .ok_or_else(|| JwsError::ForbiddenAlgorithm { alg: printable(alg_name) })?;
    let jwk = match form {
        HeaderForm::Embedded => Some(key_in(&header)?),
        _ => None,
    };
    let kid = match (&jwk, form) {
        (Some(key), _) => key.thumbprint(),
        (None, HeaderForm::Keyless) => {
            optional(header.string("kid"))?.map(bounded).transpose()?.unwrap_or_default()
        }
        (None, _) => bounded(header.string("kid").map_err(JwsError::Header)?)?,
    };
    Ok(Unverified {
        alg,
        kid,
        typ,
        certificate_sha256: match form {
            // A stranger's certificates mean nothing here, nor does the form in which they are named.
            HeaderForm::Foreign => None,
            _ => optional(header.sha256("x5t#S256"))?,
        },
        jwk,
        alg_name: alg_name.to_owned(),
        form,
        signing_input,
        payload: decode(payload)?,
        signature: decode(signature)?,
    })
}

/// The `typ` that a token says it is of, lower case and without `application/`, empty if it says nothing: good for
/// choosing who reads it strictly, and for nothing else.
pub fn claimed_typ(token: &str) -> Result<String, JwsError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(JwsError::TooLarge { bytes: token.len() });
    }
    let (header, _) = token.split_once('.').ok_or(JwsError::NotThreeParts)?;
    let header = decode(header)?;
    let header = Claims::parse(&header).map_err(JwsError::Header)?;
    let typ = optional(header.string("typ"))?.map(bounded).transpose()?;
    Ok(typ.map(|typ| media_type(&typ)).unwrap_or_default())
}

/// The payload of a token that nobody has vouched for: for finding out who might, and for nothing else.
pub(crate) fn unverified_payload(token: &str) -> Option<Vec<u8>> {
    let payload = token.split('.').nth(1).filter(|_| token.len() <= TOKEN_BYTES_MAX)?;
    decode(payload).ok()
}

fn optional<T>(member: Result<T, ClaimError>) -> Result<Option<T>, JwsError> {
    crate::claims::optional(member).map_err(JwsError::Header)
}

fn key_in(header: &Claims) -> Result<PublicKey, JwsError> {
    let jwk = header.object("jwk").map_err(JwsError::Header)?;
    PublicKey::from_jwk(&jwk.to_json()).map_err(JwsError::Jwk)
}

impl Unverified<'_> {
    /// `alg` as the header spells it: of Ed25519 there are two spellings.
    pub fn alg_name(&self) -> &str {
        &self.alg_name
    }

    /// The payload of a token that nobody has vouched for yet: for finding a key, and for nothing else.
    pub(crate) fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// Verifies the signature with the key that the caller found for [`Unverified::kid`], and gives the
    /// payload's bytes. The key decides about the algorithm; the header had to agree.
    pub fn verify(&self, key: &PublicKey) -> Result<&[u8], JwsError> {
        // A look-up that ignores the kid would let any key of the set speak for any other. Only where evidence
        // beside the token names the key, the token need not.
        // And foreign trust domains name the keys in their bundles as they like.
        let named = match self.form {
            HeaderForm::Keyless => self.kid.is_empty() || key.is_named(&self.kid),
            HeaderForm::Svid | HeaderForm::Foreign => true,
            HeaderForm::Plain | HeaderForm::Certified | HeaderForm::Embedded => key.is_named(&self.kid),
        };
        if !named {
            return Err(JwsError::WrongKey);
        }
        if self.alg != key.algorithm() {
            return Err(JwsError::WrongAlgorithm {
                alg: self.alg.jose_name(),
                key: key.algorithm().jose_name(),
            });
        }
        key.verify_raw(self.signing_input.as_bytes(), &self.signature).map_err(|_| JwsError::BadSignature)?;
        Ok(&self.payload)
    }
}

/// Without the token: whoever reads a log could use it.
impl fmt::Debug for Unverified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { alg, kid, typ, .. } = self;
        write!(f, "Unverified({} {:?} {:?})", alg.jose_name(), printable(typ), printable(kid))
    }
}

/// Canonical base64url only: no padding, no white space, no stray bits in the last character.
fn decode(part: &str) -> Result<Vec<u8>, JwsError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| JwsError::NotBase64Url)
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
    /// A token of another kind.
    #[error("a token of type {typ:?} was sent where one of type {want:?} belongs")]
    OtherKind {
        /// What it says it is, lower case.
        typ: String,
        /// What it had to be.
        want: &'static str,
    },
    /// A header member that tokens of this kind do not have.
    #[error("the token's header has the member {member:?}, which tokens of its kind do not have")]
    ForbiddenMember {
        /// Its name.
        member: String,
    },
    /// An algorithm that no key of ours has, `none` among them.
    #[error("the token's algorithm {alg:?} is not one for tokens of its kind, use ES256")]
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
    /// The key that was looked up has another algorithm than the header says.
    #[error("the token says {alg}, but the key that it names is one for {key}")]
    WrongAlgorithm {
        /// What the header says.
        alg: &'static str,
        /// What the key is for.
        key: &'static str,
    },
    /// The `jwk` in a proof is no public key of ours.
    #[error("the key in the token's header is not acceptable: {0}")]
    Jwk(#[source] JwkError),
    /// The signature does not fit.
    #[error("the token's signature does not fit")]
    BadSignature,
    /// Could not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// `From<JwsError>` for the error of a kind: a token of another kind is `WrongKind`, whose message says what belongs
/// there instead, and everything else is `Jws`.
macro_rules! tells_other_kinds {
    ($error:ty) => {
        impl From<$crate::jws::JwsError> for $error {
            fn from(error: $crate::jws::JwsError) -> Self {
                match error {
                    $crate::jws::JwsError::OtherKind { typ, .. } => Self::WrongKind { typ },
                    other => Self::Jws(other),
                }
            }
        }
    };
}
pub(crate) use tells_other_kinds;

/// Longest token, in bytes of its compact form.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Longest `kid` and `typ`.
pub const HEADER_VALUE_BYTES_MAX: usize = 128;
