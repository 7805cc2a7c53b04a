//! Which token may become which (RFC 8693): an exchange passes on, and makes nothing greater.
//!
//! Never a wider scope, never a longer life, never more than its inputs proved. A workload never becomes a user.
//! Whoever exchanges is added to the actors, newest outermost; only the outermost counts for a decision, the others
//! are history. Whether *this* client may ask for *that* is policy's to decide, afterwards.

mod errors;

use countersign_identity::{IdKind, Possession, SpiffeId, TrustDomain, UnixTime, User, Verified};

pub use errors::ExchangeError;

use crate::{
    access_token::AccessGrant,
    actors::ACTORS_MAX,
    exchanged_token::{EXCHANGED_TOKEN_LIFETIME_MAX, ExchangedToken},
    jwt_svid::{JWT_SVID_LIFETIME_MAX, JwtSvid},
    scope::{Scope, ScopeError},
    txn_token::{TXN_TOKEN_LIFETIME_MAX, TxnGrant},
};

/// A token that was verified and is given away for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectToken {
    /// Of which kind it is, and for whom.
    pub kind: SubjectKind,
    /// What it may be used for.
    pub scope: Scope,
    /// Who acted with it so far, first one first.
    pub actors: Vec<SpiffeId>,
    /// Whether its user, or its workload, proved to hold a key: as the token says, or as it was shown.
    pub possession: Possession,
    /// Who alone may act (RFC 8693 section 4.4); `None` where the token does not say.
    pub may_act: Option<Vec<SpiffeId>>,
    /// When it expires.
    pub expires: UnixTime,
    /// Whether it was taken back.
    pub is_revoked: bool,
}

/// What can be given away, and for whom it was: nobody exchanges what was meant for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectKind {
    /// A user's access token from login, which is for the edge.
    AccessToken,
    /// A user's token for one hop, which is for this callee.
    ExchangedToken {
        /// Which.
        audience: SpiffeId,
    },
    /// The internal token of a transaction, which is for everybody in this trust domain.
    TxnToken {
        /// Which.
        audience: TrustDomain,
    },
    /// The JWT-SVID of this workload.
    JwtSvid {
        /// Which.
        subject: SpiffeId,
    },
    /// No token at all: the client says by itself in whose name a transaction begins
    /// (draft-ietf-oauth-transaction-tokens, `unsigned_json`). Good for a transaction token and for nothing else.
    Stated,
}

/// What a client that proved its name asks for.
#[derive(Clone, Debug)]
pub struct ExchangeRequest<'a> {
    /// The client.
    pub client: &'a SpiffeId,
    /// Whose token came as `actor_token`, and when it expires. Without one the client acts itself.
    pub actor: Option<(&'a SpiffeId, UnixTime)>,
    /// What it wants.
    pub wanted: Wanted<'a>,
    /// A smaller scope; `None` keeps the subject's.
    pub scope: Option<&'a Scope>,
}

