//! Where a request ends: heads and bodies that some reader somewhere takes for two, against an upstream that records
//! every byte. Each is refused, or arrives as exactly one identical request.
use crate::llhttp::{BOTH, fence, gateway};
use crate::rig::tape::{Said, Tape, answers, converse};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: flea.test\r\n\r\n";

/// Headers and body of a POST, all of which are refused.
const REFUSED: [(&str, &str, &str); 33] = [
    ("both lengths", "Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
    ("both, the other way round", "Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n"),
    ("both, and no chunk", "Content-Length: 5\r\nTransfer-Encoding: chunked", "hello"),
    ("two lengths that differ", "Content-Length: 5\r\nContent-Length: 6", "hello!"),
    ("two lengths in one line", "Content-Length: 5,5", "hello"),
    ("two lengths that differ in one line", "Content-Length: 5, 6", "hello!"),
    ("a length with a sign", "Content-Length: +5", "hello"),
    ("a negative length", "Content-Length: -5", "hello"),
    ("no length where one is said to be", "Content-Length:", ""),
    ("a hexadecimal length", "Content-Length: 0x5", "hello"),
    ("a length with a space inside", "Content-Length: 1 0", "hello"),
    ("a length past 64 bits", "Content-Length: 18446744073709551621", "hello"),
    ("a length with a fraction", "Content-Length: 5.0", "hello"),
    ("an encoding that does not end in chunks", "Transfer-Encoding: chunked, gzip", "0\r\n\r\n"),
    ("an encoding that is not chunks", "Transfer-Encoding: identity", "hello"),
    ("an unknown encoding", "Transfer-Encoding: xchunked", "0\r\n\r\n"),
    ("chunks twice", "Transfer-Encoding: chunked, chunked", "0\r\n\r\n"),
    ("chunks in two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
    ("an encoding and then none", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n"),
    ("no encoding where one is said to be", "Transfer-Encoding:", "0\r\n\r\n"),
    ("a quoted encoding", "Transfer-Encoding: \"chunked\"", "0\r\n\r\n"),
    ("an encoding on a folded line", "Transfer-Encoding:\r\n chunked", "0\r\n\r\n"),
    ("a folded line", "X-A: b\r\n c\r\nContent-Length: 5", "hello"),
    ("a bare line feed", "X-A: b\nContent-Length: 5", "hello"),
    ("a bare carriage return", "X-A: b\rContent-Length: 5", "hello"),
    ("a space before the colon", "Content-Length : 5", "hello"),
    ("a space before the name", " Content-Length: 5", "hello"),
    ("a zero byte in a value", "X-A: b\0c\r\nContent-Length: 5", "hello"),
    ("a chunk's size past 64 bits", "Transfer-Encoding: chunked", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("a chunk's size with a sign", "Transfer-Encoding: chunked", "+5\r\nhello\r\n0\r\n\r\n"),
    ("a chunk longer than its size", "Transfer-Encoding: chunked", "5\r\nhelloX\r\n0\r\n\r\n"),
    ("a chunk's line that ends with a line feed", "Transfer-Encoding: chunked", "5\nhello\n0\n\n"),
    ("a length among the trailers", "Transfer-Encoding: chunked", "0\r\nContent-Length: 40\r\n\r\n"),
];

#[tokio::test]
async fn what_has_no_single_end_is_refused_and_the_last_of_its_connection() {
    let tape = Tape::new(|request| Said::text(request.asks())).await;
    for carrier in BOTH {
        let (_rig, edge) = gateway(&tape, carrier).await;
        for (name, headers, body) in REFUSED {
            let bytes = format!("POST /a HTTP/1.1\r\nHost: flea.test\r\n{headers}\r\n\r\n{body}{SMUGGLED}");
            let answers = answers(&converse(edge.plain, bytes.as_bytes()).await, &[]);
            assert_eq!(answers.len(), 1, "{name}: {answers:?}");
            assert_eq!(answers[0].status(), 400, "{name}: {answers:?}");
            assert_eq!(answers[0].values("connection"), ["close"], "{name}: {answers:?}");
            assert_eq!(fence(&edge, &tape).await, [], "{name}");
        }
    }
}

#[tokio::test]
async fn chunks_before_http_1_1_are_refused() {
    let tape = Tape::new(|request| Said::text(request.asks())).await;
    for carrier in BOTH {
        let (_rig, edge) = gateway(&tape, carrier).await;
        let bytes = format!(
            "POST /a HTTP/1.0\r\nHost: flea.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
        );
        let answers = answers(&converse(edge.plain, bytes.as_bytes()).await, &[]);
        assert_eq!((answers.len(), answers[0].status()), (1, 400), "{answers:?}");
        assert_eq!(fence(&edge, &tape).await, []);
    }
}

#[tokio::test]
async fn chunks_are_written_anew_without_what_stood_between_them() {
    let tape = Tape::new(|request| Said::text(request.asks())).await;
    for carrier in BOTH {
        let (_rig, edge) = gateway(&tape, carrier).await;
        for body in [
            "5\r\nhello\r\n0\r\n\r\n",
            "005\r\nhello\r\n000\r\n\r\n",
            "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            "5;name=value\r\nhello\r\n0;last\r\n\r\n",
        ] {
            let bytes = format!(
                "POST /a HTTP/1.1\r\nHost: flea.test\r\nTransfer-Encoding: chunked\r\n\r\n{body}{SMUGGLED}"
            );
            let answers = answers(&converse(edge.plain, bytes.as_bytes()).await, &["POST", "GET"]);
            let arrived = fence(&edge, &tape).await;
            if answers[0].status() == 400 {
                assert_eq!((answers.len(), arrived.len()), (1, 0), "{body}: {answers:?} {arrived:?}");
                continue;
            }
            // The second is one that the client said behind the first, whose end nobody doubts.
            assert_eq!(
                arrived.iter().map(|request| request.asks()).collect::<Vec<_>>(),
                ["POST /a", "GET /smuggled"]
            );
            assert_eq!(arrived[0].body, b"hello", "{body}");
            assert!(arrived[1].body.is_empty());
        }
    }
}

#[tokio::test]
async fn a_body_in_chunks_goes_on_whatever_the_method() {
    let tape = Tape::new(|request| Said::text(request.asks())).await;
    for carrier in BOTH {
        let (_rig, edge) = gateway(&tape, carrier).await;
        for method in ["GET", "HEAD", "POST", "DELETE"] {
            let head =
                format!("{method} /a HTTP/1.1\r\nHost: flea.test\r\nTransfer-Encoding: chunked\r\n\r\n");
            converse(edge.plain, format!("{head}5\r\nhello\r\n0\r\n\r\n").as_bytes()).await;
            let arrived = fence(&edge, &tape).await;
            let told: Vec<_> = arrived.iter().map(|request| (request.asks(), &request.body[..])).collect();
            let expected = format!("{method} /a");
            assert_eq!(told, [(expected.as_str(), &b"hello"[..])]);
            // And one that breaks is refused with any of them.
            let heard = converse(edge.plain, format!("{head}5\r\nhelloX\r\n0\r\n\r\n").as_bytes()).await;
            assert_ne!(answers(&heard, &[method])[0].status(), 200, "{method}");
            assert_eq!(fence(&edge, &tape).await, [], "{method}");
        }
    }
}

#[tokio::test]
async fn no_byte_in_or_around_transfer_encoding_makes_two_requests_of_one() {
    const BODY: &str = "0\r\n\r\nX";
    let tape = Tape::new(|request| Said::text(request.asks())).await;
    for carrier in BOTH {
        let (_rig, edge) = gateway(&tape, carrier).await;
        let (mut cases, mut forwarded) = (0, 0);
        for position in [
            "@Transfer-Encoding: chunked",
            "Transfer@-Encoding: chunked",
            "Transfer-Encoding@: chunked",
            "Transfer-Encoding:@chunked",
            "Transfer-Encoding: @chunked",
            "Transfer-Encoding: chun@ked",
            "Transfer-Encoding: chunked@",
        ] {
            for byte in 0..=255_u8 {
                let mut bytes = b"POST /a HTTP/1.1\r\nHost: flea.test\r\nContent-Length: 6\r\n".to_vec();
                let (before, after) = position.split_once('@').unwrap();
                bytes.extend_from_slice(before.as_bytes());
                bytes.push(byte);
                bytes.extend_from_slice(after.as_bytes());
                bytes.extend_from_slice(format!("\r\nConnection: close\r\n\r\n{BODY}").as_bytes());
                let answers = answers(&converse(edge.plain, &bytes).await, &["POST"]);
                cases += 1;
                assert_eq!(answers.len(), 1, "{position} {byte}: {answers:?}");
                match answers[0].status() {
                    200 => forwarded += 1,
                    status => assert_eq!(status, 400, "{position} {byte}: {answers:?}"),
                }
            }
            let arrived = fence(&edge, &tape).await;
            for request in &arrived {
                assert_eq!((request.asks(), &request.body[..]), ("POST /a", BODY.as_bytes()), "{position}");
                assert_eq!(request.values("content-length"), ["6"]);
                // No other spelling that a careless reader takes for the name.
                let spelt = |name: &str| name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "-");
                let known = |name: &String| spelt(name) == "transfer-encoding";
                assert!(!request.headers.iter().any(|(name, _)| known(name)), "{request:?}");
            }
            forwarded -= arrived.len();
        }
        assert_eq!(forwarded, 0, "each answer stands for one request, and each request for one answer");
        println!("{cases} cases");
    }
}
