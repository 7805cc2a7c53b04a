//! The ledger's near end: what this process decided, on its own disk before anybody else has it.
//!
//! Refusals are durable one by one: [`Spool::record_durably`] returns once the record is on disk. Allowed
//! calls wait as plain numbers in a ring of the thread's own ([`CallRing`]), and become one record with many others
//! within a second. One thread owns the files; the hot path only touches its ring. Everything is bounded: what the
//! disk does not take is counted instead of kept, and the count becomes an event of its own once there is room. What
//! a process that was killed had not written yet is lost; its successor records that ([`Event::EndedAbruptly`]).
//!
//! A task ships records in order and deletes a file once the authority holds all of it. What a process
//! that died left behind is shipped by its successor. Where there is no authority ([`Spool::open_local`]) records stay
//! on this disk until newer ones need the room: the oldest files go then, and a `gap` event says which records those were.

mod edges;
mod files;
mod ring;
mod ship;
mod strangers;
mod writer;

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc::RecvTimeoutError,
    },
    thread::JoinHandle,
    time::Duration,
};

use countersign_identity::{SpiffeId, UnixTime};
use countersign_ledger::{Decision, Event};
use countersign_wire::codes::Code;
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::{oneshot, watch};

pub use edges::{EDGES_MAX, EdgeCall, Edges};
pub use ring::{CallRing, CallRow, EdgeFacts, EdgeIndex, RING_EDGES_MAX, RingError};
pub use ship::Ship;

use crate::{clock, shard::Sharded};
use files::{Files, WhenFull};
use ring::FarEnd;
use strangers::Strangers;

/// Limits of a spool. Each has a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpoolLimits {
    /// Disk budget for allowed calls; refusals may use an eighth more.
    pub bytes_max: u64,
    /// One file of it.
    pub file_bytes_max: u64,
    /// Allowed calls that wait in the ring of a thread until they are batched.
    pub ring_rows: usize,
    /// Calls that fit no batch and wait for the next write, for each shard.
    pub waiting_max: usize,
    /// Refusals that wait for the disk.
    pub urgent_max: usize,
}

impl Default for SpoolLimits {
    fn default() -> Self {
        Self {
            bytes_max: 64 << 20,
            file_bytes_max: 1 << 20,
            ring_rows: 4096,
            waiting_max: 4096,
            urgent_max: 1024,
        }
    }
}

/// Why something is not in the spool.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SpoolError {
    /// The disk says no.
    #[error("spool {path} cannot be used: {why}")]
    Disk {
        /// Which file.
        path: PathBuf,
        /// What the operating system says.
        why: String,
    },
    /// The disk budget is used up, refusals included.
    #[error("spool is full: the authority has not taken records for too long")]
    Full,
    /// More refusals at once than the disk can take.
    #[error("spool is busy: {0} refusals are waiting for the disk")]
    Busy(usize),
    /// The event is too large or cannot be written.
    #[error("event cannot be recorded: {why}")]
    Event {
        /// What the ledger says.
        why: String,
    },
    /// The writing thread has ended.
    #[error("spool is closed")]
    Closed,
}

/// Where this process records what it decides.
#[derive(Debug)]
pub struct Spool {
    shared: Arc<Shared>,
    /// Rings of threads that have none of their own.
    rings: Sharded<Option<CallRing>>,
    writer: SpiffeId,
    thread: Mutex<Option<Scribing>>,
}

/// The thread that writes, and word of its end.
#[derive(Debug)]
struct Scribing {
    thread: JoinHandle<()>,
    /// Nothing is ever sent: it is closed when the thread ends, however it does.
    ended: std::sync::mpsc::Receiver<()>,
}

#[derive(Debug)]
struct Shared {
    limits: SpoolLimits,
    waiting: Sharded<Vec<(Event, UnixTime)>>,
    urgent: Mutex<Option<std::sync::mpsc::SyncSender<Errand>>>,
    /// Nobody writes any more.
    closed: AtomicBool,
    rings: Mutex<Vec<FarEnd>>,
    edge_numbers: AtomicU32,
    edges: Edges,
    dropped: Sharded<Dropped>,
    strangers: Mutex<Strangers>,
    files: Mutex<Files>,
    /// Grows whenever something new is on disk.
    written: watch::Sender<u64>,
}

