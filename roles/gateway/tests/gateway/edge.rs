//! The edge as clients meet it: TLS, header rules, failures behind it, and its end.

mod quotas;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::rig::client::{Answer, bearer, get, head_and_body, read_answer, request, tls};
use crate::rig::echo::{self, Seen};
use crate::rig::{Rig, Running, settings};
use axum::Router;
use axum::response::IntoResponse as _;
use axum::routing::get as on_get;
use bytes::Bytes;
use countersign_gateway::{
    EdgeCertificateError, Gateway, GatewayError, HeaderRuleError, LoginSettingsError, RouteError,
};
use countersign_identity::SpiffeId;
use countersign_ledger::{Stage, Verdict};
use countersign_sdk::tls::pem::PemFileError;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const ROUTES: &str = r#"
[[route]]
path = "/open/*"
to = "ads"
user = "optional"
"#;

const RULES: &str = "@id(\"open\")\npermit (principal, action, resource);";

async fn deployment(further: &str) -> (Rig, Running, Seen) {
    let (rig, seen) = (Rig::new(), Seen::default());
    rig.policy("gateway", RULES);
    rig.open_service("ads", echo::router(&["/open/{*rest}"], &seen)).await;
    let edge = rig.gateway(&format!("{further}\n{ROUTES}")).await;
    (rig, edge, seen)
}

async fn with_upstream(router: Router, further: &str) -> (Rig, Running) {
    let rig = Rig::new();
    rig.policy("gateway", RULES);
    rig.open_service("ads", router).await;
    let edge = rig.gateway(&format!("{further}\n{ROUTES}")).await;
    (rig, edge)
}

pub(crate) fn tls_settings(rig: &Rig, names: &[&str], stem: &str) -> (String, Vec<u8>) {
    let (certificate, key, root) = rig.edge_certificate(names, stem);
    let toml = format!(
        "listen_tls = \"127.0.0.1:0\"\ntls_cert = \"{}\"\ntls_key = \"{}\"",
        certificate.display(),
        key.display()
    );
    (toml, root)
}

async fn over_tls(edge: &Running, name: &str, root: &[u8], host: &str) -> Answer {
    let mut stream = tls(edge.tls.unwrap(), name, root, b"http/1.1").await.unwrap();
    stream.write_all(head_and_body("GET", "/open/a", host, &[], "").as_bytes()).await.unwrap();
    read_answer(&mut stream).await
}

// --- listeners ---------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_plain_listener_beyond_loopback_refuses_to_start() {
    let rig = Rig::new();
    let workload = rig.workload(SpiffeId::gateway(&rig.td, "edge").unwrap()).await;
    let bind = async |toml: &str| {
        Gateway::bind(settings(toml), workload.clone(), Arc::new(String::new))
            .await
            .err()
            .map(|e| (e.to_string(), e))
    };
    let (message, error) = bind("listen = \"0.0.0.0:0\"").await.unwrap();
    assert!(matches!(error, GatewayError::CleartextExposed { .. }));
    assert!(message.contains("listen_tls") && message.contains("127.0.0.1"), "{message}");
    assert!(matches!(bind("listen = \"[::]:0\"").await.unwrap().1, GatewayError::CleartextExposed { .. }));
    assert!(
        bind("listen = \"[::ffff:127.0.0.1]:0\"")
            .await
            .is_none_or(|(_, e)| matches!(e, GatewayError::Listen { .. }))
    );
    assert!(matches!(bind("").await.unwrap().1, GatewayError::NoListener));
    let exposed = bind("listen = \"127.0.0.1:0\"\nadmin = \"0.0.0.0:0\"").await.unwrap().1;
    assert!(matches!(exposed, GatewayError::AdminExposed { .. }));
    assert!(matches!(bind("listen_tls = \"127.0.0.1:0\"").await.unwrap().1, GatewayError::NoEdgeCertificate));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let error = bind(&format!("listen = \"{}\"", taken.local_addr().unwrap())).await.unwrap().1;
    assert!(matches!(error, GatewayError::Listen { .. }));
}

