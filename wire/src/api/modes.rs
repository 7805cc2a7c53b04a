//! `/api/v1/services/{name}/modes`, `/api/v1/demo/mode`: how services prove themselves to each other.

use countersign_identity::{Mode, SpiffeId, UserContext, WimseProof};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::services::Service;

/// Changes the modes of one service; what is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeModes {
    /// Modes that it accepts: its floor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub accepts: Option<Vec<Mode>>,
    /// The mode in which it calls others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub sends: Option<Mode>,
    /// How it carries its user along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub user_context: Option<UserContext>,
    /// Which proof it sends in mode `wimse`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub wimse: Option<WimseProof>,
}

/// Lowers a floor for a while: afterwards what was before comes back by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LowerFloor {
    /// Modes that it accepts meanwhile.
    #[schema(value_type = Vec<String>)]
    pub accepts: Vec<Mode>,
    /// For how many seconds, 1 to 604800.
    pub for_s: u64,
}

/// Switches every service of a demonstration at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SwitchDemo {
    /// What every service accepts and sends from then on.
    #[schema(value_type = String)]
    pub mode: Mode,
    /// How users are carried along; `same` if absent.
    #[serde(default)]
    #[schema(value_type = String)]
    pub user_context: UserContext,
    /// Which proof is sent in mode `wimse`; `token` if absent.
    #[serde(default)]
    #[schema(value_type = String)]
    pub wimse: WimseProof,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModesChanged {
    /// The services that were changed, as they are now.
    pub services: Vec<Service>,
    /// Running workloads that did not confirm the last step in time; they follow as soon as they can.
    #[schema(value_type = Vec<String>)]
    pub unconfirmed: Vec<SpiffeId>,
}