/// What can be got, and for whom: always exactly one recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// The user's token for one hop, to this callee.
    ExchangedToken(&'a SpiffeId),
    /// The token of a transaction in this trust domain.
    TxnToken(&'a TrustDomain),
    /// A JWT-SVID of the client's own, for this audience.
    JwtSvid(&'a str),
}

/// What the token that is issued must say, and nothing beyond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeGrant {
    /// What it may be used for.
    pub scope: Scope,
    /// Who acted, first one first: the subject's actors and the new one.
    pub actors: Vec<SpiffeId>,
    /// What the inputs proved at their weakest.
    pub possession: Possession,
    /// When it expires at the latest.
    pub expires: UnixTime,
}

impl SubjectToken {
    /// The user's access token, verified at the edge; `scope` is what this deployment gives to users.
    #[must_use]
    pub fn of_access_token(grant: &AccessGrant, scope: Scope, is_revoked: bool) -> Self {
        Self::of_user(SubjectKind::AccessToken, &grant.user, scope, grant.may_act.as_ref(), is_revoked)
    }

    /// A transaction's token of trust domain `audience`. Who requested it has acted for the user, and was the last.
    pub fn of_txn_token(
        grant: &TxnGrant,
        audience: &TrustDomain,
        is_revoked: bool,
    ) -> Result<Self, ScopeError> {
        let kind = SubjectKind::TxnToken { audience: audience.clone() };
        let scope = Scope::parse(&grant.scope)?;
        let mut subject = Self::of_user(kind, &grant.user, scope, grant.may_act.as_ref(), is_revoked);
        if let Some(requester) = &grant.user.requested_by
            && subject.actors.last() != Some(requester)
        {
            subject.actors.push(requester.clone());
        }
        Ok(subject)
    }

    /// A user's token for the hop to whoever gives it away.
    #[must_use]
    pub fn of_exchanged_token(token: &Verified<ExchangedToken>, is_revoked: bool) -> Self {
        let kind = SubjectKind::ExchangedToken { audience: token.audience.clone() };
        let (user, scope) = (ExchangedToken::user(token), token.scope.clone());
        Self::of_user(kind, &user, scope, token.may_act.as_ref(), is_revoked)
    }

    /// A workload's own. It is a bearer's: whoever has a copy has it.
    #[must_use]
    pub fn of_jwt_svid(svid: &Verified<JwtSvid>, is_revoked: bool) -> Self {
        Self {
            kind: SubjectKind::JwtSvid { subject: svid.subject.clone() },
            scope: Scope::default(),
            actors: Vec::new(),
            possession: Possession::None,
            may_act: None,
            expires: svid.expires,
            is_revoked,
        }
    }

    fn of_user(
        kind: SubjectKind,
        user: &Verified<User>,
        scope: Scope,
        may_act: Option<&SpiffeId>,
        is_revoked: bool,
    ) -> Self {
        Self {
            kind,
            scope,
            actors: user.actors.clone(),
            possession: user.possession,
            may_act: may_act.map(|actor| vec![actor.clone()]),
            expires: user.not_after,
            is_revoked,
        }
    }
}

/// Judges an exchange at `now` by an authority of `home`.
///
/// `client_possession` is whether the client proved to hold a key when it asked: a JWT-SVID of its own is no
/// stronger. A user's proof is the user's: neither does the client's make it stronger, nor is it lost.
pub fn exchange(
    subject: &SubjectToken,
    request: &ExchangeRequest<'_>,
    client_possession: Possession,
    home: &TrustDomain,
    now: UnixTime,
) -> Result<ExchangeGrant, ExchangeError> {
    if subject.is_revoked {
        return Err(ExchangeError::SubjectRevoked);
    }
    if now >= subject.expires {
        return Err(ExchangeError::SubjectExpired { by_seconds: now.since(subject.expires).as_secs() });
    }
    judge_holder(subject, request.client, home)?;
    judge_change(&subject.kind, request, home)?;
    let (actor, actor_expires) = match request.actor {
        Some((actor, expires)) if now >= expires => {
            return Err(ExchangeError::ActorExpired { actor: actor.clone() });
        }
        Some((actor, expires)) => (actor, expires),
        None => (request.client, subject.expires),
    };
    if let Some(may_act) = &subject.may_act
        && !may_act.contains(actor)
    {
        return Err(ExchangeError::MayNotAct { actor: actor.clone() });
    }
    let lifetime_max = match request.wanted {
        Wanted::ExchangedToken(_) => EXCHANGED_TOKEN_LIFETIME_MAX,
        Wanted::TxnToken(_) => TXN_TOKEN_LIFETIME_MAX,
        Wanted::JwtSvid(_) => JWT_SVID_LIFETIME_MAX,
    };
    Ok(ExchangeGrant {
        scope: narrowed(&subject.scope, request.scope)?,
        actors: grown(&subject.actors, actor, request.wanted)?,
        possession: match subject.kind {
            SubjectKind::JwtSvid { .. } => subject.possession.min(client_possession),
            _ => subject.possession,
        },
        expires: subject.expires.min(actor_expires).min(now.saturating_add(lifetime_max)),
    })
}

/// Only the one whom a token is for may give it away: otherwise a stolen one could be laundered. One that is for the
/// token service itself was got by somebody who alone may show it: so it goes from one trust domain into another.
fn judge_holder(subject: &SubjectToken, client: &SpiffeId, home: &TrustDomain) -> Result<(), ExchangeError> {
    let is_for_client = match &subject.kind {
        SubjectKind::AccessToken => {
            client.trust_domain() == home && matches!(client.kind(), IdKind::Gateway(_))
        }
        SubjectKind::ExchangedToken { audience } if *audience == SpiffeId::authority(home) => {
            subject.actors.last() == Some(client)
        }
        SubjectKind::ExchangedToken { audience } => audience == client,
        SubjectKind::TxnToken { audience } => audience == client.trust_domain(),
        SubjectKind::JwtSvid { subject } => subject == client,
        SubjectKind::Stated => client.trust_domain() == home,
    };
    match is_for_client {
        true => Ok(()),
        false => Err(ExchangeError::NotForClient { client: client.clone() }),
    }
}

/// The table of what may become what.
fn judge_change(
    kind: &SubjectKind,
    request: &ExchangeRequest<'_>,
    home: &TrustDomain,
) -> Result<(), ExchangeError> {
    match (kind, request.wanted) {
        (SubjectKind::JwtSvid { subject }, Wanted::JwtSvid(_)) if subject.trust_domain() != home => {
            Err(ExchangeError::ForeignWorkload { subject: subject.clone() })
        }
        (SubjectKind::JwtSvid { .. }, Wanted::JwtSvid(audience)) => match (request.actor, audience) {
            (Some(_), _) => Err(ExchangeError::NobodyToActFor),
            (None, "") => Err(ExchangeError::WrongTarget { target: String::new() }),
            (None, _) => Ok(()),
        },
        (SubjectKind::JwtSvid { .. }, _) => Err(ExchangeError::WorkloadIsNoUser),
        (_, Wanted::JwtSvid(_)) => Err(ExchangeError::UserIsNoWorkload),
        (SubjectKind::TxnToken { .. }, Wanted::TxnToken(_)) => Err(ExchangeError::AlreadyTxnToken),
        (SubjectKind::Stated, Wanted::ExchangedToken(_)) => Err(ExchangeError::StatedSubject),
        (_, Wanted::TxnToken(target)) if target != home => {
            Err(ExchangeError::WrongTarget { target: target.as_str().to_owned() })
        }
        (_, Wanted::ExchangedToken(target)) if matches!(target.kind(), IdKind::TrustDomain) => {
            Err(ExchangeError::WrongTarget { target: target.as_str().to_owned() })
        }
        (_, Wanted::TxnToken(_) | Wanted::ExchangedToken(_)) => Ok(()),
    }
}

fn narrowed(subject: &Scope, wanted: Option<&Scope>) -> Result<Scope, ExchangeError> {
    match wanted {
        None => Ok(subject.clone()),
        Some(scope) if scope.is_within(subject) => Ok(scope.clone()),
        Some(scope) => Err(ExchangeError::WiderScope { scope: scope.to_string() }),
    }
}

fn grown(actors: &[SpiffeId], actor: &SpiffeId, wanted: Wanted<'_>) -> Result<Vec<SpiffeId>, ExchangeError> {
    let mut grown = actors.to_vec();
    // A workload does not act for itself; and one that exchanges twice has acted once.
    if !matches!(wanted, Wanted::JwtSvid(_)) && grown.last() != Some(actor) {
        grown.push(actor.clone());
    }
    match grown.len() > ACTORS_MAX {
        true => Err(ExchangeError::ChainTooLong),
        false => Ok(grown),
    }
}