#[tokio::test]
async fn settings_that_cannot_be_meant_so_are_refused_by_name() {
    let rig = Rig::new();
    let workload = rig.workload(SpiffeId::gateway(&rig.td, "edge").unwrap()).await;
    let bind = async |toml: &str| {
        let settings = settings(&format!("listen = \"127.0.0.1:0\"\n{toml}"));
        Gateway::bind(settings, workload.clone(), Arc::new(String::new)).await.err().unwrap()
    };
    let route = |toml: &str| format!("[[route]]\nto = \"ads\"\n{toml}");
    let refused = async |toml: &str| match bind(toml).await {
        GatewayError::Route(error) => error,
        other => panic!("{other}"),
    };
    assert!(matches!(refused(&route("path = \"ads\"")).await, RouteError::Path { .. }));
    assert!(matches!(refused("[[route]]\nto = \"A!\"\npath = \"/\"").await, RouteError::Target { .. }));
    let trace = route("path = \"/\"\nmethods = [\"TRACE\"]");
    assert!(matches!(refused(&trace).await, RouteError::Method { .. }));
    let host = route("path = \"/\"\nhost = \"https://flea.test\"");
    assert!(matches!(refused(&host).await, RouteError::Host { .. }));
    let twice = format!("{}\n{}", route("path = \"/a/{x}\""), route("path = \"/a/{y}\""));
    assert!(matches!(refused(&twice).await, RouteError::Ambiguous { .. }));
    let header = route("path = \"/\"\nheaders.request.add = { \"Txn-Token\" = \"x\" }");
    let error = refused(&header).await;
    assert!(matches!(error, RouteError::Header { source: HeaderRuleError::Reserved { .. }, .. }), "{error}");
    let error = bind("headers.request.add = { \"a b\" = \"x\" }").await;
    assert!(matches!(error, GatewayError::Header(HeaderRuleError::Name { .. })), "{error}");
    let error = bind("headers.request.add = { \"x-a\" = \"a\\u0000b\" }").await;
    assert!(matches!(error, GatewayError::Header(HeaderRuleError::Value { .. })), "{error}");
    let error = bind("authority_url = \"https://localhost:1\"").await;
    assert!(matches!(error, GatewayError::Login(LoginSettingsError::NoRoot)), "{error}");
    let error = bind("authority_url = \"https://localhost:1\"\nauthority_ca = \"/nowhere\"").await;
    assert!(matches!(error, GatewayError::Login(LoginSettingsError::Root { .. })), "{error}");
    let (certificate, _, _) = rig.edge_certificate(&["localhost"], "ca");
    let toml =
        format!("authority_url = \"http://localhost:1\"\nauthority_ca = \"{}\"", certificate.display());
    assert!(matches!(bind(&toml).await, GatewayError::Login(LoginSettingsError::Url { .. })));
}

#[tokio::test]
async fn an_edge_certificate_that_cannot_be_served_refuses_to_start() {
    let rig = Rig::new();
    let workload = rig.workload(SpiffeId::gateway(&rig.td, "edge").unwrap()).await;
    let (certificate, key, _) = rig.edge_certificate(&["flea.test"], "one");
    let (_, other_key, _) = rig.edge_certificate(&["flea.test"], "two");
    let nowhere = rig.dir.path().join("nowhere");
    let bind = async |certificate: &std::path::Path, key: &std::path::Path| {
        let toml = format!(
            "listen_tls = \"127.0.0.1:0\"\ntls_cert = \"{}\"\ntls_key = \"{}\"",
            certificate.display(),
            key.display()
        );
        match Gateway::bind(settings(&toml), workload.clone(), Arc::new(String::new)).await.err().unwrap() {
            GatewayError::EdgeCertificate(error) => error,
            other => panic!("{other}"),
        }
    };
    assert!(matches!(
        bind(&nowhere, &key).await,
        EdgeCertificateError::File(PemFileError::Unreadable { .. })
    ));
    assert!(matches!(bind(&key, &key).await, EdgeCertificateError::File(PemFileError::NoCertificate { .. })));
    assert!(matches!(
        bind(&certificate, &certificate).await,
        EdgeCertificateError::File(PemFileError::NoKey { .. })
    ));
    assert!(matches!(bind(&certificate, &other_key).await, EdgeCertificateError::Unfit { .. }));
}

