//! Words for answers of the HTTP library, and for no answer of the application.

use std::convert::Infallible;

use bytes::Bytes;
use countersign_sdk::accept::{self, Limits, RequestBody, Transport};
use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_LENGTH};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// `/bare` is refused without a word; everything else is well.
fn handler(request: &Request<RequestBody>) -> Answer {
    let mut answer = Response::new(Full::from("well").boxed_unsync());
    if request.uri().path() == "/bare" {
        *answer.body_mut() = Full::default().boxed_unsync();
        *answer.status_mut() = StatusCode::BAD_REQUEST;
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    answer
}

async fn connect<F>(handler: F) -> TcpStream
where
    F: FnMut(Request<RequestBody>) -> Answer + Clone + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = tower::service_fn(move |request| std::future::ready(Ok(handler.clone()(request))));
    let stop = CancellationToken::new();
    tokio::spawn(accept::serve(listener, Transport::Plain, service, Limits::default(), stop));
    TcpStream::connect(address).await.unwrap()
}

/// Everything that is answered to `sent`, until the connection ends.
async fn answers(sent: &str) -> String {
    let mut stream = connect(|request| handler(&request)).await;
    stream.write_all(sent.as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    answers
}

#[tokio::test]
async fn a_head_that_cannot_be_read_is_refused_in_words() {
    let answer = answers("GET / HTTP/1.1\r\nHost : x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("malformed_request"), "{answer}");
}

#[tokio::test]
async fn a_handler_that_says_nothing_is_not_given_words() {
    for method in ["GET", "HEAD"] {
        let next = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        // The second one only after the first was answered, so that each is written by itself.
        let mut stream = connect(|request| handler(&request)).await;
        stream.write_all(format!("{method} /bare HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut first = Vec::new();
        while !first.ends_with(b"\r\n\r\n") {
            first.push(stream.read_u8().await.unwrap());
        }
        let first = String::from_utf8(first).unwrap();
        assert!(
            first.starts_with("HTTP/1.1 400 ") && first.contains("content-length: 0"),
            "{method}: {first}"
        );
        stream.write_all(next.as_bytes()).await.unwrap();
        let mut second = String::new();
        stream.read_to_string(&mut second).await.unwrap();
        assert!(second.starts_with("HTTP/1.1 200 OK") && second.ends_with("well"), "{method}: {second}");
    }
}

#[tokio::test]
async fn content_that_looks_like_an_answer_arrives_as_it_is() {
    let stored = "HTTP/1.1 400 x\r\ncontent-length: 0\r\n\r\n";
    let (upload, pieces) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let pieces = std::sync::Arc::new(std::sync::Mutex::new(Some(pieces)));
    let mut stream = connect(move |_| {
        let pieces = pieces.lock().unwrap().take().unwrap();
        let body = StreamBody::new(ReceiverStream::new(pieces)).boxed_unsync();
        let length = 6 + stored.len();
        Response::builder().header(CONTENT_LENGTH, length).body(body).unwrap()
    })
    .await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    upload.send(Ok(Frame::data(Bytes::from_static(b"before")))).await.unwrap();
    let mut start = Vec::new();
    while !start.ends_with(b"before") {
        start.push(stream.read_u8().await.unwrap());
    }
    upload.send(Ok(Frame::data(Bytes::from_static(stored.as_bytes())))).await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, stored);
}
