//! `[sidecar]`: one service, in front of which this process stands.

use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_sdk::live::Staleness;
use countersign_sdk::outbound::CallLimits;
use schemars::JsonSchema;
use serde::Deserialize;
use thiserror::Error;

use crate::body::{BodyLimits, Slowest};
use crate::filter::settings::FilterSettings;
use crate::upgrade::Upgrade;
use crate::upstream::settings::AnswerHead;

/// `[sidecar]`. One of the pairs `inbound` and `app`, or `outbound`, is needed.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The service's registered short name: in its name this process serves and calls.
    pub service: String,
    /// Where other services reach it, in the modes that its entry accepts.
    #[serde(default)]
    pub inbound: Option<SocketAddr>,
    /// Where the service itself listens: `unix:/path`, mode 0600 and of the same user as this process.
    #[serde(default)]
    pub app: Option<UnixAddress>,
    /// The service speaks HTTP/2 with prior knowledge, as gRPC servers do. Otherwise HTTP/1.1.
    #[serde(default)]
    pub app_http2: bool,
    /// The service listens on a loopback port instead, which every process of this machine can reach past the sidecar.
    #[serde(default)]
    pub app_on_loopback_port_insecure: Option<SocketAddr>,
    /// Where the service sends its own calls, `Host` naming the callee: `unix:/path`, made by this process, mode 0600.
    #[serde(default)]
    pub outbound: Option<UnixAddress>,
    /// It sends them to a loopback port instead: every process of this machine can call in the name of this service.
    #[serde(default)]
    pub outbound_on_loopback_port_insecure: Option<SocketAddr>,
    /// Threads; one for each core by default.
    #[serde(default)]
    pub workers: Option<NonZeroUsize>,
    /// `/livez`, `/readyz`, `/metrics`; loopback.
    #[serde(default)]
    pub admin: Option<SocketAddr>,
    /// Templates of the service's routes, as its policies call them. Empty: those that the policies name.
    #[serde(default)]
    pub routes: Vec<String>,
    /// What counts while the authority is not heard, and with it who is revoked: for the workload in whose name this
    /// process serves (`Workload::builder(..).staleness(..)`).
    #[serde(default)]
    #[schemars(schema_with = "crate::settings::staleness")]
    pub revocation: Staleness,
    /// Servers of the operator's own that are asked about each request that was let in, in this order.
    #[serde(default, rename = "filter")]
    pub filters: Vec<FilterSettings>,
    /// Longest body of a request, in bytes.
    #[serde(default = "body_bytes_max")]
    pub body_bytes_max: u64,
    /// Longest pause in the bodies of an exchange: while one direction moves, the other may pause.
    #[serde(default = "body_idle_timeout_ms")]
    pub body_idle_timeout_ms: u64,
    /// Bytes of a caller's body that a second of waiting for it has to bring, beyond `body_rate_grace_ms`. gRPC is exempt
    /// where `app_http2` is set.
    #[serde(default = "body_rate_min_bytes_s")]
    pub body_rate_min_bytes_s: NonZeroU64,
    /// How long a caller's body is waited for in sum before its rate counts.
    #[serde(default = "body_rate_grace_ms")]
    pub body_rate_grace_ms: u64,
    /// From a request's head, or from the last piece of its body that came, to its answer's head.
    #[serde(default = "request_timeout_ms")]
    pub request_timeout_ms: u64,
    /// How long the head of an answer of the service may be.
    #[serde(default)]
    pub answer_head: AnswerHead,
    /// From a request's head to the last byte of its answer. Absent: as long as it moves.
    #[serde(default)]
    pub total_timeout_ms: Option<u64>,
    /// A body of HTTP or a stream of gRPC may go on when the token of its user has expired; revocation ends it all the same,
    /// and a WebSocket always ends. Absent or false: it ends with the token.
    #[serde(default)]
    pub streams_may_outlive_their_users_token_insecure: bool,
    /// What requests may leave HTTP for, to the service and from it: `websocket`. None named: whoever asks is refused.
    #[serde(default)]
    pub upgrade: Vec<Upgrade>,
    /// A connection that left HTTP is closed when nothing moves on it for so long.
    #[serde(default = "upgrade_idle_timeout_ms")]
    pub upgrade_idle_timeout_ms: u64,
}

/// `unix:/absolute/path`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct UnixAddress(PathBuf);

