//! What a listener bears from peers that do nothing, or too much.

use std::{
    convert::Infallible,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use countersign_pki::CrlPolicy;
use countersign_sdk::{
    accept::{self, Connection, Limits, Transport, bind_unix},
    outbound::{CallLimits, Channel, Target},
    tls::{Acceptor, ClientAuth, TrustState},
};
use http::{Request, Response};
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::deployment::{Deployment, get_request, text};

async fn answer(
    request: Request<countersign_sdk::accept::RequestBody>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/slow" {
        tokio::time::sleep(Duration::from_millis(800)).await;
    }
    let uid = request.extensions().get::<Connection>().and_then(Connection::unix).map(|peer| peer.uid);
    Ok(Response::new(Full::from(format!("{uid:?}"))))
}

fn plain(listener: TcpListener, limits: Limits) -> CancellationToken {
    let stop = CancellationToken::new();
    let serving = accept::serve(listener, Transport::Plain, tower::service_fn(answer), limits, stop.clone());
    tokio::spawn(serving);
    stop
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// How long the server keeps a connection on which `sent` was all that came.
async fn kept(address: SocketAddr, sent: &[u8]) -> Duration {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(sent).await.unwrap();
    let start = Instant::now();
    let mut rest = Vec::new();
    let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await.expect("kept for ever");
    start.elapsed()
}

const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_handshake_that_is_not_finished_in_time_is_ended() {
    let deployment = Deployment::new();
    let trust = TrustState::new(deployment.bundles(), CrlPolicy::Require);
    trust.set_identity(deployment.leaf("users").identity());
    let acceptor = Acceptor::new(trust, ClientAuth::Required);
    let (listener, address) = listen().await;
    let limits = Limits { handshake: SHORT, ..Limits::default() };
    let stop = CancellationToken::new();
    let transport = Transport::Tls(acceptor);
    tokio::spawn(accept::serve(listener, transport, tower::service_fn(answer), limits, stop.clone()));
    let kept = kept(address, b"\x16\x03\x01").await;
    assert!(kept >= SHORT && kept < SHORT * 5, "{kept:?}");
    stop.cancel();
}

#[tokio::test]
async fn a_head_that_trickles_in_is_ended() {
    let (listener, address) = listen().await;
    let _stop = plain(listener, Limits { header_read: SHORT, ..Limits::default() });
    let kept = kept(address, b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").await;
    assert!(kept >= SHORT && kept < SHORT * 5, "{kept:?}");
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_ended() {
    let (listener, address) = listen().await;
    let limits = Limits { idle: SHORT, drain: SHORT, ..Limits::default() };
    let _stop = plain(listener, limits);
    let kept = kept(address, b"").await;
    assert!(kept >= SHORT && kept < SHORT * 6, "{kept:?}");
}

#[tokio::test]
async fn a_connection_with_a_request_in_progress_is_not_idle() {
    let (listener, address) = listen().await;
    let _stop = plain(listener, Limits { idle: SHORT, drain: SHORT, ..Limits::default() });
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut start = [0; 15];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_kept_connection_waits_longer_for_its_next_request_than_for_the_rest_of_one() {
    let (listener, address) = listen().await;
    let hour = Duration::from_hours(1);
    let _stop = plain(listener, Limits { header_read: SHORT, idle: hour, ..Limits::default() });
    let mut stream = TcpStream::connect(address).await.unwrap();
    for _ in 0..2 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"None") {
            answer
                .push(stream.read_u8().await.expect("an idle connection is ended like one with a slow head"));
        }
        tokio::time::sleep(SHORT * 4).await;
    }
    // The next head has begun: what trickles in now is ended, on a kept connection too.
    stream.write_all(b"GET / HTTP/1.1\r\nX-Slow: ").await.unwrap();
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(60), stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "a slow head keeps its connection");
}

#[tokio::test]
async fn an_old_connection_is_drained() {
    let (listener, address) = listen().await;
    let limits = Limits { connection_age: SHORT, drain: SHORT, ..Limits::default() };
    let _stop = plain(listener, limits);
    let kept = kept(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(kept >= SHORT && kept < SHORT * 6, "{kept:?}");
}

#[tokio::test]
async fn one_connection_too_many_waits_outside() {
    let (listener, address) = listen().await;
    let _stop = plain(listener, Limits { connections_max: 1, ..Limits::default() });
    let first = TcpStream::connect(address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut byte = [0];
    assert!(timeout(SHORT, second.read_exact(&mut byte)).await.is_err(), "served beyond the limit");
    drop(first);
    assert!(timeout(Duration::from_secs(5), second.read_exact(&mut byte)).await.unwrap().is_ok());
}

#[tokio::test]
async fn headers_beyond_the_limits_are_refused() {
    let (listener, address) = listen().await;
    let limits = Limits { headers_max: 4, ..Limits::default() };
    let _stop = plain(listener, limits);
    let first_line = async |head: String| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        String::from_utf8(start.to_vec()).unwrap()
    };
    let head = |n: usize| format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(n));
    assert_eq!(first_line(head(3)).await, "HTTP/1.1 200");
    assert_eq!(first_line(head(4)).await, "HTTP/1.1 431");
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "b".repeat(40_000));
    assert_eq!(first_line(long).await, "HTTP/1.1 431");
}

