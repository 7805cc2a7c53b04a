//! The quick carrier: what it records whatever happens, whose limits it keeps, and when it breaks off.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::routing::get as on_get;
use bytes::Bytes;
use countersign_gateway::sidecar::{self, Sidecar};
use countersign_gateway::{Gateway, UpstreamSettingsError};
use countersign_identity::SpiffeId;
use countersign_ledger::{Decision, Verdict};
use countersign_sdk::workload::Workload;
use futures::StreamExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixListener};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::rig::backend::{Backend, Reply};
use crate::rig::client::{get, head_and_body, read_answer, request};
use crate::rig::{Rig, Running, eventually, settings};
use crate::sidecar_http1::caller;
use crate::upstreams::connect::refused;

const ALL: &str = "@id(\"all\") permit (principal, action, resource);";

/// Everything goes to this backend.
fn to(backend: &Backend, more: &str) -> String {
    format!(
        "[[route]]\npath = \"/*\"\nto = \"backend\"\nuser = \"none\"\n\
         [[upstream]]\nname = \"backend\"\nendpoints = [\"{}\"]\n{more}\n",
        backend.address
    )
}

async fn edge(rig: &Rig, settings: &str) -> Running {
    rig.policy("gateway", ALL);
    rig.gateway(settings).await
}

async fn connect(edge: &Running) -> TcpStream {
    TcpStream::connect(edge.plain).await.unwrap()
}

async fn send(stream: &mut TcpStream, method: &str, body: &str) {
    stream.write_all(head_and_body(method, "/a", "flea.test", &[], body).as_bytes()).await.unwrap();
}

/// What was recorded of requests to `target`, once all of it is.
fn decisions(rig: &Rig, target: &str) -> Vec<Decision> {
    rig.world.decisions().into_iter().filter(|decision| decision.target == target).collect()
}

async fn close(edge: Running) {
    edge.shutdown.cancel();
    edge.task.await.unwrap();
    edge.workload.close().await;
}

async fn reads_on(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let read = timeout(PATIENCE, stream.read(&mut [0; 1024])).await.expect("it reads or ends");
    read.is_ok_and(|read| read > 0)
}

async fn ends(stream: &mut (impl AsyncRead + Unpin)) {
    while reads_on(stream).await {}
}

#[tokio::test]
async fn a_permitted_request_that_is_cut_before_its_answer_is_recorded_once() {
    let rig = Rig::new();
    let backend = Backend::new(|_, _| Reply::Silence).await;
    let edge = edge(&rig, &format!("[limits]\ndrain_timeout_ms = 300\n{}", to(&backend, ""))).await;
    let mut stream = connect(&edge).await;
    send(&mut stream, "POST", "body").await;
    eventually(|| backend.count() == 1).await;
    close(edge).await;
    let recorded = decisions(&rig, "gateway");
    let [decision] = recorded.as_slice() else { panic!("{recorded:?}") };
    assert_eq!((decision.verdict, decision.status, decision.route.as_str()), (Verdict::Allow, 0, "/*"));
    assert!(decision.reason.as_ref().unwrap().contains("before it was answered"), "{decision:?}");
    assert!(decision.latency_us > 100_000, "{decision:?}");
}

#[tokio::test]
async fn a_request_whose_upstream_breaks_off_or_is_left_to_the_full_carrier_is_recorded_once() {
    let rig = Rig::new();
    let backend = Backend::new(|number, _| match number {
        0 => Reply::Last("HTTP/1.1 200 OK\r\ncont".to_owned()),
        1 => Reply::Close,
        _ => Reply::Text("here".to_owned()),
    })
    .await;
    let edge = edge(&rig, &to(&backend, "")).await;
    assert_eq!(get(edge.plain, "/a", &[]).await.problem(502), "bad_gateway");
    assert_eq!(get(edge.plain, "/b", &[]).await.status, 200, "asked once more, by the full carrier");
    close(edge).await;
    let recorded = decisions(&rig, "gateway");
    let told: Vec<_> = recorded.iter().map(|decision| (decision.verdict, decision.status)).collect();
    assert_eq!(told, [(Verdict::Deny, 502), (Verdict::Allow, 200)]);
}

#[tokio::test]
async fn every_call_is_in_the_ledger_of_a_gateway_that_is_stopped_at_once() {
    let rig = Rig::new();
    let backend = Backend::named("here").await;
    let edge = edge(&rig, &to(&backend, "")).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(connect(&edge).await);
    }
    for number in 0..200 {
        let stream = &mut clients[number % 4];
        send(stream, "GET", "").await;
        assert_eq!(read_answer(stream).await.status, 200);
    }
    close(edge).await;
    assert_eq!(decisions(&rig, "gateway").len(), 200);
    let counted: u64 = rig.world.edges().iter().map(|edge| edge.requests).sum();
    assert_eq!(counted, 200, "and counted for its edge");
}

