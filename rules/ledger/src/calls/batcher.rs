//! Gathers calls until a batch is full.

use std::{collections::HashMap, hash::Hash, net::SocketAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_identity::{DecisionId, SpiffeId, UnixTime};

use super::{CallBatch, CallConnection, CallEdge, ROW_CHARS, ROWS_MAX, Row, json_bytes};
use crate::{chain::CALLS_BYTES_MAX, connection::ConnectionId, pseudonym::Pseudonym};

/// Takes calls of one writer until they fill a record.
#[derive(Debug)]
pub struct CallBatcher {
    bytes_max: usize,
    /// Upper bound of the JSON so far.
    bytes: usize,
    batch: CallBatch,
    edges: Places<u32>,
    users: Places<Pseudonym>,
    connections: Places<(ConnectionId, Option<SocketAddr>)>,
}

/// A call that is to be recorded.
#[derive(Clone, Copy, Debug)]
pub struct NewCall<'a> {
    /// Its decision id.
    pub id: DecisionId,
    /// A number that stands for `facts`, and in this batch for nothing else.
    pub edge: u32,
    /// What it shares with others. An edge that does not [fit](CallEdge::fits) may fit no batch at all.
    pub facts: &'a CallEdge,
    /// When the answer's head was there.
    pub at: UnixTime,
    /// From the request's head to the answer's head, microseconds.
    pub latency_us: u32,
    /// HTTP status of the answer.
    pub status: u16,
    /// W3C trace id; 0 for none.
    pub trace: u128,
    /// The user, if one was proven.
    pub user: Option<Pseudonym>,
    /// On which it came, and from where.
    pub connection: Option<(ConnectionId, Option<SocketAddr>)>,
}

/// There is no room: take the batch, then the call fits into the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchFull;

impl CallBatcher {
    /// For records of `writer`.
    #[must_use]
    pub fn new(writer: &SpiffeId) -> Self {
        let bytes_max = CALLS_BYTES_MAX.saturating_sub(FRAME_BYTES + writer.as_str().len());
        Self {
            bytes_max,
            bytes: 0,
            batch: CallBatch::empty(bytes_max),
            edges: Places::default(),
            users: Places::default(),
            connections: Places::default(),
        }
    }

    /// Adds a call.
    ///
    /// # Errors
    /// [`BatchFull`]; nothing was added.
    pub fn push(&mut self, call: &NewCall<'_>) -> Result<(), BatchFull> {
        if self.batch.rows.is_empty() {
            self.batch.start = call.at;
        }
        let after_ms = call.at.millis().saturating_sub(self.batch.start.millis());
        let after_ms = i32::try_from(after_ms).map_err(|_| BatchFull)?;
        let (tables, batch) = ((&self.edges, &self.users, &self.connections), &self.batch);
        let edge = tables.0.find(call.edge, batch.edges.len(), || call.facts.clone());
        let user = call.user.map(|user| tables.1.find(user, batch.users.len(), || user.to_string()));
        let came = call.connection.map(|(id, peer)| {
            let text = || CallConnection { id: id.to_string(), peer: peer.map(|peer| peer.to_string()) };
            tables.2.find((id, peer), batch.connections.len(), text)
        });
        let tables = [
            edge.json_bytes(),
            user.as_ref().map_or(0, Place::json_bytes),
            came.as_ref().map_or(0, Place::json_bytes),
        ];
        let bytes = tables.into_iter().fold(self.bytes + ROW_CHARS, usize::saturating_add);
        if bytes > self.bytes_max || batch.len() >= ROWS_MAX {
            return Err(BatchFull);
        }
        self.bytes = bytes;
        let row = Row {
            id: call.id,
            edge: edge.settle(&mut self.edges, &mut self.batch.edges),
            trace: call.trace,
            user: user.map_or(0, |user| 1 + user.settle(&mut self.users, &mut self.batch.users)),
            connection: came
                .map_or(0, |came| 1 + came.settle(&mut self.connections, &mut self.batch.connections)),
            after_ms,
            latency_us: call.latency_us,
            status: call.status,
        };
        STANDARD.encode_string(row.write(), &mut self.batch.rows);
        Ok(())
    }

    /// What was gathered since the last time, if anything.
    pub fn take(&mut self) -> Option<CallBatch> {
        if self.batch.rows.is_empty() {
            return None;
        }
        self.bytes = 0;
        self.edges.clear();
        self.users.clear();
        self.connections.clear();
        Some(std::mem::replace(&mut self.batch, CallBatch::empty(self.bytes_max)))
    }
}

impl CallBatch {
    fn empty(bytes_max: usize) -> Self {
        Self {
            start: UnixTime::from_secs(0),
            edges: Vec::new(),
            users: Vec::new(),
            connections: Vec::new(),
            rows: String::with_capacity(bytes_max),
        }
    }
}

/// Which place of a table a thing has. Calls of one connection come one after the other, so the last one is tried
/// before the map.
#[derive(Debug)]
struct Places<K> {
    last: Option<(K, u16)>,
    all: HashMap<K, u16>,
}

impl<K> Default for Places<K> {
    fn default() -> Self {
        Self { last: None, all: HashMap::new() }
    }
}

/// The place of a thing: one that it has, or the next one.
enum Place<K, T> {
    Known(K, u16),
    New(K, u16, T, usize),
}

impl<K: Copy + Eq + Hash> Places<K> {
    fn find<T: serde::Serialize>(&self, key: K, next: usize, make: impl FnOnce() -> T) -> Place<K, T> {
        if let Some((_, place)) = self.last.filter(|(last, _)| *last == key) {
            return Place::Known(key, place);
        }
        if let Some(place) = self.all.get(&key) {
            return Place::Known(key, *place);
        }
        let value = make();
        let bytes = json_bytes(&value).saturating_add(COMMA_BYTES);
        // A table is never longer than the rows, and of those there are few.
        Place::New(key, u16::try_from(next).unwrap_or(u16::MAX), value, bytes)
    }

    fn clear(&mut self) {
        self.last = None;
        self.all.clear();
    }
}

impl<K: Copy + Eq + Hash, T> Place<K, T> {
    /// By how much it makes the JSON longer.
    const fn json_bytes(&self) -> usize {
        match self {
            Self::Known(..) => 0,
            Self::New(_, _, _, bytes) => *bytes,
        }
    }

    fn settle(self, places: &mut Places<K>, table: &mut Vec<T>) -> u16 {
        let (key, place) = match self {
            Self::Known(key, place) => (key, place),
            Self::New(key, place, value, _) => {
                table.push(value);
                places.all.insert(key, place);
                (key, place)
            }
        };
        places.last = Some((key, place));
        place
    }
}

/// What the JSON of a record has around the writer's name, the tables' contents and the rows, at most.
const FRAME_BYTES: usize = 320;
const COMMA_BYTES: usize = 1;
