//! Who may call what: every route with no credential, with a user's token, with a service's SVID.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::time::Duration;

use common::{Place, Running, call};
use countersign_sdk::{accept::bind_unix, outbound::Channel};
use http::{HeaderMap, HeaderValue, Method, header::AUTHORIZATION};
use serde_json::{Value, json};

/// What strangers may have. Everything else under `/api/v1` is an administrator's.
const PUBLIC: [&str; 5] = [
    "GET /api/v1/openapi.json",
    "GET /api/v1/bundle",
    "GET /api/v1/bundle/spiffe",
    "GET /api/v1/crl",
    "POST /api/v1/login",
];

/// What everybody may ask who proved anything: the answer depends on who it was.
const MEMBERS: [&str; 1] = ["POST /api/v1/tokens/discharge"];

async fn routes(authority: &Running) -> Vec<(Method, String)> {
    let document = authority.get("/api/v1/openapi.json").await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut routes = Vec::new();
    // OAuth endpoints authenticate their clients themselves and answer as RFC 6749 says.
    let own = document["paths"].as_object().unwrap().iter().filter(|(path, _)| path.starts_with("/api/v1/"));
    for (path, item) in own {
        for method in item.as_object().unwrap().keys() {
            if let Ok(method) = method.to_uppercase().parse::<Method>() {
                routes.push((method, path.clone()));
            }
        }
    }
    assert!(routes.len() >= 20, "{routes:?}");
    routes
}

async fn try_all(authority: &Running, channel: &Channel, headers: &HeaderMap, refused_with: u16) {
    for (method, route) in routes(authority).await {
        let path =
            route.replace("{name}", "ads").replace("{id}", "last").replace("{trust_domain}", "other.test");
        let body = (method == Method::POST).then(|| json!({}));
        let answer = call(channel, method.clone(), &path, body, headers).await.unwrap();
        let action = format!("{method} {route}");
        let proven = refused_with == 403;
        if PUBLIC.contains(&action.as_str()) || (proven && MEMBERS.contains(&action.as_str())) {
            assert!(answer.status != 401 && answer.status != 403, "{action}: {}", answer.status);
        } else {
            assert_eq!(answer.status, refused_with, "{action}");
            assert_eq!(answer.headers["content-type"], "application/problem+json", "{action}");
            assert!(answer.json()["decision"].as_str().unwrap().starts_with("d_"), "{action}");
            assert!(answer.json()["detail"].is_null(), "{action} tells a stranger why");
        }
    }
}

#[tokio::test]
async fn refuses_a_stranger_everywhere_but_at_the_public_rows() {
    let place = Place::new();
    let authority = place.start().await;
    let stranger = authority.https(None).await;
    try_all(&authority, &stranger, &HeaderMap::new(), 401).await;
    let answer = call(&stranger, Method::GET, "/api/v1/status", None, &HeaderMap::new()).await.unwrap();
    assert_eq!(answer.headers["www-authenticate"], "Countersign need=\"certificate\"");
    authority.stop().await;
}

#[tokio::test]
async fn refuses_a_users_access_token_everywhere_but_at_the_public_rows() {
    let place = Place::new();
    let authority = place.start().await;
    let token = token_of_alice(&authority).await;
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
    try_all(&authority, &authority.https(None).await, &headers, 403).await;
    authority.stop().await;
}

#[tokio::test]
async fn refuses_a_services_svid_everywhere_but_at_the_public_rows() {
    let place = Place::new();
    let authority = place.start().await;
    let ads = authority.svid("ads").await;
    try_all(&authority, &authority.https(Some(ads)).await, &HeaderMap::new(), 403).await;
    authority.stop().await;
}

#[tokio::test]
async fn a_bad_token_is_final_even_at_a_public_row() {
    let place = Place::new();
    let authority = place.start().await;
    let stranger = authority.https(None).await;
    for bad in ["Bearer eyJhbGciOiJub25lIn0.e30.", "Bearer x", "Basic YTpi", "Bearer"] {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(bad).unwrap());
        let answer = call(&stranger, Method::GET, "/api/v1/bundle", None, &headers).await.unwrap();
        assert_eq!(answer.status, 401, "{bad}");
    }
    authority.stop().await;
}

