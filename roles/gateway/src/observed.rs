//! An answer on its way to the client, of which an observer is told when it has ended: how long it was is known only then.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use countersign_sdk::trace::Exchange;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;

use crate::body::BodyError;
use crate::forward::EdgeBody;

/// The answer as it is, with somebody who counts its bytes where somebody wants to know of it.
pub(crate) fn observed(answer: Response<EdgeBody>, exchange: Option<Exchange>) -> Response<EdgeBody> {
    if exchange.is_none() {
        return answer;
    }
    answer.map(|inner| Counted { inner, bytes: 0, exchange }.boxed_unsync())
}

struct Counted {
    inner: EdgeBody,
    bytes: u64,
    exchange: Option<Exchange>,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Sent whole, broken off, or never asked for: it has ended.
impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(exchange) = self.exchange.take() {
            exchange.ended(Some(self.bytes));
        }
    }
}
