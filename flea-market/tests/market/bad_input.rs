//! What cannot be read is refused with an exact problem, and nothing panics.

use countersign_sdk::outbound::CallError;
use http::Method;
use serde_json::{Value, json};

use crate::square::{Square, answer};

fn ad() -> Value {
    json!({
        "kind": "sell", "title": "T", "description": "D", "category": "c", "price_cents": 1,
        "town": "L", "place": {"latitude": 48.0, "longitude": 14.0},
    })
}

fn with(member: &str, value: Value) -> Value {
    let mut ad = ad();
    ad[member] = value;
    ad
}

#[tokio::test]
async fn json_bodies_of_the_wrong_shape_are_told_where() {
    let square = Square::with(&["ads"]).await;
    square.post("bob", "/ads", ad()).await.ok();
    for (body, says) in [
        (with("titel", json!("x")), "unknown field `titel`"),
        (with("title", json!(7)), "title: invalid type: integer `7`"),
        (with("price_cents", json!("1")), "price_cents: invalid type: string"),
        (with("price_cents", json!(1.5)), "price_cents: invalid type: floating point"),
        (with("price_cents", json!(u64::MAX)), "price_cents: invalid value"),
        (with("kind", json!("steal")), "kind: unknown variant `steal`"),
        (with("place", json!([48.0, "x"])), "place"),
        (with("place", json!({"latitude": 1, "longitude": 1, "altitude": 1})), "unknown field `altitude`"),
        (json!([]), "body is wrong"),
        (json!(null), "body is wrong"),
    ] {
        let detail = square.post("bob", "/ads", body.clone()).await.problem(400);
        assert!(detail.contains(says), "{body}: {detail}");
    }
}

#[tokio::test]
async fn values_that_make_no_sense_are_refused() {
    let square = Square::with(&["ads"]).await;
    for body in [
        with("price_cents", json!(-1)),
        with("price_cents", json!(100_000_001)),
        with("price_cents", json!(null)),
        with("swap_for", json!("something")),
        with("kind", json!("swap")),
        with("title", json!("")),
        with("title", json!("   ")),
        with("title", json!("x".repeat(81))),
        with("title", json!("a\u{0}b")),
        with("description", json!("x".repeat(2001))),
        with("place", json!({"latitude": 91, "longitude": 0})),
        with("place", json!({"latitude": 1e300, "longitude": 0})),
        with("picture", json!(0)),
    ] {
        square.post("bob", "/ads", body).await.problem(422);
    }
    for body in [with("price_cents", json!(100_000_000)), with("title", json!("x".repeat(80)))] {
        square.post("bob", "/ads", body).await.ok();
    }
    for days in [0, 366] {
        square.post("alice", "/ads/5/rent", json!({"days": days})).await.problem(422);
    }
}

#[tokio::test]
async fn bodies_have_a_size_and_a_kind() {
    let square = Square::with(&["ads"]).await;
    let body = format!("{{{}}}", " ".repeat(16 * 1024 - 2));
    assert_eq!(square.send("alice", "/ads/1/buy", "application/json", body).await.status, 200);
    let body = format!("{{{}}}", " ".repeat(16 * 1024 - 1));
    let detail = square.send("alice", "/ads/4/buy", "application/json", body).await.problem(413);
    assert_eq!(detail, "body has more than 16384 bytes");
    square.send("alice", "/ads/4/buy", "text/plain", "{}").await.problem(415);
    square.send("alice", "/ads/4/buy", "application/json", "{\"a\":1}").await.problem(400);
    square.send("alice", "/ads/4/buy", "application/json", "{} {}").await.problem(400);
    square.send("alice", "/ads/4/buy", "application/json", "").await.problem(400);
    let deep = "[".repeat(16_000);
    square.send("alice", "/ads/4/buy", "application/json", deep).await.problem(400);
}

#[tokio::test]
async fn paths_and_queries_that_cannot_be_read_are_refused() {
    let square = Square::with(&["ads"]).await;
    for path in [
        "/ads/0",
        "/ads/-1",
        "/ads/01",
        "/ads/x",
        "/ads/1.0",
        "/ads/99999999999999999999",
        "/ads/1%20",
        "/ads?near=here",
        "/ads?near=48.37",
        "/ads?near=91,0",
        "/ads?near=NaN,NaN",
        "/ads?nearby=48,14",
        "/ads?kind=steal",
        "/ads?within_km=-1",
        "/ads?kind=sell&kind=rent",
    ] {
        square.get("alice", path).await.problem(400);
    }
    for path in
        ["/ads?within_km=5", "/ads?near=48,14&within_km=0", "/ads?near=48,14&within_km=501", "/ads?q="]
    {
        square.get("alice", path).await.problem(422);
    }
    for path in ["/ads/../users/me", "/ads//1", "/ads/%2e%2e/x", "/ads;a=1", "/ads/1%2Fbuy"] {
        // Our own client signs what its callee will read, so it sends nothing that can be read in two ways.
        let refused = square.on_behalf_of("alice", "ads").get(path).send().await.unwrap_err();
        assert!(matches!(refused, CallError::Ambiguous { .. }), "{path}: {refused}");
    }
}

#[tokio::test]
async fn what_no_route_is_for_is_refused_in_the_same_form() {
    let square = Square::with(&["ads"]).await;
    square.get("alice", "/ads/1/steal").await.problem(403);
    answer(square.on_behalf_of("alice", "ads").get("/")).await.problem(403);
    let put = square.on_behalf_of("alice", "ads").ask(Method::PUT, "/ads");
    answer(put).await.problem(403);
}
