//! Long bodies through a pair of sidecars: memory stays flat, and neither end is cut while something moves.
//!
//! Measured in a process of its own, because the other tests have memory too. By hand, with a gibibyte each way:
//!
//! ```sh
//! cargo test --release -p countersign-gateway --test gateway -- --ignored --nocapture a_gibibyte
//! ```
#![allow(clippy::print_stdout, reason = "figures for people")]

use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_testkit::measure;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixListener};

use crate::rig::Rig;
use crate::rig::backend::{Backend, Reply};
use crate::rig::client::{drip, read_answer, request};
use crate::rig::pair::{EVERYBODY, Pair};
use crate::sidecar_http1::caller;

const MIB: u64 = 1 << 20;
const PIECE: usize = 64 * 1024;
/// Further than this, memory is not flat. Windows and buffers of both sidecars, both services and both connections.
const GROWTH_KIB_MAX: u64 = 64 * 1024;
const SIZE: &str = "COUNTERSIGN_TEST_LARGE_MIB";
/// Bytes a second that a body must bring, and bytes that come more slowly.
const SLOW: &str = "body_rate_min_bytes_s = 10000\nbody_rate_grace_ms = 400\n";
const PAUSE: Duration = Duration::from_millis(30);

#[test]
fn a_quarter_of_a_gibibyte_passes_a_pair_of_sidecars_each_way_in_flat_memory() {
    in_a_process_of_its_own(256);
}

#[test]
#[ignore = "takes its time: see the head of this file"]
fn a_gibibyte_passes_a_pair_of_sidecars_each_way_in_flat_memory() {
    in_a_process_of_its_own(1024);
}

fn in_a_process_of_its_own(mib: u64) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "large::measured"])
        .env(SIZE, mib.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.matches("grew by").count(), 2, "{said}");
    said.lines().filter(|line| line.contains("grew by")).for_each(|line| println!("{line}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "one process of the tests above"]
async fn measured() {
    let Some(mib) = std::env::var(SIZE).ok().and_then(|mib| mib.parse::<u64>().ok()) else { return };
    let limits = "request_timeout_ms = 5000\n";
    let (pair, listener) = Pair::new(limits, limits).await;
    serve(listener, mib * MIB);
    // What is there once is there: the second time tells what grows.
    upload(&pair, 8 * MIB).await;
    download(&pair, 8 * MIB).await;
    for up in [true, false] {
        let (before, began) = (pss_kib(), Instant::now());
        let mut most = before;
        let watching = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                most = most.max(pss_kib());
            }
        };
        let moving =
            async { if up { upload(&pair, mib * MIB).await } else { download(&pair, mib * MIB).await } };
        tokio::select! {
            () = watching => {}
            () = moving => {}
        }
        let (grown, took) = (most.saturating_sub(before), began.elapsed().as_secs_f64());
        let way = if up { "up" } else { "down" };
        println!("{mib} MiB {way} in {took:.1} s: PSS {before} KiB grew by {grown} KiB");
        assert!(grown < GROWTH_KIB_MAX, "{way}: {grown} KiB");
    }
}

fn pss_kib() -> u64 {
    measure::memory(std::process::id()).pss
}

type Body = BoxBody<Bytes, std::io::Error>;

/// `POST`: how many bytes came. `GET`: so many bytes.
fn serve(listener: UnixListener, bytes: u64) {
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(move |request: Request<Incoming>| async move {
                Ok::<_, std::convert::Infallible>(answer(request, bytes).await)
            });
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    });
}

