//! An answer on its way to the client: its head, then its body as it comes.

use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use countersign_http1::{BodyLength, encode};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header};
use http_body::{Body as _, Frame};

use super::{Client, End};
use crate::body::BodyError;
use crate::engine::watch::Interrupt;
use crate::forward::EdgeBody;

/// What an answer depends on besides itself.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) keep_alive: bool,
}

/// An answer whose head is in the outbox.
pub(super) struct Answering {
    body: Pin<Box<EdgeBody>>,
    length: BodyLength,
    /// May the connection be used again, as far as the answer is concerned?
    pub(super) keep_alive: bool,
}

/// Puts the head of `answer` into the outbox of `client`.
pub(super) fn begin(client: &mut Client, question: &Question, answer: Response<EdgeBody>) -> Answering {
    let (mut head, body) = answer.into_parts();
    let wants_close = says_close(&head.headers);
    let length = length(question, head.status, &head.headers, &body);
    let keep_alive = question.keep_alive && !wants_close && length != BodyLength::UntilClose;
    let stated = head.headers.remove(header::CONTENT_LENGTH);
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::TRAILER] {
        head.headers.remove(name);
    }
    let date = client.watched.date();
    let mut writer = encode::response(client.out.bytes(), head.status);
    writer.fields(&head.headers);
    if !head.headers.contains_key(header::DATE) {
        writer.field(&header::DATE, &date);
    }
    if !keep_alive {
        writer.field(&header::CONNECTION, &CLOSE);
    } else if question.version == Version::HTTP_10 {
        writer.field(&header::CONNECTION, &KEEP_ALIVE);
    }
    // What would follow a GET is stated to HEAD, where nothing follows.
    if let Some(stated) = stated.filter(|_| question.method == Method::HEAD) {
        writer.field(&header::CONTENT_LENGTH, &stated);
    }
    writer.finish(length);
    Answering { body: Box::pin(body), length, keep_alive }
}

fn says_close(headers: &HeaderMap) -> bool {
    let listed = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    listed.flat_map(|value| value.split(',')).any(|option| option.trim().eq_ignore_ascii_case("close"))
}

/// RFC 9112 section 6.3, for answers that we write.
fn length(question: &Question, status: StatusCode, headers: &HeaderMap, body: &EdgeBody) -> BodyLength {
    let has_none = status.is_informational()
        || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
        || question.method == Method::HEAD;
    if has_none {
        return BodyLength::None;
    }
    let stated = headers.get(header::CONTENT_LENGTH);
    let stated = stated.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match (body.size_hint().exact().or(stated), question.version) {
        (Some(bytes), _) => BodyLength::Exact(bytes),
        (None, Version::HTTP_10) => BodyLength::UntilClose,
        (None, _) => BodyLength::Chunked,
    }
}

impl Answering {
    /// Writes the body as it comes, with the head before it. Says whether the connection may be used again.
    pub(super) async fn write(mut self, client: &mut super::Outgoing<'_>) -> Result<bool, End> {
        if self.length == BodyLength::None {
            client.flush().await?;
            return Ok(self.keep_alive);
        }
        let mut left = match self.length {
            BodyLength::Exact(bytes) => bytes,
            _ => u64::MAX,
        };
        loop {
            let frame = match self.frame_at_once().await {
                Some(frame) => frame,
                None => {
                    client.flush().await?;
                    self.next_frame(client).await?
                }
            };
            match frame {
                // What was promised and does not come can only be told by breaking off.
                Some(Err(_)) => return Err(End::Broken),
                None => break,
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        left = left.checked_sub(data.len() as u64).ok_or(End::Broken)?;
                        self.add(client, &data);
                        if client.out.is_full() {
                            client.flush().await?;
                        }
                    }
                    Err(frame) => {
                        if let (Ok(trailers), BodyLength::Chunked) = (frame.into_trailers(), self.length) {
                            encode::last_chunk(client.out.bytes(), &trailers);
                            client.flush().await?;
                            return Ok(self.keep_alive);
                        }
                    }
                },
            }
        }
        match self.length {
            BodyLength::Exact(_) if left > 0 => return Err(End::Broken),
            BodyLength::Chunked => encode::last_chunk(client.out.bytes(), &HeaderMap::new()),
            _ => {}
        }
        client.flush().await?;
        Ok(self.keep_alive)
    }

    fn add(&self, client: &mut super::Outgoing<'_>, data: &Bytes) {
        match self.length {
            BodyLength::Chunked => encode::chunk(client.out.bytes(), data),
            _ => client.out.bytes().extend_from_slice(data),
        }
    }

    /// A frame that need not be waited for: small answers go out with their heads.
    async fn frame_at_once(&mut self) -> Option<Option<Result<Frame<Bytes>, BodyError>>> {
        std::future::poll_fn(|cx| match self.body.as_mut().poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Some(frame)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    async fn next_frame(
        &mut self,
        client: &super::Outgoing<'_>,
    ) -> Result<Option<Result<Frame<Bytes>, BodyError>>, End> {
        // Its own bounds end a body that pauses; here only the end of the connection does.
        client.watched.begin_without_end();
        let frame = std::future::poll_fn(|cx| self.body.as_mut().poll_frame(cx));
        client.watched.busy(frame).await.map_err(|_: Interrupt| End::Broken)
    }
}

pub(super) const CLOSE: HeaderValue = HeaderValue::from_static("close");
pub(super) const KEEP_ALIVE: HeaderValue = HeaderValue::from_static("keep-alive");
