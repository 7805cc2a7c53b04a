//! DPoP at the edge (RFC 9449): a token that is bound to a key counts in the hands of whoever holds that key.
use std::time::Duration;

use crate::rig::backend::{Backend, Reply};
use crate::rig::client::{Answer, bearer, get, head_and_body, request};
use crate::rig::echo::{self, Seen};
use crate::rig::{Rig, Running, eventually};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_keys::hash::hex;
use countersign_keys::{KeyPair, SystemRandom, random_bytes};
use countersign_ledger::{Stage, Verdict};
use countersign_sdk::clock;
use countersign_token::Confirmation;
use countersign_token::dpop::{self, DpopTarget, DpopUri};
use countersign_wire::snapshot::RevokedUser;
use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const ROUTES: &str = r#"
[[route]]
path = "/ads"
to = "ads"
[[route]]
path = "/ads/{id}/buy"
methods = ["POST"]
to = "ads"
[[route]]
path = "/open"
to = "ads"
user = "optional"
"#;

const EDGE_RULES: &str = r#"
@id("anybody")
permit (principal, action, resource in Service::"gateway");
"#;

/// Buying takes a key; looking does not.
const ADS_RULES: &str = r#"
@id("look")
permit (principal is Workload, action == Action::"GET", resource in Service::"ads");
@id("buy-with-a-key")
permit (principal is Workload, action == Action::"POST", resource in Service::"ads")
when { context.proof.user_possession };
"#;

const PATHS: &[&str] = &["/ads", "/ads/{id}/buy", "/open"];

async fn deployment() -> (Rig, Running, Seen) {
    let (rig, seen) = (Rig::new(), Seen::default());
    rig.policy("gateway", EDGE_RULES);
    rig.service("ads", ADS_RULES, echo::router(PATHS, &seen)).await;
    let edge = rig.gateway(ROUTES).await;
    (rig, edge, seen)
}

/// A client of Alice's that holds a key.
struct Client {
    key: KeyPair,
    token: String,
}

impl Client {
    fn new(rig: &Rig) -> Self {
        let key = KeyPair::generate(&SystemRandom::new()).unwrap();
        let token = rig.bound_access_token("alice", Confirmation::Key(dpop::jkt(key.public_key())));
        Client { key, token }
    }

    fn proof(&self, method: &Method, path: &str, nonce: Option<&str>) -> String {
        let uri = DpopUri::parse(&format!("http://flea.test{path}")).unwrap();
        let target = DpopTarget { method, uri, access_token: Some(&self.token) };
        let jti = hex(&random_bytes::<16>(&SystemRandom::new()).unwrap());
        dpop::mint(&self.key, &target, nonce, &jti, clock::now()).unwrap()
    }

    async fn send(&self, edge: &Running, method: &Method, path: &str, proof: &str) -> Answer {
        let headers = [("Authorization", format!("DPoP {}", self.token)), ("DPoP", proof.to_owned())];
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let body = if method == Method::POST { "{}" } else { "" };
        request(edge.plain, method.as_str(), path, &headers, body).await
    }

    /// The nonce that a first try is answered with.
    async fn nonce(&self, edge: &Running) -> String {
        let answer = self.send(edge, &Method::GET, "/ads", &self.proof(&Method::GET, "/ads", None)).await;
        assert_eq!(answer.problem(401), "authentication_failed");
        assert!(challenge(&answer).starts_with("DPoP error=\"use_dpop_nonce\""), "{answer:?}");
        answer.header("dpop-nonce").expect("a nonce").to_owned()
    }
}

fn challenge(answer: &Answer) -> &str {
    answer.header("www-authenticate").expect("a challenge")
}

fn assert_invalid_proof(answer: &Answer) {
    assert_eq!(answer.problem(401), "authentication_failed");
    assert!(challenge(answer).starts_with("DPoP error=\"invalid_dpop_proof\""), "{answer:?}");
}

#[tokio::test]
async fn accepts_a_bound_token_with_a_proof_and_tells_the_services_that_a_key_was_proven() {
    let (rig, edge, seen) = deployment().await;
    let alice = Client::new(&rig);
    let nonce = alice.nonce(&edge).await;
    let proof = alice.proof(&Method::POST, "/ads/1/buy", Some(&nonce));
    let answer = alice.send(&edge, &Method::POST, "/ads/1/buy", &proof).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.header("dpop-nonce").is_some(), "the nonce for the next proof");
    for name in ["dpop", "authorization"] {
        assert!(echo::header(&seen.last(), name).is_empty(), "{name} ends at the edge");
    }
    // Without a key Alice may look and not buy: the service's rule read what the gateway proved.
    let bearer = bearer(&rig.access_token("alice", &["buyer"]));
    assert_eq!(get(edge.plain, "/ads", &[("Authorization", &bearer)]).await.status, 200);
    let buy = request(edge.plain, "POST", "/ads/1/buy", &[("Authorization", &bearer)], "{}").await;
    assert_eq!(buy.problem(403), "access_denied");
}

