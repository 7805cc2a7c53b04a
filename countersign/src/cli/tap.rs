//! `tap`: decisions of a running deployment as they are made.
//!
//! It reads on where the ledger grows, so a deployment does the same whether somebody looks or not. A refusal is there at
//! once, an allowed call with the next batch of its proxy or service, within a second or two.

use std::io::{self, Write as _};
use std::time::Duration;

use clap::Args;
use countersign_identity::UnixTime;
use countersign_ledger::event::{Decision, Event};
use countersign_ledger::{Entry, Verdict};
use countersign_wire::api::Page;
use countersign_wire::api::audit::AuditEvent;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::At;
use crate::cli::overview::shorten;
use crate::error::CliError;
use crate::output::{self, Format};

/// `tap`
#[derive(Debug, Args)]
pub struct TapArgs {
    /// Only calls of this service (short name or SPIFFE ID); `user` and `stranger` are callers without one
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Only calls to this service, or to the gateway
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Only refusals with this code, such as CS2107
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// Only refusals
    #[arg(long)]
    denied: bool,
    /// End after so many
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// One decision, as `-o json` and `-o jsonl` print it, on one line.
#[derive(Serialize)]
struct Row<'a> {
    at: UnixTime,
    decision: String,
    verdict: Verdict,
    stage: countersign_ledger::Stage,
    source: &'a str,
    target: &'a str,
    method: &'a str,
    route: &'a str,
    status: u16,
    mode: &'a str,
    user: Option<&'a str>,
    policy: Option<&'a str>,
    code: Option<&'a str>,
    latency_ms: f64,
    trace: Option<&'a str>,
}

/// Prints decisions until it is told to end, nobody reads them any more, or enough were seen.
///
/// # Errors
/// Exit 3 where the authority does not answer.
pub async fn tap(at: &At, args: TapArgs) -> Result<(), CliError> {
    let stop =
        |kind| signal(kind).map_err(|e| CliError::failed("signals cannot be received", e, "try again"));
    let (mut interrupted, mut ended) = (stop(SignalKind::interrupt())?, stop(SignalKind::terminate())?);
    tokio::select! {
        tapped = follow(at, &args) => tapped,
        _ = interrupted.recv() => Ok(()),
        _ = ended.recv() => Ok(()),
    }
}

async fn follow(at: &At, args: &TapArgs) -> Result<(), CliError> {
    let newest: Page<AuditEvent> = at.admin.get("/api/v1/audit/events?newest=true&limit=1").await?;
    let mut after = newest.items.last().map_or(0, |event| event.index);
    let mut left = args.count.unwrap_or(u64::MAX);
    output::note("decisions from now on; Ctrl-C ends it");
    loop {
        let path = format!("/api/v1/audit/events?kind=decision&after={after}&limit={PAGE}");
        let page: Page<AuditEvent> = at.admin.get(&path).await?;
        for event in &page.items {
            after = event.index;
            for (made, decision) in decisions(event.event.as_slice()) {
                if !args.wants(&decision) {
                    continue;
                }
                if say(&row(made, &decision), at.output).is_err() {
                    return Ok(());
                }
                left -= 1;
                if left == 0 {
                    return Ok(());
                }
            }
        }
        if page.next.is_none() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl TapArgs {
    fn wants(&self, decision: &Decision) -> bool {
        let named = |wanted: &Option<String>, name: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == name || wanted == shorten(name))
        };
        let code = decision.code.as_deref();
        named(&self.source, source(decision))
            && named(&self.target, &decision.target)
            && self
                .code
                .as_deref()
                .is_none_or(|wanted| code.is_some_and(|code| code.eq_ignore_ascii_case(wanted)))
            && (!self.denied || decision.verdict == Verdict::Deny)
    }
}

/// What an event of the ledger says of decisions: its own, or those of a batch.
fn decisions(bytes: &[u8]) -> Vec<(UnixTime, Decision)> {
    match serde_json::from_slice(bytes) {
        Ok(Entry { at, event: Event::Decision(decision), .. }) => vec![(at, *decision)],
        Ok(Entry { event: Event::AllowedCalls(batch), .. }) => {
            batch.calls().map(|call| (call.at, call.decision())).collect()
        }
        _ => Vec::new(),
    }
}

/// Who is calling, as `edges` says it.
fn source(decision: &Decision) -> &str {
    let nobody = if decision.user.is_some() { "user" } else { "stranger" };
    decision.source.as_deref().unwrap_or(nobody)
}

#[allow(clippy::cast_precision_loss, reason = "a latency fits into a float")]
fn row(at: UnixTime, decision: &Decision) -> Row<'_> {
    Row {
        at,
        decision: decision.id.to_string(),
        verdict: decision.verdict,
        stage: decision.stage,
        source: source(decision),
        target: &decision.target,
        method: &decision.method,
        route: &decision.route,
        status: decision.status,
        mode: &decision.mode,
        user: decision.user.as_deref(),
        policy: decision.policy.as_deref(),
        code: decision.code.as_deref(),
        latency_ms: decision.latency_us as f64 / 1e3,
        trace: decision.trace.as_deref(),
    }
}

/// An error is a reader that has gone.
fn say(row: &Row<'_>, format: Format) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if format == Format::Table {
        writeln!(out, "{}", line_of(row))?;
    } else {
        serde_json::to_writer(&mut out, row)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

fn line_of(row: &Row<'_>) -> String {
    let why = row.code.or(row.policy).unwrap_or("-");
    output::safe(format_args!(
        "{} {:<5} {:>3} {} → {} {} {}  {}  {:.1}ms  {why}  {}",
        output::moment(row.at),
        row.verdict.as_str(),
        row.status,
        shorten(row.source),
        row.target,
        row.method,
        row.route,
        row.mode,
        row.latency_ms,
        row.decision,
    ))
}

const PAGE: u32 = 1000;
const LOOK_EVERY: Duration = Duration::from_millis(300);
