//! `lab-witness`: becomes a service for a moment, and tells `attack` what the agent gives to it. Started by it, and of no
//! use alone.

use std::io::Read as _;
use std::path::PathBuf;

use clap::Args;
use countersign_lab::attack;

use crate::error::CliError;
use crate::output;

const ASKED_BYTES_MAX: u64 = 16 * 1024;

/// `lab-witness`
#[derive(Debug, Args)]
pub struct LabWitnessArgs {
    /// The registered service that it becomes
    #[arg(long)]
    service: String,
    /// The agent's socket
    #[arg(long)]
    agent_socket: PathBuf,
}

/// Reads from standard input for which key, and writes what the agent gave.
///
/// # Errors
/// Exit 2 where nothing can be read, 4 where the agent gives nothing.
pub async fn lab_witness(args: LabWitnessArgs) -> Result<(), CliError> {
    let mut asked = Vec::new();
    let read = std::io::stdin().take(ASKED_BYTES_MAX).read_to_end(&mut asked);
    read.map_err(|e| CliError::usage("standard input cannot be read", e, ""))?;
    let asked = serde_json::from_slice(&asked)
        .map_err(|e| CliError::usage("standard input does not say for which key", e, ""))?;
    let given = attack::witness(&args.agent_socket, &args.service, asked).await;
    output::json(&given.map_err(|e| CliError::denied("nothing is given", e, ""))?, true)
}
