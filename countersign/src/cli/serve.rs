//! `serve ROLE` and `demo-service NAME`: one role in this process, until it is asked to stop.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use clap::{Args, ValueEnum};
use countersign_gateway::sidecar::Sidecar;
use countersign_gateway::{Gateway, Reloader};
use countersign_identity::SpiffeId;
use countersign_sdk::live::Staleness;
use countersign_sdk::outbound::CallLimits;
use countersign_sdk::workload::{FileIdentity, Workload};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Layers};
use crate::error::CliError;
use crate::telemetry::{self, Meters};
use crate::up::SERVICES;

/// `serve ROLE`
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The role to run
    #[arg(value_enum)]
    role: Role,
    #[command(flatten)]
    common: Common,
}

/// `demo-service NAME`
#[derive(Debug, Args)]
pub struct DemoServiceArgs {
    /// One of the flea market's services
    #[arg(value_parser = SERVICES)]
    name: String,
    /// Serve on a Unix socket for a sidecar, without an identity and without the SDK
    #[arg(long)]
    behind_sidecar: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/countersign/countersign.toml")]
    config: PathBuf,
    /// Read the configuration, say whether it is one, and stop
    #[arg(long)]
    check: bool,
    /// End when standard input closes: how a supervisor's children follow it
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Authority,
    Agent,
    Gateway,
    Sidecar,
}

/// Runs `serve`.
///
/// # Errors
/// Exit 2 for settings and keys, 1 for the rest.
pub async fn serve(args: ServeArgs) -> Result<(), CliError> {
    let config = Config::read(&args.common.config)?;
    if args.common.check {
        return said_ok(&args.common.config);
    }
    let stop = start_process(args.common.until_stdin_closes);
    let metrics = telemetry::metrics()?;
    let observing = telemetry::requests(&config)?;
    let served = match args.role {
        Role::Authority => authority(config, metrics, stop).await,
        Role::Agent => agent(config, metrics, stop).await,
        Role::Gateway => gateway(config, args.common.config, metrics, stop).await,
        Role::Sidecar => sidecar(config, args.common.config, metrics, stop).await,
    };
    observing.close().await;
    served
}

async fn authority(config: Config, metrics: Meters, stop: CancellationToken) -> Result<(), CliError> {
    let settings = config.table(&config.authority, "authority")?;
    let deployment = countersign_authority::Deployment {
        trust_domain: config.trust_domain()?,
        state_dir: config.state_dir,
        services: config.service,
        policy_dir: config.policy.map(|p| p.dir),
        metrics: Arc::new(move || metrics.render()),
    };
    countersign_authority::run(settings, deployment, stop).await.map_err(|e| {
        let why = sources(&e);
        if e.exit_code() == 2 { CliError::usage(e, why, "") } else { CliError::failed(e, why, "") }
    })
}

async fn agent(config: Config, metrics: Meters, stop: CancellationToken) -> Result<(), CliError> {
    let settings = config.table(&config.agent, "agent")?;
    let deployment = countersign_agent::Deployment {
        trust_domain: config.trust_domain()?,
        state_dir: config.state_dir,
        metrics: Arc::new(move || metrics.render()),
    };
    countersign_agent::run(settings, deployment, stop)
        .await
        .map_err(|e| CliError::failed(&e, sources(&e), ""))
}

async fn gateway(
    config: Config,
    file: PathBuf,
    metrics: Meters,
    stop: CancellationToken,
) -> Result<(), CliError> {
    let settings = config.table(&config.gateway, "gateway")?.keeping_state_below(&config.state_dir);
    let workload = workload(&config, settings.call_limits(), settings.revocation, || {
        Ok(format!("spiffe://{}/countersign/gateway/edge", config.trust_domain()?))
    })
    .await?;
    let render = Arc::new(move || metrics.render());
    let served = match Gateway::bind(settings, workload.clone(), render).await {
        Ok(gateway) => {
            let reloading = tokio::spawn(reload_on_hangup(file, gateway.reloader()));
            gateway.run(stop).await;
            reloading.abort();
            Ok(())
        }
        Err(e) => Err(e),
    };
    workload.close().await;
    served.map_err(|e| {
        let why = sources(&e);
        if e.exit_code() == 2 { CliError::usage(e, why, "") } else { CliError::failed(e, why, "") }
    })
}

