//! # Switched while it runs
//!
//! Each edge has a mode of its own, and no switch costs a request.

use std::time::Duration;

use countersign_token::replay::UNBOUND_AHEAD_MAX;
use serde_json::Value;

use crate::deployment::{Deployment, text};
use crate::world::wait_for;

/// Each switch under traffic, and what the callees say that they verified.
#[test]
fn under_traffic_every_live_switch_happens_with_no_failed_request() {
    let d = Deployment::start();
    // A signed HTTP message names no connection: for the first seconds of a callee none is believed.
    std::thread::sleep(UNBOUND_AHEAD_MAX + Duration::from_secs(1));
    let traffic = d
        .command(&["demo", "traffic", "--seconds", "25", "-o", "json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let proven = ["jwt", "bearer", "wimse", "macaroon", "mtls+jwt", "mtls"];
    for (mode, more) in proven.into_iter().zip([NESTED, &[], HTTP_SIGNATURE, &[], PER_HOP, &[]]) {
        let changed = d.json(&[&["demo", "mode", mode], more].concat());
        assert_eq!(changed["unconfirmed"].as_array().unwrap().len(), 0, "{mode}: {changed}");
        std::thread::sleep(Duration::from_secs(1));
    }
    let out = traffic.wait_with_output().unwrap();
    let told: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
    assert!(out.status.success(), "{}\n{told}", text(&out.stderr));
    assert_eq!(told["unexpected"], 0, "{told}");
    assert!(told["requests"].as_u64().unwrap() > 100, "{told}");
    let edges = d.json(&["edges"]);
    for mode in proven {
        let verified = |edge: &&Value| {
            edge["source"].as_str().unwrap().ends_with("/gateway/edge") && edge["mode"] == mode
        };
        let counted: u64 = edges
            .as_array()
            .unwrap()
            .iter()
            .filter(verified)
            .map(|edge| edge["requests"].as_u64().unwrap())
            .sum();
        assert!(counted > 0, "{mode} was never verified: {edges}");
    }
}

/// In `none` the services know nobody, so they refuse everybody, and nothing else counts as right.
#[test]
fn traffic_expects_of_each_mode_what_that_mode_lets_through() {
    let d = Deployment::start();
    let traffic = |seconds: &str| {
        let out = d.run(&["demo", "traffic", "--seconds", seconds, "-o", "json"]);
        (out.status.code(), serde_json::from_slice::<Value>(&out.stdout).unwrap())
    };
    d.ok(&["demo", "mode", "none"]);
    let (code, told) = traffic("2");
    assert_eq!((code, &told["unexpected"]), (Some(0), &0.into()), "{told}");
    let answers = told["answers"].as_object().unwrap();
    assert!(!answers.is_empty() && answers.keys().all(|answer| answer.ends_with(" 403")), "{told}");

    // There and back while it runs.
    let traffic_beside = d
        .command(&["demo", "traffic", "--seconds", "12", "-o", "json"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    for mode in ["jwt", "none", "mtls"] {
        std::thread::sleep(Duration::from_secs(1));
        d.ok(&["demo", "mode", mode]);
    }
    let out = traffic_beside.wait_with_output().unwrap();
    let told: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((out.status.code(), &told["unexpected"]), (Some(0), &0.into()), "{told}");
    let answers = told["answers"].as_object().unwrap();
    assert!(answers.keys().any(|answer| answer.ends_with(" 200")), "{told}");

    // A gateway that sends what no service accepts any longer is not what anybody expects.
    d.ok(&["service", "mode", "gateway", "--send", "none"]);
    let (code, told) = traffic("2");
    assert_eq!(code, Some(1), "{told}");
    assert!(told["unexpected"].as_u64().unwrap() > 0, "{told}");
}

/// Idea 6: every credential ends in the same caller, so a service may be called by one kind and call by another.
#[test]
fn each_edge_has_its_own_mode_and_a_service_translates_between_them() {
    let d = Deployment::start();
    for arguments in [
        ["ads", "--accept", "macaroon", "--lower-for", "600"].as_slice(),
        &["gateway", "--send", "macaroon"],
        &["users", "--accept", "wimse", "--lower-for", "600"],
        &["ads", "--send", "wimse"],
    ] {
        d.ok(&[&["service", "mode"], arguments].concat());
    }
    // A floor is lowered by the flag that says for how long, and by nothing else.
    assert_eq!(d.run(&["service", "mode", "chat", "--accept", "bearer"]).status.code(), Some(2));
    let (status, body) = d.as_user("alice", "/ads?near=48.37,14.51", &[]);
    assert_eq!(status, 200, "{body}");
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["previews"], "shown", "{body}");
    for (source, target, mode) in [("/gateway/edge", "ads", "macaroon"), ("/svc/ads", "users", "wimse")] {
        let verified = wait_for(|| {
            let edges = d.json(&["edges"]);
            let found = edges.as_array().unwrap().iter().any(|edge| {
                edge["source"].as_str().unwrap().ends_with(source)
                    && edge["target"] == target
                    && edge["mode"] == mode
            });
            found.then_some(())
        });
        assert!(verified.is_some(), "{source} to {target} by {mode}");
    }
    let told = d.run(&["check"]);
    let said = text(&told.stdout);
    assert!(said.contains("the floor of ads is lowered for another"), "{said}");
    assert!(said.contains("gateway sends macaroon, which"), "{said}");
}

const NESTED: &[&str] = &["--user-context", "nested"];
const PER_HOP: &[&str] = &["--user-context", "per-hop"];
const HTTP_SIGNATURE: &[&str] = &["--wimse", "http-signature"];

/// T61, T62, T66: the third hop (gateway, ads, users) sees the same verified user, however it is carried along.
#[test]
fn the_third_hop_sees_the_verified_user_in_every_way_of_carrying_it_along() {
    every_third_hop_sees_the_user(
        &Deployment::start(),
        &[
            ("mtls", "same", "internal_token", 0),
            ("jwt", "same", "internal_token", 0),
            ("jwt", "nested", "hop_token", 0),
            ("mtls+jwt", "nested", "hop_token", 0),
            ("mtls", "per-hop", "hop_token", 2),
            ("jwt", "per-hop", "hop_token", 2),
            ("bearer", "per-hop", "hop_token", 2),
        ],
    );
}

/// Mode, way of carrying the user, what users verifies of them, and how often the authority is asked.
pub type Way = (&'static str, &'static str, &'static str, usize);

/// Lists ads with previews in each of these ways, and looks at what users saw.
pub fn every_third_hop_sees_the_user(d: &Deployment, ways: &[Way]) {
    let exchanges = || {
        d.json(&["audit", "search", "--kind", "token_exchanged", "--limit", "1000"])
            .as_array()
            .map_or(0, Vec::len)
    };
    for &(mode, context, proof, calls) in ways {
        d.ok(&["demo", "mode", mode, "--user-context", context]);
        assert_eq!(d.as_user("alice", "/ads/1", &[]).0, 200, "{mode} {context}");
        std::thread::sleep(Duration::from_millis(1500));
        let before = exchanges();
        let (status, body) = d.as_user("alice", "/ads?near=48.37,14.51", &[]);
        assert_eq!(status, 200, "{mode} {context}: {body}");
        let found: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(found["previews"], "shown", "{mode} {context}: {body}");
        let third = wait_for(|| {
            let edges = d.json(&["edges"]);
            let hop = |edge: &&Value| {
                edge["source"].as_str().unwrap().ends_with("/svc/ads")
                    && edge["target"] == "users"
                    && edge["mode"] == mode
            };
            edges.as_array().unwrap().iter().filter(hop).find(|edge| edge["user"] == proof).cloned()
        });
        assert!(third.is_some(), "{mode} {context}: users never verified a {proof} from ads");
        // Figure 4.2 asks nobody, figure 4.3 once for each hop.
        let asked =
            wait_for(|| Some(exchanges() - before).filter(|asked| *asked >= calls)).unwrap_or_default();
        assert_eq!(asked, calls, "{mode} {context}");
    }
}