#[tokio::test]
async fn rejects_a_bound_token_that_is_sent_as_a_bearer_token() {
    let (rig, edge, seen) = deployment().await;
    let alice = Client::new(&rig);
    for path in ["/ads", "/open"] {
        let answer = get(edge.plain, path, &[("Authorization", &bearer(&alice.token))]).await;
        assert_eq!(answer.problem(401), "authentication_failed");
        assert!(challenge(&answer).starts_with("DPoP error=\"invalid_token\""), "{answer:?}");
    }
    // Also where the cache knows the token in the right hands.
    let nonce = alice.nonce(&edge).await;
    let proof = alice.proof(&Method::GET, "/ads", Some(&nonce));
    assert_eq!(alice.send(&edge, &Method::GET, "/ads", &proof).await.status, 200);
    let stolen = get(edge.plain, "/ads", &[("Authorization", &bearer(&alice.token))]).await;
    assert_eq!(stolen.problem(401), "authentication_failed");
    assert_eq!(seen.count(), 1);
}

#[tokio::test]
async fn rejects_a_bound_token_with_a_proof_of_another_key() {
    let (rig, edge, seen) = deployment().await;
    let alice = Client::new(&rig);
    let nonce = alice.nonce(&edge).await;
    let proof = alice.proof(&Method::GET, "/ads", Some(&nonce));
    assert_eq!(alice.send(&edge, &Method::GET, "/ads", &proof).await.status, 200);
    let thief = Client { key: KeyPair::generate(&SystemRandom::new()).unwrap(), token: alice.token.clone() };
    let proof = thief.proof(&Method::GET, "/ads", Some(&nonce));
    let answer = thief.send(&edge, &Method::GET, "/ads", &proof).await;
    assert_eq!(answer.problem(401), "authentication_failed");
    assert!(challenge(&answer).starts_with("DPoP error=\"invalid_token\""), "{answer:?}");
    assert_eq!(seen.count(), 1);
}

#[tokio::test]
async fn rejects_a_proof_beside_a_token_that_is_bound_to_no_key() {
    let (rig, edge, seen) = deployment().await;
    let mut alice = Client::new(&rig);
    let nonce = alice.nonce(&edge).await;
    alice.token = rig.access_token("alice", &["buyer"]);
    let proof = alice.proof(&Method::GET, "/ads", Some(&nonce));
    assert_eq!(alice.send(&edge, &Method::GET, "/ads", &proof).await.problem(401), "authentication_failed");
    assert_eq!(seen.count(), 0);
}

#[tokio::test]
async fn rejects_a_proof_that_was_made_for_another_request() {
    let (rig, edge, seen) = deployment().await;
    let alice = Client::new(&rig);
    let nonce = alice.nonce(&edge).await;
    let other_token = Client { token: rig.access_token("alice", &["buyer"]), key: alice.key.clone() };
    let https = DpopTarget {
        method: &Method::GET,
        uri: DpopUri::parse("https://flea.test/ads").unwrap(),
        access_token: Some(&alice.token),
    };
    for proof in [
        alice.proof(&Method::POST, "/ads", Some(&nonce)),
        alice.proof(&Method::GET, "/ads/1", Some(&nonce)),
        other_token.proof(&Method::GET, "/ads", Some(&nonce)),
        dpop::mint(&alice.key, &https, Some(&nonce), "1", clock::now()).unwrap(),
        "not.a.proof".to_owned(),
        String::new(),
    ] {
        assert_invalid_proof(&alice.send(&edge, &Method::GET, "/ads", &proof).await);
    }
    assert_eq!(seen.count(), 0);
    let decision = rig.decision(|decision| decision.verdict == Verdict::Deny).await;
    assert_eq!(decision.stage, Stage::Token);
}

#[tokio::test]
async fn rejects_a_proof_that_was_used_before() {
    let (rig, edge, seen) = deployment().await;
    let alice = Client::new(&rig);
    let nonce = alice.nonce(&edge).await;
    let proof = alice.proof(&Method::GET, "/ads", Some(&nonce));
    assert_eq!(alice.send(&edge, &Method::GET, "/ads?page=1", &proof).await.status, 200, "htu has no query");
    assert_invalid_proof(&alice.send(&edge, &Method::GET, "/ads?page=1", &proof).await);
    assert_eq!(seen.count(), 1);
}

#[tokio::test]
async fn rejects_a_proof_with_the_nonce_of_another_gateway_or_of_one_before_its_restart() {
    let (rig, edge, seen) = deployment().await;
    let alice = Client::new(&rig);
    let nonce = alice.nonce(&edge).await;
    let restarted = rig.gateway_of(edge.workload.clone(), ROUTES).await;
    let proof = alice.proof(&Method::GET, "/ads", Some(&nonce));
    let answer = alice.send(&restarted, &Method::GET, "/ads", &proof).await;
    assert!(challenge(&answer).starts_with("DPoP error=\"use_dpop_nonce\""), "{answer:?}");
    assert_eq!(seen.count(), 0);
    let given = answer.header("dpop-nonce").unwrap();
    let proof = alice.proof(&Method::GET, "/ads", Some(given));
    assert_eq!(alice.send(&restarted, &Method::GET, "/ads", &proof).await.status, 200);
}