/// What the thread is asked for.
#[derive(Debug)]
enum Errand {
    Record(Urgent),
    /// A ring is half full.
    EmptyRings,
}

#[derive(Debug)]
struct Urgent {
    event: Event,
    at: UnixTime,
    done: oneshot::Sender<Result<(), SpoolError>>,
}

/// Events that were not kept.
#[derive(Clone, Copy, Debug, Default)]
struct Dropped {
    count: u64,
    since: Option<UnixTime>,
    until: Option<UnixTime>,
}

impl Spool {
    /// Opens the spool of `writer` in `directory`, which is made with mode 0700 if it is not there.
    ///
    /// # Errors
    /// The directory or what lies in it cannot be used, or there is no randomness for the name of this start.
    pub fn open(directory: PathBuf, writer: SpiffeId, limits: SpoolLimits) -> Result<Arc<Self>, SpoolError> {
        Self::start(Files::open(directory, limits, WhenFull::Refuse)?, writer, limits)
    }

    /// The same without an authority to ship to: [`SpoolLimits::bytes_max`] of the newest records are kept here, and
    /// nowhere else.
    ///
    /// # Errors
    /// As [`Spool::open`].
    pub fn open_local(
        directory: PathBuf,
        writer: SpiffeId,
        limits: SpoolLimits,
    ) -> Result<Arc<Self>, SpoolError> {
        Self::start(Files::open(directory, limits, WhenFull::ForgetOldest)?, writer, limits)
    }

    fn start(files: Files, writer: SpiffeId, limits: SpoolLimits) -> Result<Arc<Self>, SpoolError> {
        let (urgent, inbox) = std::sync::mpsc::sync_channel(limits.urgent_max.max(1));
        let shared = Arc::new(Shared {
            limits,
            waiting: Sharded::default(),
            urgent: Mutex::new(Some(urgent)),
            closed: AtomicBool::new(false),
            rings: Mutex::default(),
            edge_numbers: AtomicU32::new(0),
            edges: Edges::default(),
            dropped: Sharded::default(),
            strangers: Mutex::default(),
            files: Mutex::new(files),
            written: watch::Sender::new(0),
        });
        let thread = writer::spawn(Arc::clone(&shared), writer.clone(), inbox)?;
        Ok(Arc::new(Self { shared, rings: Sharded::default(), writer, thread: Mutex::new(Some(thread)) }))
    }

    /// A ring for a thread that answers requests; one for each of them, for as long as it runs.
    #[must_use]
    pub fn ring(&self) -> CallRing {
        let shared = Arc::clone(&self.shared);
        let (near, far) = CallRing::new(shared, self.shared.limits.ring_rows, &self.shared.edge_numbers);
        lock(&self.shared.rings).push(far);
        near
    }

    /// Records an allowed call through the ring of this thread's shard, and counts it for its edge. `row` makes the
    /// call with the index of its edge.
    ///
    /// # Errors
    /// The ring is full, has no number for the edge, or is emptied no more: the call is neither recorded nor counted.
    pub fn record_call(
        &self,
        facts: &EdgeFacts,
        row: impl FnOnce(EdgeIndex) -> CallRow,
    ) -> Result<(), RingError> {
        if self.is_closed() {
            return Err(RingError::Full);
        }
        self.rings.with(|ring| {
            let ring = ring.get_or_insert_with(|| self.ring());
            let edge = ring.edge_index(facts).ok_or(RingError::UnknownEdge)?;
            ring.push(row(edge))
        })
    }

    fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// Records an event with the next batch, within a second. Never waits.
    pub fn record(&self, event: Event) {
        let now = clock::now();
        let kept = self.shared.waiting.with(|waiting| {
            let room = !self.is_closed() && waiting.len() < self.shared.limits.waiting_max;
            if room {
                waiting.push((event, now));
            }
            room
        });
        if !kept {
            self.shared.dropped.with(|dropped| dropped.add(now));
        }
    }

