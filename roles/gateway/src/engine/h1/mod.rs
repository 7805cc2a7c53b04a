//! HTTP/1.x on one connection: requests one after the other, each answered before the next is read.
//!
//! A head is read by `countersign-http1`, which refuses what could be read in two ways: such a request is answered,
//! recorded, and the last one of its connection. Bodies stream in both directions at once, and neither is held: whoever
//! does not read stops whoever sends.

mod answer;
mod body;
mod carry;
mod exchange;
mod leave;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use countersign_http1::{BodyLength, Limits, RequestDecoder, RequestHead, RequestHeadError, Slots};
use countersign_request::Head as _;
use countersign_sdk::accept::{Admitted, Connection, Stream};
use countersign_sdk::inbound::Recalled;
use countersign_wire::codes::Code;
use countersign_wire::problem::{PROBLEM_JSON, Problem};
use http::{HeaderValue, Method, Response, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Full};

use self::answer::Question;
use self::carry::Quickly;
use self::exchange::Asked;
use super::listen::Seated;
use super::quick::Quick;
use super::watch::{Interrupt, Watched};
use super::wire::{Outbox, Wire, give_back};
use super::worker::Door;
use super::{Answers, Worker};
use crate::forward::EdgeBody;
use crate::listener::Arrival;

/// A client that began with the preface of HTTP/2 (RFC 9113 section 3.4), and what was read of it.
pub(super) type Http2 = (Admitted<Seated>, BytesMut);

/// Serves requests until the client, its peer's trust, or a limit ends the connection.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    door: &Door,
    admitted: Admitted<Seated>,
    limits: Limits,
) -> Option<Http2> {
    let Admitted { stream, connection, http2, belief } = admitted;
    let watched = worker.watch.enter(belief.clone(), &worker.shared.serving.limits);
    let arrival = Arrival::over(&connection);
    let mut client = Client {
        worker: Rc::clone(worker),
        quick: door.quick.clone(),
        arrival,
        recalled: Recalled::default(),
        upstream_out: Vec::new(),
        wire: Wire::new(stream, worker.scratch.clone()),
        input: BytesMut::new(),
        out: Outbox::default(),
        watched,
        decoder: RequestDecoder::new(limits),
        limits,
        connection,
        answers: Arc::clone(&door.answers),
        may_be_http2: http2.is_none(),
    };
    match client.requests().await {
        End::Http2 => {
            let Client { wire, input, connection, .. } = client;
            Some((Admitted { stream: wire.into_inner(), connection, http2: Some(true), belief }, input))
        }
        End::Closed => None,
        end => {
            tracing::debug!(connection = %client.connection.id, ?end, "connection ended");
            None
        }
    }
}

/// One connection.
pub(super) struct Client {
    worker: Rc<Worker>,
    quick: Option<Rc<dyn Quick>>,
    arrival: Arrival,
    /// Who the certificate of this connection proved.
    recalled: Recalled,
    /// What the quick carrier says to the upstream.
    upstream_out: Vec<u8>,
    wire: Wire<Stream<Seated>>,
    input: BytesMut,
    out: Outbox,
    watched: Rc<Watched>,
    decoder: RequestDecoder,
    limits: Limits,
    connection: Connection,
    answers: Arc<dyn Answers>,
    /// Only the first bytes of a connection without ALPN can be the preface.
    may_be_http2: bool,
}

/// The half of a connection that answers go out by.
struct Outgoing<'c> {
    wire: &'c Wire<Stream<Seated>>,
    out: &'c mut Outbox,
    watched: &'c Watched,
}

