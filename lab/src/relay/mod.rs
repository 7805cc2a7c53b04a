//! A link of the chain that [`crate::experiment`] measures: a service that links the SDK as any other does, takes a
//! request, calls the next one, and hands its answer back. The last one answers by itself, with as many bytes as were
//! asked for.
//!
//! The head of a chain has a plain port on loopback for the load generator, and makes the first authenticated call. What
//! a trial varies without other processes comes with each request: how many edges are left, how long the answer is, and
//! whether connections are kept.

mod app;
mod counted;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use axum::{Router, routing::get, routing::post, serve::ListenerExt as _};
use countersign_keys::{KeyError, KeyPair, SystemRandom};
use countersign_sdk::{
    Workload,
    launch::{self, LaunchError},
    tls::Groups,
    workload::ConnectError,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use app::PAYLOAD_BYTES_MAX;
pub(crate) use app::REQUESTS;
pub(crate) use counted::BYTES;

use crate::experiment::data::Signing;
use app::Relay;
use counted::Counted;

/// What one relay is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The registered service that it becomes.
    pub service: String,
    /// Where it serves, as it is registered.
    pub listen: SocketAddr,
    /// The agent's socket.
    pub agent_socket: PathBuf,
    /// The service that it calls; the last of a chain calls nobody.
    pub next: Option<String>,
    /// Is it the head of its chain?
    pub head: bool,
    /// How long it waits before it answers as the last of a chain: a delay for the experiment to find.
    pub delay: Duration,
    /// The groups of its handshakes, the usual ones if absent.
    pub groups: Option<Groups>,
    /// With what it signs its requests, in modes that sign.
    pub signing: Signing,
    /// Calls over TLS without any proof of its own. Only the laboratory has such a caller: the SDK's prove themselves or
    /// come over plain HTTP, where everybody sees that they do not.
    pub calls_without_proof_over_tls: bool,
}

/// What is said once it serves.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready {
    /// Probes and metrics, on loopback.
    pub admin: SocketAddr,
    /// The load generator's port: heads only.
    pub plain: Option<SocketAddr>,
    /// The public half of a signing key that has to be registered before anybody believes its signatures.
    pub jwk: Option<Box<RawValue>>,
}

/// Why there is no relay.
#[derive(Debug, Error)]
pub enum RelayError {
    /// The agent does not let this process be the service.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// It has no identity.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It has no key to sign with.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A port cannot be had.
    #[error("{address} cannot be listened on: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// Serves until `stop`, once it was `announced`. `metrics` renders what is counted here.
///
/// # Errors
/// See [`RelayError`].
pub async fn run(
    settings: Settings,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    announced: impl FnOnce(&Ready),
    stop: CancellationToken,
) -> Result<(), RelayError> {
    let service = bind(settings.listen).await?;
    let admin = bind(any_port()).await?;
    let plain = if settings.head { Some(bind(any_port()).await?) } else { None };
    let key = own_key(settings.signing)?;

    launch::register(&settings.agent_socket, &settings.service).await?;
    let mut workload = Workload::builder(settings.agent_socket.clone()).wait(PATIENCE);
    if let Some(key) = &key {
        workload = workload.signing_key(key.clone());
    }
    let workload = workload.connect().await?;
    if let Some(groups) = &settings.groups {
        workload.trust().set_groups(groups);
    }
    let relay = Relay::new(&settings, workload.clone());

    let ready = Ready {
        admin: address_of(&admin)?,
        plain: plain.as_ref().map(address_of).transpose()?,
        // A JWK is JSON, so there is always a raw value of it.
        jwk: key.and_then(|key| RawValue::from_string(key.public_key().to_jwk()).ok()),
    };
    announced(&ready);
    let heads_router = Router::new().route(app::CALL, get(app::call)).with_state(Arc::clone(&relay));
    let admin = axum::serve(admin, admin_router(&relay, metrics)).with_graceful_shutdown(over(&stop));
    let chain = Router::new().route(app::HOP, get(app::hop)).with_state(relay).layer(workload.require());
    let serving = workload.serve(Counted::new(service), chain).with_graceful_shutdown(over(&stop));
    let heading = async move {
        match plain {
            // As the SDK's own listeners: a short answer that waited for an acknowledgement would be measured as 40 ms.
            Some(plain) => {
                let plain = plain.tap_io(|stream| drop(stream.set_nodelay(true)));
                axum::serve(plain, heads_router).with_graceful_shutdown(over(&stop)).await
            }
            None => Ok(()),
        }
    };
    // What ends these is `stop`; their listeners are loopback sockets that do not fail by themselves.
    let (_, _, _) = tokio::join!(serving.into_future(), admin.into_future(), heading);
    workload.close().await;
    Ok(())
}

/// Probes, metrics, and what the experiment tells a head between trials. On loopback, without any secret to protect: who
/// reaches it could start the same experiment.
fn admin_router(relay: &Arc<Relay>, metrics: Arc<dyn Fn() -> String + Send + Sync>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(app::ready))
        .route("/trouble", get(app::trouble))
        .route("/user", post(app::take_user))
        .with_state(Arc::clone(relay))
        .route("/metrics", get(move || async move { metrics() }))
}

/// A key that is not certified by itself: ES256 keys are, as in any service.
fn own_key(signing: Signing) -> Result<Option<KeyPair>, KeyError> {
    match signing {
        Signing::Es256 => Ok(None),
        Signing::Ed25519 => KeyPair::generate_ed25519(&SystemRandom::new()).map(Some),
        Signing::Rs256 => KeyPair::generate_rsa().map(Some),
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, RelayError> {
    TcpListener::bind(address).await.map_err(|source| RelayError::Listen { address, source })
}

fn address_of(listener: &TcpListener) -> Result<SocketAddr, RelayError> {
    listener.local_addr().map_err(|source| RelayError::Listen { address: any_port(), source })
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn over(stop: &CancellationToken) -> impl Future<Output = ()> + Send + 'static {
    stop.clone().cancelled_owned()
}

/// For the agent: dozens of relays ask it at the same moment.
const PATIENCE: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn rejects_a_port_that_somebody_else_has() {
        let taken = bind(any_port()).await.unwrap();
        let refused = bind(address_of(&taken).unwrap()).await;
        assert!(matches!(refused, Err(RelayError::Listen { .. })));
    }

    #[test]
    fn a_key_of_its_own_is_of_the_algorithm_that_was_asked_for() {
        assert!(own_key(Signing::Es256).unwrap().is_none());
        for signing in [Signing::Ed25519, Signing::Rs256] {
            let key = own_key(signing).unwrap().unwrap();
            assert_eq!(key.algorithm().jose_name(), signing.jose_name());
        }
    }
}
