//! The table `[gateway]` of the one configuration file: every setting, its unit in its name, its default.
//!
//! ```toml
//! [gateway]
//! listen        = "127.0.0.1:8080"       # plain HTTP, loopback only
//! listen_tls    = "0.0.0.0:8443"
//! tls_cert      = "/var/lib/countersign/gateway/tls.pem"
//! tls_key       = "/var/lib/countersign/gateway/tls.key"
//! admin         = "127.0.0.1:7081"
//! authority_url = "https://127.0.0.1:7443"
//! authority_ca  = "/var/lib/countersign/ca.pem"
//!
//! [[gateway.route]]
//! path    = "/ads/{id}/buy"
//! methods = ["POST"]
//! to      = "ads"
//! user    = "required"
//! ```

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_sdk::live::Staleness;
use countersign_sdk::outbound::CallLimits;
use schemars::JsonSchema;
use serde::Deserialize;

pub use crate::acme::settings::AcmeSettings;
pub use crate::ask::front::FrontSettings;
pub use crate::ask::settings::AskSettings;
use crate::body::Slowest;
use crate::edge_tls::{CertificateSettings, TlsSettings};
pub use crate::filter::settings::FilterSettings;
pub use crate::guard::access::AccessSettings;
pub use crate::guard::behind::{BehindSettings, ForwardedHeader};
pub use crate::guard::cors::CorsSettings;
pub use crate::guard::countries::Country;
pub use crate::guard::limits::{LimitPer, LimitSettings, Rate};
pub use crate::guard::networks::Networks;
pub use crate::guard::puzzle::PuzzleSettings;
pub use crate::guard::shared::{OnFailure, SharedLimitSettings};
pub use crate::issuer::settings::{IssuerSettings, OneOrMany};
pub use crate::upgrade::Upgrade;
use crate::upstream::settings::UpstreamSettings;

/// Everything that a gateway can be told. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where plain HTTP is served. Loopback only: anything else refuses to start.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// Where HTTPS is served; needs `tls_cert` and `tls_key`, a `[[gateway.tls.certificate]]`, or
    /// `[gateway.tls.acme]`.
    #[serde(default)]
    pub listen_tls: Option<SocketAddr>,
    /// PEM chain of the edge certificate, leaf first. Read again when the file changes.
    #[serde(default)]
    pub tls_cert: Option<PathBuf>,
    /// PEM private key of the edge certificate. Read again when the file changes.
    #[serde(default)]
    pub tls_key: Option<PathBuf>,
    /// The edge's further certificates and how it speaks TLS.
    #[serde(default)]
    pub tls: TlsSettings,
    /// Threads that serve; without it, one for each core.
    #[serde(default)]
    pub workers: Option<NonZeroUsize>,
    /// Where `/livez`, `/readyz` and `/metrics` are served. Loopback only.
    #[serde(default)]
    pub admin: Option<SocketAddr>,
    /// The authority's HTTPS address. With it the gateway answers `POST /login`.
    #[serde(default)]
    pub authority_url: Option<String>,
    /// PEM of the root that the authority's HTTPS certificate must descend from.
    #[serde(default)]
    pub authority_ca: Option<PathBuf>,
    /// What counts while the authority is not heard, and with it who is revoked: for the workload that a gateway runs as
    /// (`Workload::builder(..).staleness(..)`).
    #[serde(default)]
    #[schemars(schema_with = "staleness")]
    pub revocation: Staleness,
    /// Sizes, counts and waiting times.
    #[serde(default)]
    pub limits: Limits,
    /// How many requests one address may make.
    #[serde(default)]
    pub throttle: Throttle,
    /// Header rules that hold for every route, applied before a route's own.
    #[serde(default)]
    pub headers: HeaderRules,
    /// Which networks and countries may knock at all.
    #[serde(default)]
    pub access: AccessSettings,
    /// A MaxMind file (`.mmdb`) of countries. Read again when it changes.
    #[serde(default)]
    pub countries_file: Option<PathBuf>,
    /// Proxies in front of us that are believed when they say whose request it is.
    #[serde(default)]
    pub behind: BehindSettings,
    /// Which pages of other origins may read answers, where a route says nothing else.
    #[serde(default)]
    pub cors: Option<CorsSettings>,
    /// Balancers that say whose connection they pass on, by PROXY protocol version 2, before the first byte.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub proxy_protocol_from: Networks,
    /// How many requests users, addresses, routes and services may have.
    #[serde(default, rename = "limit")]
    pub request_limits: Vec<LimitSettings>,
    /// Where several gateways count together.
    #[serde(default)]
    pub shared_limits: Option<SharedLimitSettings>,
    /// What a login costs after too many failed ones.
    #[serde(default)]
    pub puzzle: Option<PuzzleSettings>,
    /// Issuers of access tokens beside our own authority.
    #[serde(default, rename = "issuer")]
    pub issuers: Vec<IssuerSettings>,
    /// Where other proxies ask whether a request may go on.
    #[serde(default, rename = "ask")]
    pub asks: Vec<AskSettings>,
    /// Where other proxies pass requests on.
    #[serde(default, rename = "front")]
    pub fronts: Vec<FrontSettings>,
    /// Servers of the operator's own that are asked about each permitted request, in this order.
    #[serde(default, rename = "filter")]
    pub filters: Vec<FilterSettings>,
    /// Which requests go where. None matches: 404.
    #[serde(default, rename = "route")]
    pub routes: Vec<RouteSettings>,
    /// What routes may lead to besides the services of the deployment.
    #[serde(default, rename = "upstream")]
    pub upstreams: Vec<UpstreamSettings>,
}

