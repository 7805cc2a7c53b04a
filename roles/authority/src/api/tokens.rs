//! Tokens that an administrator has issued for services, and discharges, which whoever fulfils their condition may ask
//! for.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{Caller, IdKind, ServiceName, SpiffeId};
use countersign_sdk::clock;
use countersign_store::bearer::Bearer as Stored;
use countersign_wire::{
    SecretText,
    api::tokens::{Bearer, Discharge, IssuedToken, NewBearer, NewDischarge, NewMacaroon, RotateBearer},
    codes::Code,
    problem::Problem,
};

use super::{ApiError, Body, PathParam};
use crate::{
    bearer_desk,
    http::Actor,
    macaroon_desk::{self, Condition, DischargeError},
    state::Authority,
    token_desk::TokenError,
};

/// How long a bearer token counts, unless the request says otherwise.
const BEARER_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Longer than this, nobody remembers where it lies.
const BEARER_LIFE_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long the old and the new one count together.
const OVERLAP: Duration = Duration::from_secs(3600);
const MACAROON_LIFE: Duration = Duration::from_secs(3600);
const MACAROON_LIFE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Callees of one bearer token.
const SCOPE_MAX: usize = 16;
/// Caveats of one macaroon beyond its audience and end; holders need room for theirs.
const CAVEATS_MAX: usize = 8;

/// Bearer tokens that have not expired, newest first, without their secrets.
#[utoipa::path(get, path = "/api/v1/tokens/bearer", tag = "tokens", responses((status = 200, body = Vec<Bearer>)))]
pub(crate) async fn bearers(State(authority): State<Arc<Authority>>) -> Result<Json<Vec<Bearer>>, ApiError> {
    let stored = authority.db.bearers(clock::now()).await?;
    Ok(Json(stored.into_iter().map(describe).collect()))
}

/// Issues a bearer token for a service. It is shown once.
#[utoipa::path(post, path = "/api/v1/tokens/bearer", tag = "tokens", request_body = NewBearer,
    responses((status = 200, body = IssuedToken), (status = 422, body = Problem)))]
pub(crate) async fn issue_bearer(
    State(authority): State<Arc<Authority>>,
    Extension(Actor(issued_by)): Extension<Actor>,
    Body(body): Body<NewBearer>,
) -> Result<Json<IssuedToken>, ApiError> {
    let life = life(body.ttl_s, BEARER_LIFE, BEARER_LIFE_MAX)?;
    if body.scope.is_empty() || body.scope.len() > SCOPE_MAX {
        return Err(ApiError::because(Code::ParameterInvalid, "`scope` is not 1 to 16 services"));
    }
    let owner = member(&authority, &body.service).await?;
    let mut scope = Vec::with_capacity(body.scope.len());
    for name in &body.scope {
        let callee = callee(&authority, name).await?;
        if !scope.contains(&callee) {
            scope.push(callee);
        }
    }
    let wanted = bearer_desk::Wanted { owner, scope, life, issued_by };
    Ok(Json(shown_once(bearer_desk::issue(&authority, wanted).await?)))
}

/// Issues a bearer token in the place of another one; both count for a while.
#[utoipa::path(post, path = "/api/v1/tokens/bearer/{id}/rotate", tag = "tokens", params(("id" = String, Path)),
    request_body = RotateBearer,
    responses((status = 200, body = IssuedToken), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(crate) async fn rotate_bearer(
    State(authority): State<Arc<Authority>>,
    Extension(Actor(by)): Extension<Actor>,
    PathParam(id): PathParam,
    Body(body): Body<RotateBearer>,
) -> Result<Json<IssuedToken>, ApiError> {
    let old = authority.db.bearer(&id, clock::now()).await?.ok_or(Code::ObjectUnknown)?;
    let overlap = body.overlap_s.map_or(OVERLAP, Duration::from_secs);
    if overlap > BEARER_LIFE_MAX {
        return Err(out_of_range("overlap_s", BEARER_LIFE_MAX));
    }
    Ok(Json(shown_once(bearer_desk::replace(&authority, old, overlap, by).await?)))
}

/// Takes a bearer token back. The callees of its scope know when this returns.
#[utoipa::path(post, path = "/api/v1/tokens/bearer/{id}/revoke", tag = "tokens", params(("id" = String, Path)),
    responses((status = 200, body = Bearer), (status = 404, body = Problem)))]
pub(crate) async fn revoke_bearer(
    State(authority): State<Arc<Authority>>,
    Extension(Actor(by)): Extension<Actor>,
    PathParam(id): PathParam,
) -> Result<Json<Bearer>, ApiError> {
    let token = authority.db.bearer(&id, clock::now()).await?.ok_or(Code::ObjectUnknown)?;
    bearer_desk::revoke(&authority, &token, &by).await?;
    let revoked = authority.db.bearer(&id, clock::now()).await?;
    Ok(Json(describe(revoked.unwrap_or(token))))
}

