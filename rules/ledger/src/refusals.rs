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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const NOON: UnixTime = UnixTime::from_secs(1_800_000_000);

    #[test]
    fn records_the_first_of_each_kind_in_full_and_counts_the_rest() {
        let mut refusals = Refusals::new(KINDS_MAX);
        let mut full = 0;
        for _ in 0..1000 {
            full += u32::from(refusals.count(v4(1), Stage::Transport, "CS0101", NOON).record_in_full);
        }
        assert_eq!(full, 1);
        assert!(refusals.count(v4(1), Stage::Transport, "CS0102", NOON).record_in_full, "another kind");
        assert!(refusals.count(v4(2), Stage::Transport, "CS0101", NOON).record_in_full, "another address");

        let counts = refusals.finish_minute(at(60));
        let expected = Event::Refusals {
            address: "10.0.0.1".into(),
            stage: Stage::Transport,
            code: "CS0101".into(),
            minute: NOON,
            count: 1000,
        };
        assert_eq!(counts, [expected], "those that occurred once were recorded in full");
    }

    #[test]
    fn a_million_strangers_cost_no_more_events_than_the_table_has_places() {
        let mut refusals = Refusals::new(100);
        let (mut full, mut counted) = (0, 0);
        for stranger in 0..1_000_000_u32 {
            let address = IpAddr::V4(Ipv4Addr::from_bits(stranger));
            full += usize::from(refusals.count(address, Stage::Request, "CS0200", NOON).record_in_full);
        }
        assert_eq!(full, 101);
        assert_eq!(refusals.counts.len(), 101);
        for event in refusals.take_all() {
            let Event::Refusals { address, count, .. } = event else { unreachable!() };
            assert_eq!(address, "others");
            counted += count;
        }
        assert_eq!(counted, 1_000_000 - 100);
    }

    #[test]
    fn one_customers_ipv6_network_is_one_address() {
        let mut refusals = Refusals::new(KINDS_MAX);
        for host in 1..=5_u128 {
            let address = IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8_0000_0001 << 64 | host));
            refusals.count(address, Stage::Quota, "CS0300", NOON);
        }
        let Event::Refusals { address, count, .. } = refusals.take_all().remove(0) else { unreachable!() };
        assert_eq!((address.as_str(), count), ("2001:db8:0:1::/64", 5));
        // An IPv4 address that came in through a dual-stack socket is that IPv4 address.
        let mapped = IpAddr::V6(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
        refusals.count(mapped, Stage::Quota, "CS0300", NOON);
        assert!(!refusals.count(v4(1), Stage::Quota, "CS0300", NOON).record_in_full);
    }

    #[test]
    fn a_new_minute_hands_out_the_counts_of_the_last_and_starts_anew() {
        let mut refusals = Refusals::new(KINDS_MAX);
        refusals.count(v4(1), Stage::Token, "CS0400", NOON);
        refusals.count(v4(1), Stage::Token, "CS0400", at(59));
        let next = refusals.count(v4(1), Stage::Token, "CS0400", at(60));
        assert!(next.record_in_full);
        assert!(matches!(next.finished[..], [Event::Refusals { count: 2, minute: NOON, .. }]));
    }

    #[test]
    fn a_clock_that_steps_back_ends_no_minute() {
        let mut refusals = Refusals::new(KINDS_MAX);
        refusals.count(v4(1), Stage::Token, "CS0400", at(120));
        let earlier = refusals.count(v4(1), Stage::Token, "CS0400", NOON);
        assert_eq!(earlier, Counted { record_in_full: false, finished: vec![] });
    }

    fn v4(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
    }

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_secs(NOON.secs() + seconds)
    }
}
