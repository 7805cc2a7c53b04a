//! On whose behalf: tokens of users at the callee, in each of the three ways, and in the wrong hands.

use std::{sync::Arc, time::Duration};

use countersign_identity::{Mode, Possession, SpiffeId};
use countersign_keys::{KeyPair, sha256};
use countersign_ledger::Stage;
use countersign_sdk::{clock, signing_chains::write_chain};
use countersign_token::{
    Confirmation, ExchangedToken, Scope, ServiceToken,
    http_signature::{self, Stamp},
    service_token::UserBinding,
    wpt::target_uri,
};
use http::Method;

use crate::{
    deployment::{Deployment, Leaf, Served, key},
    modes::{Line, bearer, callee, get_with, random_id, refusal, request, signer, thumbprint, token},
};

const MINUTE: Duration = Duration::from_mins(1);

/// What the token service gives `ads` for `users`, on behalf of alice who came through the gateway.
fn hop(deployment: &Deployment, confirmation: Option<Confirmation>) -> ExchangedToken {
    let now = clock::now();
    ExchangedToken {
        issuer: deployment.desk.issuer(),
        audience: deployment.id("users"),
        user_id: "u_alice".into(),
        name: "alice".into(),
        roles: vec!["buyer".into()],
        scope: Scope::parse("fleamarket").unwrap(),
        txn: "01JZ".into(),
        jti: random_id(),
        actors: vec![deployment.id("gateway"), deployment.id("ads")],
        confirmation,
        user_possession: Possession::None,
        may_act: None,
        issued_at: now,
        expires: now.saturating_add(MINUTE),
    }
}

fn minted(deployment: &Deployment, token: &ExchangedToken) -> String {
    token.mint(&deployment.desk.exchange).unwrap()
}

/// A request of `leaf`'s owner with a service token that speaks of the user so.
fn signed(deployment: &Deployment, line: &Line, leaf: &Leaf, user: UserBinding) -> (String, String) {
    let issuer: SpiffeId = leaf.identity().id().unwrap().clone();
    let token = ServiceToken { issuer, user, ..token(deployment, line) };
    (bearer(&token.mint(&leaf.key, Some(&thumbprint(leaf))).unwrap()), write_chain(&leaf.chain))
}

async fn mtls_callee(deployment: &Arc<Deployment>, service: &str) -> (Served, Line) {
    let users = callee(deployment, &[Mode::Mtls, Mode::Jwt]).await;
    let line = Line::open(deployment, &users, Some(&deployment.leaf(service))).await;
    (users, line)
}

#[tokio::test]
async fn a_token_of_one_hop_counts_for_this_callee_and_from_its_own_actor_alone() {
    let deployment = Deployment::new();
    let (users, ads) = mtls_callee(&deployment, "ads").await;
    let chat = Line::open(&deployment, &users, Some(&deployment.leaf("chat"))).await;
    let good = minted(&deployment, &hop(&deployment, None));
    for _ in 0..2 {
        assert_eq!(
            ads.said(get_with(&[("user-token", &good)])).await,
            (200, "/svc/ads mtls reusable [channel] alice".into())
        );
    }
    // Known by now, and still not chat's.
    assert_eq!(chat.said(get_with(&[("user-token", &good)])).await.0, 401);
    assert_eq!(refusal(&deployment, "CS3028").await.0, Stage::Token);
    let cases: Vec<(&str, ExchangedToken)> = vec![
        ("CS3007", ExchangedToken { audience: deployment.id("chat"), ..hop(&deployment, None) }),
        ("CS3008", ExchangedToken { issuer: "https://elsewhere.test".into(), ..hop(&deployment, None) }),
        (
            "CS3005",
            ExchangedToken {
                issued_at: clock::now().saturating_sub(MINUTE * 2),
                expires: clock::now().saturating_sub(MINUTE),
                ..hop(&deployment, None)
            },
        ),
    ];
    for (code, bad) in cases {
        assert_eq!(ads.said(get_with(&[("user-token", &minted(&deployment, &bad))])).await.0, 401, "{code}");
        refusal(&deployment, code).await;
    }
    let forged = hop(&deployment, None).mint(&key()).unwrap();
    assert_eq!(ads.said(get_with(&[("user-token", &forged)])).await.0, 401);
    refusal(&deployment, "CS3004").await;
    // Taken back by the id of its transaction, although it is known.
    deployment.take_back("01JZ");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(ads.said(get_with(&[("user-token", &good)])).await.0, 401);
    refusal(&deployment, "CS3027").await;
}

