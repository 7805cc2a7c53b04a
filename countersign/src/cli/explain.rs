//! `explain`: why a request was allowed or refused, or what an error code means.

use std::time::{Duration, Instant};

use clap::Args;
use countersign_wire::api::explain::{CheckOutcome, Explanation};
use countersign_wire::codes::Code;

use crate::cli::At;
use crate::error::CliError;
use crate::output::{self, Format};

/// How long a decision may be on its way to the authority.
const ARRIVES_WITHIN: Duration = Duration::from_secs(3);
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// `explain WHAT`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// A decision id (`d_…`), `last` for the last refusal, or an error code (`CS3001`)
    #[arg(value_name = "DECISION|last|CODE")]
    what: String,
}

/// Runs `explain`.
///
/// # Errors
/// Exit 2 for an unknown decision or code, 3 where the authority does not answer.
pub async fn explain(at: &At, args: ExplainArgs) -> Result<(), CliError> {
    if args.what.starts_with("CS") {
        return explain_code(at, &args.what);
    }
    if args.what != "last" && args.what.parse::<countersign_identity::DecisionId>().is_err() {
        return Err(CliError::usage(
            format!("{} is not a decision id", args.what),
            "they look like d_ and 16 characters",
            "countersign explain last",
        ));
    }
    let found = patiently(at, &format!("/api/v1/decisions/{}", args.what)).await?;
    if at.output == Format::Json {
        return output::json(&found, false);
    }
    print(&found);
    Ok(())
}

/// A refusal is on the refuser's disk before its answer leaves, and at the authority within a second: whoever asks
/// sooner waits.
async fn patiently(at: &At, path: &str) -> Result<Explanation, CliError> {
    let asked = Instant::now();
    loop {
        match at.admin.get(path).await {
            Err(CliError::Usage(_)) if asked.elapsed() < ARRIVES_WITHIN => {
                tokio::time::sleep(ASK_AGAIN).await
            }
            answer => return answer,
        }
    }
}

fn print(e: &Explanation) {
    let verdict = if e.verdict == "deny" { "DENIED" } else { "ALLOWED" };
    let source = e.source.as_deref().unwrap_or("a stranger");
    let call = match (&e.method, &e.route) {
        (Some(method), Some(route)) => format!("{method} {route}"),
        _ => "no request was read".to_owned(),
    };
    let user = e.user.as_deref().map_or(String::new(), |u| format!("   as {u}"));
    let status = e.status.map_or(String::new(), |s| format!("   {s} to the caller"));
    say(format!("{verdict}  {source} → {}  {call}   {}{user}{status}", e.target, output::moment(e.at)));
    say(format!("  decision {}   decided by {}   stage {}   mode {}", e.decision, e.writer, e.stage, e.mode));
    for (number, check) in (1..).zip(&e.checks) {
        let mark = match check.result {
            CheckOutcome::Pass => "✓",
            CheckOutcome::Fail => "✗",
            CheckOutcome::NotReached => "·",
        };
        let detail = match check.result {
            CheckOutcome::NotReached => "not reached",
            _ => check.detail.as_deref().unwrap_or(""),
        };
        say(format!("  {number} {:<12} {mark} {detail}", check.name));
    }
    if let Some(policy) = &e.policy {
        say(format!("  policy {policy}"));
    }
    if let Some(code) = &e.code {
        say(format!("  code {code}   (countersign explain {code})"));
    }
    if let Some(fix) = &e.fix {
        say(format!("  fix: {fix}"));
    }
}

/// Records say what their writers want.
fn say(text: String) {
    output::line(output::safe(text));
}

fn explain_code(at: &At, text: &str) -> Result<(), CliError> {
    let code = Code::parse(text).map_err(|_| {
        CliError::usage(
            format!("{text} is not a code of this version"),
            "codes are CS and four digits",
            "countersign explain last",
        )
    })?;
    let entry = code.entry();
    if at.output == Format::Json {
        let value = serde_json::json!({
            "code": code.to_string(), "title": entry.title, "why": entry.why, "try": entry.fix,
            "public": entry.public.as_str(), "status": entry.public.status(),
        });
        return output::json(&value, false);
    }
    output::line(format!("{code}  {}", entry.title));
    output::line(format!("  why: {}", entry.why));
    output::line(format!("  try: {}", entry.fix));
    output::line(format!("  the caller sees: {} {}", entry.public.status(), entry.public.as_str()));
    Ok(())
}