async fn answer(request: Request<Incoming>, bytes: u64) -> Response<Body> {
    if request.method() == http::Method::GET {
        let wanted = request.uri().query().map_or(bytes, |query| query.parse().unwrap());
        return Response::new(pieces(wanted));
    }
    let (mut body, mut count) = (request.into_body(), 0);
    while let Some(frame) = body.frame().await {
        count += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    Response::new(Full::from(count.to_string()).map_err(|never| match never {}).boxed())
}

fn pieces(bytes: u64) -> Body {
    let piece = Bytes::from(vec![b'x'; PIECE]);
    let count = bytes / PIECE as u64;
    let frames = (0..count).map(move |_| Ok(Frame::data(piece.clone())));
    StreamBody::new(futures::stream::iter(frames)).boxed()
}

async fn upload(pair: &Pair, bytes: u64) {
    let answer = send(pair, Request::post("/in"), pieces(bytes)).await;
    let count = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(count, bytes.to_string());
}

async fn download(pair: &Pair, bytes: u64) {
    let mut body = send(pair, Request::get(format!("/out?{bytes}")), pieces(0)).await.into_body();
    let mut count = 0;
    while let Some(frame) = body.frame().await {
        count += frame.unwrap().data_ref().map_or(0, Bytes::len) as u64;
    }
    assert_eq!(count, bytes);
}

async fn send(pair: &Pair, request: http::request::Builder, body: Body) -> Response<Incoming> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(pair.call().await)).await.unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(request.header("host", "users").body(body).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    answer
}

/// An edge in front of somebody who takes a body and then answers.
async fn edge(more: &str) -> (Rig, crate::rig::Running) {
    let (rig, seen) = (Rig::new(), crate::rig::echo::Seen::default());
    rig.policy("gateway", EVERYBODY);
    rig.service("ads", EVERYBODY, crate::rig::echo::router(&["/ads"], &seen)).await;
    let toml = format!("[[route]]\npath = \"/ads\"\nto = \"ads\"\nuser = \"none\"\n[limits]\n{more}");
    let edge = rig.gateway(&toml).await;
    (rig, edge)
}

/// DEADLINE_EXCEEDED, as a refusal in gRPC's form says it.
const TOO_LATE: u16 = 4;

/// As [`drips`], over HTTP/2.
async fn drip_http2(address: std::net::SocketAddr, bytes: usize, pause: Duration, media_type: &str) -> u16 {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let frames = futures::stream::unfold(0, move |sent| async move {
        tokio::time::sleep(pause).await;
        (sent < bytes).then(|| (Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"."))), sent + 1))
    });
    let request = Request::post("http://flea.test/ads").header("content-type", media_type);
    let answer = sender.send_request(request.body(StreamBody::new(Box::pin(frames))).unwrap()).await.unwrap();
    let status = answer.headers().get("grpc-status").map(|status| status.to_str().unwrap().parse().unwrap());
    status.unwrap_or(answer.status().as_u16())
}

/// A body of `bytes`, one of them every few milliseconds; the status of the answer, in gRPC's form if it has that.
async fn drips(address: SocketAddr, bytes: usize, pause: Duration, media_type: &str) -> u16 {
    let head = format!("POST /ads HTTP/1.1\r\nHost: flea.test\r\nContent-Type: {media_type}\r\n");
    let answer = drip(TcpStream::connect(address).await.unwrap(), &head, bytes, pause).await;
    answer.header("grpc-status").map_or(answer.status, |status| status.parse().unwrap())
}

#[tokio::test]
async fn a_body_that_moves_may_take_longer_than_the_wait_for_an_answer() {
    let (_rig, edge) = edge("request_timeout_ms = 600\n").await;
    assert_eq!(drips(edge.plain, 20, Duration::from_millis(80), "text/plain").await, 200);
}

