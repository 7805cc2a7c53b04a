//! How many requests there may be: by whom they are counted, what clients are told, and what several gateways share.
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sfv::{List, Parser};
use tokio::net::TcpStream;

use crate::rig::client::{Answer, bearer, get, raw};
use crate::rig::echo::{self, Seen};
use crate::rig::{Rig, Running};

const EDGE_RULES: &str = r#"
@id("signed-in")
permit (principal is User, action, resource in Service::"gateway");
@id("open")
permit (principal is Stranger, action == Action::"GET", resource == Route::"gateway /open");
"#;

fn routes(to: &str, limit: &str) -> String {
    format!(
        "[[route]]\npath = \"/ads\"\nto = \"ads\"\n[[route]]\npath = \"/open\"\nto = \"{to}\"\nuser = \"none\"\n{limit}\n"
    )
}

async fn edge(rig: &Rig, seen: &Seen, toml: &str) -> Running {
    rig.policy("gateway", EDGE_RULES);
    rig.open_service("ads", echo::router(&["/ads", "/open"], seen)).await;
    rig.gateway(toml).await
}

/// A plain server on loopback, which the quick carrier serves.
async fn upstream(seen: &Seen) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = echo::router(&["/ads", "/open"], seen);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("[[upstream]]\nname = \"plain\"\nendpoints = [\"{address}\"]\n")
}

/// Policy and number of a field of one member, as any reader of structured fields has them.
fn member(answer: &Answer, field: &str, key: &str) -> i64 {
    let list: List = Parser::new(answer.header(field).unwrap()).parse().unwrap();
    let sfv::ListEntry::Item(item) = &list[0] else { panic!("{list:?}") };
    item.params.iter().find(|(name, _)| name.as_str() == key).unwrap().1.as_integer().unwrap().into()
}

#[tokio::test]
async fn a_user_over_the_limit_gets_429_and_is_told_when_to_come_again_and_others_are_served() {
    let (rig, seen) = (Rig::new(), Seen::default());
    let edge =
        edge(&rig, &seen, &format!("limit = [{{ per = \"user\", rate = \"2/h\" }}]\n{}", routes("ads", "")))
            .await;
    let ask = async |user: &str| {
        let token = rig.access_token(user, &[]);
        get(edge.plain, "/ads", &[("Authorization", &bearer(&token))]).await
    };
    for left in [1, 0] {
        // Another token each time: it is the user who is counted.
        let answer = ask("alice").await;
        assert_eq!(
            (answer.status, answer.header("ratelimit-policy")),
            (200, Some("\"gateway-user\";q=2;w=3600"))
        );
        assert_eq!(member(&answer, "ratelimit", "r"), left);
    }
    let refused = ask("alice").await;
    assert_eq!(refused.problem(429), "too_many_requests");
    let retry_after: i64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1700..=1800).contains(&retry_after), "{retry_after}");
    assert_eq!((member(&refused, "ratelimit", "r"), member(&refused, "ratelimit", "t")), (0, retry_after));
    assert_eq!(ask("bob").await.status, 200);
    assert_eq!(seen.count(), 3);
}

#[tokio::test]
async fn a_user_who_asks_again_and_again_for_what_nobody_may_is_counted_too() {
    let (rig, seen) = (Rig::new(), Seen::default());
    let limits = "limit = [{ per = \"user\", rate = \"2/h\" }, { per = \"service\", rate = \"3/h\" }]\n";
    let edge = edge(&rig, &seen, &format!("{limits}{}", routes("ads", ""))).await;
    rig.policy("gateway", "@id(\"nobody\") forbid (principal, action, resource);");
    let live = edge.workload.clone();
    let sequence = rig.world.sequence();
    crate::rig::eventually(|| live.live().snapshot().sequence >= sequence).await;
    let token = bearer(&rig.access_token("alice", &[]));
    let ask = async |token: &str| get(edge.plain, "/ads", &[("Authorization", token)]).await.status;
    assert_eq!([ask(&token).await, ask(&token).await, ask(&token).await], [403, 403, 429]);
    let bob = bearer(&rig.access_token("bob", &[]));
    assert_eq!([ask(&bob).await, ask(&bob).await], [403, 429], "three went to the service, whoever asked");
    assert_eq!(seen.count(), 0);
}

#[tokio::test]
async fn a_route_is_limited_by_address_and_as_a_whole_also_where_the_head_is_only_borrowed() {
    for (limit, name) in [
        ("limit = { per = \"address\", rate = \"1/h\", name = \"each\" }", "\"each\";q=1;w=3600"),
        ("limit = [{ per = \"route\", rate = \"1/h\" }]", "\"route\";q=1;w=3600"),
        ("limit = [{ per = \"service\", rate = \"1/h\" }]", "\"service\";q=1;w=3600"),
    ] {
        let (rig, seen) = (Rig::new(), Seen::default());
        let settings =
            format!("behind.from = [\"127.0.0.1\"]\n{}{}", upstream(&seen).await, routes("plain", limit));
        let edge = edge(&rig, &seen, &settings).await;
        let ask = async |from| get(edge.plain, "/open", &[("X-Forwarded-For", from)]).await;
        let first = ask("192.0.2.1").await;
        assert_eq!((first.status, first.header("ratelimit-policy")), (200, Some(name)));
        assert_eq!(ask("192.0.2.1").await.problem(429), "too_many_requests");
        let other = ask("192.0.2.2").await.status;
        assert_eq!(other, if limit.contains("address") { 200 } else { 429 }, "{limit}");
    }
}

