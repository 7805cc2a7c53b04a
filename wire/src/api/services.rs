//! `/api/v1/services`.

use countersign_identity::{Mode, ServiceName, SpiffeId, UnixTime, UserContext, WimseProof};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::certificates::Certificate;

/// A registered service, as `service list` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Short name.
    #[schema(value_type = String)]
    pub name: ServiceName,
    /// Its identity.
    #[schema(value_type = String)]
    pub spiffe_id: SpiffeId,
    /// `host:port`.
    pub address: String,
    /// Modes that it accepts.
    #[schema(value_type = Vec<String>)]
    pub accepts: Vec<Mode>,
    /// The mode in which it calls others.
    #[schema(value_type = String)]
    pub sends: Mode,
    /// How it carries its user along.
    #[serde(default)]
    #[schema(value_type = String)]
    pub user_context: UserContext,
    /// Which proof it sends in mode `wimse`.
    #[serde(default)]
    #[schema(value_type = String)]
    pub wimse: WimseProof,
    /// Set while its floor is lowered: when that ends, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>)]
    pub lowered_until: Option<UnixTime>,
}

/// A registered service with the link from its identity to its keys (`service show`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceDetail {
    /// As in the listing.
    #[serde(flatten)]
    pub service: Service,
    /// Immutable, opaque, never reused.
    pub id: String,
    /// Uids that may launch it.
    pub launch_by: Vec<u32>,
    /// Milliseconds since 1970.
    #[schema(value_type = i64)]
    pub created_at: UnixTime,
    /// Newest first, bounded.
    pub certificates: Vec<Certificate>,
}

/// `POST /api/v1/services`: registers a service, or replaces the entry of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewService {
    /// Short name; its identity follows from it.
    #[schema(value_type = String)]
    pub name: ServiceName,
    /// `host:port`.
    pub address: String,
    /// Uids that may launch it.
    pub launch_by: Vec<u32>,
    /// `["mtls"]` if absent.
    #[serde(default = "mtls_only")]
    #[schema(value_type = Vec<String>)]
    pub accepts: Vec<Mode>,
    /// `mtls` if absent.
    #[serde(default = "mtls")]
    #[schema(value_type = String)]
    pub sends: Mode,
}

fn mtls_only() -> Vec<Mode> {
    vec![Mode::Mtls]
}

fn mtls() -> Mode {
    Mode::Mtls
}
