//! Bodies that stream through with bounds: so many bytes, and never a pause longer than the setting.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use countersign_http1::is_forbidden_trailer;
use countersign_wire::codes::Code;
use http::{HeaderMap, HeaderValue, header};
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
    /// The connection that it came from broke.
    #[error("the body broke off")]
    BrokenOff,
}

impl BodyError {
    /// Its row of the registry.
    pub(crate) const fn code(self) -> Code {
        match self {
            Self::TooLong { .. } => Code::BodyTooLarge,
            Self::Stalled { .. } => Code::RequestTimeout,
            Self::BrokenOff => Code::BodyMalformed,
        }
    }
}

/// Tells the pipeline afterwards what ended a request body: the client's fault is not the upstream's.
#[derive(Debug, Clone, Default)]
pub(crate) struct BodyFault(Arc<AtomicU8>);

impl BodyFault {
    /// The error that ended the body, if one did.
    pub(crate) fn seen(&self, limits: &BodyLimits) -> Option<BodyError> {
        match self.0.load(Ordering::Acquire) {
            1 => Some(BodyError::TooLong { bytes_max: limits.bytes_max }),
            2 => Some(limits.stalled()),
            3 => Some(BodyError::BrokenOff),
            _ => None,
        }
    }

    fn note(&self, error: BodyError) {
        let code = match error {
            BodyError::TooLong { .. } => 1,
            BodyError::Stalled { .. } => 2,
            BodyError::BrokenOff => 3,
        };
        self.0.store(code, Ordering::Release);
    }
}

/// The bounds of one body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimits {
    /// Bytes in total.
    pub(crate) bytes_max: u64,
    /// Longest pause between two pieces.
    pub(crate) idle_timeout: Duration,
}

impl BodyLimits {
    fn stalled(&self) -> BodyError {
        BodyError::Stalled { after_ms: u64::try_from(self.idle_timeout.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// A body of the inner kind within [`BodyLimits`]. Nothing is buffered: a slow reader slows the sender down.
pub(crate) struct BoundedBody<B> {
    inner: B,
    limits: BodyLimits,
    bytes_left: u64,
    fault: BodyFault,
    // Armed only while a piece is awaited, so that a reader's own pauses are not the sender's fault.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<B> BoundedBody<B> {
    pub(crate) fn new(inner: B, limits: BodyLimits, fault: BodyFault) -> Self {
        BoundedBody { inner, limits, bytes_left: limits.bytes_max, fault, waiting: None }
    }

    fn fail(&self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.fault.note(error);
        Poll::Ready(Some(Err(error)))
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
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
            let idle = this.limits.idle_timeout;
            let timer =
                this.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + idle)));
            ready!(timer.as_mut().poll(cx));
            return this.fail(this.limits.stalled());
        };
        this.waiting = None;
        match frame {
            None => Poll::Ready(None),
            Some(Err(_)) => this.fail(BodyError::BrokenOff),
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    without_forbidden(trailers);
                }
                let length = frame.data_ref().map_or(0, |data| data.remaining() as u64);
                match this.bytes_left.checked_sub(length) {
                    Some(left) => {
                        this.bytes_left = left;
                        Poll::Ready(Some(Ok(frame)))
                    }
                    None => this.fail(BodyError::TooLong { bytes_max: this.limits.bytes_max }),
                }
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
        BodyLimits { bytes_max, idle_timeout: Duration::from_millis(50) }
    }

    #[tokio::test]
    async fn accepts_a_body_of_exactly_the_limit() {
        let fault = BodyFault::default();
        let body = BoundedBody::new(Full::new(Bytes::from_static(b"12345")), limits(5), fault.clone());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "12345");
        assert_eq!(fault.seen(&limits(5)), None);
    }

    #[tokio::test]
    async fn rejects_a_body_one_byte_past_the_limit() {
        let fault = BodyFault::default();
        let body = BoundedBody::new(Full::new(Bytes::from_static(b"123456")), limits(5), fault.clone());
        assert_eq!(body.collect().await.unwrap_err(), BodyError::TooLong { bytes_max: 5 });
        assert_eq!(fault.seen(&limits(5)), Some(BodyError::TooLong { bytes_max: 5 }));
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
        assert_eq!(fault.seen(&limits(5)), Some(BodyError::Stalled { after_ms: 50 }));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_told_from_one_that_ends() {
        let broken = futures::stream::iter([Err::<Frame<Bytes>, _>(BodyError::Stalled { after_ms: 1 })]);
        let fault = BodyFault::default();
        let body = BoundedBody::new(StreamBody::new(broken), limits(5), fault.clone());
        assert_eq!(body.collect().await.unwrap_err(), BodyError::BrokenOff);
        assert_eq!(fault.seen(&limits(5)), Some(BodyError::BrokenOff));
    }
}
