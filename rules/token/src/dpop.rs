//! DPoP proofs (RFC 9449): possession of the key that an access token is bound to, proven for one request.
//!
//! A proof names its key itself, so it proves that somebody holds that key and not who that is; whose it is says the
//! access token, by the key's thumbprint. Ours are good once, within [`DPOP_LIFETIME`], and at the edge only with a nonce
//! that the verifier made moments ago ([`DpopNonces`]): a proof cannot be made in advance, and no clock of a client
//! counts.

use std::{fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{CLOCK_SKEW, UnixTime};
use countersign_keys::{KeyPair, PublicKey, Secret, constant_time_eq, domain, hash::hmac_sha256, sha256};
use countersign_request::{CanonicalRequest, Head};
use http::{HeaderMap, Method, Uri, Version};
use serde_json::json;

use crate::{
    claims::{ClaimError, Claims, optional},
    jws::{self, JwsError, printable},
    typ::TokenKind,
};

/// For what request a proof is made. It holds a token, and so it cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct DpopTarget<'a> {
    /// `htm`.
    pub method: &'a Method,
    /// `htu`.
    pub uri: DpopUri,
    /// The access token that travels beside it. At the token endpoint there is none yet.
    pub access_token: Option<&'a str>,
}

/// The target URI of a request without query and fragment, in one spelling (RFC 3986 section 6.2): scheme and host in
/// lower case, no default port, no needless encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DpopUri(String);

/// A proof that holds. Only [`verify`] makes one. It counts once: its `jti` goes into a replay cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DpopProof {
    jkt: String,
    jti: String,
    issued_at: UnixTime,
    expires: UnixTime,
    nonce: Option<String>,
}

/// Makes a proof by `key`. `jti` is random, of 96 bits or more, and never used twice.
pub fn mint(
    key: &KeyPair,
    target: &DpopTarget<'_>,
    nonce: Option<&str>,
    jti: &str,
    now: UnixTime,
) -> Result<String, DpopError> {
    judge_id(jti)?;
    let mut claims =
        json!({ "htm": target.method.as_str(), "htu": target.uri.as_str(), "iat": now.secs(), "jti": jti });
    let optional = [("ath", target.access_token.map(ath)), ("nonce", nonce.map(str::to_owned))];
    for (name, value) in optional {
        if let (Some(claims), Some(value)) = (claims.as_object_mut(), value) {
            claims.insert(name.to_owned(), value.into());
        }
    }
    Ok(jws::sign_as(TokenKind::Dpop, key, claims.to_string().as_bytes())?)
}

/// Verifies a proof against the request that it came with (RFC 9449 section 4.3).
///
/// Left to the caller: the nonce ([`DpopNonces::judge`]), single use, and that the access token is bound to
/// [`DpopProof::jkt`].
pub fn verify(proof: &str, target: &DpopTarget<'_>, now: UnixTime) -> Result<DpopProof, DpopError> {
    let unverified = jws::parse_as(TokenKind::Dpop, proof)?;
    // The header's form has a key, or it would not have been read.
    let key = unverified.jwk.clone().ok_or(JwsError::WrongKey)?;
    let claims = Claims::parse(unverified.verify(&key)?)?;
    let method = claims.string("htm")?;
    if method != target.method.as_str() {
        return Err(DpopError::WrongMethod { got: printable(method) });
    }
    let uri = claims.string("htu")?;
    if DpopUri::parse(uri).as_ref() != Some(&target.uri) {
        return Err(DpopError::WrongUri { got: printable(uri) });
    }
    judge_token(&claims, target.access_token)?;
    let issued_at = claims.time("iat")?;
    let expires = issued_at.saturating_add(DPOP_LIFETIME);
    if issued_at > now.saturating_add(CLOCK_SKEW) {
        return Err(DpopError::DatedAhead { by_seconds: issued_at.since(now).as_secs() });
    }
    if now >= expires.saturating_add(CLOCK_SKEW) {
        return Err(DpopError::TooOld { by_seconds: now.since(expires).as_secs() });
    }
    let jti = claims.string("jti")?;
    judge_id(jti)?;
    let nonce = optional(claims.string("nonce"))?.map(str::to_owned);
    Ok(DpopProof {
        jkt: jkt(&key),
        jti: jti.to_owned(),
        issued_at,
        expires: expires.saturating_add(CLOCK_SKEW),
        nonce,
    })
}

