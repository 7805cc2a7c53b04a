//! The order in which a deployment starts: each step needs the one before.

use std::path::Path;
use std::time::{Duration, Instant};

use countersign_wire::api::modes::SwitchDemo;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::Admin;
use crate::config::Config;
use crate::error::CliError;
use crate::up::layout::{Layout, SERVICES};
use crate::up::process::{Process, Running};
use crate::up::{POLL, START, first, probe};

/// Processes of a supervisor that was killed finish their requests first.
const DRAINED_WITHIN: Duration = Duration::from_secs(15);

/// What the person asked for.
#[derive(Debug)]
pub struct Wanted {
    /// The modes of every service; none where nothing was said about them.
    pub modes: Option<SwitchDemo>,
    /// Services without the SDK, each behind a sidecar.
    pub sidecars: bool,
}

/// Starts everything and returns when all of it is ready. Processes run on in `tracker` until `stop`.
///
/// # Errors
/// Names the process that does not become ready, with its last words.
pub async fn start_all(
    layout: &Layout,
    config: &Config,
    wanted: &Wanted,
    tracker: &TaskTracker,
    stop: &CancellationToken,
) -> Result<(), CliError> {
    let admin = Admin::of(&layout.state_dir);
    let authority = config.table(&config.authority, "authority")?;
    let mut process = start(role(layout, "authority"), authority.admin).await?;
    ready(&mut process, authority.admin).await?;
    tracker.spawn(process.keep(stop.clone()));

    if let Some(modes) = &wanted.modes {
        first::switch_modes(&admin, modes).await?;
    }
    first::write_edge_root(layout, &admin).await?;
    first::make_users(layout, &admin).await?;
    first::certify_gateway(layout, &admin).await?;
    tracker.spawn(first::keep_gateway_certified(layout.clone(), admin.clone(), stop.clone()));

    first::write_join_token(layout, &admin).await?;
    let agent = config.table(&config.agent, "agent")?;
    let agent_admin = need(agent.admin, "[agent] admin")?;
    let mut process = start(role(layout, "agent"), agent_admin).await?;
    ready(&mut process, agent_admin).await?;
    tracker.spawn(process.keep(stop.clone()));
    first::remove_join_token(layout);

    let gateway = config.table(&config.gateway, "gateway")?;
    let demo = config.table(&config.demo, "demo")?;
    let gateway_admin = need(gateway.admin, "[gateway] admin")?;
    let mut open = vec![(start(role(layout, "gateway"), gateway_admin).await?, gateway_admin)];
    for name in SERVICES {
        let settings = demo.services.get(name).ok_or_else(|| {
            CliError::usage(
                format!("the configuration has no [demo.services.{name}]"),
                "the flea market has six services",
                "add it",
            )
        })?;
        if wanted.sidecars {
            layout.write_sidecar(config, name, settings)?;
            let behind = start(behind_sidecar(layout, name), settings.admin).await?;
            tracker.spawn(behind.keep(stop.clone()));
        } else {
            layout.forget_sidecar(name)?;
        }
        let front = if wanted.sidecars { sidecar(layout, name) } else { service(layout, name) };
        open.push((start(front, settings.admin).await?, settings.admin));
    }
    for (mut process, admin) in open {
        ready(&mut process, admin).await?;
        tracker.spawn(process.keep(stop.clone()));
    }
    Ok(())
}

fn role(layout: &Layout, name: &str) -> Process {
    process(layout, name, &["serve", name])
}

fn service(layout: &Layout, name: &str) -> Process {
    process(layout, name, &["demo-service", name])
}

fn behind_sidecar(layout: &Layout, name: &str) -> Process {
    process(layout, name, &["demo-service", name, "--behind-sidecar"])
}

fn sidecar(layout: &Layout, name: &str) -> Process {
    let config = layout.sidecar_file(name);
    configured(&config, layout, &format!("{name}-sidecar"), &["serve", "sidecar"])
}

fn process(layout: &Layout, name: &str, verb: &[&str]) -> Process {
    configured(&layout.config_file(), layout, name, verb)
}

fn configured(config: &Path, layout: &Layout, name: &str, verb: &[&str]) -> Process {
    let mut arguments: Vec<String> = verb.iter().map(|a| (*a).to_owned()).collect();
    arguments.extend(["--config".to_owned(), config.display().to_string()]);
    arguments.push("--until-stdin-closes".to_owned());
    Process { name: name.to_owned(), arguments, log: layout.log_file(name) }
}

/// Starts a process once its admin port is free: whoever else answers there must not be taken for it. The last
/// deployment's processes may still be draining.
async fn start(process: Process, admin: std::net::SocketAddr) -> Result<Running, CliError> {
    let deadline = Instant::now() + DRAINED_WITHIN;
    while let Err(e) = std::net::TcpListener::bind(admin) {
        if Instant::now() > deadline {
            let what = format!("{} cannot have {admin}", process.name);
            return Err(CliError::usage(
                what,
                e,
                "end the other server, or change the port in countersign.toml",
            ));
        }
        tokio::time::sleep(POLL).await;
    }
    process.start()
}

async fn ready(process: &mut Running, admin: std::net::SocketAddr) -> Result<(), CliError> {
    let deadline = Instant::now() + START;
    loop {
        if let Some(code) = process.ended() {
            return Err(did_not_start(process, code));
        }
        if matches!(probe::get(admin, "/readyz").await, Some((200, _))) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(CliError::failed(
                format!("{} does not become ready", process.process().name),
                process.process().last_words(),
                format!("read {}", process.process().log.display()),
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Exit 2 is passed on: a wrong key or setting of a role is a wrong key or setting of `up`.
fn did_not_start(process: &Running, code: i32) -> CliError {
    let what = format!("{} does not start", process.process().name);
    let words = process.process().last_words();
    let log = format!("read {}", process.process().log.display());
    if code == 2 { CliError::usage(what, words, log) } else { CliError::failed(what, words, log) }
}

fn need<T>(value: Option<T>, name: &str) -> Result<T, CliError> {
    value
        .ok_or_else(|| CliError::usage(format!("the configuration has no {name}"), "`up` needs it", "add it"))
}
