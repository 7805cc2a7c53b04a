//! The user at the edge: access tokens end at the gateway, internal tokens begin there.
use std::time::Duration;

use crate::rig::backend::Backend;
use crate::rig::client::{bearer, get, request};
use crate::rig::echo::{self, Seen};
use crate::rig::{Rig, eventually};
use countersign_ledger::{Event, Stage, Verdict};
use countersign_sdk::clock;
use countersign_token::TxnToken;

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
[[route]]
path = "/public"
to = "ads"
user = "none"
"#;

const EDGE_RULES: &str = r#"
@id("signed-in")
permit (principal is User, action, resource in Service::"gateway");
@id("open")
permit (principal is Stranger, action == Action::"GET", resource)
when { resource == Route::"gateway /open" || resource == Route::"gateway /public" };
"#;

const ADS_RULES: &str = r#"
@id("from-the-edge")
permit (principal == Workload::"spiffe://fleamarket.test/countersign/gateway/edge", action == Action::"GET", resource);
@id("buyers-buy")
permit (principal is Workload, action == Action::"POST", resource == Route::"ads /ads/{id}/buy")
when { context has user && context.user.roles.contains("buyer") };
"#;

const PATHS: &[&str] = &["/ads", "/ads/{id}/buy", "/open", "/public"];

#[tokio::test]
async fn a_request_without_a_token_is_401_with_a_challenge_and_never_reaches_the_service() {
    let (rig, seen) = (Rig::new(), Seen::default());
    rig.policy("gateway", EDGE_RULES);
    rig.service("ads", ADS_RULES, echo::router(PATHS, &seen)).await;
    let edge = rig.gateway(ROUTES).await;
    let answer = get(edge.plain, "/ads", &[]).await;
    assert_eq!(answer.problem(401), "authentication_required");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    assert_eq!(seen.count(), 0);
    let id = answer.json()["decision"].as_str().unwrap().to_owned();
    let decision = rig.decision(|decision| decision.id.to_string() == id).await;
    assert_eq!((decision.verdict, decision.stage), (Verdict::Deny, Stage::Token));
    let results: Vec<_> = decision.checks.iter().map(|c| (c.name.as_str(), c.result.as_str())).collect();
    assert_eq!(
        results,
        [
            ("request", "pass"),
            ("quota", "pass"),
            ("route", "pass"),
            ("token", "fail"),
            ("policy", "not_reached"),
            ("upstream", "not_reached")
        ]
    );
}

#[tokio::test]
async fn the_service_gets_an_internal_token_and_never_the_access_token() {
    let (rig, seen) = (Rig::new(), Seen::default());
    rig.policy("gateway", EDGE_RULES);
    rig.open_service("ads", echo::router(PATHS, &seen)).await;
    let edge = rig.gateway(ROUTES).await;
    let token = rig.access_token("alice", &["buyer"]);
    for _ in 0..3 {
        assert_eq!(get(edge.plain, "/ads", &[("Authorization", &bearer(&token))]).await.status, 200);
    }
    let live = edge.workload.live();
    let internal: Vec<String> = seen.all().iter().flat_map(|saw| echo::header(saw, "txn-token")).collect();
    assert_eq!(internal.len(), 3);
    assert!(internal.iter().all(|one| *one == internal[0]), "one internal token per access token");
    let user =
        TxnToken::verify(&internal[0], &rig.td, clock::now(), |kid| live.tokens().internal.get(kid).cloned());
    let user = user.unwrap().into_inner();
    assert_eq!((user.id.as_str(), user.name.as_str()), ("u_alice", "alice"));
    assert_eq!(user.requested_by.as_ref(), Some(edge.workload.id()));
    assert!(user.not_after <= clock::now().saturating_add(Duration::from_secs(300)));
    for saw in seen.all() {
        assert!(!saw.to_string().contains(&token), "the access token went on");
        assert!(echo::header(&saw, "authorization").is_empty());
    }
    eventually(|| {
        let minted =
            rig.world.events().iter().filter(|event| matches!(event, Event::TokenMinted { .. })).count();
        minted == 1
    })
    .await;
    // The ledger knows the user by a pseudonym alone.
    let events = serde_json::to_string(&rig.world.events()).unwrap();
    assert!(events.contains("\"user\":\"p_") && !events.contains("alice"), "{events}");
}

