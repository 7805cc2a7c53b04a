//! # Services that come, hang and go, and programs of your own.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::deployment::{BINARY, Deployment, text};

#[test]
fn with_users_not_answering_ads_are_still_listed_without_previews() {
    let d = Deployment::start();
    let users = d.pid_of(&["demo-service", "users"]);
    assert_eq!(d.as_user("alice", "/ads?near=48.37,14.51", &[]).0, 200);
    signal("-STOP", users);
    let asked = Instant::now();
    let (status, body) = d.as_user("alice", "/ads?near=48.37,14.51", &[]);
    signal("-CONT", users);
    assert_eq!(status, 200, "{body}");
    assert!(asked.elapsed() < Duration::from_secs(10), "the wait is bounded");
    let found: Value = serde_json::from_str(&body).unwrap();
    assert!(!found["ads"].as_array().unwrap().is_empty());
    assert!(found["ads"].as_array().unwrap().iter().all(|ad| ad["seller"]["preview"].is_null()), "{body}");
}

#[test]
fn with_the_authority_not_answering_requests_go_on() {
    let d = Deployment::start();
    let token = d.curl_config("alice");
    let url = format!("{}/ads?near=48.37,14.51", d.url("gateway"));
    assert_eq!(d.curl(&url, &["-K", &token]).0, 200);
    let authority = d.pid_of(&["serve", "authority"]);
    signal("-STOP", authority);
    for _ in 0..5 {
        let (status, body) = d.curl(&url, &["-K", &token]);
        assert_eq!(status, 200, "{body}");
    }
    signal("-CONT", authority);
}

#[test]
fn a_program_of_your_own_gets_an_identity_from_run_and_a_stranger_gets_none() {
    let d = Deployment::shared();
    let out = d.run(&["run", "--service", "chat", "--", "/bin/sh", "-c", "echo $SPIFFE_ENDPOINT_SOCKET"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(text(&out.stdout).trim(), format!("unix://{}", d.url("agent_socket")));
    let out = d.run(&["run", "--service", "nobody", "--", "/bin/true"]);
    assert_eq!(out.status.code(), Some(4), "an entry that does not exist: {}", text(&out.stderr));
    let out = d.run(&["run", "--service", "chat", "--", "/no/such/program"]);
    assert_eq!(out.status.code(), Some(2));
}

#[test]
fn a_service_added_to_a_running_deployment_restarts_no_other() {
    let d = Deployment::shared();
    let before = d.pids();
    let socket = d.state().join("admin.sock").display().to_string();
    let uid = nix::unistd::geteuid().as_raw();
    let entry = format!("{{\"name\":\"billing\",\"address\":\"127.0.0.1:1\",\"launch_by\":[{uid}]}}");
    let ask = ["--unix-socket", &socket, "-H", "Content-Type: application/json", "-d", &entry];
    let (status, said) = d.curl("http://localhost/api/v1/services", &ask);
    assert_eq!(status, 200, "{said}");
    let launched = Instant::now();
    while !d.run(&["run", "--service", "billing", "--", "/bin/true"]).status.success() {
        assert!(launched.elapsed() < Duration::from_secs(5), "the new entry does not reach the agent");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(before.iter().all(|pid| d.pids().contains(pid)), "a process was restarted");
}

#[test]
fn a_user_is_added_with_a_password_from_a_file_and_logs_in() {
    let d = Deployment::shared();
    let file = d.scratch("people").join("password");
    std::fs::write(&file, "correct horse battery staple\n").unwrap();
    let file = file.to_str().unwrap();
    d.ok(&["user", "add", "carol", "--role", "buyer", "--password-file", file]);
    let token = d.ok(&["login", "carol", "--password-file", file, "--token"]);
    assert_eq!(token.trim().split('.').count(), 3);
    std::fs::write(file, "wrong horse battery staple\n").unwrap();
    let out = d.run(&["login", "carol", "--password-file", file, "--token"]);
    assert_eq!(out.status.code(), Some(4));
    d.ok(&["user", "reset", "carol", "--password-file", file]);
    d.ok(&["login", "carol", "--password-file", file, "--token"]);
    std::fs::write(file, "short").unwrap();
    let out = d.run(&["user", "add", "dave", "--password-file", file]);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
}

#[test]
fn inspect_says_who_until_when_and_by_whom_of_files_servers_and_standard_input() {
    let d = Deployment::shared();
    let dir = d.scratch("inspect");
    d.ok(&["cert", "issue", "--service", "media", "--out", dir.to_str().unwrap()]);
    let said = d.ok(&["inspect", dir.join("cert.pem").to_str().unwrap()]);
    assert!(said.contains("spiffe://fleamarket.test/svc/media"), "{said}");
    let server = d.json(&["inspect", d.url("gateway_tls")]);
    assert!(server.to_string().contains("localhost"), "{server}");
    let crl = d.ok(&["ca", "bundle", "--crl"]);
    let mut child =
        d.command(&["inspect", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), crl.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success() && text(&out.stdout).contains("revocation list"), "{}", text(&out.stdout));
    let out = Command::new(BINARY).args(["inspect", "/dev/null"]).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
}

fn signal(name: &str, pid: i32) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}
