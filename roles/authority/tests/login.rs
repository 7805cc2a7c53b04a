//! Accounts and logins through real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use common::{Answer, Place, Running, call, home};
use countersign_accounts::password::{self, Password, Pepper, Peppers, Verification};
use countersign_keys::{KeyPair, PublicKey, SystemRandom};
use countersign_sdk::clock;
use countersign_store::Db;
use countersign_token::{
    AccessToken,
    dpop::{self, DpopTarget, DpopUri},
};
use futures::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header::RETRY_AFTER};
use serde_json::json;

const PASSWORD: &str = "a very long password";

async fn login(authority: &Running, name: &str, password: &str) -> Answer {
    let body = json!({ "name": name, "password": password });
    authority.admin(Method::POST, "/api/v1/login", Some(body)).await
}

/// The database as the authority keeps it, looked at from outside.
async fn database(place: &Place) -> Db {
    Db::open_sqlite(&place.state().join("authority/authority.db"), &home()).await.unwrap()
}

async fn attempts(place: &Place, name: &str) -> u64 {
    let db = database(place).await;
    let user = db.user_by_name(name).await.unwrap().unwrap();
    db.close().await;
    user.attempts
}

#[tokio::test]
async fn a_right_password_buys_an_access_token_of_ten_minutes_that_strangers_can_verify() {
    let place = Place::new();
    let authority = place.start().await;
    let added = authority.add_user("alice", PASSWORD).await;
    let answer = login(&authority, "alice", PASSWORD).await.json();
    assert_eq!(
        (answer["token_type"].as_str().unwrap(), answer["expires_in"].as_u64().unwrap()),
        ("Bearer", 600)
    );

    let https = authority.https(None).await;
    let get =
        |path: &'static str| call(&https, Method::GET, path, None, Box::leak(Box::new(HeaderMap::new())));
    let metadata = get("/.well-known/oauth-authorization-server").await.unwrap().json();
    let keys = get("/oauth2/jwks").await.unwrap().json();
    assert_eq!(metadata["jwks_uri"], format!("{}/oauth2/jwks", metadata["issuer"].as_str().unwrap()));
    let key = PublicKey::from_jwk(&keys["keys"][0].to_string()).unwrap();
    let token = answer["access_token"].as_str().unwrap();
    let issuer = format!("https://localhost:{}", authority.api.port());
    let key_of = |kid: &str| (kid == key.thumbprint()).then(|| key.clone());
    let user = AccessToken::verify(token, &issuer, "https://fleamarket.test", clock::now(), key_of).unwrap();
    assert_eq!((user.name.as_str(), user.roles.as_slice()), ("alice", ["buyer".to_owned()].as_slice()));
    assert_eq!(user.id, added["id"].as_str().unwrap());
    let left = user.not_after.since(clock::now()).as_secs();
    assert!((590..=600).contains(&left), "{left}");
    authority.stop().await;
}

#[tokio::test]
async fn the_answer_is_the_same_for_an_unknown_user_a_wrong_password_and_a_locked_account() {
    let place = Place::new();
    let authority = place.start().await;
    authority.add_user("alice", PASSWORD).await;
    let unknown = login(&authority, "nobody", PASSWORD).await;
    assert_eq!(unknown.status, 401);
    for (name, password) in
        [("alice", "another long password"), ("ALICE ", "x"), ("al ice", PASSWORD), ("alice", ""), ("", "")]
    {
        let answer = login(&authority, name, password).await;
        assert_eq!((answer.status, &answer.body), (unknown.status, &unknown.body), "{name:?}");
        let names = |headers: &HeaderMap| headers.keys().map(|name| name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&answer.headers), names(&unknown.headers), "{name:?}");
    }
    let db = database(&place).await;
    let alice = db.user_by_name("alice").await.unwrap().unwrap().id;
    while db.count_attempt(&alice, clock::now()).await.unwrap() < 100 {}
    db.close().await;
    let locked = login(&authority, "alice", PASSWORD).await;
    assert_eq!((locked.status, &locked.body), (unknown.status, &unknown.body));
    let outcomes: Vec<String> = authority
        .events("login")
        .await
        .iter()
        .map(|event| event["outcome"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        outcomes,
        [
            "unknown_user",
            "wrong_password",
            "wrong_password",
            "unknown_user",
            "wrong_password",
            "unknown_user",
            "locked"
        ]
    );
    authority.stop().await;
}

