//! What a service signs for one request of its own: the thesis's self-signed JWT, hardened (DESIGN section 5,
//! points 2 to 4).
//!
//! Whoever gets hold of one can do nothing with it: it names its maker, its one recipient, the method, the path
//! and query, the body, the connection it travels on and the user's token that travels with it; it lives seconds
//! and counts once. The maker is not believed: `iss` must be the owner of the key that signed.
//!
//! Verifying has two steps, because a head arrives before its body: [`ServiceToken::verify`] judges everything
//! that can be known from the head, [`ServiceToken::judge_body`] the rest. Single use is the caller's part
//! ([`crate::replay`]): afterwards, so that strangers fill no cache.

mod errors;

use std::{borrow::Cow, collections::BTreeMap, fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{Binding, Bound, SpiffeId, UnixTime, Verified};
use countersign_keys::{KeyPair, RandomError, SecureRandom, constant_time_eq, random_bytes, sha256};
use serde::Serialize;

pub use errors::{BodyError, ServiceTokenError};

use crate::{
    claims::{ClaimError, Claims, Json, optional},
    jws::{self, printable},
    revoked::TokenFacts,
    signer::{Signer, SignerHint},
    times,
    typ::TokenKind,
};

/// What a service token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceToken {
    /// Who made it, and for itself.
    pub issuer: SpiffeId,
    /// The one callee.
    pub audience: SpiffeId,
    /// Unique among the tokens of its maker; see [`new_id`].
    pub jti: String,
    /// HTTP method of the request.
    pub method: String,
    /// Path and query of the request in origin form, exactly as the canonical request has them.
    pub path_and_query: String,
    /// What it says about the body.
    pub body: BodyBinding,
    /// The 32 bytes of the TLS exporter (RFC 9266) of the connection; `None` through foreign proxies.
    pub channel: Option<[u8; 32]>,
    /// The user's token that belongs to the request.
    pub user: UserBinding,
    /// Claims of the services' own, such as a tenant. Registered names cannot be among them.
    pub private: BTreeMap<String, String>,
    /// When it was made.
    pub issued_at: UnixTime,
    /// When it expires; at most [`SERVICE_TOKEN_LIFETIME_MAX`] later.
    pub expires: UnixTime,
}

/// What a token says about the body of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyBinding {
    /// It has this SHA-256. Of a request without a body: that of no bytes.
    Sha256([u8; 32]),
    /// Nothing, and explicitly so: the body streams, or is too long to be buffered.
    Unbound,
}

/// What a token says about the token of a user.
#[derive(Clone, PartialEq, Eq)]
pub enum UserBinding {
    /// None belongs to the request.
    None,
    /// The `Txn-Token` with this SHA-256 travels beside it.
    TxnToken([u8; 32]),
    /// The `User-Token` with this SHA-256 travels beside it.
    UserToken([u8; 32]),
    /// It is inside: a claim, to be verified on its own ([`crate::exchanged_token`], [`crate::txn_token`]).
    Nested(String),
}

/// Without the nested token: whoever reads a log could use it.
impl fmt::Debug for UserBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::TxnToken(_) => "TxnToken(..)",
            Self::UserToken(_) => "UserToken(..)",
            Self::Nested(_) => "Nested(..)",
        })
    }
}

/// What the callee knows of the request, by itself. It holds tokens, and so it cannot be printed.
#[derive(Clone, Copy)]
pub struct SeenRequest<'a> {
    /// Its own name.
    pub callee: &'a SpiffeId,
    /// Method of the canonical request.
    pub method: &'a str,
    /// Path and query of the canonical request.
    pub path_and_query: &'a str,
    /// The exporter of its own connection.
    pub channel: Option<&'a [u8; 32]>,
    /// The one `Txn-Token` that came.
    pub txn_token: Option<&'a str>,
    /// The one `User-Token` that came.
    pub user_token: Option<&'a str>,
    /// Claims that this callee, or this route, demands.
    pub required: &'a [&'a RequiredClaim],
}

/// A claim of the services' own that a callee demands, with one value if no other will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredClaim {
    name: String,
    value: Option<String>,
}

