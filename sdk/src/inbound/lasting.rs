//! An answer that streams for no longer than its user is proven.

use std::{
    error::Error as StdError,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use crate::authenticate::{UserTerm, UserTermError};

/// The body of a service's answer. It breaks off when the token of the user whom it is for ends or is revoked; with the
/// certificate of the caller, its connection does.
pub struct Lasting<B> {
    inner: Pin<Box<B>>,
    term: Option<UserTerm>,
    /// Armed once a piece is awaited.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> Lasting<B> {
    pub(super) fn new(inner: B, term: Option<UserTerm>) -> Self {
        Self { inner: Box::pin(inner), term, timer: None }
    }
}

impl<B> Body for Lasting<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(Err(ended)) = self.term.as_ref().map(UserTerm::judge) {
            return Poll::Ready(Some(Err(ended.into())));
        }
        if let Poll::Ready(frame) = self.inner.as_mut().poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let Some(ends) = self.term.as_ref().and_then(UserTerm::ends) else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(ends)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Some(Err(UserTermError::Expired.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use http_body_util::{BodyExt as _, Full, StreamBody};

    use super::*;
    use crate::authenticate::term_tests::{LONG, revoke, term};

    type Piece = Result<Frame<Bytes>, std::io::Error>;

    fn pieces() -> impl futures::Stream<Item = Piece> {
        futures::stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(b"."))))
    }

    #[tokio::test]
    async fn an_answer_breaks_off_with_the_token_of_its_user_whether_it_moves_or_not() {
        let soon = || Some(term(Duration::from_millis(60)).0);
        let mut silent = Lasting::new(StreamBody::new(futures::stream::pending::<Piece>()), soon());
        let error = silent.frame().await.unwrap().unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&UserTermError::Expired));
        let mut moving = Lasting::new(StreamBody::new(pieces()), soon());
        let ended = loop {
            match moving.frame().await.unwrap() {
                Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => break error,
            }
        };
        assert_eq!(ended.downcast_ref(), Some(&UserTermError::Expired));
    }

    #[tokio::test]
    async fn an_answer_breaks_off_when_the_token_of_its_user_is_taken_back() {
        let (term, live) = term(LONG);
        let mut moving = Lasting::new(StreamBody::new(pieces()), Some(term.outliving_the_token()));
        assert!(moving.frame().await.unwrap().is_ok());
        revoke(&live);
        let error = moving.frame().await.unwrap().unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(UserTermError::Revoked(_))));
    }

    #[tokio::test]
    async fn an_answer_for_no_user_lasts_for_as_long_as_it_likes() {
        let whole = Lasting::new(Full::new(Bytes::from_static(b"all")), None);
        assert_eq!(whole.collect().await.unwrap().to_bytes(), "all");
    }
}
