//! How an upstream is reached, and who has to be there.
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use countersign_gateway::{EndpointError, Gateway, GatewayError, UpstreamSettingsError, UpstreamTlsError};
use countersign_identity::SpiffeId;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{EVERYTHING, ask, endpoints, gateway};
use crate::rig::backend::{Backend, Reply, ok};
use crate::rig::client::{bearer, get, request};
use crate::rig::echo::{self, Seen};
use crate::rig::{Rig, pem, settings};

#[tokio::test]
async fn a_plain_upstream_gets_the_request_and_none_of_the_users_evidence() {
    let rig = Rig::new();
    let backend = Backend::named("here").await;
    rig.policy("gateway", super::ALL);
    let toml = format!(
        "[[route]]\npath = \"/*\"\nto = \"backend\"\nuser = \"optional\"\n[[upstream]]\nname = \"backend\"\n{}\n",
        endpoints(&[&backend])
    );
    let edge = rig.gateway(&toml).await;
    let alice = bearer(&rig.access_token("alice", &["buyer"]));
    let headers =
        [("Authorization", alice.as_str()), ("X-Forwarded-For", "6.6.6.6"), ("Accept", "text/plain")];
    let answer = get(edge.plain, "/a/b?c=d", &headers).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "here"));

    let seen = backend.last().to_lowercase();
    assert!(seen.starts_with("get /a/b?c=d http/1.1\r\n"), "{seen}");
    for line in ["host: flea.test", "accept: text/plain", "x-forwarded-for: 127.0.0.1", "traceparent: 00-"] {
        assert!(seen.contains(&format!("\r\n{line}")), "{line} is not in {seen}");
    }
    for name in ["authorization", "txn-token", "6.6.6.6", "eyj"] {
        assert!(!seen.contains(name), "{name} is in {seen}");
    }
}

#[tokio::test]
async fn the_user_goes_along_to_a_plain_upstream_only_if_it_is_configured() {
    let rig = Rig::new();
    let backend = Backend::named("here").await;
    rig.policy("gateway", super::ALL);
    let toml = format!(
        "[[route]]\npath = \"/*\"\nto = \"backend\"\n[[upstream]]\nname = \"backend\"\nsend_user_token = true\nhost = \"inner.test\"\n{}\n",
        endpoints(&[&backend])
    );
    let edge = rig.gateway(&toml).await;
    let token = rig.access_token("alice", &["buyer"]);
    assert_eq!(get(edge.plain, "/a", &[("Authorization", &bearer(&token))]).await.status, 200);
    let seen = backend.last();
    assert!(seen.to_lowercase().contains("\r\nhost: inner.test\r\n"), "{seen}");
    assert!(seen.contains("txn-token: ") && !seen.contains(&token), "{seen}");
}