#[tokio::test]
async fn an_address_that_floods_is_sent_away_and_told_when_to_come_again() {
    // A rate that no machine is too slow to exceed.
    let place = Place::with("stranger_requests_per_second = 1\nstranger_requests_burst = 5");
    let authority = place.start().await;
    let stranger = authority.https(None).await;
    let none = HeaderMap::new();
    let asked = (0..100).map(|_| call(&stranger, Method::GET, "/api/v1/status", None, &none));
    let answers = futures::future::join_all(asked).await;
    let away: Vec<_> = answers.into_iter().flatten().filter(|answer| answer.status == 429).collect();
    assert!(!away.is_empty());
    assert!(away.iter().all(|answer| answer.headers.contains_key("retry-after")));
    authority.get("/api/v1/status").await;
    authority.stop().await;
}

#[tokio::test]
async fn a_header_that_claims_an_identity_makes_nobody_an_administrator() {
    let place = Place::new();
    let authority = place.start().await;
    let stranger = authority.https(None).await;
    for name in ["x-forwarded-user", "x-forwarded-client-cert", "x-uid", "x-countersign-client-address"] {
        let mut headers = HeaderMap::new();
        headers.insert(http::HeaderName::from_static(name), HeaderValue::from_static("uid:0"));
        let answer = call(&stranger, Method::GET, "/api/v1/status", None, &headers).await.unwrap();
        assert!(matches!(answer.status.as_u16(), 400 | 401), "{name}: {}", answer.status);
    }
    authority.stop().await;
}

#[tokio::test]
async fn refusals_are_explained_to_the_administrator_and_strangers_are_only_counted() {
    let place = Place::new();
    let authority = place.start().await;
    let ads = authority.https(Some(authority.svid("ads").await)).await;
    let refused = call(&ads, Method::GET, "/api/v1/users", None, &HeaderMap::new()).await.unwrap();
    let id = refused.json()["decision"].as_str().unwrap().to_owned();
    authority.events_at_least("decision", 1).await;
    let explained = authority.get(&format!("/api/v1/decisions/{id}")).await;
    assert_eq!(explained["verdict"], "deny");
    assert_eq!(explained["stage"], "policy");
    assert_eq!(explained["source"], "spiffe://fleamarket.test/svc/ads");
    assert_eq!(explained["route"], "/api/v1/users");
    let checks: Vec<&str> =
        explained["checks"].as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert_eq!(checks, ["usage", "validity", "chain", "revocation", "identity", "policy"]);
    assert!(explained["fix"].is_string());
    assert_eq!(authority.get("/api/v1/decisions/last").await["decision"], id);

    let stranger = authority.https(None).await;
    for _ in 0..20 {
        call(&stranger, Method::GET, "/api/v1/status", None, &HeaderMap::new()).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let decisions = authority.events("decision").await;
    assert_eq!(
        decisions.iter().filter(|event| event["source"].is_null()).count(),
        1,
        "one in full, the rest counted"
    );
    authority.stop().await;
}

#[tokio::test]
async fn changes_are_recorded_with_who_made_them_and_reading_is_not() {
    let place = Place::new();
    let authority = place.start().await;
    authority.join_token("local").await;
    authority.get("/api/v1/users").await;
    let calls = authority.events_at_least("admin_call", 1).await;
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0]["route"], "POST /api/v1/join-tokens");
    assert!(calls[0]["actor"].as_str().unwrap().starts_with("uid:"));
    authority.stop().await;
}

