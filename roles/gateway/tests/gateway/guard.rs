//! What the edge does besides the decision: origins, networks, countries, and whom listed proxies forward for.
use std::path::Path;
use std::time::Duration;

use crate::rig::client::{bearer, get, request};
use crate::rig::echo::{self, Seen};
use crate::rig::{Rig, Running};

const EDGE_RULES: &str = r#"
@id("signed-in")
permit (principal is User, action, resource in Service::"gateway");
@id("open")
permit (principal is Stranger, action == Action::"GET", resource == Route::"gateway /open");
"#;

const ROUTES: &str = r#"
[[route]]
path = "/ads"
to = "ads"
[[route]]
path = "/open"
to = "ads"
user = "none"
"#;

async fn edge(rig: &Rig, seen: &Seen, toml: &str) -> Running {
    rig.policy("gateway", EDGE_RULES);
    rig.open_service("ads", echo::router(&["/ads", "/open"], seen)).await;
    rig.gateway(toml).await
}

const CORS: &str = r#"
[cors]
origins = ["https://shop.test"]
methods = ["PUT"]
headers = ["content-type", "authorization"]
credentials = true
"#;

#[tokio::test]
async fn a_preflight_is_answered_before_authentication_and_reaches_nobody() {
    let (rig, seen) = (Rig::new(), Seen::default());
    let edge = edge(&rig, &seen, &format!("{CORS}{ROUTES}")).await;
    let asked = [
        ("Origin", "https://shop.test"),
        ("Access-Control-Request-Method", "PUT"),
        ("Access-Control-Request-Headers", "Content-Type,authorization"),
    ];
    let answer = request(edge.plain, "OPTIONS", "/ads", &asked, "").await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://shop.test"));
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("GET, HEAD, POST, PUT"));
    assert_eq!(answer.header("access-control-allow-headers"), Some("content-type, authorization"));
    assert_eq!(answer.header("access-control-max-age"), Some("600"));
    assert!(answer.head.to_ascii_lowercase().contains("vary: origin"), "{answer:?}");
    for (at, value) in [(0, "https://evil.test"), (0, "null"), (1, "DELETE"), (2, "x-secret")] {
        let mut other = asked;
        other[at].1 = value;
        let answer = request(edge.plain, "OPTIONS", "/ads", &other, "").await;
        assert_eq!(answer.problem(403), "access_denied");
        let allowed = answer.header("access-control-allow-origin");
        assert_eq!(allowed.is_some(), at != 0, "{value}: {answer:?}");
    }
    assert_eq!(seen.count(), 0);
}

#[tokio::test]
async fn pages_of_listed_origins_read_answers_and_refusals_and_others_neither() {
    let (rig, seen) = (Rig::new(), Seen::default());
    let edge = edge(&rig, &seen, &format!("{CORS}{ROUTES}")).await;
    let token = bearer(&rig.access_token("alice", &[]));
    let with = |origin| [("Origin", origin), ("Authorization", token.as_str())];
    let answer = get(edge.plain, "/ads", &with("https://shop.test")).await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (200, Some("https://shop.test"))
    );
    let refused = get(edge.plain, "/ads", &[("Origin", "https://shop.test")]).await;
    assert_eq!(
        (refused.status, refused.header("access-control-allow-origin")),
        (401, Some("https://shop.test"))
    );
    for origin in ["https://evil.test", "https://shop.test.evil.test", "null"] {
        let answer = get(edge.plain, "/ads", &with(origin)).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None), "{origin}");
    }
    let plain = get(edge.plain, "/ads", &[("Authorization", &token)]).await;
    assert_eq!((plain.header("access-control-allow-origin"), plain.header("vary")), (None, Some("origin")));
}

#[tokio::test]
async fn without_a_rule_for_other_origins_nothing_is_said_of_them() {
    let (rig, seen) = (Rig::new(), Seen::default());
    let edge = edge(&rig, &seen, ROUTES).await;
    let asked = [("Origin", "https://shop.test"), ("Access-Control-Request-Method", "GET")];
    let answer = request(edge.plain, "OPTIONS", "/ads", &asked, "").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (401, None));
}

const BEHIND: &str = "behind.from = [\"127.0.0.1\"]\nbehind.x_forwarded_proto = true\n";

