//! The workflow of the thesis's section 5.2.1, told from one real call: what each hop verified, and how long it took,
//! is read back from the ledger under the call's trace id.

use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_identity::Mode;
use countersign_keys::{SystemRandom, random_bytes};
use countersign_ledger::event::{CheckResult, Decision, Entry};
use countersign_wire::api::Page;
use countersign_wire::api::audit::AuditEvent;
use countersign_wire::api::modes::{ModesChanged, SwitchDemo};
use countersign_wire::api::services::Service;
use http::{HeaderValue, Method};

use crate::cli::At;
use crate::cli::demo::{headers, token_of};
use crate::cli::service::{self, Carries};
use crate::error::CliError;
use crate::https::Https;
use crate::output::{self, Format};

const CALL: &str = "/ads?near=48.37,14.51";
/// Allowed calls reach the ledger in batches of a second, through service, agent and authority.
const LEDGER_WAIT: Duration = Duration::from_secs(10);

/// One step as it is told.
#[derive(serde::Serialize)]
pub(super) struct Step {
    number: &'static str,
    pub(super) hop: String,
    pub(super) told: String,
    /// Milliseconds, where the step was timed.
    ms: Option<f64>,
}

/// One real call: how it went, and what each hop recorded of it.
pub(super) struct Call {
    pub(super) trace: String,
    pub(super) hops: Hops,
    entrance: String,
    took: Duration,
    bytes: usize,
}

/// Runs `demo workflow`, in `mode` if one is named; afterwards the services are as they were.
///
/// # Errors
/// Exit 1 where the call fails or a hop is not in the ledger.
pub async fn workflow(at: &At, mode: Option<Mode>, carries: Carries) -> Result<(), CliError> {
    let Some(mode) = mode else { return tell(at).await };
    in_mode(at, &service::switch(mode, carries), tell(at)).await
}

/// Does something while all services work as `wanted`; afterwards they are as they were.
pub(super) async fn in_mode<T>(
    at: &At,
    wanted: &SwitchDemo,
    then: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let before: Vec<Service> = at.admin.get("/api/v1/services").await?;
    let _: ModesChanged = at.admin.post("/api/v1/demo/mode", wanted).await?;
    let done = then.await;
    if let Some(service) = before.first() {
        let back =
            SwitchDemo { mode: service.sends, user_context: service.user_context, wimse: service.wimse };
        let _: ModesChanged = at.admin.post("/api/v1/demo/mode", &back).await?;
    }
    done
}

/// One real call, and what the ledger says of it.
async fn tell(at: &At) -> Result<(), CliError> {
    let call = call(at).await?;
    let steps = call.steps();
    if at.output == Format::Json {
        return output::json(&steps, false);
    }
    output::line(format!("GET {CALL} as alice, trace {}\n", call.trace));
    for step in steps {
        let ms = step.ms.map_or_else(String::new, |ms| format!("{ms:.2} ms"));
        output::line(format!("{:<2} {:<20} {:>9}  {}", step.number, step.hop, ms, step.told));
    }
    Ok(())
}

/// Makes the call, as alice.
pub(super) async fn call(at: &At) -> Result<Call, CliError> {
    let ready = at.ready()?;
    let token = token_of(&ready, "alice").await?;
    let mut https = Https::connect(&ready.gateway_tls, &ready.ca_file).await?;
    // The first call opens the connections between the services; the second is the one that is told.
    let _ = https.send(Method::GET, CALL, headers(&token)?, Bytes::new()).await?;
    let trace = new_trace()?;
    let mut traced = headers(&token)?;
    let parent = HeaderValue::try_from(format!("00-{trace}-{}-01", trace.get(..16).unwrap_or_default()))
        .map_err(|e| CliError::failed("the trace id is no header value", e, "report this"))?;
    traced.insert("traceparent", parent);
    let started = Instant::now();
    let answer = https.send(Method::GET, CALL, traced, Bytes::new()).await?;
    let took = started.elapsed();
    if !answer.status().is_success() {
        return Err(CliError::failed(
            format!("{CALL} answered {}", answer.status()),
            "",
            "countersign explain last",
        ));
    }
    let hops = hops(at, &trace).await?;
    Ok(Call { trace, hops, entrance: ready.gateway_tls, took, bytes: answer.body().len() })
}

impl Call {
    /// The eight steps of section 5.2.1.
    pub(super) fn steps(&self) -> Vec<Step> {
        told(&self.hops, &self.entrance, self.took, self.bytes)
    }
}

/// The three decisions of the call, in the order of the hops.
pub(super) struct Hops {
    pub(super) gateway: Decision,
    pub(super) ads: Decision,
    pub(super) users: Decision,
}

