//! Column ledger: `audit tail|search|head|verify`. Verification runs here, on what the authority hands out, with
//! nothing of the authority's own judgement in it.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use countersign_identity::Verified;
use countersign_keys::PublicKey;
use countersign_ledger::chain::Record;
use countersign_ledger::digest::Digest;
use countersign_ledger::event::{Entry, Event};
use countersign_ledger::head::{Head, SignedHead};
use countersign_ledger::log::{Assurance, LogVerifier, Report};
use countersign_wire::api::Page;
use countersign_wire::api::audit::AuditEvent;
use countersign_wire::api::status::Status;
use countersign_wire::snapshot::LedgerHead;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::{At, percent, read_input};
use crate::error::CliError;
use crate::output::{self, Format};
use crate::up::write_private;

const HEAD_BYTES_MAX: u64 = 64 * 1024;
const PAGE: u32 = 1000;

/// `audit …`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// The newest events
    Tail {
        /// How many
        #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        lines: u32,
    },
    /// Events that match every condition, oldest first
    Search(SearchArgs),
    /// Write the signed head of the ledger to a file: keep it where the ledger's owner cannot reach it
    Head {
        /// Where to
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Compute every hash again, and hold the result against a head that was saved before
    Verify {
        /// A file that `audit head` wrote. Without it only inner consistency can be shown
        #[arg(long, value_name = "FILE")]
        head: Option<PathBuf>,
    },
}

/// A head with the public key that signed it: all that is needed to hold a ledger against it, years later.
#[derive(Serialize, Deserialize)]
struct SavedHead {
    head: LedgerHead,
    key: Value,
}

