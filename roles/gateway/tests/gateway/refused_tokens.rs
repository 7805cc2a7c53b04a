//! Tokens that the edge does not take, although everything else about them is right: taken back, put into the URL,
//! signed by an algorithm of the sender's choice.
use std::time::{Duration, Instant};

use crate::rig::client::{bearer, get};
use crate::rig::echo::{self, Seen};
use crate::rig::{Rig, Running};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_keys::hash::hmac_sha256;
use countersign_ledger::{Stage, Verdict};
use countersign_sdk::clock;
use countersign_wire::snapshot::{RevokedToken, RevokedUser, Snapshot};
use serde_json::{Value, json};

const ROUTES: &str = "[[route]]\npath = \"/ads\"\nto = \"ads\"\n[[route]]\npath = \"/open\"\nto = \"ads\"\nuser = \"optional\"\n";
const RULES: &str = "@id(\"anybody\")\npermit (principal, action, resource in Service::\"gateway\");";
const ADS_RULES: &str =
    "@id(\"from-the-edge\")\npermit (principal is Workload, action, resource in Service::\"ads\");";

async fn deployment() -> (Rig, Running, Seen) {
    let (rig, seen) = (Rig::new(), Seen::default());
    rig.policy("gateway", RULES);
    rig.service("ads", ADS_RULES, echo::router(&["/ads", "/open"], &seen)).await;
    let edge = rig.gateway(ROUTES).await;
    (rig, edge, seen)
}

