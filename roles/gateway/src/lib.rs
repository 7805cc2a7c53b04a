//! The edge of a deployment: the only entry point for end users.
//!
//! A gateway reads each request in exactly one way, checks the user's access token, asks the coarse rule of the policy
//! `gateway`, puts an internal token in place of the access token, and forwards over mTLS to the service that the route
//! names. The service asks its own, finer rule: neither door relies on the other. The order of all this is the list in
//! `pipeline.rs`.
//!
//! A client that proves a key at login (RFC 9449) gets a token that is worth nothing without that key, proves it again
//! with every request, and policies of the services behind can ask for that: `context.proof.user_possession`.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use countersign_gateway::{Gateway, Settings};
//! use countersign_sdk::workload::Workload;
//! use tokio_util::sync::CancellationToken;
//!
//! let settings: Settings = serde_json::from_str(
//!     r#"{ "listen": "127.0.0.1:8080", "route": [{ "path": "/ads/*", "to": "ads", "user": "required" }] }"#,
//! )?;
//! let shutdown = CancellationToken::new();
//! let gateway = Gateway::bind(settings, Workload::connect().await?, std::sync::Arc::new(String::new)).await?;
//! gateway.run(shutdown).await;
//! # Ok(())
//! # }
//! ```

mod acme;
mod admin;
mod ask;
mod body;
mod edge_tls;
mod engine;
mod filter;
mod forward;
mod guard;
mod headers;
mod https;
mod issuer;
mod listener;
mod login;
mod meters;
mod observed;
mod pipeline;
mod proof;
mod record;
mod refusal;
mod reload;
mod route;
pub mod settings;
pub mod sidecar;
mod throttle;
mod token;
mod upgrade;
pub mod upstream;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use countersign_keys::KeyError;
use countersign_sdk::accept::{Transport, serve};
use countersign_sdk::workload::Workload;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use acme::AcmeError;
pub use acme::settings::{AcmeSettings, AcmeSettingsError};
pub use admin::{MetricsText, ReadyCheck};
pub use ask::AskError;
pub use body::BodyError;
pub use edge_tls::{CertificateSettings, EdgeCertificateError, TlsSettings};
pub use filter::FilterSettingsError;
pub use guard::{CorsError, CountriesError, GuardError, PuzzleSettingsError, SharedLimitsError};
pub use headers::HeaderRuleError;
pub use issuer::IssuerError;
pub use login::LoginSettingsError;
pub use reload::Reloader;
pub use route::{NoRoute, RewriteError, RouteError};
pub use settings::Settings;
pub use upstream::{DiscoveryError, EndpointError, UpstreamError, UpstreamSettingsError, UpstreamTlsError};

