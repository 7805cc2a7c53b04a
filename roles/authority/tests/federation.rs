//! Two trust domains that hold each other's bundles, through real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use common::{
    Place,
    curl::Curl,
    market::{ACCESS, Market, TOKEN, TXN, claims, form, issued},
};
use http::Method;
use serde_json::{Value, json};

async fn hand_in(authority: &common::Running, trust_domain: &str, bundle: &Value) -> common::Answer {
    let body = json!({ "trust_domain": trust_domain, "bundle": bundle });
    authority.admin(Method::POST, "/api/v1/federation", Some(body)).await
}

#[tokio::test]
async fn a_bundle_is_handed_in_replaced_by_a_newer_one_and_taken_back() {
    let (here, there) = (Place::new(), Place::of("partner.test"));
    let (a, b) = (here.start().await, there.start().await);
    let bundle = b.get("/api/v1/bundle/spiffe").await;
    let taken = hand_in(&a, "partner.test", &bundle).await.json();
    assert_eq!(taken["sequence"], bundle["spiffe_sequence"]);
    assert_eq!(taken["issuer"], format!("https://localhost:{}", b.api.port()));
    assert!(taken["crls_until"].as_i64().unwrap() > 0);
    assert_eq!(a.get("/api/v1/federation").await[0], taken);

    let mut older = bundle.clone();
    older["spiffe_sequence"] = json!(0);
    assert_eq!(hand_in(&a, "partner.test", &older).await.status, 409);
    assert_eq!(hand_in(&a, "fleamarket.test", &bundle).await.status, 422, "our own is ours alone");
    assert_eq!(hand_in(&a, "partner.test", &json!({ "spiffe_sequence": 9 })).await.status, 400);

    let gone = a.admin(Method::DELETE, "/api/v1/federation/partner.test", None).await;
    assert_eq!(gone.status, 204);
    assert_eq!(a.get("/api/v1/federation").await, json!([]));
    let again = a.admin(Method::DELETE, "/api/v1/federation/partner.test", None).await;
    assert_eq!(again.status, 404);
    let events = a.events("federation_changed").await;
    assert_eq!(events.len(), 2);
    assert_eq!((&events[0]["trust_domain"], events[1].get("sequence")), (&json!("partner.test"), None));
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn rejects_bundles_that_no_snapshot_could_carry() {
    let here = Place::new();
    let a = here.start().await;
    let long =
        |bytes: usize| json!({ "keys": [{ "kty": "EC", "use": "unknown", "kid": "k".repeat(bytes) }] });
    for peer in ["b.test", "c.test"] {
        assert_eq!(hand_in(&a, peer, &long(500_000)).await.status, 200, "{peer}");
    }
    assert_eq!(hand_in(&a, "d.test", &long(60_000)).await.status, 422, "too much together");
    assert_eq!(hand_in(&a, "c.test", &long(400_000)).await.status, 200, "in place of the one before");
    assert_eq!(hand_in(&a, "d.test", &long(530_000)).await.status, 413, "too much alone");
    a.stop().await;
}

#[tokio::test]
async fn a_workload_of_another_trust_domain_is_recognised_while_its_bundle_is_held_and_no_longer() {
    let (here, there) = (Place::new(), Place::of("partner.test"));
    let (a, b) = (here.start().await, there.start().await);
    let (key, issued) = b.issue(json!({ "service": "ads" })).await;
    let curl = Curl::showing(&a, &key, &issued).await;
    let status = || async { curl.call("/api/v1/bundle", &[]).await.map(|reply| reply.status.as_u16()) };
    assert_eq!(status().await, None, "nobody knows it");
    let bundle = b.get("/api/v1/bundle/spiffe").await;
    hand_in(&a, "partner.test", &bundle).await;
    assert_eq!(status().await, Some(200));
    a.admin(Method::DELETE, "/api/v1/federation/partner.test", None).await;
    assert_eq!(status().await, None, "nobody knows it any more");
    // The same roots under another name are not those of the name in the certificate.
    hand_in(&a, "other.test", &bundle).await;
    assert_eq!(status().await, None, "a bundle speaks for its own trust domain alone");
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_certificate_that_the_other_trust_domain_revoked_is_refused_with_its_next_bundle() {
    let (here, there) = (Place::new(), Place::of("partner.test"));
    let (a, b) = (here.start().await, there.start().await);
    let (key, issued) = b.issue(json!({ "service": "ads" })).await;
    let curl = Curl::showing(&a, &key, &issued).await;
    hand_in(&a, "partner.test", &b.get("/api/v1/bundle/spiffe").await).await;
    assert!(curl.call("/api/v1/bundle", &[]).await.is_some());
    b.post("/api/v1/certificates/revoke", json!({ "service": "ads", "reason": "keyCompromise" })).await;
    hand_in(&a, "partner.test", &b.get("/api/v1/bundle/spiffe").await).await;
    assert!(curl.call("/api/v1/bundle", &[]).await.is_none(), "its own trust domain took it back");
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_users_token_goes_from_one_trust_domain_into_the_other_through_both_token_services() {
    let partner = Place::of("partner.test");
    let rules = r#"
@id("shop-for-ads")
permit (
    principal == Workload::"spiffe://fleamarket.test/svc/users",
    action,
    resource == Route::"sts /exchange/ads"
)
when { context has user && context.user.roles.contains("fleamarket.test/buyer") };
"#;
    std::fs::write(partner.deployment.policy_dir.as_ref().unwrap().join("sts.cedar"), rules).unwrap();
    let (here, there) = (Market::open().await, partner.start().await);
    hand_in(&here.authority, "partner.test", &there.get("/api/v1/bundle/spiffe").await).await;
    hand_in(&there, "fleamarket.test", &here.authority.get("/api/v1/bundle/spiffe").await).await;
    let (key, svid) = here.svid("users").await;
    let (at_home, abroad) =
        (Curl::showing(&here.authority, &key, &svid).await, Curl::showing(&there, &key, &svid).await);
    let gateway = here.client("gateway").await;
    let hop = issued(&gateway.post(TOKEN, &form(&here.login, ACCESS, &[("audience", "users")])).await);

    let refused = (400, "invalid_request".to_owned());
    let direct = abroad.post(TOKEN, &form(&hop, ACCESS, &[("audience", "ads")])).await;
    assert_eq!(direct.error(), refused, "a token for a hop at home is not for the partner's token service");
    let service = ("audience", "spiffe://partner.test/svc/ads");
    let behind = at_home.post(TOKEN, &form(&hop, ACCESS, &[service])).await;
    assert_eq!(
        behind.error().1,
        "invalid_target",
        "a service trusts the token service of its own trust domain"
    );
    let across = ("audience", "spiffe://partner.test/countersign/authority");
    let across = issued(&at_home.post(TOKEN, &form(&hop, ACCESS, &[across, ("scope", "")])).await);
    let there_now = issued(&abroad.post(TOKEN, &form(&across, ACCESS, &[("audience", "ads")])).await);
    let (said, before) = (claims(&there_now), claims(&across));
    assert_eq!(said["aud"], "spiffe://partner.test/svc/ads");
    assert_eq!(said["iss"], format!("https://localhost:{}", there.api.port()));
    let user = before["sub"].as_str().unwrap();
    assert_eq!(said["sub"], format!("fleamarket.test/{user}"), "u_1 of a partner is nobody's u_1");
    assert_eq!(said["roles"], json!(["fleamarket.test/buyer"]), "nor are its roles ours");
    assert_eq!((&said["act"], &said["txn"]), (&before["act"], &before["txn"]));
    assert!(said["exp"].as_i64() <= before["exp"].as_i64());

    // Somebody else of the same trust domain who captured it gets nothing for it.
    let (key, svid) = here.svid("ads").await;
    let thief = Curl::showing(&there, &key, &svid).await;
    assert_eq!(thief.post(TOKEN, &form(&across, ACCESS, &[("audience", "ads")])).await.error(), refused);
    // A transaction token or a JWT-SVID of the partner never names a workload of ours.
    let txn = [("audience", "partner.test"), ("scope", "a"), ("requested_token_type", TXN)];
    let foreign = abroad.post(TOKEN, &form(&across, ACCESS, &txn)).await;
    assert_eq!(foreign.error(), (400, "unauthorized_client".to_owned()));
    // And with the bundle goes the trust.
    there.admin(Method::DELETE, "/api/v1/federation/fleamarket.test", None).await;
    assert!(abroad.call("/api/v1/bundle", &[]).await.is_none());
    here.authority.stop().await;
    there.stop().await;
}
