//! # Tokens by hand: minted, narrowed, discharged, looked at, taken back, exchanged across trust domains

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::deployment::{Deployment, text};
use crate::world::{NEW_AD, POLICY, TOKEN, World};

/// Runs a command with something on its standard input.
fn piped(d: &Deployment, arguments: &[&str], input: &str) -> std::process::Output {
    let mut child = d
        .command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn piped_ok(d: &Deployment, arguments: &[&str], input: &str) -> String {
    let out = piped(d, arguments, input);
    assert!(out.status.success(), "{arguments:?}: {}", text(&out.stderr));
    text(&out.stdout).trim().to_owned()
}

fn inspected(d: &Deployment, token: &str) -> Value {
    let shown = piped_ok(d, &["inspect", "-", "-o", "json"], token);
    serde_json::from_str::<Value>(&shown).unwrap()[0].clone()
}

#[test]
fn tokens_are_minted_narrowed_discharged_and_looked_at_from_the_command_line() {
    let d = Deployment::shared();
    let bearer =
        d.ok(&["token", "mint", "bearer", "--service", "chat", "--scope", "ads,media", "--ttl", "600"]);
    assert!(bearer.starts_with("csb_") && bearer.trim().lines().count() == 1, "the token and nothing else");
    let shown = inspected(d, &bearer);
    assert_eq!((&shown["kind"], &shown["checksum"]), (&"bearer token".into(), &"right".into()));
    let id = shown["id"].as_str().unwrap().to_owned();
    let listed = d.json(&["token", "list"]);
    assert!(listed.as_array().unwrap().iter().any(|token| token["id"] == id.as_str()), "{listed}");
    let secret = bearer.trim().rsplit('_').next().unwrap();
    assert!(!listed.to_string().contains(secret), "a listing never shows the secret again");
    let replaced = d.ok(&["token", "rotate", &id, "--overlap", "60"]);
    assert_ne!(replaced, bearer);

    let macaroon = d.ok(&["token", "mint", "macaroon", "--service", "chat", "--callee", "ads"]);
    let narrow = piped_ok(
        d,
        &["token", "attenuate", "-", "--caveat", "method = GET", "--caveat", "path = /ads"],
        &macaroon,
    );
    let caveats = inspected(d, &narrow)["caveats"].to_string();
    assert!(caveats.contains("method = GET") && caveats.contains("path = /ads"), "{caveats}");
    let refused = piped(d, &["token", "attenuate", "-", "--caveat", "colour = blue"], &macaroon);
    assert_eq!(refused.status.code(), Some(2), "a caveat that no verifier knows would open nothing");

    let third = d.ok(&[
        "token",
        "mint",
        "macaroon",
        "--service",
        "chat",
        "--callee",
        "ads",
        "--discharge-for",
        "workload = spiffe://fleamarket.test/svc/chat",
    ]);
    assert_eq!(inspected(d, &third)["undischarged"].as_array().unwrap().len(), 1);
    for garbage in ["", "hello", "csb_", "a.b.c", "-----BEGIN"] {
        let refused = piped(d, &["token", "attenuate", "-", "--caveat", "method = GET"], garbage);
        assert_eq!(refused.status.code(), Some(2), "{garbage:?}: {}", text(&refused.stderr));
    }
    // Nothing that proves anything lies in a log.
    for token in [&bearer, &replaced, &macaroon, &narrow, &third] {
        let token = token.trim();
        for log in std::fs::read_dir(d.state().join("logs")).unwrap().flatten() {
            let said = std::fs::read_to_string(log.path()).unwrap_or_default();
            assert!(!said.contains(token), "{} holds a token", log.path().display());
        }
    }
}

/// Whoever may launch a service may sign in its name; its callee believes it, once.
#[test]
fn a_request_of_a_service_is_signed_at_the_terminal_and_believed_once() {
    let world = World::new();
    let d = &world.d;
    d.ok(&["demo", "mode", "jwt"]);
    let (token_file, chain_file) = (d.scratch("signed").join("token"), d.scratch("signed").join("chain"));
    let [token_file, chain_file] = [token_file.to_str().unwrap(), chain_file.to_str().unwrap()];
    let signed = |path: &str, more: &[&str]| {
        let order = ["token", "mint", "service", "--service", "chat", "--callee", "ads", "--path", path];
        let token = d.ok(&[&order, ["--chain", chain_file].as_slice(), more].concat());
        assert_eq!(token.trim().lines().count(), 1, "the token and nothing else");
        std::fs::write(token_file, &token).unwrap();
        token.trim().to_owned()
    };
    let shown = |token: &str| {
        let chain = std::fs::read_to_string(chain_file).unwrap();
        let chain = format!("Countersign-Signing-Chain: {}", chain.trim());
        let token = format!("Authorization: Bearer {token}");
        ["-H".to_owned(), token, "-H".to_owned(), chain]
    };
    let token = signed("/ads", &["--claim", "tenant=blue"]);
    let said = inspected(d, &token);
    assert_eq!(said["kind"], "service token, self-signed for one request");
    assert_eq!(said["claims"]["iss"], "spiffe://fleamarket.test/svc/chat");
    assert_eq!(said["claims"]["aud"], "spiffe://fleamarket.test/svc/ads");
    assert_eq!((&said["claims"]["htm"], &said["claims"]["htp"]), (&"GET".into(), &"/ads".into()));
    assert_eq!(said["claims"]["tenant"], "blue");
    let judged = d.json(&["token", "verify", token_file, "--chain", chain_file, "--callee", "ads"]);
    assert_eq!((&judged["kind"], &judged["holds"]), (&"service_token".into(), &true.into()), "{judged}");
    let elsewhere = d.run(&["token", "verify", token_file, "--chain", chain_file, "--callee", "users"]);
    assert_eq!(elsewhere.status.code(), Some(1), "it is for ads");

    // Believed: the rules of ads are what says no to chat. And once.
    assert_eq!(world.over(&world.ads, &shown(&token), &[]), POLICY);
    assert_eq!(world.over(&world.ads, &shown(&token), &[]), TOKEN);
    let body = d.scratch("signed").join("body");
    std::fs::write(&body, NEW_AD).unwrap();
    let with_body = ["--method", "POST", "--body", body.to_str().unwrap()];
    let sent = ["-H", "Content-Type: application/json", "--data-binary"];
    let post =
        |token: &str, body: &str| world.over(&world.ads, &shown(token), &[&sent, [body].as_slice()].concat());
    assert_eq!(post(&signed("/ads", &with_body), NEW_AD), POLICY);
    assert_eq!(post(&signed("/ads", &with_body), "{}"), TOKEN, "another body than was signed");
    assert_eq!(world.over(&world.ads, &shown(&signed("/ads?near=1,1", &[])), &[]), TOKEN, "another query");
}

#[test]
fn rejects_to_sign_in_the_name_of_a_service_that_the_uid_may_not_launch() {
    let d = Deployment::shared();
    let socket = d.state().join("admin.sock").display().to_string();
    let others = nix::unistd::geteuid().as_raw() + 1;
    let entry = format!("{{\"name\":\"others\",\"address\":\"127.0.0.1:1\",\"launch_by\":[{others}]}}");
    let ask = ["--unix-socket", &socket, "-H", "Content-Type: application/json", "-d", &entry];
    assert_eq!(d.curl("http://localhost/api/v1/services", &ask).0, 200);
    let minted = |service: &str, more: &[&str]| {
        let order = ["token", "mint", "service", "--service", service, "--callee", "ads", "--path"];
        let out = d.run(&[&order, more].concat());
        assert!(out.stdout.is_empty(), "{}", text(&out.stdout));
        (out.status.code(), text(&out.stderr))
    };
    let begun = Instant::now();
    loop {
        let (code, said) = minted("others", &["/ads"]);
        assert_eq!(code, Some(4), "{said}");
        // Until the agent hears of the entry it says that there is none.
        if said.contains("launch_by") && said.contains("service show") && !said.contains("no entry") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{said}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(minted("nobody", &["/ads"]).0, Some(4));
    for mistake in [
        ["ads"].as_slice(),
        &["/ads?access_token=x"],
        &["/ads", "--ttl", "61"],
        &["/ads", "--claim", "tenant"],
        &["/ads", "--claim", "iss=spiffe://fleamarket.test/svc/users"],
        &["/ads", "--body", "/no/such/file"],
    ] {
        let (code, said) = minted("chat", mistake);
        assert_eq!(code, Some(2), "{mistake:?}: {said}");
    }
}

/// The gateway's cache and the callee's hold what is taken back here.
#[test]
fn a_revoked_token_and_a_revoked_user_are_refused_within_two_seconds_although_caches_hold_them() {
    let d = Deployment::start();
    let call = |user: &str| d.as_user(user, "/ads/1", &[]).0;
    assert_eq!((call("alice"), call("alice"), call("bob")), (200, 200, 200));
    let curl_file = std::fs::read_to_string(d.curl_config("bob")).unwrap();
    let token = curl_file.split("Bearer ").nth(1).unwrap().split('"').next().unwrap();
    let jti = inspected(&d, token)["claims"]["jti"].as_str().unwrap().to_owned();
    for (what, revoke) in
        [("alice", ["token", "revoke", "user", "alice"]), ("bob", ["token", "revoke", "token", &jti])]
    {
        assert_eq!(call(what), 200);
        d.ok(&revoke);
        let revoked = Instant::now();
        let mut status = call(what);
        while status == 200 && revoked.elapsed() < Duration::from_secs(2) {
            status = call(what);
        }
        assert_eq!(status, 401, "{what} after {:?}", revoked.elapsed());
    }
    // Whoever logs in again is somebody new; a token that was not named goes on. Tokens tell the second of their issue:
    // one of the second in which a user was revoked is refused with the rest.
    assert_eq!(call("mod"), 200);
    std::thread::sleep(Duration::from_secs(1));
    d.ok(&["login", "alice", "--curl-config"]);
    assert_eq!(call("alice"), 200);
    assert_eq!(d.json(&["token", "revocations"]).as_array().unwrap().len(), 2);
}

/// Programs that were there before any of this have an API key and nothing else: no SDK, no agent, no certificate.
#[test]
fn a_program_with_nothing_but_an_api_key_is_served_where_scope_and_rules_say_until_the_key_is_taken_back() {
    let mut d = Deployment::start();
    d.ok(&["down"]);
    let file = d.state().join("policies/ads.cedar");
    let rules = std::fs::read_to_string(&file).unwrap();
    let legacy = r#"@id("ads-for-reports") permit (
        principal == Workload::"spiffe://fleamarket.test/svc/reports", action == Action::"GET", resource == Route::"ads /ads");"#;
    std::fs::write(&file, format!("{rules}\n{legacy}\n")).unwrap();
    d.up();
    d.ok(&["service", "mode", "ads", "--accept", "mtls,bearer", "--lower-for", "3600"]);

    let key = d.json(&["token", "mint", "bearer", "--service", "reports", "--scope", "ads"]);
    let elsewhere = d.ok(&["token", "mint", "bearer", "--service", "reports", "--scope", "media"]);
    let address = d.address_of("ads");
    let asks = |key: &str, path: &str| {
        let header = format!("Authorization: Bearer {}", key.trim());
        d.curl(&format!("https://{address}{path}"), &["-k", "-H", &header])
    };
    let secret = key["token"].as_str().unwrap();
    let (status, body) = asks(secret, "/ads");
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("\"ads\""), "{body}");
    assert_eq!(asks(secret, "/ads/1").0, 403, "known, and permitted nothing else");
    assert_eq!(asks(&elsewhere, "/ads").0, 401, "a key for another service");
    assert_eq!(d.curl(&format!("https://{address}/ads"), &["-k"]).0, 401, "and without a key nobody");
    let before_revocation = Instant::now();
    d.ok(&["token", "revoke", "token", key["id"].as_str().unwrap()]);
    while asks(secret, "/ads").0 == 200 {
        assert!(before_revocation.elapsed() < Duration::from_secs(60), "still served");
    }
    assert_eq!(asks(secret, "/ads").0, 401);
}