#[tokio::test]
async fn a_guarded_route_to_a_plain_upstream_is_guarded_too() {
    for (settings, limit, statuses) in [
        ("", "", [200, 200]),
        ("", "limit = { per = \"address\", rate = \"1/h\" }", [200, 429]),
        ("limit = [{ per = \"route\", rate = \"1/h\" }]\n", "", [200, 429]),
        ("access.deny = [\"127.0.0.0/8\"]\n", "", [403, 403]),
        ("", "access.deny = [\"127.0.0.0/8\"]", [403, 403]),
    ] {
        let (rig, seen) = (Rig::new(), Seen::default());
        let settings = format!("{settings}{}{}", upstream(&seen).await, routes("plain", limit));
        let edge = edge(&rig, &seen, &settings).await;
        for status in statuses {
            assert_eq!(get(edge.plain, "/open", &[]).await.status, status, "{settings}");
        }
    }
}

/// A Redis server of this test alone, or nothing where none is installed.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    async fn start(dir: &Path, port: u16) -> Option<Self> {
        let mut server = Command::new(countersign_testkit::redis_server()?);
        server
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .current_dir(dir)
            .stdout(Stdio::null());
        let redis = Redis { child: server.spawn().unwrap(), port };
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Some(redis);
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("redis-server does not listen");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn two_edges(rig: &Rig, seen: &Seen, redis: &Redis, on_failure: &str) -> [Running; 2] {
    let file = rig.dir.path().join("redis.url");
    std::fs::write(&file, format!("redis://127.0.0.1:{}\n", redis.port)).unwrap();
    let settings = format!(
        "limit = [{{ per = \"route\", rate = \"3/h\" }}]\nshared_limits = {{ url_file = {file:?}, timeout_ms = 1000, on_failure = {on_failure:?} }}\n{}",
        routes("ads", "")
    );
    let first = edge(rig, seen, &settings).await;
    let second = rig.gateway_of(first.workload.clone(), &settings).await;
    [first, second]
}

async fn status(address: SocketAddr) -> u16 {
    get(address, "/open", &[]).await.status
}

#[tokio::test]
async fn two_gateways_share_one_limit_and_without_their_server_each_counts_alone() {
    let (rig, seen) = (Rig::new(), Seen::default());
    let Some(redis) = Redis::start(rig.dir.path(), countersign_testkit::free_port()).await else {
        return;
    };
    let [one, two] = two_edges(&rig, &seen, &redis, "local").await;
    let first = get(one.plain, "/open", &[]).await;
    assert_eq!((first.status, member(&first, "ratelimit", "r")), (200, 2));
    let second = get(two.plain, "/open", &[]).await;
    assert_eq!((second.status, member(&second, "ratelimit", "r")), (200, 1));
    assert_eq!(status(one.plain).await, 200);
    let refused = get(two.plain, "/open", &[]).await;
    assert_eq!(refused.problem(429), "too_many_requests");
    let retry_after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1100..=1200).contains(&retry_after), "{retry_after}");
    assert_eq!(status(one.plain).await, 429);
    drop(redis);
    for edge in [&one, &two] {
        for expected in [200, 200, 200, 429] {
            assert_eq!(status(edge.plain).await, expected);
        }
    }
}

#[tokio::test]
async fn where_the_settings_say_so_nothing_is_served_without_the_server_of_shared_limits() {
    let (rig, seen) = (Rig::new(), Seen::default());
    let port = countersign_testkit::free_port();
    let Some(redis) = Redis::start(rig.dir.path(), port).await else {
        return;
    };
    let [one, _two] = two_edges(&rig, &seen, &redis, "refuse").await;
    assert_eq!(status(one.plain).await, 200);
    drop(redis);
    let refused = get(one.plain, "/open", &[]).await;
    assert_eq!((refused.problem(503), refused.header("retry-after")), ("unavailable".to_owned(), Some("1")));
    // And with it served again.
    let _again = Redis::start(rig.dir.path(), port).await.unwrap();
    let mut last = 0;
    for _ in 0..100 {
        last = status(one.plain).await;
        if last == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(last, 200);
}

/// PROXY protocol version 2: TCP over IPv4 from 192.0.2.1.
const INTRODUCTION: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\x0a\0\0\x01\x1f\x90\x01\xbb";
const REQUEST: &[u8] = b"GET /open HTTP/1.1\r\nHost: flea.test\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_listed_balancer_says_whose_connection_it_passes_on_and_must() {
    let (rig, seen) = (Rig::new(), Seen::default());
    let settings = format!("proxy_protocol_from = [\"127.0.0.1\"]\n{}", routes("ads", ""));
    let edge = edge(&rig, &seen, &settings).await;
    let answer = raw(edge.plain, [INTRODUCTION, REQUEST].concat()).await;
    assert_eq!(
        (answer.status, echo::header(&seen.last(), "x-forwarded-for")),
        (200, vec!["192.0.2.1".to_owned()])
    );
    // Without its word, or with one that cannot be read, the connection ends unanswered.
    for bytes in [REQUEST.to_vec(), [&INTRODUCTION[..12], b"\x21\x31\0\0", REQUEST].concat()] {
        assert_eq!(raw(edge.plain, bytes).await.status, 0);
    }
    assert_eq!(seen.count(), 1);
}

#[tokio::test]
async fn whoever_is_no_listed_balancer_says_it_in_vain() {
    for listed in ["", "proxy_protocol_from = [\"192.0.2.0/24\"]\n"] {
        let (rig, seen) = (Rig::new(), Seen::default());
        let edge = edge(&rig, &seen, &format!("{listed}{}", routes("ads", ""))).await;
        assert_ne!(raw(edge.plain, [INTRODUCTION, REQUEST].concat()).await.status, 200);
        assert_eq!(seen.count(), 0);
        assert_eq!(raw(edge.plain, REQUEST).await.status, 200);
    }
}
