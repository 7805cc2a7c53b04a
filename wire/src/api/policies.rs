//! `GET /api/v1/policies`, `POST /api/v1/policies/reload`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The policies that are in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Policies {
    /// Grows with every change of any file.
    pub generation: u64,
    /// One file per target, by name.
    pub files: Vec<PolicyFile>,
}

/// The rules of one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyFile {
    /// The target service, or `gateway`.
    pub name: String,
    /// Ids of its rules.
    pub rules: Vec<String>,
    /// Cedar.
    pub text: String,
}