#[tokio::test]
async fn a_unix_socket_tells_who_is_at_the_other_end() {
    let directory = countersign_testkit::temp_dir();
    let path = directory.path().join("admin.sock");
    let listener = bind_unix(&path, 0o600).await.unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions()) & 0o777,
        0o600
    );
    let stop = CancellationToken::new();
    let serving =
        accept::serve(listener, Transport::Plain, tower::service_fn(answer), Limits::default(), stop.clone());
    let served = tokio::spawn(serving);
    let channel = Channel::new(Target::Unix(path.clone()), CallLimits::default());
    let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(directory.path()).unwrap());
    assert_eq!(text(channel.send(get_request("/")).await.unwrap()).await, format!("Some({own})"));
    // Somebody answers there: it is not taken away.
    assert_eq!(bind_unix(&path, 0o600).await.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    stop.cancel();
    served.await.unwrap();
    // A socket file that a dead process left behind is replaced.
    assert!(path.exists());
    bind_unix(&path, 0o600).await.unwrap();
}

#[tokio::test]
async fn what_is_no_socket_is_not_taken_away_for_one() {
    let directory = countersign_testkit::temp_dir();
    let path = directory.path().join("notes.txt");
    std::fs::write(&path, "dear diary").unwrap();
    assert_eq!(bind_unix(&path, 0o600).await.unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "dear diary");
    bind_unix(&directory.path().join("admin.sock"), 0o600).await.unwrap();
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        2,
        "something is left beside the socket"
    );
}

#[test]
fn every_limit_has_a_name_and_a_default_and_an_unknown_one_is_an_error() {
    let limits: Limits = serde_json::from_str(r#"{"handshake_ms": 250, "streams_max": 7}"#).unwrap();
    assert_eq!((limits.handshake, limits.streams_max), (Duration::from_millis(250), 7));
    assert_eq!(limits.idle, Limits::default().idle);
    assert!(serde_json::from_str::<Limits>(r#"{"handshake": 250}"#).is_err());
    let calls: CallLimits = serde_json::from_str(r#"{"answer_ms": 250}"#).unwrap();
    assert_eq!(calls.answer, Duration::from_millis(250));
}

#[tokio::test]
async fn an_answer_that_does_not_wait_for_the_body_is_not_followed_by_a_reset() {
    let (listener, address) = listen().await;
    let stop = plain(listener, Limits::default());
    let stream = TcpStream::connect(address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut send, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let (feed, body) = tokio::sync::mpsc::channel::<Result<http_body::Frame<Bytes>, Infallible>>(1);
    let body = http_body_util::StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body));
    let request = Request::post(format!("http://{address}/")).body(body).unwrap();
    let answer = send.send_request(request).await.unwrap();
    assert_eq!(text(answer).await, "None", "the whole answer, although the body has not come");
    tokio::time::sleep(Duration::from_millis(100)).await;
    // A reset would end the client's sending half, and with it the receiver of this channel.
    assert!(!feed.is_closed(), "the stream was reset while the client was still sending");
    drop(feed);
    stop.cancel();
}
