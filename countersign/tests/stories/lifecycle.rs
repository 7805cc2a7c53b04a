//! # Starting twice, being killed, coming back.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::deployment::{Deployment, text};

#[test]
fn a_second_up_prints_the_same_line_and_ends_well() {
    let d = Deployment::shared();
    let first = d.ready.clone();
    let out = d.run(&["up", "--json"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    let second: serde_json::Value = serde_json::from_str(text(&out.stdout).trim()).unwrap();
    assert_eq!(first, second);
}

#[test]
fn the_ready_line_has_every_field_with_absolute_paths_and_no_trailing_slash() {
    let d = Deployment::shared();
    for url in ["gateway", "gateway_tls", "authority", "admin"] {
        let url = d.url(url);
        assert!(url.starts_with("http") && !url.ends_with('/'), "{url}");
    }
    for path in ["agent_socket", "ca_file", "state_dir"] {
        assert!(std::path::Path::new(d.url(path)).is_absolute());
        assert!(std::path::Path::new(d.url(path)).exists());
    }
    assert!(d.ready["ready_s"].is_f64() && d.ready["pid"].is_u64());
    assert!(d.ready.as_object().unwrap().contains_key("console"));
}

#[test]
fn after_kill_9_up_keeps_trust_domain_keys_and_users_and_no_child_outlives_the_supervisor() {
    let mut d = Deployment::start();
    let (bundle, users) = (d.ok(&["ca", "bundle"]), d.json(&["user", "list"]));
    let children = d.pids();
    let pid = d.ready["pid"].as_u64().unwrap();
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    let killed = Instant::now();
    while children.iter().any(|pid| alive(*pid)) {
        assert!(killed.elapsed() < Duration::from_secs(15), "children outlive their supervisor");
        std::thread::sleep(Duration::from_millis(50));
    }
    d.up();
    assert_eq!(d.ok(&["ca", "bundle"]), bundle);
    assert_eq!(d.json(&["user", "list"]), users);
    assert_eq!(d.as_user("alice", "/ads?near=48.37,14.51", &[]).0, 200);
}

fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[test]
fn commands_without_a_deployment_exit_3_and_wrong_usage_exits_2() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(crate::deployment::BINARY);
        command.arg("--state-dir").arg(dir.path().join("none")).args(arguments).output().unwrap()
    };
    for arguments in [
        &["status"][..],
        &["edges"],
        &["explain", "last"],
        &["login", "alice", "--token"],
        &["demo", "workflow"],
    ] {
        let out = run(arguments);
        let code = out.status.code();
        assert!(matches!(code, Some(3 | 2)), "{arguments:?}: {code:?}");
        let said = text(&out.stderr);
        assert!(said.starts_with("error: ") && out.stdout.is_empty(), "{arguments:?}: {said}");
    }
    assert_eq!(run(&["status"]).status.code(), Some(3));
    assert_eq!(run(&["nonsense"]).status.code(), Some(2));
    assert_eq!(run(&["explain", "nonsense"]).status.code(), Some(2));
    assert_eq!(run(&["cert", "issue", "--service", "NOT A NAME", "--out", "x"]).status.code(), Some(2));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
}

#[test]
fn a_wrong_trust_domain_for_an_existing_state_is_refused() {
    let d = Deployment::start();
    d.ok(&["down"]);
    let out = d.run(&["up", "--trust-domain", "other.test", "--detach"]);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("fleamarket.test"));
}

#[test]
fn a_port_that_somebody_else_took_is_named_with_exit_2_and_nobody_is_mistaken_for_our_process() {
    let d = Deployment::start();
    let admin = d.url("admin").strip_prefix("http://").unwrap().to_owned();
    d.ok(&["down"]);
    let taken = std::net::TcpListener::bind(&admin).unwrap();
    let out = d.run(&["up", "--detach", "--json"]);
    drop(taken);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains(&admin), "{}", text(&out.stderr));
}

