//! # Somebody asks which way to take

use std::process::{Command, Output};

use serde_json::Value;

use crate::deployment::{BINARY, Deployment, text};

/// Advice needs no deployment.
fn advise(arguments: &[&str]) -> Output {
    Command::new(BINARY).arg("advise").args(arguments).stdin(std::process::Stdio::null()).output().unwrap()
}

fn ok(arguments: &[&str]) -> String {
    let out = advise(arguments);
    assert!(out.status.success(), "{}", text(&out.stderr));
    text(&out.stdout)
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&ok(&[arguments, &["-o", "json"]].concat())).unwrap()
}

/// The example of the thesis's section 4.2.1: payment tells orders that an order was paid, and orders has to be able to
/// prove it.
#[test]
fn a_stranger_with_payment_and_orders_is_told_why_mutual_tls_alone_does_not_serve() {
    let told = ok(&["--from", "payment", "--to", "orders", "--dispute", "yes"]);
    assert!(told.starts_with("payment → orders: self-signed JWT"), "{told}");
    assert!(told.contains("mode jwt"), "{told}");
    let mtls = told.lines().find(|line| line.trim_start().starts_with("mtls ")).unwrap();
    for why in ["Both ends hold the same session keys", "no request is signed", "[attack body-swap]"] {
        assert!(mtls.contains(why), "{why}: {mtls}");
    }
    assert!(told.contains("orders keeps the token"), "{told}");
    assert!(told.contains("assumed: --harm yes --network ours"), "{told}");

    // Nobody has to be convinced: then nobody is told to sign.
    let plain = json(&["--from", "payment", "--to", "orders", "--dispute", "no"]);
    assert_eq!((&plain["take"], &plain["mode"]), (&"mtls".into(), &"mtls".into()));
}

#[test]
fn the_simplest_ways_are_advised_where_they_serve() {
    let nothing = ok(&["--harm", "no", "--network", "nobody"]);
    assert!(nothing.starts_with("caller → callee: do nothing yet"), "{nothing}");
    let bearer = json(&["--caller", "header"]);
    assert_eq!(bearer["take"], "bearer");
    let told = ok(&["bearer"]);
    assert!(
        told.contains("If you have to ask whether it ought not just be a bearer token, it ought"),
        "{told}"
    );
    assert_eq!(json(&["jwt"])[0]["way"], "signed-token", "a mode is known by its name too");
}

#[test]
fn the_whole_list_is_told_and_every_reason_is_an_attack_that_can_be_run_or_a_figure() {
    let list = json(&["--list"]);
    let list = list.as_array().unwrap();
    for way in [
        "nothing",
        "bearer",
        "hmac-timestamp",
        "macaroon",
        "signed-token",
        "mtls",
        "spiffe",
        "token-binding",
        "magic-headers",
        "kerberos",
    ] {
        assert!(list.iter().any(|entry| entry["way"] == way), "{way}");
    }
    let out = Command::new(BINARY).args(["attack", "-o", "json"]).output().unwrap();
    let attacks: Value = serde_json::from_slice(&out.stdout).unwrap();
    let known = |name: &str| attacks.as_array().unwrap().iter().any(|attack| attack["name"] == name);
    for entry in list {
        for gain in entry["attacker"].as_array().unwrap() {
            let name = gain["see"].as_str().unwrap().strip_prefix("attack ").unwrap();
            assert!(known(name), "{name}");
        }
        assert!(entry["measured"].as_str().unwrap().starts_with("figure "), "{entry}");
    }
}

#[test]
fn a_word_that_answers_nothing_is_refused_and_so_is_silence_without_a_terminal() {
    let wrong = advise(&["--dispute", "perhaps"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("say one of: no, yes"), "{}", text(&wrong.stderr));
    let silent = advise(&[]);
    assert_eq!(silent.status.code(), Some(2));
    assert!(text(&silent.stderr).contains("there is no terminal"), "{}", text(&silent.stderr));
    assert!(advise(&["--assume"]).status.success());
    let unknown = advise(&["passport"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("kerberos"), "{}", text(&unknown.stderr));
}

/// `script` gives the binary a terminal.
#[test]
fn at_a_terminal_each_question_is_put_until_it_is_answered() {
    let command = format!("'{BINARY}' advise --from payment --to orders");
    let mut child = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let answers = b"\n\n\n\nyes\nperhaps\ncarried\n\n\n";
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), answers).unwrap();
    let out = child.wait_with_output().unwrap();
    let told = text(&out.stdout);
    assert!(told.contains("On whose behalf does it call?") && told.contains("perhaps answers no"), "{told}");
    assert!(told.contains("mode jwt   users nested"), "{told}");
}

