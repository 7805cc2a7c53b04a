//! The internal token of a user (draft-ietf-oauth-transaction-tokens): made by the gateway out of an access
//! token, passed on unmodified from service to service in the header `Txn-Token`, verified at every hop.

use std::time::Duration;

use countersign_identity::{CLOCK_SKEW, IdKind, Possession, SpiffeId, TrustDomain, UnixTime, User, Verified};
use countersign_keys::{KeyPair, PublicKey};
use serde::Serialize;

use crate::{
    claims::{ClaimError, Claims},
    jws::{self, JwsError, printable},
    typ::TokenKind,
};

/// What a transaction token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnToken {
    /// Unique id of the transaction, random (RFC 8417 section 2.2).
    pub txn: String,
    /// Opaque id of the user, `u_…`: the principal of the transaction.
    pub user_id: String,
    /// Name of the user, for people to read.
    pub name: String,
    /// Roles at the time of login.
    pub roles: Vec<String>,
    /// Purpose of the transaction, words with spaces between.
    pub scope: String,
    /// The workload that requested the token; today always the gateway that also signs it.
    pub requested_by: SpiffeId,
    /// When it expires; see [`expiry`].
    pub expires: UnixTime,
}

/// When a token that is minted `now` expires: as late as allowed, never later than the evidence behind it.
pub fn expiry(now: UnixTime, evidence_expires: Option<UnixTime>) -> UnixTime {
    let latest = now.saturating_add(TXN_TOKEN_LIFETIME_MAX);
    evidence_expires.map_or(latest, |evidence| latest.min(evidence))
}

impl TxnToken {
    /// Signs it with the gateway's key for internal tokens, which signs nothing else. Its audience is the
    /// trust domain of [`TxnToken::requested_by`].
    pub fn mint(&self, key: &KeyPair, now: UnixTime) -> Result<String, TxnTokenError> {
        let lifetime = self.expires.since(now);
        if lifetime.as_secs() == 0 || lifetime > TXN_TOKEN_LIFETIME_MAX {
            return Err(TxnTokenError::Lifetime { seconds: lifetime.as_secs() });
        }
        let claims = serde_json::to_vec(&WireClaims {
            iss: self.requested_by.as_str(),
            iat: now.secs(),
            aud: self.requested_by.trust_domain().as_str(),
            exp: self.expires.secs(),
            txn: &self.txn,
            sub: &self.user_id,
            scope: &self.scope,
            req_wl: self.requested_by.as_str(),
            tctx: WireContext { name: &self.name, roles: &self.roles },
        })
        .map_err(|_| TxnTokenError::Claim(ClaimError::NotJson))?;
        let token = jws::sign_as(TokenKind::TxnToken, key, &claims)?;
        // What we would not accept ourselves never leaves.
        read(&claims)?;
        Ok(token)
    }

    /// Verifies a token for `trust_domain` at `now`.
    ///
    /// `key_of` finds the key of a `kid` among the keys for internal tokens, and no others, with the
    /// workload that owns it: a token counts only if its owner made it.
    pub fn verify(
        token: &str,
        trust_domain: &TrustDomain,
        now: UnixTime,
        key_of: impl FnOnce(&str) -> Option<(PublicKey, SpiffeId)>,
    ) -> Result<Verified<User>, TxnTokenError> {
        let unverified = jws::parse_as(TokenKind::TxnToken, token)?;
        let (key, owner) = key_of(&unverified.kid)
            .ok_or_else(|| TxnTokenError::UnknownKey { kid: printable(&unverified.kid) })?;
        if !may_issue(&owner, trust_domain) {
            return Err(TxnTokenError::NotAnIssuer { owner });
        }
        let read = read(unverified.verify(&key)?)?;
        if read.audience != trust_domain.as_str() {
            return Err(TxnTokenError::WrongTrustDomain { got: printable(&read.audience) });
        }
        if read.issuer != owner.as_str() || read.token.requested_by != owner {
            return Err(TxnTokenError::NotOwner { issuer: printable(&read.issuer), owner });
        }
        judge_times(read.issued_at, read.token.expires, now)?;
        Ok(Verified::vouch(User {
            id: read.token.user_id,
            name: read.token.name,
            roles: read.token.roles,
            txn: read.token.txn,
            requested_by: Some(read.token.requested_by),
            actors: Vec::new(),
            possession: Possession::None,
            not_after: read.token.expires,
        }))
    }
}

/// Only those who see users' access tokens may speak for users. A service that got its key published by
/// mistake or by malice gains nothing from it.
fn may_issue(owner: &SpiffeId, trust_domain: &TrustDomain) -> bool {
    owner.trust_domain() == trust_domain && matches!(owner.kind(), IdKind::Gateway(_) | IdKind::Authority)
}

