//! Buying, renting and swapping (T75); who may, and only once.

use serde_json::json;

use crate::square::{Square, pixel};

#[tokio::test]
async fn things_are_bought_rented_and_swapped() {
    let square = Square::with(&["ads", "users"]).await;
    let bought = square.post("alice", "/ads/1/buy", json!({})).await.ok();
    assert_eq!((&bought["taken_by"], &bought["seller"]), (&json!("alice"), &json!("bob")));
    assert_eq!(bought["total_cents"], 18_000);
    let rented = square.post("alice", "/ads/5/rent", json!({"days": 3})).await.ok();
    assert_eq!(rented["total_cents"], 6_000);
    let swapped = square.post("alice", "/ads/6/swap", json!({"offer": "six jars of honey"})).await.ok();
    assert_eq!(swapped["total_cents"], json!(null));

    let gone = square.get("alice", "/ads/1").await.ok();
    assert_eq!(gone["taken"], true);
    let list = square.get("alice", "/ads").await.ok();
    let ids: Vec<i64> = list["ads"].as_array().unwrap().iter().map(|ad| ad["id"].as_i64().unwrap()).collect();
    assert!(!ids.contains(&1) && !ids.contains(&5) && !ids.contains(&6));
}

#[tokio::test]
async fn a_thing_is_taken_once_and_only_as_it_is_offered() {
    let square = Square::with(&["ads"]).await;
    assert_eq!(
        square.post("alice", "/ads/5/buy", json!({})).await.problem(409),
        "this ad is not to sell, it is to rent"
    );
    square.post("alice", "/ads/1/buy", json!({})).await.ok();
    assert_eq!(square.post("carol", "/ads/1/buy", json!({})).await.problem(409), "somebody else was faster");
    assert_eq!(square.post("alice", "/ads/999/buy", json!({})).await.problem(404), "there is no ad 999");
}

#[tokio::test]
async fn of_twenty_who_buy_at_once_one_gets_it() {
    let square = Square::with(&["ads"]).await;
    let people = (0..20).map(|n| if n % 2 == 0 { "alice" } else { "carol" });
    let clients: Vec<_> = people.map(|person| square.on_behalf_of(person, "ads")).collect();
    let calls = clients.into_iter().map(|client| {
        let request = client.post("/ads/1/buy").json(&json!({}));
        tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
    });
    let mut statuses = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        statuses.push(call.await.unwrap());
    }
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 200 | 409)), "{statuses:?}");
}

#[tokio::test]
async fn a_guest_is_refused_at_ads_even_when_the_gateway_lets_it_through() {
    let square = Square::with(&["ads"]).await;
    let refused = square.post("eve", "/ads/1/buy", json!({})).await;
    refused.problem(403);
    assert!(refused.json()["decision"].as_str().unwrap().starts_with("d_"));
    assert!(!refused.text().contains("buyer"), "the caller is told a code, not the rule");
    assert_eq!(square.get("eve", "/ads/1").await.ok()["taken"], false, "the handler was not reached");
    square.post("eve", "/ads", json!({})).await.problem(403);
}

#[tokio::test]
async fn a_new_ad_tells_whoever_saved_a_search_for_it() {
    let square = Square::with(&["ads", "users", "subscriptions", "media"]).await;
    let search = json!({"q": "Tandem", "near": {"latitude": 48.37, "longitude": 14.51}, "within_km": 50});
    let saved = square.post("alice", "/subscriptions", search).await.ok();
    let added = square.send("bob", "/media", "image/png", pixel()).await.ok();

    let ad = json!({
        "kind": "sell", "title": "Old tandem", "description": "For two.", "category": "bicycles",
        "price_cents": 30000, "town": "Linz", "place": {"latitude": 48.3064, "longitude": 14.2858},
        "picture": added["id"],
    });
    let published = square.post("bob", "/ads", ad).await.ok();
    assert_eq!(published["notified"], 1);
    assert_eq!(published["ad"]["picture"], added["path"]);

    let told = square.get("alice", "/subscriptions/notifications").await.ok();
    assert_eq!(told["notifications"][0]["ad"], published["ad"]["id"]);
    assert_eq!(told["notifications"][0]["title"], "Old tandem");
    assert_eq!(told["notifications"][0]["subscription"], saved["id"]);
    let others = square.get("carol", "/subscriptions/notifications").await.ok();
    assert_eq!(others["notifications"], json!([]));
}

#[tokio::test]
async fn an_ad_is_published_when_subscriptions_is_down() {
    let square = Square::with(&["ads"]).await;
    let ad = json!({
        "kind": "swap", "title": "Chess set", "description": "One bishop is a cork.", "category": "games",
        "swap_for": "a puzzle", "town": "Linz", "place": {"latitude": 48.3, "longitude": 14.3},
    });
    let published = square.post("bob", "/ads", ad).await.ok();
    assert_eq!(published["notified"], json!(null));
    let id = published["ad"]["id"].as_i64().unwrap();
    assert_eq!(square.get("alice", &format!("/ads/{id}")).await.ok()["title"], "Chess set");
}

#[tokio::test]
async fn sellers_remove_their_own_ads_and_moderators_any() {
    let square = Square::with(&["ads"]).await;
    assert_eq!(square.delete("bob", "/ads/2").await.problem(403), "this ad is somebody else's");
    assert_eq!(square.delete("bob", "/ads/1").await.status, 204);
    assert_eq!(square.delete("bob", "/ads/1").await.problem(404), "there is no ad 1");
    assert_eq!(square.delete("mod", "/ads/2").await.status, 204);
    square.delete("alice", "/ads/3").await.problem(403);
}