impl Settings {
    /// Keeps what survives a restart below `dir`, unless the settings say where.
    #[must_use]
    pub fn keeping_state_below(mut self, dir: &Path) -> Self {
        if let Some(acme) = &mut self.tls.acme {
            acme.state_dir.get_or_insert_with(|| dir.join("gateway-acme"));
        }
        self
    }
}

/// [`Staleness`], which the SDK reads, and of which it says no schema.
pub(crate) fn staleness(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "properties": {
            "when_stale": { "enum": ["refuse", "grace", "accept_insecure"] },
            "grace_s": { "type": "integer", "minimum": 0 }
        },
        "additionalProperties": false
    })
}

impl Settings {
    /// `tls_cert` with `tls_key`; one without the other is `Err`.
    pub(crate) fn first_certificate(&self) -> Result<Option<CertificateSettings>, ()> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => Ok(Some(CertificateSettings { cert: cert.clone(), key: key.clone() })),
            (None, None) => Ok(None),
            _ => Err(()),
        }
    }

    /// What the workload that a gateway runs as should be connected with
    /// (`Workload::builder(..).call_limits(..)`): nobody behind it is waited for longer than a request may take.
    #[must_use]
    pub fn call_limits(&self) -> CallLimits {
        CallLimits { answer: self.limits.request_timeout(), ..CallLimits::default() }
    }
}

