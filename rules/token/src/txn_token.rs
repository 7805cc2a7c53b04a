//! The internal token of a user (draft-ietf-oauth-transaction-tokens): made by the gateway out of an access
//! token, passed on unmodified from service to service in the header `Txn-Token`, verified at every hop.

use std::time::Duration;

use countersign_identity::{CLOCK_SKEW, IdKind, Possession, SpiffeId, TrustDomain, UnixTime, User, Verified};
use countersign_keys::{KeyPair, PublicKey};
use serde::Serialize;

use crate::{
    actors::{self, ACTORS_MAX},
    claims::{ClaimError, Claims, optional},
    exchanged_token::possession,
    jws::{self, JwsError, printable},
    revoked::TokenFacts,
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
    /// The workload that requested the token: the gateway that also signs it, or whoever exchanged another token
    /// for it at the authority.
    pub requested_by: SpiffeId,
    /// The workloads that acted for the user before this transaction, first one first.
    pub actors: Vec<SpiffeId>,
    /// Whether the evidence that the user showed was bound to a key.
    pub possession: Possession,
    /// When it expires; see [`expiry`].
    pub expires: UnixTime,
}

/// A user whose transaction token holds, what for, and by what it can be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnGrant {
    /// The user.
    pub user: Verified<User>,
    /// The purpose of the transaction.
    pub scope: String,
    /// For [`crate::revoked::Revoked::judge`], at every use.
    pub facts: TokenFacts,
    /// Who alone may act with it; `None` where it does not say.
    pub may_act: Option<SpiffeId>,
}

/// When a token that is minted `now` expires: as late as allowed, never later than the evidence behind it.
pub fn expiry(now: UnixTime, evidence_expires: Option<UnixTime>) -> UnixTime {
    let latest = now.saturating_add(TXN_TOKEN_LIFETIME_MAX);
    evidence_expires.map_or(latest, |evidence| latest.min(evidence))
}

impl TxnToken {
    /// Signs it with the key for internal tokens of the gateway that requested it, which signs nothing else. Its
    /// audience is the maker's trust domain.
    pub fn mint(&self, key: &KeyPair, now: UnixTime) -> Result<String, TxnTokenError> {
        self.mint_as(&self.requested_by, key, now)
    }

    /// Signs it with the key for internal tokens of `issuer`: of the authority, where another workload requested it
    /// in exchange.
    pub fn mint_as(&self, issuer: &SpiffeId, key: &KeyPair, now: UnixTime) -> Result<String, TxnTokenError> {
        let lifetime = self.expires.since(now);
        if lifetime.as_secs() == 0 || lifetime > TXN_TOKEN_LIFETIME_MAX {
            return Err(TxnTokenError::Lifetime { seconds: lifetime.as_secs() });
        }
        let claims = serde_json::to_vec(&WireClaims {
            iss: issuer.as_str(),
            iat: now.secs(),
            aud: issuer.trust_domain().as_str(),
            exp: self.expires.secs(),
            txn: &self.txn,
            sub: &self.user_id,
            scope: &self.scope,
            req_wl: self.requested_by.as_str(),
            tctx: WireContext { name: &self.name, roles: &self.roles },
            rctx: self.request_context(),
        })
        .map_err(|_| TxnTokenError::Claim(ClaimError::NotJson))?;
        let token = jws::sign_as(TokenKind::TxnToken, key, &claims)?;
        // What we would not accept ourselves never leaves.
        read(&claims)?;
        Ok(token)
    }

    /// How the request came to be, for who wants to know more than the user. Left out where there is nothing to say.
    fn request_context(&self) -> Option<WireRequest<'_>> {
        let said = !self.actors.is_empty() || self.possession != Possession::None;
        said.then(|| WireRequest {
            actors: self.actors.iter().map(SpiffeId::as_str).collect(),
            user_possession: self.possession.as_str(),
        })
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
        Self::verify_grant(token, trust_domain, now, key_of).map(|grant| grant.user)
    }

    /// Verifies as [`TxnToken::verify`], and says by what the token can be taken back.
    pub fn verify_grant(
        token: &str,
        trust_domain: &TrustDomain,
        now: UnixTime,
        key_of: impl FnOnce(&str) -> Option<(PublicKey, SpiffeId)>,
    ) -> Result<TxnGrant, TxnTokenError> {
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
        if read.issuer != owner.as_str() {
            return Err(TxnTokenError::NotOwner { issuer: printable(&read.issuer), owner });
        }
        judge_requester(&read.token.requested_by, &owner)?;
        judge_times(read.issued_at, read.token.expires, now)?;
        let facts = TokenFacts {
            ids: vec![read.token.txn.clone()],
            subject: read.token.user_id.clone(),
            kid: unverified.kid,
            issued_at: read.issued_at,
            expires: read.token.expires,
        };
        let user = Verified::vouch(User {
            id: read.token.user_id,
            name: read.token.name,
            roles: read.token.roles,
            txn: read.token.txn,
            requested_by: Some(read.token.requested_by),
            actors: read.token.actors,
            possession: read.token.possession,
            not_after: read.token.expires,
        });
        Ok(TxnGrant { user, scope: read.token.scope, facts, may_act: read.may_act })
    }
}

