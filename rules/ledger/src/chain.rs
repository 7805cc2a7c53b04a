//! The chain of one writer: hashes over exact event bytes, in the order in which they were written.
//!
//! `start = SHA-256("countersign/v1/ledger-writer" 0x00 writer 0x00 boot)`,
//! `next = SHA-256(0x01 ‖ previous ‖ leaf)`, `leaf = SHA-256(0x00 ‖ bytes)`.

use std::{fmt, str::FromStr};

use countersign_identity::{SpiffeId, UnixTime};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    digest::Digest,
    event::{Entry, Event, SCHEMA_VERSION},
};

/// Writes the events of one start of one process.
#[derive(Clone, Debug)]
pub struct Writer {
    writer: SpiffeId,
    boot: BootId,
    sequence: u64,
    hash: Digest,
}

impl Writer {
    /// A chain without records. `boot` must be random: it is what tells two starts apart.
    pub fn start(writer: SpiffeId, boot: BootId) -> Self {
        let hash = start_hash(&writer, boot);
        Self { writer, boot, sequence: 0, hash }
    }

    /// Continues after `last`, which this process has written or read back from its own spool.
    pub fn resume(last: &Record) -> Self {
        Self { writer: last.writer.clone(), boot: last.boot, sequence: last.sequence, hash: last.chain }
    }

    /// Turns an event into the next record. On an error nothing has moved. A decision always fits: where it is
    /// too long its texts are cut.
    pub fn append(&mut self, event: &Event, now: UnixTime) -> Result<Record, AppendError> {
        let sequence = self.sequence + 1;
        let bytes = match encode(&self.writer, self.boot, sequence, now, event) {
            // A refusal is never lost because somebody made its texts long.
            Err(AppendError::TooLarge { .. }) if let Event::Decision(decision) = event => {
                let short = Event::Decision(Box::new(decision.shortened()));
                encode(&self.writer, self.boot, sequence, now, &short)?
            }
            encoded => encoded?,
        };
        self.hash = link(&self.hash, &leaf(&bytes));
        self.sequence = sequence;
        Ok(Record { writer: self.writer.clone(), boot: self.boot, sequence, bytes, chain: self.hash })
    }

    /// Who writes.
    pub fn id(&self) -> &SpiffeId {
        &self.writer
    }

    /// Which start of it.
    pub fn boot(&self) -> BootId {
        self.boot
    }

    /// Sequence of the last record, 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Chain hash after the last record.
    pub fn hash(&self) -> Digest {
        self.hash
    }
}

fn encode(
    writer: &SpiffeId,
    boot: BootId,
    sequence: u64,
    at: UnixTime,
    event: &Event,
) -> Result<Vec<u8>, AppendError> {
    #[derive(Serialize)]
    struct Borrowed<'a> {
        v: u16,
        writer: &'a SpiffeId,
        boot: BootId,
        sequence: u64,
        at: UnixTime,
        event: &'a Event,
    }
    let bytes = serde_json::to_vec(&Borrowed { v: SCHEMA_VERSION, writer, boot, sequence, at, event })
        .map_err(|error| AppendError::Unwritable { why: error.to_string() })?;
    let bytes_max = match event {
        Event::AllowedCalls(_) => CALLS_BYTES_MAX,
        _ => EVENT_BYTES_MAX,
    };
    if bytes.len() > bytes_max {
        return Err(AppendError::TooLarge { bytes: bytes.len() });
    }
    Ok(bytes)
}

/// One link of a writer's chain, as it is spooled, shipped and stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who wrote it.
    pub writer: SpiffeId,
    /// Which start of the writer.
    pub boot: BootId,
    /// From 1 within `boot`.
    pub sequence: u64,
    /// Exact JSON bytes of an [`Entry`], at most [`EVENT_BYTES_MAX`], of a batch of calls [`CALLS_BYTES_MAX`].
    pub bytes: Vec<u8>,
    /// The writer's chain hash after this record.
    pub chain: Digest,
}

