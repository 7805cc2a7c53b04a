//! The tables `[[gateway.filter]]` and `[[sidecar.filter]]`.
//!
//! ```toml
//! [[gateway.filter]]
//! name    = "opa"
//! address = "unix:/run/opa/authz.sock"     # mode 0600, our own user's
//! headers = ["x-opa-*"]
//! ```

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::Deserialize;

/// One filter of the operator's own: a server of Envoy's external authorisation, version 3, over gRPC.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilterSettings {
    /// What routes, records and metrics call it.
    pub name: String,
    /// `unix:/path`, a socket of our own user with mode 0600; or `host:port`, with `expect`.
    pub address: String,
    /// Its SPIFFE ID: mutual TLS by our own identity and the bundles that we trust.
    #[serde(default)]
    pub expect: Option<String>,
    /// From the question to its answer.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// Questions at one time, and bodies that are held for them. One more is refused.
    #[serde(default = "questions_max")]
    pub questions_max: NonZeroU32,
    /// Shown of each request's body; a longer one is refused (413). 0: the filter does not see bodies.
    #[serde(default)]
    pub body_bytes_max: u64,
    /// Headers of the request that it may set and remove; a name may end in `*`. None named: none.
    #[serde(default)]
    pub headers: Vec<String>,
    /// Lets requests through unseen while nobody listens there, or whoever does says UNAVAILABLE.
    #[serde(default)]
    pub fail_open_insecure_when_the_filter_is_down: bool,
}

const fn timeout_ms() -> u64 {
    500
}

fn questions_max() -> NonZeroU32 {
    NonZeroU32::new(256).unwrap_or(NonZeroU32::MIN)
}