#[tokio::test]
async fn rejects_two_proofs_and_a_scheme_and_proof_that_do_not_go_together() {
    let (rig, edge, seen) = deployment().await;
    let alice = Client::new(&rig);
    let nonce = alice.nonce(&edge).await;
    let (dpop, plain) = (format!("DPoP {}", alice.token), bearer(&rig.access_token("alice", &["buyer"])));
    let proof = || alice.proof(&Method::GET, "/ads", Some(&nonce));
    let (one, two) = (proof(), proof());
    let twice = get(edge.plain, "/ads", &[("Authorization", &dpop), ("DPoP", &one), ("DPoP", &two)]).await;
    assert_eq!(twice.status, 400, "{twice:?}");
    for headers in [
        &[("Authorization", dpop.as_str())][..],
        &[("Authorization", plain.as_str()), ("DPoP", one.as_str())],
        &[("DPoP", one.as_str())],
    ] {
        let answer = get(edge.plain, "/open", headers).await;
        assert_eq!(answer.problem(401), "authentication_failed");
    }
    assert_eq!(seen.count(), 0);
}

#[tokio::test]
async fn rejects_a_token_that_is_bound_to_a_certificate_which_the_edge_never_sees() {
    let (rig, edge, seen) = deployment().await;
    let sha256 = URL_SAFE_NO_PAD.encode([7; 32]);
    let token = rig.bound_access_token("alice", Confirmation::Certificate(sha256));
    let answer = get(edge.plain, "/ads", &[("Authorization", &bearer(&token))]).await;
    assert_eq!(answer.problem(401), "authentication_failed");
    assert_eq!(seen.count(), 0);
}

#[tokio::test]
async fn a_websocket_of_a_bound_token_takes_a_proof_of_its_key_and_is_not_asked_for_another() {
    let rig = Rig::new();
    rig.policy("gateway", EDGE_RULES);
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let backend = Backend::new(move |_, _| Reply::Raw(switched.to_owned())).await;
    let toml = format!(
        "[[route]]\npath = \"/ads\"\nto = \"b\"\nupgrade = [\"websocket\"]\n[[upstream]]\nname = \"b\"\nendpoints = [\"{}\"]\n",
        backend.address
    );
    let edge = rig.gateway(&toml).await;
    let alice = Client::new(&rig);
    let nonce = alice.nonce(&edge).await;
    let shake = async |proof: Option<&str>| {
        let token = format!("DPoP {}", alice.token);
        let mut headers = vec![
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Authorization", token.as_str()),
        ];
        headers.extend(proof.map(|proof| ("DPoP", proof)));
        let mut stream = TcpStream::connect(edge.plain).await.unwrap();
        let request = head_and_body("GET", "/ads", "flea.test", &headers, "");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        (String::from_utf8_lossy(&head).into_owned(), stream)
    };
    let stolen = Client { key: KeyPair::generate(&SystemRandom::new()).unwrap(), token: alice.token.clone() };
    for proof in [None, Some(stolen.proof(&Method::GET, "/ads", Some(&nonce)))] {
        assert_eq!(shake(proof.as_deref()).await.0, "HTTP/1.1 401");
    }
    let proof = alice.proof(&Method::GET, "/ads", Some(&nonce));
    let (head, mut stream) = shake(Some(&proof)).await;
    assert_eq!(head, "HTTP/1.1 101");
    assert_eq!(shake(Some(&proof)).await.0, "HTTP/1.1 401", "the proof counted once");
    // Under another snapshot all is judged again, and the key was proven.
    rig.policy("else", EDGE_RULES);
    eventually(|| edge.workload.live().snapshot().sequence == rig.world.sequence()).await;
    let read = tokio::time::timeout(Duration::from_millis(1500), read_past_head(&mut stream)).await;
    assert!(read.is_err(), "it was ended: {read:?}");
    // The key goes on to count for no longer than the token does.
    let revoked = RevokedUser {
        id: "u_alice".into(),
        issued_before: clock::now().saturating_add(Duration::from_secs(1)),
        until: clock::now().saturating_add(Duration::from_secs(3600)),
    };
    rig.world.change(|snapshot| snapshot.revoked.users.push(revoked));
    let read = tokio::time::timeout(Duration::from_secs(20), read_past_head(&mut stream)).await;
    assert!(read.is_ok(), "it did not end");
}

/// Reads until the other end is gone.
async fn read_past_head(stream: &mut TcpStream) -> usize {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap_or(0)
}