fn judge_times(issued_at: UnixTime, expires: UnixTime, now: UnixTime) -> Result<(), TxnTokenError> {
    // Whole seconds on the wire: the fraction that `iat` lost is not a longer life.
    let lifetime = expires.since(issued_at);
    if lifetime.is_zero() || lifetime > TXN_TOKEN_LIFETIME_MAX {
        return Err(TxnTokenError::Lifetime { seconds: lifetime.as_secs() });
    }
    if issued_at > now.saturating_add(CLOCK_SKEW) {
        return Err(TxnTokenError::NotYetValid { in_seconds: issued_at.since(now).as_secs() });
    }
    if now >= expires {
        return Err(TxnTokenError::Expired { by_seconds: now.since(expires).as_secs() });
    }
    Ok(())
}

struct Read {
    token: TxnToken,
    issuer: String,
    audience: String,
    issued_at: UnixTime,
}

fn read(json: &[u8]) -> Result<Read, TxnTokenError> {
    let claims = Claims::parse(json)?;
    let context = claims.object("tctx")?;
    let requested_by = claims.string("req_wl")?;
    let token = TxnToken {
        txn: claims.string("txn")?.to_owned(),
        user_id: claims.string("sub")?.to_owned(),
        name: context.string("name")?.to_owned(),
        roles: context.strings("roles")?.into_iter().map(str::to_owned).collect(),
        scope: claims.string("scope")?.to_owned(),
        requested_by: requested_by
            .parse()
            .map_err(|_| TxnTokenError::NotAWorkload { req_wl: printable(requested_by) })?,
        expires: claims.time("exp")?,
    };
    Ok(Read {
        token,
        issuer: claims.string("iss")?.to_owned(),
        // A single string: a token for several domains would be replayed from one in another.
        audience: claims.string("aud")?.to_owned(),
        issued_at: claims.time("iat")?,
    })
}

#[derive(Serialize)]
struct WireClaims<'a> {
    iss: &'a str,
    iat: i64,
    aud: &'a str,
    exp: i64,
    txn: &'a str,
    sub: &'a str,
    scope: &'a str,
    req_wl: &'a str,
    tctx: WireContext<'a>,
}

#[derive(Serialize)]
struct WireContext<'a> {
    name: &'a str,
    roles: &'a [String],
}

/// Why a transaction token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TxnTokenError {
    /// Not a token at all, or its signature does not fit.
    #[error(transparent)]
    Jws(JwsError),
    /// A token of another kind.
    #[error("a token of type {typ:?} is not a transaction token; send the one that the gateway made")]
    WrongKind {
        /// What it says it is.
        typ: String,
    },
    /// Signed by a key that is not published for internal tokens.
    #[error("no published key for transaction tokens has the id {kid:?}; has its gateway registered it?")]
    UnknownKey {
        /// Its thumbprint.
        kid: String,
    },
    /// A claim is absent or malformed.
    #[error("the transaction token's claims are not acceptable: {0}")]
    Claim(#[from] ClaimError),
    /// `req_wl` is not a SPIFFE ID.
    #[error("the requesting workload {req_wl:?} is not a SPIFFE ID")]
    NotAWorkload {
        /// What it says.
        req_wl: String,
    },
    /// For another trust domain.
    #[error("the transaction token is for trust domain {got:?}, not for this one")]
    WrongTrustDomain {
        /// For which it is.
        got: String,
    },
    /// The key belongs to a workload that may not speak for users.
    #[error("the key of the transaction token belongs to {owner}, which is no gateway of this trust domain")]
    NotAnIssuer {
        /// Who owns the key.
        owner: SpiffeId,
    },
    /// Made in the name of a workload that does not own the key.
    #[error("the transaction token names {issuer:?}, but its key belongs to {owner}")]
    NotOwner {
        /// Who it says made it.
        issuer: String,
        /// Who owns the key.
        owner: SpiffeId,
    },
    /// No time between issue and expiry, or too much.
    #[error("the transaction token lives {seconds} s, it must be more than 0 and at most {}", TXN_TOKEN_LIFETIME_MAX.as_secs())]
    Lifetime {
        /// How long.
        seconds: u64,
    },
    /// Issued later than now.
    #[error("the transaction token becomes valid in {in_seconds} s; compare the clocks of the machines")]
    NotYetValid {
        /// How far ahead.
        in_seconds: u64,
    },
    /// Too old.
    #[error("the transaction token expired {by_seconds} s ago; send the request again")]
    Expired {
        /// How long ago.
        by_seconds: u64,
    },
}

impl From<JwsError> for TxnTokenError {
    fn from(error: JwsError) -> Self {
        match error {
            JwsError::OtherKind { typ, .. } => Self::WrongKind { typ },
            other => Self::Jws(other),
        }
    }
}

/// The `typ` of transaction tokens.
pub const TXN_TOKEN_TYP: &str = TokenKind::TxnToken.typ();
/// How long a transaction token lives at most.
pub const TXN_TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(300);
