//! Bodies that stream through with bounds: so many bytes, never a pause longer than the setting, and not so slowly that
//! only a machine meant to tie us up would send so.

use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use countersign_http1::is_forbidden_trailer;
use countersign_sdk::accept::{Progress, Stalled};
use countersign_wire::codes::Code;
use http::{HeaderMap, HeaderValue, Request, header};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// What went wrong with a body while it streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// More bytes than the limit.
    #[error("the body is longer than {bytes_max} bytes")]
    TooLong {
        /// The limit.
        bytes_max: u64,
    },
    /// The sender paused for longer than the limit.
    #[error("the body paused for more than {after_ms} ms")]
    Stalled {
        /// The limit.
        after_ms: u64,
    },
    /// The sender was waited for longer than what it sent is worth.
    #[error("the body came with fewer than {bytes_s} bytes a second")]
    TooSlow {
        /// The limit.
        bytes_s: u64,
    },
    /// The whole exchange had so much time, and no more.
    #[error("the body did not end in the time that the whole exchange has")]
    OutOfTime,
    /// The connection that it came from broke.
    #[error("the body broke off")]
    BrokenOff,
}

impl BodyError {
    /// Its row of the registry.
    pub(crate) const fn code(self) -> Code {
        match self {
            Self::TooLong { .. } => Code::BodyTooLarge,
            Self::Stalled { .. } | Self::TooSlow { .. } | Self::OutOfTime => Code::RequestTimeout,
            Self::BrokenOff => Code::BodyMalformed,
        }
    }
}

/// Tells the pipeline afterwards what ended a request body: the client's fault is not the upstream's.
#[derive(Debug, Clone, Default)]
pub(crate) struct BodyFault(Arc<OnceLock<BodyError>>);

impl BodyFault {
    /// The error that ended the body, if one did.
    pub(crate) fn seen(&self) -> Option<BodyError> {
        self.0.get().copied()
    }

    /// The first one counts.
    fn note(&self, error: BodyError) {
        let _ = self.0.set(error);
    }
}

/// The bounds of one body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimits {
    /// Bytes in total.
    pub(crate) bytes_max: u64,
    /// Longest pause between two pieces.
    pub(crate) idle_timeout: Duration,
    /// How slowly it may come.
    pub(crate) slowest: Option<Slowest>,
}

/// How long a sender is waited for in sum: `grace`, and a second more for each `bytes_s` that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slowest {
    pub(crate) bytes_s: NonZeroU64,
    pub(crate) grace: Duration,
}

/// The time of one exchange, shared by the bodies of both directions: while one of them moves, the other may pause.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pace {
    /// `None`: there is but one body.
    pub(crate) progress: Option<Progress>,
    /// When all of it has to be over.
    pub(crate) ends: Option<Instant>,
}

impl BodyLimits {
    fn stalled(&self) -> BodyError {
        BodyError::Stalled { after_ms: u64::try_from(self.idle_timeout.as_millis()).unwrap_or(u64::MAX) }
    }
}

impl Slowest {
    /// How long whoever sent so many bytes may have been waited for.
    fn worth(&self, bytes: u64) -> Duration {
        self.grace.saturating_add(Duration::from_millis(bytes.saturating_mul(1000) / self.bytes_s))
    }
}

impl Pace {
    /// For an exchange that began with `request`, and has `total` if that is limited.
    pub(crate) fn of<B>(request: &Request<B>, total: Option<Duration>) -> Self {
        let progress = request.extensions().get::<Progress>().cloned();
        Pace { progress, ends: total.and_then(|total| Instant::now().checked_add(total)) }
    }

    /// Does `work`, unless nothing moves for `limit`, or the time of the exchange is over.
    pub(crate) async fn within<F: Future>(&self, limit: Duration, work: F) -> Result<F::Output, Stalled> {
        let work = Progress::of(self.progress.as_ref(), limit, work);
        match self.ends {
            None => work.await,
            Some(ends) => tokio::time::timeout_at(ends, work).await.map_err(|_| Stalled)?,
        }
    }

    fn moved(&self) {
        if let Some(progress) = &self.progress {
            progress.moved();
        }
    }

    /// When something last moved in either direction, `since` or after.
    fn last(&self, since: Instant) -> Instant {
        self.progress.as_ref().map_or(since, |progress| progress.last().max(since))
    }
}

