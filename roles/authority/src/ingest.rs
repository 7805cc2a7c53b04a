//! Taking in what others wrote: every record is judged by its writer's chain before it gets its place in the log.

use std::sync::Arc;

use countersign_identity::{IdKind, SpiffeId};
use countersign_ledger::{BootId, Digest, Event, Record, Verdict, WriterVerifier, chain::RecordError};
use countersign_sdk::clock;
use countersign_store::{
    StoreError,
    edges::{Edge, EdgeKey, Histogram},
};
use countersign_wire::{
    agent::{EdgeCount, LedgerRecord, ReportRequest},
    codes::Code,
};

use crate::{entries, journal::Change, state::Authority};

/// Records that one report carries at most.
pub(crate) const RECORDS_MAX: usize = 2000;
/// Counters that one report carries at most.
pub(crate) const EDGES_MAX: usize = 2000;
const LABEL_BYTES_MAX: usize = 256;

/// Why a report is not taken. Chains that came before the bad one are stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IngestError {
    /// Too much at once.
    #[error("the report has {got} items, at most {max} are taken: send it in parts")]
    TooMany {
        /// How many came.
        got: usize,
        /// How many are taken.
        max: usize,
    },
    /// Records of somebody who does not live on that node.
    #[error("{writer} does not live on the node that reports for it")]
    ForeignWriter {
        /// Who is said to have written.
        writer: String,
    },
    /// A record cannot be read.
    #[error("a record of {writer} cannot be read: {why}")]
    Unreadable {
        /// Who is said to have written.
        writer: String,
        /// What is wrong.
        why: String,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl IngestError {
    /// The registered code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::TooMany { .. } => Code::BodyTooLarge,
            Self::ForeignWriter { .. } => Code::EntryUnknown,
            Self::Unreadable { .. } => Code::BodyMalformed,
            Self::Store(_) => Code::EvidenceUnwritable,
        }
    }
}

/// Why a record has no place in the log, and never will have: asking its writer for it again would change nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum LeaveOutError {
    /// It does not follow from the one before it, or was damaged.
    #[error("it does not fit its chain: {0}")]
    Broken(#[from] RecordError),
    /// It tells of what its writer has no part in.
    #[error("it tells of what only others can know")]
    NotTheirs,
}

/// Stores a report of `agent`. Returns the highest sequence that is durable now of the chain that came first.
pub(crate) async fn take(
    authority: &Arc<Authority>,
    agent: &SpiffeId,
    report: ReportRequest,
) -> Result<u64, IngestError> {
    for (got, max) in [(report.records.len(), RECORDS_MAX), (report.edges.len(), EDGES_MAX)] {
        if got > max {
            return Err(IngestError::TooMany { got, max });
        }
    }
    let mut acknowledged = None;
    for chain in chains(report.records)? {
        may_report(authority, agent, &chain.writer).await?;
        let durable = take_chain(authority, chain).await?;
        acknowledged.get_or_insert(durable);
    }
    count(authority, agent, report.edges).await?;
    Ok(acknowledged.unwrap_or(0))
}

/// Records of one start of one writer, in their order.
struct Chain {
    writer: SpiffeId,
    boot: BootId,
    records: Vec<Record>,
}

fn chains(records: Vec<LedgerRecord>) -> Result<Vec<Chain>, IngestError> {
    let mut chains: Vec<Chain> = Vec::new();
    for record in records {
        let record = read(record)?;
        match chains.iter_mut().find(|chain| chain.writer == record.writer && chain.boot == record.boot) {
            Some(chain) => chain.records.push(record),
            None => {
                chains.push(Chain {
                    writer: record.writer.clone(),
                    boot: record.boot,
                    records: vec![record],
                });
            }
        }
    }
    Ok(chains)
}

fn read(record: LedgerRecord) -> Result<Record, IngestError> {
    let LedgerRecord { writer, boot, sequence, event, chain } = record;
    let said: String = writer.chars().take(LABEL_BYTES_MAX).collect();
    let unreadable = |why: String| IngestError::Unreadable { writer: said.clone(), why };
    Ok(Record {
        writer: SpiffeId::parse(&writer).map_err(|error| unreadable(error.to_string()))?,
        boot: boot.parse().map_err(|error: RecordError| unreadable(error.to_string()))?,
        sequence,
        bytes: event,
        chain: Digest::try_from(chain.as_slice()).map_err(|error| unreadable(error.to_string()))?,
    })
}

