//! How much the refusals of strangers may cost.

use std::net::IpAddr;

use countersign_identity::UnixTime;
use countersign_ledger::{
    Event, Stage,
    refusals::{KINDS_MAX, Refusals},
};

/// Counts refusals before authentication, and lets some of them through in full.
#[derive(Debug)]
pub(super) struct Strangers {
    counts: Refusals,
    minute: i64,
    in_full: u32,
    finished: Vec<Event>,
}

impl Default for Strangers {
    fn default() -> Self {
        Self { counts: Refusals::new(KINDS_MAX), minute: i64::MIN, in_full: 0, finished: Vec::new() }
    }
}

impl Strangers {
    /// Counts one; says whether it is recorded in full.
    pub(super) fn admit(&mut self, from: IpAddr, stage: Stage, code: &'static str, now: UnixTime) -> bool {
        let counted = self.counts.count(from, stage, code, now);
        self.finished.extend(counted.finished);
        let minute = now.secs().div_euclid(60);
        if minute > self.minute {
            (self.minute, self.in_full) = (minute, 0);
        }
        if counted.record_in_full {
            return true;
        }
        self.in_full = self.in_full.saturating_add(1);
        self.in_full <= IN_FULL_MAX
    }

    /// Counts of minutes that have ended.
    pub(super) fn finished(&mut self, now: UnixTime) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.finished);
        events.extend(self.counts.finish_minute(now));
        events
    }

    /// The running minute ends with the process.
    pub(super) fn close(&mut self) {
        self.finished.extend(self.counts.take_all());
    }
}

/// Repeated refusals that are recorded in full all the same, in one minute: enough for a person at work.
const IN_FULL_MAX: u32 = 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_strangers_costs_a_bounded_number_of_records() {
        let mut strangers = Strangers::default();
        let from = IpAddr::V4([127, 0, 0, 1].into());
        let at = UnixTime::from_secs(1_800_000_000);
        let in_full = (0..10_000).filter(|_| strangers.admit(from, Stage::Transport, "x", at)).count();
        assert_eq!(in_full, 31);
        let later = UnixTime::from_secs(1_800_000_060);
        let counts = strangers.finished(later);
        assert!(matches!(counts.as_slice(), [Event::Refusals { count: 10_000, .. }]), "{counts:?}");
    }
}
