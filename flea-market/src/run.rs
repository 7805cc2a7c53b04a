//! From a name to a service that answers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use countersign_sdk::workload::Workload;
use serde::Deserialize;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    neighbour::Neighbour,
    patience, seed,
    services::{
        ads::{self, Ads},
        chat::{self, Chat},
        media::{self, Media},
        reports::{self, Reports},
        subscriptions::{self, Subscriptions},
        users::{self, Users},
    },
    sidecar::{self, Sidecar},
    store::{AdStore, ChatStore, MediaStore, ReportStore, StoreError, SubscriptionStore, UserStore},
};

/// Where a service listens, and what is its own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where it serves, over mutual TLS.
    pub listen: SocketAddr,
    /// Its own database: `sqlite:FILE`, or the `postgres://…` of a database that no other service opens.
    pub database: String,
}

/// Why a service does not run.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RunError {
    /// There is no service of this name.
    #[error(
        "the flea market has no service {name:?}: it has ads, users, chat, media, subscriptions and reports"
    )]
    UnknownService {
        /// What was asked for.
        name: String,
    },
    /// Its database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The socket for its sidecar.
    #[error("{path} cannot be listened on: {why}")]
    Socket {
        /// Where.
        path: String,
        /// What the system says.
        why: String,
    },
    /// Its port.
    #[error("{address} cannot be listened on: {why}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        why: String,
    },
}

/// One of the six services with its database and its port open: whoever connects now is served. It may be called ready
/// from here on, and not before.
pub struct Opened {
    name: String,
    router: Router,
    listener: TcpListener,
    workload: Workload,
}

/// Opens the database and the port of one of the six services.
///
/// # Errors
/// See [`RunError`].
pub async fn open(name: &str, settings: Settings, workload: Workload) -> Result<Opened, RunError> {
    let router = router(name, &settings.database, &workload).await?;
    let listener = TcpListener::bind(settings.listen)
        .await
        .map_err(|error| RunError::Listen { address: settings.listen, why: error.to_string() })?;
    tracing::info!(service = name, listen = %settings.listen, "serving");
    Ok(Opened { name: name.to_owned(), router, listener, workload })
}

impl Opened {
    /// Serves until `stop`, then drains.
    pub async fn serve(self, stop: CancellationToken) {
        let Self { name: service, router, listener, workload } = self;
        let guarded = router.layer(workload.require());
        let late = workload.serve(listener, guarded).with_graceful_shutdown(stop.cancelled_owned()).await;
        if late > 0 {
            tracing::warn!(service, late, "connections were cut because they did not finish in time");
        }
        workload.close().await;
    }
}

/// Where a service without the SDK meets its sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BehindSidecar {
    /// Where it serves; made by it, mode 0600.
    pub app: PathBuf,
    /// Where its sidecar takes its calls.
    pub outbound: PathBuf,
    /// Its own database, as in [`Settings`].
    pub database: String,
}

/// Serves one of the six services behind its sidecar until `stop`: no identity, no key and no certificate is in this
/// process.
///
/// # Errors
/// See [`RunError`].
pub async fn run_behind_sidecar(
    name: &str,
    settings: BehindSidecar,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let sidecar = Sidecar::at(settings.outbound);
    let neighbour = |name, patience| Neighbour::through(sidecar.clone(), name, patience);
    let service = routes(name, &settings.database, &neighbour).await?;
    tracing::info!(service = name, socket = %settings.app.display(), "serving behind a sidecar");
    sidecar::serve(service, &settings.app, stop).await
}

/// The routes of one service over its own, seeded database. Not guarded yet: put
/// [`Workload::require`] in front.
///
/// # Errors
/// See [`RunError`].
pub async fn router(name: &str, database: &str, workload: &Workload) -> Result<Router, RunError> {
    routes(name, database, &|name, patience| Neighbour::new(workload.client(name), patience)).await
}

async fn routes(
    name: &str,
    database: &str,
    neighbour: &(dyn Fn(&'static str, Duration) -> Neighbour + Sync),
) -> Result<Router, RunError> {
    Ok(match name {
        "ads" => {
            let store = AdStore::open(database).await?;
            seed::ads(&store).await?;
            let users = neighbour("users", patience::PREVIEWS);
            ads::router(Ads { store, users, subscriptions: neighbour("subscriptions", patience::NEWS) })
        }
        "users" => {
            let store = UserStore::open(database).await?;
            seed::users(&store).await?;
            users::router(Users { store })
        }
        "chat" => {
            let store = ChatStore::open(database).await?;
            seed::chat(&store).await?;
            chat::router(Chat { store, users: neighbour("users", patience::LOOKUP) })
        }
        "media" => {
            let store = MediaStore::open(database).await?;
            seed::media(&store).await?;
            media::router(Media { store })
        }
        "subscriptions" => {
            let store = SubscriptionStore::open(database).await?;
            seed::subscriptions(&store).await?;
            subscriptions::router(Subscriptions { store })
        }
        "reports" => {
            let store = ReportStore::open(database).await?;
            seed::reports(&store).await?;
            reports::router(Reports { store, ads: neighbour("ads", patience::LOOKUP) })
        }
        _ => return Err(RunError::UnknownService { name: name.to_owned() }),
    })
}
