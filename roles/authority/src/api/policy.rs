//! The column `policy`, thin: what is in force, and reading the directory again.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use countersign_policy::PolicySet;
use countersign_wire::{
    api::policies::{Policies, PolicyFile},
    codes::Code,
    problem::Problem,
};

use super::ApiError;
use crate::{
    http::Actor,
    policies::{self, ApplyError},
    snapshot,
    state::Authority,
};

/// The policies that are in force.
#[utoipa::path(get, path = "/api/v1/policies", tag = "policy", responses((status = 200, body = Policies)))]
pub(crate) async fn show(State(authority): State<Arc<Authority>>) -> Result<Json<Policies>, ApiError> {
    let stored = authority.db.policies().await?;
    let set = PolicySet::load(stored.files.iter().map(|file| (file.name.as_str(), file.text.as_str())))
        .map_err(|error| ApiError::internal("stored policies do not load", &error))?;
    let file = |file: countersign_store::policies::PolicyFile| PolicyFile {
        rules: set.rules(&file.name).map(str::to_owned).collect(),
        name: file.name,
        text: file.text,
    };
    Ok(Json(Policies { generation: stored.generation, files: stored.files.into_iter().map(file).collect() }))
}

/// Reads the policy directory again. A file that does not load leaves all of them as they were.
#[utoipa::path(post, path = "/api/v1/policies/reload", tag = "policy",
    responses((status = 200, body = Policies), (status = 422, body = Problem)))]
pub(crate) async fn reload(
    State(authority): State<Arc<Authority>>,
    Extension(Actor(by)): Extension<Actor>,
) -> Result<Json<Policies>, ApiError> {
    let Some(dir) = authority.policy_dir.clone() else {
        return Err(ApiError::because(Code::ParameterInvalid, "no directory is configured in [policy]"));
    };
    match policies::apply(&authority, &dir, &by).await {
        Ok(_) => snapshot::publish_change(&authority).await,
        Err(ApplyError::Store(error)) => return Err(error.into()),
        Err(error) => return Err(ApiError::because(Code::PolicyInvalid, error.to_string())),
    }
    show(State(authority)).await
}
