//! Time as an argument: the rules never read a clock, they are told what time it is.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How far two honest clocks may differ. The only such constant: certificates are backdated by it
/// and tokens are judged with it.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// A moment, in milliseconds since 1970-01-01T00:00:00Z. On the wire and at rest: that number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(i64);

impl UnixTime {
    /// The moment `seconds` after 1970-01-01T00:00:00Z; beyond what fits, the last moment that does.
    #[must_use]
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// The moment `millis` milliseconds after 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Whole seconds since 1970-01-01T00:00:00Z, rounded down.
    #[must_use]
    pub const fn secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// This moment plus `span`, or the last moment that can be expressed.
    #[must_use]
    pub fn saturating_add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(millis_of(span)))
    }

    /// This moment minus `span`, or the first moment that can be expressed.
    #[must_use]
    pub fn saturating_sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(millis_of(span)))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let millis = self.0.saturating_sub(earlier.0);
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }
}

fn millis_of(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn arithmetic_saturates_and_never_wraps() {
        let last = UnixTime::from_millis(i64::MAX);
        assert_eq!(last.saturating_add(Duration::MAX), last);
        let first = UnixTime::from_millis(i64::MIN);
        assert_eq!(first.saturating_sub(Duration::MAX), first);
        assert_eq!(UnixTime::from_secs(i64::MAX), last);
    }

    #[test]
    fn seconds_round_down_also_before_1970() {
        assert_eq!(UnixTime::from_millis(1999).secs(), 1);
        assert_eq!(UnixTime::from_millis(-1).secs(), -1);
    }

    #[test]
    fn since_is_zero_for_a_moment_that_lies_ahead() {
        let (early, late) = (UnixTime::from_secs(10), UnixTime::from_secs(12));
        assert_eq!(late.since(early), Duration::from_secs(2));
        assert_eq!(early.since(late), Duration::ZERO);
    }

    #[test]
    fn is_a_plain_number_of_milliseconds_in_json() {
        let at = UnixTime::from_secs(3);
        assert_eq!(serde_json::to_string(&at).unwrap(), "3000");
        assert_eq!(serde_json::from_str::<UnixTime>("3000").unwrap(), at);
        assert!(serde_json::from_str::<UnixTime>("\"3000\"").is_err());
    }
}
