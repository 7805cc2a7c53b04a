//! A new key and a new certificate at half the life of the old ones.

use std::{sync::Arc, time::Duration};

use countersign_identity::SpiffeId;

use super::{connect::issue, watch};
use crate::{agent::AgentApi, clock, renewal, tls::TrustState};

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
        renewal::sleep_until(clock::now().saturating_add(wait)).await;
        wait = match issue(&agent).await {
            Ok(issued) if issued.identity.id() != Some(&id) => {
                tracing::error!("the agent renewed another identity than ours: it is not used");
                renewal::RETRY_MAX
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
                renewal::retry_in(left)
            }
        };
    }
}
