//! `demo traffic`: what the flea market's users do all day, and whether each of them gets the answer that they should.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_identity::{IdKind, Mode};
use countersign_wire::api::services::Service;
use http::Method;

use crate::cli::At;
use crate::cli::demo::{headers, token_of};
use crate::error::CliError;
use crate::https::Https;
use crate::output::{self, Format};

/// Who asks for what, and what the answer must be once the gateway has proven itself to the services behind it.
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

impl Wish {
    /// What must be answered where the gateway calls in `mode`. In `none` it is nobody to the services, whose rules name
    /// the workloads that may call: each of them denies.
    const fn expected(&self, mode: Mode) -> u16 {
        match mode {
            Mode::None => 403,
            _ => self.status,
        }
    }
}

/// Asks for `span`, over one connection.
///
/// # Errors
/// Exit 3 where nothing runs, 1 where an answer is not as it must be.
pub async fn traffic(at: &At, span: Duration) -> Result<(), CliError> {
    let ready = at.ready()?;
    let mut tokens = BTreeMap::new();
    for user in ["alice", "bob", "mod", "eve"] {
        tokens.insert(user, token_of(&ready, user).await?);
    }
    let mut https = Https::connect(&ready.gateway_tls, &ready.ca_file).await?;
    let mut seen =
        Seen { mode: mode_of_gateway(at).await?, answers: BTreeMap::new(), sent: 0, unexpected: 0 };
    let started = Instant::now();
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
            seen.note(at, wish, answer.status().as_u16()).await?;
        }
    }
    report(at, &seen, started.elapsed())
}

/// What came of it so far.
struct Seen {
    /// In which the gateway calls, as far as we know.
    mode: Mode,
    answers: BTreeMap<String, u64>,
    sent: u64,
    unexpected: u64,
}

impl Seen {
    async fn note(&mut self, at: &At, wish: &Wish, status: u16) -> Result<(), CliError> {
        self.sent += 1;
        // A switch while we ask is known to the authority before the first request that goes by it. Asking only now, and
        // not before each request, keeps one that is on its way from being judged by what comes after it.
        if status != wish.expected(self.mode) {
            self.mode = mode_of_gateway(at).await?;
        }
        if status != wish.expected(self.mode) {
            self.unexpected += 1;
        }
        let name = format!("{:<5} {:<4} {:<24} {status}", wish.user, wish.method, wish.path);
        *self.answers.entry(name).or_default() += 1;
        Ok(())
    }
}

/// The mode in which the gateway is told to call the services behind it.
async fn mode_of_gateway(at: &At) -> Result<Mode, CliError> {
    let services: Vec<Service> = at.admin.get("/api/v1/services").await?;
    let gateway = services.iter().find(|service| matches!(service.spiffe_id.kind(), IdKind::Gateway(_)));
    gateway
        .map(|gateway| gateway.sends)
        .ok_or_else(|| CliError::failed("no gateway is registered", "", "countersign service list"))
}

fn report(at: &At, seen: &Seen, took: Duration) -> Result<(), CliError> {
    let Seen { answers, sent, unexpected, .. } = seen;
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
    if *unexpected == 0 {
        return Ok(());
    }
    Err(CliError::failed(
        format!("{unexpected} answers were not as expected"),
        "",
        "countersign explain last",
    ))
}
