//! The admin listener: `/livez`, `/readyz` (with `?verbose` one line per check), `/healthz`, `/metrics`. Loopback only.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use countersign_wire::codes::Code;
use countersign_wire::problem::{PROBLEM_JSON, Problem};
use http::{HeaderValue, StatusCode, header};

/// Renders the metrics of this process in Prometheus' text format; the recorder is the binary's.
pub type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

/// One condition of readiness: what is needed, and whether it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyCheck {
    /// Short name of the condition.
    pub name: &'static str,
    /// What is missing and what to try, if it does not hold.
    pub missing: Option<String>,
}

/// Answers all conditions anew.
pub(crate) type Readiness = Arc<dyn Fn() -> Vec<ReadyCheck> + Send + Sync>;

/// What is not as it should be, though requests may come: a line each, and what to try.
pub(crate) type Warnings = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// Everything that the admin listener answers.
pub(crate) fn router(readiness: Readiness, warnings: Warnings, metrics: MetricsText) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/healthz", get(readyz))
        .with_state((readiness, warnings))
        .route("/metrics", get(move || async move { ([(header::CONTENT_TYPE, METRICS_TYPE)], metrics()) }))
        .fallback(|| async { problem(Code::RouteUnknown) })
        .method_not_allowed_fallback(|| async { problem(Code::MethodNotAllowed) })
}

async fn readyz(
    State((readiness, warnings)): State<(Readiness, Warnings)>,
    RawQuery(query): RawQuery,
) -> Response {
    let checks = readiness();
    let ready = checks.iter().all(|check| check.missing.is_none());
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if ready && query.as_deref() != Some("verbose") {
        return (status, "ok\n").into_response();
    }
    let mut text = String::new();
    for check in checks {
        match check.missing {
            None => text.push_str(&format!("[+] {} ok\n", check.name)),
            Some(why) => text.push_str(&format!("[-] {} failed: {why}\n", check.name)),
        }
    }
    for warning in warnings() {
        text.push_str(&format!("[!] {warning}\n"));
    }
    (status, text).into_response()
}

fn problem(code: Code) -> Response {
    let problem = Problem::new(code, None);
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON))];
    (status, kind, problem.to_json()).into_response()
}

const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