/// `jkt`, the name of a key in `cnf` (RFC 9449 section 6.1): its RFC 7638 thumbprint.
pub fn jkt(key: &PublicKey) -> String {
    key.thumbprint()
}

impl DpopProof {
    /// Thumbprint of the key that was proven.
    pub fn jkt(&self) -> &str {
        &self.jkt
    }

    /// Unique among the proofs of its key.
    pub fn jti(&self) -> &str {
        &self.jti
    }

    /// When it was made, by the client's clock.
    pub const fn issued_at(&self) -> UnixTime {
        self.issued_at
    }

    /// From when on [`verify`] refuses it.
    pub const fn expires(&self) -> UnixTime {
        self.expires
    }

    /// The nonce in it.
    pub fn nonce(&self) -> Option<&str> {
        self.nonce.as_deref()
    }
}

impl DpopUri {
    /// That of a request that came over `scheme`, `http` or `https`.
    pub fn of_request(scheme: &str, request: &impl Head) -> Self {
        let scheme = scheme.to_ascii_lowercase();
        let authority = request.authority();
        let default =
            matches!((scheme.as_str(), authority.port()), ("https", Some(443)) | ("http", Some(80)));
        let authority = if default { authority.host().to_owned() } else { authority.to_string() };
        Self(format!("{scheme}://{authority}{}", request.path()))
    }

    /// Reads a URI with scheme and host. `None`: it is none, or has a query or a fragment.
    pub fn parse(text: &str) -> Option<Self> {
        // http::Uri drops fragments without a word.
        if text.contains(['?', '#']) {
            return None;
        }
        let uri: Uri = text.parse().ok()?;
        let scheme = uri.scheme_str()?.to_owned();
        let (method, nothing) = (Method::GET, HeaderMap::new());
        let request = CanonicalRequest::parse(&method, &uri, &nothing, Version::HTTP_11).ok()?;
        Some(Self::of_request(&scheme, &request))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `ath`, both ways: a proof for a request with a token names that one, a proof without is for a request without.
fn judge_token(claims: &Claims, access_token: Option<&str>) -> Result<(), DpopError> {
    match (optional(claims.string("ath"))?, access_token) {
        (Some(named), Some(token)) if constant_time_eq(named.as_bytes(), ath(token).as_bytes()) => Ok(()),
        (Some(_), Some(_)) => Err(DpopError::OtherToken),
        (None, Some(_)) => Err(DpopError::NoToken),
        (Some(_), None) => Err(DpopError::TokenGone),
        (None, None) => Ok(()),
    }
}

fn ath(token: &str) -> String {
    URL_SAFE_NO_PAD.encode(sha256(token.as_bytes()))
}

fn judge_id(jti: &str) -> Result<(), DpopError> {
    if (1..=DPOP_ID_BYTES_MAX).contains(&jti.len()) {
        Ok(())
    } else {
        Err(DpopError::Id { bytes: jti.len() })
    }
}

/// Makes nonces (RFC 9449 sections 8 and 9) and knows its own again, without remembering any: each is its time of issue
/// with a MAC. Whoever holds the key of another verifier makes none that count here.
#[derive(Clone)]
pub struct DpopNonces {
    key: Secret<[u8; 32]>,
}

impl DpopNonces {
    /// By a random key.
    pub const fn new(key: Secret<[u8; 32]>) -> Self {
        Self { key }
    }

    /// The nonce of this moment, the same for [`NONCE_STEP`].
    pub fn current(&self, now: UnixTime) -> String {
        let step = i64::try_from(NONCE_STEP.as_secs()).unwrap_or(1);
        self.made_at(now.secs().div_euclid(step).saturating_mul(step))
    }

    /// When this nonce was made, if we made it at most [`NONCE_LIFETIME`] ago.
    pub fn judge(&self, nonce: Option<&str>, now: UnixTime) -> Result<UnixTime, NonceError> {
        let nonce = nonce.ok_or(NonceError::Missing)?;
        let bytes = URL_SAFE_NO_PAD.decode(nonce).map_err(|_| NonceError::NotOurs)?;
        let seconds = bytes.first_chunk::<8>().map(|first| i64::from_be_bytes(*first));
        let seconds = seconds.ok_or(NonceError::NotOurs)?;
        if !constant_time_eq(nonce.as_bytes(), self.made_at(seconds).as_bytes()) {
            return Err(NonceError::NotOurs);
        }
        let made_at = UnixTime::from_secs(seconds);
        // Also one from ahead: then our own clock has stepped back.
        if now >= made_at.saturating_add(NONCE_LIFETIME) || made_at > now {
            return Err(NonceError::Old);
        }
        Ok(made_at)
    }

    fn made_at(&self, seconds: i64) -> String {
        let seconds = seconds.to_be_bytes();
        let mac = hmac_sha256(self.key.expose(), &domain(NONCE_PURPOSE, &seconds));
        let mut nonce = seconds.to_vec();
        nonce.extend(mac.iter().take(NONCE_MAC_BYTES));
        URL_SAFE_NO_PAD.encode(nonce)
    }
}

impl fmt::Debug for DpopNonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DpopNonces(..)")
    }
}

