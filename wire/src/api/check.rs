//! `GET /api/v1/check`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the authority finds when it examines itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckReport {
    /// In a fixed order.
    pub checks: Vec<CheckLine>,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckLine {
    /// What was examined: `database.synchronous`.
    pub name: String,
    /// What was found.
    pub result: CheckLevel,
    /// In words.
    pub detail: String,
    /// What to do, unless all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckLevel {
    /// As it should be.
    Pass,
    /// Works, and should not stay so.
    Warn,
    /// Wrong: `check` ends with exit code 1.
    Fail,
}

impl CheckReport {
    /// The worst finding.
    #[must_use]
    pub fn worst(&self) -> CheckLevel {
        self.checks.iter().map(|line| line.result).max().unwrap_or(CheckLevel::Pass)
    }
}