fn issued(d: &Deployment, service: &str) -> std::path::PathBuf {
    let dir = d.scratch(&format!("{service}-client"));
    d.ok(&["cert", "issue", "--service", service, "--out", dir.to_str().unwrap()]);
    dir
}

fn user_token(d: &Deployment, user: &str, dir: &Path) -> String {
    let file = dir.join("subject");
    std::fs::write(&file, d.ok(&["login", user, "--token"])).unwrap();
    file.display().to_string()
}

#[test]
fn a_user_is_exchanged_for_one_hop_and_the_answer_says_who_acts() {
    let d = Deployment::shared();
    // Only the one whom a token is for may exchange it: a user's access token is for the gateway.
    let dir = issued(d, "gateway");
    let (cert, key) = (dir.join("cert.pem").display().to_string(), dir.join("key.pem").display().to_string());
    let subject = user_token(d, "alice", &dir);
    let exchange = |audience: &str| {
        d.run(&[
            "token",
            "exchange",
            "--subject-token",
            &subject,
            "--audience",
            audience,
            "--cert",
            &cert,
            "--key",
            &key,
        ])
    };
    let out = exchange("users");
    assert!(out.status.success(), "{}", text(&out.stderr));
    let shown = inspected(d, text(&out.stdout).trim());
    let claims = &shown["claims"];
    assert_eq!(claims["aud"], "spiffe://fleamarket.test/svc/users", "{shown}");
    assert_eq!(claims["act"]["sub"], "spiffe://fleamarket.test/countersign/gateway/edge", "{shown}");
    assert!(claims["cnf"]["x5t#S256"].is_string(), "it counts in these hands alone: {shown}");
    let refused = exchange("nobody-of-that-name");
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("invalid_target"), "{}", text(&refused.stderr));
}