async fn hops(at: &At, trace: &str) -> Result<Hops, CliError> {
    let deadline = Instant::now() + LEDGER_WAIT;
    loop {
        let found = decisions(at, trace).await?;
        let of = |name: &str| found.iter().find(|(writer, _)| writer.contains(name)).map(|(_, d)| d.clone());
        if let (Some(gateway), Some(ads), Some(users)) =
            (of("/countersign/gateway/"), of("/svc/ads"), of("/svc/users"))
        {
            return Ok(Hops { gateway, ads, users });
        }
        if Instant::now() > deadline {
            let seen: Vec<&str> = found.iter().map(|(writer, _)| writer.as_str()).collect();
            return Err(CliError::failed(
                "not every hop of the call is in the ledger",
                format!("found {}", if seen.is_empty() { "none".to_owned() } else { seen.join(", ") }),
                "countersign status; countersign audit tail",
            ));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn decisions(at: &At, trace: &str) -> Result<Vec<(String, Decision)>, CliError> {
    let page: Page<AuditEvent> =
        at.admin.get("/api/v1/audit/events?kind=decision&newest=true&limit=500").await?;
    Ok(page
        .items
        .into_iter()
        .filter_map(|event| {
            Some((event.writer, serde_json::from_slice::<Entry>(event.event.as_slice()).ok()?))
        })
        .flat_map(|(writer, entry)| entry.decisions().into_iter().map(move |(_, d)| (writer.clone(), d)))
        .filter(|(_, decision)| decision.trace.as_deref() == Some(trace))
        .collect())
}

fn told(hops: &Hops, gateway: &str, took: Duration, bytes: usize) -> Vec<Step> {
    let Hops { gateway: edge, ads, users } = hops;
    let step =
        |number: &'static str, hop: &str, told: String, ms| Step { number, hop: hop.to_owned(), told, ms };
    // The thesis counts the two steps in which the services prove themselves by tokens as 4' and 5'.
    let (fourth, fifth) = match (ads.mode.as_str(), users.mode.as_str()) {
        ("mtls", "mtls") => ("4", "5"),
        _ => ("4'", "5'"),
    };
    let ms = |decision: &Decision| Some(Duration::from_micros(decision.latency_us).as_secs_f64() * 1000.0);
    let user = edge.user.as_deref().unwrap_or("nobody");
    let policy = |d: &Decision| d.policy.clone().unwrap_or_else(|| "no policy".to_owned());
    let on = |d: &Decision| d.connection.clone().unwrap_or_else(|| "its connection".to_owned());
    vec![
        step(
            "1",
            "client → gateway",
            format!("HTTPS to {gateway}, access token in the Authorization header"),
            None,
        ),
        step(
            "2",
            "gateway",
            "checks the token's signature, issuer, audience and time with the authority's key: no call"
                .into(),
            None,
        ),
        step(
            "3",
            "gateway",
            format!(
                "valid: user {user}; policy {} permits; an internal token of the gateway takes the access token's place",
                policy(edge)
            ),
            None,
        ),
        step(fourth, "gateway → ads", proven(ads), None),
        step(fifth, "ads → users", proven(users), None),
        step(
            "6",
            "users → ads",
            format!("{} on {}, no second authentication", users.status, on(users)),
            ms(users),
        ),
        step(
            "7",
            "ads → gateway",
            format!("{} on {}, no second authentication", ads.status, on(ads)),
            ms(ads),
        ),
        step(
            "8",
            "gateway → client",
            format!(
                "{} with {bytes} bytes; at the client {:.2} ms",
                edge.status,
                took.as_secs_f64() * 1000.0
            ),
            ms(edge),
        ),
    ]
}

/// What the caller made, and what the callee verified of it.
fn proven(decision: &Decision) -> String {
    let made = match decision.mode.as_str() {
        "none" => "the caller proves nothing",
        "bearer" => "the client's middleware adds the caller's bearer token",
        "macaroon" => {
            "the client's middleware narrows the caller's macaroon to this request and ten seconds, and adds it"
        }
        "jwt" => "the client's middleware signs a token of its own for this request, and adds it",
        "wimse" => "the client's middleware adds the caller's identity token and a proof for this request",
        "mtls+jwt" => "the caller shows its certificate, and its middleware signs a token for this request",
        _ => "the caller shows its certificate",
    };
    let policy = decision.policy.as_deref().unwrap_or("no policy");
    format!("{}: {made}; {}; policy {policy}", decision.mode, checks(decision))
}

fn checks(decision: &Decision) -> String {
    let passed: Vec<&str> =
        decision.checks.iter().filter(|c| c.result == CheckResult::Pass).map(|c| c.name.as_str()).collect();
    format!("{} verified by {}", decision.source.as_deref().unwrap_or("nobody"), passed.join(", "))
}

/// A random W3C trace id.
fn new_trace() -> Result<String, CliError> {
    let bytes: [u8; 16] = random_bytes(&SystemRandom::new())
        .map_err(|e| CliError::failed("there is no randomness", e, "try again"))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
