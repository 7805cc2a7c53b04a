//! When a certificate is ordered: what is due, as a function of times and chance.

use std::time::Duration;

use countersign_identity::UnixTime;

/// When a certificate is renewed: at two thirds of its life, and up to a thirtieth of it later, as chance says, so that
/// hosts which began together do not stay together.
pub(super) fn renewal(not_before: UnixTime, not_after: UnixTime, chance: u16) -> UnixTime {
    let life = not_after.since(not_before);
    not_before.saturating_add(life / 3 * 2).saturating_add((life / 30).mul_f64(share(chance)))
}

/// The shortest and the longest pause between two orders for one host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pauses {
    pub(super) min: Duration,
    pub(super) max: Duration,
}

impl Pauses {
    /// How long to wait after so many failures in a row: doubled with each, half as much again as chance says, and never
    /// less than the authority asks for.
    pub(super) fn after(self, failures: u32, asked: Option<Duration>, chance: u16) -> Duration {
        let doubled =
            self.min.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let pause = doubled.min(self.max);
        let pause = pause.saturating_add((pause / 2).mul_f64(share(chance)));
        asked.map_or(pause, |asked| pause.max(asked.min(ASKED_MAX)))
    }
}

/// From 0 to 1.
fn share(chance: u16) -> f64 {
    f64::from(chance) / f64::from(u16::MAX)
}

/// What an authority may ask for at most: whoever says years has made a mistake.
pub(super) const ASKED_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PAUSES: Pauses = Pauses { min: Duration::from_secs(60), max: Duration::from_secs(6 * 3600) };

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life() {
        let begin = UnixTime::from_secs(1_800_000_000);
        let after = |days: u64| begin.saturating_add(Duration::from_secs(days * 24 * 3600));
        assert_eq!(renewal(begin, after(90), 0), after(60));
        assert_eq!(renewal(begin, after(90), u16::MAX), after(63));
        assert_eq!(renewal(begin, begin, 7), begin, "no life at all");
        assert_eq!(renewal(after(1), begin, 7), after(1), "less than none");
    }

    #[test]
    fn a_pause_doubles_up_to_the_longest() {
        let seconds: Vec<_> = (0..20).map(|failures| PAUSES.after(failures, None, 0).as_secs()).collect();
        assert_eq!(seconds[..6], [60, 60, 120, 240, 480, 960]);
        assert_eq!(seconds[12..], [21600; 8]);
        assert_eq!(PAUSES.after(u32::MAX, None, 0), PAUSES.max);
    }

    #[test]
    fn chance_makes_a_pause_longer_by_up_to_a_half_and_never_shorter() {
        assert_eq!(PAUSES.after(1, None, u16::MAX), 90 * SECOND);
        let middle = PAUSES.after(1, None, u16::MAX / 2);
        assert!(74 * SECOND < middle && middle < 76 * SECOND, "{middle:?}");
    }

    #[test]
    fn an_authority_that_asks_for_a_longer_pause_gets_it_and_for_a_shorter_one_does_not() {
        assert_eq!(PAUSES.after(1, Some(3600 * SECOND), 0), 3600 * SECOND);
        assert_eq!(PAUSES.after(1, Some(SECOND), 0), 60 * SECOND);
        assert_eq!(PAUSES.after(1, Some(Duration::MAX), 0), ASKED_MAX);
    }
}
