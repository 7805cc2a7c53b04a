//! Login at the edge: passed on to the authority, throttled per address, and nothing kept.
use std::sync::{Arc, Mutex};

use crate::rig::client::{Answer, get, raw, request};
use crate::rig::{Rig, Running};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json, Router};
use countersign_identity::SpiffeId;
use countersign_keys::{KeyPair, SystemRandom, random_bytes};
use countersign_ledger::Verdict;
use countersign_sdk::accept::{Connection, Limits, Transport, serve};
use countersign_sdk::clock;
use countersign_sdk::tls::{Acceptor, ClientAuth, Identity, TrustState};
use countersign_token::dpop::{self, DpopTarget, DpopUri};
use countersign_wire::api::users::{CLIENT_ADDRESS_HEADER, CLIENT_KEY_HEADER, LoggedIn, Login};
use http::{HeaderMap, Method, StatusCode, header};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;

const ROUTES: &str = "[[route]]\npath = \"/open\"\nto = \"ads\"\nuser = \"none\"\n";

/// What the stand-in for the authority saw.
type Logins = Arc<Mutex<Vec<SeenLogin>>>;

#[derive(Clone)]
struct SeenLogin {
    /// The proven client.
    client: Option<SpiffeId>,
    /// The address and the key that it was told.
    address: Option<String>,
    key: Option<String>,
    name: String,
}

async fn answer(
    State(logins): State<Logins>,
    Extension(connection): Extension<Connection>,
    headers: HeaderMap,
    Json(login): Json<Login>,
) -> Response {
    let told = |name| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let (address, key) = (told(CLIENT_ADDRESS_HEADER), told(CLIENT_KEY_HEADER));
    let token_type = if key.is_some() { "DPoP" } else { "Bearer" };
    let seen = SeenLogin { client: connection.spiffe_id(), address, key, name: login.name.clone() };
    logins.lock().unwrap().push(seen);
    match (login.name.as_str(), login.password.expose()) {
        ("alice", "correct horse battery staple") => Json(LoggedIn {
            access_token: "eyJ.access.token".to_owned().into(),
            token_type: token_type.into(),
            expires_in: 600,
        })
        .into_response(),
        // An authority that binds nothing.
        ("deaf", _) => Json(LoggedIn {
            access_token: "eyJ.access.token".to_owned().into(),
            token_type: "Bearer".into(),
            expires_in: 600,
        })
        .into_response(),
        ("often", _) => {
            (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "17")], "secret detail").into_response()
        }
        ("broken", _) => (StatusCode::INTERNAL_SERVER_ERROR, "stack trace").into_response(),
        _ => (StatusCode::UNAUTHORIZED, "which of the two was wrong").into_response(),
    }
}

/// An authority with a certificate of the edge root, and a gateway that sends logins to it.
async fn deployment(further: &str) -> (Rig, Running, Logins) {
    let rig = Rig::new();
    rig.policy("gateway", RULES);
    let logins = Logins::default();
    let (certificate, key, root) = rig.edge_certificate(&["localhost"], "authority");
    let trusted = rig.workload(SpiffeId::authority(&rig.td)).await;
    let shown =
        TrustState::new(countersign_pki::BundleSet::new(), countersign_pki::verify::CrlPolicy::Require);
    let chain = vec![CertificateDer::from_pem_file(&certificate).unwrap()];
    let key =
        KeyPair::from_pkcs8(PrivatePkcs8KeyDer::from_pem_file(&key).unwrap().secret_pkcs8_der()).unwrap();
    shown.set_identity(Identity::edge(chain, &key).unwrap());
    let acceptor = Acceptor::new(Arc::clone(trusted.trust()), ClientAuth::Optional).showing(shown);
    let router =
        Router::new().route("/api/v1/login", axum::routing::post(answer)).with_state(Arc::clone(&logins));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let shutdown = rig.shutdown.clone();
    tokio::spawn(async move {
        serve(listener, Transport::Tls(acceptor), router, Limits::default(), shutdown).await
    });
    let ca = rig.dir.path().join("root.pem");
    std::fs::write(&ca, crate::rig::pem("CERTIFICATE", &root)).unwrap();
    let edge = rig
        .gateway(&format!(
            "authority_url = \"https://localhost:{port}\"\nauthority_ca = \"{}\"\n{further}\n{ROUTES}",
            ca.display()
        ))
        .await;
    (rig, edge, logins)
}