#[tokio::test]
async fn a_client_that_never_pauses_and_drips_is_refused_unless_it_speaks_grpc() {
    let (rig, edge) = edge(SLOW).await;
    assert_eq!(drips(edge.plain, 100, PAUSE, "text/plain").await, 408);
    assert_eq!(drip_http2(edge.plain, 100, PAUSE, "text/plain").await, 408);
    assert_eq!(drip_http2(edge.plain, 30, PAUSE, "application/grpc").await, 200);
    assert_eq!(request(edge.plain, "POST", "/ads", &[], "all at once").await.status, 200);
    // What says that it is gRPC, and is not: the client, or the target, speaks HTTP/1.1.
    assert_eq!(drips(edge.plain, 100, PAUSE, "application/grpc").await, TOO_LATE);
    let backend = Backend::named("b").await;
    let toml = format!(
        "[[route]]\npath = \"/ads\"\nto = \"b\"\nuser = \"none\"\n\
         [[upstream]]\nname = \"b\"\nendpoints = [\"{}\"]\n[limits]\n{SLOW}",
        backend.address
    );
    let edge = rig.gateway_of(edge.workload.clone(), &toml).await;
    assert_eq!(drip_http2(edge.plain, 100, PAUSE, "application/grpc").await, TOO_LATE);
}

#[tokio::test]
async fn a_caller_that_drips_and_says_that_it_speaks_grpc_does_not_bind_a_service_that_does_not() {
    let (pair, listener) = Pair::new(SLOW, "").await;
    serve(listener, 0);
    let mut call = pair.call().await;
    let head =
        "POST /in HTTP/1.1\r\nHost: users\r\nContent-Type: application/grpc\r\nContent-Length: 100\r\n\r\n";
    call.write_all(head.as_bytes()).await.unwrap();
    let (reading, mut writing) = call.into_split();
    let dripping = tokio::spawn(async move {
        while writing.write_all(b".").await.is_ok() {
            tokio::time::sleep(PAUSE).await;
        }
    });
    let answer = read_answer(&mut tokio::io::join(reading, tokio::io::sink())).await;
    dripping.abort();
    // In gRPC's form: its code for what took too long.
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("4")), "{answer:?}");
}

#[tokio::test]
async fn a_caller_in_http1_that_says_that_it_speaks_grpc_is_not_waited_for_where_the_service_does() {
    let (pair, listener) = Pair::new(&format!("app_http2 = true\n{SLOW}"), "").await;
    serve_slowly(listener);
    let address = pair.ads.live().service("users").unwrap().address.parse().unwrap();
    let (_chat, stream) = caller(&pair.rig, "chat", address).await;
    let head = "POST /in HTTP/1.1\r\nHost: users\r\nContent-Type: application/grpc\r\n";
    let answer = drip(stream, head, 1000, PAUSE).await;
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("4")), "{answer:?}");
}

/// More than a busy machine needs for an exchange in which nobody waits.
const TOTAL: &str = "total_timeout_ms = 3000\n";
/// The two carriers: a body that is not there whole is the full one's.
const ASKED: [&str; 2] = ["GET /ads HTTP/1.1\r\n", "POST /ads HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"];