#[tokio::test]
async fn the_admin_socket_is_private_and_is_not_taken_over_while_somebody_answers() {
    use std::os::unix::fs::MetadataExt as _;
    let place = Place::new();
    let authority = place.start().await;
    let socket = place.state().join("admin.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
    assert!(bind_unix(&socket, 0o600).await.is_err());
    authority.stop().await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_revoked_service_is_cut_off_its_open_connection_within_two_seconds() {
    let place = Place::new();
    let authority = place.start().await;
    let ads = authority.https(Some(authority.svid("ads").await)).await;
    let bundle = || call(&ads, Method::GET, "/api/v1/bundle", None, Box::leak(Box::new(HeaderMap::new())));
    assert_eq!(bundle().await.unwrap().status, 200);
    authority.post("/api/v1/certificates/revoke", json!({ "service": "ads" })).await;
    let started = std::time::Instant::now();
    while let Ok(answer) = bundle().await {
        assert!(answer.status == 401 || started.elapsed() < Duration::from_secs(2), "{}", answer.status);
        if answer.status == 401 {
            break;
        }
    }
    assert!(started.elapsed() < Duration::from_secs(2));
    authority.stop().await;
}

#[tokio::test]
async fn bodies_and_queries_are_read_strictly_and_the_error_says_what_is_wrong() {
    let place = Place::new();
    let authority = place.start().await;
    let post = |body: Value| authority.admin(Method::POST, "/api/v1/join-tokens", Some(body));
    for (body, detail) in [
        (json!({ "node": "local", "nod": 1 }), "unknown field `nod`"),
        (json!({}), "missing field `node`"),
        (json!({ "node": 7 }), "at node"),
        (json!([]), ""),
    ] {
        let answer = post(body.clone()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["code"].as_str().unwrap()),
            (400, "malformed_request")
        );
        assert!(
            answer.json()["detail"].as_str().unwrap().contains(detail),
            "{body}: {}",
            answer.json()["detail"]
        );
    }
    let long = json!({ "node": "a".repeat(70_000) });
    assert_eq!(post(long).await.status, 413);
    let at_the_limit = json!({ "node": "a".repeat(64 * 1024 - r#"{"node":""}"#.len()) });
    assert_eq!(post(at_the_limit).await.status, 400);
    for (method, path, status) in [
        (Method::GET, "/api/v1/users?limit=x", 422),
        (Method::GET, "/api/v1/users?limi=1", 422),
        (Method::GET, "/api/v1/users?limit=1&limit=2", 422),
        (Method::GET, "/api/v1/audit/events?verdict=maybe", 422),
        (Method::GET, "/api/v1/decisions/nonsense", 422),
        (Method::GET, "/api/v1/services/none", 404),
        (Method::GET, "/api/v1/nothing", 404),
        (Method::DELETE, "/api/v1/users", 405),
        (Method::GET, "/api/v1//users", 400),
        (Method::GET, "/api/v1/services/%2e%2e", 400),
        (Method::GET, "/api/v1/services/a%2fb", 400),
    ] {
        let answer = authority.admin(method, path, None).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{path}");
        assert_eq!(answer.json()["status"], status, "{path}");
    }
    authority.stop().await;
}

#[tokio::test]
async fn probes_and_metrics_answer_on_the_admin_listener_alone() {
    let place = Place::new();
    let authority = place.start().await;
    for (path, status, contains) in [
        ("/livez", 200, "ok"),
        ("/healthz", 200, "ok"),
        ("/readyz", 200, "ok"),
        ("/readyz?verbose", 200, "[+]crl"),
        ("/metrics", 200, "# EOF"),
        ("/nothing", 404, "not_found"),
        ("/api/v1/status", 404, "not_found"),
    ] {
        let (got, body) = plain(authority.probes, path).await;
        assert_eq!(got, status, "{path}: {body}");
        assert!(body.contains(contains), "{path}: {body}");
    }
    let https = authority.https(None).await;
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(call(&https, Method::GET, path, None, &HeaderMap::new()).await.unwrap().status, 404);
    }
    authority.stop().await;
}

/// HTTP/1.1 in clear, as a probe speaks it.
async fn plain(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn token_of_alice(authority: &Running) -> String {
    authority.add_user("alice", "a very long password").await;
    let login = json!({ "name": "alice", "password": "a very long password" });
    authority.post("/api/v1/login", login).await["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn status_and_check_tell_how_the_deployment_is() {
    let place = Place::new();
    let authority = place.start().await;
    authority.agent("local").await;
    let status = authority.get("/api/v1/status").await;
    assert_eq!(status["trust_domain"], "fleamarket.test");
    assert_eq!(status["database"], "sqlite");
    assert_eq!(status["services"], 3);
    assert_eq!(status["nodes"][0]["spiffe_id"], "spiffe://fleamarket.test/countersign/agent/local");
    let kinds: Vec<&str> =
        status["authorities"].as_array().unwrap().iter().map(|ca| ca["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["workload root", "edge root", "issuing"]);
    assert!(status["warnings"].as_array().unwrap().is_empty());
    let check = authority.get("/api/v1/check").await;
    for line in check["checks"].as_array().unwrap() {
        assert_eq!(line["result"], "pass", "{line}");
    }
    authority.stop().await;
}

#[tokio::test]
async fn policies_are_reloaded_as_a_whole_or_not_at_all() {
    let place = Place::new();
    let authority = place.start().await;
    let dir = place.deployment.policy_dir.clone().unwrap();
    assert_eq!(authority.get("/api/v1/policies").await["generation"], 1);
    std::fs::write(
        dir.join("users.cedar"),
        "@id(\"x\") permit (principal, action == Action::\"FETCH\", resource);",
    )
    .unwrap();
    let refused = authority.admin(Method::POST, "/api/v1/policies/reload", None).await;
    assert_eq!(refused.status, 422);
    assert!(refused.json()["detail"].as_str().unwrap().contains("users"), "{}", refused.json());
    assert_eq!(authority.get("/api/v1/policies").await["generation"], 1);
    std::fs::write(
        dir.join("users.cedar"),
        "@id(\"x\") permit (principal, action == Action::\"GET\", resource);",
    )
    .unwrap();
    let reloaded = authority.admin(Method::POST, "/api/v1/policies/reload", None).await.json();
    assert_eq!(reloaded["generation"], 2);
    assert_eq!(reloaded["files"][1]["rules"][0], "x");
    let again = authority.admin(Method::POST, "/api/v1/policies/reload", None).await.json();
    assert_eq!(again["generation"], 2, "nothing changed");
    authority.stop().await;
}

#[tokio::test]
async fn a_service_is_registered_without_restarting_anything_and_agents_hear_of_it() {
    let place = Place::new();
    let authority = place.start().await;
    let mut agent = authority.agent("local").await;
    let mut entries = agent.entries(countersign_wire::node::EntriesRequest {}).await.unwrap().into_inner();
    assert_eq!(entries.message().await.unwrap().unwrap().entries.len(), 2);
    let new = json!({ "name": "billing", "address": "127.0.0.1:9", "launch_by": [0] });
    authority.post("/api/v1/services", new).await;
    let held =
        tokio::time::timeout(Duration::from_secs(2), entries.message()).await.unwrap().unwrap().unwrap();
    assert!(held.entries.iter().any(|entry| entry.name == "billing"));
    let shown = authority.get("/api/v1/services/billing").await;
    assert_eq!(shown["spiffe_id"], "spiffe://fleamarket.test/svc/billing");
    let (_, issued) = authority.issue(json!({ "service": "billing" })).await;
    let shown = authority.get("/api/v1/services/billing").await;
    assert_eq!(
        shown["certificates"][0]["serial"], issued.certificate.serial,
        "the link from identity to key"
    );
    let wrong = json!({ "name": "billing", "address": "nowhere", "launch_by": [] });
    assert_eq!(authority.admin(Method::POST, "/api/v1/services", Some(wrong)).await.status, 422);
    assert_eq!(authority.events("service_registered").await.len(), 4);
    authority.stop().await;
}