#[test]
fn status_check_edges_and_service_list_tell_a_person_and_a_script() {
    let d = Deployment::shared();
    assert_eq!(d.as_user("alice", "/ads?near=48.37,14.51", &[]).0, 200);
    assert!(d.ok(&["status"]).contains("fleamarket.test"));
    let check = d.run(&["check"]);
    assert_eq!(check.status.code(), Some(0), "{}", text(&check.stdout));
    let services = d.json(&["service", "list"]);
    let ads = services.as_array().unwrap().iter().find(|s| s["name"] == "ads").unwrap().clone();
    assert_eq!(ads["spiffe_id"], "spiffe://fleamarket.test/svc/ads");
    assert_eq!(ads["accepts"], serde_json::json!(["mtls"]));
    assert!(d.ok(&["service", "show", "ads"]).contains("spiffe://fleamarket.test/svc/ads"));
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let edges = d.json(&["edges"]);
        let hop = edges.as_array().unwrap().iter().any(|e| {
            e["source"] == "spiffe://fleamarket.test/svc/ads"
                && e["target"] == "users"
                && e["mode"] == "mtls"
                && e["requests"].as_u64() > Some(0)
        });
        if hop {
            break;
        }
        assert!(Instant::now() < deadline, "ads → users by mtls: {edges}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn the_workflow_prints_the_eight_steps_of_the_thesis_from_a_real_call() {
    let d = Deployment::shared();
    let said = d.ok(&["demo", "workflow"]);
    for step in 1..=8 {
        let begins = format!("{step} ");
        assert!(said.lines().any(|l| l.trim_start().starts_with(&begins)), "step {step} is missing:\n{said}");
    }
    let steps = d.json(&["demo", "workflow"]);
    let told = |n: usize| steps[n - 1]["told"].as_str().unwrap().to_owned();
    let ms = |n: usize| steps[n - 1]["ms"].as_f64().unwrap();
    assert!(
        told(4).contains("mtls: the caller shows its certificate; spiffe://fleamarket.test/countersign/gateway/edge verified"),
        "{}",
        told(4)
    );
    assert!(told(5).contains("; spiffe://fleamarket.test/svc/ads verified"), "{}", told(5));
    // Each hop lasts longer than the one inside it, and each answer came on the connection of its request.
    assert!(0.0 < ms(6) && ms(6) < ms(7) && ms(7) < ms(8), "{steps}");
    assert!(told(6).contains(" on c_") && told(7).contains(" on c_"), "{steps}");
}

#[test]
fn traffic_of_four_users_gets_the_answers_that_policy_says() {
    let d = Deployment::shared();
    let out = d.run(&["demo", "traffic", "--seconds", "2", "-o", "json"]);
    assert_eq!(out.status.code(), Some(0), "{}\n{}", text(&out.stdout), text(&out.stderr));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(report["requests"].as_u64() > Some(8) && report["unexpected"] == 0, "{report}");
    assert_eq!(report["answers"].as_object().unwrap().len(), 8, "each wish was asked: {report}");
}

#[test]
fn the_workflow_in_mode_jwt_prints_the_primed_steps_from_a_real_call_and_leaves_the_mode_as_it_was() {
    let d = Deployment::start();
    let said = d.ok(&["demo", "workflow", "--mode", "jwt", "--user-context", "nested"]);
    for (step, told) in [("4' ", "gateway → ads"), ("5' ", "ads → users")] {
        let line =
            said.lines().find(|line| line.starts_with(step)).unwrap_or_else(|| panic!("no {step}:\n{said}"));
        assert!(
            line.contains(told) && line.contains("jwt: the client's middleware signs a token of its own"),
            "{line}"
        );
    }
    let services = d.json(&["service", "list"]);
    assert!(services.as_array().unwrap().iter().all(|service| service["sends"] == "mtls"), "{services}");
}
