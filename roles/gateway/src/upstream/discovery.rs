//! Where endpoints come from: DNS, asked again when its answers expire, or a file, read again when it changes. Whatever
//! fails keeps the endpoints that were known; only an answer that there are none takes them away.

use std::io::Read as _;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use tokio_util::sync::CancellationToken;

use super::ENDPOINTS_MAX;
use super::cluster::Cluster;
use super::endpoint::{EndpointError, Found, Place};
use super::settings;

/// How the endpoints of an upstream are found.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Source {
    /// Those of the configuration.
    Static,
    Dns {
        name: String,
        port: u16,
        resolver: settings::Resolver,
    },
    Srv {
        name: String,
        resolver: settings::Resolver,
    },
    File(PathBuf),
}

/// Why endpoints could not be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// The file cannot be read.
    #[error("{path} cannot be read: {why}")]
    Unreadable {
        /// As configured.
        path: String,
        /// What the system says.
        why: String,
    },
    /// A line of the file is no endpoint.
    #[error("{path} line {line}: {source}")]
    Line {
        /// As configured.
        path: String,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        source: EndpointError,
    },
    /// Nothing is in the file: a writer may have been interrupted.
    #[error("{path} names no endpoint; write one host:port a line")]
    Empty {
        /// As configured.
        path: String,
    },
    /// More endpoints than are kept.
    #[error("{place} names {count} endpoints, at most {ENDPOINTS_MAX}")]
    TooMany {
        /// File or name.
        place: String,
        /// How many there are.
        count: usize,
    },
    /// DNS did not answer the question.
    #[error("dns has no answer for {name}: {why}")]
    Lookup {
        /// Which name.
        name: String,
        /// What the resolver says.
        why: String,
    },
}

