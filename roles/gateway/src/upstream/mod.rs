//! Upstreams: what is not (only) a service of the deployment, `[[gateway.upstream]]`.
//!
//! A [`Cluster`] is one upstream by name. Its endpoints come from [`discovery`]; [`roster`] says which of them are usable
//! and takes the less loaded of two; [`dial`] connects and judges who answers; [`pool`] keeps connections; [`send`] brings
//! them together and repeats what may be repeated; [`health`] and the leases' reports say who is well.
//!
//! The full carrier calls [`Cluster::send`]. A carrier that keeps connections of its own calls [`Cluster::pick`], connects
//! with [`Cluster::dialer`] where its pool has none, and tells the [`Lease`] how it went; pools are keyed by
//! [`Endpoint::id`], and a connection takes another request only while its [`dial::Proof::still_holds`].
//!
//! | what is refused | setting | code |
//! |---|---|---|
//! | no endpoint is known or well | `panic_percent` | CS5009 |
//! | an endpoint has enough to do | `breaker.*` | CS5010 |
//! | nobody answers | `timeouts.*` | CS5001, CS5002 |
//! | whoever answers is not whom we expect | `tls.*` | CS5004 |

mod body;
mod cluster;
mod dial;
mod discovery;
mod endpoint;
mod error;
mod health;
mod keeper;
mod meter;
mod pool;
mod retry;
mod roster;
mod send;
pub mod settings;
mod switch;

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_identity::{ServiceName, ServiceNameError};
use countersign_request::Authority;
use countersign_sdk::tls::TrustState;
use http::HeaderValue;
use http::uri::PathAndQuery;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use cluster::Cluster;
pub(crate) use cluster::{Lease, Outcome};
pub use dial::UpstreamTlsError;
pub(crate) use dial::{Dialed, Proof, Wire};
pub use discovery::DiscoveryError;
pub use endpoint::EndpointError;
pub(crate) use endpoint::{Endpoint, Seat};
pub use error::{Met, UpstreamError};
pub(crate) use switch::ClusterSwitched;

use cluster::Parts;
use dial::Dialer;
use discovery::Source;
use endpoint::{Found, Place};
use settings::{Health, UpstreamSettings};

/// Every upstream of a gateway.
#[derive(Default)]
pub(crate) struct Upstreams {
    clusters: BTreeMap<String, Kept>,
}

/// One upstream, and what keeps it up to date.
#[derive(Clone)]
struct Kept {
    settings: UpstreamSettings,
    cluster: Arc<Cluster>,
    source: Source,
    health: Option<Health>,
}

/// Why the upstreams do not load.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamSettingsError {
    /// Not a name that a route could say.
    #[error("name = \"{name}\": {source}")]
    Name {
        /// As configured.
        name: String,
        /// What is wrong with it.
        source: ServiceNameError,
    },
    /// Two of the same name.
    #[error("two upstreams are called {name}; give one of them another name, or join their endpoints")]
    Twice {
        /// The name.
        name: String,
    },
    /// A service has the name already.
    #[error(
        "upstream {name}: a service of the deployment has the same name, and a route could mean either; rename the upstream"
    )]
    AlsoAService {
        /// The name.
        name: String,
    },
    /// More upstreams than are kept.
    #[error("{count} upstreams, at most {UPSTREAMS_MAX}")]
    TooMany {
        /// How many were configured.
        count: usize,
    },
    /// None or several of the four ways to know where it is.
    #[error("upstream {name}: say where it is by exactly one of endpoints, dns, srv and file")]
    Where {
        /// Name of the upstream.
        name: String,
    },
    /// An endpoint cannot be read.
    #[error("upstream {name}: {source}")]
    Endpoint {
        /// Name of the upstream.
        name: String,
        /// What is wrong with it.
        source: EndpointError,
    },
    /// More endpoints than are kept.
    #[error("upstream {name}: {count} endpoints, at most {ENDPOINTS_MAX}")]
    TooManyEndpoints {
        /// Name of the upstream.
        name: String,
        /// How many were configured.
        count: usize,
    },
    /// The file of endpoints cannot be used.
    #[error("upstream {name}: file {source}")]
    File {
        /// Name of the upstream.
        name: String,
        /// What is wrong with it.
        source: DiscoveryError,
    },
    /// `dns` or `srv` is no name.
    #[error(
        "upstream {name}: {setting} = \"{value}\"; write dns = \"name:port\" or srv = \"_http._tcp.name\""
    )]
    DnsName {
        /// Name of the upstream.
        name: String,
        /// `dns` or `srv`.
        setting: &'static str,
        /// As configured.
        value: String,
    },
    /// `health.path` is none.
    #[error("upstream {name}: health.path = \"{path}\" is no path; write /healthz")]
    HealthPath {
        /// Name of the upstream.
        name: String,
        /// As configured.
        path: String,
    },
    /// TLS over a Unix socket.
    #[error("upstream {name}: tls is for addresses; a unix socket is guarded by its permissions")]
    TlsOverUnix {
        /// Name of the upstream.
        name: String,
    },
    /// See [`UpstreamTlsError`].
    #[error("upstream {name}: {source}")]
    Tls {
        /// Name of the upstream.
        name: String,
        /// What is wrong.
        source: UpstreamTlsError,
    },
    /// `host` is none.
    #[error("upstream {name}: host = \"{host}\" is not a host; write a name, and a port if there is one")]
    Host {
        /// Name of the upstream.
        name: String,
        /// As configured.
        host: String,
    },
    /// A number that has no meaning.
    #[error("upstream {name}: {setting} = {value}; {rule}")]
    Number {
        /// Name of the upstream.
        name: String,
        /// Which setting.
        setting: &'static str,
        /// As configured.
        value: u64,
        /// What it may be.
        rule: &'static str,
    },
}

