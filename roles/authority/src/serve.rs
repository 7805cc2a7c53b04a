//! From a deployment to four listeners, and back to nothing.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::{
    extract::Request,
    middleware::{Next, from_fn},
    response::{IntoResponse as _, Response},
};
use countersign_accounts::lockout::ADDRESSES_MAX;
use countersign_identity::{CLOCK_SKEW, SpiffeId};
use countersign_ledger::Event;
use countersign_pki::{BundleSet, CrlPolicy, profile::LeafTtl};
use countersign_policy::Quota;
use countersign_sdk::{
    accept::{self, Limits, Transport, bind_unix},
    clock,
    tls::{Acceptor, ClientAuth, HandshakeObserver, TrustState},
};
use countersign_store::ledger::LedgerQuery;
use countersign_wire::codes::Code;
use nix::unistd::geteuid;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    AuthorityError, Deployment, Settings, admin,
    admin_table::{AdminTable, actions},
    api::{self, ApiError, sts::Sts},
    applied::Applied,
    boot::{self, Booted},
    credentials, entries,
    http::{self, Handshakes},
    journal::{Journal, Scribe},
    modes, node,
    password_desk::PasswordDesk,
    policies::{self, ApplyError},
    revocations,
    snapshot::{self, Occasion},
    state::{Authority, login_throttle},
    upkeep,
};

/// From the head of a request to the head of its answer.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Connections to the admin socket and to the probes: few people, and no strangers.
const LOCAL_CONNECTIONS_MAX: usize = 64;

/// Boots, serves until `shutdown` is cancelled, drains.
///
/// # Errors
/// See [`AuthorityError`]; `exit_code()` tells a wrong key or a wrong setting (2) from the rest (1).
pub async fn run(
    settings: Settings,
    deployment: Deployment,
    shutdown: CancellationToken,
) -> Result<(), AuthorityError> {
    settings.check()?;
    let booted = boot::boot(&settings, &deployment, clock::now()).await?;
    let (authority, scribe) = assemble(settings, &deployment, booted, shutdown.clone())?;
    let scribing = CancellationToken::new();
    let scribe = tokio::spawn(scribe.run(scribing.clone()));
    let served = match prepare(&authority, &deployment).await {
        Ok(()) => serve(&authority, &deployment, shutdown).await,
        Err(error) => Err(error),
    };
    // What the last requests left to be written is written after them.
    scribing.cancel();
    if scribe.await.is_err() {
        tracing::error!("the ledger's scribe ended early; its last notes are lost");
    }
    authority.db.close().await;
    served
}

fn assemble(
    settings: Settings,
    deployment: &Deployment,
    booted: Booted,
    shutdown: CancellationToken,
) -> Result<(Arc<Authority>, Scribe), AuthorityError> {
    let id = SpiffeId::authority(&deployment.trust_domain);
    let (journal, scribe) = Journal::open(booted.db.clone(), id.clone());
    let table = AdminTable::load(&actions(&api::document()));
    let admins: BTreeSet<u32> = settings.admin_uids.iter().copied().chain([geteuid().as_raw()]).collect();
    let wrong_ttl = |why: String| AuthorityError::Setting { name: "authority.svid_ttl", why };
    let quota = Quota::per_second(
        settings.stranger_requests_per_second,
        settings.stranger_requests_burst,
        ADDRESSES_MAX,
    );
    let trust = TrustState::new(BundleSet::new(), CrlPolicy::Require);
    let authority = Authority {
        trust_domain: deployment.trust_domain.clone(),
        id,
        svid_ttl: LeafTtl::new(settings.svid_ttl).map_err(|error| wrong_ttl(error.to_string()))?,
        policy_dir: deployment.policy_dir.clone(),
        issuer: settings.issuer(),
        audience: settings.audience(&deployment.trust_domain),
        settings,
        epoch: booted.epoch,
        started_at: clock::now(),
        admins: admins.into_iter().collect(),
        db: booted.db,
        journal,
        master: booted.master,
        sts: Sts::new(&booted.keys, Arc::clone(&trust), clock::now()),
        keys: ArcSwap::from_pointee(booted.keys),
        trust,
        edge: TrustState::new(BundleSet::new(), CrlPolicy::Require),
        table: table.map_err(|error| AuthorityError::Policies { why: error.to_string() })?,
        desk: PasswordDesk::new(),
        throttle: login_throttle(),
        quota,
        snapshots: watch::Sender::new(None),
        applied: Applied::default(),
        secrets: watch::Sender::new(0),
        entries: watch::Sender::new(0),
        shutdown,
        switching: Arc::default(),
        publishing: tokio::sync::Mutex::new(()),
    };
    Ok((Arc::new(authority), scribe))
}

/// Everything that must be true before the first caller is heard.
async fn prepare(authority: &Arc<Authority>, deployment: &Deployment) -> Result<(), AuthorityError> {
    let (version, epoch) = (env!("CARGO_PKG_VERSION").to_owned(), authority.epoch.clone());
    authority.journal.record(vec![Event::AuthorityStarted { version, epoch }]).await?;
    notice_a_step_back(authority).await?;
    entries::apply(authority, &deployment.services).await?;
    modes::raise_to_strict(authority).await?;
    if let Some(dir) = &deployment.policy_dir {
        policies::apply(authority, dir, "configuration").await.map_err(|error| match error {
            ApplyError::Store(error) => AuthorityError::Store(error),
            other => AuthorityError::Policies { why: other.to_string() },
        })?;
    }
    let now = clock::now();
    credentials::renew(authority, now).await?;
    let ca = |error: &dyn std::fmt::Display| AuthorityError::Ca(error.to_string());
    if upkeep::lists_are_due(authority, now).await? {
        revocations::publish_crls(authority).await.map_err(|error| ca(&error))?;
    } else {
        snapshot::publish(authority, Occasion::Change).await.map_err(|error| ca(&error))?;
    }
    Ok(())
}