#[test]
fn what_the_deployment_saw_is_advised_on_edge_by_edge() {
    let d = Deployment::shared();
    assert_eq!(d.as_user("alice", "/ads?near=48.37,14.51", &[]).0, 200);
    let seen = |arguments: &[&str]| {
        let edge = || {
            let out = d.run(&[&["advise", "--observed", "-o", "json"], arguments].concat());
            let found: Value = serde_json::from_slice(&out.stdout).ok()?;
            let is_it = |edge: &&Value| {
                edge["advice"]["source"] == "ads"
                    && edge["advice"]["target"] == "users"
                    && edge["today"] == "mtls"
            };
            Some((found.as_array()?.iter().find(is_it)?.clone(), out.status.code()))
        };
        (0..60).find_map(|_| {
            edge().or_else(|| {
                std::thread::sleep(std::time::Duration::from_millis(100));
                None
            })
        })
    };
    let (edge, _) = seen(&[]).expect("ads calls users");
    assert!(edge["today_lacks"].as_array().unwrap().is_empty(), "{edge}");
    assert_eq!(edge["advice"]["user_context"], "same", "its user was seen: {edge}");
    let (edge, code) = seen(&["--dispute", "yes"]).unwrap();
    assert_eq!(code, Some(1), "mutual TLS does not convince anybody later");
    assert_eq!(edge["advice"]["take"], "signed-token", "{edge}");
    assert!(edge["today_lacks"][0]["text"].as_str().unwrap().contains("same session keys"), "{edge}");
}

/// What stands beside an arrow is in the ledger, and what the arrows say is what was decided.
#[test]
fn the_figures_are_drawn_from_what_the_ledger_says() {
    let d = Deployment::start();
    let out = d.scratch("figures");
    let page = d.ok(&["demo", "figures", "--out", out.to_str().unwrap()]);
    let page = std::fs::read_to_string(page.trim()).unwrap();
    let pictures = ["3.1", "4.1-tls-1.2", "4.1-tls-1.3", "4.2", "4.3", "5.1"];
    for name in pictures {
        let picture = std::fs::read_to_string(out.join(format!("figure-{name}.svg"))).unwrap();
        assert!(picture.starts_with("<svg ") && picture.trim_end().ends_with("</svg>"), "{name}");
        assert!(page.contains(&format!("(figure-{name}.svg)")), "{name} is not on the page");
    }
    assert_eq!(page.matches("```mermaid").count(), pictures.len());
    let sections: Vec<&str> = page.split("\n## ").skip(1).collect();
    let section = |number: &str| {
        let title = format!("Figure {number}:");
        *sections
            .iter()
            .find(|section| section.starts_with(&title))
            .unwrap_or_else(|| panic!("{title} {page}"))
    };

    let five = [
        "bootstrap_credential_issued",
        "enrolment_requested",
        "csr_built",
        "certificate_signed",
        "certificate_delivered",
    ];
    assert!(five.iter().all(|kind| section("3.1").contains(kind)), "{}", section("3.1"));
    let handshake = section("4.1 (TLS 1.3)");
    let marked: Vec<&str> =
        handshake.lines().filter(|line| line.starts_with("| ") && line.contains('★')).collect();
    assert_eq!(marked.len(), 3, "{handshake}");
    assert!(marked.iter().all(|line| line.contains("encrypted")), "{handshake}");
    assert!(
        section("4.2").contains("the same token, unchanged") && !section("4.2").contains("token service")
    );
    assert_eq!(
        section("4.3").matches("(token_exchanged)").count(),
        4,
        "one for each hop, asked for and given: {}",
        section("4.3")
    );
    assert_eq!(
        section("5.1").lines().filter(|line| line.contains("| decision d_")).count(),
        8,
        "{}",
        section("5.1")
    );

    let decision = section("4.3").split("decision d_").last().unwrap().split([' ', '|']).next().unwrap();
    let told = d.json(&["explain", &format!("d_{decision}")]);
    assert_eq!((&told["verdict"], &told["target"]), (&"allow".into(), &"users".into()), "{told}");
    // Nothing of it stays behind: neither the key that openssl was lent nor another way to carry users along.
    assert!(!d.state().join("handshake").exists());
    let services = d.json(&["service", "list"]);
    assert!(
        services.as_array().unwrap().iter().all(|service| service["user_context"] == "same"),
        "{services}"
    );
}
