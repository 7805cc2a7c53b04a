//! Reads a whole connection with the codec, as a proxy would, in pieces of any size, and writes every message again.

use countersign_http1::{
    Asked, BodyDecoder, BodyEvent, BodyLength, Limits, RequestDecoder, ResponseDecoder, Slots, encode,
};
use countersign_request::{Field, Head};
use http::{HeaderMap, Version};

/// What a reader understood of one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// Method and target, or the status.
    pub(crate) start: String,
    /// A request as routing and policy see it: method, authority, path and query.
    pub(crate) decided: String,
    /// Names in lower case, values, in the order in which they came.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
    pub(crate) complete: bool,
}

impl Message {
    pub(crate) fn values(&self, name: &str) -> Vec<String> {
        let named = self.headers.iter().filter(|(other, _)| other == name);
        named.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }
}

/// What became of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Connection {
    /// In their order; only the last may be incomplete.
    pub(crate) messages: Vec<Message>,
    /// What goes on, for each message.
    pub(crate) onward: Vec<Vec<u8>>,
    /// Why reading stopped, if something was refused.
    pub(crate) refused: Option<String>,
}

/// Reads requests that come in pieces of `piece` bytes.
pub(crate) fn requests(bytes: &[u8], piece: usize) -> Connection {
    let mut reader = Reader::new(Limits::default());
    for part in bytes.chunks(piece.max(1)) {
        reader.buffer.extend_from_slice(part);
        if let Err(why) = reader.read_requests() {
            reader.connection.refused = Some(why);
            break;
        }
    }
    reader.connection
}

/// Reads responses to requests that asked this.
pub(crate) fn responses(bytes: &[u8], piece: usize, asked: Asked) -> Connection {
    read_responses(bytes, piece, asked).connection
}

/// Reads responses to requests that asked this, and then the end of the connection.
pub(crate) fn responses_and_end(bytes: &[u8], piece: usize, asked: Asked) -> Connection {
    let mut reader = read_responses(bytes, piece, asked);
    if reader.connection.refused.is_none()
        && let Some(body) = &mut reader.body
    {
        match body.end_of_input() {
            Ok(()) => assert_eq!(reader.read_body(), Ok(true)),
            Err(why) => reader.connection.refused = Some(format!("{why:?}")),
        }
    }
    reader.connection
}

fn read_responses(bytes: &[u8], piece: usize, asked: Asked) -> Reader {
    let mut reader = Reader::new(Limits::default());
    for part in bytes.chunks(piece.max(1)) {
        reader.buffer.extend_from_slice(part);
        if let Err(why) = reader.read_responses(asked) {
            reader.connection.refused = Some(why);
            break;
        }
    }
    reader
}

struct Reader {
    limits: Limits,
    buffer: Vec<u8>,
    requests: RequestDecoder,
    responses: ResponseDecoder,
    body: Option<BodyDecoder>,
    chunked: bool,
    last: bool,
    connection: Connection,
}

impl Reader {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            buffer: Vec::new(),
            requests: RequestDecoder::new(limits),
            responses: ResponseDecoder::new(limits),
            body: None,
            chunked: false,
            last: false,
            connection: Connection::default(),
        }
    }

    fn read_requests(&mut self) -> Result<(), String> {
        loop {
            if self.body.is_some() && !self.read_body()? || self.last {
                return Ok(());
            }
            let mut slots = Slots::new();
            let head = self.requests.decode(&self.buffer, &mut slots).map_err(|why| format!("{why:?}"))?;
            let Some(head) = head else { return Ok(()) };
            assert_ne!(head.body, BodyLength::UntilClose, "a request never ends with its connection");
            let start = format!("{} {}", head.canonical.method(), head.target);
            let message = Message {
                start,
                decided: decided(&head.canonical),
                headers: lines(head.canonical.fields()),
                ..Message::default()
            };
            let mut onward = Vec::new();
            let mut writer = encode::request_head(&mut onward, &head.canonical).expect("a canonical target");
            head.canonical.onward().for_each(|field| writer.copied(field));
            writer.finish(head.body);
            self.body = Some(BodyDecoder::of_request(head.body, self.limits));
            self.chunked = head.body == BodyLength::Chunked;
            self.last = !head.keep_alive || head.upgrade.is_some();
            assert!(head.version == Version::HTTP_11 || head.upgrade.is_none() && !head.expects_continue);
            let bytes = head.bytes;
            self.begun(message, onward, bytes);
        }
    }

    fn read_responses(&mut self, asked: Asked) -> Result<(), String> {
        loop {
            if self.body.is_some() && !self.read_body()? || self.last {
                return Ok(());
            }
            let mut slots = Slots::new();
            let head =
                self.responses.decode(&self.buffer, &mut slots, asked).map_err(|why| format!("{why:?}"))?;
            let Some(head) = head else { return Ok(()) };
            let message = Message {
                start: head.status.as_str().to_owned(),
                headers: lines(head.fields),
                ..Message::default()
            };
            let mut onward = Vec::new();
            let mut writer = encode::response(&mut onward, head.status);
            head.onward().for_each(|field| writer.copied(field));
            writer.finish(if head.body == BodyLength::None { head.stated } else { head.body });
            self.body = Some(BodyDecoder::of_response(head.body, self.limits));
            self.chunked = head.body == BodyLength::Chunked;
            self.last = !head.keep_alive || head.status == http::StatusCode::SWITCHING_PROTOCOLS;
            let bytes = head.bytes;
            self.begun(message, onward, bytes);
        }
    }

    fn begun(&mut self, message: Message, onward: Vec<u8>, bytes: usize) {
        self.connection.messages.push(message);
        self.connection.onward.push(onward);
        self.buffer.drain(..bytes);
    }

    /// Has the body ended?
    fn read_body(&mut self) -> Result<bool, String> {
        let (Some(body), Some(message), Some(onward)) =
            (&mut self.body, self.connection.messages.last_mut(), self.connection.onward.last_mut())
        else {
            return Ok(true);
        };
        loop {
            let step = body.decode(&self.buffer).map_err(|why| format!("{why:?}"))?;
            match step.event {
                BodyEvent::Data(data) => {
                    assert!(!data.is_empty(), "data is at least one byte");
                    message.body.extend_from_slice(data);
                    if self.chunked { encode::chunk(onward, data) } else { onward.extend_from_slice(data) }
                }
                BodyEvent::More => {
                    self.buffer.drain(..step.consumed);
                    return Ok(false);
                }
                BodyEvent::End => {
                    assert!(body.is_done());
                    message.trailers = body.trailers().clone();
                    message.complete = true;
                    if self.chunked {
                        encode::last_chunk(onward, &message.trailers);
                    }
                    self.buffer.drain(..step.consumed);
                    self.body = None;
                    return Ok(true);
                }
            }
            self.buffer.drain(..step.consumed);
        }
    }
}

/// What is decided about, in one line.
pub(crate) fn decided(head: &impl Head) -> String {
    format!("{} {} {} {:?}", head.method(), head.authority(), head.path(), head.query())
}

fn lines(fields: &[Field<'_>]) -> Vec<(String, Vec<u8>)> {
    fields.iter().map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec())).collect()
}