#[tokio::test]
async fn https_is_served_and_a_host_other_than_the_handshakes_is_421() {
    let rig = Rig::new();
    rig.policy("gateway", RULES);
    let seen = Seen::default();
    rig.open_service("ads", echo::router(&["/open/{*rest}"], &seen)).await;
    let (toml, root) = tls_settings(&rig, &["flea.test", "admin.test"], "edge");
    let edge = rig.gateway(&format!("{toml}\n{ROUTES}")).await;
    let answer = over_tls(&edge, "flea.test", &root, "flea.test").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(echo::header(&seen.last(), "x-forwarded-proto"), ["https"]);
    assert_eq!(over_tls(&edge, "flea.test", &root, "FLEA.test.:8443").await.status, 200);
    // No name in the handshake: the client connects to an address.
    assert_eq!(over_tls(&edge, "127.0.0.1", &root, "127.0.0.1:8443").await.status, 200);
    for host in ["admin.test", "other.test", "flea.test.admin.test"] {
        let answer = over_tls(&edge, "flea.test", &root, host).await;
        assert_eq!(answer.problem(421), "misdirected_request", "{host}");
    }
    assert_eq!(seen.count(), 3);
}

#[tokio::test]
async fn http_2_is_spoken_and_judged_alike() {
    let rig = Rig::new();
    rig.policy("gateway", RULES);
    let seen = Seen::default();
    rig.open_service("ads", echo::router(&["/open/{*rest}"], &seen)).await;
    let (toml, root) = tls_settings(&rig, &["flea.test"], "edge");
    let edge = rig.gateway(&format!("{toml}\n{ROUTES}")).await;
    let stream = tls(edge.tls.unwrap(), "flea.test", &root, b"h2").await.unwrap();
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let ask = |authority: &str, path: &str| {
        let request = http::Request::builder().uri(format!("https://{authority}{path}"));
        request.body(Full::<Bytes>::default()).unwrap()
    };
    let answer = send.send_request(ask("flea.test", "/open/a?x=1")).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(seen.last()["path"], "/open/a");
    let mut spoofed = ask("flea.test", "/open/a");
    spoofed.headers_mut().insert("txn-token", "evil".parse().unwrap());
    assert_eq!(send.send_request(spoofed).await.unwrap().status(), 200);
    assert!(echo::header(&seen.last(), "txn-token").is_empty());
    for (path, status) in [("/open//a", 400), ("/open/%2e%2e/a", 400), ("/nowhere", 404)] {
        let answer = send.send_request(ask("flea.test", path)).await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
    assert_eq!(send.send_request(ask("admin.test", "/open/a")).await.unwrap().status(), 421);
    // The connection is still good: refusals end streams, not connections.
    assert_eq!(send.send_request(ask("flea.test", "/open/a")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_new_edge_certificate_is_served_without_a_restart_and_a_bad_one_is_not() {
    let rig = Rig::new();
    rig.policy("gateway", RULES);
    rig.open_service("ads", echo::router(&["/open/{*rest}"], &Seen::default())).await;
    let (toml, old_root) = tls_settings(&rig, &["flea.test"], "edge");
    let edge = rig.gateway(&format!("{toml}\n{ROUTES}")).await;
    assert_eq!(over_tls(&edge, "flea.test", &old_root, "flea.test").await.status, 200);
    // A half-written file keeps the old certificate.
    std::fs::write(rig.dir.path().join("edge.pem"), "-----BEGIN CERTIFICATE-----\nhalf").unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(over_tls(&edge, "flea.test", &old_root, "flea.test").await.status, 200);
    // Same files, new content, another root.
    let (_, _, new_root) = rig.edge_certificate(&["flea.test"], "edge");
    let started = Instant::now();
    while tls(edge.tls.unwrap(), "flea.test", &new_root, b"http/1.1").await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(10), "the new certificate is never served");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(tls(edge.tls.unwrap(), "flea.test", &old_root, b"http/1.1").await.is_err());
}

#[tokio::test]
async fn readiness_waits_for_the_key_of_the_internal_tokens_and_names_what_is_missing() {
    let rig = Rig::new();
    rig.policy("gateway", RULES);
    let edge = rig.gateway(&format!("admin = \"127.0.0.1:0\"\n{ROUTES}")).await;
    let admin = edge.admin.unwrap();
    assert_eq!(get(admin, "/livez", &[]).await.status, 200);
    let answer = get(admin, "/readyz?verbose", &[]).await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("[+] internal-token-key ok"), "{answer:?}");
    assert!(answer.body.contains("[-] routes failed: no such service is registered: ads"), "{answer:?}");
    rig.open_service("ads", Router::new()).await;
    crate::rig::eventually(|| edge.workload.live().service("ads").is_some()).await;
    assert_eq!(get(admin, "/readyz", &[]).await.status, 200);
    assert_eq!(get(admin, "/metrics", &[]).await.status, 200);
    let answer = get(admin, "/nowhere", &[]).await;
    assert_eq!((answer.status, answer.header("content-type")), (404, Some("application/problem+json")));
    assert_eq!(request(admin, "POST", "/livez", &[], "").await.status, 405);
    // Probes and metrics are on that listener only.
    assert_eq!(get(edge.plain, "/metrics", &[]).await.problem(404), "not_found");
}

// --- what goes on and what comes back ----------------------------------------------------------------------------

#[tokio::test]
async fn header_rules_add_remove_and_rename_in_both_directions() {
    let rules = r#"
headers.request.remove = ["x-debug-*", "cookie"]
headers.response.add = { "Strict-Transport-Security" = "max-age=63072000" }
"#;
    let routes = r#"
[[route]]
path = "/open/*"
to = "ads"
user = "optional"
headers.request.add = { "X-Channel" = "web" }
headers.request.rename = { "X-Old" = "X-New" }
headers.response.rename = { "X-Upstream-Name" = "X-Public-Name" }
headers.response.remove = ["x-secret"]
"#;
    let rig = Rig::new();
    rig.policy("gateway", RULES);
    let seen = Seen::default();
    let tagged = axum::middleware::map_response(|mut response: axum::response::Response| async {
        response.headers_mut().insert("x-upstream-name", "a".parse().unwrap());
        response.headers_mut().insert("x-secret", "b".parse().unwrap());
        response
    });
    rig.open_service("ads", echo::router(&["/open/{*rest}"], &seen).layer(tagged)).await;
    let edge = rig.gateway(&format!("{rules}\n{routes}")).await;
    let headers =
        [("X-Debug-Level", "9"), ("Cookie", "a=b"), ("X-Old", "1"), ("X-New", "2"), ("X-Channel", "evil")];
    let answer = get(edge.plain, "/open/a", &headers).await;
    let saw = seen.last();
    assert!(echo::header(&saw, "x-debug-level").is_empty() && echo::header(&saw, "cookie").is_empty());
    assert_eq!(echo::header(&saw, "x-new"), ["1"]);
    assert!(echo::header(&saw, "x-old").is_empty());
    assert_eq!(echo::header(&saw, "x-channel"), ["web"]);
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=63072000"));
    assert_eq!(answer.header("x-public-name"), Some("a"));
    assert_eq!((answer.header("x-secret"), answer.header("x-upstream-name")), (None, None));
}

#[tokio::test]
async fn an_answer_tells_nothing_of_the_inside() {
    let router = Router::new().route(
        "/open/{*rest}",
        on_get(|| async {
            let headers = [
                ("server", "hyper/ads-7"),
                ("via", "2 ads.internal"),
                ("x-powered-by", "axum"),
                ("txn-token", "eyJ"),
                ("x-countersign-node", "n1"),
                ("x-forwarded-for", "10.0.0.9"),
                ("x-spiffe-id", "spiffe://fleamarket.test/svc/ads"),
                ("location", "https://ads/open/b?x=1"),
                ("content-location", "http://127.0.0.1:7001/open/c"),
                ("x-kept", "yes"),
            ];
            (http::StatusCode::FOUND, headers, "moved").into_response()
        }),
    );
    let (_rig, edge) = with_upstream(router, "").await;
    let answer = get(edge.plain, "/open/a", &[]).await;
    assert_eq!(answer.status, 302);
    for name in
        ["server", "via", "x-powered-by", "txn-token", "x-countersign-node", "x-forwarded-for", "x-spiffe-id"]
    {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(answer.header("location"), Some("/open/b?x=1"));
    assert_eq!(answer.header("content-location"), Some("/open/c"));
    assert_eq!(answer.header("x-kept"), Some("yes"));
}

#[tokio::test]
async fn a_service_that_demands_evidence_from_the_gateway_is_no_challenge_to_the_client() {
    let router = Router::new().route(
        "/open/{*rest}",
        on_get(|| async {
            let challenge = [("www-authenticate", "Countersign need=\"certificate\"")];
            (http::StatusCode::UNAUTHORIZED, challenge).into_response()
        }),
    );
    let (rig, edge) = with_upstream(router, "").await;
    // A user could help, so the client is told so in terms that it knows.
    let answer = get(edge.plain, "/open/a", &[]).await;
    assert_eq!(answer.problem(401), "authentication_required");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    // A user is there already: nothing that the client could do helps.
    let alice = bearer(&rig.access_token("alice", &["buyer"]));
    let answer = get(edge.plain, "/open/a", &[("Authorization", &alice)]).await;
    assert_eq!(answer.problem(502), "bad_gateway");
    assert_eq!(answer.header("www-authenticate"), None);
}

#[tokio::test]
async fn failures_behind_the_gateway_are_told_apart_and_recorded() {
    let slow = Router::new().route(
        "/open/{*rest}",
        on_get(|| async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            "late"
        }),
    );
    let (rig, edge) = with_upstream(slow, "[limits]\nrequest_timeout_ms = 400").await;
    let answer = get(edge.plain, "/open/a", &[]).await;
    assert_eq!(answer.problem(504), "gateway_timeout");
    let id = answer.json()["decision"].as_str().unwrap().to_owned();
    let decision = rig.decision(|d| d.id.to_string() == id).await;
    assert_eq!((decision.stage, decision.status), (Stage::Upstream, 504));
    assert_eq!(decision.checks.last().unwrap().result.as_str(), "fail");

    // Nobody listens there any more.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    rig.register("ads", nobody);
    crate::rig::eventually(|| edge.workload.live().service("ads").unwrap().address == nobody.to_string())
        .await;
    let answer = get(edge.plain, "/open/a", &[]).await;
    assert_eq!(answer.problem(502), "bad_gateway");
    assert!(!answer.body.contains("127.0.0.1") && !answer.body.contains("ads"), "{answer:?}");
    let id = answer.json()["decision"].as_str().unwrap().to_owned();
    let decision = rig.decision(|d| d.id.to_string() == id).await;
    assert_eq!(decision.code.as_deref(), Some("CS5001"));
    assert!(decision.fix.is_some());

    // Somebody else answers there.
    let impostor = rig.open_service("chat", Router::new()).await;
    let address = impostor.live().service("chat").unwrap().address.parse().unwrap();
    rig.register("ads", address);
    crate::rig::eventually(|| edge.workload.live().service("ads").unwrap().address == address.to_string())
        .await;
    let answer = get(edge.plain, "/open/a", &[]).await;
    assert_eq!(answer.problem(502), "bad_gateway");
    let id = answer.json()["decision"].as_str().unwrap().to_owned();
    let decision = rig.decision(|d| d.id.to_string() == id).await;
    assert_eq!(decision.code.as_deref(), Some("CS5004"));

    // It is not registered at all.
    rig.world.change(|snapshot| snapshot.services.clear());
    crate::rig::eventually(|| edge.workload.live().service("ads").is_none()).await;
    assert_eq!(get(edge.plain, "/open/a", &[]).await.problem(502), "bad_gateway");
    assert_eq!(get(edge.plain, "/elsewhere", &[]).await.problem(404), "not_found");
}

#[tokio::test]
async fn a_service_cannot_be_reached_from_outside_without_a_certificate() {
    let (rig, edge, seen) = deployment("").await;
    let address = edge.workload.live().service("ads").unwrap().address.parse().unwrap();
    let answer = get(address, "/open/a", &[]).await;
    assert_eq!(answer.status, 0, "plain HTTP: {answer:?}");
    let root = rig.world.root.certificate().to_vec();
    if let Ok(mut stream) = tls(address, "localhost", &root, b"h2").await {
        // In TLS 1.3 the client may finish first; the refusal comes with the first read.
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap_or(0), 0);
    }
    assert_eq!(get(edge.plain, "/open/a", &[]).await.status, 200);
    assert_eq!(seen.count(), 1);
}

#[tokio::test]
async fn without_rules_that_load_or_a_snapshot_that_counts_everybody_is_refused() {
    let (rig, edge, seen) = deployment("").await;
    assert_eq!(get(edge.plain, "/open/a", &[]).await.status, 200);
    rig.policy("gateway", "permit (nonsense);");
    crate::rig::eventually(|| edge.workload.live().snapshot().sequence == rig.world.sequence()).await;
    let answer = get(edge.plain, "/open/a", &[]).await;
    assert_eq!(answer.problem(403), "access_denied");
    assert!(!answer.body.contains("nonsense"), "{answer:?}");
    let decision = rig.decision(|d| d.code.as_deref() == Some("CS4003")).await;
    assert_eq!(decision.stage, Stage::Policy);

    rig.policy("gateway", RULES);
    let long_ago = countersign_sdk::clock::now().saturating_sub(Duration::from_secs(11 * 60));
    rig.world.change(|snapshot| snapshot.valid_until = long_ago);
    crate::rig::eventually(|| edge.workload.live().snapshot().sequence == rig.world.sequence()).await;
    let answer = get(edge.plain, "/open/a", &[]).await;
    assert_eq!(answer.problem(503), "unavailable");
    assert!(answer.header("retry-after").is_some());
    assert_eq!(seen.count(), 1);
}

// --- the end -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn requests_in_progress_are_finished_at_shutdown_and_new_connections_are_not_taken() {
    let slow = Router::new().route(
        "/open/{*rest}",
        on_get(|| async {
            tokio::time::sleep(Duration::from_millis(600)).await;
            "done"
        }),
    );
    let (_rig, edge) = with_upstream(slow, "").await;
    let plain = edge.plain;
    let running = tokio::spawn(async move { get(plain, "/open/a", &[]).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    edge.shutdown.cancel();
    let answer = running.await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "done"));
    tokio::time::timeout(Duration::from_secs(5), edge.task).await.expect("it ends").unwrap();
    assert!(TcpStream::connect(edge.plain).await.is_err());
}

