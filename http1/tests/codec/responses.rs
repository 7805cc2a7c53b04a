//! Responses: what would let an answer be split, or be taken for the answer to another request, is refused.

use countersign_http1::{
    Asked, BodyLength, FramingError, HeadBytesError, Limits, ResponseDecoder, ResponseHeadError, Slots,
    encode,
};
use http::{HeaderMap, Method, StatusCode};

use crate::reader;

type E = ResponseHeadError;

fn read(head: &str, asked: Asked) -> Result<(BodyLength, bool), ResponseHeadError> {
    let mut slots = Slots::new();
    let head = ResponseDecoder::new(Limits::default()).decode(head.as_bytes(), &mut slots, asked)?;
    Ok(head.map(|head| (head.body, head.keep_alive)).expect("a whole head"))
}

fn refused(head: &str) -> ResponseHeadError {
    read(head, Asked::default()).unwrap_err()
}

fn framing(lines: &str) -> Result<(BodyLength, bool), ResponseHeadError> {
    read(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n"), Asked::default())
}

#[test]
fn rejects_two_lengths_and_lengths_that_are_none() {
    let error = |lines: &str| framing(lines).unwrap_err();
    assert_eq!(error("Content-Length: 5\r\nContent-Length: 5\r\n"), E::Framing(FramingError::SecondLength));
    assert_eq!(
        error("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        E::Framing(FramingError::TwoKinds)
    );
    assert_eq!(
        error("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        E::Framing(FramingError::TwoKinds)
    );
    for bad in ["", "+5", "5,5", "5 5", "18446744073709551616"] {
        assert_eq!(
            error(&format!("Content-Length: {bad}\r\n")),
            E::Framing(FramingError::BadLength),
            "{bad:?}"
        );
    }
    for bad in ["gzip", "gzip, chunked", "chunked, chunked", ""] {
        assert_eq!(
            error(&format!("Transfer-Encoding: {bad}\r\n")),
            E::Framing(FramingError::TransferEncoding),
            "{bad:?}"
        );
    }
    let early = refused("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(early, E::Framing(FramingError::TransferEncodingTooEarly));
}

#[test]
fn rejects_heads_that_could_be_two() {
    assert_eq!(refused("HTTP/1.1 200 OK\nA: b\r\n\r\n"), E::Bytes(HeadBytesError::BareLineFeed));
    assert_eq!(refused("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n"), E::HeaderLine);
    assert_eq!(refused("HTTP/1.1 200 OK\r\nA : b\r\n\r\n"), E::HeaderLine);
    assert_eq!(refused("HTTP/1.1 200 OK\r\nA: b\rC: d\r\n\r\n"), E::HeaderLine);
    assert_eq!(refused("\r\nHTTP/1.1 200 OK\r\n\r\n"), E::StatusLine);
    assert_eq!(refused("HTTP/1.1 2 OK\r\n\r\n"), E::StatusLine);
    assert_eq!(refused("HTTP/1.1 200 O\rK\r\n\r\n"), E::StatusLine);
    assert_eq!(refused("HTTP/2.0 200 OK\r\n\r\n"), E::Version);
    assert_eq!(refused("HTTP/1.1 600 OK\r\n\r\n"), E::Status(600));
    assert_eq!(refused("HTTP/1.1 099 OK\r\n\r\n"), E::Status(99));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(101));
    assert_eq!(refused(&many), E::TooManyHeaders { limit: 100 });
}

#[test]
fn accepts_as_many_names_in_connection_as_the_limit_and_rejects_one_more() {
    let listing =
        |names: usize| format!("Content-Length: 0\r\nConnection: {}\r\n", vec!["a"; names].join(","));
    assert_eq!(framing(&listing(32)), Ok((BodyLength::Exact(0), true)));
    assert_eq!(framing(&listing(33)), Err(ResponseHeadError::TooManyListed { names: 33 }));
}

#[test]
fn a_body_follows_only_where_one_may() {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(read(ok, Asked::by(&Method::GET)), Ok((BodyLength::Exact(5), true)));
    assert_eq!(read(ok, Asked::by(&Method::HEAD)), Ok((BodyLength::None, true)));
    let empty = |head: &str| read(head, Asked::default()).map(|(body, _)| body);
    assert_eq!(empty("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"), Ok(BodyLength::None));
    assert_eq!(empty("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"), Ok(BodyLength::None));
    for head in ["204 No Content\r\nContent-Length: 5", "103 Early Hints\r\nTransfer-Encoding: chunked"] {
        assert_eq!(
            refused(&format!("HTTP/1.1 {head}\r\n\r\n")),
            E::Framing(FramingError::BodyOfNothing),
            "{head}"
        );
    }
}

#[test]
fn a_body_without_a_length_ends_with_its_connection() {
    assert_eq!(framing("Connection: keep-alive\r\n"), Ok((BodyLength::UntilClose, false)));
    let read = reader::responses_and_end(b"HTTP/1.1 200 OK\r\n\r\nall of it", 3, Asked::default());
    assert_eq!((read.messages[0].body.as_slice(), read.messages[0].complete), (&b"all of it"[..], true));
    for cut in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let read = reader::responses_and_end(cut.as_bytes(), 1, Asked::default());
        assert_eq!((read.refused.as_deref(), read.messages[0].complete), (Some("Truncated"), false), "{cut}");
    }
}

#[test]
fn answers_before_the_answer_are_told_apart_from_it() {
    let read = reader::responses(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        5,
        Asked::default(),
    );
    assert_eq!(
        read.messages.iter().map(|message| message.start.as_str()).collect::<Vec<_>>(),
        ["100", "103", "200"]
    );
    assert_eq!(read.messages[2].body, b"ok");
}

#[test]
fn the_protocol_changes_only_for_those_who_asked() {
    let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(refused(switching), E::UnaskedUpgrade);
    let asked = Asked { upgrade: true, ..Asked::default() };
    assert_eq!(read(switching, asked), Ok((BodyLength::None, true)));
}

#[test]
fn a_connection_is_kept_as_version_and_header_say() {
    let kept = |version: &str, lines: &str| {
        let head = format!("HTTP/{version} 200 OK\r\nContent-Length: 0\r\n{lines}\r\n");
        read(&head, Asked::default()).unwrap().1
    };
    assert!(kept("1.1", ""));
    assert!(!kept("1.1", "Connection: a, close\r\n"));
    assert!(!kept("1.0", ""));
    assert!(kept("1.0", "Connection: keep-alive\r\n"));
}

#[test]
fn what_goes_on_has_nothing_about_the_connection_and_one_length() {
    let sent = "HTTP/1.1 200 Fine\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTransfer-Encoding: chunked\r\n\
        Content-Disposition: attachment; filename=\"\u{e9}\"\r\n\r\n2;x=y\r\nok\r\n0\r\nServer-Timing: a\r\nSet-Cookie: b=c\r\n\r\n";
    let read = reader::responses(sent.as_bytes(), sent.len(), Asked::default());
    let expected = "HTTP/1.1 200 OK\r\nContent-Disposition: attachment; filename=\"\u{e9}\"\r\ntransfer-encoding: chunked\r\n\r\n\
        2\r\nok\r\n0\r\nserver-timing: a\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&read.onward[0]), expected);
}

#[test]
fn fields_of_ours_are_written_beside_those_that_go_on() {
    let ours = HeaderMap::from_iter([(http::header::DATE, http::HeaderValue::from_static("today"))]);
    let mut out = Vec::new();
    let mut writer = encode::response(&mut out, StatusCode::NO_CONTENT);
    writer.prepared(&encode::FieldLines::new(&ours));
    writer.finish(BodyLength::None);
    assert_eq!(out, b"HTTP/1.1 204 No Content\r\ndate: today\r\n\r\n");
}
