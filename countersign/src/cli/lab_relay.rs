//! `lab-relay`: one link of the chains that `bench` measures. Started by it, and of no use alone.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use countersign_lab::experiment::data::Signing;
use countersign_lab::relay::{self, RelayError, Settings};
use countersign_sdk::tls::Groups;

use crate::cli::serve::start_process;
use crate::error::CliError;
use crate::{output, telemetry};

/// `lab-relay`
#[derive(Debug, Args)]
pub struct LabRelayArgs {
    /// The registered service that it becomes
    #[arg(long)]
    service: String,
    /// Where it serves, as it is registered
    #[arg(long)]
    listen: SocketAddr,
    /// The agent's socket
    #[arg(long)]
    agent_socket: PathBuf,
    /// The service that it calls
    #[arg(long)]
    next: Option<String>,
    /// Have a plain port for the load generator
    #[arg(long)]
    head: bool,
    /// Microseconds before the last of a chain answers
    #[arg(long, default_value_t = 0)]
    delay_us: u64,
    /// Groups of its handshakes, the preferred one first
    #[arg(long)]
    group: Vec<String>,
    /// With what it signs, in modes that sign
    #[arg(long, value_enum, default_value_t = Algorithm::Es256)]
    signing: Algorithm,
    /// Call over TLS and prove nothing
    #[arg(long)]
    calls_without_proof_over_tls: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Algorithm {
    Es256,
    Ed25519,
    Rs256,
}

/// Serves until standard input closes.
///
/// # Errors
/// Exit 2 for settings, 4 where the agent refuses, 1 for the rest.
pub async fn lab_relay(args: LabRelayArgs) -> Result<(), CliError> {
    let stop = start_process(true);
    let metrics = telemetry::metrics()?;
    let groups = (!args.group.is_empty()).then(|| Groups::parse(&args.group)).transpose();
    let settings = Settings {
        service: args.service,
        listen: args.listen,
        agent_socket: args.agent_socket,
        next: args.next,
        head: args.head,
        delay: Duration::from_micros(args.delay_us),
        groups: groups.map_err(|e| CliError::usage("no such group", e, ""))?,
        signing: match args.signing {
            Algorithm::Es256 => Signing::Es256,
            Algorithm::Ed25519 => Signing::Ed25519,
            Algorithm::Rs256 => Signing::Rs256,
        },
        calls_without_proof_over_tls: args.calls_without_proof_over_tls,
    };
    let announce = |ready: &relay::Ready| {
        if let Err(e) = output::json(ready, true) {
            output::note(e);
        }
    };
    relay::run(settings, Arc::new(move || metrics.render()), announce, stop).await.map_err(|e| match &e {
        RelayError::Launch(refused) if refused.is_refusal() => CliError::denied("no relay", e, ""),
        _ => CliError::failed("no relay", e, ""),
    })
}
