//! Figure 5.1: ads in my surroundings with a preview of who offers them, and what is left of it when
//! users is gone.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::TcpListener;

use crate::square::Square;

const NEAR: &str = "/ads?near=48.37,14.51";

#[tokio::test]
async fn ads_in_my_surroundings_come_with_a_preview_of_their_seller() {
    let square = Square::with(&["ads", "users"]).await;
    let list = square.get("alice", NEAR).await.ok();
    assert_eq!(list["previews"], "shown");
    let ads = list["ads"].as_array().unwrap();
    assert!(ads.len() >= 20, "{}", ads.len());
    for ad in ads {
        let preview = &ad["seller"]["preview"];
        assert_eq!(preview["handle"], ad["seller"]["handle"]);
        assert!(!preview["display_name"].as_str().unwrap().is_empty());
    }
    let distances: Vec<f64> = ads.iter().map(|ad| ad["distance_km"].as_f64().unwrap()).collect();
    assert!(distances.is_sorted(), "{distances:?}");
    assert!(distances.iter().all(|km| *km <= 25.0), "{distances:?}");
    assert_eq!(ads[0]["town"], "Hagenberg");
}

#[tokio::test]
async fn one_list_asks_users_once_however_many_sellers_there_are() {
    let square = Square::with(&["ads", "users"]).await;
    square.get("alice", NEAR).await.ok();
    let to_users = |decision: &countersign_ledger::Decision| decision.route == "/users/previews";
    let first = square.deployment.reported(to_users).await.unwrap();
    assert_eq!(first.source.as_deref(), Some("spiffe://fleamarket.test/svc/ads"));
    assert_eq!(first.target, "users");
    assert_eq!(first.policy.as_deref(), Some("users-preview-for-ads"));
    assert_eq!(square.deployment.decisions().iter().filter(|d| to_users(d)).count(), 1);
}

#[tokio::test]
async fn with_users_down_ads_are_listed_without_previews() {
    let mut square = Square::with(&["ads", "users"]).await;
    assert_eq!(square.get("alice", NEAR).await.ok()["previews"], "shown");
    square.close("users").await;

    let before = Instant::now();
    let list = square.get("alice", NEAR).await.ok();
    assert!(before.elapsed() < Duration::from_secs(2));
    assert_eq!(list["previews"], "unavailable");
    let ads = list["ads"].as_array().unwrap();
    assert!(ads.len() >= 20);
    assert!(
        ads.iter().all(|ad| ad["seller"]["preview"] == Value::Null && ad["seller"]["handle"].is_string())
    );
    assert_eq!(square.get("alice", "/ads/1").await.ok()["seller"]["handle"], "bob");

    square.open("users").await;
    assert_eq!(square.get("alice", NEAR).await.ok()["previews"], "shown");
}

#[tokio::test]
async fn users_that_hang_cost_a_bounded_wait() {
    let square = Square::with(&["ads"]).await;
    // Something takes connections there and never says a word.
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = hanging.local_addr().unwrap();
    square.deployment.world.lock().unwrap().services.insert("users".into(), address);
    square.deployment.publish();
    square.everybody_knows().await;

    let before = Instant::now();
    let list = square.get("alice", NEAR).await.ok();
    let waited = before.elapsed();
    assert_eq!(list["previews"], "unavailable");
    assert!(waited < Duration::from_secs(3), "{waited:?}");
}

#[tokio::test]
async fn lists_are_filtered_by_kind_words_seller_and_distance() {
    let square = Square::with(&["ads", "users"]).await;
    let titles = async |query: &str| -> Vec<String> {
        let list = square.get("alice", &format!("/ads?{query}")).await.ok();
        let ads = list["ads"].as_array().unwrap().clone();
        ads.iter().map(|ad| ad["title"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(titles("kind=rent").await.len(), 5);
    assert_eq!(titles("q=ACCORDION").await.len(), 2);
    assert!(titles("q=100%25").await.is_empty(), "a percent sign is not a wildcard");
    assert!(titles("q=%27%20OR%201%3D1%20--").await.is_empty(), "a quote is a quote");
    assert_eq!(titles("seller=katharina").await.len(), 3);
    let close = titles("near=48.3536,14.4161&within_km=1").await;
    assert_eq!(close.len(), 3, "{close:?}");
    assert_eq!(titles("near=-48,-165&within_km=500").await.len(), 0);
}
