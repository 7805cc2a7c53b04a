//! A new key and a new certificate at half the life of the old ones.

use std::{sync::Arc, time::Duration};

use countersign_identity::SpiffeId;
use countersign_keys::{SystemRandom, random_bytes};

use super::{connect::issue, watch};
use crate::{agent::AgentApi, clock, tls::TrustState};

/// Renews for ever. A failure is tried again, sooner the less life is left.
pub(super) async fn run(
    agent: AgentApi,
    id: SpiffeId,
    trust: Arc<TrustState>,
    keys: watch::Keys,
    first: Duration,
) {
    let mut wait = first;
    loop {
        sleep(wait).await;
        wait = match issue(&agent).await {
            Ok(issued) if issued.identity.id() != Some(&id) => {
                tracing::error!("the agent renewed another identity than ours: it is not used");
                RETRY_MAX
            }
            Ok(issued) => {
                tracing::info!(serial = issued.identity.serial_hex(), "certificate renewed");
                keys.replace(issued.snapshot_keys);
                trust.set_identity(issued.identity);
                issued.renew_in
            }
            Err(error) => {
                let left =
                    trust.load().identity().map_or(Duration::ZERO, |own| clock::until(own.not_after()));
                tracing::warn!(%error, left_s = left.as_secs(), "certificate could not be renewed");
                jittered((left / 10).clamp(RETRY_MIN, RETRY_MAX))
            }
        };
    }
}

/// Half of `life`, give or take a tenth of it, so that a fleet does not renew in step.
pub(super) fn half_of(life: Duration) -> Duration {
    // A certificate that is given already expired must not be asked for again and again without a breath.
    jittered(life / 2).max(RETRY_MIN)
}

/// `span`, give or take a fifth of it.
fn jittered(span: Duration) -> Duration {
    // Without randomness everybody renews in step, which is worse than nothing but not wrong.
    let random = random_bytes(&SystemRandom::new()).map_or(32768, u16::from_be_bytes);
    let share = 0.8 + 0.4 * f64::from(random) / f64::from(u16::MAX);
    span.mul_f64(share)
}

/// In short steps of the wall clock: a machine that slept through its renewal notices on waking.
async fn sleep(span: Duration) {
    let then = clock::now().saturating_add(span);
    loop {
        let left = clock::until(then);
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(STEP)).await;
    }
}

const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
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
    fn a_certificate_without_life_is_not_renewed_without_a_pause() {
        assert_eq!(half_of(Duration::ZERO), RETRY_MIN);
    }
}