/// A body of the inner kind within [`BodyLimits`]. Nothing is buffered: a slow reader slows the sender down.
pub(crate) struct BoundedBody<B> {
    inner: B,
    limits: BodyLimits,
    bytes: u64,
    fault: BodyFault,
    pace: Pace,
    /// Its sender was waited for, before now.
    waited: Duration,
    waiting: Option<Waiting>,
}

/// Armed only while a piece is awaited, so that a reader's own pauses are not the sender's fault.
struct Waiting {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<B> BoundedBody<B> {
    pub(crate) fn new(inner: B, limits: BodyLimits, fault: BodyFault) -> Self {
        let (pace, waited) = (Pace::default(), Duration::ZERO);
        BoundedBody { inner, limits, bytes: 0, fault, pace, waited, waiting: None }
    }

    /// The same as one of the two bodies of an exchange.
    pub(crate) fn paced(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    fn fail(&self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.fault.note(error);
        Poll::Ready(Some(Err(error)))
    }

    /// Waits for the next piece no longer than every limit allows.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let since = self.waiting.as_ref().map_or_else(Instant::now, |waiting| waiting.since);
        loop {
            let (end, error) = self.end(since);
            let waiting = self
                .waiting
                .get_or_insert_with(|| Waiting { since, timer: Box::pin(tokio::time::sleep_until(end)) });
            if waiting.timer.deadline() != end {
                waiting.timer.as_mut().reset(end);
            }
            ready!(waiting.timer.as_mut().poll(cx));
            // The other direction may have moved meanwhile.
            if self.end(since).0 <= end {
                return self.fail(error);
            }
        }
    }

