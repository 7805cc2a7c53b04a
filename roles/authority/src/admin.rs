//! Probes and metrics, on a loopback address of their own.

use std::{fmt::Write as _, sync::Arc};

use axum::{
    Router,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
    routing::get,
};
use countersign_wire::{api::check::CheckLevel, codes::Code};
use http::{StatusCode, header};

use crate::{
    api::{ApiError, status},
    state::Authority,
};

/// Renders the metrics of this process.
type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// `/livez`, `/healthz`, `/readyz`, `/metrics`.
pub(crate) fn router(authority: &Arc<Authority>, metrics: Metrics) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(Arc::clone(authority))
        .route("/metrics", get(async move || exposition(&metrics)))
        .fallback(async || ApiError::from(Code::RouteUnknown))
        .method_not_allowed_fallback(async || ApiError::from(Code::MethodNotAllowed))
}

fn exposition(metrics: &Metrics) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics()).into_response()
}

/// One line per check with `?verbose`; a warning does not make the process unready.
async fn ready(State(authority): State<Arc<Authority>>, RawQuery(query): RawQuery) -> Response {
    let lines = status::examine(&authority).await;
    let failed = lines.iter().any(|line| line.result == CheckLevel::Fail);
    let status = if failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let verbose =
        query.is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
    let mut text = String::new();
    for line in lines.iter().filter(|line| verbose || line.result == CheckLevel::Fail) {
        let mark = if line.result == CheckLevel::Fail { '-' } else { '+' };
        // Writing into a String cannot fail.
        let _ = writeln!(text, "[{mark}]{} {}", line.name, line.detail);
    }
    text.push_str(if failed { "not ready\n" } else { "ok\n" });
    (status, text).into_response()
}
