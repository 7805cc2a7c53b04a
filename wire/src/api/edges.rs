//! `GET /api/v1/edges`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who calls whom, how, and with what success.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Edge {
    /// SPIFFE ID of the caller, or `user` or `stranger` at the edge.
    pub source: String,
    /// Short name of the callee.
    pub target: String,
    /// What the callee verified, not what is configured.
    pub mode: String,
    /// What stood for the user: `access_token`, `internal_token`, `none`.
    pub user: String,
    /// Calls, refused ones included.
    pub requests: u64,
    /// Refused calls.
    pub denied: u64,
    /// Median latency in milliseconds; absent before the first call.
    pub p50_ms: Option<f64>,
    /// 99th percentile in milliseconds.
    pub p99_ms: Option<f64>,
    /// Id of the policy that allowed the latest call.
    pub policy: Option<String>,
}