    /// When waiting that began at `since` is over, and what to say then.
    fn end(&self, since: Instant) -> (Instant, BodyError) {
        let mut end = (self.pace.last(since) + self.limits.idle_timeout, self.limits.stalled());
        if let Some(slowest) = self.limits.slowest {
            let left = slowest.worth(self.bytes).saturating_sub(self.waited);
            let slow = (since + left, BodyError::TooSlow { bytes_s: slowest.bytes_s.get() });
            end = if slow.0 < end.0 { slow } else { end };
        }
        match self.pace.ends {
            Some(ends) if ends < end.0 => (ends, BodyError::OutOfTime),
            _ => end,
        }
    }
}

impl<B> Body for BoundedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.pace.ends.is_some_and(|ends| ends <= Instant::now()) {
            return this.fail(BodyError::OutOfTime);
        }
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else { return this.wait(cx) };
        if let Some(waiting) = this.waiting.take() {
            this.waited = this.waited.saturating_add(waiting.since.elapsed());
        }
        this.pace.moved();
        match frame {
            None => Poll::Ready(None),
            Some(Err(_)) => this.fail(BodyError::BrokenOff),
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    without_forbidden(trailers);
                }
                let length = frame.data_ref().map_or(0, |data| data.remaining() as u64);
                this.bytes = this.bytes.saturating_add(length);
                if this.bytes > this.limits.bytes_max {
                    return this.fail(BodyError::TooLong { bytes_max: this.limits.bytes_max });
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Says how a body whose length nobody knows travels over HTTP/1.1: in chunks, whatever the method is. Without this word,
/// hyper sends a GET without its body, which is another request than the one that was decided.
pub(crate) fn state_framing(headers: &mut HeaderMap, body: &impl Body) {
    if body.size_hint().exact().is_none() && !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// HTTP/2 carries trailers that our codec for HTTP/1 refuses: what would mean something in a head goes nowhere.
fn without_forbidden(trailers: &mut HeaderMap) {
    let forbidden: Vec<_> =
        trailers.keys().filter(|name| is_forbidden_trailer(name.as_str())).cloned().collect();
    for name in forbidden {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http_body_util::{BodyExt as _, Full, StreamBody};

    use super::*;

    fn limits(bytes_max: u64) -> BodyLimits {
        BodyLimits { bytes_max, idle_timeout: Duration::from_millis(50), slowest: None }
    }

    #[tokio::test]
    async fn accepts_a_body_of_exactly_the_limit() {
        let fault = BodyFault::default();
        let body = BoundedBody::new(Full::new(Bytes::from_static(b"12345")), limits(5), fault.clone());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "12345");
        assert_eq!(fault.seen(), None);
    }

    #[tokio::test]
    async fn rejects_a_body_one_byte_past_the_limit() {
        let fault = BodyFault::default();
        let body = BoundedBody::new(Full::new(Bytes::from_static(b"123456")), limits(5), fault.clone());
        assert_eq!(body.collect().await.unwrap_err(), BodyError::TooLong { bytes_max: 5 });
        assert_eq!(fault.seen(), Some(BodyError::TooLong { bytes_max: 5 }));
    }

    #[tokio::test]
    async fn trailers_that_would_mean_something_in_a_head_go_nowhere() {
        let mut trailers = HeaderMap::new();
        for name in ["x-user", "txn-token", "authorization", "connection", "grpc-status"] {
            trailers.insert(name, HeaderValue::from_static("0"));
        }
        let frames =
            [Ok::<_, BodyError>(Frame::data(Bytes::from_static(b"1"))), Ok(Frame::trailers(trailers))];
        let body = StreamBody::new(futures::stream::iter(frames));
        let read = BoundedBody::new(body, limits(5), BodyFault::default()).collect().await.unwrap();
        let left: Vec<_> = read.trailers().unwrap().keys().cloned().collect();
        assert_eq!(left, ["grpc-status"]);
    }

    #[tokio::test]
    async fn rejects_a_body_that_pauses_too_long() {
        let silent = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, BodyError>>());
        let fault = BodyFault::default();
        let body = BoundedBody::new(silent, limits(5), fault.clone());
        assert_eq!(body.collect().await.unwrap_err(), BodyError::Stalled { after_ms: 50 });
        assert_eq!(fault.seen(), Some(BodyError::Stalled { after_ms: 50 }));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_told_from_one_that_ends() {
        let broken = futures::stream::iter([Err::<Frame<Bytes>, _>(BodyError::Stalled { after_ms: 1 })]);
        let fault = BodyFault::default();
        let body = BoundedBody::new(StreamBody::new(broken), limits(5), fault.clone());
        assert_eq!(body.collect().await.unwrap_err(), BodyError::BrokenOff);
        assert_eq!(fault.seen(), Some(BodyError::BrokenOff));
    }

    /// Gives a byte whenever so much time has passed.
    fn dripping(pause: Duration) -> impl Body<Data = Bytes, Error = BodyError> + Unpin {
        let drops = futures::stream::unfold((), move |()| async move {
            tokio::time::sleep(pause).await;
            Some((Ok::<_, BodyError>(Frame::data(Bytes::from_static(b"."))), ()))
        });
        StreamBody::new(Box::pin(drops))
    }

    #[tokio::test]
    async fn rejects_a_body_that_never_pauses_and_drips() {
        let slowest = Slowest { bytes_s: NonZeroU64::new(1000).unwrap(), grace: Duration::from_millis(100) };
        let limits = BodyLimits { slowest: Some(slowest), ..limits(u64::MAX) };
        let fault = BodyFault::default();
        let body = BoundedBody::new(dripping(Duration::from_millis(10)), limits, fault.clone());
        assert_eq!(body.collect().await.unwrap_err(), BodyError::TooSlow { bytes_s: 1000 });
        assert_eq!(fault.seen(), Some(BodyError::TooSlow { bytes_s: 1000 }));
        assert_eq!(slowest.worth(500), Duration::from_millis(600));
    }

    #[tokio::test]
    async fn rejects_a_body_that_outlives_the_time_of_its_exchange() {
        let pace = Pace { progress: None, ends: Some(Instant::now() + Duration::from_millis(100)) };
        let body =
            BoundedBody::new(dripping(Duration::from_millis(10)), limits(u64::MAX), BodyFault::default());
        assert_eq!(body.paced(pace).collect().await.unwrap_err(), BodyError::OutOfTime);
    }

    #[tokio::test]
    async fn a_direction_may_pause_for_as_long_as_the_other_moves() {
        let progress = Progress::begin();
        let pace = Pace { progress: Some(progress.clone()), ends: None };
        let silent = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, BodyError>>());
        let mut quiet = BoundedBody::new(silent, limits(5), BodyFault::default()).paced(pace);
        let other = async {
            for _ in 0..12 {
                tokio::time::sleep(Duration::from_millis(15)).await;
                progress.moved();
            }
        };
        tokio::select! {
            ended = quiet.frame() => panic!("it was ended while the other direction moved: {ended:?}"),
            () = other => {}
        }
        assert_eq!(quiet.frame().await.unwrap().unwrap_err(), BodyError::Stalled { after_ms: 50 });
    }
}