/// Why there are no more requests.
#[derive(Debug)]
enum End {
    /// As HTTP has it.
    Closed,
    Http2,
    Interrupted(#[expect(dead_code, reason = "for the log")] Interrupt),
    /// In the middle of a message.
    Broken,
    Io(#[expect(dead_code, reason = "for the log")] io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Interrupt> for End {
    fn from(interrupt: Interrupt) -> Self {
        Self::Interrupted(interrupt)
    }
}

/// What the first bytes turned out to be.
enum Heard {
    Request(Asked),
    Quick(Quickly),
    Refused(RequestHeadError),
    TooLate,
}

impl Client {
    async fn requests(&mut self) -> End {
        loop {
            let next = match self.hear().await {
                Ok(Heard::Quick(quickly)) => self.carry(quickly).await,
                Ok(Heard::Request(asked)) => self.exchange(asked).await,
                Ok(Heard::Refused(error)) => self.refuse(&error).await,
                Ok(Heard::TooLate) => self.give_up().await,
                Err(end) => Err(end),
            };
            match next {
                Ok(true) => {}
                Ok(false) => return self.close().await,
                Err(end) => return end,
            }
        }
    }

    /// The next head. What follows it stays in the buffer.
    async fn hear(&mut self) -> Result<Heard, End> {
        if self.input.is_empty() {
            give_back(&mut self.input, INPUT_BYTES_KEPT);
            self.upstream_out.clear();
            self.upstream_out.shrink_to(UPSTREAM_BYTES_KEPT);
            self.watched.begin(self.watched.limits().idle);
            if self.watched.idle(self.wire.read(&mut self.input)).await?? == 0 {
                return Err(End::Closed);
            }
        }
        self.watched.begin(self.watched.limits().header_read);
        loop {
            if self.is_http2()? {
                return Err(End::Http2);
            }
            if !self.may_be_http2
                && let Some(heard) = self.read_head()
            {
                return Ok(heard);
            }
            match self.watched.busy(self.wire.read(&mut self.input)).await {
                Ok(Ok(0)) => return Err(End::Closed),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(Interrupt::Late) => return Ok(Heard::TooLate),
                Err(interrupt) => return Err(interrupt.into()),
            }
        }
    }

    /// Is it the preface of HTTP/2? As long as it may still become that, nothing else is read.
    fn is_http2(&mut self) -> Result<bool, End> {
        if self.may_be_http2 && !PREFACE.starts_with(&self.input) {
            self.may_be_http2 = self.input.starts_with(PREFACE);
        }
        Ok(self.may_be_http2 && self.input.starts_with(PREFACE))
    }

    fn read_head(&mut self) -> Option<Heard> {
        let mut slots = Slots::new();
        let (heard, consumed) = match self.decoder.decode(&self.input, &mut slots) {
            Ok(None) => return None,
            Err(error) => return Some(Heard::Refused(error)),
            Ok(Some(head)) => {
                if let Some(quickly) = quickly(
                    self.quick.as_deref(),
                    &head,
                    &self.input,
                    (&self.arrival, &self.recalled),
                    &self.worker,
                    &mut self.upstream_out,
                ) {
                    return Some(Heard::Quick(quickly));
                }
                match Asked::of(&head, &self.connection) {
                    Some(asked) => (Heard::Request(asked), head.bytes),
                    None => return Some(Heard::Refused(RequestHeadError::RequestLine)),
                }
            }
        };
        drop(self.input.split_to(consumed));
        Some(heard)
    }

    /// A head that was read before, for the full carrier.
    fn read_whole_head(&mut self) -> Option<Asked> {
        let mut slots = Slots::new();
        let (asked, consumed) = match self.decoder.decode(&self.input, &mut slots) {
            Ok(Some(head)) => (Asked::of(&head, &self.connection)?, head.bytes),
            Ok(None) | Err(_) => return None,
        };
        drop(self.input.split_to(consumed));
        Some(asked)
    }

    /// What cannot be read in one way is answered and recorded, and nothing after it is looked at.
    async fn refuse(&mut self, error: &RequestHeadError) -> Result<bool, End> {
        let answer = self.answers.refuse(error, &self.connection).await;
        self.say_last(answer).await
    }

    /// A head that took too long.
    async fn give_up(&mut self) -> Result<bool, End> {
        self.say_last(too_slow()).await
    }

    async fn say_last(&mut self, answer: Response<EdgeBody>) -> Result<bool, End> {
        let question = Question { method: Method::GET, version: Version::HTTP_11, keep_alive: false };
        let answering = answer::begin(self, &question, answer);
        answering.write(&mut self.outgoing()).await
    }

    fn outgoing(&mut self) -> Outgoing<'_> {
        Outgoing { wire: &self.wire, out: &mut self.out, watched: &self.watched }
    }

    /// Says that there is no more, and listens for a moment: a client that is still sending would otherwise be told that
    /// the connection was reset, and lose the answer (RFC 9112 section 9.6).
    async fn close(&mut self) -> End {
        self.watched.begin(LINGER);
        let lingering = async {
            self.wire.shutdown().await?;
            let mut left = LINGER_BYTES_MAX;
            loop {
                self.input.clear();
                let read = self.wire.read(&mut self.input).await?;
                if read == 0 || read >= left {
                    return Ok::<_, io::Error>(());
                }
                left -= read;
            }
        };
        match self.watched.busy(lingering).await {
            Ok(Ok(())) => End::Closed,
            Ok(Err(error)) => End::Io(error),
            Err(interrupt) => End::Interrupted(interrupt),
        }
    }
}

impl Outgoing<'_> {
    /// Writes what waits, as long as the client takes some of it from time to time.
    async fn flush(&mut self) -> Result<(), End> {
        if self.out.unwritten().is_empty() {
            return Ok(());
        }
        let mut left = self.out.unwritten().len();
        self.watched.begin(self.watched.limits().idle);
        let flushing = std::future::poll_fn(|cx| {
            let polled = self.wire.poll_flush(cx, self.out);
            let now_left = self.out.unwritten().len();
            if now_left < left {
                left = now_left;
                self.watched.begin(self.watched.limits().idle);
            }
            polled
        });
        Ok(self.watched.busy(flushing).await??)
    }
}

fn too_slow() -> Response<EdgeBody> {
    let problem = Problem::new(Code::RequestTimeout, None);
    let mut answer =
        Response::new(Full::from(problem.to_json()).map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = StatusCode::REQUEST_TIMEOUT;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    answer
}

/// The same request for the quick carrier, if it is one for it. Its body has to be there already.
fn quickly(
    quick: Option<&dyn Quick>,
    head: &RequestHead<'_>,
    input: &[u8],
    (arrival, recalled): (&Arrival, &Recalled),
    worker: &Worker,
    out: &mut Vec<u8>,
) -> Option<Quickly> {
    let body = match head.body {
        BodyLength::None => 0,
        BodyLength::Exact(bytes) => usize::try_from(bytes).ok()?,
        BodyLength::Chunked | BodyLength::UntilClose => return None,
    };
    let bytes = head.bytes.checked_add(body)?;
    let body = input.get(head.bytes..bytes)?;
    let errand = quick?.judge(head, arrival, recalled, &worker.entropy, &worker.journal, out)?;
    out.extend_from_slice(body);
    let question = Question {
        method: head.canonical.method().clone(),
        version: head.version,
        keep_alive: head.keep_alive,
    };
    Some(Quickly { errand, question, bytes, has_body: !body.is_empty() })
}

/// How HTTP/2 begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a connection that waits keeps to read into.
const INPUT_BYTES_KEPT: usize = 4 * 1024;
/// And to write to an upstream from.
const UPSTREAM_BYTES_KEPT: usize = 8 * 1024;
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 256 * 1024;
