//! Column token: every way to prove who calls, by hand. Tokens come from files or standard input and go to standard
//! output, alone, so that they can be piped; they are never arguments.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use crate::cli::{At, read_input};
use crate::error::CliError;

mod exchange;
mod macaroon;
mod mint;
mod revoke;
mod service;
mod verify;

/// Longest file with a token in it: some lines of comments do not hurt.
const TOKEN_BYTES_MAX: u64 = 64 * 1024;

/// `token …`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Have a token issued for a service, a bearer token or a macaroon; or sign one in its name, for one request
    #[command(subcommand)]
    Mint(mint::MintCommand),
    /// Does a token of any kind count; exit 1 where it does not, with the check that failed
    Verify(verify::VerifyArgs),
    /// Exchange a token at the token service (RFC 8693)
    Exchange(exchange::ExchangeArgs),
    /// Narrow a macaroon; this needs nobody's help
    Attenuate(macaroon::AttenuateArgs),
    /// Have the authority discharge the third-party caveats of a macaroon that are addressed to it
    Discharge {
        /// The macaroon
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
    },
    /// Bearer tokens that were issued, without their secrets
    List,
    /// Replace a bearer token; both count for a while
    Rotate(mint::RotateArgs),
    /// Take back a token, all tokens of a user, or all tokens of a key, everywhere within two seconds
    Revoke(revoke::RevokeArgs),
    /// What was taken back
    Revocations,
}

/// Runs `token …`.
///
/// # Errors
/// Exit 2 for files and values, 3 where the authority does not answer, 4 where it refuses.
pub async fn token(at: &At, command: TokenCommand) -> Result<(), CliError> {
    match command {
        TokenCommand::Mint(command) => mint::mint(at, command).await,
        TokenCommand::Verify(args) => verify::verify(at, args).await,
        TokenCommand::Exchange(args) => exchange::exchange(at, args).await,
        TokenCommand::Attenuate(args) => macaroon::attenuate(&args),
        TokenCommand::Discharge { file } => macaroon::discharge(at, &file).await,
        TokenCommand::List => mint::list(at).await,
        TokenCommand::Rotate(args) => mint::rotate(at, args).await,
        TokenCommand::Revoke(args) => revoke::revoke(at, args).await,
        TokenCommand::Revocations => revoke::list(at).await,
    }
}

/// The one token in a file: the first line that is neither empty nor a comment.
fn token_in(file: &Path) -> Result<String, CliError> {
    let bytes = read_input(file, TOKEN_BYTES_MAX)?;
    let text = String::from_utf8(bytes).map_err(|e| {
        CliError::usage(format!("{} is not text", file.display()), e, "give one token as text")
    })?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    match (lines.next(), lines.next()) {
        (Some(token), None) => Ok(token.to_owned()),
        (None, _) => Err(CliError::usage(format!("{} holds no token", file.display()), "", "give one token")),
        (Some(_), Some(_)) => Err(CliError::usage(
            format!("{} holds more than one line", file.display()),
            "which one is meant cannot be seen",
            "give one token",
        )),
    }
}