/// One `[[gateway.route]]`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteSettings {
    /// Path template: literals, `{name}` for one segment, a last `*` for the rest.
    pub path: String,
    /// Only requests with this `Host`, compared without case and trailing dot.
    #[serde(default)]
    pub host: Option<String>,
    /// Only these methods; none named means all.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Only requests that have these headers, each once and with exactly this value; `*` is any value.
    #[serde(default)]
    pub match_headers: std::collections::BTreeMap<String, String>,
    /// Short name of the service that answers, or of an upstream.
    #[serde(default)]
    pub to: Option<String>,
    /// Instead of `to`: several targets, each with its share of the requests.
    #[serde(default)]
    pub split: Vec<Share>,
    /// Requests with the same key go to the same share; without the key, chance decides.
    #[serde(default)]
    pub sticky: Option<Sticky>,
    /// What the target sees in place of the text before the template's first hole. Routing, policy and ledger see the
    /// path that came.
    #[serde(default)]
    pub rewrite_prefix: Option<String>,
    /// Whether an end user's access token must come along.
    #[serde(default)]
    pub user: UserNeed,
    /// What a request may leave HTTP for: `websocket`. None named: a request that asks for it is refused.
    #[serde(default)]
    pub upgrade: Vec<Upgrade>,
    /// Header rules of this route, applied after the gateway's own.
    #[serde(default)]
    pub headers: HeaderRules,
    /// Which networks and countries may knock here, besides what holds for the gateway.
    #[serde(default)]
    pub access: AccessSettings,
    /// How many requests may come here, besides what holds for the gateway: one, or a list.
    #[serde(default)]
    pub limit: Option<OneOrMany<LimitSettings>>,
    /// Which pages of other origins may read answers, in place of what holds for the gateway.
    #[serde(default)]
    pub cors: Option<CorsSettings>,
    /// Which filters are asked, in place of all.
    #[serde(default)]
    pub filters: Option<Vec<String>>,
}

/// One target of a `split`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Short name of the service, or of an upstream.
    pub to: String,
    /// Its share, compared with its siblings; 1 if absent.
    #[serde(default)]
    pub weight: Option<NonZeroU32>,
}

/// By what a request finds its share again.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sticky {
    /// The end user who is proven.
    User,
    /// The value of this header, whatever the client writes into it.
    Header(String),
}

/// What a route wants of the end user's access token. There is no setting that lets a bad token pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UserNeed {
    /// Without a valid token: 401.
    #[default]
    Required,
    /// Without a token the caller is a stranger; an invalid token is still 401.
    Optional,
    /// A token is neither asked for nor looked at, and does not travel on.
    None,
}

/// Header rules for both directions.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderRules {
    /// What happens to the request before it goes upstream.
    pub request: HeaderEdits,
    /// What happens to the response before it goes to the client.
    pub response: HeaderEdits,
}

/// Edits in the order in which they are applied: remove, rename, add.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderEdits {
    /// Names to drop; a name may end in `*` (`x-user-*`).
    pub remove: Vec<String>,
    /// Old name to new name. A header of the new name that was there before is replaced.
    pub rename: std::collections::BTreeMap<String, String>,
    /// Name to value. A header of that name that was there before is replaced.
    pub add: std::collections::BTreeMap<String, String>,
}

