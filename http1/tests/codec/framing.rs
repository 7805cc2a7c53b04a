//! STANDARDS HP-3, case by case: what could be framed in two ways is refused, each with its own error.

use countersign_http1::{
    BodyDecoder, BodyError, BodyEvent, BodyLength, FramingError, HeadBytesError, Limits, RequestDecoder,
    RequestHeadError, Slots, TrailerError, encode,
};
use countersign_request::{AuthorityError, HeaderError, RequestError};
use http::{HeaderMap, Method};

use crate::{differential, reader};

type E = RequestHeadError;

/// The error of a head.
fn refused(head: impl AsRef<[u8]>) -> RequestHeadError {
    let mut slots = Slots::new();
    match RequestDecoder::new(Limits::default()).decode(head.as_ref(), &mut slots) {
        Err(why) => why,
        Ok(read) => panic!("read as {read:?}"),
    }
}

/// The error of a good head with these lines.
fn refused_lines(lines: &str) -> RequestHeadError {
    refused(format!("POST /ads HTTP/1.1\r\nHost: flea.test\r\n{lines}\r\n\r\n"))
}

/// The length, whether the connection stays, whether the client waits, and what it asks to change to.
fn accepted(head: &str) -> (BodyLength, bool, bool, Option<Vec<u8>>) {
    let mut slots = Slots::new();
    let head = RequestDecoder::new(Limits::default()).decode(head.as_bytes(), &mut slots).unwrap().unwrap();
    (head.body, head.keep_alive, head.expects_continue, head.upgrade.map(<[u8]>::to_vec))
}

/// What a chunked body is read as: its data and trailers.
fn chunked(body: &[u8], limits: Limits) -> Result<(Vec<u8>, HeaderMap), BodyError> {
    let mut decoder = BodyDecoder::of_request(BodyLength::Chunked, limits);
    let (mut rest, mut data) = (body, Vec::new());
    loop {
        let step = decoder.decode(rest)?;
        rest = &rest[step.consumed..];
        match step.event {
            BodyEvent::Data(part) => data.extend_from_slice(part),
            BodyEvent::End => return Ok((data, decoder.trailers().clone())),
            BodyEvent::More => return decoder.end_of_input().map(|()| unreachable!()),
        }
    }
}

fn refused_chunks(body: &str) -> BodyError {
    chunked(body.as_bytes(), Limits::default()).unwrap_err()
}

#[test]
fn rejects_two_lengths_of_whatever_kind() {
    let two = E::Request(RequestError::Header(HeaderError::TwoLengths));
    assert_eq!(refused_lines("Content-Length: 5\r\nTransfer-Encoding: chunked"), two);
    assert_eq!(refused_lines("Transfer-Encoding: chunked\r\nContent-Length: 5"), two);
    let duplicate = E::Request(RequestError::Header(HeaderError::Duplicate(http::header::CONTENT_LENGTH)));
    assert_eq!(refused_lines("Content-Length: 5\r\nContent-Length: 6"), duplicate);
    assert_eq!(refused_lines("Content-Length: 5\r\nContent-Length: 5"), duplicate, "even if they are equal");
}

#[test]
fn rejects_lengths_that_are_no_plain_number() {
    for bad in ["+5", "-5", "5,5", "5, 5", "", "0x5", "5 5", "5;", "\u{665}", "18446744073709551616"] {
        let refused = refused_lines(&format!("Content-Length: {bad}"));
        assert_eq!(refused, E::Request(RequestError::Header(HeaderError::BadContentLength)), "{bad:?}");
    }
    assert_eq!(accepted("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: \t5 \r\n\r\n").0, BodyLength::Exact(5));
}