#[tokio::test]
async fn requests_share_a_connection_and_a_body_goes_through() {
    let rig = Rig::new();
    let backend = Backend::new(|_, seen| Reply::Text(seen.len().to_string())).await;
    let edge = gateway(&rig, &endpoints(&[&backend])).await;
    let mut stream = tokio::net::TcpStream::connect(edge.plain).await.unwrap();
    for _ in 0..3 {
        let text = crate::rig::client::head_and_body("POST", "/a", "flea.test", &[], "some body");
        stream.write_all(text.as_bytes()).await.unwrap();
        assert_eq!(crate::rig::client::read_answer(&mut stream).await.status, 200);
    }
    assert!(backend.last().ends_with("some body"), "{}", backend.last());
    assert_eq!(backend.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_upstream_may_listen_on_a_socket_of_the_file_system() {
    let rig = Rig::new();
    let path = rig.dir.path().join("backend.sock");
    let _backend = Backend::on_socket(&path, "socket").await;
    let edge = gateway(&rig, &format!("endpoints = [\"unix:{}\"]", path.display())).await;
    assert_eq!(ask(&edge).await.body, "socket");
}

async fn mesh(rig: &Rig, seen: &Seen, more: &str, expect: &str) -> crate::rig::Running {
    let ads = rig.open_service("ads", echo::router(&["/a"], seen)).await;
    crate::rig::eventually(|| ads.live().service("ads").is_some()).await;
    let address = ads.live().service("ads").unwrap().address.clone();
    let upstream = format!("endpoints = [\"{address}\"]\ntls = {{ expect = \"{expect}\" }}\n{more}");
    gateway(rig, &upstream).await
}

#[tokio::test]
async fn a_workload_is_reached_over_mutual_tls_in_either_version_of_http() {
    for more in ["", "http2 = true"] {
        let (rig, seen) = (Rig::new(), Seen::default());
        let edge = mesh(&rig, &seen, more, "spiffe://fleamarket.test/svc/ads").await;
        let answer = ask(&edge).await;
        assert_eq!(answer.status, 200, "{more}: {answer:?}");
        assert_eq!(seen.count(), 1);
        assert_eq!(request(edge.plain, "POST", "/a", &[], "body").await.status, 200);
        assert_eq!(seen.last()["body"], "body");
    }
}

/// Somebody on the way: writes down what passes, and changes a bit of what the gateway says once told to.
struct OnTheWay {
    heard: Arc<Mutex<Vec<u8>>>,
    changes: Arc<AtomicBool>,
    address: std::net::SocketAddr,
}

impl OnTheWay {
    async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (heard, changes) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::new(AtomicBool::new(false)));
        let way = Self { heard, changes, address: listener.local_addr().unwrap() };
        let (heard, changes) = (Arc::clone(&way.heard), Arc::clone(&way.changes));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = tokio::net::TcpStream::connect(&target).await.unwrap();
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                let never = Arc::new(AtomicBool::new(false));
                tokio::spawn(pass(near_in, far_out, Arc::clone(&heard), Arc::clone(&changes)));
                tokio::spawn(pass(far_in, near_out, Arc::clone(&heard), never));
            }
        });
        way
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    heard: Arc<Mutex<Vec<u8>>>,
    changes: Arc<AtomicBool>,
) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        heard.lock().unwrap().extend_from_slice(&bytes[..count]);
        if changes.load(Ordering::SeqCst) {
            bytes[count - 1] ^= 1;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// Confidentiality and integrity of a call between services (T13).
#[tokio::test]
async fn nobody_on_the_way_reads_a_call_and_a_changed_bit_ends_it() {
    let (rig, seen) = (Rig::new(), Seen::default());
    let ads = rig.open_service("ads", echo::router(&["/a"], &seen)).await;
    crate::rig::eventually(|| ads.live().service("ads").is_some()).await;
    let way = OnTheWay::to(ads.live().service("ads").unwrap().address.clone()).await;
    let tls = "tls = { expect = \"spiffe://fleamarket.test/svc/ads\" }";
    let edge = gateway(&rig, &format!("endpoints = [\"{}\"]\n{tls}", way.address)).await;

    let answer = request(edge.plain, "POST", "/a", &[("X-Mark", "known-header")], "known-body").await;
    assert_eq!((answer.status, seen.last()["body"].as_str()), (200, Some("known-body")));
    let heard = way.heard.lock().unwrap().clone();
    assert!(heard.len() > 1_000, "it all went over this way");
    for words in ["known-header", "known-body", "POST", "HTTP/1.1"] {
        let found = heard.windows(words.len()).any(|window| window == words.as_bytes());
        assert!(!found, "{words} could be read on the way");
    }

    way.changes.store(true, Ordering::SeqCst);
    let answer = request(edge.plain, "POST", "/a", &[], "changed").await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert_eq!(seen.count(), 1, "the service was not told anything that was changed");
}

#[tokio::test]
async fn refuses_an_upstream_that_is_another_workload_and_says_whom_it_met() {
    let (rig, seen) = (Rig::new(), Seen::default());
    let edge = mesh(&rig, &seen, "", "spiffe://fleamarket.test/svc/users").await;
    assert_eq!(ask(&edge).await.problem(502), "bad_gateway");
    assert_eq!(seen.count(), 0, "nothing is sent to somebody else");
    let decision = rig.decision(|decision| decision.status == 502).await;
    assert_eq!(decision.code.as_deref(), Some("CS5004"));
    let reason = decision.reason.unwrap();
    for part in [
        "upstream backend",
        "127.0.0.1:",
        "as spiffe://fleamarket.test/svc/users",
        "presented spiffe://fleamarket.test/svc/ads",
        "correct tls.expect",
    ] {
        assert!(reason.contains(part), "{part} is not in: {reason}");
    }
}

/// An HTTPS server with a certificate for these names; answers everything.
async fn https(rig: &Rig, dns: &[&str]) -> (std::net::SocketAddr, String) {
    let (certificate, key, root) = rig.edge_certificate(dns, dns[0]);
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(certificate).unwrap().collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(countersign_sdk::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let ca = rig.dir.path().join(format!("{}-ca.pem", dns[0]));
    std::fs::write(&ca, pem("CERTIFICATE", &root)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(rig.shutdown.clone().run_until_cancelled_owned(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(tcp).await else { continue };
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(ok("https").as_bytes()).await;
        }
    }));
    (address, ca.display().to_string())
}

#[tokio::test]
async fn a_server_with_a_name_below_a_root_is_accepted_and_another_name_or_root_is_not() {
    let rig = Rig::new();
    let (address, ca) = https(&rig, &["backend.test"]).await;
    let (_, other_ca) = https(&rig, &["other.test"]).await;
    let named = |name: &str, ca: &str| {
        format!("endpoints = [\"{address}\"]\ntls = {{ server_name = \"{name}\", ca = \"{ca}\" }}")
    };
    let edge = gateway(&rig, &named("backend.test", &ca)).await;
    assert_eq!(ask(&edge).await.body, "https");
    for (name, ca) in [("other.test", &ca), ("backend.test", &other_ca)] {
        let rig = Rig::new();
        let edge = gateway(&rig, &named(name, ca)).await;
        assert_eq!(ask(&edge).await.problem(502), "bad_gateway");
        let reason = rig.decision(|decision| decision.status == 502).await.reason.unwrap();
        let told = format!("as {name}");
        for part in ["invalid peer certificate", &told, "compare tls.server_name and tls.ca"] {
            assert!(reason.contains(part), "{part} is not in: {reason}");
        }
    }
}

#[tokio::test]
async fn http2_is_spoken_with_prior_knowledge_and_what_does_not_speak_it_is_told_apart() {
    let rig = Rig::new();
    let backend = Backend::named("only HTTP/1.1").await;
    let edge = gateway(&rig, &format!("http2 = true\n{}", endpoints(&[&backend]))).await;
    assert_eq!(ask(&edge).await.problem(502), "bad_gateway");

    let (rig, seen) = (Rig::new(), Seen::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let toml = format!("http2 = true\nendpoints = [\"{}\"]", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, echo::router(&["/a"], &seen)).into_future());
    let edge = gateway(&rig, &toml).await;
    assert_eq!(ask(&edge).await.status, 200);
    assert_eq!(seen.count(), 1);
}

#[tokio::test]
async fn the_head_of_an_answer_has_its_limits_over_http2_too() {
    // Of an answer: `/long` has a long header, `/many` many of them.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let many = |count: usize| -> http::HeaderMap {
        (0..count).map(|n| (format!("x-{n}").parse().unwrap(), "1".parse().unwrap())).collect()
    };
    let router = axum::Router::new()
        .route("/long", axum::routing::get(async || ([("x-long", "x".repeat(20_000))], "long")))
        .route("/many", axum::routing::get(async move || (many(70), "many")))
        .route("/a", axum::routing::get(async || "short"));
    tokio::spawn(axum::serve(listener, router).into_future());
    let asked = async |limits: &str, path: &str| {
        let rig = Rig::new();
        let edge = gateway(&rig, &format!("http2 = true\nendpoints = [\"{address}\"]\n{limits}")).await;
        let first = get(edge.plain, path, &[]).await;
        // Whatever became of it, the next answer comes.
        assert_eq!(get(edge.plain, "/a", &[]).await.body, "short");
        first
    };
    for (path, limit) in [("/long", "bytes_max = 8192"), ("/many", "headers_max = 64")] {
        assert_eq!(asked("", path).await.status, 200, "{path}");
        let answer = asked(&format!("answer_head = {{ {limit} }}"), path).await;
        assert_eq!(answer.problem(502), "bad_gateway", "{path}");
    }
}

