//! The one log of a deployment: the records of all writers in the order in which the authority took them.
//!
//! `start = SHA-256("countersign/v1/ledger-log" 0x00 trust-domain)`, `next = SHA-256(0x01 ‖ previous ‖ leaf)`.
//! The bytes of a record name its writer, boot and sequence, so this hash covers them too.

use std::collections::HashMap;

use countersign_identity::{IdKind, SpiffeId, TrustDomain, Verified};

use crate::{
    chain::{BootId, Record, RecordError, WriterVerifier, leaf, link},
    digest::Digest,
    event::Event,
    head::{Head, HeadMismatch},
};

/// Where the log stands: its length and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogState {
    size: u64,
    hash: Digest,
}

impl LogState {
    /// The empty log of a trust domain.
    pub fn empty(trust_domain: &TrustDomain) -> Self {
        Self {
            size: 0,
            hash: Digest::over(&[&countersign_keys::domain("ledger-log", trust_domain.as_str().as_bytes())]),
        }
    }

    /// A log that is already so long.
    pub const fn at(size: u64, hash: Digest) -> Self {
        Self { size, hash }
    }

    /// Appends a record; its index in the log is the new [`LogState::size`].
    pub fn append(&mut self, record: &Record) {
        self.hash = link(&self.hash, &leaf(&record.bytes));
        self.size += 1;
    }

    /// How many entries.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Hash after the last entry.
    pub const fn hash(&self) -> Digest {
        self.hash
    }
}

/// Walks a whole log again, from its first entry to its last, and names the first bad one.
///
/// Memory grows with the number of starts of writers that the log has seen, not with its entries.
#[derive(Debug)]
pub struct LogVerifier {
    trust_domain: TrustDomain,
    log: LogState,
    chains: HashMap<(SpiffeId, BootId), WriterVerifier>,
    announced: HashMap<(SpiffeId, BootId), (u64, u64)>,
    gaps: u64,
    missing: u64,
    heads: Vec<Expected>,
}

#[derive(Debug)]
struct Expected {
    head: Head,
    outside: bool,
    seen: Option<Digest>,
}

impl LogVerifier {
    /// Before the first entry of the log of `trust_domain`.
    pub fn new(trust_domain: &TrustDomain) -> Self {
        Self {
            trust_domain: trust_domain.clone(),
            log: LogState::empty(trust_domain),
            chains: HashMap::new(),
            announced: HashMap::new(),
            gaps: 0,
            missing: 0,
            heads: Vec::new(),
        }
    }

    /// The log must contain what this head, stored beside the log, says. It proves nothing to outsiders:
    /// who can put back yesterday's log can put back yesterday's head.
    #[must_use]
    pub fn expecting_own(self, head: &Verified<Head>) -> Self {
        self.expecting(head, false)
    }

    /// The log must contain what this head, kept somewhere else, says.
    #[must_use]
    pub fn expecting_outside(self, head: &Verified<Head>) -> Self {
        self.expecting(head, true)
    }

    fn expecting(mut self, head: &Verified<Head>, outside: bool) -> Self {
        let seen = (head.size == 0).then(|| self.log.hash());
        self.heads.push(Expected { head: head.get().clone(), outside, seen });
        self
    }

    /// Takes the entry with this index (from 1) and the log hash that is stored with it.
    pub fn accept(&mut self, index: u64, record: &Record, stored: Digest) -> Result<(), LogError> {
        if index != self.log.size() + 1 {
            return Err(LogError::MissingEntry { expected: self.log.size() + 1, got: index });
        }
        self.accept_link(record).map_err(|problem| LogError::BadEntry {
            index,
            writer: record.writer.clone(),
            boot: record.boot,
            sequence: record.sequence,
            problem,
        })?;
        self.log.append(record);
        if self.log.hash() != stored {
            return Err(LogError::BrokenLog { index });
        }
        for expected in self.heads.iter_mut().filter(|expected| expected.head.size == index) {
            expected.seen = Some(stored);
        }
        self.note_gap(record);
        Ok(())
    }