#[tokio::test]
async fn a_bound_token_is_worth_nothing_without_its_key() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::Mtls, Mode::Jwt]).await;
    let (shown, other) = (deployment.leaf("ads"), deployment.leaf("ads"));
    let bound = |leaf: &Leaf| {
        use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
        Some(Confirmation::Certificate(URL_SAFE_NO_PAD.encode(sha256(&leaf.chain[0]))))
    };
    let token = minted(&deployment, &hop(&deployment, bound(&shown)));
    let own = Line::open(&deployment, &users, Some(&shown)).await;
    assert_eq!(own.said(get_with(&[("user-token", &token)])).await.0, 200);
    // The same service, with another certificate: the token was copied, the key was not.
    let copied = Line::open(&deployment, &users, Some(&other)).await;
    assert_eq!(copied.said(get_with(&[("user-token", &token)])).await.0, 401);
    refusal(&deployment, "CS3028").await;

    // Bound to the key that signs the requests.
    let (signing, line) = (signer(&deployment, "ads"), Line::open(&deployment, &users, None).await);
    let jkt = Some(Confirmation::Key(signing.key.public_key().thumbprint()));
    let token = minted(&deployment, &hop(&deployment, jkt));
    let uth = UserBinding::UserToken(sha256(token.as_bytes()));
    let (authorization, chain) = signed(&deployment, &line, &signing, uth.clone());
    let headers =
        [("authorization", &*authorization), ("countersign-signing-chain", &chain), ("user-token", &token)];
    let (status, said) = line.said(get_with(&headers)).await;
    assert_eq!(
        (status, said.as_str()),
        (200, "/svc/ads jwt single_use [channel target method_and_query body] alice")
    );
    let second = signer(&deployment, "ads");
    let (authorization, chain) = signed(&deployment, &line, &second, uth);
    let headers =
        [("authorization", &*authorization), ("countersign-signing-chain", &chain), ("user-token", &token)];
    deployment.reports.lock().unwrap().clear();
    assert_eq!(line.said(get_with(&headers)).await.0, 401);
    refusal(&deployment, "CS3028").await;
}