pub(crate) async fn refused(toml: &str) -> UpstreamSettingsError {
    let rig = Rig::new();
    let (_, seen) = ((), Seen::default());
    rig.open_service("ads", echo::router(&["/a"], &seen)).await;
    let workload = rig.workload(SpiffeId::gateway(&rig.td, "edge").unwrap()).await;
    let settings = settings(&format!("listen = \"127.0.0.1:0\"\n{toml}"));
    match Gateway::bind(settings, workload, Arc::new(String::new)).await.err().unwrap() {
        GatewayError::Upstream(error) => error,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn rejects_upstreams_that_cannot_be_meant_so_each_with_its_own_error() {
    type E = UpstreamSettingsError;
    let with = |more: &str| format!("{EVERYTHING}[[upstream]]\nname = \"backend\"\n{more}");
    let one = "endpoints = [\"127.0.0.1:1\"]\n";
    let named = |name: &str| format!("[[upstream]]\nname = \"{name}\"\n{one}");
    assert!(matches!(refused(&named("No Name")).await, E::Name { .. }));
    assert!(matches!(refused(&(named("a") + &named("a"))).await, E::Twice { .. }));
    let clash = refused(&named("ads")).await;
    assert!(matches!(clash, UpstreamSettingsError::AlsoAService { .. }));
    assert!(clash.to_string().contains("rename the upstream"), "{clash}");
    assert!(matches!(refused(&with("")).await, UpstreamSettingsError::Where { .. }));
    assert!(matches!(refused(&with("host = \"a b\"\nendpoints = [\"a:1\"]")).await, E::Host { .. }));
    for bad in ["backend", "backend:0", "unix:relative", "http://backend:80", "[::1]"] {
        let error = refused(&with(&format!("endpoints = [\"{bad}\"]"))).await;
        let E::Endpoint { source, .. } = error else { panic!("{error}") };
        assert!(matches!(source, EndpointError::Address { .. }), "{bad}: {source}");
    }
    for bad in ["a:1 weight=0", "a:1 weight=65536", "a:1 heavy", "a:1 weight=1 b"] {
        let error = refused(&with(&format!("endpoints = [\"{bad}\"]"))).await;
        let UpstreamSettingsError::Endpoint { source, .. } = error else { panic!("{error}") };
        assert!(matches!(source, EndpointError::Weight { .. }), "{bad}: {source}");
    }
    let many: Vec<String> = (0..1001).map(|n| format!("\"a:{}\"", n + 1)).collect();
    let many = with(&format!("endpoints = [{}]", many.join(", ")));
    assert!(matches!(refused(&many).await, UpstreamSettingsError::TooManyEndpoints { count: 1001, .. }));
    for bad in ["panic_percent = 101", "timeouts = { answer_ms = 0 }", "outlier = { eject_ms = 0 }"] {
        let error = refused(&with(&format!("{one}{bad}"))).await;
        assert!(matches!(error, UpstreamSettingsError::Number { .. }), "{bad}: {error}");
    }
}

#[tokio::test]
async fn rejects_tls_that_names_nobody_or_two() {
    let tls = async |tls: &str| {
        let toml =
            format!("[[upstream]]\nname = \"backend\"\nendpoints = [\"127.0.0.1:1\"]\ntls = {{ {tls} }}");
        match refused(&toml).await {
            UpstreamSettingsError::Tls { source, .. } => source,
            other => panic!("{other}"),
        }
    };
    assert_eq!(tls("").await, UpstreamTlsError::Choice);
    assert_eq!(tls("expect = \"spiffe://a/b\", server_name = \"a\"").await, UpstreamTlsError::Choice);
    assert_eq!(tls("server_name = \"a\"").await, UpstreamTlsError::Choice);
    assert!(matches!(tls("expect = \"ads\"").await, UpstreamTlsError::Expect(_)));
    assert!(matches!(tls("server_name = \"a b\", ca = \"x\"").await, UpstreamTlsError::ServerName { .. }));
    assert!(matches!(tls("server_name = \"a\", ca = \"/none\"").await, UpstreamTlsError::Ca { .. }));
    let unix =
        "[[upstream]]\nname = \"backend\"\nendpoints = [\"unix:/a\"]\ntls = { expect = \"spiffe://a/b\" }";
    assert!(matches!(refused(unix).await, UpstreamSettingsError::TlsOverUnix { .. }));
}
