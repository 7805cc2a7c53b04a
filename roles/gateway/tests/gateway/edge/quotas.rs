//! What clients may take of an edge: quotas, connections, time, and bytes.

use std::time::{Duration, Instant};

use axum::Router;
use countersign_ledger::{Stage, Verdict};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{ROUTES, RULES, deployment, over_tls, tls_settings, with_upstream};
use crate::rig::Rig;
use crate::rig::client::{get, head_and_body, raw, request};
use crate::rig::echo::{self, Seen};

#[tokio::test]
async fn an_address_over_its_quota_is_429_with_retry_after() {
    let throttle = "[throttle]\nrequests_burst = 3\nrequests_per_second = 1";
    let (rig, edge, seen) = deployment(throttle).await;
    for _ in 0..3 {
        assert_eq!(get(edge.plain, "/open/a", &[]).await.status, 200);
    }
    let answer = get(edge.plain, "/open/a", &[]).await;
    assert_eq!(answer.problem(429), "too_many_requests");
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&seconds), "{seconds}");
    assert_eq!(seen.count(), 3);
    let decision = rig.decision(|d| d.status == 429).await;
    assert_eq!(decision.stage, Stage::Quota);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    assert_eq!(get(edge.plain, "/open/a", &[]).await.status, 200);
}

#[tokio::test]
async fn an_address_holds_only_so_many_connections() {
    let (_rig, edge, _seen) = deployment("[limits]\nconnections_per_address_max = 3").await;
    let held: Vec<TcpStream> = futures::future::join_all((0..3).map(|_| TcpStream::connect(edge.plain)))
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut fourth = TcpStream::connect(edge.plain).await.unwrap();
    let _ = fourth.write_all(head_and_body("GET", "/open/a", "flea.test", &[], "").as_bytes()).await;
    assert_eq!(fourth.read(&mut [0; 16]).await.unwrap_or(0), 0, "it is closed without an answer");
    drop(held);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(get(edge.plain, "/open/a", &[]).await.status, 200);
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_head_is_cut() {
    let (_rig, edge, seen) = deployment("[limits]\nhead_read_timeout_ms = 300").await;
    for start in ["", "GET /open/a HTTP/1.1\r\n", "GET /open/a HTTP/1.1\r\nHost: flea"] {
        let mut stream = TcpStream::connect(edge.plain).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        let started = Instant::now();
        let mut rest = Vec::new();
        if !start.is_empty() {
            let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest))
                .await
                .expect("cut");
            assert!(started.elapsed() < Duration::from_secs(3), "{start}");
        }
    }
    assert_eq!(seen.count(), 0);
}

#[tokio::test]
async fn a_connection_that_sends_nothing_is_closed() {
    let (_rig, edge, _seen) = deployment("[limits]\nidle_timeout_ms = 300\ndrain_timeout_ms = 200").await;
    let mut stream = TcpStream::connect(edge.plain).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut [0; 16]))
        .await
        .expect("closed in time");
    assert_eq!(end.unwrap_or(0), 0);
}

/// Both ends of each connection are files of this process.
fn allow_open_files(count: u32) {
    let pid = std::process::id().to_string();
    let limit = format!("--nofile={count}");
    let raised = std::process::Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(
        raised.is_ok_and(|status| status.success()),
        "prlimit (util-linux) cannot raise the limit of open files"
    );
}