const RULES: &str = "@id(\"login\")\npermit (principal is Stranger, action == Action::\"POST\", resource == Route::\"gateway /login\");";

async fn log_in(edge: &Running, name: &str, password: &str) -> Answer {
    let body = format!(r#"{{"name":"{name}","password":"{password}"}}"#);
    request(edge.plain, "POST", "/login", &[("Content-Type", "application/json")], &body).await
}

#[tokio::test]
async fn a_login_is_passed_on_and_its_token_is_handed_out_uncached() {
    let (rig, edge, logins) = deployment("").await;
    let answer = log_in(&edge, "alice", "correct horse battery staple").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["access_token"], "eyJ.access.token");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let seen = logins.lock().unwrap()[0].clone();
    assert_eq!(seen.client.as_ref(), Some(edge.workload.id()), "the gateway proves itself");
    assert_eq!((seen.address.as_deref(), seen.key, seen.name.as_str()), (Some("127.0.0.1"), None, "alice"));
    let decision = rig.decision(|d| d.route == "/login").await;
    assert_eq!((decision.verdict, decision.policy.as_deref()), (Verdict::Allow, Some("login")));
    let events = serde_json::to_string(&rig.world.events()).unwrap();
    assert!(!events.contains("access.token") && !events.contains("horse"), "{events}");
}

#[tokio::test]
async fn a_client_cannot_say_which_address_it_has() {
    let (_rig, edge, logins) = deployment("").await;
    let body = r#"{"name":"alice","password":"correct horse battery staple"}"#;
    let spoofed = [(CLIENT_ADDRESS_HEADER, "203.0.113.9"), ("X-Forwarded-For", "203.0.113.9")];
    assert_eq!(request(edge.plain, "POST", "/login", &spoofed, body).await.status, 200);
    assert_eq!(logins.lock().unwrap()[0].address.as_deref(), Some("127.0.0.1"));
}

