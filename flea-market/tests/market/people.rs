//! Profiles, messages, pictures, reports.

use serde_json::json;

use crate::square::{Square, pixel};

#[tokio::test]
async fn a_profile_is_ones_own_and_others_read_it() {
    let square = Square::with(&["users"]).await;
    let seeded = square.get("bob", "/users/me").await.ok();
    assert_eq!((&seeded["handle"], &seeded["display_name"]), (&json!("bob"), &json!("Bob Leitner")));
    let body = json!({"display_name": "Bob L.", "town": "Linz", "about": ""});
    let written = square.put("bob", "/users/me", body).await.ok();
    assert_eq!((&written["display_name"], &written["deals"]), (&json!("Bob L."), &seeded["deals"]));
    assert_eq!(square.get("alice", "/users/bob").await.ok()["display_name"], "Bob L.");
    assert_eq!(square.get("carol", "/users/me").await.ok()["display_name"], "carol");
    square.get("alice", "/users/nobody").await.problem(404);
}

#[tokio::test]
async fn people_write_to_each_other_and_nobody_else_reads_it() {
    let square = Square::with(&["chat", "users"]).await;
    let thread =
        square.post("alice", "/chats", json!({"to": "katharina", "text": "Still there?"})).await.ok();
    let path = format!("/chats/{}", thread["chat"]["id"]);
    assert_eq!(square.get("alice", &path).await.ok()["messages"][0]["text"], "Still there?");
    square.get("carol", &path).await.problem(404);
    square.get("eve", &path).await.problem(403);
    assert_eq!(square.get("alice", "/chats").await.ok()["chats"].as_array().unwrap().len(), 2);

    let yourself = square.post("alice", "/chats", json!({"to": "alice", "text": "me"})).await;
    assert_eq!(yourself.problem(422), "to is yourself");
    let nobody = square.post("alice", "/chats", json!({"to": "zorro", "text": "you"})).await;
    assert_eq!(nobody.problem(422), "there is nobody called \"zorro\"");
}

#[tokio::test]
async fn with_users_down_a_message_is_not_accepted_and_old_ones_are_read() {
    let square = Square::with(&["chat"]).await;
    let refused = square.post("alice", "/chats", json!({"to": "bob", "text": "hello"})).await;
    assert_eq!(refused.problem(503), "users does not answer: try again later");
    assert_eq!(square.get("alice", "/chats/1").await.ok()["messages"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn pictures_are_small_pictures_and_nothing_else() {
    let square = Square::with(&["media"]).await;
    let added = square.send("bob", "/media", "image/png", pixel()).await.ok();
    let shown = square.get("eve", added["path"].as_str().unwrap()).await;
    assert_eq!(shown.bytes, pixel());
    assert_eq!(shown.headers["content-type"], "image/png");
    assert_eq!(shown.headers["x-content-type-options"], "nosniff");

    let seeded = square.get("alice", "/media/1").await;
    assert!(seeded.status.is_success() && seeded.bytes.starts_with(b"\x89PNG"));

    let page = square.send("bob", "/media", "image/png", "<script>").await;
    assert_eq!(page.problem(422), "body is not image/png");
    square.send("bob", "/media", "text/html", "<script>").await.problem(415);
    square.send("bob", "/media", "image/svg+xml", "<svg/>").await.problem(415);
    let mut large = pixel();
    large.splice(8..8, vec![0; 64 * 1024]);
    assert_eq!(
        square.send("bob", "/media", "image/png", large).await.problem(413),
        "body has more than 65536 bytes"
    );
    square.send("alice", "/media", "image/png", pixel()).await.problem(403);
    square.get("alice", "/media/999").await.problem(404);
}

#[tokio::test]
async fn anybody_but_a_guest_reports_and_moderators_see_it() {
    let mut square = Square::with(&["reports", "ads", "users"]).await;
    let filed = square.post("bob", "/reports", json!({"ad": 2, "reason": "It is mine."})).await.ok();
    assert_eq!(filed["ad_title"], "Wooden children's bicycle");
    let again = square.post("bob", "/reports", json!({"ad": 2, "reason": "Really."})).await;
    assert_eq!(again.problem(409), "you have reported this ad before");
    let nothing = square.post("bob", "/reports", json!({"ad": 999, "reason": "Ghost."})).await;
    assert_eq!(nothing.problem(422), "there is no ad 999");
    square.post("eve", "/reports", json!({"ad": 2, "reason": "?"})).await.problem(403);
    square.get("bob", "/reports").await.problem(403);

    let seen = square.get("mod", "/reports").await.ok();
    assert_eq!(seen["reports"][0]["reason"], "It is mine.");
    let close = format!("/reports/{}/close", filed["id"]);
    square.post("bob", &close, json!({"outcome": "mine"})).await.problem(403);
    let closed = square.post("mod", &close, json!({"outcome": "It is not."})).await.ok();
    assert_eq!(
        (&closed["closed"]["by"], &closed["closed"]["outcome"]),
        (&json!("mod"), &json!("It is not."))
    );
    square.post("mod", &close, json!({"outcome": "again"})).await.problem(404);

    square.close("ads").await;
    let untitled = square.post("alice", "/reports", json!({"ad": 4, "reason": "Broken."})).await.ok();
    assert_eq!(untitled["ad_title"], json!(null));
}

#[tokio::test]
async fn saved_searches_are_ones_own_and_bounded() {
    let square = Square::with(&["subscriptions"]).await;
    let list = square.get("alice", "/subscriptions").await.ok();
    assert_eq!(list["subscriptions"][0]["q"], "bicycle");
    square.delete("carol", "/subscriptions/1").await.problem(404);
    for n in 1..20 {
        square.post("alice", "/subscriptions", json!({"q": format!("thing {n}")})).await.ok();
    }
    let full = square.post("alice", "/subscriptions", json!({"q": "one more"})).await;
    assert_eq!(full.problem(409), "you have 20 saved searches: delete one first");
    assert_eq!(square.delete("alice", "/subscriptions/1").await.status, 204);
    square.post("alice", "/subscriptions", json!({"q": "one more"})).await.ok();
    square.get("eve", "/subscriptions").await.problem(403);
}
