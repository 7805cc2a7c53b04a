//! Bringing records to the authority, in order, as often as it takes.

use std::{future::Future, sync::Arc, time::Duration};

use countersign_ledger::Record;
use countersign_wire::agent::{LedgerRecord, ReportRequest};
use tokio_util::sync::CancellationToken;

use super::{BATCH_INTERVAL, Spool, files::Batch, lock};

/// Takes records and counters further: to the agent, or to the authority itself.
pub trait Ship: Send + Sync + 'static {
    /// Returns the highest sequence of the records' boot that the authority holds durably.
    fn ship(&self, report: ReportRequest) -> impl Future<Output = Result<u64, tonic::Status>> + Send;
}

impl<T: Ship> Ship for Arc<T> {
    fn ship(&self, report: ReportRequest) -> impl Future<Output = Result<u64, tonic::Status>> + Send {
        T::ship(self, report)
    }
}

pub(super) async fn run(spool: &Spool, to: impl Ship, shutdown: CancellationToken) {
    let mut written = spool.shared.written.subscribe();
    let mut pause = BATCH_INTERVAL;
    loop {
        let ended = tokio::select! {
            () = shutdown.cancelled() => true,
            _ = tokio::time::sleep(pause) => false,
            changed = written.changed(), if pause <= BATCH_INTERVAL => changed.is_err(),
        };
        written.mark_unchanged();
        pause = match ship_all(spool, &to).await {
            Ok(()) => BATCH_INTERVAL,
            Err(error) => {
                tracing::warn!(%error, "ledger records wait in the spool");
                (pause * 2).min(PAUSE_MAX)
            }
        };
        if ended {
            return;
        }
    }
}

/// Counters that cannot be shipped never hold back records, which are evidence.
async fn ship_all(spool: &Spool, to: &impl Ship) -> Result<(), String> {
    let records = ship_records(spool, to).await;
    ship_edges(spool, to).await.and(records)
}

async fn ship_edges(spool: &Spool, to: &impl Ship) -> Result<(), String> {
    let mut left = spool.shared.edges.take();
    while !left.is_empty() {
        let edges: Vec<_> = left.drain(..left.len().min(BATCH_EDGES_MAX)).collect();
        let report = ReportRequest { records: Vec::new(), edges: edges.clone() };
        if let Err(status) = to.ship(report).await {
            spool.shared.edges.put_back(edges);
            spool.shared.edges.put_back(left);
            return Err(status.to_string());
        }
    }
    Ok(())
}

async fn ship_records(spool: &Spool, to: &impl Ship) -> Result<(), String> {
    loop {
        let Some(place) = lock(&spool.shared.files).unshipped() else { return Ok(()) };
        let batch = read(spool, place).await?;
        let records: Vec<_> = batch.records.iter().map(message).collect();
        let last = batch.records.last().map(|record| record.sequence);
        let held = match last {
            Some(_) => {
                to.ship(ReportRequest { records, edges: Vec::new() }).await.map_err(|s| s.to_string())?
            }
            None => 0,
        };
        if last.is_some_and(|last| held < last) {
            return Err(format!(
                "the authority holds {held} of boot {} and not yet all that was sent",
                batch.boot
            ));
        }
        lock(&spool.shared.files).shipped(&batch);
    }
}

async fn read(
    spool: &Spool,
    place: (std::path::PathBuf, countersign_ledger::BootId, u64, u64),
) -> Result<Batch, String> {
    let writer = spool.writer.clone();
    tokio::task::spawn_blocking(move || Batch::read(&writer, place, BATCH_RECORDS_MAX, BATCH_BYTES_MAX))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}

fn message(record: &Record) -> LedgerRecord {
    LedgerRecord {
        writer: record.writer.to_string(),
        boot: record.boot.to_string(),
        sequence: record.sequence,
        event: record.bytes.clone(),
        chain: record.chain.as_bytes().to_vec(),
    }
}

/// Well below the limit of a gRPC message.
const BATCH_BYTES_MAX: u64 = 1 << 20;
/// Well below what agents and authorities take in one report: one record too many would be refused for ever.
const BATCH_RECORDS_MAX: usize = 1000;
/// As with records.
const BATCH_EDGES_MAX: usize = 1000;
const PAUSE_MAX: Duration = Duration::from_secs(15);
