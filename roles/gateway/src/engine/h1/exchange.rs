//! One request with every feature, and its answer.

use std::pin::pin;
use std::task::Poll;

use bytes::{Buf as _, BytesMut};
use countersign_http1::{BodyDecoder, BodyLength, RequestHead, encode};
use countersign_request::Head as _;
use countersign_sdk::accept::{Connection, Progress, RequestBody, Stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};

use super::answer::{self, Question};
use super::body::{self, Fed, Feed};
use super::{Client, End, Outgoing};
use crate::engine::listen::Seated;
use crate::engine::wire::Wire;
use crate::upgrade::Leaving;

/// A request whose head was read.
pub(super) struct Asked {
    request: Request<()>,
    body: BodyLength,
    expects_continue: bool,
    keep_alive: bool,
}

impl Asked {
    /// `None`: a target that no URI has.
    pub(super) fn of(head: &RequestHead<'_>, connection: &Connection) -> Option<Self> {
        let mut request = Request::new(());
        *request.method_mut() = head.canonical.method().clone();
        *request.uri_mut() = Uri::try_from(head.target).ok()?;
        *request.version_mut() = head.version;
        let fields = head.canonical.fields();
        let mut headers = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
        }
        *request.headers_mut() = headers;
        request.extensions_mut().insert(connection.clone());
        let (body, expects_continue, keep_alive) = (head.body, head.expects_continue, head.keep_alive);
        Some(Self { request, body, expects_continue, keep_alive })
    }
}

impl Client {
    /// Answers a request. Says whether the connection may be used for another.
    pub(super) async fn exchange(&mut self, asked: Asked) -> Result<bool, End> {
        let Asked { request, body, expects_continue, keep_alive } = asked;
        let question = Question { method: request.method().clone(), version: request.version(), keep_alive };
        if let Some(whole) = self.whole_body(body) {
            let answering = self.answers.answer(request.map(|()| whole));
            self.watched.begin_without_end();
            let mut answer = self.watched.busy(answering).await?;
            if let Some(tunnel) = Leaving::of(&mut answer) {
                return Box::pin(self.leave(answer, tunnel)).await;
            }
            let keep = self.keep(&question);
            let answering = answer::begin(self, &keep, answer);
            return answering.write(&mut self.outgoing()).await;
        }
        self.stream(request, body, expects_continue, question).await
    }

    /// A body that is there already, or none.
    fn whole_body(&mut self, length: BodyLength) -> Option<RequestBody> {
        let bytes = match length {
            BodyLength::None => 0,
            BodyLength::Exact(bytes) => usize::try_from(bytes).ok()?,
            BodyLength::Chunked | BodyLength::UntilClose => return None,
        };
        (self.input.len() >= bytes).then(|| self.input.split_to(bytes).freeze().into())
    }

    /// An order to drain that came meanwhile is told with the answer.
    pub(super) fn keep(&self, question: &Question) -> Question {
        let keep_alive = question.keep_alive && !self.watched.drains();
        Question { keep_alive, ..question.clone() }
    }

    /// Body and answer at the same time.
    async fn stream(
        &mut self,
        request: Request<()>,
        length: BodyLength,
        expects_continue: bool,
        question: Question,
    ) -> Result<bool, End> {
        let (mut feed, body) = body::channel(length);
        let mut decoder = BodyDecoder::of_request(length, self.limits);
        let (mut request, progress) = (request, Progress::begin());
        request.extensions_mut().insert(progress.clone());
        let body = RequestBody::streamed(body).telling(progress);
        let mut answering = self.answers.answer(request.map(|()| body));
        let early = if expects_continue { self.invite(&mut feed, &mut answering).await? } else { None };
        let (waits, mut fed) = (early.is_some(), None);
        let answer = match early {
            Some(answer) => answer,
            None => {
                let feeding = feeding(&self.wire, &feed, &mut self.input, &mut decoder);
                self.watched.begin_without_end();
                self.watched.busy(beside(feeding, &mut fed, answering)).await?
            }
        };
        let mut keep = self.keep(&question);
        // A client that was not asked for its body may send it or not: what follows cannot be told apart.
        keep.keep_alive &= !waits;
        let answering = answer::begin(self, &keep, answer);
        if waits {
            return answering.write(&mut self.outgoing()).await;
        }
        let mut out = Outgoing { wire: &self.wire, out: &mut self.out, watched: &self.watched };
        let writing = answering.write(&mut out);
        let keep_alive =
            beside(feeding(&self.wire, &feed, &mut self.input, &mut decoder), &mut fed, writing).await?;
        drop(feed);
        Ok(keep_alive && self.skip(fed, &mut decoder).await?)
    }

    /// Asks for the body with its first read, and never after the answer has begun (RFC 9110 section 10.1.1). An answer
    /// that needed no body is given back.
    async fn invite<T>(
        &mut self,
        feed: &mut Feed,
        answering: &mut (impl Future<Output = T> + Unpin),
    ) -> Result<Option<T>, End> {
        self.watched.begin_without_end();
        let early = async {
            tokio::select! {
                biased;
                answer = answering => Some(answer),
                _ = &mut feed.wanted => None,
            }
        };
        let early = self.watched.busy(early).await?;
        if early.is_none() {
            self.out.bytes().extend_from_slice(encode::CONTINUE);
            self.outgoing().flush().await?;
        }
        Ok(early)
    }

    /// Reads a rest that nobody wanted, if it is short: then the connection is still good for the next request.
    async fn skip(&mut self, fed: Option<Fed>, decoder: &mut BodyDecoder) -> Result<bool, End> {
        match fed {
            Some(Fed::Ended) => return Ok(true),
            Some(Fed::Broken) => return Ok(false),
            Some(Fed::More | Fed::Unwanted) | None => {}
        }
        self.watched.begin(super::LINGER);
        let mut left = SKIPPED_BYTES_MAX;
        loop {
            let Ok(step) = decoder.decode(&self.input) else { return Ok(false) };
            let consumed = step.consumed;
            self.input.advance(consumed);
            if decoder.is_done() {
                return Ok(true);
            }
            if consumed == 0 {
                match self.watched.busy(self.wire.read(&mut self.input)).await {
                    Ok(Ok(read)) if read > 0 && read < left => left -= read,
                    _ => return Ok(false),
                }
            }
        }
    }
}

/// Passes a body on until it ends.
async fn feeding(
    wire: &Wire<Stream<Seated>>,
    feed: &Feed,
    input: &mut BytesMut,
    decoder: &mut BodyDecoder,
) -> Fed {
    loop {
        match feed.feed(input, decoder).await {
            Fed::More => {}
            ended => return ended,
        }
        if wire.read(input).await.unwrap_or(0) == 0 {
            return feed.end_of_input(decoder).await;
        }
    }
}

/// The outcome of `main`, with `side` going on as long as it lasts.
async fn beside<T>(
    side: impl Future<Output = Fed>,
    outcome: &mut Option<Fed>,
    main: impl Future<Output = T>,
) -> T {
    let (mut side, mut main) = (pin!(side), pin!(main));
    std::future::poll_fn(|cx| {
        if outcome.is_none()
            && let Poll::Ready(done) = side.as_mut().poll(cx)
        {
            *outcome = Some(done);
        }
        main.as_mut().poll(cx)
    })
    .await
}

/// A longer rest is not worth its bandwidth.
const SKIPPED_BYTES_MAX: usize = 64 * 1024;
