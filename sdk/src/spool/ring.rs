//! Allowed calls on their way to the spool's thread: a ring for each thread that answers requests.
//!
//! The thread pushes one [`CallRow`] of plain numbers for a call: no lock, no allocation, no wait. Texts that repeat (who
//! called what, by which proof, under which policy) are told once, as [`EdgeFacts`], and stand for themselves as an
//! [`EdgeIndex`]. The spool's thread empties every ring twice a second, or as soon as it is half full.

use std::{
    collections::HashMap,
    mem::size_of,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use countersign_identity::{DecisionId, UnixTime};
use countersign_ledger::{CallEdge, ConnectionId, NewCall, Pseudonym};
use http::StatusCode;
use thiserror::Error;

use super::{EdgeCall, Edges, Shared, edges::Counts, lock, writer};
use crate::trace::TraceId;

/// What calls over one edge have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EdgeFacts {
    /// What the ledger tells of them.
    pub edge: CallEdge,
    /// How the user was proven, see `UserProof`: for the counters of calls.
    pub user_proof: &'static str,
    /// Was there a user? For the counters of calls without a workload.
    pub has_user: bool,
}

/// Stands for some [`EdgeFacts`] in the ring that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EdgeIndex(u32);

/// One allowed call.
#[derive(Clone, Copy, Debug)]
pub struct CallRow {
    /// What it shares with others.
    pub edge: EdgeIndex,
    /// Its decision id.
    pub id: DecisionId,
    /// When the answer's head was there.
    pub at: UnixTime,
    /// From the request's head to the answer's head, microseconds.
    pub latency_us: u32,
    /// Of the answer.
    pub status: StatusCode,
    /// Which joins the hops of a call.
    pub trace: TraceId,
    /// The user, if one was proven.
    pub user: Option<Pseudonym>,
    /// On which connection it came, and from where.
    pub connection: Option<(ConnectionId, Option<SocketAddr>)>,
}

/// Why a row was not taken. The call must be recorded another way: see [`super::Spool::record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RingError {
    /// The spool's thread does not keep up, or has ended.
    #[error("the ring of calls is full")]
    Full,
    /// The index is of another ring, or was given before so many other edges that it counts no longer: ask again.
    #[error("the edge index is not known to this ring any more")]
    UnknownEdge,
}

/// The near end of a ring: one thread's own.
#[derive(Debug)]
pub struct CallRing {
    shared: Arc<Shared>,
    rows: rtrb::Producer<CallRow>,
    table: Arc<Mutex<Table>>,
    /// The indices that count now, by what they stand for.
    known: HashMap<Arc<EdgeFacts>, u32>,
    first: u32,
    since_look: usize,
}

impl CallRing {
    /// A ring, and its far end.
    pub(super) fn new(shared: Arc<Shared>, rows: usize, numbers: &AtomicU32) -> (Self, FarEnd) {
        let (near, far) = rtrb::RingBuffer::new(rows.max(RING_ROWS_MIN));
        let first = block(numbers);
        let table = Arc::new(Mutex::new(Table { older: None, newest: Segment { first, facts: Vec::new() } }));
        let far = FarEnd { rows: far, table: Arc::clone(&table), older: None, newest: Tally::new(first) };
        (Self { shared, rows: near, table, known: HashMap::new(), first, since_look: 0 }, far)
    }

    /// The index of some facts, for as long as this ring keeps it: [`RingError::UnknownEdge`] says when to ask again.
    ///
    /// `None` where there is no room for more edges until the ring is emptied the next time, or where their texts are
    /// too long for a batch. Such a call must be recorded another way.
    pub fn edge_index(&mut self, facts: &EdgeFacts) -> Option<EdgeIndex> {
        if let Some(number) = self.known.get(facts) {
            return Some(EdgeIndex(*number));
        }
        let mut table = lock(&self.table);
        if table.newest.facts.len() >= RING_EDGES_MAX {
            if table.older.is_some() {
                return None;
            }
            self.first = block(&self.shared.edge_numbers);
            let newest = Segment { first: self.first, facts: Vec::new() };
            table.older = Some(std::mem::replace(&mut table.newest, newest));
            self.known.clear();
        }
        if !facts.edge.fits() {
            return None;
        }
        let number = self.first.checked_add(u32::try_from(table.newest.facts.len()).ok()?)?;
        let facts = Arc::new(facts.clone());
        table.newest.facts.push(Arc::clone(&facts));
        self.known.insert(facts, number);
        Some(EdgeIndex(number))
    }

    /// Hands a call over. Never waits.
    ///
    /// # Errors
    /// [`RingError`]; the call is not recorded.
    pub fn push(&mut self, row: CallRow) -> Result<(), RingError> {
        let known = row.edge.0.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        if known.is_none_or(|place| place >= self.known.len()) {
            return Err(RingError::UnknownEdge);
        }
        self.since_look += 1;
        if self.since_look > self.rows.buffer().capacity() / 4 {
            self.look();
        }
        self.rows.push(row).map_err(|_| {
            self.since_look = usize::MAX / 2;
            RingError::Full
        })
    }