/// Sends a request without a body, and reads what comes until the end of the connection.
async fn asks(mut stream: impl AsyncRead + AsyncWrite + Unpin, asked: &str, host: &str) -> String {
    let end = if asked.starts_with("POST") { "0\r\n\r\n" } else { "" };
    let request = format!("{asked}Host: {host}\r\nConnection: close\r\n\r\n{end}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut heard)).await;
    assert!(ended.is_ok(), "it did not end");
    String::from_utf8_lossy(&heard).into_owned()
}

#[tokio::test]
async fn an_exchange_at_the_edge_has_no_more_than_its_total_time() {
    let (_rig, slow) = edge(TOTAL).await;
    let (late, in_time) = tokio::join!(
        drips(slow.plain, 1000, Duration::from_millis(50), "text/plain"),
        drips(slow.plain, 3, Duration::from_millis(20), "text/plain")
    );
    assert_eq!((late, in_time), (408, 200));
    let rig = Rig::new();
    rig.policy("gateway", EVERYBODY);
    let backend = Backend::new(|_, request| match request.contains("/out") {
        true => Reply::Drip("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n".into()),
        false => Reply::Silence,
    })
    .await;
    let toml = format!(
        "[[route]]\npath = \"/*\"\nto = \"b\"\nuser = \"none\"\n[limits]\n{TOTAL}[[upstream]]\nname = \"b\"\nendpoints = [\"{}\"]\n",
        backend.address
    );
    let edge = rig.gateway(&toml).await;
    futures::future::join_all(ASKED.map(async |asked| {
        let connect = || async { TcpStream::connect(edge.plain).await.unwrap() };
        let out = asked.replace("/ads", "/out");
        let silent = asks(connect().await, asked, "flea.test");
        let (silent, endless) = tokio::join!(silent, asks(connect().await, &out, "flea.test"));
        assert!(silent.starts_with("HTTP/1.1 504 "), "{silent}");
        assert!(endless.starts_with("HTTP/1.1 200 ") && endless.ends_with('.'), "{endless}");
    }))
    .await;
}

#[tokio::test]
async fn an_exchange_at_a_sidecar_has_no_more_than_its_total_time_and_says_the_same() {
    for (callee, caller) in [(TOTAL, ""), ("", TOTAL)] {
        let (pair, listener) = Pair::new(callee, caller).await;
        serve_slowly(listener);
        let head = "POST /in HTTP/1.1\r\nHost: users\r\n";
        let pause = Duration::from_millis(50);
        let (late, in_time) = tokio::join!(
            drip(pair.call().await, head, 1000, pause),
            drip(pair.call().await, head, 3, pause / 3)
        );
        assert_eq!((late.status, in_time.status), (408, 200), "{callee}{caller}");
        futures::future::join_all(ASKED.map(async |asked| {
            let out = asked.replace("/ads", "/out");
            let silent = asks(pair.call().await, asked, "users");
            let (silent, endless) = tokio::join!(silent, asks(pair.call().await, &out, "users"));
            assert!(silent.starts_with("HTTP/1.1 504 "), "{callee}{caller}: {silent}");
            assert!(endless.starts_with("HTTP/1.1 200 ") && !endless.ends_with("0\r\n\r\n"), "{endless}");
        }))
        .await;
    }
}

/// `/in` takes a body, `/out` answers without an end, and all else has no answer.
fn serve_slowly(listener: UnixListener) {
    let endless = || {
        StreamBody::new(futures::stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"."))), ()))
        }))
    };
    let router = axum::Router::new()
        .route("/in", axum::routing::post(async |body: Bytes| body.len().to_string()))
        .route("/out", axum::routing::any(async move || axum::body::Body::new(BoxBody::new(endless()))))
        .fallback(std::future::pending::<&str>);
    tokio::spawn(axum::serve(listener, router).into_future());
}

#[test]
fn every_limit_of_time_is_a_setting_with_its_unit() {
    let text = "body_idle_timeout_ms = 1\nbody_rate_min_bytes_s = 2\nbody_rate_grace_ms = 3\nrequest_timeout_ms = 4\ntotal_timeout_ms = 5\n";
    let edge = crate::rig::settings(&format!("[limits]\n{text}")).limits;
    assert_eq!((edge.body_idle_timeout_ms, edge.body_rate_min_bytes_s.get()), (1, 2));
    assert_eq!((edge.body_rate_grace_ms, edge.total_timeout_ms), (3, Some(5)));
    type Sidecar = countersign_gateway::sidecar::Settings;
    let sidecar: Sidecar = toml::from_str(&format!("service = \"ads\"\n{text}")).unwrap();
    assert_eq!((sidecar.body_rate_min_bytes_s.get(), sidecar.total_timeout_ms), (2, Some(5)));
    for bad in ["body_rate_min_bytes_s = 0", "total_timeout = 5", "total_timeout_ms = -1"] {
        assert!(
            toml::from_str::<countersign_gateway::Settings>(&format!("[limits]\n{bad}")).is_err(),
            "{bad}"
        );
        assert!(toml::from_str::<Sidecar>(&format!("service = \"ads\"\n{bad}")).is_err(), "{bad}");
    }
    let defaults = crate::rig::settings("").limits;
    assert_eq!((defaults.total_timeout_ms, defaults.body_idle_timeout_ms), (None, 60_000));
}