/// Whoever is over the quota has no signature looked at: on the way of borrowed heads too it comes first.
#[tokio::test]
async fn refused_tokens_use_up_the_quota_of_their_address_on_the_way_to_an_upstream() {
    let rig = Rig::new();
    rig.policy("gateway", "@id(\"all\") permit (principal, action, resource);");
    let edge = rig
        .gateway(
            "[throttle]\nrequests_burst = 4\nrequests_per_second = 1\n[[route]]\npath = \"/x\"\nto = \"backend\"\nuser = \"required\"\n\
             [[upstream]]\nname = \"backend\"\nendpoints = [\"127.0.0.1:9\"]\n",
        )
        .await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(get(edge.plain, "/x", &[("authorization", "Bearer a.b.c")]).await.status);
    }
    assert_eq!(seen.first(), Some(&401));
    assert_eq!(seen.last(), Some(&429), "{seen:?}");
}

/// A client that goes away takes its answer with it, and not the record of what was done.
#[tokio::test]
async fn a_permitted_request_whose_client_goes_away_is_recorded() {
    let rig = Rig::new();
    rig.policy("gateway", "@id(\"all\") permit (principal, action, resource);");
    let (arrived, mut seen) = tokio::sync::mpsc::channel::<()>(1);
    let slow = move || {
        let arrived = arrived.clone();
        async move {
            let _ = arrived.send(()).await;
            std::future::pending::<()>().await;
        }
    };
    let _ads = rig.open_service("ads", Router::new().route("/ads", on_get(slow))).await;
    let edge = rig.gateway("[[route]]\npath = \"/ads\"\nto = \"ads\"\nuser = \"required\"\n").await;
    let stream = tokio::net::TcpStream::connect(edge.plain).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let ask = http::Request::get(format!("http://{}/ads", edge.plain))
        .header("authorization", bearer(&rig.access_token("alice", &["buyer"])))
        .body(Full::new(Bytes::new()))
        .unwrap();
    let asking = tokio::spawn(async move { sender.send_request(ask).await.map(drop) });
    seen.recv().await.unwrap();
    asking.abort();
    connection.abort();
    let recorded = rig.decision(|decision| decision.target == "gateway" && decision.route == "/ads").await;
    assert_eq!((recorded.verdict, recorded.status), (Verdict::Allow, 0));
}
