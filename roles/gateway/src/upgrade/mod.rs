//! Leaving HTTP: a WebSocket (RFC 6455) is authenticated and decided at its handshake like any request, and from then on
//! bytes flow both ways, each only as fast as the other end takes them.
//!
//! | ends it | |
//! |---|---|
//! | either end | as it likes |
//! | `upgrade_idle_timeout_ms` | nothing moved |
//! | the [`Tenure`] | the same request would be refused now: the token is over or was taken back, the certificate was, the floor or the policy is another |
//! | the callee | its certificate is no longer believed |
//! | the connection | it is old, or the process ends |

mod handshake;
mod tenure;
mod tunnel;

use schemars::JsonSchema;
use serde::Deserialize;

pub(crate) use self::handshake::{
    WEBSOCKET, accepts, asks_to_leave, dress_answer, dress_request, is_handshake,
};
pub(crate) use self::tenure::{EdgeTenure, Newest, Tenure};
pub(crate) use self::tunnel::{Ending, Leaving, Tunnel, Way};

/// What a connection may leave HTTP for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Upgrade {
    /// RFC 6455.
    Websocket,
}
