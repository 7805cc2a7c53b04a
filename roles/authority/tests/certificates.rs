//! The column `ca` as operators use it, and as openssl sees it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::process::Command;

use common::{Place, Running, base64, call, new_key, pem_of};
use countersign_identity::SpiffeId;
use countersign_pki::{Crl, RevocationReason, csr, pem};
use http::{HeaderMap, Method};
use serde_json::{Value, json};

fn fresh_csr() -> String {
    base64(&csr::make(&new_key(), None).unwrap())
}

async fn refused(authority: &Running, path: &str, body: Value) -> (u16, String) {
    let answer = authority.admin(Method::POST, path, Some(body)).await;
    let problem = answer.json();
    (answer.status.as_u16(), problem["detail"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn openssl_accepts_our_chain_and_our_revocation_list() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("skipped: openssl is not installed");
        return;
    }
    let place = Place::new();
    let authority = place.start().await;
    let (_, issued) = authority.issue(json!({ "service": "ads" })).await;
    let (_, edge) = authority.issue(json!({ "edge": { "dns": ["localhost"], "ips": ["127.0.0.1"] } })).await;
    let revoked = authority
        .post("/api/v1/certificates/revoke", json!({ "service": "ads", "reason": "superseded" }))
        .await;
    let crl = authority.admin(Method::GET, "/api/v1/crl", None).await;
    assert_eq!(crl.headers["content-type"], "application/pkix-crl");
    authority.stop().await;

    let file = |name: &str, content: String| {
        let path = place.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let (root, leaf) =
        (file("root.pem", pem_of(&issued.roots[0].0)), file("leaf.pem", pem_of(&issued.chain[0].0)));
    let ca = file("ca.pem", pem_of(&issued.chain[1].0));
    let list = file("crl.pem", pem::encode("X509 CRL", &crl.body));
    let openssl = |args: &[&str]| {
        let output = Command::new("openssl").args(args).output().unwrap();
        (
            output.status.success(),
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
        )
    };
    let [root, leaf, ca, list] = [&root, &leaf, &ca, &list].map(|path| path.to_str().unwrap());
    for purpose in ["sslclient", "sslserver"] {
        let (ok, text) = openssl(&[
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            root,
            "-untrusted",
            ca,
            leaf,
        ]);
        assert!(ok, "{text}");
    }
    let (ok, text) =
        openssl(&["verify", "-crl_check", "-CRLfile", list, "-CAfile", root, "-untrusted", ca, leaf]);
    assert!(!ok && text.contains("revoked"), "{text}");
    let (ok, text) = openssl(&["crl", "-in", list, "-noout", "-text", "-CAfile", ca]);
    assert!(ok && text.contains("verify OK") && text.contains("Superseded"), "{text}");
    assert!(
        text.contains(&format!("X509v3 CRL Number: \n                {}", revoked["crl_number"])),
        "{text}"
    );
    let edge_root = file("edge-root.pem", pem_of(&edge.roots[0].0));
    let edge_leaf = file("edge.pem", pem_of(&edge.chain[0].0));
    let (ok, text) = openssl(&[
        "verify",
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-verify_hostname",
        "localhost",
        "-CAfile",
        edge_root.to_str().unwrap(),
        edge_leaf.to_str().unwrap(),
    ]);
    assert!(ok, "{text}");
    assert_eq!(std::fs::read_to_string(place.state().join("ca.pem")).unwrap(), pem_of(&edge.roots[0].0));
}

#[tokio::test]
async fn an_order_is_refused_for_its_own_reason_and_nothing_is_issued() {
    let place = Place::new();
    let authority = place.start().await;
    let before = authority.events("certificate_signed").await.len();
    let path = "/api/v1/certificates";
    let users = SpiffeId::service(&common::home(), "users").unwrap();
    let greedy = base64(&csr::make(&new_key(), Some(&users)).unwrap());
    for (body, status, why) in [
        (json!({ "csr": fresh_csr() }), 422, "exactly one"),
        (
            json!({ "service": "ads", "edge": { "dns": ["localhost"] }, "csr": fresh_csr() }),
            422,
            "exactly one",
        ),
        (json!({ "service": "nobody", "csr": fresh_csr() }), 403, ""),
        (json!({ "service": "ads", "csr": fresh_csr(), "ttl_s": 59 }), 422, "below one minute"),
        (json!({ "service": "ads", "csr": fresh_csr(), "ttl_s": 86_401 }), 422, "above the limit"),
        (
            json!({ "service": "ads", "csr": fresh_csr(), "profile": "issuing" }),
            422,
            "workload, server or signing",
        ),
        (json!({ "service": "ads", "csr": greedy }), 422, "svc/users"),
        (json!({ "service": "ads", "csr": base64(b"nothing") }), 400, "not a DER"),
        (json!({ "service": "ads", "csr": "***" }), 400, "not base64"),
        (json!({ "edge": { "dns": ["bank.example"] }, "csr": fresh_csr() }), 422, "edge root"),
        (json!({ "edge": { "dns": [], "ips": [] }, "csr": fresh_csr() }), 422, "1 to 64"),
        (json!({ "edge": { "ips": ["localhost"] }, "csr": fresh_csr() }), 422, "no IP address"),
    ] {
        let (got, detail) = refused(&authority, path, body.clone()).await;
        assert_eq!(got, status, "{body}: {detail}");
        assert!(detail.contains(why), "{body}: {detail}");
    }
    assert_eq!(authority.events("certificate_signed").await.len(), before);
    for ttl in [60, 86_400] {
        authority.issue(json!({ "service": "ads", "ttl_s": ttl })).await;
    }
    let (_, server) = authority.issue(json!({ "service": "ads", "profile": "server" })).await;
    assert_eq!(server.certificate.profile, "server");
    authority.stop().await;
}

#[tokio::test]
async fn keys_that_openssl_makes_weak_or_foreign_are_refused_each_for_its_own_reason() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("skipped: openssl is not installed");
        return;
    }
    let place = Place::new();
    let authority = place.start().await;
    for (algorithm, option, why) in [
        ("rsa", "rsa_keygen_bits:1024", "1024 bits, fewer than 2048"),
        ("rsa", "rsa_keygen_bits:2048", "RSA with 2048 bits"),
        ("ec", "ec_paramgen_curve:P-384", "P-384"),
        ("ed25519", "", "Ed25519"),
    ] {
        let der = place.dir.path().join("csr.der");
        let mut command = Command::new("openssl");
        command.args(["req", "-new", "-nodes", "-subj", "/", "-outform", "DER", "-newkey", algorithm]);
        if !option.is_empty() {
            command.args(["-pkeyopt", option]);
        }
        let keyout = place.dir.path().join("key.pem");
        command.arg("-keyout").arg(&keyout).arg("-out").arg(&der);
        assert!(command.output().unwrap().status.success(), "{algorithm}");
        let csr = base64(&std::fs::read(&der).unwrap());
        let body = json!({ "service": "ads", "csr": csr });
        let (status, detail) = refused(&authority, "/api/v1/certificates", body).await;
        assert_eq!((status, detail.contains(why)), (422, true), "{algorithm} {option}: {detail}");
    }
    authority.stop().await;
}

