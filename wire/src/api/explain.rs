//! `GET /api/v1/decisions/{id}`, `GET /api/v1/decisions/last`.

use countersign_identity::{DecisionId, UnixTime};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a call was allowed or refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// `d_…`.
    #[schema(value_type = String)]
    pub decision: DecisionId,
    /// `allow` or `deny`.
    pub verdict: String,
    /// Where it ended: `transport`, `request`, `identity`, `token`, `policy`, `upstream`.
    pub stage: String,
    /// In the order in which they were made.
    pub checks: Vec<Check>,
    /// What to change; absent when nothing needs to.
    pub fix: Option<String>,
    /// The public code that the caller saw; absent when the call was allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The facts behind the code: for operators only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When, in milliseconds since 1970.
    #[schema(value_type = i64)]
    pub at: UnixTime,
    /// SPIFFE ID of who decided.
    pub writer: String,
    /// Who called, if proven.
    pub source: Option<String>,
    /// Who was called.
    pub target: String,
    /// Absent where no request was read.
    pub method: Option<String>,
    /// The path's template.
    pub route: Option<String>,
    /// Pseudonym of the user.
    pub user: Option<String>,
    /// What was verified.
    pub mode: String,
    /// Id of the policy that decided.
    pub policy: Option<String>,
    /// The status that the caller saw.
    pub status: Option<u16>,
    /// Microseconds.
    pub latency_us: Option<u64>,
    /// Name of the connection at the writer.
    pub connection: Option<String>,
    /// Address of the peer.
    pub peer: Option<String>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// `usage`, `validity`, `chain`, `revocation`, `identity`, …
    pub name: String,
    /// What came out.
    pub result: CheckOutcome,
    /// Why.
    pub detail: Option<String>,
}

/// What came out of a check of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckOutcome {
    /// It held.
    Pass,
    /// It did not.
    Fail,
    /// Not made: an earlier one failed, or what it needs is not at hand.
    NotReached,
}