#[tokio::test]
async fn whose_request_it_is_is_told_by_listed_proxies_alone() {
    let (rig, seen) = (Rig::new(), Seen::default());
    let lines = [("X-Forwarded-For", "6.6.6.6, 192.0.2.1"), ("X-Forwarded-Proto", "https")];
    let behind = edge(&rig, &seen, &format!("{BEHIND}{ROUTES}")).await;
    assert_eq!(get(behind.plain, "/open", &lines).await.status, 200);
    assert_eq!(echo::header(&seen.last(), "x-forwarded-for"), ["192.0.2.1"]);
    assert_eq!(echo::header(&seen.last(), "x-forwarded-proto"), ["https"]);
    drop(behind);
    let (rig, seen) = (Rig::new(), Seen::default());
    let alone = edge(&rig, &seen, &format!("behind.from = [\"192.0.2.0/24\"]\n{ROUTES}")).await;
    assert_eq!(get(alone.plain, "/open", &lines).await.status, 200);
    assert_eq!(echo::header(&seen.last(), "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(echo::header(&seen.last(), "x-forwarded-proto"), ["http"]);
}

#[tokio::test]
async fn networks_are_let_in_or_kept_out_by_the_gateway_and_by_a_route() {
    let (rig, seen) = (Rig::new(), Seen::default());
    let lists = "access.deny = [\"203.0.113.0/24\"]\n";
    let narrow = "[[route]]\npath = \"/narrow\"\nto = \"ads\"\nuser = \"none\"\naccess.allow = [\"198.51.100.0/24\"]\n";
    let edge = edge(&rig, &seen, &format!("{BEHIND}{lists}{narrow}{ROUTES}")).await;
    let ask = async |path, from| get(edge.plain, path, &[("X-Forwarded-For", from)]).await;
    assert_eq!(ask("/open", "192.0.2.1").await.status, 200);
    let refused = ask("/open", "203.0.113.9").await;
    assert_eq!(refused.problem(403), "access_denied");
    let id = refused.json()["decision"].as_str().unwrap().to_owned();
    let decision = rig.decision(|decision| decision.id.to_string() == id).await;
    assert_eq!(decision.code.as_deref(), Some("CS1018"));
    // An address more than the network has, and the same one written as IPv6.
    assert_eq!(ask("/open", "203.0.114.0").await.status, 200);
    assert_eq!(ask("/open", "::ffff:203.0.113.9").await.status, 403);
    assert_eq!(ask("/narrow", "192.0.2.1").await.status, 403);
    assert_ne!(ask("/narrow", "198.51.100.1").await.status, 200, "past the list there is still the policy");
    let decision = rig
        .decision(|decision| decision.route == "/narrow" && decision.code.as_deref() != Some("CS1018"))
        .await;
    assert!(decision.checks.iter().any(|check| check.name == "route" && check.result.as_str() == "pass"));
}

#[tokio::test]
async fn countries_come_from_a_file_that_is_read_again_when_it_changes() {
    let (rig, seen) = (Rig::new(), Seen::default());
    let file = rig.dir.path().join("countries.mmdb");
    write_countries(&file, 192, "AT");
    let settings = format!("countries_file = {file:?}\naccess.allow_countries = [\"AT\"]\n{BEHIND}{ROUTES}");
    let edge = edge(&rig, &seen, &settings).await;
    let ask = async |from| get(edge.plain, "/open", &[("X-Forwarded-For", from)]).await.status;
    assert_eq!(ask("192.0.2.1").await, 200);
    assert_eq!(ask("198.51.100.1").await, 403, "of no known country");
    // A file that is none keeps the one before.
    std::fs::write(&file, "nonsense").unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(ask("192.0.2.1").await, 200);
    write_countries(&file, 198, "AT");
    for _ in 0..100 {
        if ask("198.51.100.1").await == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((ask("198.51.100.1").await, ask("192.0.2.1").await), (200, 403));
}

/// The smallest MaxMind database: one /8 of IPv4 is in one country (MaxMind DB file format 2.0).
pub(crate) fn write_countries(path: &Path, first_octet: u8, country: &str) {
    const NODES: u32 = 8;
    let text = |text: &str| [&[0x40 | u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let map = |members: u8| vec![0xe0 | members];
    let short = |value: u8| vec![0xa1, value];
    let mut file = Vec::new();
    for depth in 0..NODES {
        let next = if depth + 1 == NODES { NODES + 16 } else { depth + 1 };
        let bit = first_octet >> (7 - depth) & 1;
        let records = if bit == 0 { [next, NODES] } else { [NODES, next] };
        for record in records {
            file.extend_from_slice(&record.to_be_bytes()[1..]);
        }
    }
    file.extend_from_slice(&[0; 16]);
    file.extend([map(1), text("country"), map(1), text("iso_code"), text(country)].concat());
    file.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
    let metadata = [
        map(9),
        text("binary_format_major_version"),
        short(2),
        text("binary_format_minor_version"),
        short(0),
        text("build_epoch"),
        vec![0x01, 0x02, 1],
        text("database_type"),
        text("Test-Country"),
        text("description"),
        map(1),
        text("en"),
        text("test"),
        text("ip_version"),
        short(4),
        text("languages"),
        vec![0x00, 0x04],
        text("node_count"),
        vec![0xc1, NODES as u8],
        text("record_size"),
        short(24),
    ];
    file.extend(metadata.concat());
    // Replaced, not changed in place: as an updater would.
    let new = path.with_extension("new");
    std::fs::write(&new, file).unwrap();
    std::fs::rename(new, path).unwrap();
}