/// An agent speaks for itself and for what its node may hold.
async fn may_report(authority: &Authority, agent: &SpiffeId, writer: &SpiffeId) -> Result<(), IngestError> {
    if writer == agent {
        return Ok(());
    }
    let entry = authority.db.service_of(writer).await?;
    match entry.is_some_and(|entry| entries::may_hold(&entry, agent)) {
        true => Ok(()),
        false => Err(IngestError::ForeignWriter { writer: writer.to_string() }),
    }
}

/// Judges and stores one chain, gap by gap. Records that are stored already are passed over. One that can never be
/// taken is left out, which is a gap like any other, and an alarm says why: its writer ships in order, and would wait
/// behind it for ever.
async fn take_chain(authority: &Arc<Authority>, chain: Chain) -> Result<u64, IngestError> {
    let last = authority.db.last_of_writer(&chain.writer, chain.boot).await?;
    let mut verifier = match last {
        Some(last) => {
            WriterVerifier::resume(chain.writer, chain.boot, last.record.sequence, last.record.chain)
        }
        None => WriterVerifier::start(chain.writer, chain.boot),
    };
    let mut part = Part::default();
    let mut left_out = LeftOut::default();
    for record in chain.records {
        if record.sequence <= verifier.sequence() {
            continue;
        }
        match judge(&mut verifier, &record) {
            Err(error) => left_out.add(&record, &error),
            Ok(None) => part.records.push(record),
            Ok(Some(gap)) => {
                // One gap to a transaction: what is missing is told directly before what follows it.
                std::mem::replace(&mut part, Part { gap: Some(gap), records: vec![record] })
                    .store(authority)
                    .await?;
            }
        }
    }
    part.store(authority).await?;
    let settled = verifier.sequence().max(left_out.until);
    left_out.alarm(authority).await?;
    Ok(settled)
}

/// Does the record come next in its writer's chain? Returns the gap before it, if there is one.
fn judge(verifier: &mut WriterVerifier, record: &Record) -> Result<Option<Event>, LeaveOutError> {
    if !is_theirs(record) {
        return Err(LeaveOutError::NotTheirs);
    }
    let missing_from = verifier.sequence().saturating_add(1);
    if record.sequence <= missing_from {
        return Ok(verifier.accept(record).map(|()| None)?);
    }
    let missing_to = record.sequence.saturating_sub(1);
    verifier.accept_after_gap(record, missing_to)?;
    let (writer, boot) = (record.writer.clone(), record.boot);
    tracing::warn!(%writer, %boot, missing_from, missing_to, "records are missing");
    metrics::counter!("countersign_ledger_gaps_total").increment(1);
    Ok(Some(Event::Gap { writer, boot, missing_from, missing_to }))
}

/// Records of one report that were not taken: one alarm for all of them, so that nobody fills the ledger with alarms.
#[derive(Default)]
struct LeftOut {
    first: Option<String>,
    count: u64,
    until: u64,
}

impl LeftOut {
    fn add(&mut self, record: &Record, error: &LeaveOutError) {
        let Record { writer, boot, sequence, .. } = record;
        self.first.get_or_insert_with(|| format!("record {sequence} of {writer} (start {boot}): {error}"));
        self.count += 1;
        self.until = self.until.max(*sequence);
    }

    /// On disk before the writer is told that it need not keep them.
    async fn alarm(self, authority: &Authority) -> Result<(), StoreError> {
        let Some(first) = self.first else { return Ok(()) };
        let more = self.count - 1;
        let finding = format!("{}: left out {first}; and {more} more of this report", Code::LedgerBroken);
        tracing::error!(finding, "records have no place in the ledger");
        authority.journal.record(vec![Event::LedgerAlarm { finding }]).await
    }
}

/// Does the record tell of its writer's own doings? A compromised service may lie about itself, and about nobody
/// else: certificates, logins and administration are told by us alone, a decision by who was called, or by the caller
/// whose call was not made (its sidecar stopped it: the callee never heard of it). An event of a newer release is taken
/// by its hashes.
fn is_theirs(record: &Record) -> bool {
    let Ok(entry) = record.entry() else { return true };
    let kind = record.writer.kind();
    let was_called = |target: &str| {
        target == record.writer.as_str()
            || match kind {
                IdKind::Service(name) => target == name,
                IdKind::Gateway(_) => target == "gateway",
                _ => false,
            }
    };
    match &entry.event {
        Event::WriterStarted { .. }
        | Event::RevocationReceived { .. }
        | Event::Refusals { .. }
        | Event::Dropped { .. }
        | Event::EndedAbruptly { .. }
        | Event::ClockSteppedBack { .. } => true,
        Event::LedgerAlarm { .. } => matches!(kind, IdKind::Agent(_)),
        Event::TokenMinted { .. } => matches!(kind, IdKind::Gateway(_)),
        Event::Decision(decision) => {
            let stopped_itself = decision.verdict == Verdict::Deny
                && decision.source.as_deref() == Some(record.writer.as_str());
            stopped_itself || was_called(&decision.target)
        }
        Event::AllowedCalls(batch) => batch.edges().iter().all(|edge| was_called(&edge.target)),
        _ => false,
    }
}

