//! Bodies of `/api/v1`, one file per column.
//!
//! Moments are milliseconds since 1970-01-01T00:00:00Z, members named `…_at` or `not_…`; DER is base64; serial
//! numbers are lower-case hex. Every listing is bounded and says where to go on ([`Page`]).

pub mod audit;
pub mod certificates;
pub mod check;
pub mod edges;
pub mod explain;
pub mod federation;
pub mod modes;
pub mod nodes;
pub mod policies;
pub mod revocations;
pub mod services;
pub mod status;
pub mod tokens;
pub mod users;
pub mod verify;
pub mod workload_keys;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Items per page unless the request says otherwise.
pub const PAGE_ITEMS_DEFAULT: u32 = 100;
/// Items per page at most.
pub const PAGE_ITEMS_MAX: u32 = 1000;

/// A part of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// In the order of the listing.
    pub items: Vec<T>,
    /// Give this as `after` to get the next part; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Which part of a listing is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// [`PAGE_ITEMS_DEFAULT`] if absent, [`PAGE_ITEMS_MAX`] at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `next` of the part before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

impl PageQuery {
    /// How many items to give, from 1 to [`PAGE_ITEMS_MAX`].
    #[must_use]
    pub fn items(&self) -> u32 {
        self.limit.unwrap_or(PAGE_ITEMS_DEFAULT).clamp(1, PAGE_ITEMS_MAX)
    }
}
