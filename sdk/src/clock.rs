//! The only place of the SDK that reads a clock.
//!
//! Everything below takes the time as an argument. Time here is never less than what has passed since the
//! process started: a clock that is set back would make expired credentials valid again, so after such a
//! step the monotonic clock, counted on from the start of the process, is used until real time has caught
//! up. A step forward is believed as long as it lasts, and may be taken back: holding on to it would leave
//! a process in a wrong future, where nothing is valid, until somebody starts it again.

#![expect(clippy::disallowed_methods, reason = "this is the one clock reading that the bans leave room for")]

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use countersign_identity::{CLOCK_SKEW, UnixTime};

/// The time, in milliseconds since 1970: the clock of the machine, or what has passed since the
/// process started if that is later.
#[must_use]
pub fn now() -> UnixTime {
    let (system, steady) = both();
    believed(system, steady)
}

/// Which of two is the time: what the clock of the machine says, or what a steady one has counted since the process
/// started. A clock that was set back is not believed.
#[must_use]
pub fn believed(system: UnixTime, steady: UnixTime) -> UnixTime {
    system.max(steady)
}

/// By how much the machine's clock is behind what has passed since the process started, if that is
/// more than [`CLOCK_SKEW`]: somebody set it back, and the ledger wants to know.
#[must_use]
pub fn stepped_back() -> Option<Duration> {
    let (system, steady) = both();
    let behind = u64::try_from(steady.millis().saturating_sub(system.millis())).unwrap_or(0);
    let behind = Duration::from_millis(behind);
    (behind > CLOCK_SKEW).then_some(behind)
}

/// How long from now until `then`; zero if it has passed.
#[must_use]
pub fn until(then: UnixTime) -> Duration {
    let millis = then.millis().saturating_sub(now().millis());
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

fn both() -> (UnixTime, UnixTime) {
    static START: OnceLock<(UnixTime, Instant)> = OnceLock::new();
    let (wall, instant) = START.get_or_init(|| (system(), Instant::now()));
    (system(), wall.saturating_add(instant.elapsed()))
}

fn system() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    UnixTime::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_runs_backwards_and_is_not_1970() {
        let mut before = now();
        assert!(before.secs() > 1_700_000_000);
        for _ in 0..10_000 {
            let after = now();
            assert!(after >= before);
            before = after;
        }
        assert_eq!(stepped_back(), None);
    }

    #[test]
    fn a_clock_that_was_set_back_is_not_believed_and_one_that_was_set_forward_is() {
        let (early, late) = (UnixTime::from_secs(1_800_000_000), UnixTime::from_secs(1_800_003_600));
        assert_eq!(believed(early, late), late);
        assert_eq!(believed(late, early), late);
    }

    #[test]
    fn nothing_is_left_of_a_moment_that_has_passed() {
        assert_eq!(until(now().saturating_sub(Duration::from_secs(1))), Duration::ZERO);
        let left = until(now().saturating_add(Duration::from_secs(60)));
        assert!(left > Duration::from_secs(59) && left <= Duration::from_secs(60));
    }
}
