//! `up` and `down`: a whole deployment on one machine. One supervisor, one process for each role and service; they
//! end when the supervisor does, however it ends.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use countersign_identity::{Mode, TrustDomain};
use countersign_wire::api::modes::SwitchDemo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli::serve::stop_with_stdin;
use crate::cli::service::{self, Carries};
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
use lock::{Holder, Lock};

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
    /// How services prove who they are: none, bearer, macaroon, jwt, wimse, mtls, mtls+jwt [default: mtls, or what it
    /// was]
    #[arg(long, value_name = "MODE", value_parser = Mode::parse)]
    mode: Option<Mode>,
    #[command(flatten)]
    carries: Carries,
    /// Run the services without the SDK, each behind a sidecar of its own
    #[arg(long)]
    sidecar: bool,
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
    /// End when standard input closes: for whoever starts a deployment for itself
    #[arg(long, hide = true, conflicts_with = "detach")]
    until_stdin_closes: bool,
}

impl UpArgs {
    /// The modes that every service is to have; none where nothing was said about them.
    fn modes(&self) -> Result<Option<SwitchDemo>, CliError> {
        if self.mode.is_none() && self.carries.is_something() {
            return Err(CliError::usage(
                "--user-context and --wimse go with a mode",
                "--mode is missing",
                "countersign up --mode jwt --user-context nested",
            ));
        }
        if self.mode == Some(Mode::None) {
            output::note(service::NONE_WARNING);
        }
        Ok(self.mode.map(|mode| service::switch(mode, self.carries)))
    }
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
    let layout = Layout::open(state_dir)?;
    if args.detach && !args.in_background {
        return detach::detach(&layout, &args).await;
    }
    if args.in_background {
        let _ = nix::unistd::setsid();
    }
    let _lock = match lock_or_other(&layout.state_dir).await? {
        Turn::Ours(lock) => lock,
        Turn::Other(ready) => return announce(&ready, &args, true),
    };
    Ready::forget(&layout.state_dir);
    if args.ephemeral && layout.config_file().exists() {
        return Err(CliError::usage(
            format!("{} holds a deployment already", layout.state_dir.display()),
            "--ephemeral removes all state at the end",
            "leave --ephemeral out, or name a new directory with --state-dir",
        ));
    }
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
    let wanted = start::Wanted { modes: args.modes()?, sidecars: args.sidecar };
    let stop = CancellationToken::new();
    let tracker = TaskTracker::new();
    let mut orders = StopOrders::listen(args.until_stdin_closes);
    let outcome = tokio::select! {
        outcome = start::start_all(layout, &config, &wanted, &tracker, &stop) => outcome,
        () = orders.next() => Err(CliError::failed("stopped while starting", "", "")),
    };
    let outcome = match outcome {
        Ok(()) => run_until_stopped(layout, &config, args, started, orders).await,
        Err(e) => Err(e),
    };
    // From here on this is no deployment that another `up` could point at.
    Ready::forget(&layout.state_dir);
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
    mut orders: StopOrders,
) -> Result<(), CliError> {
    let ready = ready_line(layout, config, started.elapsed())?;
    ready.write(&layout.state_dir)?;
    announce(&ready, args, false)?;
    orders.next().await;
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
        trust_domain: config.trust_domain()?.to_string(),
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

/// Whose turn it is on a state directory.
#[derive(Debug)]
enum Turn {
    Ours(Lock),
    /// Another `up` runs it.
    Other(Box<Ready>),
}

/// Waits until another `up` that starts is ready, or one that ends has let go.
async fn lock_or_other(state_dir: &Path) -> Result<Turn, CliError> {
    let deadline = Instant::now() + START;
    loop {
        if let Some(lock) = Lock::try_take(state_dir)? {
            return Ok(Turn::Ours(lock));
        }
        if let Ok(ready) = Ready::read(state_dir)
            && Lock::holder(state_dir)? == Holder::Process(ready.pid)
        {
            return Ok(Turn::Other(Box::new(ready)));
        }
        if Instant::now() > deadline {
            let what = format!("another `up` on {} does not become ready", state_dir.display());
            return Err(CliError::failed(what, "", "read up.log in the state directory"));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Ctrl-C, SIGTERM, the terminal going away, or the other end of the pipe: heard from the moment this is made.
#[derive(Debug)]
struct StopOrders {
    signals: Vec<tokio::signal::unix::Signal>,
    stdin: CancellationToken,
}

impl StopOrders {
    fn listen(until_stdin_closes: bool) -> Self {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let stdin = CancellationToken::new();
        if until_stdin_closes {
            stop_with_stdin(stdin.clone());
        }
        Self { signals: kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect(), stdin }
    }

    async fn next(&mut self) {
        let waits = self.signals.iter_mut().map(|stream| Box::pin(stream.recv()));
        tokio::select! {
            _ = futures::future::select_all(waits) => {}
            () = self.stdin.cancelled() => {}
        }
    }
}

/// Runs `down`.
///
/// # Errors
/// Exit 1 where the supervisor does not end, 2 where there is no deployment or its state cannot be removed.
pub async fn down(state_dir: &Path, args: DownArgs) -> Result<(), CliError> {
    if !state_dir.exists() {
        output::line(format!("nothing is there: {}", state_dir.display()));
        return Ok(());
    }
    let layout = Layout::existing(state_dir)?;
    if !layout.is_deployment() {
        return Err(CliError::usage(
            format!("{} is no deployment", state_dir.display()),
            "`up` never ran there",
            "name the right one with --state-dir",
        ));
    }
    let was_running = end(&layout.state_dir).await?;
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

/// Ends the supervisor, be it ready or starting, and tells whether there was one. Another `up` may take its place
/// at once: that one is not meant.
async fn end(state_dir: &Path) -> Result<bool, CliError> {
    let deadline = Instant::now() + END;
    let (mut seen, mut told) = (None, None);
    loop {
        let holder = Lock::holder(state_dir)?;
        match (holder, told) {
            (Holder::Nobody, _) => return Ok(told.is_some()),
            (Holder::Process(pid), Some(told)) if pid != told => return Ok(true),
            (Holder::Process(pid), None) if seen == Some(holder) => {
                terminate(pid)?;
                told = Some(pid);
            }
            _ => seen = Some(holder),
        }
        if Instant::now() > deadline {
            let who = told.map_or_else(|| "supervisor".to_owned(), |pid| format!("supervisor (pid {pid})"));
            return Err(CliError::failed(
                format!("the {who} does not end"),
                "",
                "kill it; no child outlives it",
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn terminate(pid: u32) -> Result<(), CliError> {
    let raw = i32::try_from(pid)
        .map_err(|e| CliError::failed("up.lock holds no process id", e, "end it by hand"))?;
    match kill(Pid::from_raw(raw), Signal::SIGTERM) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(e) => {
            Err(CliError::failed(format!("the supervisor (pid {pid}) cannot be ended"), e, "end it by hand"))
        }
    }
}

/// Removes a deployment: that it is one, `up` made sure when it began.
fn remove_all(state_dir: &Path) -> Result<(), CliError> {
    let failed = |e: std::io::Error| CliError::usage(format!("cannot remove {}", state_dir.display()), e, "");
    if let Ok(key) = layout::master_key_path(state_dir) {
        let _ = std::fs::remove_file(key);
    }
    std::fs::remove_dir_all(state_dir).map_err(failed)
}

/// Does a process supervise the deployment of `state_dir` now?
///
/// # Errors
/// Exit 2 where the lock cannot be read.
pub fn is_supervised(state_dir: &Path) -> Result<bool, CliError> {
    Ok(Lock::holder(state_dir)? != Holder::Nobody)
}
