//! How the edge speaks TLS, as a stranger's client sees it: `openssl s_client`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use countersign_gateway::{EdgeCertificateError, Gateway, GatewayError};
use countersign_identity::SpiffeId;

use crate::rig::{Rig, Running, settings};

/// A self-signed certificate with these names and its key: `NAME.pem`, `NAME.key`.
fn certificate(dir: &Path, name: &str, dns: &str) -> (PathBuf, PathBuf) {
    let (cert, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName={dns}"), "-out"])
        .arg(&cert)
        .arg("-keyout")
        .arg(&key)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (cert, key)
}

#[allow(clippy::print_stderr, reason = "whoever reads the log of the tests wants to know")]
fn no_openssl() -> bool {
    let missing = Command::new("openssl").arg("version").output().is_err();
    if missing {
        eprintln!("skipped: openssl is not installed");
    }
    missing
}

/// What the client says after a handshake with these arguments.
async fn s_client(address: SocketAddr, arguments: &'static [&'static str]) -> Output {
    let client = move || {
        Command::new("openssl")
            .args(["s_client", "-connect", &address.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    tokio::task::spawn_blocking(client).await.unwrap()
}

/// Whose certificate is shown; nobody's where the handshake fails.
async fn shown(address: SocketAddr, arguments: &'static [&'static str]) -> Option<String> {
    let said = s_client(address, arguments).await;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let subject = text.lines().find_map(|line| line.strip_prefix("subject=CN = "))?;
    Some(subject.to_owned())
}

/// An edge that shows `flea` first, and then what is for the names of the shop.
async fn edge(further: &str) -> (Rig, Running, SocketAddr) {
    let rig = Rig::new();
    let (cert, key) = certificate(rig.dir.path(), "flea", "DNS:flea.test");
    let (shop, shop_key) = certificate(rig.dir.path(), "shop", "DNS:shop.test,DNS:*.shop.test,DNS:flea.test");
    let (cert, key, shop, shop_key) = (cert.display(), key.display(), shop.display(), shop_key.display());
    let toml = format!(
        "listen_tls = \"127.0.0.1:0\"\ntls_cert = \"{cert}\"\ntls_key = \"{key}\"\n[tls]\n{further}\n\
         [[tls.certificate]]\ncert = \"{shop}\"\nkey = \"{shop_key}\"\n"
    );
    let running = rig.gateway(&toml).await;
    let address = running.tls.unwrap();
    (rig, running, address)
}

#[tokio::test]
async fn each_name_is_shown_its_certificate_and_an_unknown_one_the_first() {
    if no_openssl() {
        return;
    }
    let (_rig, _edge, address) = edge("").await;
    for (arguments, whose) in [
        (&["-servername", "flea.test"], "flea"),
        (&["-servername", "shop.test"], "shop"),
        (&["-servername", "SHOP.test"], "shop"),
        (&["-servername", "eu.shop.test"], "shop"),
        (&["-servername", "a.eu.shop.test"], "flea"),
        (&["-servername", "other.test"], "flea"),
    ] {
        assert_eq!(shown(address, arguments).await.as_deref(), Some(whose), "{arguments:?}");
    }
    assert_eq!(shown(address, &["-noservername"]).await.as_deref(), Some("flea"));
}

#[tokio::test]
async fn a_name_that_no_certificate_has_is_refused_where_that_is_set() {
    if no_openssl() {
        return;
    }
    let (_rig, _edge, address) = edge("unknown_name = \"refuse\"").await;
    assert_eq!(shown(address, &["-servername", "shop.test"]).await.as_deref(), Some("shop"));
    assert_eq!(shown(address, &["-servername", "other.test"]).await, None);
    assert_eq!(shown(address, &["-noservername"]).await, None);
}

#[tokio::test]
async fn every_certificate_is_read_again_and_a_bad_one_keeps_all_of_the_old() {
    if no_openssl() {
        return;
    }
    let (rig, _edge, address) = edge("").await;
    let (next, next_key) = certificate(rig.dir.path(), "next", "DNS:shop.test");
    let shop = |extension: &str| rig.dir.path().join(format!("shop.{extension}"));
    std::fs::copy(&next, shop("pem")).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(
        shown(address, &["-servername", "shop.test"]).await.as_deref(),
        Some("shop"),
        "half of a pair"
    );
    std::fs::copy(&next_key, shop("key")).unwrap();
    let mut whose = None;
    for _ in 0..50 {
        whose = shown(address, &["-servername", "shop.test"]).await;
        if whose.as_deref() == Some("next") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(whose.as_deref(), Some("next"));
    assert_eq!(shown(address, &["-servername", "flea.test"]).await.as_deref(), Some("flea"));
}

#[tokio::test]
async fn tls_1_2_is_spoken_by_an_edge_that_says_so_and_by_no_other() {
    if no_openssl() {
        return;
    }
    let (_rig, _edge, strict) = edge("").await;
    assert_eq!(shown(strict, &["-tls1_2", "-servername", "flea.test"]).await, None);
    assert!(shown(strict, &["-tls1_3", "-servername", "flea.test"]).await.is_some());

    let (_rig, _edge, lenient) = edge("allow_tls_1_2_at_this_edge = true").await;
    let said = s_client(lenient, &["-tls1_2", "-servername", "flea.test"]).await;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("New, TLSv1.2") && said.contains("Extended master secret: yes"), "{said}");
    assert!(!said.contains("TLS session ticket:"), "{said}");
    assert!(said.contains("Secure Renegotiation IS supported"), "{said}");
    let again = s_client(lenient, &["-tls1_2", "-servername", "flea.test", "-reconnect"]).await;
    let again = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(!again.contains("Reused, "), "a session was resumed: {again}");
    // Whoever can do better does better; whoever can only do worse stays outside.
    let best = s_client(lenient, &["-servername", "flea.test"]).await;
    assert!(String::from_utf8_lossy(&best.stdout).contains("New, TLSv1.3"));
    assert_eq!(shown(lenient, &["-tls1_1", "-servername", "flea.test"]).await, None);
    assert_eq!(shown(lenient, &["-tls1_2", "-cipher", "AES128-SHA256"]).await, None, "no forward secrecy");
}

#[tokio::test]
async fn keys_are_agreed_on_in_the_groups_that_are_set_and_in_no_other() {
    if no_openssl() {
        return;
    }
    let (_rig, _edge, address) = edge("groups = [\"X25519\"]").await;
    let said = s_client(address, &["-servername", "flea.test", "-groups", "P-256:X25519"]).await;
    assert!(String::from_utf8_lossy(&said.stdout).contains("Server Temp Key: X25519"), "{said:?}");
    assert_eq!(shown(address, &["-servername", "flea.test", "-groups", "P-256"]).await, None);
    let (_rig, _edge, address) = edge("").await;
    assert!(shown(address, &["-servername", "flea.test", "-groups", "P-256"]).await.is_some());
}

#[tokio::test]
async fn rejects_more_certificates_than_are_served_and_half_of_the_first() {
    let rig = Rig::new();
    let workload = rig.workload(SpiffeId::gateway(&rig.td, "edge").unwrap()).await;
    let bind = async |toml: String| {
        Gateway::bind(settings(&toml), workload.clone(), Arc::new(String::new)).await.err().unwrap()
    };
    let one = "[[tls.certificate]]\ncert = \"a\"\nkey = \"b\"\n";
    let many = format!("listen_tls = \"127.0.0.1:0\"\n{}", one.repeat(257));
    let refused = bind(many).await;
    assert!(matches!(refused, GatewayError::EdgeCertificate(EdgeCertificateError::TooMany { count: 257 })));
    let half = bind(format!("listen_tls = \"127.0.0.1:0\"\ntls_cert = \"a\"\n{one}")).await;
    assert!(matches!(half, GatewayError::NoEdgeCertificate), "{half}");
}
