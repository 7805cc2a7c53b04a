//! What HTTP/2 lets a client ask for in a few bytes: each flood ends its own connection or waits, costs a bounded amount of
//! memory, and nobody else notices.
use std::net::SocketAddr;
use std::process::Command;

use axum::Router;

use crate::rig::client::get;
use crate::rig::echo::{self, Seen};
use crate::rig::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Flood, Frames, GET, HEADERS, PING, POST, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, frame, head,
};
use crate::rig::{Rig, Running};

const ROUTES: &str = "[throttle]\nrequests_burst = 100000\n[limits]\nbody_idle_timeout_ms = 1000\n\
     [[route]]\npath = \"/open/*\"\nto = \"ads\"\nuser = \"optional\"\n";
const RULES: &str = "@id(\"open\")\npermit (principal, action, resource);";

async fn deployment() -> (Rig, Running, Seen) {
    let (rig, seen) = (Rig::new(), Seen::default());
    let endless =
        Router::new().route("/open/long", axum::routing::get(|| async { vec![b'x'; 8 * 1024 * 1024] }));
    rig.policy("gateway", RULES);
    rig.open_service("ads", echo::router(&["/open/short"], &seen).merge(endless)).await;
    let edge = rig.gateway(ROUTES).await;
    (rig, edge, seen)
}

/// Others are served while this connection does what it does, and the process has not grown by more than a flood is worth.
async fn others_are_served(address: SocketAddr, before: usize) {
    for _ in 0..5 {
        assert_eq!(get(address, "/open/short", &[]).await.status, 200);
    }
    let grown = resident().saturating_sub(before);
    // Far below what unbounded queues of these floods take.
    assert!(grown < 384 * 1024 * 1024, "{grown} bytes more than before");
}

/// Is this the process in which the test runs alone? Its neighbours allocate what they like, and memory is counted by
/// process: so each runs in a child, and here only waits for it.
fn is_alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &format!("http2_floods::{test}"), "--nocapture"]).env(ALONE, "1");
    let out = child.output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success() && said.contains(" 1 passed;"),
        "{said}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    false
}

/// Set in such a child.
const ALONE: &str = "COUNTERSIGN_TEST_ALONE";

/// Bytes of memory that this process has in use.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn a_client_that_takes_back_every_request_at_once_is_cut_off() {
    if !is_alone("a_client_that_takes_back_every_request_at_once_is_cut_off") {
        return;
    }
    let (_rig, edge, seen) = deployment().await;
    let before = resident();
    let mut client = Frames::open(edge.plain, &[]).await;
    let flood = client.flood(1_000, |batch| {
        let both = |number: u32| {
            let stream = (batch * 100 + number) * 2 + 1;
            let asked = frame(HEADERS, END_STREAM | END_HEADERS, stream, &head(GET, "/open/short"));
            [asked, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
        };
        (0..100).flat_map(both).collect()
    });
    assert_eq!(flood.await, Flood::Ended);
    // Far fewer than were asked for reached the service.
    assert!(seen.count() < 5_000, "{}", seen.count());
    others_are_served(edge.plain, before).await;
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    if !is_alone("a_head_that_never_ends_is_cut_off") {
        return;
    }
    let (_rig, edge, seen) = deployment().await;
    let before = resident();
    for piece in [16_384, 100, 1, 0] {
        let mut client = Frames::open(edge.plain, &[]).await;
        client.send(&frame(HEADERS, END_STREAM, 1, &head(GET, "/open/short"))).await;
        // A literal header without a name in the table whose value goes on and on.
        let flood = client.flood(100_000, |_| frame(CONTINUATION, 0, 1, &vec![0; piece])).await;
        assert_eq!(flood, Flood::Ended, "{piece} bytes at a time");
        others_are_served(edge.plain, before).await;
    }
    assert_eq!(seen.count(), 20);
}

#[tokio::test]
async fn pings_and_settings_without_end_wait_until_their_answers_are_read() {
    if !is_alone("pings_and_settings_without_end_wait_until_their_answers_are_read") {
        return;
    }
    let (_rig, edge, _seen) = deployment().await;
    let before = resident();
    for (kind, payload) in [(PING, &[0; 8][..]), (SETTINGS, &[][..]), (SETTINGS, &[0, 4, 0, 0, 255, 255][..])]
    {
        let mut client = Frames::open(edge.plain, &[]).await;
        let thousand: Vec<u8> = (0..1_000).flat_map(|_| frame(kind, 0, 0, payload)).collect();
        let flood = client.flood(3_000, |_| thousand.clone()).await;
        assert_ne!(flood, Flood::Swallowed, "{kind}: answers that nobody reads are kept somewhere");
        others_are_served(edge.plain, before).await;
    }
}

#[tokio::test]
async fn data_frames_without_data_are_no_way_to_keep_a_service_busy() {
    if !is_alone("data_frames_without_data_are_no_way_to_keep_a_service_busy") {
        return;
    }
    let (_rig, edge, seen) = deployment().await;
    let before = resident();
    let mut client = Frames::open(edge.plain, &[]).await;
    client.send(&frame(HEADERS, END_HEADERS, 1, &head(POST, "/open/short"))).await;
    let thousand: Vec<u8> = (0..1_000).flat_map(|_| frame(DATA, 0, 1, &[])).collect();
    let flood = client.flood(1_000, |_| thousand.clone()).await;
    assert_eq!(flood, Flood::Ended);
    others_are_served(edge.plain, before).await;
    assert!(seen.all().iter().all(|saw| saw["method"] == "GET"), "a request without end is none");
}

#[tokio::test]
async fn windows_of_one_byte_hold_back_the_service_and_fill_no_memory() {
    if !is_alone("windows_of_one_byte_hold_back_the_service_and_fill_no_memory") {
        return;
    }
    let (_rig, edge, _seen) = deployment().await;
    let before = resident();
    // SETTINGS_INITIAL_WINDOW_SIZE = 1.
    let mut client = Frames::open(edge.plain, &[(4, 1)]).await;
    for stream in 0..100_u32 {
        client
            .send(&frame(HEADERS, END_STREAM | END_HEADERS, stream * 2 + 1, &head(GET, "/open/long")))
            .await;
    }
    let (mut data, mut ends) = (0, 0);
    while data < 500 && ends < 100 {
        let (kind, stream, payload) = client.next().await.expect("the connection goes on");
        match kind {
            DATA => {
                assert_eq!(payload.len(), 1);
                data += 1;
                client.send(&frame(WINDOW_UPDATE, 0, stream, &1_u32.to_be_bytes())).await;
            }
            RST_STREAM => ends += 1,
            _ => {}
        }
    }
    others_are_served(edge.plain, before).await;
    // 100 answers of 8 MiB each would be 800 MiB.
    assert!(resident().saturating_sub(before) < 384 * 1024 * 1024);
}
