//! What the API says about itself, to everybody.

use std::sync::Arc;

use axum::{Json, Router, extract::State, routing::get};
use serde::Serialize;
use serde_json::{Value, json};

use super::ApiError;
use crate::state::Authority;

/// The OpenAPI document of these routes.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "metadata", responses((status = 200)))]
pub(crate) async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(super::document())
}

/// Routes outside `/api/v1`, whose form standards fix: no evidence is looked at, nothing is decided.
pub(crate) fn routes() -> Router<Arc<Authority>> {
    Router::new()
        .route("/oauth2/jwks", get(jwks))
        .route("/.well-known/oauth-authorization-server", get(authorization_server))
}

/// A key set (RFC 7517 section 5).
#[derive(Debug, Serialize)]
pub(crate) struct KeySet {
    keys: Vec<Value>,
}

impl KeySet {
    /// Public keys as they are published.
    pub(crate) fn of<'a>(
        keys: impl Iterator<Item = &'a countersign_keys::KeyPair>,
    ) -> Result<Self, ApiError> {
        let keys = keys.map(|key| serde_json::from_str(&key.public_key().to_jwk())).collect::<Result<_, _>>();
        Ok(Self { keys: keys.map_err(|error| ApiError::internal("a public key is no JSON", &error))? })
    }
}

async fn jwks(State(authority): State<Arc<Authority>>) -> Result<Json<KeySet>, ApiError> {
    KeySet::of(authority.keys.load().access_token.all()).map(Json)
}

/// RFC 8414, and nothing that is not there: tokens come from `/api/v1/login`, not from an OAuth endpoint.
async fn authorization_server(State(authority): State<Arc<Authority>>) -> Json<Value> {
    Json(json!({
        "issuer": authority.issuer,
        "jwks_uri": format!("{}/oauth2/jwks", authority.issuer),
        "response_types_supported": [],
        "grant_types_supported": [],
    }))
}