/// SIGHUP: reads the file again and puts it into force whole, or says where it is wrong and keeps the old one.
async fn reload_on_hangup(file: PathBuf, reloader: Reloader) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
    let Ok(first) = Layers::read(&file) else { return };
    metrics::gauge!("countersign_config_reload_success").set(1.0);
    while hangups.recv().await.is_some() {
        let applied = match reloadable(&file, &first) {
            Ok(settings) => reloader.apply(settings).await.map_err(|e| CliError::usage(&e, sources(&e), "")),
            Err(e) => Err(e),
        };
        match applied {
            Ok(()) => {
                tracing::info!(file = %file.display(), "the configuration was read again and is in force")
            }
            Err(ref error) => {
                tracing::error!(%error, "the configuration was read again and is wrong: the old one stays in force");
            }
        }
        metrics::gauge!("countersign_config_reload_success").set(if applied.is_ok() { 1.0 } else { 0.0 });
    }
}

/// The settings that are read now, if nothing changed that only a restart puts into force.
fn reloadable(file: &Path, first: &Layers) -> Result<countersign_gateway::Settings, CliError> {
    let layers = Layers::read(file)?;
    let config: Config = layers.parse()?;
    if layers.without("gateway") != first.without("gateway") {
        return Err(CliError::usage(
            format!("{} changes more than [gateway]", file.display()),
            "identity, policies and state stand as long as the process",
            "restart it",
        ));
    }
    Ok(config.table(&config.gateway, "gateway")?.keeping_state_below(&config.state_dir))
}

/// A sidecar reads its configuration once: a hangup must not end it.
async fn stay_at_hangup(file: PathBuf) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
    while hangups.recv().await.is_some() {
        tracing::warn!(file = %file.display(), "a sidecar reads its configuration at its start: restart it");
    }
}

/// The identity of a proxy: from the files of `[identity]`, else from the agent, for the registered `entry`.
async fn workload(
    config: &Config,
    calls: CallLimits,
    staleness: Staleness,
    entry: impl FnOnce() -> Result<String, CliError>,
) -> Result<Workload, CliError> {
    let workload = identified(config, calls, staleness, entry).await?;
    if let Some(tls) = &config.tls {
        workload.trust().set_groups(&tls.groups);
    }
    Ok(workload)
}

async fn identified(
    config: &Config,
    calls: CallLimits,
    staleness: Staleness,
    entry: impl FnOnce() -> Result<String, CliError>,
) -> Result<Workload, CliError> {
    if let Some(files) = config.file_identity() {
        if staleness != Staleness::default() {
            return Err(CliError::usage(
                "revocation is set beside [identity]",
                "an identity from files hears no authority: a list in crl counts until its nextUpdate",
                "remove the table revocation, or set crl in [identity]",
            ));
        }
        let files = FileIdentity { calls, ..files };
        return Workload::from_files(files).await.map_err(|e| {
            CliError::usage(
                "there is no identity in the files of [identity]",
                e,
                "mend the files, or their names",
            )
        });
    }
    let socket = config.table(&config.agent, "agent")?.socket;
    become_service(&socket, &entry()?).await?;
    let connecting = Workload::builder(socket.clone()).call_limits(calls).staleness(staleness).connect();
    connecting.await.map_err(|e| no_identity(&socket, &e))
}

async fn sidecar(
    config: Config,
    file: PathBuf,
    metrics: Meters,
    stop: CancellationToken,
) -> Result<(), CliError> {
    let staying = tokio::spawn(stay_at_hangup(file));
    let settings = config.table(&config.sidecar, "sidecar")?;
    let (calls, staleness) = (settings.call_limits(), settings.revocation);
    let workload = workload(&config, calls, staleness, || Ok(settings.service.clone())).await?;
    let render = Arc::new(move || metrics.render());
    let served = match Sidecar::bind(settings, workload.clone(), render).await {
        Ok(sidecar) => sidecar.run(stop).await,
        Err(e) => Err(e),
    };
    staying.abort();
    workload.close().await;
    served.map_err(|e| {
        let why = sources(&e);
        if e.exit_code() == 2 { CliError::usage(e, why, "") } else { CliError::failed(e, why, "") }
    })
}

