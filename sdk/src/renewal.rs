//! When something that expires is renewed: at half its life, and not in step with everybody else.

use std::time::Duration;

use countersign_identity::UnixTime;
use countersign_keys::{SystemRandom, random_bytes};

use crate::clock;

/// Half of `life`, give or take a fifth of it, so that a fleet does not renew in step.
pub(crate) fn half_of(life: Duration) -> Duration {
    // What is given already expired must not be asked for again and again without a breath.
    jittered(life / 2).max(RETRY_MIN)
}

/// How long to wait after a failure, with `left` to live: the less, the sooner.
pub(crate) fn retry_in(left: Duration) -> Duration {
    jittered((left / 10).clamp(RETRY_MIN, RETRY_MAX))
}

/// Until `then`, in short steps of the wall clock: a machine that slept through a renewal notices on waking.
pub(crate) async fn sleep_until(then: UnixTime) {
    loop {
        let left = clock::until(then);
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(STEP)).await;
    }
}

/// `span`, give or take a fifth of it.
fn jittered(span: Duration) -> Duration {
    // Without randomness everybody renews in step, which is worse than nothing but not wrong.
    let random = random_bytes(&SystemRandom::new()).map_or(32768, u16::from_be_bytes);
    let share = 0.8 + 0.4 * f64::from(random) / f64::from(u16::MAX);
    span.mul_f64(share)
}

/// The shortest pause between two attempts.
pub(crate) const RETRY_MIN: Duration = Duration::from_millis(500);
/// The longest.
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_due_at_half_the_life_with_jitter() {
        let life = Duration::from_hours(1);
        let due: Vec<_> = (0..200).map(|_| half_of(life)).collect();
        assert!(due.iter().all(|due| (1440..=2160).contains(&due.as_secs())), "{due:?}");
        assert!(due.iter().max() > due.iter().min());
    }

    #[test]
    fn what_has_no_life_is_not_renewed_without_a_pause() {
        assert_eq!(half_of(Duration::ZERO), RETRY_MIN);
    }
}