/// A JWK set.
#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// `audit search`
#[derive(Debug, Args)]
pub struct SearchArgs {
    /// Kind of event, such as certificate_signed, login, decision
    #[arg(long)]
    kind: Option<String>,
    /// SPIFFE ID of who wrote it
    #[arg(long)]
    writer: Option<String>,
    /// Decision id
    #[arg(long)]
    decision: Option<String>,
    /// allow or deny
    #[arg(long, value_parser = ["allow", "deny"])]
    verdict: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

/// Runs `audit …`.
///
/// # Errors
/// Exit 1 where the ledger does not verify, 3 where the authority does not answer.
pub async fn audit(at: &At, command: AuditCommand) -> Result<(), CliError> {
    match command {
        AuditCommand::Tail { lines } => show(at, &format!("newest=true&limit={lines}"), None).await,
        AuditCommand::Search(args) => show(at, &args.query(), args.decision.as_deref()).await,
        AuditCommand::Head { out } => head(at, &out).await,
        AuditCommand::Verify { head } => verify(at, head.as_deref()).await,
    }
}

impl SearchArgs {
    fn query(&self) -> String {
        let conditions = [
            ("kind", &self.kind),
            ("writer", &self.writer),
            ("decision", &self.decision),
            ("verdict", &self.verdict),
        ];
        let mut query = format!("limit={}", self.limit);
        for (name, value) in conditions {
            if let Some(value) = value {
                query.push_str(&format!("&{name}={}", percent(value)));
            }
        }
        query
    }
}

async fn show(at: &At, query: &str, decision: Option<&str>) -> Result<(), CliError> {
    let page: Page<AuditEvent> = at.admin.get(&format!("/api/v1/audit/events?{query}")).await?;
    let entries = page.items.iter().flat_map(|event| {
        let entries = entries(event.event.as_slice()).into_iter();
        entries.filter(|entry| decision.is_none_or(|id| tells_of(entry, id))).map(move |entry| (event, entry))
    });
    if at.output == Format::Json {
        let events: Vec<Value> = entries.map(|(event, entry)| decoded(event, entry)).collect();
        return output::json(&events, false);
    }
    for (event, entry) in entries {
        output::line(output::safe(line_of(event, &entry)));
    }
    Ok(())
}

/// What the bytes of an event say: the calls of a batch one by one, as if each had been recorded alone.
fn entries(bytes: &[u8]) -> Vec<Value> {
    let as_written = || vec![serde_json::from_slice(bytes).unwrap_or(Value::Null)];
    let Ok(Entry { v, writer, boot, sequence, event: Event::AllowedCalls(batch), .. }) =
        serde_json::from_slice(bytes)
    else {
        return as_written();
    };
    let alone = batch.calls().map(|call| Entry {
        v,
        writer: writer.clone(),
        boot,
        sequence,
        at: call.at,
        event: Event::Decision(Box::new(call.decision())),
    });
    alone.filter_map(|entry| serde_json::to_value(entry).ok()).collect()
}

fn tells_of(entry: &Value, decision: &str) -> bool {
    let event = entry.get("event");
    let id = event.and_then(|event| event.get("id").or_else(|| event.get("decision")));
    id.and_then(Value::as_str).is_some_and(|id| id.eq_ignore_ascii_case(decision))
}

/// The event, and what it says.
fn decoded(event: &AuditEvent, entry: Value) -> Value {
    serde_json::json!({
        "index": event.index,
        "writer": event.writer,
        "boot": event.boot,
        "sequence": event.sequence,
        "stored_at": event.stored_at,
        "entry": entry,
        "hash": event.log.to_text(),
    })
}

fn line_of(event: &AuditEvent, entry: &Value) -> String {
    let kind = entry.pointer("/event/kind").and_then(Value::as_str).unwrap_or(&event.kind);
    let mut facts = String::new();
    if let Some(Value::Object(map)) = entry.get("event") {
        for (key, value) in
            map.iter().filter(|(key, value)| *key != "kind" && *key != "checks" && !value.is_null())
        {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if !text.is_empty() {
                facts.push_str(&format!("  {key}={text}"));
            }
        }
    }
    let writer =
        event.writer.strip_prefix("spiffe://").and_then(|w| w.split_once('/')).map_or("", |(_, path)| path);
    format!("{:>6} {} {:<26} {:<24}{facts}", event.index, output::moment(event.stored_at), writer, kind)
}

async fn head(at: &At, out: &Path) -> Result<(), CliError> {
    let saved = newest_head(at).await?;
    let head = checked(&saved, "the authority's head")?;
    let text = serde_json::to_vec_pretty(&saved)
        .map_err(|e| CliError::failed("the head cannot be written as JSON", e, "report this"))?;
    write_private(out, &text)?;
    output::line(format!("{} events, hash {}, saved to {}", head.size, head.hash, out.display()));
    output::line("keep it elsewhere: beside the ledger it proves nothing");
    Ok(())
}

async fn verify(at: &At, saved: Option<&Path>) -> Result<(), CliError> {
    let status: Status = at.admin.get("/api/v1/status").await?;
    let mut verifier = LogVerifier::new(&status.trust_domain);
    if let Some(path) = saved {
        let saved: SavedHead = serde_json::from_slice(&read_input(path, HEAD_BYTES_MAX)?).map_err(|e| {
            CliError::usage(
                format!("{} is not a saved head", path.display()),
                e,
                "countersign audit head --out FILE",
            )
        })?;
        verifier = verifier.expecting_outside(&checked(&saved, "the saved head")?);
    }
    // The stored head must agree as well: it was signed when the last event came.
    let own = newest_head(at).await?;
    verifier = verifier.expecting_own(&checked(&own, "the authority's head")?);
    let report = walk(at, verifier).await?;
    if at.output == Format::Json {
        let text = serde_json::json!({
            "events": report.log.size(), "hash": report.log.hash().to_string(), "chains": report.chains,
            "gaps": report.gaps, "missing": report.missing,
            "assurance": match report.assurance {
                Assurance::InternallyConsistentOnly => "internally consistent only",
                Assurance::MatchesOutsideHead { .. } => "matches the saved head",
            },
        });
        return output::json(&text, false);
    }
    output::line(format!(
        "{} events of {} starts, {} gaps ({} records missing): {}",
        report.log.size(),
        report.chains,
        report.gaps,
        report.missing,
        report.assurance
    ));
    Ok(())
}

/// The authority's newest head, with the key that it names.
async fn newest_head(at: &At) -> Result<SavedHead, CliError> {
    let head: LedgerHead = at.admin.get("/api/v1/audit/head").await?;
    let KeySet { keys } = at.admin.get("/api/v1/audit/keys").await?;
    let named =
        |key: &Value| PublicKey::from_jwk(&key.to_string()).is_ok_and(|key| key.thumbprint() == head.kid);
    let key = keys.into_iter().find(named).ok_or_else(|| {
        CliError::failed(
            "the authority does not publish the key of its head",
            &head.kid,
            "compare with a head saved before",
        )
    })?;
    Ok(SavedHead { head, key })
}

async fn walk(at: &At, mut verifier: LogVerifier) -> Result<Report, CliError> {
    let broken = |e: &dyn std::fmt::Display| {
        CliError::failed(
            "the ledger does not verify",
            e,
            "keep this database as evidence; compare with a backup",
        )
    };
    let mut after = 0;
    loop {
        let page: Page<AuditEvent> =
            at.admin.get(&format!("/api/v1/audit/events?after={after}&limit={PAGE}")).await?;
        let Some(last) = page.items.last() else { break };
        after = last.index;
        for event in &page.items {
            let (record, stored) = record(event).map_err(|e| broken(&e))?;
            verifier.accept(event.index, &record, stored).map_err(|e| broken(&e))?;
        }
    }
    verifier.finish().map_err(|e| broken(&e))
}

fn record(event: &AuditEvent) -> Result<(Record, Digest), CliError> {
    let bad =
        |e: &dyn std::fmt::Display| CliError::failed(format!("event {} cannot be read", event.index), e, "");
    let record = Record {
        writer: event.writer.parse().map_err(|e| bad(&e))?,
        boot: event.boot.parse().map_err(|e| bad(&e))?,
        sequence: event.sequence,
        bytes: event.event.as_slice().to_vec(),
        chain: Digest::try_from(event.chain.as_slice()).map_err(|e| bad(&e))?,
    };
    Ok((record, Digest::try_from(event.log.as_slice()).map_err(|e| bad(&e))?))
}

/// A head with a good signature by the key that lies beside it. Whose key that is, the place where the file was
/// kept vouches for.
fn checked(saved: &SavedHead, what: &str) -> Result<Verified<Head>, CliError> {
    let bad = |e: &dyn std::fmt::Display| CliError::failed(format!("{what} is not signed by its key"), e, "");
    let key = PublicKey::from_jwk(&saved.key.to_string()).map_err(|e| bad(&e))?;
    let head = SignedHead {
        payload: saved.head.payload.clone(),
        kid: saved.head.kid.clone(),
        signature: saved.head.signature.clone(),
    };
    head.verify(|kid| (kid == key.thumbprint()).then(|| key.clone())).map_err(|e| bad(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_cannot_add_another_one() {
        let args = SearchArgs {
            kind: Some("a&verdict=allow".into()),
            writer: None,
            decision: None,
            verdict: Some("deny".into()),
            limit: 7,
        };
        assert_eq!(args.query(), "limit=7&kind=a%26verdict%3Dallow&verdict=deny");
    }
}