#[test]
fn rejects_transfer_codings_other_than_chunked_once() {
    for bad in [
        "identity",
        "gzip, chunked",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "chunked;q=1",
        "\"chunked\"",
        "xchunked",
        "",
    ] {
        let refused = refused_lines(&format!("Transfer-Encoding: {bad}"));
        assert_eq!(refused, E::Framing(FramingError::TransferEncoding), "{bad:?}");
    }
    let twice = refused_lines("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked");
    assert_eq!(twice, E::Framing(FramingError::TransferEncoding));
    let early = refused("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(early, E::Framing(FramingError::TransferEncodingTooEarly));
    let alias = E::Request(RequestError::Header(HeaderError::Alias("transfer_encoding".to_owned())));
    assert_eq!(refused_lines("Transfer_Encoding: chunked"), alias);
    assert_eq!(
        accepted("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n").0,
        BodyLength::Chunked
    );
}

#[test]
fn transfer_encoding_with_any_byte_anywhere_is_refused_or_means_the_same_to_hyper() {
    let parts = ["\r\n", "Transfer", "-Encoding", ":", " ", "chun", "ked", "\r\n"];
    let (mut cases, mut chunked) = (0, Vec::new());
    for place in 1..parts.len() {
        for byte in 0..=u8::MAX {
            let mut sent = b"POST / HTTP/1.1\r\nHost: a".to_vec();
            parts[..place].iter().for_each(|part| sent.extend_from_slice(part.as_bytes()));
            sent.push(byte);
            parts[place..].iter().for_each(|part| sent.extend_from_slice(part.as_bytes()));
            sent.extend_from_slice(b"\r\n5\r\nhello\r\n0\r\n\r\n");
            cases += 1;
            let ours = reader::requests(&sent, sent.len());
            differential::assert_hyper_agrees(&sent, &ours);
            if ours.messages.iter().any(|message| message.body == b"hello") {
                chunked.push((place, byte));
            }
        }
    }
    assert_eq!(cases, 1792);
    // Space around a value is none of it, and nothing else lets the coding through.
    assert_eq!(chunked, [(4, b'\t'), (4, b' '), (5, b'\t'), (5, b' '), (7, b'\t'), (7, b' ')]);
}

#[test]
fn rejects_lines_that_are_folded_or_end_oddly() {
    assert_eq!(refused_lines("A: b\r\n c"), E::HeaderLine);
    assert_eq!(refused_lines("A: b\r\n\tc"), E::HeaderLine);
    assert_eq!(refused("GET / HTTP/1.1\nHost: a\r\n\r\n"), E::Bytes(HeadBytesError::BareLineFeed));
    assert_eq!(refused_lines("A: b\nC: d"), E::Bytes(HeadBytesError::BareLineFeed));
    assert_eq!(refused_lines("A: b\rC: d"), E::HeaderLine);
    assert_eq!(refused_lines("A: b\r\rC: d"), E::HeaderLine);
    assert_eq!(refused("GET /\r HTTP/1.1\r\nHost: a\r\n\r\n"), E::RequestLine);
}

#[test]
fn rejects_names_and_values_with_bytes_that_they_cannot_have() {
    for line in [
        "Content-Length : 5",
        " Content-Length: 5",
        "Content Length: 5",
        ": 5",
        "A",
        "A\0: b",
        "A: b\0",
        "A: b\x01",
        "A: \x7f",
    ] {
        assert_eq!(refused_lines(line), E::HeaderLine, "{line:?}");
    }
    let text = E::Request(RequestError::Header(HeaderError::NotText("a".parse().unwrap())));
    assert_eq!(refused(b"GET / HTTP/1.1\r\nHost: a\r\nA: \xff\r\n\r\n"), text);
}

#[test]
fn rejects_request_lines_that_readers_split_differently() {
    for line in [
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /",
        "GET /a b HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET /\0 HTTP/1.1",
    ] {
        let refused = refused(format!("{line}\r\nHost: a\r\n\r\n"));
        assert!(matches!(refused, E::RequestLine | E::Version), "{line:?}: {refused:?}");
    }
    for version in ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1a"] {
        let refused = refused(format!("GET / {version}\r\nHost: a\r\n\r\n"));
        assert!(matches!(refused, E::Version | E::RequestLine), "{version}: {refused:?}");
    }
    assert_eq!(refused("GET / HTTP/1.7\r\nHost: a\r\n\r\n"), E::Version);
    assert_eq!(refused("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), E::EmptyLines);
    assert_eq!(accepted("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").0, BodyLength::None);
}

#[test]
fn rejects_targets_and_methods_that_no_policy_can_judge() {
    for target in ["/a#b", "/é", "http://flea.test/#", "*", "flea.test:80", "//a", "/a/../b", "/a\\b"] {
        let refused = refused(format!("GET {target} HTTP/1.1\r\nHost: flea.test\r\n\r\n"));
        assert!(matches!(refused, E::Request(_)), "{target}: {refused:?}");
    }
    for method in ["CONNECT", "TRACE", "BREW", "get"] {
        let refused = refused(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(refused, E::Request(RequestError::Method), "{method}");
    }
}

#[test]
fn rejects_requests_that_name_no_host_or_two() {
    let authority = |why| E::Request(RequestError::Authority(why));
    assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), authority(AuthorityError::Missing));
    assert_eq!(refused("GET http://flea.test/ HTTP/1.1\r\n\r\n"), E::NoHost);
    assert_eq!(refused_lines("Host: flea.test"), authority(AuthorityError::Duplicate));
    let conflict = refused("GET http://admin.test/ HTTP/1.1\r\nHost: flea.test\r\n\r\n");
    assert_eq!(conflict, authority(AuthorityError::Conflict));
}

#[test]
fn rejects_expectations_that_nobody_can_meet() {
    assert_eq!(refused_lines("Expect: 200-ok"), E::Expectation);
    let (_, _, waits, _) =
        accepted("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-Continue\r\n\r\n");
    assert!(waits);
    let (_, _, waits, _) =
        accepted("POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n");
    assert!(!waits, "HTTP/1.0 does not know it (RFC 9110 section 10.1.1)");
}

#[test]
fn a_connection_stays_or_ends_as_its_version_and_its_header_say() {
    let stays =
        |version: &str, lines: &str| accepted(&format!("GET / HTTP/{version}\r\nHost: a\r\n{lines}\r\n")).1;
    assert!(stays("1.1", ""));
    assert!(!stays("1.1", "Connection: te, Close\r\n"));
    assert!(!stays("1.1", "Connection: keep-alive\r\nConnection: close\r\n"));
    assert!(!stays("1.0", ""));
    assert!(stays("1.0", "Connection: Keep-Alive\r\n"));
    assert!(!stays("1.0", "Connection: keep-alive, close\r\n"));
}

#[test]
fn an_upgrade_counts_only_where_connection_lists_it() {
    let asks =
        |version: &str, lines: &str| accepted(&format!("GET / HTTP/{version}\r\nHost: a\r\n{lines}\r\n")).3;
    assert_eq!(
        asks("1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n").as_deref(),
        Some(&b"websocket"[..])
    );
    assert_eq!(asks("1.1", "Upgrade: websocket\r\n"), None);
    assert_eq!(asks("1.1", "Connection: upgrade\r\n"), None);
    assert_eq!(asks("1.0", "Connection: Upgrade\r\nUpgrade: websocket\r\n"), None);
}

#[test]
fn accepts_heads_at_the_limits_and_rejects_one_past_them() {
    let limits = Limits { head_bytes_max: 64, header_count_max: 2, ..Limits::default() };
    let read = |head: &str| {
        let mut slots = Slots::new();
        RequestDecoder::new(limits).decode(head.as_bytes(), &mut slots).map(|head| head.is_some())
    };
    let padded = |bytes: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "b".repeat(bytes - 32));
    assert_eq!((padded(64).len(), read(&padded(64))), (64, Ok(true)));
    assert_eq!(read(&padded(65)), Err(E::Bytes(HeadBytesError::TooLong { limit: 64 })));
    assert_eq!(read(&"G".repeat(63)), Ok(false));
    assert_eq!(read(&"G".repeat(64)), Err(E::Bytes(HeadBytesError::TooLong { limit: 64 })));
    assert_eq!(
        read("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nC: d\r\n\r\n"),
        Err(E::TooManyHeaders { limit: 2 })
    );
}

