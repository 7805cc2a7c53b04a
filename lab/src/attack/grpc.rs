//! gRPC as far as an attacker needs it: one message there, and how it was answered.

use bytes::{BufMut as _, Bytes, BytesMut};
use countersign_wire::codes::Code;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::time::timeout;

use super::{
    Observation, Received, Why,
    wire::{ANSWER_WAIT, Broken, Connection, Reply},
};

/// How a call was answered.
#[derive(Clone, Debug)]
pub(super) struct Answered {
    /// `grpc-status`: 0 where it was served.
    pub(super) status: u32,
    /// `grpc-message`, or nothing.
    pub(super) message: String,
    /// The first message of the answer.
    pub(super) body: Bytes,
}

/// Calls `path` over a connection that speaks HTTP/2.
pub(super) async fn call(
    connection: Connection,
    path: &str,
    metadata: &[(&str, &str)],
    message: &impl Message,
) -> Result<Answered, Broken> {
    let local = connection.local;
    let broken = |how: String| Broken { alert: None, how, local };
    let (mut sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(connection.into_io()))
        .await
        .map_err(|error| broken(error.to_string()))?;
    let driver = tokio::spawn(driver);
    let mut request = Request::post(format!("https://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in metadata {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(framed(message))).map_err(|error| broken(error.to_string()))?;
    let answered = timeout(ANSWER_WAIT, async {
        let answer = sender.send_request(request).await.map_err(|error| broken(error.to_string()))?;
        let (head, mut body) = answer.into_parts();
        let mut first = BytesMut::new();
        // An answer that streams has no end: its first message shows that it was served.
        while !has_message(&first) {
            match body.frame().await.transpose().map_err(|error| broken(error.to_string()))? {
                Some(frame) => match frame.into_data() {
                    Ok(data) => first.put(data),
                    Err(frame) => return Ok(of(frame.trailers_ref().unwrap_or(&head.headers))),
                },
                None => return Ok(of(&head.headers)),
            }
        }
        let body = first.freeze();
        Ok(Answered { status: 0, message: String::new(), body: body.slice(PREFIX.min(body.len())..) })
    });
    let answered = answered.await.unwrap_or_else(|_| Err(broken("no answer in time".to_owned())));
    driver.abort();
    answered
}

/// A message with its prefix: not compressed, and its length.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let bytes = message.encode_to_vec();
    let mut framed = BytesMut::with_capacity(PREFIX + bytes.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    framed.put_slice(&bytes);
    framed.freeze()
}

fn has_message(bytes: &[u8]) -> bool {
    let length = bytes.get(1..PREFIX).and_then(|length| length.try_into().ok()).map(u32::from_be_bytes);
    length.is_some_and(|length| bytes.len() >= PREFIX + length as usize)
}

fn of(headers: &HeaderMap) -> Answered {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let status = text("grpc-status").parse().unwrap_or(UNKNOWN);
    let message = percent_decoded(text("grpc-message"));
    Answered { status, message, body: Bytes::new() }
}

/// How gRPC writes what is not ASCII.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let decoded = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%');
        bytes.push(decoded.unwrap_or(*first));
        rest = after.get(if decoded.is_some() { 2 } else { 0 }..).unwrap_or_default();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Answered {
    /// As an observation: our own services begin their messages with the code.
    pub(super) fn observed(self, sent: impl Into<String>) -> Observation {
        let served = self.status == 0;
        let reply = Reply { status: if served { 200 } else { 403 }, headers: Vec::new(), body: Vec::new() };
        let code = self.message.split(':').next().and_then(|code| Code::parse(code).ok());
        let reason = match self
            .message
            .strip_prefix(&format!("{}: ", code.map_or_else(String::new, |c| c.to_string())))
        {
            Some(rest) => rest.to_owned(),
            None => self.message.clone(),
        };
        let why = (!served).then_some(Why { code, reason, decision: None });
        Observation { sent: sent.into(), received: Received::Answer { reply, why } }
    }
}

const PREFIX: usize = 5;
/// `UNKNOWN` (2): an answer without a status.
const UNKNOWN: u32 = 2;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_message_of_grpc_is_read_with_what_is_encoded_in_it() {
        assert_eq!(percent_decoded("CS3019: it%27s spent 100%"), "CS3019: it's spent 100%");
    }

    #[test]
    fn a_refusal_shows_the_code_with_which_it_begins() {
        let answered = Answered { status: 16, message: "CS3019: spent (d_1)".into(), body: Bytes::new() };
        let Received::Answer { reply, why } = answered.observed("a join").received else { unreachable!() };
        assert_eq!((reply.status, why.unwrap().code), (403, Some(Code::JoinTokenSpent)));
    }
}
