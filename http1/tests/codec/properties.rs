//! Properties of the codec: no bytes make it panic, and how they were cut into pieces makes no difference.

use countersign_http1::{Asked, encode};
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use crate::reader::{requests as read_requests, responses as read_responses};

/// One to three good requests on one connection.
pub(crate) fn requests() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(request(), 1..4).prop_map(|requests| requests.concat())
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let method = prop::sample::select(vec!["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]);
    let target = prop::sample::select(vec![
        "/",
        "/ads/7",
        "/ads?near=48.37,14.51",
        "/caf%c3%a9",
        "http://flea.test/x?y",
        "/a%40b",
    ]);
    (method, target, lines(), body()).prop_map(|(method, target, lines, body)| {
        let host = "Host: flea.test\r\n";
        [format!("{method} {target} HTTP/1.1\r\n{host}{lines}").into_bytes(), body].concat()
    })
}

fn lines() -> impl Strategy<Value = String> {
    let line = prop::sample::select(vec![
        "Accept: */*",
        "accept:text/html",
        "X-User: mallory",
        "X-Mine: \t a \t b \t",
        "Connection: keep-alive, X-Mine",
        "TE: trailers",
        "Cookie: a=b",
        "Empty:",
        "X-Forwarded-For: 192.0.2.1",
        "Keep-Alive: timeout=5",
    ]);
    prop::collection::vec(line, 0..5)
        .prop_map(|lines| lines.iter().map(|line| format!("{line}\r\n")).collect())
}

/// The end of a head, and a body.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let data = prop::collection::vec(any::<u8>(), 0..40);
    let exact = data
        .clone()
        .prop_map(|data| [format!("Content-Length: {}\r\n\r\n", data.len()).as_bytes(), &data].concat());
    let chunks = prop::collection::vec(data, 0..4);
    let chunked = (chunks, prop::bool::ANY).prop_map(|(chunks, trailer)| {
        let mut body = b"Transfer-Encoding: chunked\r\n\r\n".to_vec();
        chunks.iter().for_each(|data| encode::chunk(&mut body, data));
        let mut trailers = HeaderMap::new();
        if trailer {
            trailers.insert(HeaderName::from_static("server-timing"), HeaderValue::from_static("a;dur=1"));
        }
        encode::last_chunk(&mut body, &trailers);
        body
    });
    prop_oneof![Just(b"\r\n".to_vec()), exact, chunked]
}

fn response() -> impl Strategy<Value = Vec<u8>> {
    let status = prop::sample::select(vec![
        "200 OK",
        "204 No Content",
        "304 Not Modified",
        "100 Continue",
        "404",
        "500 ",
    ]);
    (status, lines(), body()).prop_map(|(status, lines, body)| {
        let body =
            if status.starts_with(['1', '3']) || status.starts_with("204") { b"\r\n".to_vec() } else { body };
        [format!("HTTP/1.1 {status}\r\n{lines}").into_bytes(), body].concat()
    })
}

fn responses() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(response(), 1..4).prop_map(|responses| responses.concat())
}

/// Up to four changes of what was sent.
#[derive(Clone, Debug)]
pub(crate) struct Mutations(Vec<(prop::sample::Index, prop::sample::Index, u8, &'static str)>);

impl Mutations {
    pub(crate) fn apply(&self, mut sent: Vec<u8>) -> Vec<u8> {
        for (at, to, kind, text) in &self.0 {
            if sent.is_empty() {
                break;
            }
            let (at, to) = (at.index(sent.len()), to.index(sent.len()));
            match kind {
                0 => sent[at] = text.as_bytes().first().copied().unwrap_or_default(),
                1 => drop(sent.remove(at)),
                2 => drop(sent.splice(at..at, text.bytes()).count()),
                3 => sent.truncate(at),
                4 => {
                    let part = sent[at.min(to)..at.max(to).min(at.min(to) + 60)].to_vec();
                    sent.splice(at..at, part);
                }
                // Another header line, at the end of a line that is there.
                _ => {
                    let end = sent[at..]
                        .windows(2)
                        .position(|two| two == b"\r\n")
                        .map_or(sent.len(), |end| at + end);
                    let line = format!("\r\n{text}");
                    sent.splice(end..end, line.bytes());
                }
            }
        }
        sent
    }
}

pub(crate) fn mutations() -> impl Strategy<Value = Mutations> {
    let text = prop::sample::select(vec![
        "\r",
        "\n",
        "\r\n",
        " ",
        "\t",
        "\0",
        ":",
        ",",
        ";",
        "0",
        "5",
        "a",
        "é",
        "\x7f",
        "Content-Length: 5",
        "Content-Length: 0",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: identity",
        "Host: flea.test",
        "Connection: close",
        "Connection: content-length",
        "Upgrade: h2c",
        "GET / HTTP/1.0",
        "0\r\n\r\n",
        " folded",
        "Trailer: host",
        "Expect: 100-continue",
    ]);
    let one = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..9_u8, text);
    prop::collection::vec(one, 1..5).prop_map(Mutations)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_are_read_alike_in_whatever_pieces_they_come(sent in requests(), changes in mutations(), change in any::<bool>(), piece in 1..9_usize) {
        let sent = if change { changes.apply(sent) } else { sent };
        let (at_once, in_pieces) = (read_requests(&sent, sent.len()), read_requests(&sent, piece));
        prop_assert_eq!(at_once.messages, in_pieces.messages);
        prop_assert_eq!(at_once.refused, in_pieces.refused);
    }

    #[test]
    fn responses_are_read_alike_in_whatever_pieces_they_come(sent in responses(), changes in mutations(), change in any::<bool>(), piece in 1..9_usize) {
        let sent = if change { changes.apply(sent) } else { sent };
        let (at_once, in_pieces) =
            (read_responses(&sent, sent.len(), Asked::default()), read_responses(&sent, piece, Asked::default()));
        prop_assert!(change || at_once.refused.is_none(), "{:?} {:?}", at_once.refused, String::from_utf8_lossy(&sent));
        prop_assert_eq!(at_once.messages, in_pieces.messages);
        prop_assert_eq!(at_once.refused, in_pieces.refused);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "(GET|HTTP/1.1 200)[ -~\\r\\n]{0,200}\r\n\r\n") {
        for bytes in [&bytes[..], text.as_bytes()] {
            read_requests(bytes, 7);
            read_responses(bytes, 7, Asked { head: false, upgrade: true });
        }
    }
}