impl Record {
    /// What it says. An event kind of a newer release is an error here, though its hashes still verify.
    pub fn entry(&self) -> Result<Entry, RecordError> {
        self.header()?;
        serde_json::from_slice(&self.bytes)
            .map_err(|error| RecordError::UnknownEvent { why: error.to_string() })
    }

    /// When it was written, by the writer's clock. Checks that the bytes say the same as the columns.
    pub fn at(&self) -> Result<UnixTime, RecordError> {
        self.header().map(|header| header.at)
    }

    fn header(&self) -> Result<Header, RecordError> {
        let bytes = self.bytes.len();
        if bytes > CALLS_BYTES_MAX || bytes > EVENT_BYTES_MAX && !is_batch(&self.bytes) {
            return Err(RecordError::TooLarge { bytes });
        }
        let header: Header = serde_json::from_slice(&self.bytes)
            .map_err(|error| RecordError::Unreadable { why: error.to_string() })?;
        if header.v == 0 {
            return Err(RecordError::UnknownSchema { v: header.v });
        }
        if header.writer != self.writer || header.boot != self.boot || header.sequence != self.sequence {
            return Err(RecordError::Mislabelled);
        }
        Ok(header)
    }
}

/// The part of an [`Entry`] that no release changes.
#[derive(Deserialize)]
struct Header {
    v: u16,
    writer: SpiffeId,
    boot: BootId,
    sequence: u64,
    at: UnixTime,
}

/// Is it a batch of calls, which may be longer than other events?
fn is_batch(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Tagged<'a> {
        #[serde(borrow)]
        event: Kind<'a>,
    }
    #[derive(Deserialize)]
    struct Kind<'a> {
        kind: &'a str,
    }
    serde_json::from_slice::<Tagged<'_>>(bytes).is_ok_and(|tagged| tagged.event.kind == CALLS)
}

/// Walks the chain of one start of one writer again.
#[derive(Clone, Debug)]
pub struct WriterVerifier {
    writer: SpiffeId,
    boot: BootId,
    sequence: u64,
    hash: Digest,
}

impl WriterVerifier {
    /// Before the first record.
    pub fn start(writer: SpiffeId, boot: BootId) -> Self {
        let hash = start_hash(&writer, boot);
        Self { writer, boot, sequence: 0, hash }
    }

    /// After a record that was verified before.
    pub fn resume(writer: SpiffeId, boot: BootId, sequence: u64, hash: Digest) -> Self {
        Self { writer, boot, sequence, hash }
    }

    /// Takes the next record, or says what is wrong with it and stays where it was.
    pub fn accept(&mut self, record: &Record) -> Result<(), RecordError> {
        self.check_place(record)?;
        let expected = self.sequence + 1;
        if record.sequence != expected {
            return Err(RecordError::OutOfSequence { expected, got: record.sequence });
        }
        let hash = link(&self.hash, &leaf(&record.bytes));
        if hash != record.chain {
            return Err(RecordError::BrokenChain);
        }
        self.sequence = record.sequence;
        self.hash = hash;
        Ok(())
    }

    /// Goes on after records that are known to be missing: `record` must come after `missing_to`, and its
    /// own link cannot be checked because its predecessor is not there. A gap is always an event of its own.
    pub fn accept_after_gap(&mut self, record: &Record, missing_to: u64) -> Result<(), RecordError> {
        self.check_place(record)?;
        let expected = missing_to.saturating_add(1);
        if missing_to <= self.sequence || record.sequence != expected {
            return Err(RecordError::OutOfSequence { expected, got: record.sequence });
        }
        self.sequence = record.sequence;
        self.hash = record.chain;
        Ok(())
    }

    /// Sequence of the last accepted record, 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Chain hash after the last accepted record.
    pub fn hash(&self) -> Digest {
        self.hash
    }

