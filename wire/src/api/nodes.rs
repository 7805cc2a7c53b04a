//! `POST /api/v1/join-tokens`.

use countersign_identity::{ServiceName, UnixTime};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::SecretText;

/// Asks for the right of one agent to join, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJoinToken {
    /// The name of the node, last part of the agent's SPIFFE ID.
    #[schema(value_type = String)]
    pub node: ServiceName,
    /// Lifetime in seconds, 600 if absent, 86,400 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
}

/// The token: shown once, kept only as a hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinToken {
    /// `csj_<secret>.<base64url SHA-256 of the workload root's SubjectPublicKeyInfo>`.
    #[schema(value_type = String)]
    pub token: SecretText,
    /// Milliseconds since 1970.
    #[schema(value_type = i64)]
    pub expires_at: UnixTime,
}
