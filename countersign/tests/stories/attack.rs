//! # The attacker in the box

use serde_json::Value;

use crate::deployment::{Deployment, text};

/// Every attack there is, against what `up` starts: each is stopped, by the guard that it names, and each has shown at
/// the same time that it succeeds where that guard is missing.
#[test]
fn a_fresh_deployment_blocks_every_attack_by_the_guard_that_it_names() {
    let d = Deployment::start();
    let jwk = d.scratch("keys").join("chat.jwk");
    std::fs::write(&jwk, PUBLIC_JWK).unwrap();
    d.ok(&["service", "key", "add", "chat", "--jwk", jwk.to_str().unwrap()]);
    d.ok(&["token", "mint", "bearer", "--service", "chat", "--scope", "ads"]);
    let before = credentials_of_the_market(&d);
    assert!(before.to_string().contains("svc/chat"), "{before}");
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
    // What was taken back while attacking was the lab's own: whoever could prove itself before can afterwards.
    assert_eq!(credentials_of_the_market(&d), before);
    let (status, body) = d.as_user("alice", "/ads", &[]);
    assert_eq!(status, 200, "{body}");
    the_same_attack_can_be_watched_and_explained(&d);
    the_deployment_goes_on_in_other_modes_and_is_attacked_in_its_own(&d);
    only_what_up_supervises_on_this_machine_is_attacked(&d);
}

/// Everything by which the services of the flea market prove themselves without a certificate, and which of their
/// certificates were taken back.
fn credentials_of_the_market(d: &Deployment) -> Value {
    let lab_s = |item: &Value| item["owner"].as_str().unwrap().contains("/svc/attack-");
    let tokens = d.json(&["token", "list"]);
    let tokens: Vec<&Value> = tokens.as_array().unwrap().iter().filter(|token| !lab_s(token)).collect();
    let each = ["ads", "users", "chat", "media", "subscriptions", "reports"].map(|service| {
        let shown = d.json(&["service", "show", service]);
        let revoked = |certificate: &&Value| !certificate["revoked_at"].is_null();
        let revoked: Vec<&Value> = shown["certificates"].as_array().unwrap().iter().filter(revoked).collect();
        assert!(revoked.is_empty(), "{revoked:?}");
        d.json(&["service", "key", "list", service])
    });
    serde_json::json!({"tokens": tokens, "keys": each})
}

/// A public key of chat's own (RFC 7515 appendix A.3).
const PUBLIC_JWK: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

fn the_deployment_goes_on_in_other_modes_and_is_attacked_in_its_own(d: &Deployment) {
    d.ok(&["demo", "mode", "bearer"]);
    let (status, body) = d.as_user("alice", "/ads", &[]);
    assert_eq!(status, 200, "{body}");
    let other = d.run(&["attack", "stranger"]);
    assert_eq!(other.status.code(), Some(2), "{}", text(&other.stdout));
    let told = text(&other.stderr);
    assert!(told.contains("ads accepts bearer") && told.contains("countersign demo mode mtls"), "{told}");
    d.ok(&["demo", "mode", "mtls"]);
    // The callee of the lab's own was switched with all others, and takes bearer tokens again.
    d.ok(&["attack", "bearer-out-of-scope"]);
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
