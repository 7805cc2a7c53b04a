//! `up` and `down`: a whole deployment on one machine. One supervisor, one process for each role and service; they
//! end when the supervisor does, however it ends.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use countersign_identity::TrustDomain;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::error::CliError;
use crate::output;

mod detach;
mod first;
mod layout;
mod lock;
mod ports;
pub mod probe;
mod process;
mod ready;
mod start;

pub use layout::SERVICES;
pub use ready::{Ready, write_private};

use layout::Layout;
use lock::Lock;

/// How long a starting deployment may take, and one that another `up` is starting.
const START: Duration = Duration::from_secs(90);
/// How long `down` waits for the supervisor to end.
const END: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// `up`
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// The trust domain of a new deployment [default: fleamarket.test]
    #[arg(long, value_name = "TD")]
    trust_domain: Option<TrustDomain>,
    /// How services prove who they are
    #[arg(long, value_enum, default_value_t = ModeArg::Mtls)]
    mode: ModeArg,
    /// Return when it is ready; it goes on in the background
    #[arg(long)]
    detach: bool,
    /// Print the ready line as JSON
    #[arg(long)]
    json: bool,
    /// Remove all state at the end
    #[arg(long)]
    ephemeral: bool,
    /// The background half of --detach
    #[arg(long, hide = true)]
    in_background: bool,
}

/// Modes that this version runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    Mtls,
}

/// `down`
#[derive(Debug, Clone, Args)]
pub struct DownArgs {
    /// Remove all state, and the master key
    #[arg(long)]
    purge: bool,
}

/// Runs `up`.
///
/// # Errors
/// Exit 2 where settings or keys are wrong, 1 where a process does not become ready.
pub async fn up(state_dir: &Path, args: UpArgs) -> Result<(), CliError> {
    let ModeArg::Mtls = args.mode;
    let layout = Layout::open(state_dir)?;
    if args.detach && !args.in_background {
        return detach::detach(&layout, &args).await;
    }
    if args.in_background {
        let _ = nix::unistd::setsid();
    }
    let Some(_lock) = Lock::try_take(&layout.state_dir)? else {
        let ready = wait_for_other(&layout.state_dir).await?;
        return announce(&ready, &args, true);
    };
    Ready::forget(&layout.state_dir);
    let result = supervise(&layout, &args).await;
    Ready::forget(&layout.state_dir);
    if args.ephemeral {
        remove_all(&layout.state_dir)?;
    }
    result
}

async fn supervise(layout: &Layout, args: &UpArgs) -> Result<(), CliError> {
    let started = Instant::now();
    let config = layout.prepare(args.trust_domain.as_ref())?;
    let stop = CancellationToken::new();
    let tracker = TaskTracker::new();
    let outcome = tokio::select! {
        outcome = start::start_all(layout, &config, &tracker, &stop) => outcome,
        () = asked_to_stop() => Err(CliError::failed("stopped while starting", "", "")),
    };
    let outcome = match outcome {
        Ok(()) => run_until_stopped(layout, &config, args, started).await,
        Err(e) => Err(e),
    };
    stop.cancel();
    tracker.close();
    tracker.wait().await;
    outcome
}

async fn run_until_stopped(
    layout: &Layout,
    config: &Config,
    args: &UpArgs,
    started: Instant,
) -> Result<(), CliError> {
    let ready = ready_line(layout, config, started.elapsed())?;
    ready.write(&layout.state_dir)?;
    announce(&ready, args, false)?;
    asked_to_stop().await;
    Ok(())
}

fn ready_line(layout: &Layout, config: &Config, took: Duration) -> Result<Ready, CliError> {
    let (authority, gateway) =
        (config.table(&config.authority, "authority")?, config.table(&config.gateway, "gateway")?);
    let missing = |key: &str| {
        CliError::usage(format!("[gateway] has no {key}"), "`up` needs it", "add it to countersign.toml")
    };
    Ok(Ready {
        ready_s: (took.as_secs_f64() * 1000.0).round() / 1000.0,
        trust_domain: config.trust_domain.to_string(),
        gateway: format!("http://{}", gateway.listen.ok_or_else(|| missing("listen"))?),
        gateway_tls: format!("https://{}", gateway.listen_tls.ok_or_else(|| missing("listen_tls"))?),
        authority: format!("https://{}", authority.listen),
        admin: format!("http://{}", authority.admin),
        console: None,
        agent_socket: layout.agent_socket(),
        ca_file: layout.ca_file(),
        state_dir: layout.state_dir.clone(),
        pid: std::process::id(),
    })
}

