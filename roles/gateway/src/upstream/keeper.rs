//! What an upstream needs done from time to time: endpoints that were left alone come back, idle connections are closed,
//! requests are counted.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::cluster::Cluster;

/// Keeps one upstream until `shutdown`.
pub(super) async fn keep(cluster: Arc<Cluster>, shutdown: CancellationToken) {
    loop {
        let pause = cluster.readmit().map_or(ROUND, |wait| wait.min(ROUND));
        cluster.prune();
        cluster.meter.requests(cluster.begun());
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = cluster.ejected.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

const ROUND: Duration = Duration::from_secs(1);
