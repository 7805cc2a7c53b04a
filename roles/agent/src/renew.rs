//! When to renew, and how long to wait after a failure: spread out, so that a thousand services that started
//! together do not come back together.

use std::time::Duration;

/// Renewal falls between these parts of a certificate's life: half of it, less a share that is drawn anew each time.
const RENEW_AT: std::ops::Range<f64> = 0.40..0.50;
/// First and longest pause after a failure.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long to wait before a certificate with `life` left, counted from its issue, is renewed.
pub(crate) fn renew_after(life: Duration) -> Duration {
    life.mul_f64(rand::random_range(RENEW_AT))
}

/// Pauses that double up to a limit, each drawn between half and all of its step.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        let step = PAUSE_MIN.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        step.mul_f64(rand::random_range(0.5..1.0))
    }

    /// It worked.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_services_that_started_together_do_not_renew_together() {
        let life = Duration::from_secs(3600);
        let mut times: Vec<Duration> = (0..1000).map(|_| renew_after(life)).collect();
        times.sort();
        assert!(
            times.iter().all(|t| *t <= life / 2 && *t >= life.mul_f64(0.39)),
            "at half their life at the latest"
        );
        let busiest = times
            .windows(50)
            .filter(|w| w.last().zip(w.first()).is_some_and(|(b, a)| *b - *a < Duration::from_secs(5)));
        assert_eq!(busiest.count(), 0, "fifty of them within five seconds are a storm");
    }

    #[test]
    fn pauses_grow_are_bounded_and_start_again_after_success() {
        let mut backoff = Backoff::default();
        assert!(backoff.next() <= PAUSE_MIN);
        let later: Vec<Duration> = (0..40).map(|_| backoff.next()).collect();
        assert!(later.iter().all(|p| *p <= PAUSE_MAX));
        assert!(later.last().is_some_and(|p| *p >= PAUSE_MAX / 2));
        backoff.reset();
        assert!(backoff.next() <= PAUSE_MIN);
    }
}
