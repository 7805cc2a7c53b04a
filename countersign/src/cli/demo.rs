//! `demo workflow` and `demo traffic`: the flea market as its users see it, over HTTPS through the gateway.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Subcommand;
use countersign_identity::Mode;
use countersign_wire::SecretText;
use http::{HeaderMap, HeaderValue, Method, header};

use crate::cli::At;
use crate::cli::idp::{access_token, password_in};
use crate::cli::service::{self, Carries};
use crate::error::CliError;
use crate::https::Https;
use crate::output::{self, Format};
use crate::up::Ready;

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
    /// Switch how all services prove themselves, while they run
    Mode {
        /// none, bearer, macaroon, jwt, wimse, mtls, mtls+jwt
        #[arg(value_parser = Mode::parse)]
        mode: Mode,
        #[command(flatten)]
        carries: Carries,
    },
    /// Mixed requests of four users, good and bad, one after the other
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
        DemoCommand::Mode { mode, carries } => service::switch_all(at, mode, carries).await,
        DemoCommand::Traffic { seconds } => traffic(at, Duration::from_secs(seconds)).await,
    }
}

/// Who asks for what, and what the answer must be.
struct Wish {
    user: &'static str,
    method: Method,
    path: &'static str,
    body: &'static str,
    status: u16,
}

const fn get(user: &'static str, path: &'static str, status: u16) -> Wish {
    Wish { user, method: Method::GET, path, body: "", status }
}

/// One round of traffic: reads that cross two services, a purchase, and requests that policy refuses.
const ROUND: [Wish; 8] = [
    get("alice", "/ads?near=48.37,14.51", 200),
    get("bob", "/ads?near=48.30,14.29", 200),
    get("eve", "/ads?near=48.37,14.51", 200),
    get("alice", "/ads/1", 200),
    Wish { user: "eve", method: Method::POST, path: "/ads/1/buy", body: "{}", status: 403 },
    get("mod", "/reports", 200),
    get("alice", "/reports", 403),
    get("alice", "/subscriptions", 200),
];

async fn traffic(at: &At, span: Duration) -> Result<(), CliError> {
    let ready = at.ready()?;
    let mut tokens = BTreeMap::new();
    for user in ["alice", "bob", "mod", "eve"] {
        tokens.insert(user, token_of(&ready, user).await?);
    }
    let mut https = Https::connect(&ready.gateway_tls, &ready.ca_file).await?;
    let mut answers: BTreeMap<String, u64> = BTreeMap::new();
    let (started, mut sent, mut unexpected) = (Instant::now(), 0_u64, 0_u64);
    'rounds: loop {
        for wish in &ROUND {
            if started.elapsed() >= span {
                break 'rounds;
            }
            let Some(token) = tokens.get(wish.user) else { continue };
            let headers = headers(token)?;
            let answer = https
                .send(wish.method.clone(), wish.path, headers, Bytes::from_static(wish.body.as_bytes()))
                .await?;
            sent += 1;
            let status = answer.status().as_u16();
            if status != wish.status {
                unexpected += 1;
            }
            let name = format!("{:<5} {:<4} {:<24} {status}", wish.user, wish.method, wish.path);
            *answers.entry(name).or_default() += 1;
        }
    }
    report(at, &answers, sent, unexpected, started.elapsed())
}

fn report(
    at: &At,
    answers: &BTreeMap<String, u64>,
    sent: u64,
    unexpected: u64,
    took: Duration,
) -> Result<(), CliError> {
    if at.output == Format::Json {
        output::json(
            &serde_json::json!({ "requests": sent, "unexpected": unexpected, "answers": answers }),
            false,
        )?;
    } else {
        for (name, count) in answers {
            output::line(format!("{count:>7}  {name}"));
        }
        output::line(format!(
            "{sent} requests in {:.1} s on one connection, {unexpected} unexpected answers",
            took.as_secs_f64()
        ));
    }
    if unexpected == 0 {
        return Ok(());
    }
    Err(CliError::failed(
        format!("{unexpected} answers were not as expected"),
        "",
        "countersign explain last",
    ))
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