/// What goes into the log together.
#[derive(Default)]
struct Part {
    gap: Option<Event>,
    records: Vec<Record>,
}

impl Part {
    async fn store(self, authority: &Arc<Authority>) -> Result<(), StoreError> {
        if self.records.is_empty() {
            return Ok(());
        }
        let theirs = self.records;
        metrics::counter!("countersign_ledger_records_total").increment(theirs.len() as u64);
        match self.gap {
            // Our own chain is not touched, so nobody waits for our pen.
            None => authority.db.append(&theirs, clock::now()).await.map(drop),
            Some(gap) => {
                let append = |db: countersign_store::Db, ours: Vec<Record>| async move {
                    let all: Vec<Record> = ours.into_iter().chain(theirs).collect();
                    db.append(&all, clock::now()).await.map(|_| Change::Recorded(()))
                };
                authority.journal.with(vec![gap], append).await
            }
        }
    }
}

/// Sums up call counters. A callee counts, so a node may only count for callees that live on it.
async fn count(authority: &Authority, agent: &SpiffeId, counts: Vec<EdgeCount>) -> Result<(), StoreError> {
    if counts.is_empty() {
        return Ok(());
    }
    let held = authority.db.services().await?;
    let is_held = |target: &str| {
        held.iter().any(|entry| entry.name.as_str() == target && entries::may_hold(entry, agent))
    };
    let (ours, foreign): (Vec<_>, Vec<_>) = counts.into_iter().partition(|count| is_held(&count.target));
    if !foreign.is_empty() {
        tracing::warn!(%agent, count = foreign.len(), "calls of services that do not live there were not counted");
    }
    let edges: Vec<Edge> = ours.into_iter().map(edge).collect();
    let left_out = authority.db.add_edges(&edges, clock::now()).await?;
    if left_out > 0 {
        tracing::warn!(left_out, "there are more edges than are counted");
    }
    Ok(())
}

fn edge(count: EdgeCount) -> Edge {
    let label = |text: String| text.chars().take(LABEL_BYTES_MAX).collect::<String>();
    Edge {
        key: EdgeKey {
            source: label(count.source),
            target: label(count.target),
            mode: label(count.mode),
            user: label(count.user),
        },
        policy: label(count.policy),
        requests: count.requests,
        denied: count.denied,
        latency: Histogram::from_counts(&count.latency_log2_us),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_reason_has_its_registered_code() {
        let writer = || "spiffe://fleamarket.test/svc/ads".to_owned();
        for (error, code) in [
            (IngestError::TooMany { got: 2, max: 1 }, Code::BodyTooLarge),
            (IngestError::ForeignWriter { writer: writer() }, Code::EntryUnknown),
            (IngestError::Unreadable { writer: writer(), why: String::new() }, Code::BodyMalformed),
            (IngestError::Store(StoreError::Busy), Code::EvidenceUnwritable),
        ] {
            assert_eq!(error.code(), code, "{error}");
        }
    }
    #[test]
    fn only_the_next_record_of_a_chain_that_tells_of_its_writer_is_taken() {
        let ads: SpiffeId = "spiffe://fleamarket.test/svc/ads".parse().unwrap();
        let boot = BootId::from_random([7; 16]);
        let mut writer = countersign_ledger::Writer::start(ads.clone(), boot);
        let mut written = |event: Event| writer.append(&event, clock::now()).unwrap();
        let own = written(Event::ClockSteppedBack { by_ms: 1 });
        let foreign = written(Event::LedgerAlarm { finding: "boo".to_owned() });
        let mut damaged = own.clone();
        damaged.bytes.push(b' ');
        let mut verifier = WriterVerifier::start(ads, boot);
        assert_eq!(judge(&mut verifier, &damaged), Err(LeaveOutError::Broken(RecordError::BrokenChain)));
        assert_eq!(judge(&mut verifier, &foreign), Err(LeaveOutError::NotTheirs));
        assert_eq!((verifier.sequence(), judge(&mut verifier, &own)), (0, Ok(None)));
    }
}