/// Tells the person, or the script, that everything runs.
fn announce(ready: &Ready, args: &UpArgs, already: bool) -> Result<(), CliError> {
    if args.json {
        return output::json(ready, true);
    }
    if already {
        output::line(format!("already running (pid {})", ready.pid));
    } else {
        output::line(format!("Ready in {:.1} s.", ready.ready_s));
    }
    let state = ready.state_dir.display();
    output::line(format!("  trust domain  {}   state {state}", ready.trust_domain));
    output::line(format!(
        "  gateway       {}   {} (curl --cacert {})",
        ready.gateway,
        ready.gateway_tls,
        ready.ca_file.display()
    ));
    output::line(format!("  authority     {}", ready.authority));
    output::line(format!("  agent         unix://{}   (SPIFFE Workload API)", ready.agent_socket.display()));
    output::line(format!("  flea market   {}: every call by mTLS", SERVICES.join(", ")));
    output::line("  isolation     all services run under one uid here, so it is nominal between them");
    output::line("\nTry:");
    let cs = format!("countersign --state-dir {state}");
    output::line(format!(
        "  curl -s -K \"$({cs} login alice --curl-config)\" '{}/ads?near=48.37,14.51'",
        ready.gateway
    ));
    output::line(format!("  {cs} edges             who talks to whom, and how each proved who it is"));
    output::line(format!("  {cs} demo workflow     the eight steps of one call"));
    output::line(format!("  {cs} explain last      why the last request was refused"));
    output::line(format!("  {cs} down              ends it; the state stays"));
    Ok(())
}

/// Another `up` holds the lock: its line is ours, as soon as it is ready.
async fn wait_for_other(state_dir: &Path) -> Result<Ready, CliError> {
    let deadline = Instant::now() + START;
    loop {
        if let Ok(ready) = Ready::read(state_dir) {
            return Ok(ready);
        }
        if Instant::now() > deadline {
            let what = format!("another `up` on {} does not become ready", state_dir.display());
            return Err(CliError::failed(what, "", "read logs/up.log in the state directory"));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Ctrl-C, SIGTERM, or the terminal going away.
async fn asked_to_stop() {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let mut waits = Vec::new();
    for kind in kinds {
        if let Ok(mut stream) = signal(kind) {
            waits.push(Box::pin(async move {
                stream.recv().await;
            }));
        }
    }
    futures::future::select_all(waits).await;
}

/// Runs `down`.
///
/// # Errors
/// Exit 1 where the supervisor does not end, 2 where the state cannot be removed.
pub async fn down(state_dir: &Path, args: DownArgs) -> Result<(), CliError> {
    if !state_dir.exists() {
        output::line(format!("nothing is there: {}", state_dir.display()));
        return Ok(());
    }
    let layout = Layout::open(state_dir)?;
    let was_running = match Ready::read(&layout.state_dir) {
        Ok(ready) if Lock::try_take(&layout.state_dir)?.is_none() => {
            end(&layout, ready.pid).await?;
            true
        }
        _ => false,
    };
    Ready::forget(&layout.state_dir);
    if args.purge {
        remove_all(&layout.state_dir)?;
    }
    output::line(match (was_running, args.purge) {
        (true, true) => "ended and removed",
        (true, false) => "ended; the state stays",
        (false, true) => "was not running; removed",
        (false, false) => "was not running",
    });
    Ok(())
}

async fn end(layout: &Layout, pid: u32) -> Result<(), CliError> {
    let raw = i32::try_from(pid)
        .map_err(|e| CliError::failed("up.json holds no process id", e, "end it by hand"))?;
    kill(Pid::from_raw(raw), Signal::SIGTERM).map_err(|e| {
        CliError::failed(format!("the supervisor (pid {pid}) cannot be ended"), e, "end it by hand")
    })?;
    let deadline = Instant::now() + END;
    while Lock::try_take(&layout.state_dir)?.is_none() {
        if Instant::now() > deadline {
            return Err(CliError::failed(
                format!("the supervisor (pid {pid}) does not end"),
                "",
                "kill it; no child outlives it",
            ));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

fn remove_all(state_dir: &Path) -> Result<(), CliError> {
    let failed = |e: std::io::Error| CliError::usage(format!("cannot remove {}", state_dir.display()), e, "");
    // Only what `up` made is removed: a wrong --state-dir must not cost somebody their files.
    if !state_dir.join("countersign.toml").exists() {
        return Ok(());
    }
    if let Ok(key) = layout::master_key_path(state_dir) {
        let _ = std::fs::remove_file(key);
    }
    std::fs::remove_dir_all(state_dir).map_err(failed)
}
