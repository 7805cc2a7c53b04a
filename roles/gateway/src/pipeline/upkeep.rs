//! What goes on beside requests: others get to know our key, and whoever asks is told whether we are ready.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Pipeline;
use crate::admin::ReadyCheck;

impl Pipeline {
    /// Makes the key of the internal tokens known, and again whenever a snapshot has lost it.
    pub(crate) async fn publish_key(&self, shutdown: CancellationToken) {
        // Without an authority there is nobody who could tell others of it.
        if !self.workload.has_agent() {
            return;
        }
        let mut changes = self.workload.live_cell().subscribe();
        let mut renewed = tokio::time::Instant::now();
        loop {
            let published = self.key_is_published();
            if !published || renewed.elapsed() >= RENEW_KEY_EVERY {
                match self.workload.publish_token_key(self.tokens.public_key()).await {
                    Ok(()) => renewed = tokio::time::Instant::now(),
                    Err(error) => tracing::warn!(%error, "the key for internal tokens is not published yet"),
                }
            }
            let pause = if published { PUBLISHED_PAUSE } else { UNPUBLISHED_PAUSE };
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = changes.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// What has to hold before requests should be sent here.
    pub(crate) fn readiness(&self) -> Vec<ReadyCheck> {
        let identity = ReadyCheck {
            name: "workload",
            missing: self.workload.ready().err().map(|error| error.to_string()),
        };
        let unpublished = || "other services do not know our key yet: is the authority reachable?".to_owned();
        let key = ReadyCheck {
            name: "internal-token-key",
            missing: (self.workload.has_agent() && !self.key_is_published()).then(unpublished),
        };
        let live = self.workload.live();
        let services = self.routes.services();
        let unknown: Vec<&str> = services
            .iter()
            .map(|service| service.as_str())
            .filter(|name| live.service(name).is_none())
            .collect();
        let why = || format!("no such service is registered: {}", unknown.join(", "));
        let routes = ReadyCheck { name: "routes", missing: (!unknown.is_empty()).then(why) };
        let clash = self.upstreams.clash(|name| live.service(name).is_some()).map(|clash| clash.to_string());
        let troubles: Vec<String> = self.upstreams.troubles().into_iter().chain(clash).collect();
        let missing = (!troubles.is_empty()).then(|| troubles.join("; "));
        vec![identity, key, routes, ReadyCheck { name: "upstreams", missing }]
    }

    fn key_is_published(&self) -> bool {
        let kid = self.tokens.public_key().thumbprint();
        let live = self.workload.live();
        live.tokens().internal.get(&kid).is_some_and(|(_, owner)| owner == self.workload.id())
    }
}

const UNPUBLISHED_PAUSE: Duration = Duration::from_millis(500);
const PUBLISHED_PAUSE: Duration = Duration::from_secs(60);
/// The authority forgets a key that its gateway does not publish again: well before that, it is.
const RENEW_KEY_EVERY: Duration = Duration::from_secs(1200);