impl RequiredClaim {
    /// The claim `name` with this value, or with any.
    ///
    /// # Errors
    /// [`ServiceTokenError::RegisteredName`]: those claims have rules of their own, and no caller can choose them.
    pub fn new(name: &str, value: Option<&str>) -> Result<Self, ServiceTokenError> {
        judge_private_name(name)?;
        Ok(Self { name: name.to_owned(), value: value.map(str::to_owned) })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What the callee knows of the body.
#[derive(Clone, Copy, Debug)]
pub enum SeenBody<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// It is handed on as it arrives.
    Streamed,
}

impl ServiceToken {
    /// Signs it with the workload's key for tokens, which is not its TLS key. `certificate_sha256` names the
    /// certificate of that key; of a registered key there is none.
    pub fn mint(
        &self,
        key: &KeyPair,
        certificate_sha256: Option<&[u8; 32]>,
    ) -> Result<String, ServiceTokenError> {
        self.is_acceptable()?;
        // Texts and numbers alone: this cannot fail.
        let claims = serde_json::to_vec(&OnTheWire::of(self)).unwrap_or_default();
        Ok(match certificate_sha256 {
            Some(hash) => jws::sign_certified(TokenKind::Service, key, hash, &claims)?,
            None => jws::sign_as(TokenKind::Service, key, &claims)?,
        })
    }

