//! HTTP/1.x as clients speak it: one connection, many requests, bodies that are read, awaited, left or broken off.
use std::time::Duration;

use crate::rig::client::{get, head_and_body, raw, read_answer};
use crate::rig::echo::{self, Seen};
use crate::rig::{Rig, Running};
use axum::Router;
use countersign_ledger::{Stage, Verdict};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const ROUTES: &str = "[[route]]\npath = \"/open/*\"\nto = \"ads\"\nuser = \"optional\"\n";
const RULES: &str = "@id(\"open\")\npermit (principal, action, resource);";

async fn deployment(further: &str) -> (Rig, Running, Seen) {
    let seen = Seen::default();
    let (rig, edge) = before(echo::router(&["/open/{*rest}"], &seen), further).await;
    (rig, edge, seen)
}

async fn before(router: Router, further: &str) -> (Rig, Running) {
    let rig = Rig::new();
    rig.policy("gateway", RULES);
    rig.open_service("ads", router).await;
    let edge = rig.gateway(&format!("{further}\n{ROUTES}")).await;
    (rig, edge)
}

async fn connect(edge: &Running) -> TcpStream {
    TcpStream::connect(edge.plain).await.unwrap()
}

async fn ended(stream: &mut TcpStream) -> bool {
    let read = timeout(Duration::from_secs(5), stream.read(&mut [0; 16])).await.expect("it ends");
    read.unwrap_or(0) == 0
}

#[tokio::test]
async fn one_connection_carries_many_requests_also_such_as_come_at_once() {
    let (_rig, edge, seen) = deployment("").await;
    let mut stream = connect(&edge).await;
    for path in ["/open/a", "/open/b"] {
        let request = head_and_body("POST", path, "flea.test", &[], "hello");
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(read_answer(&mut stream).await.status, 200);
        assert_eq!((&seen.last()["path"], &seen.last()["body"]), (&path.into(), &"hello".into()));
    }
    let three: String =
        (0..3).map(|n| head_and_body("GET", &format!("/open/{n}"), "flea.test", &[], "")).collect();
    stream.write_all(three.as_bytes()).await.unwrap();
    let last = head_and_body("GET", "/nowhere", "flea.test", &[("Connection", "close")], "");
    stream.write_all(last.as_bytes()).await.unwrap();
    let mut text = String::new();
    timeout(Duration::from_secs(5), stream.read_to_string(&mut text)).await.unwrap().unwrap();
    let statuses: Vec<&str> = text.match_indices("HTTP/1.1 ").map(|(at, _)| &text[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "200", "200", "404"]);
    assert!(text.contains("connection: close"));
    let paths: Vec<_> = seen.all().iter().skip(2).map(|saw| saw["path"].clone()).collect();
    assert_eq!(paths, ["/open/0", "/open/1", "/open/2"]);
}

#[tokio::test]
async fn a_client_that_waits_is_asked_for_its_body_only_where_somebody_wants_it() {
    let (_rig, edge, seen) = deployment("").await;
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: flea.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    let mut stream = connect(&edge).await;
    stream.write_all(head("/open/a").as_bytes()).await.unwrap();
    let mut word = [0; 25];
    timeout(Duration::from_secs(5), stream.read_exact(&mut word)).await.unwrap().unwrap();
    assert_eq!(&word, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(read_answer(&mut stream).await.status, 200);
    assert_eq!(seen.last()["body"], "hello");
    // Refused: no word, the answer at once, and an end, since nobody knows whether the body follows.
    stream.write_all(head("/nowhere").as_bytes()).await.unwrap();
    let answer = read_answer(&mut stream).await;
    assert_eq!((answer.status, answer.header("connection")), (404, Some("close")));
    assert!(ended(&mut stream).await);
}

#[tokio::test]
async fn a_client_that_has_said_all_still_gets_its_answer() {
    let (_rig, edge, seen) = deployment("").await;
    let mut stream = connect(&edge).await;
    stream.write_all(head_and_body("POST", "/open/a", "flea.test", &[], "hello").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_answer(&mut stream).await.status, 200);
    assert!(ended(&mut stream).await);
    assert_eq!(seen.count(), 1);
}

#[tokio::test]
async fn a_short_body_that_nobody_wanted_is_no_obstacle_to_the_next_request() {
    let (_rig, edge, seen) = deployment("").await;
    let mut stream = connect(&edge).await;
    let head = "POST /nowhere HTTP/1.1\r\nHost: flea.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut stream).await.status, 404);
    stream.write_all(b"5\r\nhello\r\n0\r\n\r\n").await.unwrap();
    stream.write_all(head_and_body("GET", "/open/a", "flea.test", &[], "").as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut stream).await.status, 200);
    assert_eq!(seen.count(), 1);
}