/// Why a DPoP proof is refused: `invalid_dpop_proof`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DpopError {
    /// Not a token at all, or its signature does not fit the key in it.
    #[error(transparent)]
    Jws(JwsError),
    /// A token of another kind.
    #[error("a token of type {typ:?} is not a DPoP proof; send one of type {DPOP_TYP}")]
    WrongKind {
        /// What it says it is.
        typ: String,
    },
    /// A claim is absent or malformed.
    #[error("the DPoP proof's claims are not acceptable: {0}")]
    Claim(#[from] ClaimError),
    /// Made for another method.
    #[error("the DPoP proof is for the method {got:?}; make one for each request")]
    WrongMethod {
        /// Which.
        got: String,
    },
    /// Made for another URI, or for one with query or fragment.
    #[error("the DPoP proof is for {got:?}; make one for the URI of each request, without its query")]
    WrongUri {
        /// Which.
        got: String,
    },
    /// Made beside another access token.
    #[error("the DPoP proof names another access token than the one beside it")]
    OtherToken,
    /// Names no access token, and one is beside it.
    #[error("the DPoP proof does not name the access token beside it; add ath")]
    NoToken,
    /// Names an access token, and none is beside it.
    #[error("the DPoP proof names an access token, and none is beside it")]
    TokenGone,
    /// Made ahead of now.
    #[error("the DPoP proof was made {by_seconds} s ahead of now; compare the clocks")]
    DatedAhead {
        /// How far ahead.
        by_seconds: u64,
    },
    /// Made too long ago.
    #[error("the DPoP proof is {by_seconds} s too old; make one for each request")]
    TooOld {
        /// How much.
        by_seconds: u64,
    },
    /// `jti` is empty or longer than [`DPOP_ID_BYTES_MAX`].
    #[error("the id of the DPoP proof has {bytes} bytes, not 1 to {DPOP_ID_BYTES_MAX}")]
    Id {
        /// Its length.
        bytes: usize,
    },
}

/// Why a nonce does not count: `use_dpop_nonce`. The answer carries one that does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NonceError {
    /// There is none.
    #[error("the DPoP proof carries no nonce; make it again with the one in DPoP-Nonce")]
    Missing,
    /// We did not make it.
    #[error("the nonce in the DPoP proof is not ours; make it again with the one in DPoP-Nonce")]
    NotOurs,
    /// We made it too long ago.
    #[error("the nonce in the DPoP proof is too old; make it again with the one in DPoP-Nonce")]
    Old,
}

jws::tells_other_kinds!(DpopError);

/// The `typ` of DPoP proofs (RFC 9449 section 4.2).
pub const DPOP_TYP: &str = TokenKind::Dpop.typ();
/// How long after its making a proof counts. Clocks of clients may differ by [`CLOCK_SKEW`] besides.
pub const DPOP_LIFETIME: Duration = Duration::from_secs(60);
/// Longest `jti`.
pub const DPOP_ID_BYTES_MAX: usize = 128;
/// How often the nonce changes.
pub const NONCE_STEP: Duration = Duration::from_secs(30);
/// How long a nonce counts.
pub const NONCE_LIFETIME: Duration = Duration::from_secs(120);
const NONCE_MAC_BYTES: usize = 16;
const NONCE_PURPOSE: &str = "dpop-nonce";