/// Issues a macaroon by which one service may call another one. It is shown once.
#[utoipa::path(post, path = "/api/v1/tokens/macaroon", tag = "tokens", request_body = NewMacaroon,
    responses((status = 200, body = IssuedToken), (status = 422, body = Problem)))]
pub(crate) async fn issue_macaroon(
    State(authority): State<Arc<Authority>>,
    Extension(Actor(issued_by)): Extension<Actor>,
    Body(body): Body<NewMacaroon>,
) -> Result<Json<IssuedToken>, ApiError> {
    if body.caveats.len() > CAVEATS_MAX {
        return Err(ApiError::because(Code::ParameterInvalid, "`caveats` holds more than 8"));
    }
    let condition = body.discharge_for.as_deref().map(Condition::parse).transpose()?;
    let wanted = macaroon_desk::Wanted {
        owner: member(&authority, &body.service).await?,
        callee: callee(&authority, &body.callee).await?,
        life: life(body.ttl_s, MACAROON_LIFE, MACAROON_LIFE_MAX)?,
        caveats: body.caveats,
        condition,
        issued_by,
    };
    let made = macaroon_desk::mint(&authority, wanted).await?;
    Ok(Json(IssuedToken {
        id: made.id,
        token: SecretText::new(made.token.expose().clone()),
        expires_at: made.expires_at,
    }))
}

/// Discharges a third-party caveat that names the authority, for a caller who fulfils its condition, or for an
/// administrator.
#[utoipa::path(post, path = "/api/v1/tokens/discharge", tag = "tokens", request_body = NewDischarge,
    responses((status = 200, body = Discharge), (status = 403, body = Problem), (status = 422, body = Problem)))]
pub(crate) async fn discharge(
    State(authority): State<Arc<Authority>>,
    Extension(Actor(by)): Extension<Actor>,
    Extension(caller): Extension<Arc<Caller>>,
    Body(body): Body<NewDischarge>,
) -> Result<Json<Discharge>, ApiError> {
    let caveat = URL_SAFE_NO_PAD.decode(&body.caveat).map_err(|_| {
        ApiError::because(Code::ParameterInvalid, "`caveat` is not base64url without padding")
    })?;
    let (discharge, expires_at) = macaroon_desk::discharge(&authority, &caveat, &caller, by).await?;
    Ok(Json(Discharge { discharge: SecretText::new(discharge.expose().clone()), expires_at }))
}

/// A service or a gateway: whoever calls others.
async fn member(authority: &Authority, name: &ServiceName) -> Result<SpiffeId, ApiError> {
    let unknown = || ApiError::because(Code::EntryUnknown, format!("{name} is not registered"));
    let entry = authority.db.service(name.as_str()).await?.ok_or_else(unknown)?;
    Ok(entry.spiffe_id)
}

pub(super) async fn callee(authority: &Authority, name: &ServiceName) -> Result<SpiffeId, ApiError> {
    match member(authority, name).await? {
        id if matches!(id.kind(), IdKind::Service(_)) => Ok(id),
        id => Err(ApiError::because(Code::TargetUnknown, format!("{id} is no service that can be called"))),
    }
}

fn life(asked_s: Option<u64>, usual: Duration, most: Duration) -> Result<Duration, ApiError> {
    match asked_s.map_or(usual, Duration::from_secs) {
        life if life.is_zero() || life > most => Err(out_of_range("ttl_s", most)),
        life => Ok(life),
    }
}

fn out_of_range(parameter: &str, most: Duration) -> ApiError {
    ApiError::because(
        Code::LifetimeOutOfRange,
        format!("`{parameter}` is not within 1 and {}", most.as_secs()),
    )
}

fn shown_once(made: bearer_desk::Made) -> IssuedToken {
    IssuedToken {
        id: made.token.id().to_string(),
        token: SecretText::new(made.token.expose().to_owned()),
        expires_at: made.expires_at,
    }
}

fn describe(stored: Stored) -> Bearer {
    Bearer {
        id: stored.id,
        owner: stored.owner,
        scope: stored.scope,
        issued_by: stored.issued_by,
        issued_at: stored.issued_at,
        expires_at: stored.expires_at,
        replaced_by: stored.replaced_by,
        revoked_at: stored.revoked_at,
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Store(error) => error.into(),
            TokenError::Random(error) => Self::internal("no token", &error),
            refused => Self::because(refused.code(), refused.to_string()),
        }
    }
}

impl From<DischargeError> for ApiError {
    fn from(error: DischargeError) -> Self {
        match error {
            DischargeError::Store(error) => error.into(),
            // What would have to be shown was sealed, and stays so.
            DischargeError::NotShown { .. } => Code::AdminNotPermitted.into(),
            refused => Self::because(Code::ParameterInvalid, refused.to_string()),
        }
    }
}