/// Sizes, counts and waiting times. Each is enforced; none can be switched off.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of a request head, request line and headers together. At least 8192, which hyper reads at once.
    pub head_bytes_max: usize,
    /// Header lines of one request.
    pub headers_max: usize,
    /// From the first byte of a head (or the start of waiting for one) to its end.
    pub head_read_timeout_ms: u64,
    /// Bytes of a request body.
    pub body_bytes_max: u64,
    /// Bytes of a response body.
    pub response_bytes_max: u64,
    /// Longest pause in the bodies of an exchange: while one direction moves, the other may pause.
    pub body_idle_timeout_ms: u64,
    /// Bytes of a request body that a second of waiting for its client has to bring, beyond `body_rate_grace_ms`. gRPC is
    /// exempt, whose streams may have little to say, where client and target speak HTTP/2.
    pub body_rate_min_bytes_s: NonZeroU64,
    /// How long a client is waited for in sum before its rate counts.
    pub body_rate_grace_ms: u64,
    /// From the head of a request, or from the last piece of its body that came, to the head of its answer.
    pub request_timeout_ms: u64,
    /// From the head of a request to the last byte of its answer. Absent: as long as it moves.
    pub total_timeout_ms: Option<u64>,
    /// A body of HTTP or a stream of gRPC may go on when the token of its user has expired; revocation ends it all the same,
    /// and a WebSocket always ends. Absent or false: it ends with the token.
    pub streams_may_outlive_their_users_token_insecure: bool,
    /// A connection that left HTTP by `upgrade` is closed when nothing moves on it for so long.
    pub upgrade_idle_timeout_ms: u64,
    /// From the TCP connection to the end of the TLS handshake.
    pub handshake_timeout_ms: u64,
    /// A connection without a request in progress is closed after this.
    pub idle_timeout_ms: u64,
    /// A connection is told to go away after this, and closed when its requests are answered.
    pub connection_age_max_ms: u64,
    /// Connections at one time on each listener. More wait in the kernel's queue.
    pub connections_max: usize,
    /// Connections at one time from one address (IPv6: one /64). More are closed at once.
    pub connections_per_address_max: usize,
    /// Requests at one time on one HTTP/2 connection.
    pub streams_max: u32,
    /// Access tokens that are remembered together with their internal tokens.
    pub sessions_max: usize,
    /// How long requests in progress may take to finish after the order to stop.
    pub drain_timeout_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head_bytes_max: 32 * 1024,
            headers_max: 100,
            head_read_timeout_ms: 10_000,
            body_bytes_max: 10 * 1024 * 1024,
            response_bytes_max: 1024 * 1024 * 1024,
            body_idle_timeout_ms: 60_000,
            body_rate_min_bytes_s: NonZeroU64::new(500).unwrap_or(NonZeroU64::MIN),
            body_rate_grace_ms: 20_000,
            request_timeout_ms: 30_000,
            total_timeout_ms: None,
            streams_may_outlive_their_users_token_insecure: false,
            upgrade_idle_timeout_ms: 120_000,
            handshake_timeout_ms: 5_000,
            idle_timeout_ms: 60_000,
            connection_age_max_ms: 3_600_000,
            connections_max: 4_096,
            connections_per_address_max: 512,
            streams_max: 128,
            sessions_max: 16_384,
            drain_timeout_ms: 10_000,
        }
    }
}

impl Limits {
    pub(crate) fn head_read_timeout(&self) -> Duration {
        Duration::from_millis(self.head_read_timeout_ms)
    }
    pub(crate) fn slowest_body(&self) -> Slowest {
        Slowest { bytes_s: self.body_rate_min_bytes_s, grace: Duration::from_millis(self.body_rate_grace_ms) }
    }
    pub(crate) fn total_timeout(&self) -> Option<Duration> {
        self.total_timeout_ms.map(Duration::from_millis)
    }
    pub(crate) fn upgrade_idle_timeout(&self) -> Duration {
        Duration::from_millis(self.upgrade_idle_timeout_ms)
    }
    pub(crate) fn body_idle_timeout(&self) -> Duration {
        Duration::from_millis(self.body_idle_timeout_ms)
    }
    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }
    pub(crate) fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_timeout_ms)
    }
    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }
    pub(crate) fn connection_age_max(&self) -> Duration {
        Duration::from_millis(self.connection_age_max_ms)
    }
    pub(crate) fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
}

/// How many requests one address (IPv6: one /64) may make.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Throttle {
    /// Requests in a row that are let through at once.
    pub requests_burst: NonZeroU32,
    /// Requests per second that refill the burst.
    pub requests_per_second: NonZeroU32,
    /// Logins in a row that are let through at once.
    pub logins_burst: NonZeroU32,
    /// Logins per minute that refill the burst.
    pub logins_per_minute: NonZeroU32,
    /// Addresses that are remembered at one time; when all of them count, newcomers wait.
    pub addresses_max: usize,
}

impl Default for Throttle {
    fn default() -> Self {
        let n = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        Throttle {
            requests_burst: n(2_000),
            requests_per_second: n(1_000),
            logins_burst: n(10),
            logins_per_minute: n(20),
            addresses_max: 65_536,
        }
    }
}
