//! Which service may call which: a valid certificate is not enough.

use http::StatusCode;
use serde_json::json;

use crate::square::{Square, answer};

const PREVIEWS: &str = "/users/previews?of=bob,katharina";

#[tokio::test]
async fn only_ads_and_chat_may_ask_for_previews_and_only_for_somebody() {
    let square = Square::with(&["users"]).await;
    for (service, status) in
        [("ads", 200), ("chat", 200), ("reports", 403), ("media", 403), ("subscriptions", 403)]
    {
        let workload = square.workload(service).await;
        let token = countersign_sdk::outbound::InternalToken::minted(square.token("alice"));
        let client = workload.client("users");
        let with_user = answer(client.clone().with_token(token).get(PREVIEWS)).await;
        assert_eq!(with_user.status, status, "{service}");
        let without = answer(client.get(PREVIEWS)).await;
        assert_eq!(without.status, StatusCode::FORBIDDEN, "{service} for nobody");
    }
    square.get("alice", PREVIEWS).await.problem(403);
}

#[tokio::test]
async fn only_ads_may_tell_subscribers() {
    let square = Square::with(&["subscriptions"]).await;
    let news = json!({
        "id": 77, "title": "Free bicycle", "kind": "sell", "price_cents": 0,
        "place": {"latitude": 48.37, "longitude": 14.51},
    });
    square.post("bob", "/subscriptions/matches", news.clone()).await.problem(403);
    let chat = square.workload("chat").await;
    let ads = square.workload("ads").await;
    let token = || countersign_sdk::outbound::InternalToken::minted(square.token("bob"));
    let post = |workload: &countersign_sdk::Workload| {
        workload.client("subscriptions").with_token(token()).post("/subscriptions/matches").json(&news)
    };
    answer(post(&chat)).await.problem(403);
    assert_eq!(answer(post(&ads)).await.ok()["notified"], 1);
    assert_eq!(answer(post(&ads)).await.ok()["notified"], 0, "nobody is told twice");
}

#[tokio::test]
async fn a_service_that_the_gateway_calls_is_not_called_by_another_one() {
    let square = Square::with(&["ads", "chat", "media", "reports"]).await;
    let users = square.workload("users").await;
    for (service, path) in
        [("ads", "/ads"), ("chat", "/chats"), ("media", "/media/1"), ("reports", "/reports")]
    {
        let token = countersign_sdk::outbound::InternalToken::minted(square.token("mod"));
        let refused = answer(users.client(service).with_token(token).get(path)).await;
        refused.problem(403);
    }
}

#[tokio::test]
async fn a_name_in_a_header_is_never_believed() {
    let square = Square::with(&["chat"]).await;
    let client = square.on_behalf_of("carol", "chat");
    let request = http::Request::get("/chats/1")
        .header("x-forwarded-user", "alice")
        .header("x-user-id", "u_alice")
        .body(countersign_sdk::outbound::empty())
        .unwrap();
    assert_eq!(client.send(request).await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_name_belongs_to_the_account_that_came_first() {
    let square = Square::with(&["chat"]).await;
    square.get("alice", "/chats").await.ok();
    // Another account, which was given the name of one that is gone.
    let now = countersign_sdk::clock::now();
    let token = countersign_token::TxnToken {
        txn: "t".into(),
        user_id: "u_alice2".into(),
        name: "alice".into(),
        roles: vec!["buyer".into()],
        scope: "fleamarket".into(),
        requested_by: square.deployment.id("gateway"),
        actors: Vec::new(),
        possession: countersign_identity::Possession::None,
        expires: countersign_token::txn_token::expiry(now, None),
    };
    let token = token.mint(&square.deployment.gateway_key, now).unwrap();
    let client =
        square.gateway.client("chat").with_token(countersign_sdk::outbound::InternalToken::minted(token));
    let refused = answer(client.get("/chats/1")).await;
    assert!(refused.problem(409).contains("belongs to another account"));
}
