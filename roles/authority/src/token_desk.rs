//! Tokens with which workloads prove themselves: asked for by the agent that attested the workload, or by an
//! administrator. Each is recorded durably before it leaves.

use std::{sync::Arc, time::Duration};

use countersign_identity::{IdKind, SPIFFE_ID_BYTES_MAX, SpiffeId, UnixTime};
use countersign_keys::{JwkError, PublicKey, RandomError, SystemRandom, hash::hex, random_bytes};
use countersign_ledger::Event;
use countersign_sdk::clock;
use countersign_store::{StoreError, issued_tokens::IssuedToken};
use countersign_token::{
    JwtSvid, JwtSvidError,
    macaroon::{AttenuateError, MacaroonError, PredicateError, TicketError},
    wit::{ConfirmationKey, Wit, WitError},
};
use countersign_wire::{
    agent::{IssueTokenRequest, IssueTokenResponse, TokenKind},
    codes::Code,
};

use crate::{
    bearer_desk::{self, Wanted},
    error::store_code,
    journal::Change,
    macaroon_desk,
    state::Authority,
};

/// Life of a workload identity token: renewed at half of it by who holds it.
const WIT_LIFE: Duration = Duration::from_secs(3600);
/// Life of a JWT-SVID: whoever sees one can use it, so it ends soon.
const JWT_SVID_LIFE: Duration = Duration::from_secs(300);
/// Audiences of one JWT-SVID.
const AUDIENCES_MAX: usize = 16;
/// Life of a bearer token that a workload asked for.
const BEARER_LIFE: Duration = Duration::from_secs(3600);
/// Life of a macaroon that a workload asked for; its holder narrows it to seconds before it leaves.
const MACAROON_LIFE: Duration = Duration::from_secs(3600);
/// Under what a key signs that it is held; see `IssueTokenRequest.possession`.
const POSSESSION_PURPOSE: &str = "wit-key";

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// No kind that is issued here.
    #[error("kind {kind} of tokens is not issued; ask for a WIT, a JWT-SVID, a bearer token or a macaroon")]
    Kind {
        /// Its number.
        kind: i32,
    },
    /// Something is there that this kind does not have, or missing that it needs.
    #[error("a {kind} is asked for {want}")]
    Form {
        /// Which kind.
        kind: &'static str,
        /// What belongs to it.
        want: &'static str,
    },
    /// The audience is no service of ours.
    #[error("{audience:?} is no registered service; name the callee by its full SPIFFE ID")]
    Callee {
        /// Who was named.
        audience: String,
    },
    /// The key to which it is to be bound.
    #[error("the key cannot be used: {0}")]
    Key(#[from] JwkError),
    /// The private half of that key was not shown to be held.
    #[error("possession of the key is not proven; sign \"countersign/v1/wit-key\" 0x00 SPIFFE-ID with it")]
    NotPossessed,
    /// The WIT was not made.
    #[error(transparent)]
    Wit(#[from] WitError),
    /// The JWT-SVID was not made.
    #[error(transparent)]
    JwtSvid(#[from] JwtSvidError),
    /// The macaroon was not made.
    #[error(transparent)]
    Macaroon(#[from] MacaroonError),
    /// It does not fit into a macaroon.
    #[error(transparent)]
    Attenuate(#[from] AttenuateError),
    /// A caveat that nobody would understand.
    #[error(transparent)]
    Caveat(#[from] PredicateError),
    /// What the authority is to be asked does not fit into a caveat.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// No randomness.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// It is not durable, so nobody gets it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl TokenError {
    /// The registered code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Kind { .. } | Self::Form { .. } | Self::NotPossessed => Code::ParameterInvalid,
            Self::Callee { .. } => Code::TargetUnknown,
            Self::Key(_) | Self::Wit(_) | Self::Attenuate(_) | Self::Caveat(_) | Self::Ticket(_) => {
                Code::ParameterInvalid
            }
            Self::JwtSvid(_) => Code::ParameterInvalid,
            Self::Macaroon(_) => Code::Internal,
            Self::Random(_) => Code::Internal,
            Self::Store(error) => store_code(error),
        }
    }
}

/// Issues to `owner`, whom `agent` attested, what it asks for.
pub(crate) async fn issue(
    authority: &Arc<Authority>,
    owner: &SpiffeId,
    agent: &SpiffeId,
    request: IssueTokenRequest,
) -> Result<IssueTokenResponse, TokenError> {
    let kind = TokenKind::try_from(request.kind).map_err(|_| TokenError::Kind { kind: request.kind })?;
    match kind {
        TokenKind::Unspecified => Err(TokenError::Kind { kind: request.kind }),
        TokenKind::Wit => wit(authority, owner, agent, request).await,
        TokenKind::JwtSvid => jwt_svid(authority, owner, agent, request).await,
        TokenKind::Bearer => bearer(authority, owner, agent, request).await,
        TokenKind::Macaroon => macaroon(authority, owner, agent, request).await,
    }
}

async fn wit(
    authority: &Arc<Authority>,
    owner: &SpiffeId,
    agent: &SpiffeId,
    request: IssueTokenRequest,
) -> Result<IssueTokenResponse, TokenError> {
    if !request.audience.is_empty() || !request.more_audiences.is_empty() {
        return Err(TokenError::Form { kind: "WIT", want: "without an audience: its proofs have one" });
    }
    let key = PublicKey::from_jwk(&request.jwk)?;
    key.verify_fixed(POSSESSION_PURPOSE, owner.as_str().as_bytes(), &request.possession)
        .map_err(|_| TokenError::NotPossessed)?;
    let (now, id) = (clock::now(), new_id()?);
    let expires = whole_seconds(now.saturating_add(WIT_LIFE));
    let wit = Wit {
        subject: owner.clone(),
        confirmation: ConfirmationKey::new(key),
        token_id: Some(id.clone()),
        issuer: Some(authority.issuer.clone()),
        expires,
    };
    let token = wit.mint(authority.keys.load().wit.current(), now)?;
    let issued = IssuedToken { id, owner: owner.clone(), expires_at: expires };
    remember(authority, "wit", issued, Vec::new(), agent.to_string(), now).await?;
    Ok(answer(token, now, expires))
}

async fn jwt_svid(
    authority: &Arc<Authority>,
    owner: &SpiffeId,
    agent: &SpiffeId,
    request: IssueTokenRequest,
) -> Result<IssueTokenResponse, TokenError> {
    refuse_key("JWT-SVID", &request)?;
    let audiences: Vec<String> = std::iter::once(request.audience).chain(request.more_audiences).collect();
    let fits = |audience: &String| (1..=SPIFFE_ID_BYTES_MAX).contains(&audience.len());
    if audiences.len() > AUDIENCES_MAX || !audiences.iter().all(fits) {
        return Err(TokenError::Form {
            kind: "JWT-SVID",
            want: "with 1 to 16 audiences, none of them empty",
        });
    }
    let (now, id) = (whole_seconds(clock::now()), new_id()?);
    let svid = JwtSvid {
        subject: owner.clone(),
        audiences,
        jti: Some(id.clone()),
        issued_at: Some(now),
        expires: now.saturating_add(JWT_SVID_LIFE),
    };
    let token = svid.mint(authority.keys.load().jwt_svid.current())?;
    let issued = IssuedToken { id, owner: owner.clone(), expires_at: svid.expires };
    remember(authority, "jwt-svid", issued, svid.audiences, agent.to_string(), now).await?;
    Ok(answer(token, now, svid.expires))
}

async fn bearer(
    authority: &Arc<Authority>,
    owner: &SpiffeId,
    agent: &SpiffeId,
    request: IssueTokenRequest,
) -> Result<IssueTokenResponse, TokenError> {
    refuse_key("bearer token", &request)?;
    let callee = callee(authority, &request).await?;
    let wanted =
        Wanted { owner: owner.clone(), scope: vec![callee], life: BEARER_LIFE, issued_by: agent.to_string() };
    let made = bearer_desk::issue(authority, wanted).await?;
    Ok(answer(made.token.expose().to_owned(), made.issued_at, made.expires_at))
}

async fn macaroon(
    authority: &Arc<Authority>,
    owner: &SpiffeId,
    agent: &SpiffeId,
    request: IssueTokenRequest,
) -> Result<IssueTokenResponse, TokenError> {
    refuse_key("macaroon", &request)?;
    let wanted = macaroon_desk::Wanted {
        owner: owner.clone(),
        callee: callee(authority, &request).await?,
        life: MACAROON_LIFE,
        caveats: Vec::new(),
        condition: None,
        issued_by: agent.to_string(),
    };
    let made = macaroon_desk::mint(authority, wanted).await?;
    Ok(answer(made.token.expose().clone(), made.issued_at, made.expires_at))
}

/// Records a signed token before anybody gets it, so that it can be taken back with its owner.
pub(crate) async fn remember(
    authority: &Arc<Authority>,
    what: &'static str,
    token: IssuedToken,
    audience: Vec<String>,
    issued_by: String,
    now: UnixTime,
) -> Result<(), StoreError> {
    let event = Event::WorkloadTokenIssued {
        what: what.to_owned(),
        id: token.id.clone(),
        owner: token.owner.clone(),
        audience,
        issued_by,
        replaces: None,
        expires: token.expires_at,
    };
    authority
        .journal
        .with(vec![event], move |db, records| async move {
            db.add_issued_token(&token, &records, now).await.map(Change::Recorded)
        })
        .await
}

/// The one callee that is named: a registered service of ours.
async fn callee(authority: &Authority, request: &IssueTokenRequest) -> Result<SpiffeId, TokenError> {
    let unknown = || TokenError::Callee { audience: request.audience.chars().take(128).collect() };
    if !request.more_audiences.is_empty() {
        return Err(TokenError::Form { kind: "token for one callee", want: "with one audience" });
    }
    let id = SpiffeId::parse(&request.audience).map_err(|_| unknown())?;
    match authority.db.service_of(&id).await? {
        Some(entry) if matches!(entry.spiffe_id.kind(), IdKind::Service(_)) => Ok(entry.spiffe_id),
        _ => Err(unknown()),
    }
}

fn refuse_key(kind: &'static str, request: &IssueTokenRequest) -> Result<(), TokenError> {
    if request.jwk.is_empty() && request.possession.is_empty() {
        Ok(())
    } else {
        Err(TokenError::Form { kind, want: "without a key: it is bound to none" })
    }
}

fn answer(token: String, issued_at: UnixTime, expires_at: UnixTime) -> IssueTokenResponse {
    IssueTokenResponse { token, issued_at_ms: issued_at.millis(), expires_at_ms: expires_at.millis() }
}

/// 128 random bits.
pub(crate) fn new_id() -> Result<String, RandomError> {
    Ok(hex(&random_bytes::<16>(&SystemRandom::new())?))
}

/// Tokens count whole seconds.
pub(crate) fn whole_seconds(time: UnixTime) -> UnixTime {
    UnixTime::from_secs(time.secs())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_reason_has_its_registered_code() {
        for (error, code) in [
            (TokenError::Kind { kind: 9 }, Code::ParameterInvalid),
            (TokenError::Form { kind: "WIT", want: "w" }, Code::ParameterInvalid),
            (TokenError::NotPossessed, Code::ParameterInvalid),
            (TokenError::Callee { audience: "a".to_owned() }, Code::TargetUnknown),
            (TokenError::Key(JwkError::Private), Code::ParameterInvalid),
            (TokenError::Wit(WitError::Audience), Code::ParameterInvalid),
            (TokenError::JwtSvid(JwtSvidError::WrongAudience { got: None }), Code::ParameterInvalid),
            (TokenError::Attenuate(AttenuateError::TooManyCaveats), Code::ParameterInvalid),
            (TokenError::Caveat(PredicateError::NotText), Code::ParameterInvalid),
            (TokenError::Ticket(TicketError::NotATicket), Code::ParameterInvalid),
            (TokenError::Macaroon(MacaroonError::NotAName), Code::Internal),
            (TokenError::Random(RandomError::Unavailable), Code::Internal),
            (TokenError::Store(StoreError::Busy), Code::DatabaseBusy),
        ] {
            assert_eq!(error.code(), code, "{error}");
            let text = error.to_string();
            assert!(!text.ends_with('.'), "{text}");
        }
    }
}
