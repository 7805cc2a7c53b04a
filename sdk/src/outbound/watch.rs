//! Open connections whose peer is judged again as long as they last.

use std::{sync::Arc, time::Duration};

use hyper::rt::Executor;
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    tls::{Peer, TrustState},
};

/// Runs the tasks of one connection until it is cut. Dropping the connection would not do: streams that are
/// open keep it alive.
#[derive(Clone)]
pub struct Cuttable(pub CancellationToken);

impl<F> Executor<F> for Cuttable
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let cut = self.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                () = task => {}
            }
        });
    }
}

/// Returns when the peer of an open connection fails a check that it passed before; never, if nobody was proven.
pub async fn no_longer_believed(watched: Option<(Arc<Peer>, Arc<TrustState>)>) {
    let Some((peer, trust)) = watched else { return std::future::pending().await };
    let mut changes = trust.subscribe();
    while peer.workload(clock::now()).is_ok() {
        let left = peer.good_until().map_or(LOOK_AGAIN, clock::until).max(LOOK_AGAIN);
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(left) => {}
        }
    }
}

const LOOK_AGAIN: Duration = Duration::from_secs(1);
