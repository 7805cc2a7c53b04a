//! When a token counts: one rule for every kind whose life is bounded from its issue on.

use std::time::Duration;

use countersign_identity::{CLOCK_SKEW, UnixTime};

/// Judges `issued_at` and `expires`: some life, not more than `lifetime_max`, begun, not over.
///
/// Whole seconds are on the wire: the fraction that `iat` lost is not a longer life. There is no leniency at the
/// end: whoever verifies late refuses, and a cache of what was seen need not remember longer.
pub(crate) fn judge(
    issued_at: UnixTime,
    expires: UnixTime,
    lifetime_max: Duration,
    now: UnixTime,
) -> Result<(), TimeError> {
    let lifetime = expires.since(issued_at);
    if lifetime.is_zero() || lifetime > lifetime_max {
        return Err(TimeError::Lifetime { seconds: lifetime.as_secs(), max: lifetime_max.as_secs() });
    }
    judge_start(issued_at, now)?;
    judge_end(expires, now)
}

/// Judges `iat` or `nbf` alone: two honest clocks may differ.
pub(crate) fn judge_start(from: UnixTime, now: UnixTime) -> Result<(), TimeError> {
    match from > now.saturating_add(CLOCK_SKEW) {
        true => Err(TimeError::NotYetValid { in_seconds: from.since(now).as_secs() }),
        false => Ok(()),
    }
}

/// Judges `exp` alone.
pub(crate) fn judge_end(expires: UnixTime, now: UnixTime) -> Result<(), TimeError> {
    match now >= expires {
        true => Err(TimeError::Expired { by_seconds: now.since(expires).as_secs() }),
        false => Ok(()),
    }
}

/// Why a token does not count now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// No time between issue and expiry, or too much.
    #[error("the token lives {seconds} s, it must be more than 0 and at most {max}")]
    Lifetime {
        /// How long.
        seconds: u64,
        /// How long at most.
        max: u64,
    },
    /// Issued later than now.
    #[error("the token becomes valid in {in_seconds} s; compare the clocks of the machines")]
    NotYetValid {
        /// How far ahead.
        in_seconds: u64,
    },
    /// Too old.
    #[error("the token expired {by_seconds} s ago; get a new one, or compare the clocks of the machines")]
    Expired {
        /// How long ago.
        by_seconds: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1000);
    const MAX: Duration = Duration::from_secs(60);

    fn judged(issued: i64, expires: i64) -> Result<(), TimeError> {
        judge(UnixTime::from_secs(issued), UnixTime::from_secs(expires), MAX, NOW)
    }

    #[test]
    fn a_life_has_a_beginning_an_end_and_a_longest() {
        assert_eq!(judged(990, 1050), Ok(()));
        assert_eq!(judged(990, 1051), Err(TimeError::Lifetime { seconds: 61, max: 60 }));
        assert_eq!(judged(1000, 1000), Err(TimeError::Lifetime { seconds: 0, max: 60 }));
        assert_eq!(judged(1001, 1000), Err(TimeError::Lifetime { seconds: 0, max: 60 }));
    }

    #[test]
    fn the_clock_that_issued_may_be_ahead_by_the_skew_and_no_more() {
        assert_eq!(judged(1060, 1090), Ok(()));
        assert_eq!(judged(1061, 1090), Err(TimeError::NotYetValid { in_seconds: 61 }));
    }

    #[test]
    fn at_the_moment_of_its_end_a_token_is_over() {
        assert_eq!(judged(960, 1001), Ok(()));
        assert_eq!(judged(960, 1000), Err(TimeError::Expired { by_seconds: 0 }));
        assert_eq!(judged(940, 993), Err(TimeError::Expired { by_seconds: 7 }));
    }
}
