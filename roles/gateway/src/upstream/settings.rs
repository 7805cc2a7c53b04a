//! The tables `[[gateway.upstream]]`: every setting, its unit in its name, its default.
//!
//! ```toml
//! [[gateway.upstream]]
//! name      = "backend"
//! endpoints = ["10.0.0.7:9000", "10.0.0.8:9000"]
//! ```

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

/// One `[[gateway.upstream]]`. Exactly one of `endpoints`, `dns`, `srv` and `file` says where it is.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamSettings {
    /// What a route's `to` says. No service of the deployment may have the same name.
    pub name: String,
    /// `host:port`, or `unix:/path`; with a weight of its own: `host:port weight=3`.
    #[serde(default)]
    pub endpoints: Vec<String>,
    /// `name:port`: every address that DNS has for the name (A and AAAA), asked again when they expire.
    #[serde(default)]
    pub dns: Option<String>,
    /// `_service._proto.name`: what DNS has for it (SRV), asked again when it expires.
    #[serde(default)]
    pub srv: Option<String>,
    /// A file with one endpoint a line, written as in `endpoints`; read again when it changes.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// How DNS is asked.
    #[serde(default)]
    pub resolver: Resolver,
    /// HTTP/2 with prior knowledge, or by ALPN over TLS. Otherwise HTTP/1.1.
    #[serde(default)]
    pub http2: bool,
    /// Absent: plain HTTP, and nobody is proven.
    #[serde(default)]
    pub tls: Option<UpstreamTls>,
    /// What `Host` says there; absent: what the client asked for.
    #[serde(default)]
    pub host: Option<String>,
    /// Whether the end user's internal token goes along (header `Txn-Token`). To an expected workload it always does; to
    /// anybody else only if this says so.
    #[serde(default)]
    pub send_user_token: bool,
    /// Waiting times.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// How long the head of an answer may be.
    #[serde(default)]
    pub answer_head: AnswerHead,
    /// How much of everything at one time.
    #[serde(default)]
    pub breaker: Breaker,
    /// Which failed tries are repeated, and how many at most.
    #[serde(default)]
    pub retry: Retry,
    /// Asks each endpoint whether it is well. Absent: nobody asks.
    #[serde(default)]
    pub health: Option<Health>,
    /// Leaves endpoints alone for a while that keep failing.
    #[serde(default)]
    pub outlier: Outlier,
    /// With a smaller share of its endpoints usable than this, in percent, all of them are used: either the checks are
    /// wrong, or the few that are left would be overrun. With 0 a request is refused when none is usable.
    #[serde(default = "panic_percent")]
    pub panic_percent: u8,
}

/// How an upstream proves itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamTls {
    /// Its SPIFFE ID: mutual TLS by our own identity and the bundles that we trust.
    #[serde(default)]
    pub expect: Option<String>,
    /// Its name in DNS, or its address: the certificate must have it, and descend from `ca`.
    #[serde(default)]
    pub server_name: Option<String>,
    /// PEM file of the roots for `server_name`.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

/// How DNS is asked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resolver {
    /// Whom to ask; none named: what the system's `resolv.conf` says.
    pub nameservers: Vec<SocketAddr>,
    /// An answer counts at least so long, whatever its TTL.
    pub ttl_min_ms: u64,
    /// An answer counts at most so long, whatever its TTL.
    pub ttl_max_ms: u64,
    /// One question, repetitions included.
    pub timeout_ms: u64,
}

impl Default for Resolver {
    fn default() -> Self {
        Resolver { nameservers: Vec::new(), ttl_min_ms: 1_000, ttl_max_ms: 60_000, timeout_ms: 5_000 }
    }
}

/// Waiting times of one upstream.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// A connection: TCP and TLS together, and the wait for a free one.
    pub connect_ms: u64,
    /// The upstream takes no more of the request, and has not begun to answer.
    pub answer_ms: u64,
    /// The longest pause between two pieces of the answer's body.
    pub body_idle_ms: u64,
    /// From the request to the last byte of its answer, all tries together. Absent: as long as it takes, as streams need.
    pub whole_ms: Option<u64>,
    /// A connection without a request is closed after this.
    pub idle_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect_ms: 5_000,
            answer_ms: 30_000,
            body_idle_ms: 60_000,
            whole_ms: None,
            idle_ms: 30_000,
        }
    }
}