/// Keeps the endpoints of an upstream as its source names them, until `shutdown`.
pub(super) async fn discover(cluster: Arc<Cluster>, source: Source, shutdown: CancellationToken) {
    let mut last: Option<Result<Vec<Found>, DiscoveryError>> = None;
    loop {
        let Some((found, pause)) = shutdown.run_until_cancelled(source.find()).await else { return };
        if last.as_ref() != Some(&found) {
            match &found {
                Ok(found) => {
                    tracing::info!(upstream = cluster.name(), count = found.len(), "endpoints were found");
                    if found.is_empty() {
                        cluster.note_trouble(format!("{source} has none"));
                    }
                    cluster.set_endpoints(found.clone());
                }
                Err(error) => {
                    tracing::warn!(upstream = cluster.name(), %error, "endpoints stay as they were");
                    cluster.note_trouble(error.to_string());
                }
            }
            last = Some(found);
        }
        cluster.answered.cancel();
        if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

impl Source {
    /// What there is now, sorted, and when to look again.
    async fn find(&self) -> (Result<Vec<Found>, DiscoveryError>, Duration) {
        let (found, pause) = match self {
            Self::Static => (Ok(Vec::new()), FILE_PAUSE),
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
                let gone = |error: tokio::task::JoinError| DiscoveryError::Unreadable {
                    path: self.to_string(),
                    why: error.to_string(),
                };
                (read.map_err(gone).and_then(|read| read), FILE_PAUSE)
            }
            Self::Dns { name, port, resolver } => settle(resolver, addresses(name, *port, resolver).await),
            Self::Srv { name, resolver } => settle(resolver, services(name, resolver).await),
        };
        let found = found.map(|mut found| {
            found.sort();
            found
        });
        (found, pause)
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Static => f.write_str("the configuration"),
            Self::Dns { name, .. } | Self::Srv { name, .. } => write!(f, "dns for {name}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What DNS said, and until when it counts.
type Answer = Result<(Vec<Found>, Instant), DiscoveryError>;

/// Asked again when the answer expires, within the bounds of the settings; after a failure, at the lower bound.
fn settle(resolver: &settings::Resolver, answer: Answer) -> (Result<Vec<Found>, DiscoveryError>, Duration) {
    let (min, max) = (resolver.ttl_min_ms, resolver.ttl_max_ms);
    let bounded = |ttl: Duration| ttl.clamp(Duration::from_millis(min), Duration::from_millis(max.max(min)));
    match answer {
        Ok((found, until)) => (Ok(found), bounded(until.saturating_duration_since(Instant::now()))),
        Err(error) => (Err(error), Duration::from_millis(min)),
    }
}

async fn addresses(name: &str, port: u16, settings: &settings::Resolver) -> Answer {
    let resolver = resolver(name, settings)?;
    let found =
        |address| Found { place: Place::of_address(address, port), weight: NonZeroU32::MIN, priority: 0 };
    let looked_up = bounded(name, settings, resolver.lookup_ip(name)).await?;
    let Some(looked_up) = looked_up else { return Ok((Vec::new(), Instant::now())) };
    Ok((few(name, looked_up.iter().map(found).collect())?, looked_up.valid_until()))
}

/// RFC 2782: of each record its target's addresses, with port, priority and weight.
async fn services(name: &str, settings: &settings::Resolver) -> Answer {
    let resolver = resolver(name, settings)?;
    let records = bounded(name, settings, resolver.srv_lookup(name)).await?;
    let Some(records) = records else { return Ok((Vec::new(), Instant::now())) };
    let (mut all, mut until) = (Vec::new(), records.valid_until());
    for record in records.answers() {
        let RData::SRV(srv) = &record.data else { continue };
        let target = srv.target.to_string();
        // The root as target: the service is decidedly not available here.
        if srv.target.is_root() {
            continue;
        }
        let Some(addresses) = bounded(&target, settings, resolver.lookup_ip(target.as_str())).await? else {
            continue;
        };
        until = until.min(addresses.valid_until());
        all.extend(addresses.iter().map(|address| Found {
            place: Place::of_address(address, srv.port),
            weight: NonZeroU32::new(srv.weight.into()).unwrap_or(NonZeroU32::MIN),
            priority: srv.priority,
        }));
        all = few(name, all)?;
    }
    Ok((all, until))
}

/// The answer, or nothing if DNS says that there is none.
async fn bounded<T>(
    name: &str,
    settings: &settings::Resolver,
    lookup: impl Future<Output = Result<T, NetError>>,
) -> Result<Option<T>, DiscoveryError> {
    let failed = |why: String| DiscoveryError::Lookup { name: name.to_owned(), why };
    match tokio::time::timeout(Duration::from_millis(settings.timeout_ms), lookup).await {
        Ok(Ok(answer)) => Ok(Some(answer)),
        Ok(Err(error)) if error.is_no_records_found() => Ok(None),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("nothing came within resolver.timeout_ms = {}", settings.timeout_ms))),
    }
}

fn few(name: &str, found: Vec<Found>) -> Result<Vec<Found>, DiscoveryError> {
    if found.len() > ENDPOINTS_MAX {
        return Err(DiscoveryError::TooMany { place: name.to_owned(), count: found.len() });
    }
    Ok(found)
}

/// Made for each question: the system's configuration may have changed, and nothing is remembered past its TTL.
fn resolver(name: &str, settings: &settings::Resolver) -> Result<TokioResolver, DiscoveryError> {
    let failed = |error: NetError| DiscoveryError::Lookup { name: name.to_owned(), why: error.to_string() };
    let mut builder = if settings.nameservers.is_empty() {
        TokioResolver::builder_tokio().map_err(failed)?
    } else {
        let servers = settings.nameservers.iter().map(|server| {
            let mut config = NameServerConfig::udp_and_tcp(server.ip());
            config.connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].into();
            config.connections.iter_mut().for_each(|connection| connection.port = server.port());
            config
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    if !settings.nameservers.is_empty() {
        options.use_hosts_file = ResolveHosts::Never;
    }
    builder.build().map_err(failed)
}

/// One endpoint a line; what follows `#` is a remark.
pub(super) fn read_file(path: &Path) -> Result<Vec<Found>, DiscoveryError> {
    let name = || path.display().to_string();
    let unreadable = |why: String| DiscoveryError::Unreadable { path: name(), why };
    let file = std::fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut text = String::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    let bytes = read.map_err(|error| unreadable(error.to_string()))?;
    if bytes as u64 > FILE_BYTES_MAX {
        return Err(unreadable(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let endpoints = lines.enumerate().filter(|(_, line)| !line.is_empty());
    let found = endpoints
        .map(|(index, line)| {
            let wrong = |source| DiscoveryError::Line { path: name(), line: index + 1, source };
            Found::parse(line).map_err(wrong)
        })
        .collect::<Result<Vec<_>, _>>()?;
    if found.is_empty() {
        return Err(DiscoveryError::Empty { path: name() });
    }
    few(&name(), found)
}

const FILE_BYTES_MAX: u64 = 1024 * 1024;
const FILE_PAUSE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> Result<Vec<Found>, DiscoveryError> {
        let dir = countersign_testkit::temp_dir();
        let path = dir.path().join("endpoints.txt");
        std::fs::write(&path, text).unwrap();
        read_file(&path)
    }

    #[test]
    fn accepts_a_file_with_remarks_weights_and_sockets() {
        let found = read("# ours\n\n10.0.0.7:9000\n[::1]:9000 weight=3 # heavy\nunix:/run/a.sock\n").unwrap();
        let places: Vec<String> = found.iter().map(|found| found.place.to_string()).collect();
        assert_eq!(places, ["10.0.0.7:9000", "[::1]:9000", "unix:/run/a.sock"]);
        assert_eq!(found.get(1).unwrap().weight.get(), 3);
    }

    #[test]
    fn rejects_a_file_that_cannot_be_meant_so() {
        let wrong = read("10.0.0.7:9000\nnonsense\n").unwrap_err();
        assert!(matches!(wrong, DiscoveryError::Line { line: 2, .. }), "{wrong}");
        assert!(matches!(read("# nobody\n").unwrap_err(), DiscoveryError::Empty { .. }));
        let many = |count: usize| (1..=count).map(|n| format!("a:{n}\n")).collect::<String>();
        assert!(read(&many(ENDPOINTS_MAX)).is_ok());
        let refused = read(&many(ENDPOINTS_MAX + 1)).unwrap_err();
        assert!(matches!(refused, DiscoveryError::TooMany { count: 1001, .. }), "{refused}");
        let long = "#".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() + 1);
        assert!(matches!(read(&long).unwrap_err(), DiscoveryError::Unreadable { .. }));
        assert!(matches!(read_file(Path::new("/none")).unwrap_err(), DiscoveryError::Unreadable { .. }));
    }

    #[test]
    fn an_answer_counts_within_the_bounds_of_the_settings() {
        let settings = settings::Resolver { ttl_min_ms: 1_000, ttl_max_ms: 5_000, ..Default::default() };
        let pause = |answer| settle(&settings, answer).1;
        let until = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert_eq!(pause(Ok((Vec::new(), until(0)))), Duration::from_secs(1));
        assert_eq!(pause(Ok((Vec::new(), until(3_600)))), Duration::from_secs(5));
        let failed = DiscoveryError::Lookup { name: "a".into(), why: "b".into() };
        assert_eq!(pause(Err(failed)), Duration::from_secs(1));
    }
}
