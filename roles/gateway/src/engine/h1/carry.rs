//! One request by the quick carrier: written once, answered from the upstream's buffer.

use bytes::Buf as _;
use countersign_http1::{Asked, BodyDecoder, BodyEvent, BodyLength, ResponseDecoder, Slots, encode};
use countersign_sdk::clock;
use http::{StatusCode, Version, header};

use super::answer::{self, CLOSE, KEEP_ALIVE, Question};
use super::{Client, End};
use crate::engine::quick::{AnswerLimits, Errand, Line, Permitted, Way};
use crate::engine::watch::Interrupt;
use crate::headers::Shown;
use crate::upstream::{Outcome, UpstreamError};

/// A request that the quick carrier takes. Its head and body stand in `upstream_out`, and still in the buffer.
pub(super) struct Quickly {
    pub(super) errand: Errand,
    pub(super) question: Question,
    /// Of head and body in the buffer.
    pub(super) bytes: usize,
    pub(super) has_body: bool,
}

/// How it went.
enum Carried {
    /// Answered. May the connection be used again?
    Answered(bool),
    /// Nothing was done that could not be done again: the full carrier takes it from the beginning.
    NotMine(Box<Errand>),
}

/// How a try on one connection went.
enum Try {
    Answered(StatusCode, Head),
    /// The connection was closed while it waited: that says nothing of the endpoint.
    Stale {
        /// Not a byte of the request went out.
        unsent: bool,
    },
    /// The service demands evidence: what the client is told of that is not for this carrier to say.
    Challenged,
    /// The connection ended before a byte of an answer: what may be done twice may be tried again.
    Unheard(UpstreamError),
    Failed(UpstreamError),
}

/// What of the upstream's head decides how the answer goes on.
struct Head {
    body: BodyLength,
    /// As the client gets it.
    length: BodyLength,
    reusable: bool,
    keep_alive: bool,
}

impl Client {
    /// Answers a request, by the full carrier after all where this one cannot.
    pub(super) async fn carry(&mut self, quickly: Quickly) -> Result<bool, End> {
        match self.try_to_carry(quickly).await? {
            Carried::Answered(keep_alive) => Ok(keep_alive),
            Carried::NotMine(errand) => {
                self.watched.relies_on(None);
                let Some(asked) = self.read_whole_head() else { return Err(End::Broken) };
                errand.given_over();
                self.exchange(asked).await
            }
        }
    }

    async fn try_to_carry(&mut self, quickly: Quickly) -> Result<Carried, End> {
        let is_repeatable = !quickly.has_body && quickly.question.method.is_idempotent();
        let mut went_stale = false;
        loop {
            let (errand, way) = (&quickly.errand, &quickly.errand.way);
            let line = self.line(way, went_stale).await?;
            let Some(mut line) = line else { return Ok(Carried::NotMine(quickly.errand.into())) };
            self.watched.relies_on(line.proof());
            match self.try_line(&mut line, errand, &quickly.question).await? {
                Try::Answered(status, head) => {
                    let Errand { permit, way, unrecorded, limits } = quickly.errand;
                    way.report(Outcome::Answered(status.as_u16()));
                    let exchange = unrecorded.answered(&self.worker.journal, status, clock::now());
                    self.input.advance(quickly.bytes);
                    let mut sent = 0;
                    let copied = self.copy_body(line, (permit, way), limits, head, &mut sent).await;
                    if let Some(exchange) = exchange {
                        exchange.ended(Some(sent));
                    }
                    return copied.map(Carried::Answered);
                }
                // Where one connection was closed while it waited, the others were too: once more, over a new one.
                Try::Stale { unsent } if unsent || is_repeatable => {
                    went_stale = true;
                    self.worker.pools.forget(way.pool());
                }
                // It may have done what it was asked for: nobody asks it twice.
                Try::Stale { .. } => {
                    let error = way.broke("the connection was closed meanwhile");
                    return self.fail(quickly, error).await;
                }
                Try::Challenged if is_repeatable => return Ok(Carried::NotMine(quickly.errand.into())),
                Try::Challenged => {
                    way.report(Outcome::Answered(StatusCode::UNAUTHORIZED.as_u16()));
                    let error = way.broke("it demands evidence that is not the client's to give");
                    return self.fail(quickly, error).await;
                }
                // The full carrier tries again, elsewhere where it can.
                Try::Unheard(_) if is_repeatable && way.may_retry() => {
                    way.report(Outcome::Failed);
                    return Ok(Carried::NotMine(quickly.errand.into()));
                }
                Try::Unheard(error) | Try::Failed(error) => {
                    way.report(Outcome::Failed);
                    return self.fail(quickly, error).await;
                }
            }
        }
    }

