//! # Straight to a service's port: every way to be refused, and what `explain last` says of it.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::deployment::{Deployment, curl, text};

/// Result of a check of the last refusal.
fn result<'a>(explained: &'a Value, name: &str) -> &'a str {
    let checks = explained["checks"].as_array().unwrap();
    let found =
        checks.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no check {name}: {explained}"));
    found["result"].as_str().unwrap()
}

struct Call<'a> {
    d: &'a Deployment,
    before: Option<String>,
}

impl<'a> Call<'a> {
    fn new(d: &'a Deployment) -> Self {
        Self { d, before: d.last_decision() }
    }

    /// Calls ads by curl with what lies in `dir`; exit code, status.
    fn ads(&self, dir: Option<&std::path::Path>) -> (i32, String) {
        let url = format!("https://{}/ads", self.d.address_of("ads"));
        let mut arguments = vec!["-k".to_owned()];
        if let Some(dir) = dir {
            for (flag, name) in [("--cert", "cert.pem"), ("--key", "key.pem")] {
                arguments.push(flag.to_owned());
                arguments.push(dir.join(name).display().to_string());
            }
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        curl(&url, &arguments)
    }

    fn explained(&self) -> Value {
        self.d.explain_after(self.before.as_deref())
    }
}

#[test]
fn straight_to_a_service_each_bad_certificate_is_refused_and_the_failed_check_is_named() {
    let d = Deployment::start();
    let issue = |name: &str, arguments: &[&str]| {
        let dir = d.scratch(name);
        d.ok(&[&["cert", "issue", "--out", dir.to_str().unwrap()], arguments].concat());
        dir
    };
    // A minute is the shortest life, so this one is made first and used last.
    let short = issue("short", &["--service", "chat", "--ttl", "1m"]);
    let issued = Instant::now();

    let call = Call::new(&d);
    let (code, _) = call.ads(None);
    assert_ne!(code, 0, "no certificate: the handshake fails");
    let e = call.explained();
    assert_eq!((result(&e, "usage"), result(&e, "identity")), ("fail", "not_reached"), "{e}");
    assert!(e["method"].is_null(), "refused inside the handshake, no request was read: {e}");

    let server = issue("server", &["--service", "chat", "--profile", "server"]);
    let call = Call::new(&d);
    assert_ne!(call.ads(Some(&server)).0, 0, "serverAuth only");
    let e = call.explained();
    assert_eq!(result(&e, "usage"), "fail", "{e}");

    let other = Deployment::start();
    let foreign = other.scratch("foreign");
    other.ok(&["cert", "issue", "--service", "ads", "--out", foreign.to_str().unwrap()]);
    let call = Call::new(&d);
    assert_ne!(call.ads(Some(&foreign)).0, 0, "another authority of the same trust domain name");
    let e = call.explained();
    assert_eq!(result(&e, "chain"), "fail", "{e}");
    drop(other);

    let revoked = issue("revoked", &["--service", "chat"]);
    let call = Call::new(&d);
    assert_eq!(call.ads(Some(&revoked)).0, 0, "the handshake is fine before the revocation");
    let serial = d.json(&["cert", "list"])[0]["serial"].as_str().unwrap().to_owned();
    d.ok(&["cert", "revoke", &serial, "--reason", "keyCompromise"]);
    std::thread::sleep(Duration::from_secs(2));
    let call = Call::new(&d);
    assert_ne!(call.ads(Some(&revoked)).0, 0, "revoked");
    let e = call.explained();
    assert_eq!(result(&e, "revocation"), "fail", "{e}");
    assert!(e["method"].is_null(), "refused inside the handshake, no request was read: {e}");

    let valid = issue("valid", &["--service", "media"]);
    let call = Call::new(&d);
    let (code, said) = call.ads(Some(&valid));
    assert_eq!(code, 0, "{said}");
    assert!(said.ends_with("403"), "{said}");
    let e = call.explained();
    assert_eq!(e["stage"], "policy", "{e}");
    for name in ["usage", "validity", "chain", "revocation"] {
        assert_eq!(result(&e, name), "pass", "{e}");
    }

    let (_, handled) = d.curl(&format!("http://{}/metrics", admin_of(&d, "ads")), &[]);
    std::thread::sleep(Duration::from_secs(62).saturating_sub(issued.elapsed()));
    let call = Call::new(&d);
    assert_ne!(call.ads(Some(&short)).0, 0, "expired");
    let e = call.explained();
    assert_eq!(result(&e, "validity"), "fail", "{e}");
    let (_, now) = d.curl(&format!("http://{}/metrics", admin_of(&d, "ads")), &[]);
    assert_eq!(allowed(&handled), allowed(&now), "no refused caller reached a handler");
}

/// Requests that reached a handler of ads.
fn allowed(metrics: &str) -> Vec<String> {
    metrics
        .lines()
        .filter(|l| l.starts_with("countersign_requests_total") && l.contains("decision=\"allow\""))
        .map(str::to_owned)
        .collect()
}

fn admin_of(d: &Deployment, service: &str) -> String {
    let config = std::fs::read_to_string(d.state().join("countersign.toml")).unwrap();
    let table: toml::Table = config.parse().unwrap();
    table["demo"]["services"][service]["admin"].as_str().unwrap().to_owned()
}

#[test]
fn a_revoked_service_fails_on_the_connection_it_already_holds_within_two_seconds() {
    let d = Deployment::start();
    let preview = |d: &Deployment| -> Value {
        let (status, body) = d.as_user("alice", "/ads?near=48.37,14.51", &[]);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    };
    assert!(
        preview(&d)["ads"][0]["seller"]["preview"]["display_name"].is_string(),
        "ads holds a connection to users"
    );
    let ads = d.pid_of(&["demo-service", "ads"]);
    d.ok(&["cert", "revoke", "ads", "--reason", "keyCompromise"]);
    let revoked = Instant::now();
    loop {
        // The gateway refuses ads as a server, users refuses ads as a client: either way alice gets no answer
        // that ads made with its revoked identity.
        let (status, _) = d.as_user("alice", "/ads?near=48.37,14.51", &[]);
        if status >= 500 {
            break;
        }
        assert!(
            revoked.elapsed() < Duration::from_secs(2),
            "still answered {status} after {:?}",
            revoked.elapsed()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(d.pid_of(&["demo-service", "ads"]), ads, "it was refused, it did not crash");
    let check = d.run(&["check"]);
    assert_eq!(check.status.code(), Some(1), "a revoked service is not ready");
    assert!(text(&check.stdout).contains("certificate was revoked"), "{}", text(&check.stdout));
}