#[test]
fn rejects_chunk_sizes_that_are_not_hexadecimal_digits_alone() {
    for bad in ["", "0x5", "+5", "-5", " 5", "5 ", "5\t", "g", "5 ;a=b", "11112222333344445"] {
        assert_eq!(refused_chunks(&format!("{bad}\r\nhello\r\n0\r\n\r\n")), BodyError::ChunkSize, "{bad:?}");
    }
    assert_eq!(refused_chunks("5\nhello\r\n0\r\n\r\n"), BodyError::Lines(HeadBytesError::BareLineFeed));
    assert_eq!(
        refused_chunks("ffffffffffffffff\r\nhello"),
        BodyError::Truncated,
        "the largest size waits for its data"
    );
    assert_eq!(chunked(b"005;a=b\r\nhello\r\n00\r\n\r\n", Limits::default()).unwrap().0, b"hello");
}

#[test]
fn rejects_chunks_that_do_not_end_where_their_size_says() {
    for bad in ["hello0\r\n\r\n", "hello\n0\r\n\r\n", "hello\r0\r\n\r\n", "helloo\r\n0\r\n\r\n"] {
        assert_eq!(refused_chunks(&format!("5\r\n{bad}")), BodyError::ChunkEnd, "{bad:?}");
    }
    assert_eq!(refused_chunks("5\r\nhell"), BodyError::Truncated);
    assert_eq!(refused_chunks("5\r\nhello\r\n0\r\n"), BodyError::Truncated);
}

