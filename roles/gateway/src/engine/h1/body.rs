//! The body of a request on its way from the connection's task to whoever reads it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use countersign_http1::{BodyDecoder, BodyError, BodyEvent, BodyLength};
use countersign_sdk::accept::BrokenBody;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{mpsc, oneshot};

/// What travels: a piece, or `None` for the end. A channel that ends without it broke off.
type Piece = Result<Option<Frame<Bytes>>, BrokenBody>;

/// The reader's end.
pub(super) struct FedBody {
    pieces: mpsc::Receiver<Piece>,
    /// Told with the first read.
    wanted: Option<oneshot::Sender<()>>,
    /// Of a body with a stated length.
    left: Option<u64>,
    ended: bool,
}

/// The connection's end.
pub(super) struct Feed {
    pieces: mpsc::Sender<Piece>,
    pub(super) wanted: oneshot::Receiver<()>,
}

/// Both ends. At most [`PIECES_WAITING_MAX`] pieces wait between them: a slow reader slows the client down.
pub(super) fn channel(length: BodyLength) -> (Feed, FedBody) {
    let (sender, pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let (told, wanted) = oneshot::channel();
    let left = match length {
        BodyLength::None => Some(0),
        BodyLength::Exact(bytes) => Some(bytes),
        BodyLength::Chunked | BodyLength::UntilClose => None,
    };
    let body = FedBody { pieces, wanted: Some(told), left, ended: false };
    (Feed { pieces: sender, wanted }, body)
}

/// How feeding went on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// Everything in the buffer was passed on; more has to be read.
    More,
    /// The body has ended, and its reader knows.
    Ended,
    /// Nobody wants the rest.
    Unwanted,
    /// It cannot be read in one way: the connection is of no use any more.
    Broken,
}

impl Feed {
    /// Passes on what is in `input`.
    pub(super) async fn feed(&self, input: &mut BytesMut, decoder: &mut BodyDecoder) -> Fed {
        loop {
            // First a place for it, so that nothing is taken out of the buffer that has nowhere to go.
            let Ok(place) = self.pieces.reserve().await else { return Fed::Unwanted };
            match decoder.decode(input) {
                Ok(step) => match step.event {
                    BodyEvent::Data(data) => {
                        // The data is the end of what was consumed.
                        let (data, consumed) = (data.len(), step.consumed);
                        let taken = input.split_to(consumed).freeze();
                        place.send(Ok(Some(Frame::data(taken.slice(consumed.saturating_sub(data)..)))));
                    }
                    BodyEvent::More => {
                        let consumed = step.consumed;
                        drop(input.split_to(consumed));
                        return Fed::More;
                    }
                    BodyEvent::End => {
                        let consumed = step.consumed;
                        drop(input.split_to(consumed));
                        if !decoder.trailers().is_empty() {
                            place.send(Ok(Some(Frame::trailers(decoder.trailers().clone()))));
                            let Ok(place) = self.pieces.reserve().await else { return Fed::Ended };
                            place.send(Ok(None));
                        } else {
                            place.send(Ok(None));
                        }
                        return Fed::Ended;
                    }
                },
                Err(error) => {
                    place.send(Err(broken(&error)));
                    return Fed::Broken;
                }
            }
        }
    }

    /// The client sent no more.
    pub(super) async fn end_of_input(&self, decoder: &mut BodyDecoder) -> Fed {
        if let Err(error) = decoder.end_of_input()
            && let Ok(place) = self.pieces.reserve().await
        {
            place.send(Err(broken(&error)));
        }
        Fed::Broken
    }
}

fn broken(error: &BodyError) -> BrokenBody {
    BrokenBody { why: error.to_string() }
}

impl Body for FedBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(wanted) = self.wanted.take() {
            // A connection that does not wait for this word is not interested in it.
            let _ = wanted.send(());
        }
        let piece = ready!(self.pieces.poll_recv(cx));
        let piece = piece.unwrap_or_else(|| Err(BrokenBody { why: "the connection ended".to_owned() }));
        self.ended = !matches!(piece, Ok(Some(_)));
        if let (Ok(Some(frame)), Some(left)) = (&piece, self.left) {
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            self.left = Some(left.saturating_sub(length));
        }
        Poll::Ready(piece.transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Each holds at most what one read gave.
const PIECES_WAITING_MAX: usize = 2;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use countersign_http1::Limits;
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_body_arrives_whole_with_its_trailers_and_its_end() {
        let (feed, body) = channel(BodyLength::Chunked);
        let mut decoder = BodyDecoder::of_request(BodyLength::Chunked, Limits::default());
        let mut input = BytesMut::from(&b"3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 5\r\n\r\nGET /next"[..]);
        let (fed, read) = tokio::join!(feed.feed(&mut input, &mut decoder), body.collect());
        assert_eq!(fed, Fed::Ended);
        assert_eq!(&input[..], b"GET /next");
        let read = read.unwrap();
        assert_eq!(read.trailers().unwrap()["x-sum"], "5");
        assert_eq!(read.to_bytes(), "abcde");
    }

    #[tokio::test]
    async fn a_connection_that_ends_too_soon_is_no_end_of_the_body() {
        let (feed, body) = channel(BodyLength::Exact(5));
        let mut decoder = BodyDecoder::of_request(BodyLength::Exact(5), Limits::default());
        let mut input = BytesMut::from(&b"abc"[..]);
        let feeding = async {
            assert_eq!(feed.feed(&mut input, &mut decoder).await, Fed::More);
            feed.end_of_input(&mut decoder).await
        };
        let (fed, read) = tokio::join!(feeding, body.collect());
        assert_eq!(fed, Fed::Broken);
        assert!(read.is_err());

        let (feed, body) = channel(BodyLength::Exact(5));
        drop(feed);
        assert_eq!(body.collect().await.unwrap_err().why, "the connection ended");
    }

    #[tokio::test]
    async fn what_nobody_wants_stays_in_the_buffer() {
        let (feed, body) = channel(BodyLength::Exact(3));
        drop(body);
        let mut decoder = BodyDecoder::of_request(BodyLength::Exact(3), Limits::default());
        let mut input = BytesMut::from(&b"abc"[..]);
        assert_eq!(feed.feed(&mut input, &mut decoder).await, Fed::Unwanted);
        assert_eq!(&input[..], b"abc");
    }

    #[tokio::test]
    async fn a_body_that_breaks_the_framing_is_an_error_for_its_reader() {
        let (feed, body) = channel(BodyLength::Chunked);
        let mut decoder = BodyDecoder::of_request(BodyLength::Chunked, Limits::default());
        let mut input = BytesMut::from(&b"zz\r\n"[..]);
        let (fed, read) = tokio::join!(feed.feed(&mut input, &mut decoder), body.collect());
        assert_eq!(fed, Fed::Broken);
        assert!(read.is_err());
    }
}
