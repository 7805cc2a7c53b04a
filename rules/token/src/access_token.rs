//! The access token of a user (RFC 9068): got by login, shown at the gateway, never passed on.

use std::time::Duration;

use countersign_identity::{CLOCK_SKEW, Possession, SpiffeId, UnixTime, User, Verified};
use countersign_keys::{KeyPair, PublicKey};
use serde::Serialize;

use crate::{
    actors,
    claims::{ClaimError, Claims},
    confirmation::{Confirmation, ConfirmationError, Shown},
    jws::{self, JwsError, Unverified, printable},
    revoked::TokenFacts,
    typ::TokenKind,
};

/// What an access token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessToken {
    /// Issuer identifier: the URL of the authority, byte for byte.
    pub issuer: String,
    /// For whom it is: the gateway's identifier, never empty.
    pub audience: String,
    /// Opaque id of the user, `u_…`.
    pub user_id: String,
    /// Name of the user, for people to read.
    pub name: String,
    /// Roles at the time of login.
    pub roles: Vec<String>,
    /// Which program got it, for example `countersign-cli`.
    pub client_id: String,
    /// Unique id of the token, random.
    pub jti: String,
    /// When it expires; at most [`ACCESS_TOKEN_LIFETIME_MAX`] after it is minted.
    pub expires: UnixTime,
    /// In whose hands alone it counts; `None` is everybody's.
    pub confirmation: Option<Confirmation>,
}

/// A user whose access token holds, and by what it can be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessGrant {
    /// The user.
    pub user: Verified<User>,
    /// For [`crate::revoked::Revoked::judge`], at every use.
    pub facts: TokenFacts,
    /// Who alone may act with it; `None` where it does not say.
    pub may_act: Option<SpiffeId>,
}

impl AccessToken {
    /// Signs it with the key for access tokens, which signs nothing else.
    pub fn mint(&self, key: &KeyPair, now: UnixTime) -> Result<String, AccessTokenError> {
        let lifetime = self.expires.since(now);
        if lifetime.as_secs() == 0 || lifetime > ACCESS_TOKEN_LIFETIME_MAX {
            return Err(AccessTokenError::Lifetime { seconds: lifetime.as_secs() });
        }
        let claims = serde_json::to_vec(&WireClaims {
            iss: &self.issuer,
            aud: &self.audience,
            sub: &self.user_id,
            client_id: &self.client_id,
            iat: now.secs(),
            exp: self.expires.secs(),
            jti: &self.jti,
            name: &self.name,
            roles: &self.roles,
            cnf: self.confirmation.as_ref().map(Confirmation::to_claim),
        })
        .map_err(|_| AccessTokenError::Claim(ClaimError::NotJson))?;
        let token = jws::sign_as(TokenKind::AccessToken, key, &claims)?;
        // What we would not accept ourselves never leaves.
        read(&claims)?;
        Ok(token)
    }

    /// Verifies a token that came alone, as [`AccessToken::verify_shown`]: a bound one is refused.
    pub fn verify(
        token: &str,
        issuer: &str,
        audience: &str,
        now: UnixTime,
        key_of: impl FnOnce(&str) -> Option<PublicKey>,
    ) -> Result<Verified<User>, AccessTokenError> {
        Self::verify_shown(token, Shown::NOTHING, issuer, audience, now, key_of).map(|grant| grant.user)
    }

    /// Verifies a token of exactly this `issuer` for exactly this `audience` at `now`, in the hands of a client that
    /// proved to hold what is `shown`.
    ///
    /// `key_of` finds the key of a `kid` among the keys that sign access tokens, and no others.
    pub fn verify_shown(
        token: &str,
        shown: Shown<'_>,
        issuer: &str,
        audience: &str,
        now: UnixTime,
        key_of: impl FnOnce(&str) -> Option<PublicKey>,
    ) -> Result<AccessGrant, AccessTokenError> {
        let unverified = jws::parse_as(TokenKind::AccessToken, token)?;
        let key = key_of(&unverified.kid)
            .ok_or_else(|| AccessTokenError::UnknownKey { kid: printable(&unverified.kid) })?;
        Self::verify_parsed(&unverified, &key, shown, issuer, audience, now)
    }

    /// Verifies as [`AccessToken::verify_shown`], with the `key` that the caller found for its `kid` among the keys that
    /// sign access tokens: of the two kinds that share a type, the key says which one it is.
    pub fn verify_parsed(
        unverified: &Unverified<'_>,
        key: &PublicKey,
        shown: Shown<'_>,
        issuer: &str,
        audience: &str,
        now: UnixTime,
    ) -> Result<AccessGrant, AccessTokenError> {
        let Read { token, audiences, issued_at, may_act } = read(unverified.verify(key)?)?;
        if token.issuer != issuer {
            return Err(AccessTokenError::WrongIssuer { got: printable(&token.issuer) });
        }
        if !audiences.iter().any(|candidate| candidate == audience) {
            return Err(AccessTokenError::WrongAudience { got: printable(&token.audience) });
        }
        judge_times(issued_at, token.expires, now)?;
        let possession = match &token.confirmation {
            Some(confirmation) => confirmation.judge(shown).map(|()| Possession::Key)?,
            None => Possession::None,
        };
        let facts = TokenFacts {
            ids: vec![token.jti.clone()],
            subject: token.user_id.clone(),
            kid: unverified.kid.clone(),
            issued_at,
            expires: token.expires,
        };
        let user = Verified::vouch(User {
            id: token.user_id,
            name: token.name,
            roles: token.roles,
            txn: token.jti,
            requested_by: None,
            actors: Vec::new(),
            possession,
            not_after: token.expires,
        });
        Ok(AccessGrant { user, facts, may_act })
    }
}