/// Logs in beside a proof of `key` for `uri`.
async fn log_in_with(edge: &Running, name: &str, key: &KeyPair, uri: &str, nonce: Option<&str>) -> Answer {
    let target = DpopTarget { method: &Method::POST, uri: DpopUri::parse(uri).unwrap(), access_token: None };
    let jti = countersign_keys::hash::hex(&random_bytes::<16>(&SystemRandom::new()).unwrap());
    let proof = dpop::mint(key, &target, nonce, &jti, clock::now()).unwrap();
    let body = format!(r#"{{"name":"{name}","password":"correct horse battery staple"}}"#);
    request(edge.plain, "POST", "/login", &[("DPoP", &proof)], &body).await
}

const LOGIN_URI: &str = "http://flea.test/login";

#[tokio::test]
async fn a_client_that_proves_a_key_gets_a_token_that_is_bound_to_it() {
    let (_rig, edge, logins) = deployment("").await;
    let key = KeyPair::generate(&SystemRandom::new()).unwrap();
    let first = log_in_with(&edge, "alice", &key, LOGIN_URI, None).await;
    assert_eq!(first.problem(401), "authentication_failed");
    assert!(first.header("www-authenticate").unwrap().starts_with("DPoP error=\"use_dpop_nonce\""));
    let nonce = first.header("dpop-nonce").expect("a nonce").to_owned();
    assert!(logins.lock().unwrap().is_empty(), "the password went nowhere yet");
    let answer = log_in_with(&edge, "alice", &key, LOGIN_URI, Some(&nonce)).await;
    assert_eq!((answer.status, answer.json()["token_type"].as_str()), (200, Some("DPoP")), "{answer:?}");
    assert_eq!(logins.lock().unwrap()[0].key.as_deref(), Some(dpop::jkt(key.public_key()).as_str()));
}

#[tokio::test]
async fn rejects_a_login_beside_a_proof_that_does_not_count_before_anybody_sees_the_password() {
    let (_rig, edge, logins) = deployment("").await;
    let key = KeyPair::generate(&SystemRandom::new()).unwrap();
    let nonce = log_in_with(&edge, "alice", &key, LOGIN_URI, None).await;
    let nonce = nonce.header("dpop-nonce").unwrap().to_owned();
    let elsewhere = log_in_with(&edge, "alice", &key, "http://flea.test/ads", Some(&nonce)).await;
    assert_eq!(elsewhere.problem(401), "authentication_failed");
    let body = r#"{"name":"alice","password":"correct horse battery staple"}"#;
    let told = [(CLIENT_KEY_HEADER, "AAAA"), ("DPoP", "nonsense")];
    assert_eq!(
        request(edge.plain, "POST", "/login", &told, body).await.problem(401),
        "authentication_failed"
    );
    assert!(logins.lock().unwrap().is_empty());
    // Which key it is the client proves; it does not say so.
    assert_eq!(request(edge.plain, "POST", "/login", &told[..1], body).await.json()["token_type"], "Bearer");
    assert_eq!(logins.lock().unwrap()[0].key, None);
}

#[tokio::test]
async fn a_client_that_proved_a_key_is_never_given_a_token_that_anybody_could_use() {
    let (_rig, edge, _logins) = deployment("").await;
    let key = KeyPair::generate(&SystemRandom::new()).unwrap();
    let nonce = log_in_with(&edge, "deaf", &key, LOGIN_URI, None).await;
    let nonce = nonce.header("dpop-nonce").unwrap().to_owned();
    assert_eq!(log_in_with(&edge, "deaf", &key, LOGIN_URI, Some(&nonce)).await.problem(503), "unavailable");
}

#[tokio::test]
async fn every_failed_login_gets_the_same_answer() {
    let (rig, edge, _logins) = deployment("").await;
    let wrong = log_in(&edge, "alice", "guess").await;
    let unknown = log_in(&edge, "nobody", "guess").await;
    for answer in [&wrong, &unknown] {
        assert_eq!(answer.problem(401), "login_failed");
        assert!(!answer.body.contains("which of the two"), "{answer:?}");
    }
    let without_id = |answer: &Answer| {
        let mut problem = answer.json();
        problem.as_object_mut().unwrap().remove("decision");
        problem
    };
    assert_eq!(without_id(&wrong), without_id(&unknown));
    rig.decision(|d| d.route == "/login" && d.status == 401).await;
}

#[tokio::test]
async fn logins_have_a_stricter_quota_per_address_than_requests() {
    let (_rig, edge, logins) = deployment("[throttle]\nlogins_burst = 2\nlogins_per_minute = 1").await;
    assert_eq!(log_in(&edge, "alice", "guess").await.status, 401);
    assert_eq!(log_in(&edge, "alice", "guess").await.status, 401);
    let answer = log_in(&edge, "alice", "correct horse battery staple").await;
    assert_eq!(answer.problem(429), "too_many_requests");
    assert!((1..=60).contains(&answer.header("retry-after").unwrap().parse::<u64>().unwrap()));
    assert_eq!(logins.lock().unwrap().len(), 2, "the third never reached the authority");
    // Everything else goes on: refused here by policy, not by quota.
    assert_eq!(get(edge.plain, "/open", &[]).await.problem(403), "access_denied");
}

#[tokio::test]
async fn the_authoritys_own_refusals_are_passed_on_without_its_words() {
    let (_rig, edge, _logins) = deployment("").await;
    let answer = log_in(&edge, "often", "guess").await;
    assert_eq!(answer.problem(429), "too_many_requests");
    assert_eq!(answer.header("retry-after"), Some("17"));
    let broken = log_in(&edge, "broken", "guess").await;
    assert_eq!(broken.problem(503), "unavailable");
    for answer in [answer, broken] {
        assert!(!answer.body.contains("secret") && !answer.body.contains("stack"), "{answer:?}");
    }
}

#[tokio::test]
async fn what_is_not_a_login_never_reaches_the_authority() {
    let (_rig, edge, logins) = deployment("").await;
    let answer = get(edge.plain, "/login", &[]).await;
    assert_eq!((answer.problem(405).as_str(), answer.header("allow")), ("method_not_allowed", Some("POST")));
    for body in [
        "not json",
        "{}",
        r#"{"name":"alice"}"#,
        r#"{"name":"alice","password":"x","role":"admin"}"#,
        r#"{"name":"alice","name":"bob","password":"x"}"#,
        r#"{"name":"alice","password":17}"#,
        r#"{"name":"alice","password":"x"} {}"#,
    ] {
        let answer = request(edge.plain, "POST", "/login", &[], body).await;
        assert_eq!(answer.problem(400), "malformed_request", "{body}");
        assert!(!answer.body.contains("alice"), "{answer:?}");
    }
    let long = format!(r#"{{"name":"alice","password":"{}"}}"#, "x".repeat(10_000));
    assert_eq!(request(edge.plain, "POST", "/login", &[], &long).await.problem(413), "body_too_large");
    let chunked = "POST /login HTTP/1.1\r\nHost: flea.test\r\nTransfer-Encoding: chunked\r\n\r\n2710\r\n";
    let answer = raw(edge.plain, format!("{chunked}{}\r\n0\r\n\r\n", "x".repeat(10_000))).await;
    assert_eq!(answer.problem(413), "body_too_large");
    assert!(logins.lock().unwrap().is_empty());
}

#[tokio::test]
async fn without_the_authority_a_login_is_503_and_says_when_to_try_again() {
    let rig = Rig::new();
    rig.policy("gateway", RULES);
    let (certificate, _, _) = rig.edge_certificate(&["localhost"], "ca");
    let port = countersign_testkit::free_port();
    let edge = rig
        .gateway(&format!(
            "authority_url = \"https://localhost:{port}\"\nauthority_ca = \"{}\"\n{ROUTES}",
            certificate.display()
        ))
        .await;
    let answer = log_in(&edge, "alice", "guess").await;
    assert_eq!(answer.problem(503), "unavailable");
    assert!(answer.header("retry-after").is_some());
}

#[tokio::test]
async fn without_a_rule_for_it_nobody_logs_in_at_the_edge() {
    let (rig, edge, logins) = deployment("").await;
    rig.policy("gateway", "@id(\"others\")\npermit (principal is User, action, resource);");
    crate::rig::eventually(|| edge.workload.live().snapshot().sequence == rig.world.sequence()).await;
    let answer = log_in(&edge, "alice", "correct horse battery staple").await;
    assert_eq!(answer.problem(403), "access_denied");
    assert!(logins.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_gateway_without_an_authority_has_no_login() {
    let rig = Rig::new();
    rig.policy("gateway", "@id(\"all\")\npermit (principal, action, resource);");
    let edge = rig.gateway(ROUTES).await;
    assert_eq!(log_in(&edge, "alice", "guess").await.problem(404), "not_found");
}

#[tokio::test]
async fn a_guesser_has_to_solve_a_puzzle_before_each_further_login() {
    let (_rig, edge, logins) = deployment("[puzzle]\nafter_failures = 2\ndifficulty_bits = 8\n").await;
    let log_in = async |password: &str, answer: Option<&str>| {
        let body = format!(r#"{{"name":"alice","password":"{password}"}}"#);
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(answer.map(|answer| ("Countersign-Puzzle-Answer", answer)));
        request(edge.plain, "POST", "/login", &headers, &body).await
    };
    assert_eq!(log_in("wrong", None).await.problem(401), "login_failed");
    assert_eq!(log_in("wrong", None).await.problem(401), "login_failed");
    // Even who knows the password now solves first, and the authority hears of nobody who did not.
    let right = "correct horse battery staple";
    let refused = log_in(right, None).await;
    assert_eq!((refused.problem(429), logins.lock().unwrap().len()), ("too_many_requests".to_owned(), 2));
    let challenge = refused.header("countersign-puzzle").unwrap().to_owned();
    let solved = |answer: &String| countersign_keys::sha256(answer.as_bytes())[0] == 0;
    let answers = || (0..).map(|counter| format!("{challenge}:{counter}"));
    let unsolved = answers().find(|answer| !solved(answer)).unwrap();
    assert_eq!(log_in(right, Some(&unsolved)).await.status, 429);
    let answer = answers().find(solved).unwrap();
    assert_eq!(log_in(right, Some(&answer)).await.status, 200);
    let again = log_in(right, Some(&answer)).await;
    assert_eq!((again.status, again.header("countersign-puzzle").is_some()), (429, true));
    assert_eq!(logins.lock().unwrap().len(), 3);
}