/// An answer with so many headers of its own.
fn with_headers(count: usize) -> String {
    let headers: String = (0..count).map(|n| format!("x-{n}: {n}\r\n")).collect();
    format!("HTTP/1.1 200 OK\r\n{headers}content-length: 0\r\n\r\n")
}

#[tokio::test]
async fn heads_of_answers_have_limits_of_their_own() {
    let rig = Rig::new();
    let backend = Backend::new(|_, seen| {
        let count = seen.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
        Reply::Raw(with_headers(count))
    })
    .await;
    let few = "[limits]\nheaders_max = 10\n";
    let edge = edge(&rig, &format!("{few}{}", to(&backend, "answer_head = { headers_max = 50 }"))).await;
    // By either carrier: a client that waits for a word is for the full one.
    for headers in [&[][..], &[("Expect", "100-continue")]] {
        assert_eq!(get(edge.plain, "/40", headers).await.status, 200, "more than a client may send");
        assert_eq!(get(edge.plain, "/60", headers).await.problem(502), "bad_gateway");
    }
}

#[tokio::test]
async fn rejects_limits_of_heads_that_none_could_keep() {
    for bad in ["bytes_max = 8191", "headers_max = 0", "headers_max = 101"] {
        let toml = format!(
            "[[upstream]]\nname = \"backend\"\nendpoints = [\"127.0.0.1:1\"]\nanswer_head = {{ {bad} }}"
        );
        let error = refused(&toml).await;
        assert!(matches!(error, UpstreamSettingsError::Number { .. }), "{bad}: {error}");
    }
}

#[tokio::test]
async fn an_open_connection_has_the_limits_of_the_settings_in_force() {
    let rig = Rig::new();
    rig.policy("gateway", ALL);
    let backend = Backend::named("ten bytes.").await;
    let configured = |most: u64| {
        let limits = format!("listen = \"127.0.0.1:0\"\n[limits]\nresponse_bytes_max = {most}\n");
        settings(&format!("{limits}{}", to(&backend, "")))
    };
    let workload = rig.workload(SpiffeId::gateway(&rig.td, "edge").unwrap()).await;
    let gateway = Gateway::bind(configured(10), workload.clone(), Arc::new(String::new)).await.unwrap();
    let (address, reloader) = (gateway.address().unwrap(), gateway.reloader());
    let running = tokio::spawn(gateway.run(rig.shutdown.clone()));
    eventually(|| !workload.live().tokens().internal.is_empty()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    send(&mut stream, "GET", "").await;
    assert_eq!(read_answer(&mut stream).await.body, "ten bytes.");
    reloader.apply(configured(9)).await.unwrap();
    send(&mut stream, "GET", "").await;
    assert_ne!(read_answer(&mut stream).await.body, "ten bytes.");
    ends(&mut stream).await;
    rig.shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_no_fault_of_its_endpoint_and_no_end_of_the_clients() {
    let rig = Rig::new();
    let backend = Backend::new(|number, _| match number {
        1 => Reply::Close,
        _ => Reply::Text("here".to_owned()),
    })
    .await;
    // One failure would be enough to leave the endpoint alone.
    let strict = "outlier = { failures = 1, ejected_max_percent = 100 }\npanic_percent = 0";
    let edge = edge(&rig, &to(&backend, strict)).await;
    let mut stream = connect(&edge).await;
    send(&mut stream, "GET", "").await;
    assert_eq!(read_answer(&mut stream).await.status, 200);
    send(&mut stream, "POST", "body").await;
    let answer = read_answer(&mut stream).await;
    assert_eq!((answer.problem(502), answer.header("connection")), ("bad_gateway".to_owned(), None));
    send(&mut stream, "POST", "body").await;
    assert_eq!(read_answer(&mut stream).await.body, "here", "the same connection, the same endpoint");
    let seen = backend.seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 3, "nothing is asked twice that may have been done: {seen:?}");
}

#[tokio::test]
async fn a_preflight_is_answered_by_the_rule_of_the_method_that_it_asks_about() {
    let rig = Rig::new();
    let backend = Backend::named("here").await;
    let cors = "cors = { origins = [\"https://shop.test\"], methods = [\"PUT\"] }";
    let put = format!(
        "[[route]]\npath = \"/a\"\nmethods = [\"PUT\"]\nto = \"backend\"\nuser = \"none\"\n{cors}\n\
         [[route]]\npath = \"/a\"\nmethods = [\"GET\", \"OPTIONS\"]\nto = \"backend\"\nuser = \"none\"\n\
         [[upstream]]\nname = \"backend\"\nendpoints = [\"{}\"]\n",
        backend.address
    );
    let edge = edge(&rig, &put).await;
    let asks = |method| [("Origin", "https://shop.test"), ("Access-Control-Request-Method", method)];
    let answer = request(edge.plain, "OPTIONS", "/a", &asks("PUT"), "").await;
    let allowed = answer.header("access-control-allow-origin");
    assert_eq!((answer.status, allowed), (204, Some("https://shop.test")), "{answer:?}");
    let answer = request(edge.plain, "OPTIONS", "/a", &asks("GET"), "").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None), "{answer:?}");
    assert_eq!(backend.count(), 1, "only what no rule speaks of is for the upstream to answer");
}

