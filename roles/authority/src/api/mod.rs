//! The routes of `/api/v1`, one file per column, and what all of them share: errors and bodies.

pub(crate) mod ca;
pub(crate) mod federation;
pub(crate) mod idp;
pub(crate) mod ledger;
pub(crate) mod metadata;
pub(crate) mod modes;
pub(crate) mod nodes;
pub(crate) mod policy;
pub(crate) mod revocations;
pub(crate) mod status;
pub(crate) mod sts;
pub(crate) mod tokens;
pub(crate) mod verify;
pub(crate) mod workload_keys;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    response::{IntoResponse, Response},
};
use countersign_store::StoreError;
use countersign_wire::{
    codes::Code,
    json,
    problem::{PROBLEM_JSON, Problem},
};
use http::{HeaderValue, StatusCode, header, request::Parts};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use utoipa::{OpenApi, openapi::OpenApi as Document};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{error::store_code, state::Authority};

/// Where tokens are exchanged, below the issuer (RFC 8414).
pub(crate) const TOKEN_ENDPOINT: &str = "/oauth2/token";

/// What the document says besides the routes.
#[derive(OpenApi)]
#[openapi(info(
    title = "Countersign authority",
    description = "Control plane: certificates, logins, policies, ledger."
))]
struct Description;

/// Every route of `/api/v1`; each needs a row in `policies/admin.cedar`.
pub(crate) fn routes() -> Router<Arc<Authority>> {
    all().split_for_parts().0
}

/// The document of the same routes, generated from their handlers.
pub(crate) fn document() -> Document {
    all().split_for_parts().1
}

fn all() -> OpenApiRouter<Arc<Authority>> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(metadata::openapi))
        .routes(routes!(status::status))
        .routes(routes!(status::check))
        .routes(routes!(nodes::services, nodes::register))
        .routes(routes!(nodes::service))
        .routes(routes!(nodes::join_token))
        .routes(routes!(modes::change))
        .routes(routes!(modes::lower))
        .routes(routes!(modes::switch_demo))
        .routes(routes!(revocations::list, revocations::revoke))
        .routes(routes!(tokens::bearers, tokens::issue_bearer))
        .routes(routes!(tokens::rotate_bearer))
        .routes(routes!(tokens::revoke_bearer))
        .routes(routes!(tokens::issue_macaroon))
        .routes(routes!(tokens::discharge))
        .routes(routes!(verify::verify))
        .routes(routes!(workload_keys::list, workload_keys::register))
        .routes(routes!(workload_keys::withdraw))
        .routes(routes!(ca::bundle))
        .routes(routes!(ca::crl))
        .routes(routes!(federation::own))
        .routes(routes!(federation::list, federation::take))
        .routes(routes!(federation::end))
        .routes(routes!(ca::list, ca::issue))
        .routes(routes!(ca::revoke))
        .routes(routes!(idp::list, idp::add))
        .routes(routes!(idp::set_password))
        .routes(routes!(idp::login))
        .routes(routes!(sts::token))
        .routes(routes!(sts::introspect))
        .routes(routes!(sts::revoke))
        .routes(routes!(policy::show))
        .routes(routes!(policy::reload))
        .routes(routes!(ledger::edges))
        .routes(routes!(ledger::decision))
        .routes(routes!(ledger::events))
        .routes(routes!(ledger::head))
        .routes(routes!(ledger::keys))
}

/// Why a request is not answered as asked. The caller sees the public side of `code` and what it sent itself;
/// causes go to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) code: Code,
    pub(crate) detail: Option<String>,
    pub(crate) retry_after: Option<Duration>,
    /// For the next DPoP proof.
    pub(crate) nonce: Option<String>,
}

impl ApiError {
    /// What is wrong with the request itself, safe to say.
    pub(crate) fn because(code: Code, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..code.into() }
    }

    /// Something failed here: the reason is logged, and not told.
    pub(crate) fn internal(what: &'static str, cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "{what}");
        Code::Internal.into()
    }

    /// The same error with the time after which to try again.
    pub(crate) fn retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }
}

impl From<Code> for ApiError {
    fn from(code: Code) -> Self {
        Self { code, detail: None, retry_after: None, nonce: None }
    }
}

impl From<sts::ProofRefusal> for ApiError {
    fn from(refusal: sts::ProofRefusal) -> Self {
        tracing::info!(reason = refusal.reason, "a dpop proof was refused");
        Self { nonce: refusal.nonce, ..refusal.code.into() }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let code = store_code(&error);
        tracing::error!(%error, %code, "the database failed");
        code.into()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut problem = Problem::new(self.code, None);
        problem.detail = self.detail;
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response =
            (status, [(header::CONTENT_TYPE, PROBLEM_JSON)], problem.to_json()).into_response();
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs().saturating_add(1);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(nonce) = self.nonce.and_then(|nonce| HeaderValue::from_str(&nonce).ok()) {
            response.headers_mut().insert(sts::DPOP_NONCE, nonce);
        }
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// A JSON body, read through the one strict reader: bounded, no unknown or doubled member.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        read_json(request, json::BODY_BYTES_MAX).await.map(Self)
    }
}

/// Reads a JSON body of at most `max` bytes.
pub(crate) async fn read_json<T: DeserializeOwned>(request: Request, max: usize) -> Result<T, ApiError> {
    let media_type = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if !media_type.is_some_and(is_json) {
        return Err(Code::MediaTypeUnsupported.into());
    }
    let limited = Limited::new(request.into_body(), max);
    let bytes = limited.collect().await.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => Code::BodyTooLarge.into(),
        None => ApiError::because(Code::BodyMalformed, "the body ended before it was complete"),
    })?;
    let read = json::from_slice(&bytes.to_bytes(), max);
    read.map_err(|error| ApiError::because(Code::BodyMalformed, error.to_string()))
}

fn is_json(media_type: &[u8]) -> bool {
    let essence = media_type.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

/// A query, in which an unknown parameter is an error.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let read = Query::<T>::from_request_parts(parts, state).await;
        read.map(|Query(value)| Self(value)).map_err(|_| {
            ApiError::because(Code::ParameterInvalid, "the query has an unknown, doubled or unfit parameter")
        })
    }
}

/// The one parameter of a path.
pub(crate) struct PathParam(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for PathParam {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let read = Path::<String>::from_request_parts(parts, state).await;
        read.map(|Path(value)| Self(value)).map_err(|_| Code::ParameterInvalid.into())
    }
}