    /// Records an event and returns when it is on disk.
    ///
    /// # Errors
    /// See [`SpoolError`]; the event is then not recorded, but counted as one that was dropped.
    pub async fn record_durably(&self, event: Event) -> Result<(), SpoolError> {
        let answer = self.send_urgently(event)?;
        answer.await.unwrap_or(Err(SpoolError::Closed))
    }

    /// Records without waiting for the disk, yet not with the next batch: for handshakes, which must not
    /// block. Lost only together with the process, or when [`SpoolLimits::urgent_max`] are waiting.
    pub fn record_soon(&self, event: Event) {
        // Nobody waits for the answer; what is not sent was counted as dropped.
        drop(self.send_urgently(event));
    }

    fn send_urgently(&self, event: Event) -> Result<oneshot::Receiver<Result<(), SpoolError>>, SpoolError> {
        let (done, answer) = oneshot::channel();
        let at = clock::now();
        let sender = lock(&self.shared.urgent).clone().ok_or(SpoolError::Closed);
        let sent = sender.and_then(|sender| {
            sender.try_send(Errand::Record(Urgent { event, at, done })).map_err(|error| match error {
                std::sync::mpsc::TrySendError::Full(_) => SpoolError::Busy(self.shared.limits.urgent_max),
                std::sync::mpsc::TrySendError::Disconnected(_) => SpoolError::Closed,
            })
        });
        if sent.is_err() {
            self.shared.dropped.with(|dropped| dropped.add(at));
        }
        sent.map(|()| answer)
    }

    /// Records a refusal of somebody who proved nothing: the first of each kind in full, and so many more of
    /// them; the rest is counted per address and minute, so that strangers cannot fill a disk.
    pub fn record_refused_stranger(&self, address: Option<IpAddr>, decision: Decision, code: Code) {
        let address = address.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
        let public = code.entry().public.as_str();
        let in_full = lock(&self.shared.strangers).admit(address, decision.stage, public, clock::now());
        if in_full {
            self.record_soon(Event::Decision(Box::new(decision)));
        }
    }

    /// Counters of calls per edge; they travel with the records.
    #[must_use]
    pub fn edges(&self) -> &Edges {
        &self.shared.edges
    }

    /// Events that are not on disk yet, without the calls in the rings.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let mut count = 0;
        let _: Option<()> = self.shared.waiting.find(|waiting| {
            count += waiting.len();
            None
        });
        count
    }

    /// Bytes on disk that the authority does not hold yet.
    #[must_use]
    pub fn backlog_bytes(&self) -> u64 {
        lock(&self.shared.files).backlog_bytes()
    }

    /// Ships until `shutdown`, and once more after it.
    pub async fn ship(self: Arc<Self>, to: impl Ship, shutdown: tokio_util::sync::CancellationToken) {
        ship::run(&self, to, shutdown).await;
    }

    /// Writes what is waiting and ends the writing thread. Records after this are refused. Blocks until everything is on
    /// the disk, but no longer than two seconds: a disk that takes nothing does not keep a process from ending.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        lock(&self.shared.urgent).take();
        let Some(scribing) = lock(&self.thread).take() else { return };
        if scribing.ended.recv_timeout(CLOSE_MAX) == Err(RecvTimeoutError::Timeout) {
            tracing::error!(
                "the disk does not take the last ledger records: they are lost with this process"
            );
        } else if scribing.thread.join().is_err() {
            tracing::error!("the spool's thread ended badly");
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.close();
        let late: u64 = self.shared.dropped.take_all().map(|dropped| dropped.count).sum();
        if late > 0 {
            tracing::error!(late, "events came after their spool was closed: they are lost");
        }
    }
}

impl Dropped {
    fn add(&mut self, now: UnixTime) {
        self.add_many(1, now);
    }

    fn add_many(&mut self, count: usize, now: UnixTime) {
        self.count = self.count.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        self.since.get_or_insert(now);
        self.until = Some(now);
    }

    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.since = self.since.into_iter().chain(other.since).min();
        self.until = self.until.into_iter().chain(other.until).max();
    }
}

/// A poisoned lock is taken over: what it guards is consistent between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Longest wait of an allowed call for its batch.
const BATCH_INTERVAL: Duration = Duration::from_millis(500);
/// Longest wait for the last write.
const CLOSE_MAX: Duration = Duration::from_secs(2);
