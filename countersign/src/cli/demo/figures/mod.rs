//! `demo figures`: the thesis's figures, each drawn from what this deployment does while it is asked for: its ledger,
//! two real calls, and a handshake. Beside every arrow stands where it was taken from.

mod calls;
mod handshake;
mod page;
mod provisioning;

use std::path::PathBuf;

use clap::Args;
use countersign_ledger::event::{Entry, Event};
use countersign_wire::api::Page;
use countersign_wire::api::audit::AuditEvent;

use crate::cli::At;
use crate::error::CliError;
use crate::output;

/// `demo figures`
#[derive(Debug, Args)]
pub struct FiguresArgs {
    /// Where figures.md and a picture of each figure go
    #[arg(long, value_name = "DIR", default_value = "countersign-figures")]
    out: PathBuf,
}

/// Runs `demo figures`. While it does, the services carry users along in both ways, one after the other; afterwards they
/// are as they were.
///
/// # Errors
/// Exit 1 where what a figure shows does not happen, 2 where openssl is missing, 3 where nothing runs.
pub async fn figures(at: &At, args: &FiguresArgs) -> Result<(), CliError> {
    let mut figures = vec![provisioning::figure(at).await?];
    figures.extend(handshake::figures(at).await?);
    figures.extend(calls::figures(at).await?);
    page::write(&figures, &args.out)?;
    output::line(args.out.join("figures.md").display());
    Ok(())
}

/// An event with its place in the ledger.
struct Recorded {
    index: u64,
    writer: String,
    event: Event,
}

/// The newest events of a kind after `after`, oldest first.
async fn recorded(at: &At, kind: &str, after: u64) -> Result<Vec<Recorded>, CliError> {
    let query = format!("/api/v1/audit/events?kind={kind}&newest=true&limit=1000");
    let page: Page<AuditEvent> = at.admin.get(&query).await?;
    let events = page.items.into_iter().filter(|event| event.index > after);
    Ok(events
        .filter_map(|event| {
            let entry: Entry = serde_json::from_slice(event.event.as_slice()).ok()?;
            Some(Recorded { index: event.index, writer: event.writer, event: entry.event })
        })
        .collect())
}

/// Place of the newest event of all.
async fn newest(at: &At) -> Result<u64, CliError> {
    let page: Page<AuditEvent> = at.admin.get("/api/v1/audit/events?newest=true&limit=1").await?;
    Ok(page.items.last().map_or(0, |event| event.index))
}

/// The last word of a SPIFFE ID of ours that tells what it is: `ads`, `agent`, `authority`, `gateway`.
fn short(id: &str) -> &str {
    let path = id.strip_prefix("spiffe://").and_then(|id| id.split_once('/')).map_or(id, |(_, path)| path);
    let mut words = path.split('/').skip_while(|word| matches!(*word, "svc" | "countersign"));
    words.next().unwrap_or(path)
}

fn missing(what: &str) -> CliError {
    CliError::failed(format!("the ledger has no {what}"), "a figure needs one", "countersign audit tail")
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn whoever_is_drawn_has_a_short_name() {
        assert_eq!(short("spiffe://fleamarket.test/svc/ads"), "ads");
        assert_eq!(short("spiffe://fleamarket.test/countersign/agent/laptop"), "agent");
        assert_eq!(short("spiffe://fleamarket.test/countersign/authority"), "authority");
        assert_eq!(short("nobody"), "nobody");
    }
}