    /// Wakes the spool's thread if the ring is half full.
    #[cold]
    fn look(&mut self) {
        self.since_look = 0;
        if self.rows.slots() <= self.rows.buffer().capacity() / 2 {
            writer::wake(&self.shared);
        }
    }
}

/// Room for the numbers of one segment, which no other one of the process has.
fn block(numbers: &AtomicU32) -> u32 {
    numbers.fetch_add(RING_EDGES_BLOCK, Ordering::Relaxed)
}

/// Facts by their number: those that are given out, and those before them that rows in the ring may still have.
#[derive(Debug)]
struct Table {
    older: Option<Segment>,
    newest: Segment,
}

#[derive(Debug)]
struct Segment {
    first: u32,
    facts: Vec<Arc<EdgeFacts>>,
}

/// The end of a ring that the spool's thread empties.
#[derive(Debug)]
pub(super) struct FarEnd {
    rows: rtrb::Consumer<CallRow>,
    table: Arc<Mutex<Table>>,
    older: Option<Tally>,
    newest: Tally,
}

/// What is known here of a segment, and the calls of its edges since they were told to the counters.
#[derive(Debug)]
struct Tally {
    first: u32,
    edges: Vec<(Arc<EdgeFacts>, Counts)>,
}

impl FarEnd {
    /// Takes every call that lies in the ring and counts it for its edge. Says whether more may follow.
    pub(super) fn drain(&mut self, counters: &Edges, mut take: impl FnMut(&NewCall<'_>)) -> bool {
        // Asked before the ring is emptied: what is pushed after that is none's.
        let abandoned = self.rows.is_abandoned();
        let waiting = self.catch_up();
        if let Ok(rows) = self.rows.read_chunk(waiting) {
            for row in rows {
                let tallies = [Some(&mut self.newest), self.older.as_mut()];
                let Some((facts, counts)) = tallies.into_iter().flatten().find_map(|t| t.find(row.edge))
                else {
                    tracing::error!("a call of an edge that nobody told of is not recorded");
                    continue;
                };
                counts.add(true, row.latency_us.into());
                take(&new_call(&row, facts));
            }
        }
        self.newest.tell(counters);
        // The near end gives out no number of the older ones, and the rows that have one were all taken.
        if let Some(mut older) = self.older.take() {
            older.tell(counters);
            lock(&self.table).older = None;
        }
        !abandoned
    }

    /// Learns of new edges, then says how many rows there are. In this order and under the lock: the edge of each of
    /// them is known, and while there are older edges, every row that has one is among them.
    fn catch_up(&mut self) -> usize {
        let table = lock(&self.table);
        let waiting = self.rows.slots();
        if table.newest.first != self.newest.first {
            self.older = Some(std::mem::replace(&mut self.newest, Tally::new(table.newest.first)));
        }
        if let (Some(tally), Some(segment)) = (&mut self.older, &table.older) {
            tally.catch_up(segment);
        }
        self.newest.catch_up(&table.newest);
        waiting
    }
}

impl Tally {
    const fn new(first: u32) -> Self {
        Self { first, edges: Vec::new() }
    }

    fn catch_up(&mut self, segment: &Segment) {
        let new = segment.facts.iter().skip(self.edges.len());
        self.edges.extend(new.map(|facts| (Arc::clone(facts), Counts::default())));
    }

    fn find(&mut self, edge: EdgeIndex) -> Option<(&EdgeFacts, &mut Counts)> {
        let place = usize::try_from(edge.0.checked_sub(self.first)?).ok()?;
        self.edges.get_mut(place).map(|(facts, counts)| (&**facts, counts))
    }

    fn tell(&mut self, counters: &Edges) {
        for (facts, counts) in self.edges.iter_mut().filter(|(_, counts)| !counts.is_empty()) {
            counters.add(&facts.call(), &std::mem::take(counts));
        }
    }
}

impl EdgeFacts {
    fn call(&self) -> EdgeCall<'_> {
        let CallEdge { source, target, mode, policy, .. } = &self.edge;
        EdgeCall {
            source: source.as_deref().unwrap_or(if self.has_user { "user" } else { "stranger" }),
            target,
            mode,
            user: self.user_proof,
            policy: policy.as_deref().unwrap_or(""),
            allowed: true,
            latency: std::time::Duration::ZERO,
        }
    }
}

fn new_call<'a>(row: &CallRow, facts: &'a EdgeFacts) -> NewCall<'a> {
    NewCall {
        id: row.id,
        edge: row.edge.0,
        facts: &facts.edge,
        at: row.at,
        latency_us: row.latency_us,
        status: row.status.as_u16(),
        trace: row.trace.number(),
        user: row.user,
        connection: row.connection,
    }
}

/// Distinct edges that a ring gives numbers to between two times that it is emptied; then as many again.
pub const RING_EDGES_MAX: usize = 1024;
/// The same, as numbers are.
const RING_EDGES_BLOCK: u32 = 1024;
const RING_ROWS_MIN: usize = 64;

// A row is copied twice on its way: one and a half cache lines are enough for it.
const _: () = assert!(size_of::<CallRow>() <= 96);