#[test]
fn rejects_chunk_extensions_that_are_no_extensions_or_too_long() {
    for bad in [";", ";=b", ";a=", ";a=\"b", ";a=b c", ";a=b\0", ";a=\u{e9}", ";a=\"b\"c", ";a;"] {
        assert_eq!(refused_chunks(&format!("5{bad}\r\nhello\r\n0\r\n\r\n")), BodyError::Extension, "{bad:?}");
    }
    for good in [";a", ";a=b;c=\"d\\\" ;e\"", ";a=b;c"] {
        assert!(
            chunked(format!("5{good}\r\nhello\r\n0;z\r\n\r\n").as_bytes(), Limits::default()).is_ok(),
            "{good:?}"
        );
    }
    let limits = Limits { chunk_line_bytes_max: 16, chunk_extension_bytes_max: 8, ..Limits::default() };
    let chunk =
        |extension: &str| chunked(format!("1{extension}\r\na\r\n1;ab\r\nb\r\n0\r\n\r\n").as_bytes(), limits);
    assert!(chunk(";abcd").is_ok());
    assert_eq!(chunk(";abcde"), Err(BodyError::ExtensionsTooLong { limit: 8 }));
    assert_eq!(chunk(&";a".repeat(8)), Err(BodyError::ChunkLineTooLong { limit: 16 }));
}

#[test]
fn trailers_never_become_headers_and_forbidden_ones_are_refused() {
    let with =
        |trailers: &str| chunked(format!("1\r\na\r\n0\r\n{trailers}\r\n").as_bytes(), Limits::default());
    assert_eq!(with("Server-Timing: db;dur=5\r\n").unwrap().1["server-timing"], "db;dur=5");
    for name in [
        "content-length",
        "transfer-encoding",
        "host",
        "authorization",
        "txn-token",
        "x_forwarded_user",
        "set-cookie",
        "trailer",
    ] {
        let refused = with(&format!("{name}: 1\r\n")).unwrap_err();
        assert_eq!(refused, BodyError::Trailer(TrailerError::Forbidden(name.parse().unwrap())));
    }
    for bad in ["A : b\r\n", " A: b\r\n", "A\r\n", "A: \0\r\n", "A: b\r\n c\r\n", "A: b\rC: d\r\n"] {
        assert_eq!(with(bad).unwrap_err(), BodyError::Trailer(TrailerError::Line), "{bad:?}");
    }
    assert_eq!(with("A: b\n").unwrap_err(), BodyError::Lines(HeadBytesError::BareLineFeed));
    assert_eq!(
        with(&"A: b\r\n".repeat(17)).unwrap_err(),
        BodyError::Trailer(TrailerError::TooMany { limit: 16 })
    );
    let long = with(&format!("A: {}\r\n", "b".repeat(5000))).unwrap_err();
    assert_eq!(long, BodyError::Lines(HeadBytesError::TooLong { limit: 4096 }));
}

#[test]
fn a_target_that_would_end_the_request_line_is_not_written() {
    let host = countersign_request::Authority::parse("flea.test:8080").unwrap();
    for (path, query) in [("/a b", None), ("a", None), ("/a\r\nX: y", None), ("/", Some("a b")), ("/é", None)]
    {
        let mut out = Vec::new();
        let refused = encode::request(&mut out, &Method::GET, path, query, &host.as_ref()).err();
        assert_eq!((refused, out.len()), (Some(encode::EncodeError::Target), 0), "{path:?}");
    }
    let mut out = Vec::new();
    encode::request(&mut out, &Method::PUT, "/a", Some("b"), &host.as_ref())
        .unwrap()
        .finish(BodyLength::Exact(u64::MAX));
    assert_eq!(
        out,
        b"PUT /a?b HTTP/1.1\r\nhost: flea.test:8080\r\ncontent-length: 18446744073709551615\r\n\r\n"
    );
}

#[test]
fn chunks_are_written_with_their_size_and_none_is_empty() {
    let mut out = Vec::new();
    encode::chunk(&mut out, b"");
    assert_eq!(out, b"", "an empty chunk would end the body");
    encode::chunk(&mut out, &[b'a'; 26]);
    encode::last_chunk(&mut out, &HeaderMap::new());
    assert_eq!(out, [&b"1a\r\n"[..], &[b'a'; 26], b"\r\n0\r\n\r\n"].concat());
    let mut sizes = Vec::new();
    [1, 15, 16, 255, 4096, usize::MAX].into_iter().for_each(|bytes| encode::chunk_start(&mut sizes, bytes));
    assert_eq!(sizes, b"1\r\nf\r\n10\r\nff\r\n1000\r\nffffffffffffffff\r\n");
}