#[tokio::test]
async fn a_nested_token_is_verified_on_its_own_and_cannot_be_swapped() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::Jwt]).await;
    let line = Line::open(&deployment, &users, None).await;
    let ads = signer(&deployment, "ads");
    let alice = deployment.txn_token("alice", &deployment.gateway_key, MINUTE);
    let bob = deployment.txn_token("bob", &deployment.gateway_key, MINUTE);
    let expired = minted(
        &deployment,
        &ExchangedToken {
            issued_at: clock::now().saturating_sub(MINUTE * 2),
            expires: clock::now().saturating_sub(MINUTE),
            ..hop(&deployment, None)
        },
    );
    let foreign = deployment.txn_token("mallory", &key(), MINUTE);
    let nested = |token: &str| UserBinding::Nested(token.to_owned());
    let named = |token: &str| UserBinding::TxnToken(sha256(token.as_bytes()));

    let (authorization, chain) = signed(&deployment, &line, &ads, nested(&alice));
    let headers = [("authorization", &*authorization), ("countersign-signing-chain", &chain)];
    assert!(line.said(get_with(&headers)).await.1.ends_with("] alice"));
    let hop = minted(&deployment, &hop(&deployment, None));
    let (authorization, chain) = signed(&deployment, &line, &ads, nested(&hop));
    let headers = [("authorization", &*authorization), ("countersign-signing-chain", &chain)];
    assert!(line.said(get_with(&headers)).await.1.ends_with("] alice"));

    for (code, user, beside) in [
        ("CS3005", nested(&expired), None),
        ("CS3004", nested(&foreign), None),
        ("CS3002", nested("nonsense"), None),
        // Two users, or another one than was signed for.
        ("CS3020", nested(&alice), Some(&bob)),
        ("CS3020", named(&alice), Some(&bob)),
        ("CS3020", UserBinding::None, Some(&bob)),
    ] {
        let (authorization, chain) = signed(&deployment, &line, &ads, user);
        let mut headers = vec![("authorization", &*authorization), ("countersign-signing-chain", &*chain)];
        headers.extend(beside.map(|token| ("txn-token", token.as_str())));
        assert_eq!(line.said(get_with(&headers)).await.0, 401, "{code}");
        refusal(&deployment, code).await;
        deployment.reports.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn a_signed_request_is_refused_with_another_method_query_body_or_user() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::Wimse]).await;
    let line = Line::open(&deployment, &users, None).await;
    // Signatures name no connection: what is dated before the process knows all of them is refused.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let held = key();
    let wit = deployment.issue_wit("ads", &held);
    let alice = deployment.txn_token("alice", &deployment.gateway_key, MINUTE);
    let bob = deployment.txn_token("bob", &deployment.gateway_key, MINUTE);
    let good = Signed { target: "/post?a=1", body: b"order 1", user: &alice };
    let sent = |method: Method, target: &str, body: &'static [u8], user: &str| {
        let fields = good.headers(&held, &wit);
        let mut headers: Vec<(&'static str, &str)> =
            fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        headers.push(("txn-token", user));
        request(method, target, &headers, countersign_sdk::outbound::full(body))
    };
    assert_eq!(line.said(sent(Method::POST, "/post?a=1", b"order 1", &alice)).await, (200, "7 bytes".into()));
    for (code, method, target, body, user) in [
        ("CS3003", Method::PUT, "/post?a=1", b"order 1", &alice),
        ("CS3003", Method::POST, "/post?a=2", b"order 1", &alice),
        ("CS3026", Method::POST, "/post?a=1", b"order 9", &alice),
        ("CS3003", Method::POST, "/post?a=1", b"order 1", &bob),
    ] {
        assert_eq!(line.said(sent(method, target, body, user)).await.0, 401, "{code}");
        refusal(&deployment, code).await;
        deployment.reports.lock().unwrap().clear();
    }
    let fields = good.headers(&held, &wit);
    let mut headers: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    headers.push(("txn-token", &alice));
    let once = || {
        request(Method::POST, "/post?a=1", &headers, countersign_sdk::outbound::full(b"order 1".as_slice()))
    };
    assert_eq!(line.said(once()).await.0, 200);
    assert_eq!(line.said(once()).await.0, 401);
    refusal(&deployment, "CS3022").await;
}

/// What `ads` signs.
struct Signed<'a> {
    target: &'a str,
    body: &'a [u8],
    user: &'a str,
}

impl Signed<'_> {
    fn headers(&self, key: &KeyPair, wit: &str) -> Vec<(&'static str, String)> {
        let now = clock::now();
        let mut headers = vec![
            ("workload-identity-token", wit.to_owned()),
            ("content-digest", http_signature::content_digest(self.body)),
        ];
        let mut map = http::HeaderMap::new();
        for (name, value) in &headers {
            map.insert(*name, value.parse().unwrap());
        }
        map.insert("txn-token", self.user.parse().unwrap());
        let signed =
            http_signature::Request { method: "POST", target: self.target, headers: &map, body: self.body };
        let stamp = Stamp { nonce: &random_id(), created: now, expires: now.saturating_add(MINUTE / 2) };
        let audience = target_uri("users", "/post");
        let fields = http_signature::sign_request(key, &signed, &audience, false, &stamp).unwrap();
        headers.push(("signature-input", fields.signature_input));
        headers.push(("signature", fields.signature));
        headers
    }
}
