//! Bodies on their way to an upstream and back: one is watched for progress, the other returns its connection at its end.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use countersign_sdk::outbound::Outgoing;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::cluster::Lease;
use super::pool::Http1;

/// What is known of a request body while it goes out.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    /// When the upstream last took a piece, in milliseconds since `began`.
    last_ms: AtomicU64,
    /// The upstream would take more, and the client has not sent it yet.
    awaits_client: AtomicBool,
    /// The client's side broke off: the upstream is not to blame.
    broken: AtomicBool,
}

/// A request body that tells how it goes.
pub(super) struct Watched {
    body: Outgoing,
    progress: Arc<Progress>,
}

impl Progress {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Progress {
            began: Instant::now(),
            last_ms: AtomicU64::new(0),
            awaits_client: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        })
    }

    /// Did the client's side of the body fail?
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Returns once the upstream has taken nothing for `limit`, although there was something to take or all was sent.
    pub(super) async fn stalled(&self, limit: Duration) {
        loop {
            let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
            let end = if self.awaits_client.load(Ordering::Relaxed) {
                Instant::now() + limit
            } else {
                self.began + last + limit
            };
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }

    fn note(&self, awaits_client: bool) {
        self.awaits_client.store(awaits_client, Ordering::Relaxed);
        let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(elapsed, Ordering::Relaxed);
    }
}

impl Watched {
    pub(super) fn new(body: Outgoing, progress: &Arc<Progress>) -> Self {
        Watched { body, progress: Arc::clone(progress) }
    }

    /// The body, of which nothing was sent.
    pub(super) fn into_inner(self) -> Outgoing {
        self.body
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.progress.note(frame.is_pending());
        if let Poll::Ready(Some(Err(_))) = &frame {
            self.progress.broken.store(true, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An upstream's answer. Its request counts as in progress until it has ended, and its connection is free then.
pub(crate) struct UpstreamBody {
    inner: Incoming,
    hold: Option<Hold>,
    /// `whole_ms`, if there is one.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// What an answer holds on to.
pub(super) struct Hold {
    pub(super) lease: Lease,
    /// The connection that carries this answer alone; an HTTP/2 connection is shared.
    pub(super) line: Option<Http1>,
}

/// The answer did not end within `whole_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer did not end within timeouts.whole_ms")]
pub(super) struct WholeTooLong;

impl UpstreamBody {
    pub(super) fn new(inner: Incoming, hold: Hold, deadline: Option<Instant>) -> Self {
        let deadline = deadline.map(|end| Box::pin(tokio::time::sleep_until(end)));
        let mut body = UpstreamBody { inner, hold: Some(hold), deadline };
        body.release_at_end();
        body
    }

    fn release_at_end(&mut self) {
        if self.inner.is_end_stream() {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Some(Hold { lease, line: Some(line) }) = self.hold.take() {
            line.give_back(lease.endpoint());
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let late = self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
        if late && self.hold.take().is_some() {
            return Poll::Ready(Some(Err(WholeTooLong.into())));
        }
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(_)) => self.release_at_end(),
            None => self.release(),
            // Whatever is left on the connection cannot be told apart from the next answer: it is closed.
            Some(Err(_)) => self.hold = None,
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