impl Upstreams {
    /// Judges the settings; nothing is connected or looked up yet. `trust`: who we are, and whom we recognise. An
    /// upstream whose settings are those that it has in `old` stays as it is, with its endpoints and their health.
    pub(crate) fn load(
        settings: &[UpstreamSettings],
        trust: &Arc<TrustState>,
        old: &Self,
    ) -> Result<Self, UpstreamSettingsError> {
        if settings.len() > UPSTREAMS_MAX {
            return Err(UpstreamSettingsError::TooMany { count: settings.len() });
        }
        let mut clusters = BTreeMap::new();
        for upstream in settings {
            let kept = match old.clusters.get(&upstream.name) {
                Some(same) if same.settings == *upstream => same.clone(),
                _ => Kept::new(upstream, trust)?,
            };
            if clusters.insert(upstream.name.clone(), kept).is_some() {
                return Err(UpstreamSettingsError::Twice { name: upstream.name.clone() });
            }
        }
        Ok(Upstreams { clusters })
    }

    /// The upstream of this name.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(name).map(|kept| &kept.cluster)
    }

    /// A name that a service has too, by `is_service`.
    pub(crate) fn clash(&self, is_service: impl Fn(&str) -> bool) -> Option<UpstreamSettingsError> {
        let name = self.clusters.keys().find(|name| is_service(name))?;
        Some(UpstreamSettingsError::AlsoAService { name: name.clone() })
    }

    /// What each upstream that takes no request now lacks.
    pub(crate) fn troubles(&self) -> Vec<String> {
        self.clusters.values().filter_map(|kept| kept.cluster.trouble()).collect()
    }

    /// Until the discovery of each has answered once, be it that there is nobody.
    pub(crate) async fn answered(&self) {
        for kept in self.clusters.values() {
            if matches!(kept.source, Source::Dns { .. } | Source::Srv { .. }) {
                kept.cluster.answered.cancelled().await;
            }
        }
    }

    /// Keeps endpoints, their health and their connections up to date until `shutdown`.
    pub(crate) async fn run(&self, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        for Kept { cluster, source, health, .. } in self.clusters.values() {
            tasks.spawn(keeper::keep(Arc::clone(cluster), shutdown.clone()));
            if *source != Source::Static {
                tasks.spawn(discovery::discover(Arc::clone(cluster), source.clone(), shutdown.clone()));
            }
            if let Some(health) = health {
                tasks.spawn(health::check(Arc::clone(cluster), health.clone(), shutdown.clone()));
            }
        }
        while tasks.join_next().await.is_some() {}
    }
}

impl Kept {
    fn new(settings: &UpstreamSettings, trust: &Arc<TrustState>) -> Result<Self, UpstreamSettingsError> {
        let name = settings.name.clone();
        ServiceName::parse(&name)
            .map_err(|source| UpstreamSettingsError::Name { name: name.clone(), source })?;
        check_numbers(settings)?;
        check_health(settings)?;
        let source = source(settings)?;
        let found = known(settings, &source)?;
        let tls = settings.tls.as_ref();
        let dialer = Dialer::new(&name, tls, settings.http2, settings.timeouts.connect(), trust)
            .map_err(|source| UpstreamSettingsError::Tls { name: name.clone(), source })?;
        let takes_user_token = settings.send_user_token || dialer.is_mesh();
        let cluster = Cluster::new(Parts {
            host: host(settings)?,
            name,
            takes_user_token,
            dialer,
            timeouts: settings.timeouts.clone(),
            answer_head: settings.answer_head.clone(),
            retry: settings.retry.clone(),
            breaker: settings.breaker.clone(),
            outlier: settings.outlier.clone(),
            panic_percent: settings.panic_percent,
        });
        if !found.is_empty() {
            cluster.set_endpoints(found);
        }
        Ok(Kept { settings: settings.clone(), cluster, source, health: settings.health.clone() })
    }
}

