//! Allowed calls, many to a record: what they share is told once, and each adds a row of 42 bytes.
//!
//! A refusal is an event of its own, with its reasons. Allowed calls come by the thousand and differ in little, so a
//! writer gathers those of up to a second in a [`CallBatch`]: a table of the distinct edges (who called what, how it
//! was proven, which policy permitted it), tables of users and connections, and the rows. Nothing is left out:
//! [`Call::decision`] gives back the [`Decision`] that would have been recorded alone.
//!
//! A row, numbers in network order (layout 1):
//!
//! | bytes | what |
//! |---|---|
//! | 10 | decision id |
//! | 2 | edge, as an index into `edges` |
//! | 16 | trace id; all zero for none |
//! | 2 | user, as 1 + an index into `users`; 0 for none |
//! | 2 | connection, as 1 + an index into `connections`; 0 for none |
//! | 4 | milliseconds after `start`, signed: the threads of a process do not wait for each other |
//! | 4 | latency, microseconds |
//! | 2 | HTTP status |
//!
//! The rows are one text in base64 (RFC 4648 section 4). Because a row is a multiple of three bytes and begins with its
//! id, the id's first nine bytes are always the same twelve characters, [`CallBatch::search_text`]: a database finds
//! the batch of a call without an index over calls.

mod batcher;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_identity::{DecisionId, UnixTime};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use batcher::{BatchFull, CallBatcher, NewCall};

use crate::event::{CheckRecord, Decision, Stage, Verdict};

/// What calls over the same edge have in common; the fields mean what they mean in a [`Decision`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CallEdge {
    /// Full SPIFFE ID of the calling workload, if it proved one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Name or SPIFFE ID of who was called.
    pub target: String,
    /// HTTP method.
    pub method: String,
    /// Route template, never a path with values or a query.
    pub route: String,
    /// What was verified of the caller.
    pub mode: String,
    /// The last stage that was passed.
    pub stage: Stage,
    /// The checks that were passed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckRecord>,
    /// Id of the policy that permitted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

impl CallEdge {
    /// Is it short enough for a batch? A call over a longer one is recorded alone, where texts are cut.
    #[must_use]
    pub fn fits(&self) -> bool {
        json_bytes(self) <= EDGE_BYTES_MAX
    }
}

/// One connection of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CallConnection {
    /// As in [`Decision::connection`].
    pub id: String,
    /// Address of the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
}

/// Some allowed calls of one writer: at least one, at most [`ROWS_MAX`]. What is parsed holds what its rows refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallBatch {
    start: UnixTime,
    edges: Vec<CallEdge>,
    users: Vec<String>,
    connections: Vec<CallConnection>,
    /// In base64: what is hashed is what is kept.
    rows: String,
}

impl CallBatch {
    /// The calls in the order in which they ended, about.
    pub fn calls(&self) -> impl Iterator<Item = Call<'_>> {
        let bytes = STANDARD.decode(&self.rows).unwrap_or_default();
        let (rows, _) = bytes.as_chunks::<ROW_BYTES>();
        let calls: Vec<_> = rows.iter().filter_map(|row| self.call(row)).collect();
        calls.into_iter()
    }

    /// The call with this decision id.
    #[must_use]
    pub fn find(&self, id: DecisionId) -> Option<Call<'_>> {
        self.calls().find(|call| call.id == id)
    }

    /// What calls have in common, each combination once.
    #[must_use]
    pub fn edges(&self) -> &[CallEdge] {
        &self.edges
    }

    /// How many calls.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.rows.len() / ROW_CHARS
    }

    /// Never: a batch has a call.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What stands in the JSON of every batch that holds a call with this id, and hardly in another one.
    #[must_use]
    pub fn search_text(id: DecisionId) -> String {
        let [first @ .., _] = id.as_bytes();
        STANDARD.encode(first)
    }

    fn call(&self, row: &[u8; ROW_BYTES]) -> Option<Call<'_>> {
        let Row { id, edge, trace, user, connection, after_ms, latency_us, status } = Row::read(row);
        Some(Call {
            id,
            edge: self.edges.get(usize::from(edge))?,
            at: moved(self.start, after_ms)?,
            latency_us,
            status,
            trace: Some(trace).filter(|trace| *trace != 0),
            user: named(&self.users, user)?.map(String::as_str),
            connection: named(&self.connections, connection)?,
        })
    }
}

/// 0 is nothing, anything else must be there.
fn named<T>(table: &[T], number: u16) -> Option<Option<&T>> {
    match number.checked_sub(1) {
        None => Some(None),
        Some(index) => table.get(usize::from(index)).map(Some),
    }
}

fn moved(start: UnixTime, by_ms: i32) -> Option<UnixTime> {
    start.millis().checked_add(i64::from(by_ms)).map(UnixTime::from_millis)
}

/// One call of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call<'a> {
    /// Under which `explain` finds it.
    pub id: DecisionId,
    /// What it shares with others.
    pub edge: &'a CallEdge,
    /// When it was recorded: when the answer's head was there.
    pub at: UnixTime,
    /// From the request's head to the answer's head, microseconds.
    pub latency_us: u32,
    /// HTTP status of the answer.
    pub status: u16,
    /// W3C trace id.
    pub trace: Option<u128>,
    /// Pseudonym of the user, if one was proven.
    pub user: Option<&'a str>,
    /// On which it came.
    pub connection: Option<&'a CallConnection>,
}

