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
mod headers;
mod inbound;
mod outbound;
mod settings;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use countersign_keys::{RandomError, SystemRandom};
use countersign_sdk::accept::{Limits as AcceptLimits, Transport, bind_unix, serve};
use countersign_sdk::context::ContextKey;
use countersign_sdk::inbound::{DoorLimits, InboundError};
use countersign_sdk::workload::Workload;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tower::Layer as _;

pub use app::AppError;
pub use settings::{Settings, UnixAddress, UnixAddressError};

use self::app::App;
use self::inbound::ToApp;
use self::outbound::FromApp;
use crate::admin::{self, MetricsText, ReadyCheck};

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
    /// No key for sealed contexts.
    #[error("no key for sealed contexts: {0}")]
    Key(#[from] RandomError),
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
    inbound: Option<(TcpListener, App)>,
    outbound: Option<Own>,
    admin: Option<TcpListener>,
    metrics: MetricsText,
}

/// Where the service's own calls come in.
enum Own {
    Unix(UnixListener),
    Tcp(TcpListener),
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
        let inbound = match settings.inbound {
            Some(address) => Some((tcp(address).await?, App::of(&settings).ok_or(SidecarError::NoApp)?)),
            None => None,
        };
        let outbound = match (&settings.outbound, settings.outbound_on_loopback_port_insecure) {
            (Some(_), Some(_)) => return Err(SidecarError::TwoOutbound),
            (Some(socket), None) => Some(Own::Unix(unix(socket.path()).await?)),
            (None, Some(address)) => Some(Own::Tcp(tcp(address).await?)),
            (None, None) => None,
        };
        let admin = match settings.admin {
            Some(address) => Some(tcp(address).await?),
            None => None,
        };
        let contexts = Arc::new(ContextKey::generate(workload.id(), &SystemRandom::new())?);
        Ok(Self { workload, settings, contexts, inbound, outbound, admin, metrics })
    }

    /// Where other services reach this one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.inbound.as_ref()?.0.local_addr().ok()
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
        if let Some((listener, app)) = self.inbound {
            let door = DoorLimits {
                body_bytes_max: self.settings.body_bytes_max,
                answer: self.settings.request_timeout(),
                ..DoorLimits::default()
            };
            let mut layer = self.workload.require().routes_of_policies().limits(door);
            if !self.settings.routes.is_empty() {
                layer = layer.routes(self.settings.routes.iter().map(String::as_str))?;
            }
            let guarded = layer.layer(ToApp::new(app, Arc::clone(&self.contexts), &self.settings));
            let serving = self.workload.serve(listener, guarded).limits(limits);
            let stop = shutdown.clone();
            tasks.spawn(async move {
                serving.with_graceful_shutdown(stop.cancelled_owned()).await;
            });
        }
        if let Some(own) = self.outbound {
            let calls = FromApp::new(self.workload.clone(), self.contexts, &self.settings);
            let stop = shutdown.clone();
            tasks.spawn(async move {
                match own {
                    Own::Unix(listener) => serve(listener, Transport::Plain, calls, limits, stop).await,
                    Own::Tcp(listener) => serve(listener, Transport::Plain, calls, limits, stop).await,
                };
            });
        }
        if let Some(listener) = self.admin {
            let router = admin::router(readiness, self.metrics);
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

async fn tcp(address: SocketAddr) -> Result<TcpListener, SidecarError> {
    let listening = TcpListener::bind(address).await;
    listening.map_err(|source| SidecarError::Listen { place: address.to_string(), source })
}

async fn unix(path: &std::path::Path) -> Result<UnixListener, SidecarError> {
    let listening = bind_unix(path, OWNER_ALONE).await;
    listening
        .map_err(|source| SidecarError::Listen { place: PathBuf::from(path).display().to_string(), source })
}

/// Whoever can open the socket speaks in the name of the service.
const OWNER_ALONE: u32 = 0o600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_setting_can_mend_ends_with_2() {
        assert_eq!(SidecarError::NoApp.exit_code(), 2);
        assert_eq!(SidecarError::Key(RandomError::Unavailable).exit_code(), 1);
    }
}
