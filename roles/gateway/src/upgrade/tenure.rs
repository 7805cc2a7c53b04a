//! Whether what was permitted at the handshake would be permitted still.

use std::sync::Arc;
use std::time::Duration;

use countersign_identity::UnixTime;
use countersign_request::CanonicalRequest;
use countersign_sdk::clock;
use countersign_sdk::inbound::{self, Denial};
use countersign_token::DpopProof;
use tokio::time::Instant;

use crate::filter::Panel;
use crate::listener::Arrival;
use crate::record::Trace;
use crate::reload::Current;

use super::Ending;

/// By what a connection may go on outside HTTP.
pub(crate) enum Tenure {
    /// The edge's rules, and the user's access token.
    Edge(Box<EdgeTenure>),
    /// The door of the service behind a sidecar.
    Door(inbound::Tenure),
    /// The service's own call: whoever is called judges it.
    Own,
}

/// A request that the edge permitted, to be judged again.
pub(crate) struct EdgeTenure {
    pub(crate) newest: Newest,
    pub(crate) request: CanonicalRequest,
    pub(crate) arrival: Arrival,
    /// Where it went.
    pub(crate) target: String,
    /// Of the token's key: it counted at the handshake, and is not asked for again.
    pub(crate) proof: Option<DpopProof>,
    pub(crate) user_until: Option<UnixTime>,
    /// Who was asked at the handshake, and is not asked again.
    pub(crate) filters: Panel,
    pub(crate) trace: Trace,
}

/// The pipeline in force, whatever becomes of the one that answers. In the extensions of requests that ask to leave HTTP.
#[derive(Clone)]
pub(crate) struct Newest(pub(crate) Arc<Current>);

impl Tenure {
    /// Returns when it would be permitted no longer, with the reason.
    pub(crate) async fn lost(&self) -> Denial {
        let Some(mut changes) = self.changes() else { return std::future::pending().await };
        let mut judged = None;
        loop {
            let (now, state) = (clock::now(), self.state());
            let is_due = self.user_until().is_some_and(|until| until <= now);
            let same =
                judged.is_some_and(|(then, at): (_, Instant)| then == state && at.elapsed() < JUDGE_AGAIN);
            if is_due || !same {
                if let Err(denial) = self.judge(now) {
                    return denial;
                }
                judged = Some((state, Instant::now()));
            }
            let left = self.user_until().map_or(LOOK_AGAIN, clock::until).min(LOOK_AGAIN);
            tokio::select! {
                Ok(()) = changes.changed() => {}
                () = tokio::time::sleep(left.max(SHORTEST_LOOK)) => {}
            }
        }
    }

    /// Would it be permitted at `now`?
    pub(crate) fn judge(&self, now: UnixTime) -> Result<(), Denial> {
        match self {
            Tenure::Edge(edge) => {
                let pipeline = edge.newest.0.pipeline();
                pipeline.still_permits(edge, now).map_err(|refusal| refusal.denial())
            }
            Tenure::Door(door) => door.judge(now),
            Tenure::Own => Ok(()),
        }
    }

    /// Records the end.
    pub(crate) async fn ended(self, ending: &Ending, lasted: Duration) {
        metrics::counter!("countersign_upgrades_ended_total", "reason" => ending.name()).increment(1);
        let (how, denial) = (ending.to_string(), ending.denial());
        match self {
            Tenure::Edge(edge) => {
                let recorder = Arc::clone(&edge.newest.0.pipeline().recorder);
                recorder.ended(edge.trace.draft.ended(&how, lasted, denial), denial.is_some()).await;
            }
            Tenure::Door(door) => door.ended(&how, lasted, denial).await,
            Tenure::Own => tracing::debug!(how, "a call of the service outside http ended"),
        }
    }

    /// Another one is another world: everything is judged anew.
    fn state(&self) -> (u64, u64) {
        match self {
            Tenure::Edge(edge) => {
                let pipeline = edge.newest.0.pipeline();
                (pipeline.workload.live().snapshot().sequence, pipeline.number)
            }
            Tenure::Door(door) => (door.live().snapshot().sequence, 0),
            Tenure::Own => (0, 0),
        }
    }

    fn changes(&self) -> Option<tokio::sync::watch::Receiver<u64>> {
        match self {
            Tenure::Edge(edge) => Some(edge.newest.0.pipeline().workload.live_cell().subscribe()),
            Tenure::Door(door) => Some(door.changes()),
            Tenure::Own => None,
        }
    }

    fn user_until(&self) -> Option<UnixTime> {
        match self {
            Tenure::Edge(edge) => edge.user_until,
            Tenure::Door(door) => door.user_until(),
            Tenure::Own => None,
        }
    }
}

/// A reload tells nobody: it is seen within this time.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A token that is just about to expire is not looked at all the time.
const SHORTEST_LOOK: Duration = Duration::from_millis(10);
/// What nothing changes is judged again all the same: evidence has times of its own.
const JUDGE_AGAIN: Duration = Duration::from_secs(10);