fn part(token: &str, at: usize) -> Value {
    let part = token.split('.').nth(at).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// Uses the token until the gateway knows it by heart, takes something back, and asks until the answer is no.
async fn taken_back(revoke: impl FnOnce(&mut Snapshot, &str)) {
    let (rig, edge, seen) = deployment().await;
    let token = rig.access_token("alice", &["buyer"]);
    let other = bearer(&rig.access_token("bob", &["buyer"]));
    let alice = bearer(&token);
    for _ in 0..3 {
        assert_eq!(get(edge.plain, "/ads", &[("Authorization", &alice)]).await.status, 200);
        assert_eq!(get(edge.plain, "/ads", &[("Authorization", &other)]).await.status, 200);
    }
    let begun = Instant::now();
    rig.world.change(|snapshot| revoke(snapshot, &token));
    loop {
        let answer = get(edge.plain, "/ads", &[("Authorization", &alice)]).await;
        if answer.status != 200 {
            assert_eq!(answer.problem(401), "authentication_failed");
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "still let in two seconds after it was taken back");
    }
    let so_far = seen.count();
    // Nor does an optional route take it for nothing.
    assert_eq!(
        get(edge.plain, "/open", &[("Authorization", &alice)]).await.problem(401),
        "authentication_failed"
    );
    assert_eq!(seen.count(), so_far);
    let decision = rig.decision(|decision| decision.verdict == Verdict::Deny).await;
    assert_eq!(decision.stage, Stage::Token);
    let detail: Vec<_> = decision.checks.iter().map(|check| check.detail.as_str()).collect();
    assert!(detail.iter().any(|detail| detail.contains("revoked")), "{detail:?}");
}

fn for_an_hour() -> countersign_identity::UnixTime {
    clock::now().saturating_add(Duration::from_secs(3600))
}

#[tokio::test]
async fn a_token_that_was_taken_back_is_refused_within_two_seconds_though_the_gateway_knows_it() {
    taken_back(|snapshot, token| {
        let id = part(token, 1)["jti"].as_str().unwrap().to_owned();
        snapshot.revoked.tokens.push(RevokedToken { id, until: for_an_hour() });
    })
    .await;
}

#[tokio::test]
async fn the_tokens_of_a_user_that_were_taken_back_are_refused_within_two_seconds() {
    taken_back(|snapshot, _| {
        let issued_before = clock::now().saturating_add(Duration::from_secs(1));
        let entry = RevokedUser { id: "u_alice".into(), issued_before, until: for_an_hour() };
        snapshot.revoked.users.push(entry);
    })
    .await;
}

#[tokio::test]
async fn everything_that_a_revoked_key_signed_is_refused_within_two_seconds() {
    taken_back(|snapshot, token| {
        let id = part(token, 0)["kid"].as_str().unwrap().to_owned();
        snapshot.revoked.keys.push(RevokedToken { id, until: for_an_hour() });
    })
    .await;
}

#[tokio::test]
async fn a_user_whose_tokens_were_taken_back_logs_in_again_and_is_let_in() {
    let (rig, edge, _seen) = deployment().await;
    let before = rig.access_token("alice", &["buyer"]);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let now = clock::now();
    rig.world.change(|snapshot| {
        let issued_before = countersign_identity::UnixTime::from_secs(now.secs());
        snapshot.revoked.users.push(RevokedUser {
            id: "u_alice".into(),
            issued_before,
            until: for_an_hour(),
        });
    });
    crate::rig::eventually(|| edge.workload.live().snapshot().sequence == rig.world.sequence()).await;
    let after = rig.access_token("alice", &["buyer"]);
    assert_eq!(get(edge.plain, "/ads", &[("Authorization", &bearer(&before))]).await.status, 401);
    assert_eq!(get(edge.plain, "/ads", &[("Authorization", &bearer(&after))]).await.status, 200);
}

#[tokio::test]
async fn a_token_in_the_url_is_refused_under_whatever_name_and_reaches_nobody() {
    let (rig, edge, seen) = deployment().await;
    let token = rig.access_token("alice", &["buyer"]);
    let authorized = bearer(&token);
    for query in [
        format!("access_token={token}"),
        format!("ACCESS%5Ftoken={token}"),
        format!("page=1&session={token}"),
        "id_token=x".to_owned(),
        "key=csb_0123456789".to_owned(),
    ] {
        for headers in [&[][..], &[("Authorization", authorized.as_str())]] {
            let answer = get(edge.plain, &format!("/ads?{query}"), headers).await;
            assert_eq!(answer.problem(400), "malformed_request", "{query}");
            assert!(!answer.body.contains(&token), "what is refused is not repeated");
        }
    }
    assert_eq!(seen.count(), 0);
    assert!(!serde_json::to_string(&rig.world.events()).unwrap().contains(&token));
}

#[tokio::test]
async fn a_token_whose_header_chooses_how_it_is_verified_is_refused() {
    let (rig, edge, seen) = deployment().await;
    let good = rig.access_token("alice", &["buyer"]);
    let kid = part(&good, 0)["kid"].clone();
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = good.split('.').nth(1).unwrap();
    let public = rig.world.access_key.public_key();
    let signed = |header: Value, secret: Option<&[u8]>| {
        let input = format!("{}.{claims}", encode(&header));
        let signature = secret.map(|secret| URL_SAFE_NO_PAD.encode(hmac_sha256(secret, input.as_bytes())));
        format!("{input}.{}", signature.unwrap_or_default())
    };
    let header = |alg: &str| json!({ "alg": alg, "kid": kid, "typ": "at+jwt" });
    for forged in [
        signed(header("none"), None),
        signed(header("None"), None),
        signed(json!({ "kid": kid, "typ": "at+jwt" }), None),
        // Whoever knows the public key could sign, were it ever taken for a shared secret.
        signed(header("HS256"), Some(&public.spki_der())),
        signed(header("HS256"), Some(public.to_jwk().as_bytes())),
        signed(header("HS256"), Some(public.subject_public_key())),
        signed(header("ES256"), Some(&public.spki_der())),
        format!("{}.{claims}.", encode(&header("ES256"))),
    ] {
        let answer = get(edge.plain, "/ads", &[("Authorization", &bearer(&forged))]).await;
        assert_eq!(answer.problem(401), "authentication_failed", "{forged}");
    }
    assert_eq!(seen.count(), 0);
}