/// The ledger remembers what time it was: a clock that was set back while we did not run is noticed by it.
async fn notice_a_step_back(authority: &Authority) -> Result<(), AuthorityError> {
    let newest = LedgerQuery { newest: true, limit: 2, ..LedgerQuery::default() };
    // The newest of all is our own start of just now.
    let before = authority.db.events(&newest).await?.into_iter().next().map(|stored| stored.stored_at);
    let behind = before.map(|before| before.since(clock::now())).unwrap_or_default();
    if behind > CLOCK_SKEW {
        tracing::warn!(seconds = behind.as_secs(), "the clock is behind the newest event of the ledger");
        let by_ms = u64::try_from(behind.as_millis()).unwrap_or(u64::MAX);
        authority.journal.record(vec![Event::ClockSteppedBack { by_ms }]).await?;
    }
    Ok(())
}

async fn serve(
    authority: &Arc<Authority>,
    deployment: &Deployment,
    shutdown: CancellationToken,
) -> Result<(), AuthorityError> {
    let settings = &authority.settings;
    let api_listener = bind(settings.listen).await?;
    let node_listener = bind(settings.node_listen).await?;
    let probe_listener = bind(settings.admin).await?;
    let socket = deployment.state_dir.join("admin.sock");
    let admin_listener = bind_unix(&socket, 0o600)
        .await
        .map_err(|error| AuthorityError::File { path: socket.clone(), why: error.to_string() })?;

    let observer: Arc<dyn HandshakeObserver> = Arc::new(Handshakes(authority.journal.clone()));
    let judged = Acceptor::new(Arc::clone(&authority.trust), ClientAuth::Optional).observed_by(observer);
    let api_tls = Transport::Tls(judged.clone().showing(Arc::clone(&authority.edge)));
    let api = http::router(authority).layer(from_fn(within_time));
    let node = tonic::service::Routes::new(node::service(authority)).into_axum_router();
    let probes = admin::router(authority, Arc::clone(&deployment.metrics)).layer(from_fn(within_time));
    let (limits, local) =
        (Limits::default(), Limits { connections_max: LOCAL_CONNECTIONS_MAX, ..Limits::default() });

    let mut listeners = JoinSet::new();
    listeners.spawn(accept::serve(api_listener, api_tls, api.clone(), limits, shutdown.clone()));
    listeners.spawn(accept::serve(node_listener, Transport::Tls(judged), node, limits, shutdown.clone()));
    listeners.spawn(accept::serve(admin_listener, Transport::Plain, api, local, shutdown.clone()));
    listeners.spawn(accept::serve(probe_listener, Transport::Plain, probes, local, shutdown.clone()));
    let keeper = tokio::spawn(upkeep::run(Arc::clone(authority), shutdown.clone()));
    tracing::info!(api = %settings.listen, node = %settings.node_listen, admin = %settings.admin, "the authority serves");

    let mut outcome = Ok(());
    while let Some(ended) = listeners.join_next().await {
        if !shutdown.is_cancelled() {
            let why = ended.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string());
            outcome = Err(AuthorityError::Stopped { name: "of the authority", why });
            shutdown.cancel();
        }
    }
    if keeper.await.is_err() {
        tracing::error!("upkeep ended early");
    }
    if let Err(error) = std::fs::remove_file(&socket) {
        tracing::debug!(%error, "the admin socket could not be removed");
    }
    outcome
}

async fn bind(address: SocketAddr) -> Result<TcpListener, AuthorityError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| AuthorityError::Listen { address, why: error.to_string() })
}

/// A slow sender, or a slow database, holds nobody for ever.
async fn within_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_TIME, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::from(Code::RequestTimeout).into_response(),
    }
}

/// An assembled authority that does not listen, for tests of its parts.
#[cfg(test)]
pub(crate) mod testing {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use countersign_identity::TrustDomain;
    use countersign_testkit::{TempDir, temp_dir};

    use super::*;

    /// Prepared as [`run`] would, on SQLite in a directory of its own.
    pub(crate) async fn authority() -> (TempDir, Arc<Authority>) {
        let dir = temp_dir();
        let master = dir.path().join("config/master.key");
        crate::make_master_key(&master).unwrap();
        let toml = format!(
            "listen = \"127.0.0.1:7443\"\nnode_listen = \"127.0.0.1:7444\"\nadmin = \"127.0.0.1:7081\"\n\
             master_key = \"{}\"\n",
            master.display()
        );
        let settings: Settings = toml::from_str(&toml).unwrap();
        let state_dir = dir.path().join("state");
        std::fs::create_dir(&state_dir).unwrap();
        let deployment = Deployment {
            trust_domain: TrustDomain::parse("fleamarket.test").unwrap(),
            state_dir,
            services: Vec::new(),
            policy_dir: None,
            metrics: Arc::new(String::new),
        };
        let booted = boot::boot(&settings, &deployment, clock::now()).await.unwrap();
        let (authority, scribe) = assemble(settings, &deployment, booted, CancellationToken::new()).unwrap();
        tokio::spawn(scribe.run(CancellationToken::new()));
        prepare(&authority, &deployment).await.unwrap();
        (dir, authority)
    }
}
