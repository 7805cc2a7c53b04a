//! DPoP at the edge (RFC 9449): a token that is bound to a key counts in the hands of whoever holds that key.
use crate::rig::client::{Answer, bearer, get, request};
use crate::rig::echo::{self, Seen};
use crate::rig::{Rig, Running};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_keys::hash::hex;
use countersign_keys::{KeyPair, SystemRandom, random_bytes};
use countersign_ledger::{Stage, Verdict};
use countersign_sdk::clock;
use countersign_token::Confirmation;
use countersign_token::dpop::{self, DpopTarget, DpopUri};
use http::Method;

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
