//! `demo workflow` and `demo traffic`: the flea market as its users see it, over HTTPS through the gateway.

use std::time::Duration;

use clap::Subcommand;
use countersign_identity::Mode;
use countersign_wire::SecretText;
use http::{HeaderMap, HeaderValue, header};

use crate::cli::At;
use crate::cli::idp::{access_token, password_in};
use crate::cli::service::{self, Carries};
use crate::error::CliError;
use crate::up::Ready;

mod figures;
mod traffic;
mod workflow;

/// `demo …`
#[derive(Debug, Subcommand)]
pub enum DemoCommand {
    /// The eight steps of the thesis's section 5.2.1, from one real call
    Workflow {
        /// Tell it in this mode; afterwards the services are as they were
        #[arg(long, value_parser = Mode::parse)]
        mode: Option<Mode>,
        #[command(flatten)]
        carries: Carries,
    },
    /// The thesis's figures 3.1, 4.1, 4.2, 4.3 and 5.1, drawn from what this deployment does; needs openssl for 4.1
    Figures(figures::FiguresArgs),
    /// Switch how all services prove themselves, while they run
    Mode {
        /// none, bearer, macaroon, jwt, wimse, mtls, mtls+jwt
        #[arg(value_parser = Mode::parse)]
        mode: Mode,
        #[command(flatten)]
        carries: Carries,
    },
    /// Mixed requests of four users, good and bad, one after the other; each answer is compared with what it must be in
    /// the mode in force
    Traffic {
        /// How long
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
        seconds: u64,
    },
}

/// Runs `demo …`.
///
/// # Errors
/// Exit 3 where nothing runs, 1 where a request fails that should not.
pub async fn demo(at: &At, command: DemoCommand) -> Result<(), CliError> {
    match command {
        DemoCommand::Workflow { mode, carries } => workflow::workflow(at, mode, carries).await,
        DemoCommand::Figures(args) => figures::figures(at, &args).await,
        DemoCommand::Mode { mode, carries } => service::switch_all(at, mode, carries).await,
        DemoCommand::Traffic { seconds } => traffic::traffic(at, Duration::from_secs(seconds)).await,
    }
}

/// An access token of one of the users that `up` made.
async fn token_of(ready: &Ready, user: &str) -> Result<SecretText, CliError> {
    let password = password_in(&ready.state_dir.join("users").join(format!("{user}.password")))?;
    access_token(&ready.authority, &ready.ca_file, user, password).await
}

fn headers(token: &SecretText) -> Result<HeaderMap, CliError> {
    let mut headers = HeaderMap::new();
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose()))
        .map_err(|e| CliError::failed("the token is no header value", e, "report this"))?;
    value.set_sensitive(true);
    headers.insert(header::AUTHORIZATION, value);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(headers)
}
