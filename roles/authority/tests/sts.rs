//! The token service, spoken to by `curl` through real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use common::{Place, Running, curl::Curl, from_base64url};
use serde_json::{Value, json};

const TOKEN: &str = "/oauth2/token";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS: &str = "urn:ietf:params:oauth:token-type:access_token";
const TXN: &str = "urn:ietf:params:oauth:token-type:txn_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const PASSWORD: &str = "a very long password";

/// The gateway gets tokens for everybody, `ads` for `users` and `users` for `ads`; and the partner's shop for `ads`.
const RULES: &str = r#"
@id("gateway")
permit (principal == Workload::"spiffe://fleamarket.test/countersign/gateway/edge", action, resource in Service::"sts")
unless { resource == Route::"sts /txn/unsigned-json" };
@id("ads-for-users")
permit (principal == Workload::"spiffe://fleamarket.test/svc/ads", action, resource == Route::"sts /exchange/users")
when { context has user && context.user.roles.contains("buyer") };
@id("ads-states")
permit (principal == Workload::"spiffe://fleamarket.test/svc/ads", action, resource == Route::"sts /txn/unsigned-json");
@id("users-for-ads")
permit (principal == Workload::"spiffe://fleamarket.test/svc/users", action, resource == Route::"sts /exchange/ads")
when { context has user };
@id("users-for-the-partner")
permit (
    principal == Workload::"spiffe://fleamarket.test/svc/users",
    action,
    resource == Route::"sts /exchange/partner.test/countersign/authority"
);
@id("users-for-itself")
permit (principal == Workload::"spiffe://fleamarket.test/svc/users", action, resource == Route::"sts /jwt-svid/ads");
"#;

/// An authority with rules for exchanges, and a user.
struct Market {
    authority: Running,
    /// What alice got by logging in.
    login: String,
    _place: Place,
}

impl Market {
    async fn open() -> Self {
        Self::open_at(Place::new()).await
    }

    async fn open_at(place: Place) -> Self {
        std::fs::write(place.deployment.policy_dir.as_ref().unwrap().join("sts.cedar"), RULES).unwrap();
        let authority = place.start().await;
        authority.add_user("alice", PASSWORD).await;
        let login = authority.post("/api/v1/login", json!({ "name": "alice", "password": PASSWORD })).await;
        let login = login["access_token"].as_str().unwrap().to_owned();
        Self { authority, login, _place: place }
    }

    /// curl as a service, or as the gateway.
    async fn client(&self, service: &str) -> Curl {
        let (key, issued) = self.authority.issue(json!({ "service": service })).await;
        Curl::showing(&self.authority, &key, &issued).await
    }
}

/// What every exchange says, with more.
fn form<'a>(subject: &'a str, kind: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let first = [("grant_type", GRANT), ("subject_token", subject), ("subject_token_type", kind)];
    first.into_iter().chain(more.iter().copied()).collect()
}

fn claims(token: &str) -> Value {
    serde_json::from_slice(&from_base64url(token.split('.').nth(1).unwrap())).unwrap()
}

fn issued(reply: &common::curl::Reply) -> String {
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn over_three_hops_the_actors_grow_newest_outermost_and_scope_and_life_only_shrink() {
    let market = Market::open().await;
    let (gateway, ads, users) =
        (market.client("gateway").await, market.client("ads").await, market.client("users").await);
    let more = [("audience", "ads"), ("scope", "read write")];
    let reply = gateway.post(TOKEN, &form(&market.login, ACCESS, &more)).await;
    let first = issued(&reply);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let answer = reply.json();
    assert_eq!((&answer["issued_token_type"], &answer["token_type"]), (&json!(ACCESS), &json!("Bearer")));
    assert_eq!(answer["scope"], "read write");
    let one = claims(&first);
    assert_eq!(one["aud"], "spiffe://fleamarket.test/svc/ads");
    let edge = json!({ "sub": "spiffe://fleamarket.test/countersign/gateway/edge" });
    assert_eq!(one["act"], edge);

    let more = [("resource", "spiffe://fleamarket.test/svc/users"), ("scope", "read")];
    let second = issued(&ads.post(TOKEN, &form(&first, ACCESS, &more)).await);
    let two = claims(&second);
    assert_eq!((&two["sub"], &two["txn"], &two["scope"]), (&one["sub"], &one["txn"], &json!("read")));
    assert_eq!(two["act"], json!({ "sub": "spiffe://fleamarket.test/svc/ads", "act": edge }));
    assert!(two["exp"].as_i64() <= one["exp"].as_i64(), "never longer than what it was made of");

    let wider =
        users.post(TOKEN, &form(&second, ACCESS, &[("audience", "ads"), ("scope", "read write")])).await;
    assert_eq!(wider.error(), (400, "invalid_scope".to_owned()));
    let third = issued(&users.post(TOKEN, &form(&second, ACCESS, &[("audience", "ads")])).await);
    let three = claims(&third);
    assert_eq!(three["act"], json!({ "sub": "spiffe://fleamarket.test/svc/users", "act": two["act"] }));
    assert_eq!((&three["scope"], &three["client_id"]), (&json!("read"), &three["act"]["sub"]));
    assert_eq!(three["user_possession"], "none", "the user's token was a bearer's, and stays one");

    let events = market.authority.events_at_least("token_exchanged", 3).await;
    assert_eq!(events[2]["actors"].as_array().unwrap().len(), 3);
    assert_eq!(events[2]["policy"], "users-for-ads");
    assert!(!events[2].to_string().contains("alice"), "the ledger knows pseudonyms");
    market.authority.stop().await;
}