    /// After the last entry: does the log hold what the heads say?
    pub fn finish(self) -> Result<Report, LogError> {
        let mut assurance = Assurance::InternallyConsistentOnly;
        for Expected { head, outside, seen } in &self.heads {
            let size = head.size;
            if head.trust_domain != self.trust_domain {
                let (saved, current) = (head.trust_domain.clone(), self.trust_domain.clone());
                return Err(HeadMismatch::OtherTrustDomain { saved, current }.into());
            }
            match seen {
                None => return Err(HeadMismatch::RolledBack { saved: size, current: self.log.size() }.into()),
                Some(hash) if *hash != head.hash => return Err(HeadMismatch::Rewritten { size }.into()),
                Some(_) if *outside => assurance = assurance.max(Assurance::MatchesOutsideHead { size }),
                Some(_) => {}
            }
        }
        Ok(Report {
            log: self.log,
            chains: self.chains.len(),
            gaps: self.gaps,
            missing: self.missing,
            assurance,
        })
    }

    fn accept_link(&mut self, record: &Record) -> Result<(), RecordError> {
        let place = (record.writer.clone(), record.boot);
        let chain = self
            .chains
            .entry(place.clone())
            .or_insert_with(|| WriterVerifier::start(record.writer.clone(), record.boot));
        match self.announced.get(&place) {
            Some((from, to)) if chain.sequence() + 1 == *from && record.sequence > *to => {
                chain.accept_after_gap(record, *to)?;
                self.announced.remove(&place);
                Ok(())
            }
            _ => chain.accept(record),
        }
    }

    /// Only the authority may declare that records of others never arrived.
    fn note_gap(&mut self, record: &Record) {
        if record.writer.kind() != IdKind::Authority || record.writer.trust_domain() != &self.trust_domain {
            return;
        }
        if let Ok(Event::Gap { writer, boot, missing_from, missing_to }) =
            record.entry().map(|entry| entry.event)
        {
            self.gaps += 1;
            self.missing =
                self.missing.saturating_add(missing_to.saturating_add(1).saturating_sub(missing_from));
            self.announced.insert((writer, boot), (missing_from, missing_to));
        }
    }
}

/// What a verified log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its length and hash.
    pub log: LogState,
    /// How many chains (starts of writers) it holds.
    pub chains: usize,
    /// How many gaps the authority recorded.
    pub gaps: u64,
    /// How many records are missing in them.
    pub missing: u64,
    /// What the verification proves.
    pub assurance: Assurance,
}

/// What a verification proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Assurance {
    /// The hashes fit each other. Whoever owns the database could have recomputed all of them.
    InternallyConsistentOnly,
    /// The log still holds all that it held when the saved head was signed.
    MatchesOutsideHead {
        /// Entries that the longest saved head covers.
        size: u64,
    },
}

impl std::fmt::Display for Assurance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InternallyConsistentOnly => {
                f.write_str("internally consistent only: without a head saved elsewhere, a log that was rewritten as a whole looks the same")
            }
            Self::MatchesOutsideHead { size } => write!(f, "consistent, and matches the saved head of {size} entries"),
        }
    }
}

/// What is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The first entry that was changed, dropped, moved or swapped.
    #[error("entry {index} is bad ({writer}, boot {boot}, sequence {sequence}): {problem}")]
    BadEntry {
        /// Its index in the log, from 1.
        index: u64,
        /// Who wrote it, as filed.
        writer: SpiffeId,
        /// Which start, as filed.
        boot: BootId,
        /// Its sequence, as filed.
        sequence: u64,
        /// What is wrong.
        problem: RecordError,
    },
    /// The writers' chains fit up to here, but not in this order.
    #[error("entry {index} is bad: the log hash stored with it does not follow from it and the entry before")]
    BrokenLog {
        /// Its index in the log, from 1.
        index: u64,
    },
    /// An index is missing or doubled.
    #[error("entry {expected} is missing: entry {got} follows entry {}", .expected - 1)]
    MissingEntry {
        /// Which must follow.
        expected: u64,
        /// Which came.
        got: u64,
    },
    /// The log is not the one whose head was saved.
    #[error(transparent)]
    Head(#[from] HeadMismatch),
}