/// Runs one service of the flea market.
///
/// # Errors
/// As [`serve`].
pub async fn demo_service(args: DemoServiceArgs) -> Result<(), CliError> {
    let config = Config::read(&args.common.config)?;
    if args.common.check {
        return said_ok(&args.common.config);
    }
    let demo = config.table(&config.demo, "demo")?;
    let settings = demo.services.get(&args.name).cloned().ok_or_else(|| {
        CliError::usage(
            format!("the configuration has no [demo.services.{}]", args.name),
            "",
            "add the table",
        )
    })?;
    let stop = start_process(args.common.until_stdin_closes);
    if args.behind_sidecar {
        let (app, outbound) = sidecar_sockets(&config.state_dir, &args.name);
        let run = countersign_flea_market::BehindSidecar { app, outbound, database: settings.database };
        let served = countersign_flea_market::run_behind_sidecar(&args.name, run, stop).await;
        return served.map_err(|e| CliError::failed(&e, sources(&e), ""));
    }
    let socket = config.table(&config.agent, "agent")?.socket;
    let metrics = telemetry::metrics()?;
    let observing = telemetry::requests(&config)?;
    become_service(&socket, &args.name).await?;
    let workload = Workload::connect_to(&socket).await.map_err(|e| no_identity(&socket, &e))?;
    let open = countersign_flea_market::Settings { listen: settings.listen, database: settings.database };
    let opened = countersign_flea_market::open(&args.name, open, workload.clone()).await;
    let opened = opened.map_err(|e| CliError::failed(&e, sources(&e), ""))?;
    // Nobody calls it ready before it listens.
    let admin = tokio::spawn(admin_listener(settings.admin, workload, metrics, stop.clone()));
    opened.serve(stop.clone()).await;
    stop.cancel();
    let _ = admin.await;
    observing.close().await;
    Ok(())
}

/// Where a service of the flea market meets its sidecar: its own socket, and the one that takes its calls.
pub fn sidecar_sockets(state_dir: &Path, service: &str) -> (PathBuf, PathBuf) {
    let dir = state_dir.join("sidecars");
    (dir.join(format!("{service}.sock")), dir.join(format!("{service}-out.sock")))
}

/// The configuration of the sidecar of a service of the flea market.
pub fn sidecar_file(state_dir: &Path, service: &str) -> PathBuf {
    state_dir.join("sidecars").join(format!("{service}.toml"))
}

/// Makes this process the named service, by right of its uid, and tells its identity.
///
/// # Errors
/// Exit 4 where the agent refuses, 3 where it does not answer.
pub async fn become_service(socket: &Path, entry: &str) -> Result<SpiffeId, CliError> {
    countersign_sdk::launch::register(socket, entry).await.map_err(|e| {
        let what = format!("this process does not become {entry}");
        if e.is_refusal() {
            CliError::denied(what, e, "countersign service show NAME tells which uids may launch it")
        } else {
            CliError::unreachable(what, e, "countersign status")
        }
    })
}

fn no_identity(socket: &Path, why: &dyn std::fmt::Display) -> CliError {
    CliError::unreachable(
        format!("no identity from the agent at {}", socket.display()),
        why,
        "countersign status",
    )
}

/// Logs, and the orders to stop: SIGTERM, Ctrl-C, or the supervisor's end of the pipe.
pub fn start_process(until_stdin_closes: bool) -> CancellationToken {
    telemetry::logs();
    let stop = CancellationToken::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let stop = stop.clone();
        if let Ok(mut stream) = signal(kind) {
            tokio::spawn(async move {
                stream.recv().await;
                stop.cancel();
            });
        }
    }
    if until_stdin_closes {
        stop_with_stdin(stop.clone());
    }
    stop
}

/// Orders to stop when standard input closes: whoever holds its other end is gone then, however it went.
pub fn stop_with_stdin(stop: CancellationToken) {
    // A thread of its own: a read of stdin cannot be cancelled and must not hold the runtime back.
    std::thread::spawn(move || {
        let mut sink = [0_u8; 64];
        while matches!(std::io::stdin().read(&mut sink), Ok(n) if n > 0) {}
        stop.cancel();
    });
}

/// `/livez`, `/readyz` and `/metrics` of a demo service, on loopback.
async fn admin_listener(address: SocketAddr, workload: Workload, metrics: Meters, stop: CancellationToken) {
    let ready = |State(workload): State<Workload>| async move {
        match workload.ready() {
            Ok(()) => (StatusCode::OK, "[+]identity ok\n".to_owned()),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("[-]identity {why}\n")),
        }
    };
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/healthz", get(ready))
        .with_state(workload)
        .route("/metrics", get(move || async move { metrics.render() }));
    let listener = match tokio::net::TcpListener::bind(address).await {
        Ok(listener) if address.ip().is_loopback() => listener,
        Ok(_) => return tracing::error!(%address, "the admin listener must be on loopback"),
        Err(error) => return tracing::error!(%address, %error, "the admin listener does not start"),
    };
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "the admin listener ended");
    }
}

fn said_ok(path: &Path) -> Result<(), CliError> {
    crate::output::line(format!("{} is a configuration", path.display()));
    Ok(())
}

/// The causes behind an error, on one line.
fn sources(error: &dyn std::error::Error) -> String {
    let mut said = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        said.push(cause.to_string());
        next = cause.source();
    }
    said.join(": ")
}