    /// A connection to where it leads: the one that was used last, unless it is to be `new`. `None` where there is none at
    /// once.
    async fn line(&self, way: &Way, new: bool) -> Result<Option<Line>, End> {
        if !new && let Some(line) = self.worker.pools.take(way.pool(), clock::now(), way.idle()) {
            return Ok(Some(line));
        }
        self.watched.begin_without_end();
        Ok(self.watched.busy(way.dial(&self.worker.scratch)).await?)
    }

    /// Sends the request and waits for the head of the answer, which goes into the outbox.
    async fn try_line(&mut self, line: &mut Line, errand: &Errand, question: &Question) -> Result<Try, End> {
        line.out.bytes().extend_from_slice(&self.upstream_out);
        let (way, within) = (&errand.way, errand.limits.head_within);
        self.watched.begin(within);
        let (wire, out) = (&line.wire, &mut line.out);
        match self.watched.busy(std::future::poll_fn(|cx| wire.poll_flush(cx, out))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) if line.is_pooled => {
                return Ok(Try::Stale { unsent: line.out.unwritten().len() == self.upstream_out.len() });
            }
            Ok(Err(error)) => {
                return Ok(Try::Unheard(way.broke(&error.to_string())));
            }
            Err(interrupt) => return interrupted(interrupt, errand),
        }
        let mut decoder = ResponseDecoder::new(errand.limits.http1);
        let mut heard_something = false;
        loop {
            match self.watched.busy(line.wire.read(&mut line.input)).await {
                Ok(Ok(0) | Err(_)) if line.is_pooled && !heard_something => {
                    return Ok(Try::Stale { unsent: false });
                }
                Ok(ended @ (Ok(0) | Err(_))) => {
                    let why = ended.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string());
                    return Ok(if heard_something {
                        Try::Failed(way.unreadable(&format!("{why} within a head")))
                    } else {
                        Try::Unheard(way.broke(&why))
                    });
                }
                Ok(Ok(_)) => heard_something = true,
                Err(interrupt) => return interrupted(interrupt, errand),
            }
            if let Some(tried) = self.read_answer(line, way, question, &mut decoder) {
                return Ok(tried);
            }
        }
    }

    /// The head of the answer, once it is all there, in the outbox.
    fn read_answer(
        &mut self,
        line: &mut Line,
        way: &Way,
        question: &Question,
        decoder: &mut ResponseDecoder,
    ) -> Option<Try> {
        loop {
            let mut slots = Slots::new();
            let head = match decoder.decode(&line.input, &mut slots, Asked::by(&question.method)) {
                Ok(None) => return None,
                Ok(Some(head)) => head,
                Err(error) => return Some(Try::Failed(way.unreadable(&error.to_string()))),
            };
            let bytes = head.bytes;
            if head.is_interim() {
                line.input.advance(bytes);
                continue;
            }
            if way.challenges(&head) {
                return Some(Try::Challenged);
            }
            let status = head.status;
            let shape = self.write_head(&head, way, question);
            line.input.advance(bytes);
            return Some(Try::Answered(status, shape));
        }
    }

    fn write_head(
        &mut self,
        head: &countersign_http1::ResponseHead<'_>,
        way: &Way,
        question: &Question,
    ) -> Head {
        let length = match (head.body, question.version) {
            (BodyLength::Chunked | BodyLength::UntilClose, Version::HTTP_10) => BodyLength::UntilClose,
            (BodyLength::UntilClose, _) => BodyLength::Chunked,
            (length, _) => length,
        };
        let keep_alive = question.keep_alive && !self.watched.drains() && length != BodyLength::UntilClose;
        let mut writer = encode::response(self.out.bytes(), head.status);
        let mut dated = false;
        for field in head.onward() {
            dated |= field.name.eq_ignore_ascii_case("date");
            match way.shows(field.name, field.value) {
                Shown::AsItIs => writer.copied(field),
                Shown::Otherwise(name, value) => writer.field(&name, &value),
                Shown::Never => {}
            }
        }
        if !dated {
            writer.field(&header::DATE, &self.watched.date());
        }
        if !keep_alive {
            writer.field(&header::CONNECTION, &CLOSE);
        } else if question.version == Version::HTTP_10 {
            writer.field(&header::CONNECTION, &KEEP_ALIVE);
        }
        // What would follow a GET is stated to HEAD, where nothing follows.
        match (head.body, head.stated) {
            (BodyLength::None, BodyLength::Exact(bytes)) if !head.status.is_informational() => {
                writer.finish(BodyLength::Exact(bytes));
            }
            _ => writer.finish(length),
        }
        Head { body: head.body, length, reusable: head.keep_alive, keep_alive }
    }

    /// The body, with the head before it: what is there at once goes out in one write.
    async fn copy_body(
        &mut self,
        mut line: Line,
        (permit, way): (Permitted, Way),
        limits: AnswerLimits,
        head: Head,
        sent: &mut u64,
    ) -> Result<bool, End> {
        let mut decoder = BodyDecoder::of_response(head.body, limits.http1);
        let stated = if let BodyLength::Exact(bytes) = head.body { Some(bytes) } else { None };
        let limits = limits.of_answer(stated);
        let mut left = limits.bytes_max;
        loop {
            let step = decoder.decode(&line.input).map_err(|_| End::Broken)?;
            let consumed = step.consumed;
            match step.event {
                BodyEvent::Data(data) => {
                    left = left.checked_sub(data.len() as u64).ok_or(End::Broken)?;
                    *sent += data.len() as u64;
                    match head.length {
                        BodyLength::Chunked => encode::chunk(self.out.bytes(), data),
                        _ => self.out.bytes().extend_from_slice(data),
                    }
                    line.input.advance(consumed);
                    if self.out.is_full() {
                        self.outgoing().flush().await?;
                    }
                }
                BodyEvent::End => {
                    line.input.advance(consumed);
                    break;
                }
                BodyEvent::More => {
                    line.input.advance(consumed);
                    self.outgoing().flush().await?;
                    self.watched.begin(limits.pause().ok_or(End::Broken)?);
                    if self.watched.busy(line.wire.read(&mut line.input)).await?? == 0 {
                        decoder.end_of_input().map_err(|_| End::Broken)?;
                        break;
                    }
                }
            }
        }
        if head.length == BodyLength::Chunked {
            encode::last_chunk(self.out.bytes(), decoder.trailers());
        }
        self.watched.relies_on(None);
        if head.reusable && line.input.is_empty() && head.body != BodyLength::UntilClose {
            self.worker.pools.keep(way.pool(), way.endpoint(), way.idle(), line);
        }
        // The permit was good for this one request, and the endpoint is free for another before the client can ask.
        drop((permit, way));
        self.outgoing().flush().await?;
        Ok(head.keep_alive)
    }

    /// Says that the upstream gave no answer, as the full carrier would. The request was there whole, so the next one can
    /// follow.
    async fn fail(&mut self, quickly: Quickly, error: UpstreamError) -> Result<Carried, End> {
        let Quickly { errand, question, bytes, .. } = quickly;
        self.watched.relies_on(None);
        self.watched.begin_without_end();
        let answer = self.watched.busy(errand.failed(error, &self.arrival)).await?;
        self.input.advance(bytes);
        let question = self.keep(&question);
        let answering = answer::begin(self, &question, answer);
        answering.write(&mut self.outgoing()).await.map(Carried::Answered)
    }
}

/// What it means for an endpoint that nobody waits for its answer any more.
fn interrupted(interrupt: Interrupt, errand: &Errand) -> Result<Try, End> {
    match interrupt {
        Interrupt::Late => Ok(Try::Failed(errand.way.late(errand.limits.head_within))),
        Interrupt::Source => Ok(Try::Failed(errand.way.broke("its certificate is no longer believed"))),
        Interrupt::Drain | Interrupt::Cut => Err(interrupt.into()),
    }
}