/// What calls have in common is remembered once for all users; each call is recorded with its own.
#[tokio::test]
async fn each_call_is_recorded_with_its_own_user() {
    let rig = Rig::new();
    rig.policy("gateway", EDGE_RULES);
    let backend = Backend::named("here").await;
    let edge = rig
        .gateway(&format!(
            "[[route]]\npath = \"/ads\"\nto = \"backend\"\nuser = \"required\"\n\
             [[upstream]]\nname = \"backend\"\nendpoints = [\"{}\"]\n",
            backend.address
        ))
        .await;
    let life = Duration::from_secs(60);
    let tokens = ["alice", "bob"].map(|user| bearer(&rig.access_token_for(user, &["buyer"], life)));
    for user in [0, 1, 0, 0, 1, 0] {
        assert_eq!(get(edge.plain, "/ads", &[("Authorization", &tokens[user])]).await.status, 200);
    }
    let users = || -> Vec<String> {
        rig.world.decisions().into_iter().filter_map(|decision| decision.user).collect()
    };
    eventually(|| users().len() == 6).await;
    let mut users = users();
    users.sort();
    let mut calls: Vec<usize> = users.chunk_by(|one, next| one == next).map(<[_]>::len).collect();
    calls.sort_unstable();
    assert_eq!(calls, [2, 4], "{users:?}");
    assert!(users.iter().all(|user| user.starts_with("p_")), "{users:?}");
}

#[tokio::test]
async fn an_internal_token_does_not_outlive_its_access_token() {
    let (rig, seen) = (Rig::new(), Seen::default());
    rig.policy("gateway", EDGE_RULES);
    rig.open_service("ads", echo::router(PATHS, &seen)).await;
    let edge = rig.gateway(ROUTES).await;
    let token = rig.access_token_for("alice", &["buyer"], Duration::from_secs(2));
    assert_eq!(get(edge.plain, "/ads", &[("Authorization", &bearer(&token))]).await.status, 200);
    let internal = echo::header(&seen.last(), "txn-token").remove(0);
    let live = edge.workload.live();
    let verify =
        |now| TxnToken::verify(&internal, &rig.td, now, |kid| live.tokens().internal.get(kid).cloned());
    assert!(verify(clock::now()).is_ok());
    assert!(verify(clock::now().saturating_add(Duration::from_secs(2))).is_err());
    tokio::time::sleep(Duration::from_millis(2100)).await;
    // Cached or not: past its end the access token is refused.
    let answer = get(edge.plain, "/ads", &[("Authorization", &bearer(&token))]).await;
    assert_eq!(answer.problem(401), "credential_expired");
}

