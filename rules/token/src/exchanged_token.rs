//! The user's token for one hop: an access token (RFC 9068) that the token service issued by exchange (RFC 8693)
//! for one callee. It names who acts for the user, newest outermost; only that one may show it.

use std::time::Duration;

use countersign_identity::{Possession, SpiffeId, UnixTime, User, Verified};
use countersign_keys::{KeyPair, PublicKey};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    actors,
    claims::{ClaimError, Claims, optional},
    confirmation::{Confirmation, ConfirmationError, Shown},
    jws::{self, JwsError, Unverified, printable},
    revoked::TokenFacts,
    scope::{Scope, ScopeError},
    times::{self, TimeError},
    typ::TokenKind,
};

/// What an exchanged token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangedToken {
    /// Issuer identifier of the token service, byte for byte.
    pub issuer: String,
    /// The one callee.
    pub audience: SpiffeId,
    /// Opaque id of the user, `u_…`.
    pub user_id: String,
    /// Name of the user, for people to read.
    pub name: String,
    /// Roles at the time of login.
    pub roles: Vec<String>,
    /// What it may be used for.
    pub scope: Scope,
    /// The transaction that all tokens of one request share.
    pub txn: String,
    /// Unique id of the token, random.
    pub jti: String,
    /// The workloads that acted for the user, first one first; the last one is who may show the token. At most
    /// [`ACTORS_MAX`](crate::actors::ACTORS_MAX), never none.
    pub actors: Vec<SpiffeId>,
    /// The key that whoever shows it has to hold.
    pub confirmation: Option<Confirmation>,
    /// Whether the evidence that the user showed at first was bound to a key. No exchange makes it stronger.
    pub user_possession: Possession,
    /// Who alone may act with it further on (RFC 8693 section 4.4); `None` is whomever it is for.
    pub may_act: Option<SpiffeId>,
    /// When it was issued.
    pub issued_at: UnixTime,
    /// When it expires; at most [`EXCHANGED_TOKEN_LIFETIME_MAX`] later.
    pub expires: UnixTime,
}

/// What must be true of an exchanged token where it is shown.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedToken<'a> {
    /// Issuer identifier of our own token service.
    pub issuer: &'a str,
    /// For whom it has to be: ourselves.
    pub audience: &'a SpiffeId,
    /// The workload that shows it, if one proved its name.
    pub presenter: Option<&'a SpiffeId>,
    /// The keys that it proved to hold.
    pub shown: Shown<'a>,
}

impl ExchangedToken {
    /// Signs it with a key of the token service for exchanged tokens, which signs nothing else.
    pub fn mint(&self, key: &KeyPair) -> Result<String, ExchangedTokenError> {
        let claims = self.to_claims()?;
        // What we would not accept ourselves never leaves.
        let read = Self::read(&Claims::parse(&claims)?)?;
        times::judge(read.issued_at, read.expires, EXCHANGED_TOKEN_LIFETIME_MAX, read.issued_at)?;
        Ok(jws::sign_as(TokenKind::AccessToken, key, &claims)?)
    }

    /// Verifies a token that somebody shows. `key_of` finds the key of a `kid` among the keys of our token service
    /// for exchanged tokens, and no others.
    pub fn verify(
        token: &str,
        expected: &ExpectedToken<'_>,
        now: UnixTime,
        key_of: impl FnOnce(&str) -> Option<PublicKey>,
    ) -> Result<Verified<Self>, ExchangedTokenError> {
        let unverified = jws::parse_as(TokenKind::AccessToken, token)?;
        let key = key_of(&unverified.kid)
            .ok_or_else(|| ExchangedTokenError::UnknownKey { kid: printable(&unverified.kid) })?;
        Self::verify_parsed(&unverified, &key, expected, now)
    }

    /// Verifies as [`ExchangedToken::verify`], with the `key` that the caller found for its `kid` among the keys for
    /// exchanged tokens: of the two kinds that share a type, the key says which one it is.
    pub fn verify_parsed(
        unverified: &Unverified<'_>,
        key: &PublicKey,
        expected: &ExpectedToken<'_>,
        now: UnixTime,
    ) -> Result<Verified<Self>, ExchangedTokenError> {
        let read = Self::read(&Claims::parse(unverified.verify(key)?)?)?;
        if read.issuer != expected.issuer {
            return Err(ExchangedTokenError::WrongIssuer { got: printable(&read.issuer) });
        }
        if read.audience != *expected.audience {
            return Err(ExchangedTokenError::WrongAudience { got: read.audience });
        }
        if let Some(presenter) = expected.presenter
            && read.actor() != Some(presenter)
        {
            return Err(ExchangedTokenError::OtherActor { presenter: presenter.clone() });
        }
        if let Some(confirmation) = &read.confirmation {
            confirmation.judge(expected.shown)?;
        }
        times::judge(read.issued_at, read.expires, EXCHANGED_TOKEN_LIFETIME_MAX, now)?;
        Ok(Verified::vouch(read))
    }

    /// Who acts for the user now: the outermost actor, the only one that counts for a decision.
    #[must_use]
    pub fn actor(&self) -> Option<&SpiffeId> {
        self.actors.last()
    }

    /// The user that a verified token proves.
    #[must_use]
    pub fn user(verified: &Verified<Self>) -> Verified<User> {
        Verified::vouch(User {
            id: verified.user_id.clone(),
            name: verified.name.clone(),
            roles: verified.roles.clone(),
            txn: verified.txn.clone(),
            requested_by: verified.actor().cloned(),
            actors: verified.actors.clone(),
            possession: verified.user_possession,
            not_after: verified.expires,
        })
    }