/// Exactly one of the four.
fn source(settings: &UpstreamSettings) -> Result<Source, UpstreamSettingsError> {
    let resolver = || settings.resolver.clone();
    match (settings.endpoints.as_slice(), &settings.dns, &settings.srv, &settings.file) {
        ([_, ..], None, None, None) => Ok(Source::Static),
        ([], Some(dns), None, None) => match Place::parse(dns) {
            Ok(Place::Tcp { host, port }) => Ok(Source::Dns { name: host, port, resolver: resolver() }),
            _ => Err(dns_name(settings, "dns", dns)),
        },
        ([], None, Some(srv), None) if srv.starts_with('_') && srv.contains("._") => {
            Ok(Source::Srv { name: srv.clone(), resolver: resolver() })
        }
        ([], None, Some(srv), None) => Err(dns_name(settings, "srv", srv)),
        ([], None, None, Some(file)) => Ok(Source::File(file.clone())),
        _ => Err(UpstreamSettingsError::Where { name: settings.name.clone() }),
    }
}

fn dns_name(settings: &UpstreamSettings, setting: &'static str, value: &str) -> UpstreamSettingsError {
    UpstreamSettingsError::DnsName { name: settings.name.clone(), setting, value: value.to_owned() }
}

/// What is known before anybody is asked.
fn known(settings: &UpstreamSettings, source: &Source) -> Result<Vec<Found>, UpstreamSettingsError> {
    let name = || settings.name.clone();
    let found = match source {
        Source::Static if settings.endpoints.len() > ENDPOINTS_MAX => {
            let count = settings.endpoints.len();
            return Err(UpstreamSettingsError::TooManyEndpoints { name: name(), count });
        }
        Source::Static => settings
            .endpoints
            .iter()
            .map(|text| Found::parse(text))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| UpstreamSettingsError::Endpoint { name: name(), source })?,
        Source::File(path) => discovery::read_file(path)
            .map_err(|source| UpstreamSettingsError::File { name: name(), source })?,
        Source::Dns { .. } | Source::Srv { .. } => Vec::new(),
    };
    let over_unix = found.iter().any(|found| matches!(found.place, Place::Unix(_)));
    if over_unix && settings.tls.is_some() {
        return Err(UpstreamSettingsError::TlsOverUnix { name: name() });
    }
    Ok(found)
}

fn check_health(settings: &UpstreamSettings) -> Result<(), UpstreamSettingsError> {
    let Some(health) = &settings.health else { return Ok(()) };
    let is_path = health.path.starts_with('/') && health.path.parse::<PathAndQuery>().is_ok();
    let refused =
        || UpstreamSettingsError::HealthPath { name: settings.name.clone(), path: health.path.clone() };
    if is_path { Ok(()) } else { Err(refused()) }
}

fn host(settings: &UpstreamSettings) -> Result<Option<HeaderValue>, UpstreamSettingsError> {
    let Some(host) = &settings.host else { return Ok(None) };
    let refused = || UpstreamSettingsError::Host { name: settings.name.clone(), host: host.clone() };
    Authority::parse(host).map_err(|_| refused())?;
    HeaderValue::from_str(host).map(Some).map_err(|_| refused())
}

fn check_numbers(settings: &UpstreamSettings) -> Result<(), UpstreamSettingsError> {
    let percent = "a share is 0 to 100";
    let wait = "a wait is at least 1";
    let number = |setting, value, rule, fits: bool| {
        let refused = || UpstreamSettingsError::Number { name: settings.name.clone(), setting, value, rule };
        if fits { Ok(()) } else { Err(refused()) }
    };
    let share = |setting, value: u8| number(setting, value.into(), percent, value <= 100);
    let millis = |setting, value: u64| number(setting, value, wait, value > 0);
    share("panic_percent", settings.panic_percent)?;
    share("outlier.ejected_max_percent", settings.outlier.ejected_max_percent)?;
    let (bytes, headers) = (settings.answer_head.bytes_max, settings.answer_head.headers_max);
    number("answer_head.bytes_max", bytes.into(), "a head has room for 8192 bytes or more", bytes >= 8192)?;
    number(
        "answer_head.headers_max",
        headers.into(),
        "an answer has 1 to 100 headers",
        (1..=100).contains(&headers),
    )?;
    millis("timeouts.connect_ms", settings.timeouts.connect_ms)?;
    millis("timeouts.answer_ms", settings.timeouts.answer_ms)?;
    millis("timeouts.body_idle_ms", settings.timeouts.body_idle_ms)?;
    millis("timeouts.whole_ms", settings.timeouts.whole_ms.unwrap_or(1))?;
    millis("timeouts.idle_ms", settings.timeouts.idle_ms)?;
    millis("outlier.eject_ms", settings.outlier.eject_ms)?;
    millis("resolver.ttl_min_ms", settings.resolver.ttl_min_ms)?;
    millis("resolver.timeout_ms", settings.resolver.timeout_ms)?;
    let health = settings.health.as_ref();
    millis("health.every_ms", health.map_or(1, |health| health.every_ms))?;
    millis("health.timeout_ms", health.map_or(1, |health| health.timeout_ms))
}

const UPSTREAMS_MAX: usize = 10_000;
/// Endpoints of one upstream, wherever they come from.
const ENDPOINTS_MAX: usize = 1_000;
