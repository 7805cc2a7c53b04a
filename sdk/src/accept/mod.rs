//! The accept loop: every listener of Countersign and of its services is this one.
//!
//! A connection is one task with one deadline. It is told of every change of trust and judges its peer
//! again, so revocation, expiry and a removed bundle bite on connections that are already open: the peer
//! gets a GOAWAY, and after [`Limits::cut`] the connection is closed with whatever was still running.
//! Old age, idleness and shutdown end it politely, within [`Limits::drain`].

mod admit;
mod connection;
mod drive;
mod head_guard;
mod life;
mod limits;
mod listen;
mod progress;
mod request_body;
mod rewound;
mod worded;

use std::{convert::Infallible, error::Error as StdError, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service;

pub use admit::{Admitted, Stream, admit};
pub use connection::{Connection, Exporter, Transport};
pub use drive::{Serving, drive};
pub use life::{Belief, Doubt};
pub use limits::Limits;
pub use listen::{Listen, Origin, UnixPeer, bind_unix};
pub(crate) use progress::Moving;
pub use progress::{Progress, Stalled};
pub use request_body::{BrokenBody, RequestBody};
pub use rewound::Rewound;

/// Serves `service` until `shutdown`, then drains: requests in progress get [`Limits::drain`].
///
/// Every request carries a [`Connection`] in its extensions: who is at the other end.
///
/// Returns how many connections had to be cut because they did not finish in time.
pub async fn serve<L, S, B>(
    mut listener: L,
    transport: Transport,
    service: S,
    limits: Limits,
    shutdown: CancellationToken,
) -> usize
where
    L: Listen,
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let open = Arc::new(Semaphore::new(limits.connections_max.clamp(1, Semaphore::MAX_PERMITS)));
    let tasks = TaskTracker::new();
    let cut = CancellationToken::new();
    let serving = Serving { limits, draining: shutdown.clone(), cut: cut.clone() };
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = next(&mut listener, &open) => accepted,
        };
        let Some((io, origin, permit)) = accepted else { continue };
        let (transport, service, serving) = (transport.clone(), service.clone(), serving.clone());
        tasks.spawn(async move {
            let admitted = admit(io, origin, &transport, &serving.limits, &serving.draining).await;
            if let Some(admitted) = admitted {
                drive(admitted, Bytes::new(), service, &serving).await;
            }
            drop(permit);
        });
    }
    drop(listener);
    tasks.close();
    let drained = tokio::time::timeout(limits.drain, tasks.wait()).await.is_ok();
    let late = if drained { 0 } else { tasks.len() };
    cut.cancel();
    tasks.wait().await;
    late
}

async fn next<L: Listen>(
    listener: &mut L,
    open: &Arc<Semaphore>,
) -> Option<(L::Io, Origin, tokio::sync::OwnedSemaphorePermit)> {
    // The permit comes first: what cannot be served stays in the kernel's queue, which is bounded.
    let permit = Arc::clone(open).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((io, origin)) => Some((io, origin, permit)),
        Err(error) => {
            // Out of file descriptors, or a peer that was gone already: neither ends the listener.
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
