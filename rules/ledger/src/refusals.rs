//! Refusals before authentication: counted per address and minute, so that strangers cannot fill a disk.
//!
//! The first of each kind from each address is recorded in full, every further one in that minute only
//! counts. The table is bounded; addresses beyond it are counted together as `others`.

use std::{collections::HashMap, fmt, net::IpAddr};

use countersign_identity::UnixTime;

use crate::event::{Event, Stage};

/// Counts the refusals of the current minute. One per process.
#[derive(Debug)]
pub struct Refusals {
    minute: i64,
    counts: HashMap<Kind, u64>,
    kinds_max: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    from: From,
    stage: Stage,
    code: &'static str,
}

/// What to do with a refusal that was just counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// The first of its kind in this minute: record it in full, as a decision of its own.
    pub record_in_full: bool,
    /// Counts of a minute that has ended: record them.
    pub finished: Vec<Event>,
}

impl Refusals {
    /// A table for `kinds_max` kinds a minute; [`KINDS_MAX`] is a good choice.
    pub fn new(kinds_max: usize) -> Self {
        Self { minute: i64::MIN, counts: HashMap::new(), kinds_max }
    }

    /// Counts a refusal. `code` is a public error code out of the one registry.
    pub fn count(&mut self, address: IpAddr, stage: Stage, code: &'static str, now: UnixTime) -> Counted {
        let finished = self.finish_minute(now);
        let mut kind = Kind { from: From::network_of(address), stage, code };
        if self.counts.len() >= self.kinds_max && !self.counts.contains_key(&kind) {
            kind.from = From::Others;
        }
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        Counted { record_in_full: *count == 1, finished }
    }

    /// Counts of the last minute, once it has ended. Call it now and then: no refusal may ever come again.
    pub fn finish_minute(&mut self, now: UnixTime) -> Vec<Event> {
        let minute = now.secs().div_euclid(60);
        // A clock that steps back must not end a minute twice.
        if minute <= self.minute {
            return Vec::new();
        }
        let finished = self.take_all();
        self.minute = minute;
        finished
    }

    /// Everything that was counted, also of the running minute. For the end of the process.
    pub fn take_all(&mut self) -> Vec<Event> {
        let minute = UnixTime::from_secs(self.minute.saturating_mul(60));
        let mut events: Vec<_> = self
            .counts
            .drain()
            // A single refusal was recorded in full: its count says nothing more.
            .filter(|(_, count)| *count > 1)
            .map(|(Kind { from, stage, code }, count)| (from.to_string(), stage, code, count))
            .collect();
        events.sort();
        events
            .into_iter()
            .map(|(address, stage, code, count)| Event::Refusals {
                address,
                stage,
                code: code.into(),
                minute,
                count,
            })
            .collect()
    }
}

/// Who is counted together: an IPv4 address, or an IPv6 network of 64 bits, which one customer owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum From {
    Address(IpAddr),
    Others,
}

impl From {
    fn network_of(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
            v4 => v4,
        })
    }
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(network)) => write!(f, "{network}/64"),
            Self::Address(v4) => write!(f, "{v4}"),
            Self::Others => f.write_str("others"),
        }
    }
}

/// Kinds (address, stage, code) that are told apart in one minute: at most twice as many events.
pub const KINDS_MAX: usize = 1024;
