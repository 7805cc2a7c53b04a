//! # The attacker in the box

use serde_json::Value;

use crate::deployment::{Deployment, text};

/// Every attack there is, against what `up` starts: each is stopped, by the guard that it names, and each has shown at
/// the same time that it succeeds where that guard is missing.
#[test]
fn a_fresh_deployment_blocks_every_attack_by_the_guard_that_it_names() {
    let d = Deployment::start();
    let out = d.run(&["attack", "--all", "-o", "json"]);
    let report: Value =
        serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", text(&out.stderr)));
    let attacks = report["attacks"].as_array().unwrap();
    let open: Vec<&Value> = attacks
        .iter()
        .filter(|attack| attack["verdict"] != "blocked" || attack["control"]["outcome"] != "passed")
        .collect();
    assert!(open.is_empty(), "{}", serde_json::to_string_pretty(&open).unwrap());
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(attacks.len() >= 40, "{} attacks", attacks.len());
    assert_eq!(report["blocked"].as_u64(), Some(attacks.len() as u64));
    for attack in attacks {
        for field in ["name", "position", "sent", "received", "sign", "doc"] {
            assert!(!attack[field].as_str().unwrap_or_default().is_empty(), "{field} of {attack}");
        }
        assert!(!attack["guard"]["what"].as_str().unwrap().is_empty(), "{attack}");
        assert!(!attack["control"]["without_guard"].as_str().unwrap().is_empty(), "{attack}");
    }
    // Nothing of it stays behind: whoever may call before may call afterwards.
    let (status, body) = d.as_user("alice", "/ads", &[]);
    assert_eq!(status, 200, "{body}");
    the_same_attack_can_be_watched_and_explained(&d);
    only_what_up_supervises_on_this_machine_is_attacked(&d);
}

fn the_same_attack_can_be_watched_and_explained(d: &Deployment) {
    let out = d.run(&["attack", "stolen-token"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let told = text(&out.stdout);
    assert!(told.starts_with("BLOCKED   present the token of another service"), "{told}");
    assert!(told.contains("CS3032") && told.contains("docs/mistakes.md#stolen-token"), "{told}");
    let explained = d.json(&["explain", "last"]);
    assert_eq!((&explained["code"], &explained["stage"]), (&"CS3032".into(), &"token".into()), "{explained}");
}

fn only_what_up_supervises_on_this_machine_is_attacked(d: &Deployment) {
    let unknown = d.run(&["attack", "stolen-tokem"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("the nearest is stolen-token"), "{}", text(&unknown.stderr));
    let file = d.scratch("target").join("target.toml");
    let socket = d.state().join("admin.sock");
    let named = format!(
        "trust_domain = \"fleamarket.test\"\nadmin_socket = {socket:?}\nagent_socket = {socket:?}\n\
         gateway_tls = \"192.0.2.7:443\"\nauthority = \"127.0.0.1:1\"\npasswords = {socket:?}\n"
    );
    std::fs::write(&file, named).unwrap();
    let foreign = d.run(&["attack", "--all", "--target", file.to_str().unwrap()]);
    assert_eq!(foreign.status.code(), Some(2));
    assert!(text(&foreign.stderr).contains("which is not this machine"), "{}", text(&foreign.stderr));
    d.ok(&["down"]);
    let gone = d.run(&["attack", "--all"]);
    assert_eq!(gone.status.code(), Some(3), "{}", text(&gone.stderr));
}