#[tokio::test]
async fn a_thousand_stalled_handshakes_time_out_and_disturb_nobody() {
    let rig = Rig::new();
    rig.policy("gateway", RULES);
    rig.open_service("ads", echo::router(&["/open/{*rest}"], &Seen::default())).await;
    let (toml, root) = tls_settings(&rig, &["flea.test"], "edge");
    let limits = "[limits]\nhandshake_timeout_ms = 4000\nconnections_per_address_max = 2000";
    let edge = rig.gateway(&format!("{toml}\n{ROUTES}\n{limits}")).await;
    allow_open_files(8192);
    // A record header that promises a ClientHello which never comes.
    let stall = || async {
        let mut stream = TcpStream::connect(edge.tls.unwrap()).await.unwrap();
        stream.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
        stream
    };
    let mut stalled = Vec::new();
    for _ in 0..10 {
        stalled.extend(futures::future::join_all((0..100).map(|_| stall())).await);
    }
    assert_eq!(stalled.len(), 1000);
    for _ in 0..20 {
        assert_eq!(over_tls(&edge, "flea.test", &root, "flea.test").await.status, 200);
    }
    let mut byte = [0; 1];
    let waits = stalled.iter_mut().filter(|stream| {
        // Nothing was said to those that have not timed out yet.
        matches!(stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    });
    assert_eq!(waits.count(), 1000, "the service was asked while not all of them were stalled");
    for mut stream in stalled {
        let end = tokio::time::timeout(Duration::from_secs(15), stream.read(&mut [0; 16])).await;
        assert_eq!(end.expect("timed out").unwrap_or(0), 0);
    }
    let decision = rig.decision(|d| d.stage == Stage::Transport).await;
    assert_eq!(decision.verdict, Verdict::Deny);
}

#[tokio::test]
async fn a_body_past_its_limit_is_413_and_one_at_the_limit_passes() {
    let (_rig, edge, seen) = deployment("[limits]\nbody_bytes_max = 1000").await;
    let answer = request(edge.plain, "POST", "/open/a", &[], &"x".repeat(1000)).await;
    assert_eq!((answer.status, seen.last()["body_bytes"].as_u64()), (200, Some(1000)));
    let answer = request(edge.plain, "POST", "/open/a", &[], &"x".repeat(1001)).await;
    assert_eq!(answer.problem(413), "body_too_large");
    let chunk = format!("1f4\r\n{}\r\n", "x".repeat(500));
    let head = "POST /open/a HTTP/1.1\r\nHost: flea.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = raw(edge.plain, format!("{head}{chunk}{chunk}0\r\n\r\n")).await;
    assert_eq!((answer.status, seen.last()["body_bytes"].as_u64()), (200, Some(1000)));
    let answer = raw(edge.plain, format!("{head}{chunk}{chunk}1\r\nx\r\n0\r\n\r\n")).await;
    assert_eq!(answer.problem(413), "body_too_large");
    assert_eq!(seen.count(), 2);
}

#[tokio::test]
async fn a_body_that_stalls_is_408_and_one_that_breaks_off_is_never_a_request() {
    let (_rig, edge, seen) = deployment("[limits]\nbody_idle_timeout_ms = 300").await;
    let head = "POST /open/a HTTP/1.1\r\nHost: flea.test\r\nContent-Length: 100\r\n\r\nonly this";
    let answer = raw(edge.plain, head).await;
    assert_eq!(answer.problem(408), "request_timeout");
    let mut stream = TcpStream::connect(edge.plain).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(seen.count(), 0);
}

#[tokio::test]
async fn large_bodies_stream_both_ways() {
    let router = Router::new().route(
        "/open/{*rest}",
        axum::routing::post(|request: axum::extract::Request| async {
            // The very bytes go back while they come in.
            axum::response::Response::new(request.into_body())
        }),
    );
    let (_rig, edge) = with_upstream(router, "[limits]\nbody_bytes_max = 67108864").await;
    const BYTES: usize = 32 * 1024 * 1024;
    let stream = TcpStream::connect(edge.plain).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let writer = tokio::spawn(async move {
        let head = format!(
            "POST /open/a HTTP/1.1\r\nHost: flea.test\r\nContent-Length: {BYTES}\r\nConnection: close\r\n\r\n"
        );
        writing.write_all(head.as_bytes()).await.unwrap();
        let chunk = vec![b'x'; 64 * 1024];
        for _ in 0..BYTES / chunk.len() {
            writing.write_all(&chunk).await.unwrap();
        }
        writing
    });
    let (mut total, mut buffer, mut start) = (0, vec![0; 256 * 1024], Vec::new());
    loop {
        let count = reading.read(&mut buffer).await.unwrap();
        if count == 0 {
            break;
        }
        if start.len() < 15 {
            start.extend_from_slice(&buffer[..count.min(15)]);
        }
        total += count;
    }
    writer.await.unwrap();
    assert!(start.starts_with(b"HTTP/1.1 200 OK"), "{}", String::from_utf8_lossy(&start));
    assert!(total > BYTES, "{total}");
}