    fn check_place(&self, record: &Record) -> Result<(), RecordError> {
        if record.writer != self.writer || record.boot != self.boot {
            return Err(RecordError::ForeignChain);
        }
        record.header().map(|_| ())
    }
}

/// SHA-256(0x00 ‖ bytes), as the leaf hash of RFC 6962.
pub fn leaf(bytes: &[u8]) -> Digest {
    Digest::over(&[&[0], bytes])
}

/// SHA-256(0x01 ‖ previous ‖ leaf).
pub(crate) fn link(previous: &Digest, leaf: &Digest) -> Digest {
    Digest::over(&[&[1], previous.as_bytes(), leaf.as_bytes()])
}

fn start_hash(writer: &SpiffeId, boot: BootId) -> Digest {
    let place = [writer.as_str().as_bytes(), &[0], &boot.0].concat();
    Digest::over(&[&countersign_keys::domain("ledger-writer", &place)])
}

/// Random name of one start of a writer; 32 lower-case hex digits as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId([u8; BOOT_ID_BYTES]);

impl BootId {
    /// From random bytes.
    pub const fn from_random(bytes: [u8; BOOT_ID_BYTES]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BootId {
    type Err = RecordError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let canonical = text.len() == 2 * BOOT_ID_BYTES
            && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if !canonical {
            return Err(RecordError::BadBootId);
        }
        u128::from_str_radix(text, 16)
            .map(|number| Self(number.to_be_bytes()))
            .map_err(|_| RecordError::BadBootId)
    }
}

impl Serialize for BootId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BootId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Why an event could not be appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Longer than [`EVENT_BYTES_MAX`], or [`CALLS_BYTES_MAX`] for a batch of calls.
    #[error(
        "the event is {bytes} bytes long, more than {EVENT_BYTES_MAX} ({CALLS_BYTES_MAX} for a batch of calls); shorten its texts"
    )]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// It cannot be written as JSON.
    #[error("the event cannot be written as JSON: {why}")]
    Unwritable {
        /// What the writer said.
        why: String,
    },
}

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Longer than [`EVENT_BYTES_MAX`], or [`CALLS_BYTES_MAX`] for a batch of calls.
    #[error(
        "the record is {bytes} bytes long, more than {EVENT_BYTES_MAX} ({CALLS_BYTES_MAX} for a batch of calls)"
    )]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Not an entry at all.
    #[error("the record is not a ledger entry: {why}")]
    Unreadable {
        /// What the parser said.
        why: String,
    },
    /// No release ever wrote this schema.
    #[error("no release writes schema version {v}")]
    UnknownSchema {
        /// What it says.
        v: u16,
    },
    /// An event kind that this release does not know.
    #[error("the event is unknown to this release, try a newer one: {why}")]
    UnknownEvent {
        /// What the parser said.
        why: String,
    },
    /// The bytes name another writer, start or sequence than the record that carries them.
    #[error("the record is filed under another writer, boot or sequence than its bytes say")]
    Mislabelled,
    /// A record of another writer or another start of it.
    #[error("the record belongs to the chain of another writer or boot")]
    ForeignChain,
    /// Something is missing, doubled or out of order.
    #[error("the record has sequence {got} where {expected} must follow")]
    OutOfSequence {
        /// Which must follow.
        expected: u64,
        /// Which came.
        got: u64,
    },
    /// The bytes, or something before them, were changed.
    #[error("the record's hash does not follow from its bytes and the record before it")]
    BrokenChain,
    /// Not a boot id.
    #[error("a boot id must be 32 lower-case hex digits")]
    BadBootId,
}

/// Longest event.
pub const EVENT_BYTES_MAX: usize = 16 * 1024;
/// Longest [`Event::AllowedCalls`]: what its calls share is told once for about a thousand of them.
pub const CALLS_BYTES_MAX: usize = 64 * 1024;
/// The kind of these.
const CALLS: &str = "allowed_calls";
const BOOT_ID_BYTES: usize = 16;
