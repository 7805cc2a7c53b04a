//! A request's body that outlives the handler which does not want it.
//!
//! A handler may answer before it has read the whole body: every refusal does. HTTP/2 then resets the stream, and
//! clients that are still sending take that for a failure and lose the answer (curl 7.88 does, although RFC 9113
//! section 8.1 allows the reset). So what is left of the body is put aside until the answer is out, and then read to its
//! end, as long as that is near.

use std::{
    fmt,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::Progress;

/// The body of a request as an accept loop hands it out.
#[derive(Debug)]
pub struct RequestBody {
    source: Source,
    progress: Option<Progress>,
}

enum Source {
    Nothing,
    /// Of a body that was read already.
    Whole(Bytes),
    /// As hyper reads it, and where it goes when nobody wants it.
    Hyper(Incoming, Aside),
    /// As another codec reads it, which sees by the drop of it that nobody wants it.
    Streamed(Pin<Box<dyn Body<Data = Bytes, Error = BrokenBody> + Send>>),
}

/// The body of a request ended before its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request body broke off: {why}")]
pub struct BrokenBody {
    /// What the codec says.
    pub why: String,
}

/// Where an unread rest waits for the end of the answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Aside(Arc<Mutex<Option<Incoming>>>);

/// Held until the answer is out; then the rest is read and forgotten.
#[derive(Debug)]
pub(super) struct Linger(pub(super) Aside);

impl Drop for Linger {
    fn drop(&mut self) {
        let rest = self.0.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(rest), Ok(runtime)) = (rest, tokio::runtime::Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(DRAIN_TIME_MAX, drain(rest)));
        }
    }
}

/// Reads to the end, or as far as it is worth it, and keeps nothing of it.
async fn drain<B: Body<Data = Bytes>>(rest: B) {
    let (mut rest, mut left) = (pin!(rest), DRAIN_BYTES_MAX);
    while let Some(Ok(frame)) = rest.frame().await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        let Some(still) = left.checked_sub(bytes) else { return };
        left = still;
    }
}

impl RequestBody {
    pub(super) const fn new(body: Incoming, aside: Aside) -> Self {
        Self::of(Source::Hyper(body, aside))
    }

    /// A body that a codec other than hyper reads.
    #[must_use]
    pub fn streamed(body: impl Body<Data = Bytes, Error = BrokenBody> + Send + 'static) -> Self {
        Self::of(Source::Streamed(Box::pin(body)))
    }

    /// Tells `progress` whenever it moves.
    #[must_use]
    pub fn telling(mut self, progress: Progress) -> Self {
        self.progress = Some(progress);
        self
    }

    const fn of(source: Source) -> Self {
        Self { source, progress: None }
    }
}

impl From<Bytes> for RequestBody {
    fn from(bytes: Bytes) -> Self {
        Self::of(if bytes.is_empty() { Source::Nothing } else { Source::Whole(bytes) })
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        if let Some(Err(ended)) = self.progress.as_ref().map(Progress::may_go_on) {
            return Poll::Ready(Some(Err(BrokenBody { why: ended.to_string() })));
        }
        let frame = match &mut self.source {
            Source::Nothing => Poll::Ready(None),
            Source::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.source = Source::Nothing;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Source::Hyper(body, _) => {
                Pin::new(body).poll_frame(cx).map_err(|error| BrokenBody { why: error.to_string() })
            }
            Source::Streamed(body) => body.as_mut().poll_frame(cx),
        };
        if let Some(progress) = &self.progress {
            progress.asked(frame.is_ready());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Nothing => true,
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Hyper(body, _) => body.is_end_stream(),
            Source::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Nothing => SizeHint::with_exact(0),
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Hyper(body, _) => body.size_hint(),
            Source::Streamed(body) => body.size_hint(),
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Source::Hyper(body, aside) = std::mem::replace(&mut self.source, Source::Nothing)
            && !body.is_end_stream()
        {
            *aside.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Whole(_) => "whole",
            Self::Hyper(..) => "hyper",
            Self::Streamed(_) => "streamed",
        })
    }
}

/// A longer rest is not worth its bandwidth: the stream is reset.
const DRAIN_BYTES_MAX: usize = 64 * 1024;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::StreamBody;

    use super::*;

    /// A kilobyte that is counted as long as somebody keeps it.
    struct Kept(Arc<AtomicUsize>);

    impl AsRef<[u8]> for Kept {
        fn as_ref(&self) -> &[u8] {
            &[0; 1024]
        }
    }

    impl Drop for Kept {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn what_nobody_wants_is_not_kept_while_it_is_read_to_its_end() {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let (given, kept) = (AtomicUsize::new(0), Arc::clone(&now));
        let pieces = std::iter::repeat_with(|| {
            given.fetch_add(1, Ordering::Relaxed);
            most.fetch_max(kept.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            Ok::<_, BrokenBody>(Frame::data(Bytes::from_owner(Kept(Arc::clone(&kept)))))
        });
        drain(StreamBody::new(futures::stream::iter(pieces))).await;
        assert_eq!((most.into_inner(), now.load(Ordering::Relaxed)), (1, 0));
        assert_eq!(given.into_inner(), DRAIN_BYTES_MAX / 1024 + 1, "the limit is another one");
    }
}
