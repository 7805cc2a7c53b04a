//! The body of every error of every listener (RFC 9457).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::codes::{Code, Public};

/// The media type of a [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What a caller is told: a safe public code and a decision id. Stage, rule and reason are for the operator
/// (`countersign explain <decision>`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A URI for the kind of problem; its fragment is a heading of `docs/errors.md`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same sentence for every problem of this type.
    pub title: String,
    /// The HTTP status, again.
    pub status: u16,
    /// The public code, `access_denied`.
    pub code: String,
    /// The id under which the operator finds the reasons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// What is wrong with this very request. Only about what the caller itself sent, never about why we
    /// believe or permit something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Problem {
    /// The public side of `code`.
    #[must_use]
    pub fn new(code: Code, decision: Option<String>) -> Problem {
        let public = code.entry().public;
        Problem {
            kind: public.type_uri(),
            title: public.title().to_owned(),
            status: public.status(),
            code: public.as_str().to_owned(),
            decision,
            detail: None,
        }
    }

    /// Adds what is wrong with the request itself.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Problem {
        self.detail = Some(detail.into());
        self
    }

    /// The public code, if this version knows it.
    #[must_use]
    pub fn public(&self) -> Option<Public> {
        Public::parse(&self.code)
    }

    /// The body, JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and a number: nothing here can fail to serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }
}