/// Only those who see users' access tokens may speak for users. A service that got its key published by
/// mistake or by malice gains nothing from it.
fn may_issue(owner: &SpiffeId, trust_domain: &TrustDomain) -> bool {
    owner.trust_domain() == trust_domain && matches!(owner.kind(), IdKind::Gateway(_) | IdKind::Authority)
}

/// A gateway makes tokens for its own requests alone. The authority makes them for the workloads of its trust domain
/// that exchanged another token (draft-ietf-oauth-transaction-tokens section 7.4).
fn judge_requester(requested_by: &SpiffeId, owner: &SpiffeId) -> Result<(), TxnTokenError> {
    let for_another = matches!(owner.kind(), IdKind::Authority)
        && requested_by.trust_domain() == owner.trust_domain()
        && matches!(requested_by.kind(), IdKind::Service(_) | IdKind::Gateway(_) | IdKind::Other);
    match requested_by == owner || for_another {
        true => Ok(()),
        false => Err(TxnTokenError::NotRequester { req_wl: requested_by.clone(), owner: owner.clone() }),
    }
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
    may_act: Option<SpiffeId>,
}

fn read(json: &[u8]) -> Result<Read, TxnTokenError> {
    let claims = Claims::parse(json)?;
    let context = claims.object("tctx")?;
    let requested_by = claims.string("req_wl")?;
    let (actors, possession) = match optional(claims.object("rctx"))? {
        Some(request) => (actors(request)?, possession(request)?),
        None => (Vec::new(), Possession::None),
    };
    let token = TxnToken {
        txn: claims.string("txn")?.to_owned(),
        user_id: claims.string("sub")?.to_owned(),
        name: context.string("name")?.to_owned(),
        roles: context.strings("roles")?.into_iter().map(str::to_owned).collect(),
        scope: claims.string("scope")?.to_owned(),
        requested_by: requested_by
            .parse()
            .map_err(|_| TxnTokenError::NotAWorkload { req_wl: printable(requested_by) })?,
        actors,
        possession,
        expires: claims.time("exp")?,
    };
    Ok(Read {
        token,
        issuer: claims.string("iss")?.to_owned(),
        // A single string: a token for several domains would be replayed from one in another.
        audience: claims.string("aud")?.to_owned(),
        issued_at: claims.time("iat")?,
        may_act: actors::may_act(&claims)?,
    })
}

fn actors(request: &Claims) -> Result<Vec<SpiffeId>, TxnTokenError> {
    let ids = optional(request.strings("actors"))?.unwrap_or_default();
    if ids.len() > ACTORS_MAX {
        return Err(ClaimError::TooMany { name: "actors", values: ids.len() }.into());
    }
    let wrong = ClaimError::WrongType { name: "actors", want: "SPIFFE IDs" };
    ids.into_iter().map(|id| id.parse().map_err(|_| wrong.clone().into())).collect()
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
    #[serde(skip_serializing_if = "Option::is_none")]
    rctx: Option<WireRequest<'a>>,
}

#[derive(Serialize)]
struct WireRequest<'a> {
    actors: Vec<&'a str>,
    user_possession: &'a str,
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
    /// Requested by a workload that its maker may not make tokens for.
    #[error(
        "{owner} made a transaction token for a request of {req_wl}; a gateway makes its own alone, the authority those of workloads of its trust domain"
    )]
    NotRequester {
        /// Who is said to have requested it.
        req_wl: SpiffeId,
        /// Who made it.
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

jws::tells_other_kinds!(TxnTokenError);

/// The `typ` of transaction tokens.
pub const TXN_TOKEN_TYP: &str = TokenKind::TxnToken.typ();
/// How long a transaction token lives at most.
pub const TXN_TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(300);