#[tokio::test]
async fn every_spelling_of_a_name_counts_on_one_account_and_a_success_begins_anew() {
    let place = Place::new();
    let authority = place.start().await;
    authority.add_user("Älice", PASSWORD).await;
    for spelling in ["älice", "ÄLICE", " älice ", "a\u{308}lice"] {
        assert_eq!(login(&authority, spelling, "a wrong password!").await.status, 401);
    }
    assert_eq!(attempts(&place, "älice").await, 4);
    assert_eq!(login(&authority, "ÄLICE", PASSWORD).await.status, 200);
    assert_eq!(attempts(&place, "älice").await, 0);
    authority.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_parallel_wrong_logins_are_counted_exactly_and_lock_the_account() {
    let place = Place::new();
    let authority = place.start().await;
    authority.add_user("alice", PASSWORD).await;
    let answers = join_all((0..1000).map(|_| login(&authority, "alice", "a wrong password!"))).await;
    let judged = answers.iter().filter(|answer| answer.status == 401).count();
    let sent_away = answers.iter().filter(|answer| answer.status == 503).count();
    assert_eq!(judged + sent_away, 1000);
    assert!(
        answers.iter().filter(|answer| answer.status == 503).all(|a| a.headers.contains_key(RETRY_AFTER))
    );
    let mut counted = attempts(&place, "alice").await;
    assert_eq!(counted, judged as u64, "who was sent away was not counted, everybody else was");

    while counted < 100 {
        assert_eq!(login(&authority, "alice", "a wrong password!").await.status, 401);
        counted += 1;
    }
    assert_eq!(
        login(&authority, "alice", PASSWORD).await.status,
        401,
        "a hundred failures, and the right one is late"
    );
    assert_eq!(authority.events("login").await.last().unwrap()["outcome"], "locked");
    let new = json!({ "password": "an even longer password" });
    authority.post("/api/v1/users/alice/password", new).await;
    // Read at once: who set it is durable before the answer.
    let changed = authority.events("password_changed").await;
    assert_eq!(changed.len(), 1);
    assert!(changed[0]["changed_by"].as_str().unwrap().starts_with("uid:"), "{changed:?}");
    assert!(changed[0]["user"].as_str().unwrap().starts_with("p_"), "{changed:?}");
    assert_eq!(login(&authority, "alice", "an even longer password").await.status, 200);
    authority.stop().await;
}

#[tokio::test]
async fn an_address_is_throttled_before_anything_is_counted_or_hashed() {
    let place = Place::new();
    let authority = place.start().await;
    authority.add_user("alice", PASSWORD).await;
    let https = authority.https(None).await;
    let body = json!({ "name": "alice", "password": "a wrong password!" });
    let mut throttled = 0;
    for _ in 0..20 {
        let answer =
            call(&https, Method::POST, "/api/v1/login", Some(body.clone()), &HeaderMap::new()).await.unwrap();
        if answer.status == 429 {
            assert!(answer.headers.contains_key(RETRY_AFTER));
            throttled += 1;
        }
    }
    assert!(throttled >= 8, "{throttled}");
    assert_eq!(attempts(&place, "alice").await, 20 - throttled);
    assert_eq!(login(&authority, "alice", PASSWORD).await.status, 200, "the admin socket has no address");
    authority.stop().await;
}

#[tokio::test]
async fn only_a_gateways_word_about_its_clients_counts() {
    let place = Place::new();
    let authority = place.start().await;
    let (gateway, ads) = (authority.svid("gateway").await, authority.svid("ads").await);
    let exhaust = async |identity, clients: usize| {
        let https = authority.https(Some(identity)).await;
        let mut throttled = 0;
        for number in 0..30 {
            let mut headers = HeaderMap::new();
            let client = HeaderValue::from_str(&format!("192.0.2.{}", number % clients)).unwrap();
            headers.insert("x-countersign-client-address", client);
            let body = json!({ "name": "nobody", "password": "a wrong password!" });
            let answer = call(&https, Method::POST, "/api/v1/login", Some(body), &headers).await.unwrap();
            throttled += usize::from(answer.status == 429);
        }
        throttled
    };
    assert_eq!(exhaust(gateway, 30).await, 0, "thirty clients, one attempt each");
    assert!(exhaust(ads, 30).await >= 15, "a service speaks for itself alone");
    authority.stop().await;
}

#[tokio::test]
async fn only_a_gateways_word_about_its_clients_key_binds_the_token_to_it() {
    let place = Place::new();
    let authority = place.start().await;
    authority.add_user("alice", PASSWORD).await;
    let jkt = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
    let login = async |identity| {
        let https = authority.https(Some(authority.svid(identity).await)).await;
        let headers = HeaderMap::from_iter([(CLIENT_KEY, HeaderValue::from_static(jkt))]);
        let body = json!({ "name": "alice", "password": PASSWORD });
        call(&https, Method::POST, "/api/v1/login", Some(body), &headers).await.unwrap()
    };
    let bound = login("gateway").await.json();
    assert_eq!(bound["token_type"], "DPoP");
    let claims = bound["access_token"].as_str().unwrap().split('.').nth(1).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    assert_eq!(claims["cnf"], json!({ "jkt": jkt }));
    assert_eq!(login("ads").await.status, 400, "a service says nothing about others' keys");
    authority.stop().await;
}

#[tokio::test]
async fn a_login_beside_a_proof_of_a_key_buys_a_token_that_is_bound_to_it() {
    let place = Place::new();
    let authority = place.start().await;
    authority.add_user("alice", PASSWORD).await;
    let https = authority.https(None).await;
    let key = KeyPair::generate(&SystemRandom::new()).unwrap();
    let login = async |path: &str, jti: &str, nonce: Option<&str>| {
        let uri = DpopUri::parse(&format!("https://localhost:{}{path}", authority.api.port())).unwrap();
        let target = DpopTarget { method: &Method::POST, uri, access_token: None };
        let proof = dpop::mint(&key, &target, nonce, jti, clock::now()).unwrap();
        let headers = HeaderMap::from_iter([(DPOP, HeaderValue::from_str(&proof).unwrap())]);
        let body = json!({ "name": "alice", "password": PASSWORD });
        call(&https, Method::POST, "/api/v1/login", Some(body), &headers).await.unwrap()
    };
    let first = login("/api/v1/login", "1", None).await;
    assert_eq!((first.status.as_u16(), first.json()["code"].as_str()), (400, Some("use_dpop_nonce")));
    let nonce = first.headers["dpop-nonce"].to_str().unwrap().to_owned();
    let elsewhere = login("/login", "2", Some(&nonce)).await;
    assert_eq!(
        (elsewhere.status.as_u16(), elsewhere.json()["code"].as_str()),
        (400, Some("invalid_dpop_proof"))
    );
    let bound = login("/api/v1/login", "3", Some(&nonce)).await;
    assert_eq!(bound.json()["token_type"], "DPoP", "{:?}", bound.body);
    let replayed = login("/api/v1/login", "3", Some(&nonce)).await;
    assert_eq!(
        (replayed.status.as_u16(), replayed.json()["code"].as_str()),
        (400, Some("invalid_dpop_proof"))
    );
    authority.stop().await;
}

const DPOP: HeaderName = HeaderName::from_static("dpop");
const CLIENT_KEY: HeaderName = HeaderName::from_static("x-countersign-client-key");

#[tokio::test]
async fn rejects_passwords_and_names_that_would_not_protect_anybody() {
    let place = Place::new();
    let authority = place.start().await;
    for (name, password, roles) in [
        ("alice", "short", json!([])),
        ("alice", "passwordpassword", json!([])),
        ("alice", "fleamarket.test!!", json!([])),
        ("", PASSWORD, json!([])),
        ("al ice", PASSWORD, json!([])),
        ("alice", PASSWORD, json!(["Buyer"])),
    ] {
        let body = json!({ "name": name, "password": password, "roles": roles });
        let answer = authority.admin(Method::POST, "/api/v1/users", Some(body)).await;
        assert_eq!(answer.status, 422, "{name:?} {password:?}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(!detail.contains(password), "{detail}");
    }
    authority.add_user("alice", PASSWORD).await;
    let again = json!({ "name": "ALICE", "password": PASSWORD });
    assert_eq!(authority.admin(Method::POST, "/api/v1/users", Some(again)).await.status, 409);
    authority.stop().await;
}

/// K25, K28: the hash is useless without the pepper, and the password is nowhere.
#[tokio::test]
async fn a_stolen_table_cannot_even_be_tried_and_no_file_holds_a_password() {
    let place = Place::new();
    let authority = place.start().await;
    authority.add_user("alice", PASSWORD).await;
    let token = login(&authority, "alice", PASSWORD).await.json();
    let token = token["access_token"].as_str().unwrap().to_owned();
    login(&authority, "alice", "a wrong password!").await;
    let db = database(&place).await;
    let stored = db.user_by_name("alice").await.unwrap().unwrap().password;
    db.close().await;
    authority.stop().await;
    assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1,keyid="), "{stored}");
    let guess = Password::read(PASSWORD).unwrap();
    for pepper in [[0; 32], [7; 32]] {
        let peppers = Peppers::new(Pepper::new(1, pepper));
        assert_eq!(password::verify(&guess, &stored, &peppers).unwrap(), Verification::NoMatch);
    }
    for file in std::fs::read_dir(place.state().join("authority")).unwrap() {
        let content = std::fs::read(file.unwrap().path()).unwrap();
        // Part by part and not `eyJ`: a sealed column may spell three letters by chance.
        for secret in [PASSWORD, "a wrong password!"].into_iter().chain(token.split('.')) {
            let found = content.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret}");
        }
    }
}
