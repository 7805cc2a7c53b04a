//! A sidecar: the same door and the same callees as with the SDK, for a service that links none.
//!
//! Inbound, it serves under the identity of its service and lets in whom the policy permits: this is the SDK's own
//! layer, so that a service with a sidecar and one with the SDK give the same verdicts. What it lets in goes to the
//! service over a Unix socket that nobody else can open, with headers that say who is calling. Outbound, it takes the
//! service's calls on another such socket, `Host` naming the callee, and proves who the service is.
//!
//! | header | to the service | from the service |
//! |---|---|---|
//! | `Countersign-Caller` | SPIFFE ID of the caller, if it proved one | – |
//! | `Countersign-User` | id of the user, if there is one | – |
//! | `Countersign-User-Name`, `-Roles` | name and roles, percent encoded; roles apart by `,` | – |
//! | `Countersign-Decision` | id of the decision, for its log | – |
//! | `Countersign-Context` | the sealed context of the user | given back with calls on behalf of that user |

mod app;
mod app_http2;
pub(crate) mod headers;
mod inbound;
mod outbound;
mod quick;
mod settings;
mod upgrade;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use countersign_keys::{ProcessSealError, SystemRandom};
use countersign_sdk::accept::{Limits as AcceptLimits, Transport, bind_unix, serve};
use countersign_sdk::context::ContextKey;
use countersign_sdk::inbound::InboundError;
use countersign_sdk::workload::Workload;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

pub use app::AppError;
pub use settings::{Settings, UnixAddress, UnixAddressError};

pub(crate) use self::app::{App, SocketId, check_socket};
use self::inbound::{Inbound, ToApp};
use self::outbound::FromApp;
use crate::admin::{self, MetricsText, ReadyCheck};
use crate::engine::{self, Port, Sockets};
use crate::filter::{FilterSettingsError, Filters};
use crate::meters;
use crate::tell_drained;
use crate::throttle::AddressCount;