use crate::acme::Acme;
use crate::ask::Desk;
use crate::edge_tls::EdgeTls;
use crate::engine::{Port, Sockets};
use crate::listener::{EdgeService, HandshakeMeter, accept_limits};
use crate::reload::{Current, Reloads};
use crate::throttle::AddressCount;

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A listener could not be opened.
    #[error("cannot listen on {address}: {source}; choose a free port in [gateway]")]
    Listen {
        /// The address as configured.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Neither `listen` nor `listen_tls`.
    #[error("[gateway] has no listener; set listen_tls, or listen on a loopback address")]
    NoListener,
    /// Plain HTTP where others could read along.
    #[error(
        "[gateway] listen = \"{address}\" would serve plain HTTP beyond this machine; use listen_tls with tls_cert and tls_key, or listen on 127.0.0.1"
    )]
    CleartextExposed {
        /// The address as configured.
        address: SocketAddr,
    },
    /// Probes and metrics where others could read them.
    #[error(
        "[gateway] admin = \"{address}\" would show probes and metrics beyond this machine; use 127.0.0.1"
    )]
    AdminExposed {
        /// The address as configured.
        address: SocketAddr,
    },
    /// `listen_tls` without certificate or key.
    #[error(
        "[gateway] listen_tls needs tls_cert and tls_key: PEM files of the edge certificate and its key; or [gateway.tls.acme]"
    )]
    NoEdgeCertificate,
    /// See [`EdgeCertificateError`].
    #[error("edge certificate: {0}")]
    EdgeCertificate(#[from] EdgeCertificateError),
    /// See [`AcmeError`].
    #[error("[gateway.tls.acme] {0}")]
    Acme(#[from] AcmeError),
    /// See [`RouteError`].
    #[error("[[gateway.route]]: {0}")]
    Route(#[from] RouteError),
    /// See [`UpstreamSettingsError`].
    #[error("[[gateway.upstream]]: {0}")]
    Upstream(#[from] UpstreamSettingsError),
    /// See [`HeaderRuleError`].
    #[error("[gateway.headers]: {0}")]
    Header(#[from] HeaderRuleError),
    /// See [`GuardError`].
    #[error("[gateway] {0}")]
    Guard(#[from] GuardError),
    /// See [`FilterSettingsError`].
    #[error("[[gateway.filter]]: {0}")]
    Filter(#[from] FilterSettingsError),
    /// See [`IssuerError`].
    #[error("[[gateway.issuer]]: {0}")]
    Issuer(#[from] IssuerError),
    /// See [`AskError`].
    #[error("[[gateway.ask]] or [[gateway.front]]: {0}")]
    Ask(#[from] AskError),
    /// See [`LoginSettingsError`].
    #[error("[gateway] {0}")]
    Login(#[from] LoginSettingsError),
    /// A reload changes what stands as long as the process.
    #[error(
        "[gateway] {setting} cannot change while the gateway runs; restart it, the old settings stay in force"
    )]
    NeedsRestart {
        /// Which setting.
        setting: &'static str,
    },
    /// A reload of a gateway that does not run any more.
    #[error("the gateway does not run any more; start it again")]
    Stopped,
    /// No key for internal tokens, or none for nonces.
    #[error("no key for internal tokens: {0}")]
    Key(#[from] KeyError),
}

impl GatewayError {
    /// The process's exit code: 2 for what its settings must change, else 1.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Key(_) | Self::Stopped => 1,
            _ => 2,
        }
    }
}

/// A gateway with open listeners that does not serve yet.
pub struct Gateway {
    current: Arc<Current>,
    reloader: Reloader,
    reloads: Reloads,
    workers: NonZeroUsize,
    plain: Option<Sockets>,
    tls: Option<(Sockets, Arc<EdgeTls>)>,
    acme: Option<Arc<Acme>>,
    asks: Vec<Desk>,
    admin: Option<TcpListener>,
    metrics: MetricsText,
}

/// Binds, serves until `shutdown` is cancelled, then lets requests in progress finish.
///
/// # Errors
/// See [`GatewayError`].
pub async fn run(
    settings: Settings,
    workload: Workload,
    metrics: MetricsText,
    shutdown: CancellationToken,
) -> Result<(), GatewayError> {
    Gateway::bind(settings, workload, metrics).await?.run(shutdown).await;
    Ok(())
}

impl Gateway {
    /// Judges the settings and opens the listeners. Nothing is served yet.
    ///
    /// # Errors
    /// See [`GatewayError`].
    pub async fn bind(
        settings: Settings,
        workload: Workload,
        metrics: MetricsText,
    ) -> Result<Self, GatewayError> {
        if settings.listen.is_none()
            && settings.listen_tls.is_none()
            && settings.asks.is_empty()
            && settings.fronts.is_empty()
        {
            return Err(GatewayError::NoListener);
        }
        if let Some(address) = settings.listen.filter(|address| !is_loopback(address)) {
            return Err(GatewayError::CleartextExposed { address });
        }
        if let Some(address) = settings.admin.filter(|address| !is_loopback(address)) {
            return Err(GatewayError::AdminExposed { address });
        }
        meters::describe();
        let metrics = meters::read_when_asked(workload.clone(), metrics);
        let workers = engine::workers(settings.workers);
        let tls = match settings.listen_tls {
            None => None,
            Some(address) => {
                let edge = Arc::new(edge_tls(&settings)?);
                Some((listen(address, workers)?, edge))
            }
        };
        workload.trust().set_groups(&settings.tls.groups);
        let acme = match (&settings.tls.acme, &tls) {
            (None, _) => None,
            (Some(_), None) => return Err(AcmeError::NoListener.into()),
            (Some(orders), Some((_, edge))) => Some(Arc::new(Acme::load(orders.clone(), Arc::clone(edge))?)),
        };
        let plain = settings.listen.map(|address| listen(address, workers)).transpose()?;
        let admin = match settings.admin {
            Some(address) => Some(listen_alone(address).await?),
            None => None,
        };
        let mut asks = Vec::with_capacity(settings.asks.len());
        for ask in &settings.asks {
            asks.push(Desk::bind(ask).await?);
        }
        for front in &settings.fronts {
            asks.push(Desk::bind_front(front).await?);
        }
        let current = Current::new(Arc::new(reload::first(settings, workload)?));
        let (reloader, reloads) = Reloads::of(Arc::clone(&current));
        Ok(Gateway { current, reloader, reloads, workers, plain, tls, acme, asks, admin, metrics })
    }

    /// The address of the plain listener.
    pub fn address(&self) -> Option<SocketAddr> {
        self.plain.as_ref()?.address()
    }

    /// The address of the HTTPS listener.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls.as_ref()?.0.address()
    }

    /// Where other proxies ask, in the order of the settings.
    pub fn ask_addresses(&self) -> Vec<SocketAddr> {
        self.asks.iter().filter_map(Desk::address).collect()
    }

    /// The address of the admin listener.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref()?.local_addr().ok()
    }

    /// Reloads this gateway, from the moment it runs.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// Serves until `shutdown` is cancelled, then lets requests in progress finish.
    pub async fn run(self, shutdown: CancellationToken) {
        let current = self.current;
        let pipeline = current.pipeline();
        let limits = accept_limits(&pipeline.limits);
        let seats = AddressCount::new(pipeline.limits.connections_per_address_max);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(self.reloads.run(shutdown.clone()));
        let mut ports = Vec::new();
        if let Some(sockets) = self.plain {
            let answers = Arc::new(EdgeService::new(Arc::clone(&current), "http"));
            ports.push(Port { sockets, transport: Transport::Plain, answers });
        }
        if let Some(acme) = &self.acme {
            tasks.spawn(Arc::clone(acme).run(shutdown.clone()));
        }
        if let Some((sockets, edge)) = self.tls {
            tasks.spawn(Arc::clone(&edge).watch(shutdown.clone()));
            let answers = Arc::new(EdgeService::new(Arc::clone(&current), "https"));
            let acceptor = edge
                .acceptor()
                .observed_by(Arc::new(HandshakeMeter::new(Arc::clone(pipeline.workload.spool()))));
            ports.push(Port { sockets, transport: Transport::Tls(acceptor), answers });
        }
        {
            let (workers, shutdown) = (self.workers, shutdown.clone());
            let spool = Arc::clone(pipeline.workload.spool());
            tasks.spawn(async move {
                tell_drained(engine::run(ports, workers, limits, seats, spool, shutdown).await);
            });
        }
        for desk in self.asks {
            tasks.spawn(desk.serve(Arc::clone(&current), limits, shutdown.clone()));
        }
        if let Some(listener) = self.admin {
            let readiness = {
                let current = Arc::clone(&current);
                Arc::new(move || current.pipeline().readiness())
            };
            let warnings =
                Arc::new(move || self.acme.as_ref().map(|acme| acme.troubles()).unwrap_or_default());
            let router = admin::router(readiness, warnings, self.metrics);
            let shutdown = shutdown.clone();
            tasks.spawn(async move {
                serve(listener, Transport::Plain, router, limits, shutdown).await;
            });
        }
        while tasks.join_next().await.is_some() {}
    }
}

fn edge_tls(settings: &Settings) -> Result<EdgeTls, GatewayError> {
    match settings.first_certificate() {
        Ok(None) if settings.tls.certificates.is_empty() && settings.tls.acme.is_none() => {
            Err(GatewayError::NoEdgeCertificate)
        }
        Ok(first) => Ok(EdgeTls::load(first, &settings.tls)?),
        Err(()) => Err(GatewayError::NoEdgeCertificate),
    }
}

fn listen(address: SocketAddr, workers: NonZeroUsize) -> Result<Sockets, GatewayError> {
    engine::bind(address, workers.get()).map_err(|source| GatewayError::Listen { address, source })
}

async fn listen_alone(address: SocketAddr) -> Result<TcpListener, GatewayError> {
    TcpListener::bind(address).await.map_err(|source| GatewayError::Listen { address, source })
}

fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn tell_drained(cut: usize) {
    if cut > 0 {
        tracing::warn!(cut, "connections were cut because their requests did not finish in time");
    }
}

#[cfg(test)]
mod tests {
    use countersign_keys::RandomError;

    use super::*;

    #[test]
    fn an_error_names_the_table_and_what_to_do() {
        let key = GatewayError::Key(KeyError::Random(RandomError::Unavailable)).to_string();
        assert!(key.starts_with("no key for internal tokens"), "{key}");
        let exposed = GatewayError::AdminExposed { address: ([0, 0, 0, 0], 7081).into() }.to_string();
        assert!(exposed.contains("[gateway] admin") && exposed.contains("127.0.0.1"), "{exposed}");
    }
}