/// Why a text is not the address of a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnixAddressError {
    /// Not `unix:` and an absolute path.
    #[error("`{text}` is no unix socket; write unix:/absolute/path")]
    Form {
        /// What stands there.
        text: String,
    },
    /// Longer than the operating system takes.
    #[error(
        "the path of a unix socket has {bytes} bytes, at most {PATH_BYTES_MAX}; choose a shorter directory"
    )]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
}

impl UnixAddress {
    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl TryFrom<String> for UnixAddress {
    type Error = UnixAddressError;

    fn try_from(text: String) -> Result<Self, UnixAddressError> {
        let path = text.strip_prefix("unix:").map(PathBuf::from).filter(|path| path.is_absolute());
        let Some(path) = path else { return Err(UnixAddressError::Form { text }) };
        match path.as_os_str().len() {
            bytes if bytes > PATH_BYTES_MAX => Err(UnixAddressError::TooLong { bytes }),
            _ => Ok(Self(path)),
        }
    }
}

impl Settings {
    /// Ports that must not be reachable from other machines.
    pub(super) fn loopback_only(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        [
            ("app_on_loopback_port_insecure", self.app_on_loopback_port_insecure),
            ("outbound_on_loopback_port_insecure", self.outbound_on_loopback_port_insecure),
            ("admin", self.admin),
        ]
        .into_iter()
        .filter_map(|(name, address)| Some((name, address?)))
    }

    /// Limits of the service's own calls.
    #[must_use]
    pub fn call_limits(&self) -> CallLimits {
        CallLimits { answer: self.request_timeout(), ..CallLimits::default() }
    }

    /// From a request's head, or from the last piece of its body that came, to its answer's head.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    pub(super) fn total_timeout(&self) -> Option<Duration> {
        self.total_timeout_ms.map(Duration::from_millis)
    }

    pub(super) fn upgrade_idle_timeout(&self) -> Duration {
        Duration::from_millis(self.upgrade_idle_timeout_ms)
    }

    /// Of bodies that the service itself sends.
    pub(super) fn own_bodies(&self) -> BodyLimits {
        let idle_timeout = Duration::from_millis(self.body_idle_timeout_ms);
        BodyLimits { bytes_max: self.body_bytes_max, idle_timeout, slowest: None }
    }

    /// Of bodies that callers send.
    pub(super) fn callers_bodies(&self) -> BodyLimits {
        let grace = Duration::from_millis(self.body_rate_grace_ms);
        let slowest = Some(Slowest { bytes_s: self.body_rate_min_bytes_s, grace });
        BodyLimits { slowest, ..self.own_bodies() }
    }
}

const fn body_bytes_max() -> u64 {
    2 << 30
}

const fn body_idle_timeout_ms() -> u64 {
    60_000
}

fn body_rate_min_bytes_s() -> NonZeroU64 {
    NonZeroU64::new(500).unwrap_or(NonZeroU64::MIN)
}

const fn body_rate_grace_ms() -> u64 {
    20_000
}

const fn upgrade_idle_timeout_ms() -> u64 {
    120_000
}

const fn request_timeout_ms() -> u64 {
    30_000
}

/// `sun_path` of Linux, with its closing NUL.
const PATH_BYTES_MAX: usize = 107;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_small_table_is_enough() {
        let text = "service = \"ads\"\ninbound = \"127.0.0.1:0\"\napp = \"unix:/run/ads/app.sock\"\n";
        let settings: Settings = toml::from_str(text).unwrap();
        assert_eq!(settings.app.unwrap().path(), Path::new("/run/ads/app.sock"));
        assert_eq!(settings.request_timeout_ms, 30_000);
    }

    #[test]
    fn rejects_what_is_no_unix_socket() {
        let address = |text: &str| UnixAddress::try_from(text.to_owned());
        for bad in ["", "/run/a.sock", "unix:", "unix:a.sock", "tcp:/run/a"] {
            assert_eq!(address(bad), Err(UnixAddressError::Form { text: bad.to_owned() }));
        }
        let long = format!("unix:/{}", "a".repeat(107));
        assert_eq!(address(&long), Err(UnixAddressError::TooLong { bytes: 108 }));
    }

    #[test]
    fn rejects_an_unknown_key() {
        assert!(toml::from_str::<Settings>("service = \"ads\"\ninbuond = \"127.0.0.1:0\"\n").is_err());
    }
}