/// Why a sidecar does not start.
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// Neither `inbound` nor `outbound`.
    #[error("[sidecar] has nothing to do; set inbound with app, or outbound, or both")]
    NothingToDo,
    /// `inbound` without a service behind it, or with two.
    #[error("[sidecar] inbound needs one service behind it; set app = \"unix:/path/to/socket\"")]
    NoApp,
    /// Two listeners for the service's own calls.
    #[error("[sidecar] has two listeners for the service's calls; keep outbound = \"unix:/path/to/socket\"")]
    TwoOutbound,
    /// A listener could not be opened.
    #[error("cannot listen on {place}: {source}; choose a free address in [sidecar]")]
    Listen {
        /// The address or path as configured.
        place: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A port that only this machine may reach is open to others.
    #[error("[sidecar] {setting} = \"{address}\" is open beyond this machine; use 127.0.0.1")]
    Exposed {
        /// Which setting.
        setting: &'static str,
        /// The address as configured.
        address: SocketAddr,
    },
    /// See [`InboundError`].
    #[error("[sidecar] routes: {0}")]
    Routes(#[from] InboundError),
    /// See [`FilterSettingsError`].
    #[error("[[sidecar.filter]]: {0}")]
    Filter(#[from] FilterSettingsError),
    /// No key for sealed contexts.
    #[error("no key for sealed contexts: {0}")]
    Key(#[from] ProcessSealError),
}

impl SidecarError {
    /// The process's exit code: 2 for what its settings must change, else 1.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Key(_) => 1,
            _ => 2,
        }
    }
}

/// A sidecar with open listeners that does not serve yet.
pub struct Sidecar {
    workload: Workload,
    settings: Settings,
    contexts: Arc<ContextKey>,
    filters: Filters,
    workers: NonZeroUsize,
    inbound: Option<(Sockets, App)>,
    outbound: Option<Sockets>,
    admin: Option<TcpListener>,
    metrics: MetricsText,
}

impl Sidecar {
    /// Judges the settings and opens the listeners. Nothing is served yet.
    ///
    /// # Errors
    /// See [`SidecarError`].
    pub async fn bind(
        settings: Settings,
        workload: Workload,
        metrics: MetricsText,
    ) -> Result<Self, SidecarError> {
        if settings.inbound.is_none()
            && settings.outbound.is_none()
            && settings.outbound_on_loopback_port_insecure.is_none()
        {
            return Err(SidecarError::NothingToDo);
        }
        for (setting, address) in settings.loopback_only() {
            if !address.ip().to_canonical().is_loopback() {
                return Err(SidecarError::Exposed { setting, address });
            }
        }
        meters::describe();
        let metrics = meters::read_when_asked(workload.clone(), metrics);
        let workers = engine::workers(settings.workers);
        let inbound = match settings.inbound {
            Some(address) => {
                let app = App::of(&settings).ok_or(SidecarError::NoApp)?;
                Some((tcp(address, workers)?, app))
            }
            None => None,
        };
        let outbound = match (&settings.outbound, settings.outbound_on_loopback_port_insecure) {
            (Some(_), Some(_)) => return Err(SidecarError::TwoOutbound),
            (Some(socket), None) => Some(unix(socket.path()).await?),
            (None, Some(address)) => Some(tcp(address, workers)?),
            (None, None) => None,
        };
        let admin = match settings.admin {
            Some(address) => Some(TcpListener::bind(address).await.map_err(|e| listen_error(&address, e))?),
            None => None,
        };
        let contexts = Arc::new(ContextKey::generate(workload.id(), &SystemRandom::new())?);
        let filters = Filters::load(&settings.filters, workload.trust(), &Filters::default())?;
        Ok(Self { workload, settings, contexts, filters, workers, inbound, outbound, admin, metrics })
    }

    /// Where other services reach this one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.inbound.as_ref()?.0.address()
    }

    /// The address of the admin listener.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref()?.local_addr().ok()
    }

    /// Serves until `shutdown` is cancelled, then lets requests in progress finish.
    ///
    /// # Errors
    /// The routes in the settings are none, or two are the same.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), SidecarError> {
        let mut tasks = tokio::task::JoinSet::new();
        let limits = AcceptLimits::default();
        let readiness = readiness(self.workload.clone(), self.inbound.as_ref().map(|(_, app)| app.clone()));
        let mut ports = Vec::new();
        if let Some((sockets, app)) = self.inbound {
            let to_app = ToApp::new(app, Arc::clone(&self.contexts), self.filters, &self.settings);
            let answers = Inbound::new(&self.workload, to_app, &self.settings)?;
            ports.push(Port { sockets, transport: self.workload.transport(), answers: Arc::new(answers) });
        }
        if let Some(sockets) = self.outbound {
            let answers = Arc::new(FromApp::new(self.workload.clone(), self.contexts, &self.settings));
            ports.push(Port { sockets, transport: Transport::Plain, answers });
        }
        let seats = AddressCount::new(limits.connections_max);
        let (workers, stop) = (self.workers, shutdown.clone());
        let spool = Arc::clone(self.workload.spool());
        tasks.spawn(async move {
            tell_drained(engine::run(ports, workers, limits, seats, spool, stop).await);
        });
        if let Some(listener) = self.admin {
            let router = admin::router(readiness, Arc::new(Vec::new), self.metrics);
            tasks.spawn(async move {
                serve(listener, Transport::Plain, router, limits, shutdown).await;
            });
        }
        while tasks.join_next().await.is_some() {}
        Ok(())
    }
}

fn readiness(workload: Workload, app: Option<App>) -> admin::Readiness {
    Arc::new(move || {
        let identity = workload.ready().err().map(|why| why.to_string());
        let mut checks = vec![ReadyCheck { name: "identity", missing: identity }];
        if let Some(app) = &app {
            let missing = app.check().err().map(|why| why.to_string());
            checks.push(ReadyCheck { name: "service", missing });
        }
        checks
    })
}

fn tcp(address: SocketAddr, workers: NonZeroUsize) -> Result<Sockets, SidecarError> {
    engine::bind(address, workers.get()).map_err(|error| listen_error(&address, error))
}

async fn unix(path: &Path) -> Result<Sockets, SidecarError> {
    let listening = bind_unix(path, OWNER_ALONE).await.and_then(UnixListener::into_std);
    listening.map(Sockets::Unix).map_err(|error| listen_error(&path.display(), error))
}

fn listen_error(place: &dyn std::fmt::Display, source: std::io::Error) -> SidecarError {
    SidecarError::Listen { place: place.to_string(), source }
}

/// Whoever can open the socket speaks in the name of the service.
const OWNER_ALONE: u32 = 0o600;

#[cfg(test)]
mod tests {
    use countersign_keys::RandomError;

    use super::*;

    #[test]
    fn what_a_setting_can_mend_ends_with_2() {
        assert_eq!(SidecarError::NoApp.exit_code(), 2);
        assert_eq!(SidecarError::Key(RandomError::Unavailable.into()).exit_code(), 1);
    }
}