#[tokio::test]
async fn a_revocation_has_its_reason_its_number_and_its_event_and_stays_on_the_list() {
    let place = Place::new();
    let authority = place.start().await;
    let reasons = [
        ("ca_compromise", RevocationReason::CaCompromise),
        ("key_compromise", RevocationReason::KeyCompromise),
        ("affiliation_changed", RevocationReason::AffiliationChanged),
        ("privilege_withdrawn", RevocationReason::PrivilegeWithdrawn),
    ];
    let mut number = 0;
    for (position, (name, reason)) in reasons.into_iter().enumerate() {
        let (_, issued) = authority.issue(json!({ "service": "ads" })).await;
        let serial = issued.certificate.serial;
        let order = json!({ "serial": serial.to_uppercase(), "reason": name });
        let revoked = authority.post("/api/v1/certificates/revoke", order.clone()).await;
        assert_eq!(revoked["serials"], json!([serial]));
        assert!(revoked["crl_number"].as_u64().unwrap() > number);
        number = revoked["crl_number"].as_u64().unwrap();
        let crl = Crl::read(&authority.admin(Method::GET, "/api/v1/crl", None).await.body).unwrap();
        assert_eq!((crl.number(), crl.len()), (number, position + 1), "none ever leaves");
        assert!(
            crl.entries()
                .any(|(listed, _, why)| countersign_pki::serial_hex(listed) == serial && why == reason)
        );
        let again = authority.post("/api/v1/certificates/revoke", order).await;
        assert_eq!(again["serials"], json!([]), "it counted no more");
        number = again["crl_number"].as_u64().unwrap();
    }
    assert_eq!(authority.events("certificate_revoked").await.len(), 4);
    let path = "/api/v1/certificates/revoke";
    for (body, status) in [
        (json!({}), 422),
        (json!({ "serial": "ff", "service": "ads" }), 422),
        (json!({ "serial": "ff" }), 404),
        (json!({ "service": "nobody" }), 404),
        (json!({ "service": "ads", "reason": "because" }), 422),
    ] {
        assert_eq!(refused(&authority, path, body.clone()).await.0, status, "{body}");
    }
    let (_, edge) = authority.issue(json!({ "edge": { "dns": ["localhost"] } })).await;
    let (status, detail) = refused(&authority, path, json!({ "serial": edge.certificate.serial })).await;
    assert_eq!((status, detail.contains("no list")), (422, true), "{detail}");
    authority.stop().await;
}

#[tokio::test]
async fn listings_come_in_pages_that_miss_nothing_and_repeat_nothing() {
    let place = Place::new();
    let authority = place.start().await;
    for _ in 0..7 {
        authority.issue(json!({ "service": "ads" })).await;
    }
    let whole = authority.get("/api/v1/certificates?limit=1000").await["items"].as_array().unwrap().clone();
    let (mut paged, mut path) = (Vec::new(), "/api/v1/certificates?limit=2".to_owned());
    loop {
        let page = authority.get(&path).await;
        paged.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/certificates?limit=2&after={next}");
    }
    assert_eq!(paged, whole);
    assert_eq!(authority.admin(Method::GET, "/api/v1/certificates?after=x", None).await.status, 422);
    authority.stop().await;
}

#[tokio::test]
async fn bundle_and_list_are_public_and_the_edge_root_is_not_among_the_workload_roots() {
    let place = Place::new();
    let authority = place.start().await;
    let stranger = authority.https(None).await;
    let bundle =
        call(&stranger, Method::GET, "/api/v1/bundle", None, &HeaderMap::new()).await.unwrap().json();
    assert_ne!(bundle["roots"], bundle["edge_roots"]);
    let crl = call(&stranger, Method::GET, "/api/v1/crl", None, &HeaderMap::new()).await.unwrap();
    assert!(Crl::read(&crl.body).unwrap().is_empty());
    let none = call(&stranger, Method::GET, "/api/v1/crl?issuer=ff", None, &HeaderMap::new()).await.unwrap();
    assert_eq!(none.status, 404);
    authority.stop().await;
}