fn judge_times(issued_at: UnixTime, expires: UnixTime, now: UnixTime) -> Result<(), AccessTokenError> {
    let lifetime = expires.since(issued_at);
    if lifetime.is_zero() || lifetime > ACCESS_TOKEN_LIFETIME_MAX {
        return Err(AccessTokenError::Lifetime { seconds: lifetime.as_secs() });
    }
    if issued_at > now.saturating_add(CLOCK_SKEW) {
        return Err(AccessTokenError::NotYetValid { in_seconds: issued_at.since(now).as_secs() });
    }
    // No leniency at the end: who verifies late refuses, and the user logs in again.
    if now >= expires {
        return Err(AccessTokenError::Expired { by_seconds: now.since(expires).as_secs() });
    }
    Ok(())
}

struct Read {
    token: AccessToken,
    audiences: Vec<String>,
    issued_at: UnixTime,
    may_act: Option<SpiffeId>,
}

fn read(json: &[u8]) -> Result<Read, ClaimError> {
    let claims = Claims::parse(json)?;
    // Of the two kinds that share a type only the exchanged one has actors: neither ever reads as the other.
    if claims.has("act") {
        return Err(ClaimError::WrongType { name: "act", want: "absent from a token of a login" });
    }
    let audiences: Vec<String> = claims.one_or_many("aud")?.into_iter().map(str::to_owned).collect();
    let token = AccessToken {
        issuer: claims.string("iss")?.to_owned(),
        audience: audiences.first().ok_or(ClaimError::Empty { name: "aud" })?.clone(),
        user_id: claims.string("sub")?.to_owned(),
        name: claims.string("name")?.to_owned(),
        roles: claims.strings("roles")?.into_iter().map(str::to_owned).collect(),
        client_id: claims.string("client_id")?.to_owned(),
        jti: claims.string("jti")?.to_owned(),
        expires: claims.time("exp")?,
        confirmation: Confirmation::read(&claims)?,
    };
    Ok(Read { token, audiences, issued_at: claims.time("iat")?, may_act: actors::may_act(&claims)? })
}

#[derive(Serialize)]
struct WireClaims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    client_id: &'a str,
    iat: i64,
    exp: i64,
    jti: &'a str,
    name: &'a str,
    roles: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    cnf: Option<serde_json::Value>,
}

/// Why an access token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessTokenError {
    /// Not a token at all, or its signature does not fit.
    #[error(transparent)]
    Jws(JwsError),
    /// A token of another kind.
    #[error("a token of type {typ:?} is not an access token; log in to get one")]
    WrongKind {
        /// What it says it is.
        typ: String,
    },
    /// Signed by a key that does not sign access tokens.
    #[error("no key for access tokens has the id {kid:?}; log in again")]
    UnknownKey {
        /// Its thumbprint.
        kid: String,
    },
    /// A claim is absent or malformed.
    #[error("the access token's claims are not acceptable: {0}")]
    Claim(#[from] ClaimError),
    /// From another issuer.
    #[error("the access token was issued by {got:?}, not by this deployment's authority")]
    WrongIssuer {
        /// Who issued it.
        got: String,
    },
    /// For somebody else.
    #[error("the access token is for {got:?}, not for this gateway")]
    WrongAudience {
        /// For whom it is.
        got: String,
    },
    /// No time between issue and expiry, or too much.
    #[error("the access token lives {seconds} s, it must be more than 0 and at most {}", ACCESS_TOKEN_LIFETIME_MAX.as_secs())]
    Lifetime {
        /// How long.
        seconds: u64,
    },
    /// Issued later than now.
    #[error("the access token becomes valid in {in_seconds} s; compare the clocks of the machines")]
    NotYetValid {
        /// How far ahead.
        in_seconds: u64,
    },
    /// Bound, and in the wrong hands.
    #[error(transparent)]
    Confirmation(#[from] ConfirmationError),
    /// Too old.
    #[error("the access token expired {by_seconds} s ago; log in again")]
    Expired {
        /// How long ago.
        by_seconds: u64,
    },
}

jws::tells_other_kinds!(AccessTokenError);

/// The `typ` of access tokens (RFC 9068 section 2.1).
pub const ACCESS_TOKEN_TYP: &str = TokenKind::AccessToken.typ();
/// How long an access token lives at most; login gives out ten minutes.
pub const ACCESS_TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(3600);
