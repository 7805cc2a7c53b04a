//! Keys of services by registration: no certificate, and no CA, is needed for a proof that they verify.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use countersign_identity::{IdKind, SpiffeId};
use countersign_store::workload_keys::WorkloadKey as Stored;
use countersign_wire::{
    api::workload_keys::{NewWorkloadKey, RegisteredKey, WithdrawKey},
    codes::Code,
    json::JsonError,
    problem::Problem,
    snapshot::Jwk,
};

use super::{ApiError, Body, PathParam};
use crate::{
    http::Actor,
    proof_keys::{self, RegisterKeyError},
    snapshot,
    state::Authority,
};

/// Registered keys of a service.
#[utoipa::path(get, path = "/api/v1/services/{name}/keys", tag = "tokens", params(("name" = String, Path)),
    responses((status = 200, body = Vec<RegisteredKey>), (status = 404, body = Problem)))]
pub(crate) async fn list(
    State(authority): State<Arc<Authority>>,
    PathParam(name): PathParam,
) -> Result<Json<Vec<RegisteredKey>>, ApiError> {
    let owner = owner(&authority, &name).await?;
    let all = authority.db.workload_keys().await?;
    Ok(Json(all.into_iter().filter(|key| key.owner == owner).map(describe).collect::<Result<_, _>>()?))
}

/// Registers a public key of a service.
#[utoipa::path(post, path = "/api/v1/services/{name}/keys", tag = "tokens", params(("name" = String, Path)),
    request_body = NewWorkloadKey,
    responses((status = 200, body = RegisteredKey), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(crate) async fn register(
    State(authority): State<Arc<Authority>>,
    Extension(Actor(by)): Extension<Actor>,
    PathParam(name): PathParam,
    Body(body): Body<NewWorkloadKey>,
) -> Result<Json<RegisteredKey>, ApiError> {
    let owner = owner(&authority, &name).await?;
    let stored = proof_keys::register(&authority, owner, body.purpose, &body.jwk, by).await;
    let stored = stored.map_err(|error| match error {
        RegisterKeyError::Store(error) => error.into(),
        refused => ApiError::because(Code::ParameterInvalid, refused.to_string()),
    })?;
    snapshot::publish_change(&authority).await;
    Ok(Json(describe(stored)?))
}

/// Withdraws a key of a service, for ever.
#[utoipa::path(post, path = "/api/v1/services/{name}/keys/withdraw", tag = "tokens",
    params(("name" = String, Path)), request_body = WithdrawKey,
    responses((status = 200, body = Vec<RegisteredKey>), (status = 404, body = Problem)))]
pub(crate) async fn withdraw(
    State(authority): State<Arc<Authority>>,
    Extension(Actor(by)): Extension<Actor>,
    PathParam(name): PathParam,
    Body(body): Body<WithdrawKey>,
) -> Result<Json<Vec<RegisteredKey>>, ApiError> {
    let owner = owner(&authority, &name).await?;
    proof_keys::withdraw(&authority, owner, body.kid, by).await?;
    snapshot::publish_change(&authority).await;
    list(State(authority), PathParam(name)).await
}

/// A gateway signs for users with keys that it publishes itself; only services have registered ones.
async fn owner(authority: &Authority, name: &str) -> Result<SpiffeId, ApiError> {
    let entry = authority.db.service(name).await?.ok_or(Code::ObjectUnknown)?;
    match entry.spiffe_id.kind() {
        IdKind::Service(_) => Ok(entry.spiffe_id),
        _ => Err(ApiError::because(Code::ParameterInvalid, "only services have registered keys")),
    }
}

fn describe(stored: Stored) -> Result<RegisteredKey, ApiError> {
    let unreadable = |error: JsonError| ApiError::internal("a registered key cannot be read", &error);
    Ok(RegisteredKey {
        kid: stored.kid,
        owner: stored.owner,
        purpose: proof_keys::purpose(&stored.purpose)?,
        jwk: Jwk::from_text(&stored.jwk).map_err(unreadable)?,
        registered_by: stored.registered_by,
        registered_at: stored.registered_at,
    })
}
