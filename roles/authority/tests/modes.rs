//! How services prove themselves to each other, changed while they run; and what is taken back before it expires.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use common::{Place, Running, home};
use countersign_identity::{Mode, SpiffeId};
use countersign_keys::SystemRandom;
use countersign_token::{
    BearerToken,
    macaroon::{self, Macaroon, RootKey},
};
use countersign_wire::{
    agent::{AppliedRequest, SnapshotsRequest},
    node::NodeAppliedRequest,
    snapshot::{ServiceAddress, Snapshot},
};
use http::Method;
use serde_json::{Value, json};

const DEMONSTRATION: &str = "demonstration = true\nstrict = false\n";

async fn ads(authority: &Running) -> Value {
    authority.get("/api/v1/services/ads").await
}

async fn refused(authority: &Running, path: &str, body: Value) -> (u16, String) {
    let answer = authority.admin(Method::POST, path, Some(body)).await;
    (answer.status.as_u16(), answer.json()["detail"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_floor_is_raised_by_the_one_route_and_lowered_by_another_for_a_while() {
    let place = Place::new();
    let authority = place.start().await;
    let both = json!({"accepts": ["mtls+jwt"], "sends": "mtls+jwt", "user_context": "nested"});
    authority.post("/api/v1/services/ads/modes", both).await;
    let held = ads(&authority).await;
    assert_eq!((&held["accepts"], &held["sends"]), (&json!(["mtls+jwt"]), &json!("mtls+jwt")));
    assert_eq!((&held["user_context"], &held["lowered_until"]), (&json!("nested"), &Value::Null));

    for weaker in [json!(["jwt"]), json!(["mtls+jwt", "bearer"])] {
        let (status, why) =
            refused(&authority, "/api/v1/services/ads/modes", json!({"accepts": weaker})).await;
        assert_eq!(status, 422, "{why}");
        assert!(why.contains("lowers the floor of ads"), "{why}");
    }
    let lower = json!({"accepts": ["jwt", "mtls+jwt"], "for_s": 60});
    authority.post("/api/v1/services/ads/floor", lower).await;
    let held = ads(&authority).await;
    assert_eq!(held["accepts"], json!(["jwt", "mtls+jwt"]));
    assert!(held["lowered_until"].as_i64().is_some());
    let last = authority.events("modes_changed").await.pop().unwrap();
    assert!(
        last["lowered_until"].as_i64().is_some() && last["changed_by"].as_str().unwrap().starts_with("uid:")
    );
    for never in [0, 604_801] {
        let body = json!({"accepts": ["none"], "for_s": never});
        assert_eq!(refused(&authority, "/api/v1/services/ads/floor", body).await.0, 422);
    }
    authority.stop().await;
}

/// A switch that is thrown later must not mean less than one that was thrown at first.
#[tokio::test]
async fn strict_that_is_switched_on_later_raises_the_floors_that_accept_none_already() {
    let mut place = Place::with("strict = false");
    let authority = place.start().await;
    let lower = async |service: &str, body: Value| {
        authority.post(&format!("/api/v1/services/{service}/floor"), body).await;
    };
    lower("ads", json!({"accepts": ["none", "mtls"], "for_s": 600})).await;
    authority.post("/api/v1/services/ads/modes", json!({"sends": "none"})).await;
    authority.post("/api/v1/services/gateway/modes", json!({"sends": "none"})).await;
    let open = |name: &str, accepts: &[&str]| json!({"name": name, "address": "127.0.0.1:7999", "launch_by": [], "accepts": accepts});
    for (name, accepts) in [("open", ["none"].as_slice()), ("half", &["none", "bearer"]), ("back", &["none"])]
    {
        authority.post("/api/v1/services", open(name, accepts)).await;
    }
    // Raised by hand already.
    authority.post("/api/v1/services/back/modes", json!({"accepts": ["bearer"]})).await;
    authority.stop().await;

    let modes = async |authority: &Running, name: &str| {
        let held = authority.get(&format!("/api/v1/services/{name}")).await;
        (held["accepts"].clone(), held["sends"].clone(), held["lowered_until"].is_null())
    };
    // Without it nothing changes.
    let authority = place.start().await;
    assert_eq!(modes(&authority, "open").await, (json!(["none"]), json!("mtls"), true));
    let changes = authority.events("modes_changed").await.len();
    authority.stop().await;

    place.settings.strict = true;
    let authority = place.start().await;
    for (name, accepts) in [("ads", "mtls"), ("open", "mtls"), ("half", "bearer"), ("back", "bearer")] {
        assert_eq!(modes(&authority, name).await, (json!([accepts]), json!("mtls"), true), "{name}");
    }
    assert_eq!(modes(&authority, "gateway").await.1, "mtls");
    let told = authority.events("modes_changed").await.split_off(changes);
    let mut names: Vec<&str> = told.iter().map(|event| event["service"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["ads", "gateway", "half", "open"], "who had none, and nobody else");
    assert!(told.iter().all(|event| event["changed_by"] == "authority.strict"), "{told:?}");
    // The first snapshot that anybody gets has none of it.
    let mut agent = authority.agent("local").await;
    let mut stream = agent.snapshots(SnapshotsRequest::default()).await.unwrap().into_inner();
    let snapshot = Snapshot::parse(&stream.message().await.unwrap().unwrap().payload).unwrap();
    for service in &snapshot.services {
        assert!(!service.accepts.contains(&Mode::None) && service.sends != Mode::None, "{service:?}");
    }
    authority.stop().await;

    let authority = place.start().await;
    let again = authority.events("modes_changed").await.len();
    assert_eq!(again, changes + told.len(), "once is enough");
    authority.stop().await;
}

/// Two rights make no third one: lowering for a moment and then raising half of the way is no lowering for ever.
#[tokio::test]
async fn a_lowered_floor_that_is_raised_half_way_still_has_its_end() {
    let place = Place::new();
    let authority = place.start().await;
    authority.post("/api/v1/services/ads/floor", json!({"accepts": ["bearer"], "for_s": 60})).await;
    let until = ads(&authority).await["lowered_until"].clone();
    authority.post("/api/v1/services/ads/modes", json!({"accepts": ["macaroon"], "sends": "jwt"})).await;
    let held = ads(&authority).await;
    assert_eq!((&held["accepts"], &held["lowered_until"]), (&json!(["macaroon"]), &until));
    authority.post("/api/v1/services/ads/modes", json!({"accepts": ["mtls"]})).await;
    assert_eq!(ads(&authority).await["lowered_until"], Value::Null, "back where it was");
    authority.stop().await;
}

#[tokio::test]
async fn rejects_modes_that_no_service_can_have() {
    let place = Place::new();
    let authority = place.start().await;
    for (body, why) in [
        (json!({"accepts": []}), "name at least one"),
        (json!({"accepts": ["mtls", "mtls"]}), "named twice"),
        (json!({"sends": "none"}), "authority.strict"),
        (json!({"user_context": "nested"}), "send jwt or mtls+jwt"),
    ] {
        let (status, detail) = refused(&authority, "/api/v1/services/ads/modes", body.clone()).await;
        assert_eq!(status, 422, "{body}");
        assert!(detail.contains(why), "{body}: {detail}");
    }
    let none = json!({"accepts": ["none"], "for_s": 60});
    assert!(refused(&authority, "/api/v1/services/ads/floor", none).await.1.contains("authority.strict"));
    let open = json!({"name": "open", "address": "127.0.0.1:7999", "launch_by": [], "accepts": ["none"]});
    assert!(refused(&authority, "/api/v1/services", open).await.1.contains("authority.strict"));
    assert_eq!(refused(&authority, "/api/v1/services/nobody/modes", json!({"sends": "jwt"})).await.0, 404);
    let (status, why) = refused(&authority, "/api/v1/demo/mode", json!({"mode": "jwt"})).await;
    assert_eq!(status, 403, "{why}");
    authority.stop().await;
}

#[tokio::test]
async fn registering_a_service_again_lowers_nothing() {
    let place = Place::new();
    let authority = place.start().await;
    let weaker = json!({"name": "ads", "address": "127.0.0.1:7001", "launch_by": [], "accepts": ["bearer"]});
    authority.post("/api/v1/services", weaker).await;
    assert_eq!(ads(&authority).await["accepts"], json!(["mtls"]));
    authority.stop().await;
}

/// Widen, send, narrow: and never the next step before the one who runs has confirmed the last.
#[tokio::test]
async fn a_demonstration_switches_in_three_steps_that_running_workloads_confirm() {
    let place = Place::with(DEMONSTRATION);
    let authority = place.start().await;
    let mut agent = authority.agent("local").await;
    let mut stream = agent.snapshots(SnapshotsRequest::default()).await.unwrap().into_inner();
    let watcher = tokio::spawn(async move {
        let mut seen: Vec<ServiceAddress> = Vec::new();
        loop {
            let signed = stream.message().await.unwrap().unwrap();
            let snapshot = Snapshot::parse(&signed.payload).unwrap();
            let ads = snapshot.service("ads").unwrap().clone();
            // Slower than the authority would go on by itself.
            tokio::time::sleep(Duration::from_millis(150)).await;
            let applied =
                AppliedRequest { epoch: snapshot.epoch, sequence: snapshot.sequence, secrets_generation: 0 };
            let spiffe_id = SpiffeId::service(&home(), "ads").unwrap().to_string();
            agent.applied(NodeAppliedRequest { spiffe_id, applied: Some(applied) }).await.unwrap();
            if seen.last().is_none_or(|last| last.accepts != ads.accepts || last.sends != ads.sends) {
                seen.push(ads);
            }
            if seen.last().unwrap().accepts == [Mode::Jwt] {
                return seen;
            }
        }
    });
    // The workload is known before the switch begins.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let body = json!({"mode": "jwt", "user_context": "nested"});
    let changed = authority.post("/api/v1/demo/mode", body).await;
    assert_eq!(changed["unconfirmed"], json!([]));
    let steps: Vec<(Vec<Mode>, Mode)> =
        watcher.await.unwrap().into_iter().map(|ads| (ads.accepts, ads.sends)).collect();
    assert_eq!(
        steps,
        [
            (vec![Mode::Mtls], Mode::Mtls),
            (vec![Mode::Mtls, Mode::Jwt], Mode::Mtls),
            (vec![Mode::Mtls, Mode::Jwt], Mode::Jwt),
            (vec![Mode::Jwt], Mode::Jwt),
        ]
    );
    authority.stop().await;
}

#[tokio::test]
async fn rejects_an_acknowledgement_for_an_identity_that_the_node_may_not_hold() {
    let place = Place::new();
    let authority = place.start().await;
    let mut agent = authority.agent("local").await;
    let spiffe_id = SpiffeId::service(&home(), "users").unwrap().to_string();
    let refused = agent.applied(NodeAppliedRequest { spiffe_id, applied: None }).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    let mut stranger = authority.node_client(None).await;
    let refused = stranger.applied(NodeAppliedRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    authority.stop().await;
}

#[tokio::test]
async fn a_revocation_is_in_the_next_snapshot_and_in_the_ledger() {
    let place = Place::new();
    let authority = place.start().await;
    let mut agent = authority.agent("local").await;
    let mut stream = agent.snapshots(SnapshotsRequest::default()).await.unwrap().into_inner();
    let user = authority.add_user("alice", "correct horse battery staple").await;
    for (kind, id) in [("token", "jti-1"), ("user", "Alice"), ("key", "kid-1")] {
        authority.post("/api/v1/revocations", json!({"kind": kind, "id": id})).await;
    }
    let snapshot = loop {
        let signed = stream.message().await.unwrap().unwrap();
        let snapshot = Snapshot::parse(&signed.payload).unwrap();
        if !snapshot.revoked.keys.is_empty() {
            break snapshot;
        }
    };
    assert_eq!(snapshot.revoked.tokens[0].id, "jti-1");
    assert_eq!(snapshot.revoked.keys[0].id, "kid-1");
    assert_eq!(snapshot.revoked.users[0].id, user["id"]);
    assert_eq!(authority.get("/api/v1/revocations").await.as_array().unwrap().len(), 3);
    let told = authority.events("token_revoked").await;
    assert_eq!(told.len(), 3);
    // A user appears in the ledger under a pseudonym.
    let of_user = told.iter().find(|event| event["what"] == "user").unwrap();
    assert_ne!(of_user["id"], user["id"]);

    assert_eq!(
        refused(&authority, "/api/v1/revocations", json!({"kind": "user", "id": "nobody"})).await.0,
        404
    );
    for id in [String::new(), "a b".to_owned(), "x".repeat(257)] {
        assert_eq!(
            refused(&authority, "/api/v1/revocations", json!({"kind": "token", "id": id})).await.0,
            422
        );
    }
    authority.stop().await;
}

#[tokio::test]
async fn rejects_to_take_back_a_token_by_itself_which_would_go_on_to_count_and_be_told_to_everybody() {
    let place = Place::new();
    let authority = place.start().await;
    let bearer = BearerToken::mint(&SystemRandom::new()).unwrap();
    let (id, token) = (bearer.id().to_string(), bearer.expose());
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"k","typ":"JWT"}"#);
    let macaroon = Macaroon::mint("here", b"it", &RootKey::derive(b"a key")).unwrap();
    let binary = macaroon::binary::write(&macaroon);
    for (kind, itself, hint) in [
        ("token", token.to_owned(), id.as_str()),
        ("key", token.to_owned(), id.as_str()),
        ("token", format!("{token}x"), "16 characters"),
        ("token", format!("{header}.e30.{}", "A".repeat(300)), "inspect"),
        ("token", URL_SAFE_NO_PAD.encode(binary), "inspect"),
    ] {
        let (status, why) =
            refused(&authority, "/api/v1/revocations", json!({"kind": kind, "id": itself})).await;
        assert_eq!(status, 422, "{why}");
        assert!(why.contains(hint) && !why.contains(&itself), "{why}");
    }
    assert!(authority.events("token_revoked").await.is_empty());
    authority.stop().await;
}
