//! `run`: this process becomes the service, then becomes the program. The agent pinned the process, so the
//! identity stays with it across `exec`, and with no other process.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use clap::Args;

use crate::cli::At;
use crate::error::CliError;

/// `run --service S -- CMD`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The registration entry: a short name, or a SPIFFE ID
    #[arg(long, value_name = "NAME")]
    service: String,
    /// The agent's socket; default: the one in the state directory
    #[arg(long, env = "COUNTERSIGN_AGENT_SOCKET", value_name = "PATH")]
    agent_socket: Option<PathBuf>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<std::ffi::OsString>,
}

/// Registers this process at the agent and executes the program in its place. Returns only on failure.
///
/// # Errors
/// Exit 4 where the agent refuses, 3 where it does not answer, 2 where the program cannot be started.
pub async fn run(at: &At, args: RunArgs) -> Result<(), CliError> {
    let socket = args.agent_socket.unwrap_or_else(|| at.state_dir.join("agent.sock"));
    let socket = std::path::absolute(&socket).map_err(|e| {
        CliError::usage(format!("{} is not a path", socket.display()), e, "name the agent's socket")
    })?;
    crate::cli::serve::become_service(&socket, &args.service).await?;
    let (program, arguments) = args.command.split_first().ok_or_else(|| {
        CliError::usage("no program is named", "", "countersign run --service NAME -- PROGRAM ARGUMENTS")
    })?;
    let failed = std::process::Command::new(program)
        .args(arguments)
        .env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", socket.display()))
        .exec();
    Err(CliError::usage(
        format!("cannot start {}", program.to_string_lossy()),
        failed,
        "check the path and its mode",
    ))
}