    /// By what it can be taken back; `kid` is the key that it was verified with.
    #[must_use]
    pub fn facts(&self, kid: &str) -> TokenFacts {
        TokenFacts {
            ids: vec![self.jti.clone(), self.txn.clone()],
            subject: self.user_id.clone(),
            kid: kid.to_owned(),
            issued_at: self.issued_at,
            expires: self.expires,
        }
    }

    fn to_claims(&self) -> Result<Vec<u8>, ExchangedTokenError> {
        let claims = WireClaims {
            iss: &self.issuer,
            aud: self.audience.as_str(),
            sub: &self.user_id,
            client_id: self.actor().map(SpiffeId::as_str),
            iat: self.issued_at.secs(),
            exp: self.expires.secs(),
            jti: &self.jti,
            txn: &self.txn,
            name: &self.name,
            roles: &self.roles,
            scope: self.scope.to_string(),
            user_possession: self.user_possession.as_str(),
            act: actors::to_claim(&self.actors),
            cnf: self.confirmation.as_ref().map(Confirmation::to_claim),
            may_act: self.may_act.as_ref().map(|actor| json!({ "sub": actor.as_str() })),
        };
        serde_json::to_vec(&claims).map_err(|_| ClaimError::NotJson.into())
    }

    fn read(claims: &Claims) -> Result<Self, ExchangedTokenError> {
        let audience = claims.string("aud")?;
        let actors = actors::read(claims)?;
        let actor = actors.last().ok_or(ClaimError::Missing { name: "act" })?;
        // RFC 9068: who got it. Here that is who acts, and it must not be told two ways.
        if claims.string("client_id")? != actor.as_str() {
            return Err(ExchangedTokenError::OtherClient);
        }
        Ok(Self {
            issuer: claims.string("iss")?.to_owned(),
            // A single string: a token for several callees would be replayed from one at another.
            audience: audience
                .parse()
                .map_err(|_| ExchangedTokenError::NotAWorkload { aud: printable(audience) })?,
            user_id: claims.string("sub")?.to_owned(),
            name: claims.string("name")?.to_owned(),
            roles: claims.strings("roles")?.into_iter().map(str::to_owned).collect(),
            scope: match claims.text("scope")? {
                "" => Scope::default(),
                words => Scope::parse(words)?,
            },
            txn: claims.string("txn")?.to_owned(),
            jti: claims.string("jti")?.to_owned(),
            confirmation: Confirmation::read(claims)?,
            user_possession: possession(claims)?,
            may_act: actors::may_act(claims)?,
            issued_at: claims.time("iat")?,
            expires: claims.time("exp")?,
            actors,
        })
    }
}

#[derive(Serialize)]
struct WireClaims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    client_id: Option<&'a str>,
    iat: i64,
    exp: i64,
    jti: &'a str,
    txn: &'a str,
    name: &'a str,
    roles: &'a [String],
    scope: String,
    user_possession: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cnf: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    may_act: Option<Value>,
}

/// What a claim says of the user's possession: nothing said is the weakest.
pub(crate) fn possession(claims: &Claims) -> Result<Possession, ClaimError> {
    let Some(text) = optional(claims.string("user_possession"))? else { return Ok(Possession::None) };
    let known = Possession::ALL.iter().copied().find(|possession| possession.as_str() == text);
    known.ok_or(ClaimError::WrongType { name: "user_possession", want: "none or key" })
}

/// Why an exchanged token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangedTokenError {
    /// Not a token of this kind at all, or its signature does not fit.
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// A claim is absent or malformed.
    #[error("the exchanged token's claims are not acceptable: {0}")]
    Claim(#[from] ClaimError),
    /// Its scope is not one.
    #[error("the exchanged token's scope is not acceptable: {0}")]
    Scope(#[from] ScopeError),
    /// Signed by a key that does not sign exchanged tokens.
    #[error("no key of the token service for exchanged tokens has the id {kid:?}; exchange again")]
    UnknownKey {
        /// Its thumbprint.
        kid: String,
    },
    /// Its audience is not a SPIFFE ID.
    #[error("the exchanged token is for {aud:?}, which is not a SPIFFE ID")]
    NotAWorkload {
        /// What it says.
        aud: String,
    },
    /// `client_id` and the outermost actor differ.
    #[error("the client_id of the exchanged token is not its outermost actor")]
    OtherClient,
    /// From another issuer.
    #[error("the exchanged token was issued by {got:?}, not by the token service of this trust domain")]
    WrongIssuer {
        /// Who issued it.
        got: String,
    },
    /// For somebody else.
    #[error("the exchanged token is for {got}, not for this service; exchange one for this service")]
    WrongAudience {
        /// For whom it is.
        got: SpiffeId,
    },
    /// Shown by somebody it was not issued to.
    #[error("the exchanged token was shown by {presenter}, who is not its outermost actor")]
    OtherActor {
        /// Who showed it.
        presenter: SpiffeId,
    },
    /// Shown by somebody who does not hold its key.
    #[error(transparent)]
    Confirmation(#[from] ConfirmationError),
    /// Not now.
    #[error("the exchanged token does not count now: {0}")]
    Times(#[from] TimeError),
}

/// How long an exchanged token lives at most.
pub const EXCHANGED_TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(300);