#[tokio::test]
async fn an_answer_is_broken_off_once_the_certificate_of_whoever_sends_it_is_revoked() {
    let rig = Rig::new();
    // Something, and then nothing for ever.
    let endless = || async {
        let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"first"))]);
        Body::from_stream(first.chain(futures::stream::pending()))
    };
    let ads = rig.open_service("ads", axum::Router::new().route("/a", on_get(endless))).await;
    eventually(|| ads.live().service("ads").is_some()).await;
    let upstream = format!(
        "[[route]]\npath = \"/*\"\nto = \"backend\"\nuser = \"none\"\n[[upstream]]\nname = \"backend\"\n\
         endpoints = [\"{}\"]\ntls = {{ expect = \"spiffe://fleamarket.test/svc/ads\" }}\ntimeouts = {{ body_idle_ms = 60000 }}\n",
        ads.live().service("ads").unwrap().address
    );
    let edge = edge(&rig, &upstream).await;
    let mut stream = connect(&edge).await;
    send(&mut stream, "GET", "").await;
    let mut text = String::new();
    while !text.contains("first") {
        let mut bytes = [0; 1024];
        let read = timeout(PATIENCE, stream.read(&mut bytes)).await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    rig.revoke(ads.identity().unwrap().serial_hex());
    ends(&mut stream).await;
}

/// The service `users` behind a sidecar, which answers with the beginning of a body, or with nothing.
struct Behind {
    rig: Rig,
    address: std::net::SocketAddr,
    workload: Workload,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    /// How many requests the service answered so far.
    answered: Arc<AtomicUsize>,
}

impl Behind {
    async fn new(answer: &'static str) -> Self {
        let rig = Rig::new();
        rig.policy("users", ALL);
        let app = rig.dir.path().join("app.sock");
        let answered = serve_app(&app, answer);
        let workload = rig.workload(SpiffeId::service(&rig.td, "users").unwrap()).await;
        let sidecar = bind(&app, &workload).await;
        let address = sidecar.address().unwrap();
        let stop = CancellationToken::new();
        let running = sidecar.run(stop.clone());
        let task = tokio::spawn(async move { running.await.unwrap() });
        Self { rig, address, workload, stop, task, answered }
    }

    /// A caller who speaks HTTP/1.1, and its connection, on which it asked what the service answers.
    async fn asked(&self) -> (Workload, impl AsyncRead + Unpin + use<>) {
        let (ads, mut stream) = caller(&self.rig, "ads", self.address).await;
        stream.write_all(head_and_body("GET", "/users/7", "users", &[], "").as_bytes()).await.unwrap();
        eventually(|| self.answered.load(Ordering::SeqCst) == 1).await;
        (ads, stream)
    }
}

async fn bind(app: &Path, workload: &Workload) -> Sidecar {
    let text = format!("service = \"users\"\ninbound = \"127.0.0.1:0\"\napp = \"unix:{}\"\n", app.display());
    let settings: sidecar::Settings = toml::from_str(&text).unwrap();
    Sidecar::bind(settings, workload.clone(), Arc::new(String::new)).await.unwrap()
}

fn serve_app(socket: &Path, answer: &'static str) -> Arc<AtomicUsize> {
    let listener = UnixListener::bind(socket).unwrap();
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).unwrap();
    let answered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&answered);
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            open.push(stream);
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    answered
}

#[tokio::test]
async fn a_caller_whose_certificate_is_revoked_gets_no_more_of_an_answer_and_its_call_is_recorded_once() {
    for (answer, status) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nfirst", 200),
        ("HTTP/1.1 102 Processing\r\n\r\n", 0),
    ] {
        let behind = Behind::new(answer).await;
        let (ads, mut stream) = behind.asked().await;
        if status == 200 {
            assert!(reads_on(&mut stream).await);
        }
        behind.rig.revoke(ads.identity().unwrap().serial_hex());
        ends(&mut stream).await;
        behind.stop.cancel();
        behind.task.await.unwrap();
        behind.workload.close().await;
        let recorded = decisions(&behind.rig, "users");
        let told: Vec<_> = recorded.iter().map(|decision| (decision.verdict, decision.status)).collect();
        assert_eq!(told, [(Verdict::Allow, status)], "{recorded:?}");
    }
}

/// What a test waits at most for what has to happen.
const PATIENCE: Duration = Duration::from_secs(10);
