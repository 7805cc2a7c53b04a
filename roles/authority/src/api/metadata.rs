//! What the API says about itself, to everybody.

use std::sync::Arc;

use axum::{Json, Router, extract::State, routing::get};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    ApiError, TOKEN_ENDPOINT,
    sts::{INTROSPECTION_ENDPOINT, REVOCATION_ENDPOINT, TOKEN_EXCHANGE},
};
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

/// Every key with which we sign tokens that others verify; each kind of token has its own.
async fn jwks(State(authority): State<Arc<Authority>>) -> Result<Json<KeySet>, ApiError> {
    let keys = authority.keys.load();
    let kinds = [&keys.access_token, &keys.exchange, &keys.txn, &keys.jwt_svid, &keys.wit];
    KeySet::of(kinds.into_iter().flat_map(|kind| kind.all())).map(Json)
}

/// RFC 8414, and nothing that is not there: people log in at `/api/v1/login`, so there is no authorization endpoint,
/// and nobody gets an ID token.
async fn authorization_server(State(authority): State<Arc<Authority>>) -> Json<Value> {
    let issuer = &authority.issuer;
    let at = |path: &str| format!("{issuer}{path}");
    let endpoints = json!({
        "token_endpoint": at(TOKEN_ENDPOINT),
        "introspection_endpoint": at(INTROSPECTION_ENDPOINT),
        "revocation_endpoint": at(REVOCATION_ENDPOINT),
    });
    let methods = json!(["tls_client_auth", "private_key_jwt"]);
    let algorithms = json!(["ES256", "Ed25519", "EdDSA", "RS256"]);
    let mut document = json!({
        "issuer": issuer,
        "jwks_uri": at("/oauth2/jwks"),
        "response_types_supported": [],
        "grant_types_supported": [TOKEN_EXCHANGE],
        "token_endpoint_auth_methods_supported": methods,
        "token_endpoint_auth_signing_alg_values_supported": algorithms,
        "introspection_endpoint_auth_methods_supported": methods,
        "introspection_endpoint_auth_signing_alg_values_supported": algorithms,
        "revocation_endpoint_auth_methods_supported": methods,
        "revocation_endpoint_auth_signing_alg_values_supported": algorithms,
        "tls_client_certificate_bound_access_tokens": true,
        // The same listener asks everybody for a certificate and takes those that have none.
        "mtls_endpoint_aliases": endpoints,
        "dpop_signing_alg_values_supported": algorithms,
    });
    if let (Some(document), Some(endpoints)) = (document.as_object_mut(), endpoints.as_object()) {
        document.extend(endpoints.clone());
    }
    Json(document)
}