/// How long the head of an answer may be; what clients may send is another matter (`[gateway.limits]`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AnswerHead {
    /// Bytes: status line and headers together. At least 8192, which hyper reads at once.
    pub bytes_max: u32,
    /// Header lines, at most 100.
    pub headers_max: u32,
}

impl Default for AnswerHead {
    fn default() -> Self {
        AnswerHead { bytes_max: 64 * 1024, headers_max: 100 }
    }
}

/// How much of everything one upstream is given at one time. What is beyond it is refused at once.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// Connections to one endpoint.
    pub connections_max: NonZeroU32,
    /// Requests at one endpoint.
    pub requests_max: NonZeroU32,
    /// Requests that wait for a connection to one endpoint.
    pub pending_max: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        let n = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        Breaker { connections_max: n(1_024), requests_max: n(1_024), pending_max: 1_024 }
    }
}

/// Repeated tries. A try of which nothing was sent is repeated whatever the method; otherwise only GET, HEAD, OPTIONS, PUT
/// and DELETE without a body, and never once a byte of an answer was there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Further tries of one request; 0 switches them off.
    pub tries_max: u32,
    /// Further tries in a window of ten seconds, in percent of the requests in it.
    pub budget_percent: u32,
    /// So many in a window are allowed however few requests there are.
    pub budget_min: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { tries_max: 2, budget_percent: 20, budget_min: 10 }
    }
}

/// Active checks: `GET path`, over the same TLS as requests. The first check of an endpoint decides at once.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// What is asked for. 200 to 399 is well.
    pub path: String,
    /// Pause between two checks.
    #[serde(default = "every_ms")]
    pub every_ms: u64,
    /// One check, from connecting to the answer.
    #[serde(default = "health_timeout_ms")]
    pub timeout_ms: u64,
    /// Failed checks in a row that take an endpoint out.
    #[serde(default = "unhealthy_after")]
    pub unhealthy_after: NonZeroU32,
    /// Good checks in a row that bring it back.
    #[serde(default = "healthy_after")]
    pub healthy_after: NonZeroU32,
}

/// Passive checks: what happens to requests.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Outlier {
    /// Failures in a row (no connection, no answer, or 502, 503, 504) after which an endpoint is left alone; 0 is never.
    pub failures: u32,
    /// How long, the first time. It doubles with each time in a row.
    pub eject_ms: u64,
    /// It grows no longer than this.
    pub eject_max_ms: u64,
    /// Share of the endpoints that may be left alone at one time, in percent. A single endpoint never is below 100.
    pub ejected_max_percent: u8,
}

impl Default for Outlier {
    fn default() -> Self {
        Outlier { failures: 5, eject_ms: 10_000, eject_max_ms: 300_000, ejected_max_percent: 50 }
    }
}

impl AnswerHead {
    pub(crate) fn bytes_max(&self) -> usize {
        usize::try_from(self.bytes_max).unwrap_or(usize::MAX)
    }

    pub(crate) fn headers_max(&self) -> usize {
        usize::try_from(self.headers_max).unwrap_or(usize::MAX)
    }

    /// In the terms of our own codec.
    pub(crate) fn http1(&self) -> countersign_http1::Limits {
        countersign_http1::Limits {
            head_bytes_max: self.bytes_max(),
            header_count_max: self.headers_max(),
            ..countersign_http1::Limits::DEFAULT
        }
    }
}

impl Timeouts {
    pub(crate) fn connect(&self) -> Duration {
        Duration::from_millis(self.connect_ms)
    }
    pub(crate) fn answer(&self) -> Duration {
        Duration::from_millis(self.answer_ms)
    }
    pub(crate) fn body_idle(&self) -> Duration {
        Duration::from_millis(self.body_idle_ms)
    }
    pub(crate) fn whole(&self) -> Option<Duration> {
        self.whole_ms.map(Duration::from_millis)
    }
    pub(crate) fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }
}

const fn panic_percent() -> u8 {
    25
}

const fn every_ms() -> u64 {
    5_000
}

const fn health_timeout_ms() -> u64 {
    2_000
}

fn unhealthy_after() -> NonZeroU32 {
    NonZeroU32::new(3).unwrap_or(NonZeroU32::MIN)
}

fn healthy_after() -> NonZeroU32 {
    NonZeroU32::new(2).unwrap_or(NonZeroU32::MIN)
}