    /// Verifies everything but the body: that the owner of the key made it for exactly this request, and when.
    ///
    /// `signer_of` finds the key of a [`SignerHint`] by certificate or among the registered keys, and says whose
    /// it is.
    pub fn verify(
        token: &str,
        seen: &SeenRequest<'_>,
        now: UnixTime,
        signer_of: impl FnOnce(SignerHint<'_>) -> Option<Signer>,
    ) -> Result<Verified<Self>, ServiceTokenError> {
        let (claims, _) = signed(token, signer_of)?;
        claims.judge_request(seen)?;
        claims.judge_user(seen)?;
        times::judge(claims.issued_at, claims.expires, SERVICE_TOKEN_LIFETIME_MAX, now)?;
        Ok(Verified::vouch(claims))
    }

    /// Judges who made it and when, for whom if that is asked, and nothing else of its request: for whoever examines a
    /// token without the request that it was made for. That is no evidence, so what it gives is not [`Verified`]. Gives
    /// the key that signed, too.
    pub fn examine(
        token: &str,
        callee: Option<&SpiffeId>,
        now: UnixTime,
        signer_of: impl FnOnce(SignerHint<'_>) -> Option<Signer>,
    ) -> Result<(Self, Signer), ServiceTokenError> {
        let (claims, signer) = signed(token, signer_of)?;
        callee.map_or(Ok(()), |callee| claims.judge_audience(callee))?;
        times::judge(claims.issued_at, claims.expires, SERVICE_TOKEN_LIFETIME_MAX, now)?;
        Ok((claims, signer))
    }

    /// By what it can be taken back; `kid` is the key that it was verified with.
    #[must_use]
    pub fn facts(&self, kid: &str) -> TokenFacts {
        TokenFacts {
            ids: vec![self.jti.clone()],
            subject: self.issuer.to_string(),
            kid: kid.to_owned(),
            issued_at: self.issued_at,
            expires: self.expires,
        }
    }

    /// Verifies the body, once it is here. Gives what the request is bound to altogether.
    pub fn judge_body(&self, seen: SeenBody<'_>) -> Result<Binding, BodyError> {
        match (self.body, seen) {
            (BodyBinding::Unbound, _) => Ok(self.binding()),
            (BodyBinding::Sha256(_), SeenBody::Streamed) => Err(BodyError::CannotBeJudged),
            (BodyBinding::Sha256(want), SeenBody::Whole(bytes)) => match sha256(bytes) == want {
                true => Ok(self.binding().and(Bound::Body)),
                false => Err(BodyError::Changed),
            },
        }
    }

    /// What the request is bound to as long as nobody has judged the body.
    #[must_use]
    pub fn binding(&self) -> Binding {
        let request = Binding::of(&[Bound::Target, Bound::MethodAndQuery]);
        if self.channel.is_some() { request.and(Bound::Channel) } else { request }
    }

    fn judge_audience(&self, callee: &SpiffeId) -> Result<(), ServiceTokenError> {
        match self.audience == *callee {
            true => Ok(()),
            false => Err(ServiceTokenError::WrongAudience { got: self.audience.clone() }),
        }
    }

    fn judge_request(&self, seen: &SeenRequest<'_>) -> Result<(), ServiceTokenError> {
        self.judge_audience(seen.callee)?;
        if self.method != seen.method {
            return Err(ServiceTokenError::OtherMethod { got: printable(&self.method) });
        }
        if self.path_and_query != seen.path_and_query {
            return Err(ServiceTokenError::OtherPath);
        }
        match (&self.channel, seen.channel) {
            (None, _) => {}
            (Some(theirs), Some(ours)) if constant_time_eq(theirs, ours) => {}
            (Some(_), _) => return Err(ServiceTokenError::OtherConnection),
        }
        for RequiredClaim { name, value } in seen.required {
            match (self.private.get(name), value) {
                (None, _) => return Err(ServiceTokenError::Demanded { name: printable(name) }),
                (Some(got), Some(want)) if got != want => {
                    return Err(ServiceTokenError::OtherValue { name: printable(name) });
                }
                (Some(_), _) => {}
            }
        }
        Ok(())
    }

    /// A user's token that travels along is the one that was meant, or the request is not the one that was signed.
    fn judge_user(&self, seen: &SeenRequest<'_>) -> Result<(), ServiceTokenError> {
        let fits = |token: &str, hash: &[u8; 32]| sha256(token.as_bytes()) == *hash;
        match (&self.user, seen.txn_token, seen.user_token) {
            (UserBinding::None | UserBinding::Nested(_), None, None) => Ok(()),
            (UserBinding::TxnToken(hash), Some(token), None) if fits(token, hash) => Ok(()),
            (UserBinding::UserToken(hash), None, Some(token)) if fits(token, hash) => Ok(()),
            (UserBinding::TxnToken(_) | UserBinding::UserToken(_), None, None) => {
                Err(ServiceTokenError::UserTokenGone)
            }
            _ => Err(ServiceTokenError::OtherUserToken),
        }
    }

    /// What we would not accept ourselves never leaves.
    fn is_acceptable(&self) -> Result<(), ServiceTokenError> {
        self.private.keys().try_for_each(|name| judge_private_name(name))?;
        judge_id(&self.jti)?;
        for (name, value) in [("htm", &self.method), ("htp", &self.path_and_query)] {
            if value.is_empty() {
                return Err(ClaimError::Empty { name }.into());
            }
        }
        Ok(times::judge(self.issued_at, self.expires, SERVICE_TOKEN_LIFETIME_MAX, self.issued_at)?)
    }
}

/// The claims as they travel.
#[derive(Serialize)]
struct OnTheWire<'a> {
    iss: &'a str,
    aud: &'a str,
    jti: &'a str,
    iat: i64,
    nbf: i64,
    exp: i64,
    htm: &'a str,
    htp: &'a str,
    bdy: Cow<'static, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cbx: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tth: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uth: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_token: Option<&'a str>,
    #[serde(flatten)]
    private: &'a BTreeMap<String, String>,
}

impl<'a> OnTheWire<'a> {
    fn of(token: &'a ServiceToken) -> Self {
        let text = |bytes: &[u8; 32]| URL_SAFE_NO_PAD.encode(bytes);
        let (tth, uth, user_token) = match &token.user {
            UserBinding::None => (None, None, None),
            UserBinding::TxnToken(hash) => (Some(text(hash)), None, None),
            UserBinding::UserToken(hash) => (None, Some(text(hash)), None),
            UserBinding::Nested(inner) => (None, None, Some(inner.as_str())),
        };
        Self {
            iss: token.issuer.as_str(),
            aud: token.audience.as_str(),
            jti: &token.jti,
            iat: token.issued_at.secs(),
            nbf: token.issued_at.secs(),
            exp: token.expires.secs(),
            htm: &token.method,
            htp: &token.path_and_query,
            bdy: match &token.body {
                BodyBinding::Sha256(hash) => text(hash).into(),
                BodyBinding::Unbound => UNBOUND.into(),
            },
            cbx: token.channel.as_ref().map(text),
            tth,
            uth,
            user_token,
            private: &token.private,
        }
    }
}

/// What the owner of a key signed, and that key.
fn signed(
    token: &str,
    signer_of: impl FnOnce(SignerHint<'_>) -> Option<Signer>,
) -> Result<(ServiceToken, Signer), ServiceTokenError> {
    let unverified = jws::parse_as(TokenKind::Service, token)?;
    // Who it is said to be from is needed to find the key. Whoever calls judges the rest of what is read here.
    let claims = read(unverified.unverified_payload())?;
    let signer = signer_of(SignerHint {
        issuer: &claims.issuer,
        kid: &unverified.kid,
        certificate_sha256: unverified.certificate_sha256.as_ref(),
    })
    .ok_or_else(|| ServiceTokenError::UnknownKey { kid: printable(&unverified.kid) })?;
    unverified.verify(&signer.key)?;
    if claims.issuer != signer.owner {
        return Err(ServiceTokenError::NotOwner { issuer: claims.issuer, owner: signer.owner });
    }
    Ok((claims, signer))
}

fn read(json: &[u8]) -> Result<ServiceToken, ServiceTokenError> {
    let claims = Claims::parse(json)?;
    let id = |name| -> Result<SpiffeId, ServiceTokenError> {
        let text = claims.string(name)?;
        text.parse().map_err(|_| ServiceTokenError::NotAnId { name, got: printable(text) })
    };
    let jti = claims.string("jti")?;
    judge_id(jti)?;
    let issued_at = claims.time("iat")?;
    if claims.time("nbf")? != issued_at {
        return Err(ServiceTokenError::Claim(ClaimError::WrongType { name: "nbf", want: "the time in iat" }));
    }
    Ok(ServiceToken {
        issuer: id("iss")?,
        // A single string: a token for several callees would be replayed from one at another.
        audience: id("aud")?,
        jti: jti.to_owned(),
        method: claims.string("htm")?.to_owned(),
        path_and_query: claims.string("htp")?.to_owned(),
        body: match claims.string("bdy")? {
            UNBOUND => BodyBinding::Unbound,
            _ => BodyBinding::Sha256(claims.sha256("bdy")?),
        },
        channel: optional(claims.sha256("cbx"))?,
        user: read_user(&claims)?,
        private: read_private(&claims)?,
        issued_at,
        expires: claims.time("exp")?,
    })
}

fn judge_private_name(name: &str) -> Result<(), ServiceTokenError> {
    match REGISTERED.contains(&name) {
        true => Err(ServiceTokenError::RegisteredName { name: printable(name) }),
        false => Ok(()),
    }
}

fn judge_id(jti: &str) -> Result<(), ServiceTokenError> {
    if (JTI_CHARS_MIN..=JTI_CHARS_MAX).contains(&jti.len()) {
        return Ok(());
    }
    Err(ServiceTokenError::IdLength { chars: jti.len() })
}

fn read_user(claims: &Claims) -> Result<UserBinding, ServiceTokenError> {
    let txn_token = optional(claims.sha256("tth"))?;
    let user_token = optional(claims.sha256("uth"))?;
    let nested = optional(claims.string("user_token"))?;
    match (txn_token, user_token, nested) {
        (None, None, None) => Ok(UserBinding::None),
        (Some(hash), None, None) => Ok(UserBinding::TxnToken(hash)),
        (None, Some(hash), None) => Ok(UserBinding::UserToken(hash)),
        (None, None, Some(token)) => Ok(UserBinding::Nested(token.to_owned())),
        _ => Err(ServiceTokenError::SeveralUsers),
    }
}

fn read_private(claims: &Claims) -> Result<BTreeMap<String, String>, ServiceTokenError> {
    let private = claims.entries().filter(|(name, _)| !REGISTERED.contains(name));
    private
        .map(|(name, value)| match value {
            Json::Text(text) => Ok((name.to_owned(), text.clone().into_owned())),
            _ => Err(ServiceTokenError::NotText { name: printable(name) }),
        })
        .collect()
}

/// An id that nobody guesses and nobody else makes: 128 random bits in base64url.
pub fn new_id(rng: &dyn SecureRandom) -> Result<String, RandomError> {
    Ok(URL_SAFE_NO_PAD.encode(random_bytes::<16>(rng)?))
}

/// Every claim whose meaning is fixed here or in RFC 7519: private ones have other names.
const REGISTERED: [&str; 14] =
    ["iss", "sub", "aud", "jti", "iat", "nbf", "exp", "htm", "htp", "bdy", "cbx", "tth", "uth", "user_token"];
/// `bdy` where nothing is said about the body.
const UNBOUND: &str = "unbound";

/// How long a service token lives unless told otherwise.
pub const SERVICE_TOKEN_LIFETIME: Duration = Duration::from_secs(30);
/// How long a service token lives at most.
pub const SERVICE_TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(60);
/// 96 bits in base64url.
pub const JTI_CHARS_MIN: usize = 16;
/// Longest `jti`: it is remembered until the token expires.
pub const JTI_CHARS_MAX: usize = 64;
