//! Where an errand leads: an endpoint of an upstream, or the service behind a sidecar.

use std::sync::Arc;
use std::time::Duration;

use countersign_http1::ResponseHead;
use http::StatusCode;

use super::pool::{Line, PoolKey};
use crate::engine::wire::Scratch;
use crate::forward::{is_internal, is_internal_scheme};
use crate::headers::{Shown, shown_to_callers, shown_to_clients};
use crate::sidecar::{App, SocketId};
use crate::upstream::{Cluster, Endpoint, Lease, Outcome, UpstreamError};

/// The way to whoever answers.
pub(crate) enum Way {
    Upstream {
        cluster: Arc<Cluster>,
        lease: Lease,
    },
    /// Connections are kept apart by who is calling, as the full carrier keeps them.
    App {
        app: Arc<App>,
        /// The one that was there, and the service's alone, when it was looked at last.
        socket: SocketId,
        caller: [u8; 16],
    },
}

impl Way {
    /// Which connections may be used.
    pub(crate) fn pool(&self) -> PoolKey {
        match self {
            Way::Upstream { lease, .. } => PoolKey::Endpoint(lease.endpoint().id()),
            Way::App { socket, caller, .. } => PoolKey::App(*socket, *caller),
        }
    }

    /// A new connection, if there can be one at once.
    pub(crate) async fn dial(&self, scratch: &Scratch) -> Option<Line> {
        match self {
            Way::Upstream { cluster, lease } => {
                let dialed = cluster.dial(lease).await.ok()??;
                Some(Line::of_upstream(dialed, scratch.clone()))
            }
            Way::App { app, .. } => Some(Line::of_app(app.dial().await.ok()?, scratch.clone())),
        }
    }

    /// How long a connection may wait for its next request.
    pub(crate) fn idle(&self) -> Duration {
        match self {
            Way::Upstream { cluster, .. } => cluster.timeouts().idle(),
            Way::App { .. } => App::IDLE_TIMEOUT,
        }
    }

    /// Tells how it went.
    pub(crate) fn report(&self, outcome: Outcome) {
        if let Way::Upstream { lease, .. } = self {
            lease.report(outcome);
        }
    }

    /// Of an upstream.
    pub(crate) fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        match self {
            Way::Upstream { lease, .. } => Some(lease.endpoint()),
            Way::App { .. } => None,
        }
    }

    /// May what can be done twice be tried once more?
    pub(crate) fn may_retry(&self) -> bool {
        match self {
            Way::Upstream { cluster, .. } => cluster.may_retry(),
            Way::App { .. } => false,
        }
    }

    /// What came back is not HTTP/1.1.
    pub(crate) fn unreadable(&self, why: &str) -> UpstreamError {
        match self {
            Way::Upstream { cluster, lease } => cluster.unreadable(lease, why),
            Way::App { app, .. } => app.unreadable(why),
        }
    }

    /// The connection ended before an answer.
    pub(crate) fn broke(&self, why: &str) -> UpstreamError {
        match self {
            Way::Upstream { cluster, lease } => cluster.broke(lease, why),
            Way::App { app, .. } => app.broke(why),
        }
    }

    /// It did not answer in time.
    pub(crate) fn late(&self, after: Duration) -> UpstreamError {
        match self {
            Way::Upstream { cluster, lease } => cluster.late(lease),
            Way::App { app, .. } => app.late(after),
        }
    }

    /// Is it a demand for evidence, of which the client is told something else?
    pub(crate) fn challenges(&self, head: &ResponseHead<'_>) -> bool {
        matches!(self, Way::Upstream { .. })
            && head.status == StatusCode::UNAUTHORIZED
            && head.fields.iter().any(|field| {
                field.name.eq_ignore_ascii_case("www-authenticate") && is_internal_scheme(field.value)
            })
    }

    /// What becomes of a header of the answer.
    pub(crate) fn shows(&self, name: &str, value: &[u8]) -> Shown {
        match self {
            Way::Upstream { cluster, .. } => {
                shown_to_clients(name, value, |host| is_internal(host, cluster.name()))
            }
            Way::App { .. } => shown_to_callers(name),
        }
    }
}
