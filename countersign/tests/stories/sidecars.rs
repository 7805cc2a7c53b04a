//! # The same flea market, in services that contain no SDK: each has a sidecar, and nobody else reaches it

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::deployment::{Deployment, text};
use crate::modes::every_verdict_is_the_one_of_the_table;
use crate::switching::every_third_hop_sees_the_user;
use crate::world::World;

const SIDECAR: &[&str] = &["--sidecar"];

/// T19: through a sidecar or with the SDK, a request has the same verdict, at the same stage.
#[test]
fn behind_sidecars_every_request_has_the_verdict_that_it_has_with_the_sdk() {
    let world = World::of(Deployment::start_with(SIDECAR));
    every_verdict_is_the_one_of_the_table(&world);
}

#[test]
fn behind_sidecars_the_third_hop_sees_the_verified_user_and_the_service_in_between_cannot_read_its_token() {
    let d = Deployment::start_with(SIDECAR);
    every_third_hop_sees_the_user(
        &d,
        &[
            ("mtls", "same", "internal_token", 0),
            ("jwt", "nested", "hop_token", 0),
            ("jwt", "per-hop", "hop_token", 2),
        ],
    );
    // The process of a service has no connection to the agent, and so no identity that it could lose.
    let ads = d.pid_of(&["demo-service", "ads"]);
    let agent = inode_of(&d.state().join("agent.sock"));
    assert!(!open_sockets(ads).contains(&agent), "ads holds the agent's socket");
    let words = std::fs::read_to_string(format!("/proc/{ads}/cmdline")).unwrap();
    assert!(words.contains("--behind-sidecar"), "{words}");
}

/// Whoever is no service of ours reaches neither a service past its door, nor others in its name.
#[test]
fn another_uid_reaches_neither_the_service_nor_the_way_out_of_its_sidecar() {
    let d = Deployment::start_with(SIDECAR);
    let sockets = d.state().join("sidecars");
    // The directories keep others out as well: that each socket does so alone is what is asked here.
    for dir in [d.state().parent().unwrap().to_owned(), d.state(), sockets.clone()] {
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o711)).unwrap();
    }
    for (socket, url) in [("ads.sock", "http://ads/ads"), ("ads-out.sock", "http://users/users/previews")] {
        let socket = sockets.join(socket);
        assert_eq!(std::fs::metadata(&socket).unwrap().mode() & 0o777, 0o600, "{}", socket.display());
        assert!(reached(&[], &socket, url), "we ourselves reach {}", socket.display());
        assert!(
            !reached(&["setpriv", "--reuid=65534", "--clear-groups"], &socket, url),
            "{}",
            socket.display()
        );
    }
}

/// A service whose socket is open to others is not served: its sidecar says so, and is not ready.
#[test]
fn a_service_that_others_could_reach_past_its_door_is_not_served() {
    let d = Deployment::start_with(SIDECAR);
    assert_eq!(d.as_user("alice", "/media/1", &[]).0, 200);
    let socket = d.state().join("sidecars/media.sock");
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    let log = || std::fs::read_to_string(d.state().join("logs/media-sidecar.log")).unwrap();
    assert_eq!(d.as_user("alice", "/media/1", &[]).0, 502);
    assert!(log().contains("make it 600"), "{}", log());
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(d.as_user("alice", "/media/1", &[]).0, 200);
}

/// Who terminates TLS at each port is listed, and a start without sidecars is told from one with them.
#[test]
fn check_says_at_which_ports_a_sidecar_terminates_tls_and_at_which_the_sdk() {
    let mut d = Deployment::start_with(SIDECAR);
    every_port_is_terminated_by(&d, "its sidecar");
    d.ok(&["down"]);
    d.up();
    every_port_is_terminated_by(&d, "the SDK, in the service itself");
}

fn every_port_is_terminated_by(d: &Deployment, whom: &str) {
    let told = d.json(&["check"]);
    let line = |name: &str| {
        let found = told["checks"].as_array().unwrap().iter().find(|line| line["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {told}"))
    };
    for service in ["ads", "users", "chat", "media", "subscriptions", "reports"] {
        let line = line(&format!("tls.{service}"));
        assert_eq!(line["result"], "pass", "{line}");
        assert!(line["detail"].as_str().unwrap().ends_with(&format!("is terminated by {whom}")), "{line}");
    }
    assert_eq!(line("tls.gateway.listen_tls")["result"], "pass");
    assert_eq!(line("tls.authority.node_listen")["result"], "pass");
}

fn reached(as_whom: &[&str], socket: &Path, url: &str) -> bool {
    let curl =
        ["curl", "-s", "-o", "/dev/null", "--max-time", "10", "--unix-socket", socket.to_str().unwrap(), url];
    let words = [as_whom, &curl].concat();
    let out = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(matches!(out.status.code(), Some(0 | 7)), "{}", text(&out.stderr));
    out.status.success()
}

fn inode_of(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

/// Inodes of the files that a process has open, as far as they have names.
fn open_sockets(pid: i32) -> Vec<u64> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    open.filter_map(|fd| Some(std::fs::metadata(fd.path()).ok()?.ino())).collect()
}
