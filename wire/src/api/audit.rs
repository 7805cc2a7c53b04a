//! `/api/v1/audit/events`, `/api/v1/audit/head`.

use countersign_identity::UnixTime;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Base64;

/// One event of the ledger with everything that is needed to verify it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEvent {
    /// Place in the whole ledger, from 1.
    pub index: u64,
    /// SPIFFE ID of the writer.
    pub writer: String,
    /// Name of this start of the writer.
    pub boot: String,
    /// Place in the writer's chain, from 1.
    pub sequence: u64,
    /// When it was stored, in milliseconds since 1970.
    #[schema(value_type = i64)]
    pub stored_at: UnixTime,
    /// Kind of event, `certificate_signed`.
    pub kind: String,
    /// The exact bytes: JSON with a schema version.
    #[schema(value_type = String, format = Byte)]
    pub event: Base64,
    /// SHA-256 hash of the writer's chain after this event.
    #[schema(value_type = String, format = Byte)]
    pub chain: Base64,
    /// SHA-256 hash of the whole ledger after this event.
    #[schema(value_type = String, format = Byte)]
    pub log: Base64,
}

/// Which events are asked for; every condition given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// Only events with a greater index (pages go upwards).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// The newest `limit` events instead of the oldest.
    #[serde(default)]
    pub newest: bool,
    /// As in [`super::PageQuery`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Kind of event. `decision` also finds the batches of `allowed_calls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// SPIFFE ID of the writer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<String>,
    /// Decision id: the event of its own, or the batch that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// `allow` or `deny`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Stored at or after, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>)]
    pub since: Option<UnixTime>,
    /// Stored before, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>)]
    pub until: Option<UnixTime>,
}
