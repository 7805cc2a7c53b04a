//! A request's body that outlives the handler which does not want it.
//!
//! A handler may answer before it has read the whole body: every refusal does. HTTP/2 then resets the stream, and
//! clients that are still sending take that for a failure and lose the answer (curl 7.88 does, although RFC 9113
//! section 8.1 allows the reset). So what is left of the body is put aside until the answer is out, and then read to its
//! end, as long as that is near.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;

/// The body of a request as an accept loop hands it out.
#[derive(Debug)]
pub struct RequestBody {
    body: Option<Incoming>,
    /// Of a body that was read already.
    whole: Option<Bytes>,
    aside: Aside,
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
            let drained = Limited::new(rest, DRAIN_BYTES_MAX).collect();
            runtime.spawn(tokio::time::timeout(DRAIN_TIME_MAX, drained));
        }
    }
}

impl RequestBody {
    pub(super) fn new(body: Incoming, aside: Aside) -> Self {
        Self { body: Some(body), whole: None, aside }
    }
}

impl From<Bytes> for RequestBody {
    fn from(bytes: Bytes) -> Self {
        let whole = Some(bytes).filter(|bytes| !bytes.is_empty());
        Self { body: None, whole, aside: Aside::default() }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(self.whole.take().map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().map_or(self.whole.is_none(), Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read = || SizeHint::with_exact(self.whole.as_ref().map_or(0, |bytes| bytes.len() as u64));
        self.body.as_ref().map_or_else(read, Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            *self.aside.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}

/// A longer rest is not worth its bandwidth: the stream is reset.
const DRAIN_BYTES_MAX: usize = 64 * 1024;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);