#[tokio::test]
async fn head_and_http_1_0_are_answered_in_their_own_way() {
    let (_rig, edge, _seen) = deployment("").await;
    let mut stream = connect(&edge).await;
    stream.write_all(head_and_body("HEAD", "/open/a", "flea.test", &[], "").as_bytes()).await.unwrap();
    stream.write_all(head_and_body("GET", "/nowhere", "flea.test", &[], "").as_bytes()).await.unwrap();
    let mut bytes = vec![0; 64 * 1024];
    let (mut text, mut read) = (String::new(), 1);
    while read > 0 && !text.contains("404 Not Found") {
        read = timeout(Duration::from_secs(5), stream.read(&mut bytes)).await.unwrap().unwrap();
        text.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    // Right behind the empty line of the first answer stands the second.
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("\r\n\r\nHTTP/1.1 404"), "{text}");

    let mut old = connect(&edge).await;
    old.write_all(b"GET /open/a HTTP/1.0\r\nHost: flea.test\r\n\r\n").await.unwrap();
    let answer = read_answer(&mut old).await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(answer.header("transfer-encoding").is_none());
    assert!(ended(&mut old).await);
    let mut kept = connect(&edge).await;
    for _ in 0..2 {
        kept.write_all(b"GET /nowhere HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").await.unwrap();
        let answer = read_answer(&mut kept).await;
        assert_eq!((answer.status, answer.header("connection")), (404, Some("keep-alive")));
    }
}

#[tokio::test]
async fn every_answer_is_dated() {
    let (_rig, edge, _seen) = deployment("").await;
    for path in ["/open/a", "/nowhere", "/open//a"] {
        let answer = get(edge.plain, path, &[]).await;
        let date = answer.header("date").unwrap().to_owned();
        assert!(date.ends_with(" GMT") && answer.head.matches("date: ").count() == 1, "{answer:?}");
    }
}

#[tokio::test]
async fn what_is_no_request_is_recorded_and_the_last_of_its_connection() {
    let (rig, edge, seen) = deployment("").await;
    let bytes = "GET /open/a HTTP/1.1\r\nHost: flea.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n\
                 GET /open/smuggled HTTP/1.1\r\nHost: flea.test\r\n\r\n";
    let mut stream = connect(&edge).await;
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let answer = read_answer(&mut stream).await;
    assert_eq!(answer.problem(400), "malformed_request");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(ended(&mut stream).await);
    let id = answer.json()["decision"].as_str().unwrap().to_owned();
    let decision = rig.decision(|d| d.id.to_string() == id).await;
    assert_eq!((decision.verdict, decision.stage), (Verdict::Deny, Stage::Request));
    assert!(decision.reason.unwrap().contains("transfer-encoding"));
    assert_eq!(seen.count(), 0);
}

#[tokio::test]
async fn a_head_that_takes_too_long_is_told_so() {
    let (_rig, edge, _seen) = deployment("[limits]\nhead_read_timeout_ms = 200").await;
    let answer = raw(edge.plain, "GET /open/a HTTP/1.1\r\nHost:").await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (408, Some("request_timeout")));
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut() {
    let endless =
        Router::new().route("/open/{*rest}", axum::routing::get(|| async { vec![b'x'; 64 * 1024 * 1024] }));
    let (_rig, edge) = before(endless, "[limits]\nidle_timeout_ms = 300").await;
    let mut stream = connect(&edge).await;
    stream.write_all(head_and_body("GET", "/open/a", "flea.test", &[], "").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2000)).await;
    let mut total = 0;
    let mut bytes = vec![0; 1024 * 1024];
    while let Ok(read) = timeout(Duration::from_secs(5), stream.read(&mut bytes)).await.unwrap() {
        total += read;
        if read == 0 {
            break;
        }
    }
    assert!(total < 64 * 1024 * 1024, "{total}");
}

#[tokio::test]
async fn a_gateway_that_drains_ends_connections_that_wait_and_tells_those_that_do_not() {
    let slow = Router::new().route(
        "/open/{*rest}",
        axum::routing::get(|| async {
            tokio::time::sleep(Duration::from_millis(800)).await;
            "done"
        }),
    );
    let (_rig, edge) = before(slow, "").await;
    let (mut waits, mut asks) = (connect(&edge).await, connect(&edge).await);
    asks.write_all(head_and_body("GET", "/open/a", "flea.test", &[], "").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    edge.shutdown.cancel();
    assert!(ended(&mut waits).await);
    let answer = read_answer(&mut asks).await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    edge.task.await.unwrap();
}