/// T64: each token service decides for its own trust domain. A user of one is passed on to the other by name, for its
/// token service alone, and that one decides what the guest may.
#[test]
fn two_deployments_that_hold_each_others_bundles_exchange_tokens_across() {
    let here = Deployment::start();
    let there = Deployment::start_as("market.example");
    let gateway = issued(&there, "gateway");
    let (cert, key) =
        (gateway.join("cert.pem").display().to_string(), gateway.join("key.pem").display().to_string());
    let exchange = |at: &Deployment, subject: &str, audience: &str| {
        at.run(&[
            "token",
            "exchange",
            "--subject-token",
            subject,
            "--audience",
            audience,
            "--cert",
            &cert,
            "--key",
            &key,
        ])
    };
    let user = user_token(&there, "alice", &gateway);
    let here_sts = "spiffe://fleamarket.test/countersign/authority";
    let refused = exchange(&there, &user, here_sts);
    assert_eq!(refused.status.code(), Some(4), "not yet known: {}", text(&refused.stderr));

    for (one, other, name) in [(&here, &there, "market.example"), (&there, &here, "fleamarket.test")] {
        piped_ok(one, &["trust", "add", name, "--bundle", "-"], &other.ok(&["trust", "bundle"]));
    }
    let out = exchange(&there, &user, here_sts);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let passed_on = gateway.join("passed-on");
    std::fs::write(&passed_on, &out.stdout).unwrap();
    let passed_on = passed_on.display().to_string();

    // Known, and permitted nothing until somebody says so.
    let refused = exchange(&here, &passed_on, "users");
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
    let policy = here.state().join("policies/sts.cedar");
    let rules = std::fs::read_to_string(&policy).unwrap();
    std::fs::write(&policy, format!("{rules}\n{GUESTS_OF_THE_OTHER_MARKET}")).unwrap();
    here.ok(&["policy", "reload"]);
    let out = exchange(&here, &passed_on, "users");
    assert!(out.status.success(), "{}", text(&out.stderr));
    let claims = inspected(&here, text(&out.stdout).trim())["claims"].clone();
    assert_eq!(claims["iss"], here.url("authority"), "{claims}");
    assert_eq!(claims["aud"], "spiffe://fleamarket.test/svc/users", "{claims}");
    assert_eq!(claims["act"]["sub"], "spiffe://market.example/countersign/gateway/edge", "{claims}");
    // What is for the token service here is for nobody there, and the user's own token goes nowhere.
    assert_eq!(exchange(&here, &user, "users").status.code(), Some(4));

    here.ok(&["trust", "remove", "market.example"]);
    assert!(!exchange(&here, &passed_on, "users").status.success(), "recognised no longer");
}

const GUESTS_OF_THE_OTHER_MARKET: &str = r#"
@id("guests-of-the-other-market")
permit (
    principal == Workload::"spiffe://market.example/countersign/gateway/edge",
    action == Action::"POST",
    resource == Route::"sts /exchange/users"
)
when { context has user };
"#;