#[tokio::test]
async fn an_invalid_token_is_final_on_optional_routes_too() {
    let (rig, seen) = (Rig::new(), Seen::default());
    rig.policy("gateway", EDGE_RULES);
    rig.service("ads", ADS_RULES, echo::router(PATHS, &seen)).await;
    let edge = rig.gateway(ROUTES).await;
    assert_eq!(get(edge.plain, "/open", &[]).await.status, 200);
    let good = rig.access_token("alice", &["buyer"]);
    // One character of the signature, well before its padding bits.
    let place = good.len() - 10;
    let other = if &good[place..=place] == "A" { "B" } else { "A" };
    let broken = format!("{}{other}{}", &good[..place], &good[place + 1..]);
    let expired = rig.expired_access_token("alice", Duration::from_secs(5));
    for (value, code) in [
        (bearer(&broken), "authentication_failed"),
        (bearer(&expired), "credential_expired"),
        (bearer("eyJhbGciOiJub25lIn0.e30."), "authentication_failed"),
        ("Basic YWxpY2U6cGFzc3dvcmQ=".to_owned(), "authentication_failed"),
        ("Bearer".to_owned(), "authentication_failed"),
        (format!("Bearer {good} {good}"), "authentication_failed"),
        (format!("Bearer {good},{good}"), "authentication_failed"),
    ] {
        let answer = get(edge.plain, "/open", &[("Authorization", &value)]).await;
        assert_eq!(answer.problem(401), code, "{value}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""), "{value}");
    }
    assert_eq!(seen.count(), 1);
}

#[tokio::test]
async fn a_route_without_users_neither_reads_nor_passes_on_a_token() {
    let (rig, seen) = (Rig::new(), Seen::default());
    rig.policy("gateway", EDGE_RULES);
    rig.open_service("ads", echo::router(PATHS, &seen)).await;
    let edge = rig.gateway(ROUTES).await;
    let answer = get(edge.plain, "/public", &[("Authorization", "Bearer nonsense")]).await;
    assert_eq!(answer.status, 200);
    assert!(echo::header(&seen.last(), "authorization").is_empty());
    assert!(echo::header(&seen.last(), "txn-token").is_empty());
}

#[tokio::test]
async fn a_token_of_one_kind_never_passes_as_the_other() {
    let (rig, seen) = (Rig::new(), Seen::default());
    rig.policy("gateway", EDGE_RULES);
    rig.open_service("ads", echo::router(PATHS, &seen)).await;
    let edge = rig.gateway(ROUTES).await;
    let token = rig.access_token("alice", &["buyer"]);
    get(edge.plain, "/ads", &[("Authorization", &bearer(&token))]).await;
    let internal = echo::header(&seen.last(), "txn-token").remove(0);
    // The internal token is no access token.
    let answer = get(edge.plain, "/ads", &[("Authorization", &bearer(&internal))]).await;
    assert_eq!(answer.problem(401), "authentication_failed");
    // And nobody brings an internal token along from outside, whichever it is.
    for smuggled in [&internal, &token] {
        let answer = get(edge.plain, "/ads", &[("Txn-Token", smuggled)]).await;
        assert_eq!(answer.problem(401), "authentication_required");
    }
    assert_eq!(get(edge.plain, "/open", &[("Txn-Token", &internal)]).await.status, 200);
    assert!(echo::header(&seen.last(), "txn-token").is_empty());
}

#[tokio::test]
async fn the_coarse_rule_at_the_gateway_and_the_fine_rule_at_the_service_each_hold_alone() {
    let (rig, seen) = (Rig::new(), Seen::default());
    let strict = format!(
        "{EDGE_RULES}\n@id(\"no-guests-buy\")\nforbid (principal is User, action == Action::\"POST\", resource)\n\
         when {{ context has user && context.user.roles.contains(\"guest\") }};"
    );
    rig.policy("gateway", &strict);
    rig.service("ads", ADS_RULES, echo::router(PATHS, &seen)).await;
    let edge = rig.gateway(ROUTES).await;
    let eve = bearer(&rig.access_token("eve", &["guest"]));
    let alice = bearer(&rig.access_token("alice", &["buyer"]));
    let buy =
        async |who: &str| request(edge.plain, "POST", "/ads/1/buy", &[("Authorization", who)], "{}").await;
    assert_eq!(buy(&alice).await.status, 200);

    // Both doors: the gateway says it first.
    let answer = buy(&eve).await;
    assert_eq!(answer.problem(403), "access_denied");
    let decision = rig.decision(|d| d.verdict == Verdict::Deny && d.target == "gateway").await;
    assert_eq!(decision.stage, Stage::Policy);
    assert_eq!(decision.policy.as_deref(), Some("no-guests-buy"));

    // Without the coarse rule the service's own still holds.
    rig.policy("gateway", EDGE_RULES);
    eventually(|| edge.workload.live().snapshot().sequence == rig.world.sequence()).await;
    assert_eq!(buy(&eve).await.problem(403), "access_denied");
    let decision = rig.decision(|d| d.verdict == Verdict::Deny && d.target == "ads").await;
    assert_eq!(decision.source.as_deref(), Some("spiffe://fleamarket.test/countersign/gateway/edge"));

    // Without the fine rule the coarse one still holds.
    rig.policy("gateway", &strict);
    rig.policy("ads", "@id(\"anybody\")\npermit (principal is Workload, action, resource);");
    eventually(|| edge.workload.live().snapshot().sequence == rig.world.sequence()).await;
    assert_eq!(buy(&eve).await.problem(403), "access_denied");
    assert_eq!(seen.count(), 1);
}

#[tokio::test]
async fn without_rules_the_gateway_lets_nobody_through() {
    let (rig, seen) = (Rig::new(), Seen::default());
    rig.open_service("ads", echo::router(PATHS, &seen)).await;
    let edge = rig.gateway(ROUTES).await;
    let alice = bearer(&rig.access_token("alice", &["buyer"]));
    assert_eq!(get(edge.plain, "/ads", &[("Authorization", &alice)]).await.problem(403), "access_denied");
    assert_eq!(get(edge.plain, "/public", &[]).await.problem(403), "access_denied");
    assert_eq!(seen.count(), 0);
}

#[tokio::test]
async fn a_stranger_whom_the_policy_refuses_is_told_to_log_in_where_that_can_help() {
    let (rig, seen) = (Rig::new(), Seen::default());
    rig.policy("gateway", "@id(\"signed-in\")\npermit (principal is User, action, resource);");
    rig.open_service("ads", echo::router(PATHS, &seen)).await;
    let edge = rig.gateway(ROUTES).await;
    let answer = get(edge.plain, "/open", &[]).await;
    assert_eq!(answer.problem(401), "authentication_required");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    // No token is ever looked at here, so none could help.
    let answer = get(edge.plain, "/public", &[]).await;
    assert_eq!(answer.problem(403), "access_denied");
    assert_eq!(answer.header("www-authenticate"), None);
    assert_eq!(seen.count(), 0);
}
