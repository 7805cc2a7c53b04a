//! The one binary: every role, every command.

#![allow(unreachable_pub, reason = "nothing links a binary: here `pub` says what other rooms of it may use")]

mod admin;
mod cli;
mod config;
mod error;
mod https;
mod output;
mod pem;
mod telemetry;
mod up;

use std::process::ExitCode;

use clap::Parser as _;
use nix::sys::stat::{Mode, umask};

use crate::error::CliError;

fn main() -> ExitCode {
    // Whatever this process writes is for its owner alone.
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(u8::from(e.use_stderr()) * 2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(cli.run()),
        Err(e) => {
            Err(CliError::failed("the runtime does not start", e, "raise the limits on threads and files"))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            output::note(&e);
            e.exit_code()
        }
    }
}