impl Call<'_> {
    /// The decision as it would have been recorded alone.
    #[must_use]
    pub fn decision(&self) -> Decision {
        let CallEdge { source, target, method, route, mode, stage, checks, policy } = self.edge.clone();
        Decision {
            id: self.id,
            verdict: Verdict::Allow,
            stage,
            source,
            target,
            method,
            route,
            user: self.user.map(str::to_owned),
            mode,
            checks,
            policy,
            code: None,
            reason: None,
            fix: None,
            status: self.status,
            latency_us: u64::from(self.latency_us),
            connection: self.connection.map(|connection| connection.id.clone()),
            peer: self.connection.and_then(|connection| connection.peer.clone()),
            trace: self.trace.map(|trace| format!("{trace:032x}")),
        }
    }
}

/// A row as it is packed.
#[derive(Clone, Copy)]
struct Row {
    id: DecisionId,
    edge: u16,
    trace: u128,
    user: u16,
    connection: u16,
    after_ms: i32,
    latency_us: u32,
    status: u16,
}

impl Row {
    fn write(&self) -> [u8; ROW_BYTES] {
        let mut row = [0; ROW_BYTES];
        let parts: [&[u8]; 8] = [
            self.id.as_bytes(),
            &self.edge.to_be_bytes(),
            &self.trace.to_be_bytes(),
            &self.user.to_be_bytes(),
            &self.connection.to_be_bytes(),
            &self.after_ms.to_be_bytes(),
            &self.latency_us.to_be_bytes(),
            &self.status.to_be_bytes(),
        ];
        let mut rest = row.as_mut_slice();
        for part in parts {
            let Some((place, after)) = rest.split_at_mut_checked(part.len()) else { break };
            place.copy_from_slice(part);
            rest = after;
        }
        row
    }

    fn read(row: &[u8; ROW_BYTES]) -> Self {
        let mut rest = row.as_slice();
        Self {
            id: DecisionId::from_random(next(&mut rest)),
            edge: u16::from_be_bytes(next(&mut rest)),
            trace: u128::from_be_bytes(next(&mut rest)),
            user: u16::from_be_bytes(next(&mut rest)),
            connection: u16::from_be_bytes(next(&mut rest)),
            after_ms: i32::from_be_bytes(next(&mut rest)),
            latency_us: u32::from_be_bytes(next(&mut rest)),
            status: u16::from_be_bytes(next(&mut rest)),
        }
    }
}

/// The next `N` bytes. The fields of a row are as long as the row.
fn next<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let Some((part, after)) = rest.split_first_chunk() else { return [0; N] };
    *rest = after;
    *part
}

/// The JSON form.
#[derive(Deserialize)]
struct Packed {
    layout: u16,
    start: UnixTime,
    edges: Vec<CallEdge>,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    connections: Vec<CallConnection>,
    rows: String,
}

impl Serialize for CallBatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Borrowed<'a> {
            layout: u16,
            start: UnixTime,
            edges: &'a [CallEdge],
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            users: &'a [String],
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            connections: &'a [CallConnection],
            rows: &'a str,
        }
        let Self { start, edges, users, connections, rows } = self;
        Borrowed { layout: LAYOUT, start: *start, edges, users, connections, rows }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for CallBatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let packed = Packed::deserialize(deserializer)?;
        Self::try_from(packed).map_err(serde::de::Error::custom)
    }
}

impl TryFrom<Packed> for CallBatch {
    type Error = CallBatchError;

    fn try_from(packed: Packed) -> Result<Self, CallBatchError> {
        let Packed { layout, start, edges, users, connections, rows } = packed;
        if layout != LAYOUT {
            return Err(CallBatchError::UnknownLayout { layout });
        }
        let count = rows.len() / ROW_CHARS;
        if rows.len() % ROW_CHARS != 0 || !(1..=ROWS_MAX).contains(&count) {
            return Err(CallBatchError::WrongLength { chars: rows.len() });
        }
        let batch = Self { start, edges, users, connections, rows };
        let bytes = STANDARD.decode(&batch.rows).map_err(|_| CallBatchError::NotBase64)?;
        let (parsed, _) = bytes.as_chunks::<ROW_BYTES>();
        match parsed.iter().position(|row| batch.call(row).is_none()) {
            Some(row) => Err(CallBatchError::BadRow { row }),
            None => Ok(batch),
        }
    }
}

/// Why something is not a batch of allowed calls.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallBatchError {
    /// Of a newer release.
    #[error("the rows have layout {layout}, this release reads {LAYOUT}: try a newer one")]
    UnknownLayout {
        /// What it says.
        layout: u16,
    },
    /// Cut, empty, or more than [`ROWS_MAX`] rows.
    #[error("the rows are {chars} characters long: a batch has 1 to {ROWS_MAX} rows of {ROW_CHARS}")]
    WrongLength {
        /// Of the text.
        chars: usize,
    },
    /// The rows are not base64.
    #[error("the rows are not base64 text of RFC 4648 section 4")]
    NotBase64,
    /// A row names an edge, a user, a connection or a time that there is not.
    #[error("row {row} refers to what its batch does not hold")]
    BadRow {
        /// Its index, from 0.
        row: usize,
    },
}

fn json_bytes<T: Serialize>(value: &T) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |json| json.len())
}

/// Most rows of a batch: then an eighth of [`crate::chain::CALLS_BYTES_MAX`] is left for what they share.
pub const ROWS_MAX: usize = 1024;
/// Longest JSON of an edge.
pub const EDGE_BYTES_MAX: usize = 4096;
/// How rows are packed in what this release writes.
const LAYOUT: u16 = 1;
const ROW_BYTES: usize = 42;
const ROW_CHARS: usize = ROW_BYTES / 3 * 4;
