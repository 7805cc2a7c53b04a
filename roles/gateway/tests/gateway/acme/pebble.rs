//! The same with an authority that others wrote: Pebble, with which Let's Encrypt tests clients. It refuses good nonces
//! now and then.

use std::path::Path;
use std::process::{Command, Stdio};

use countersign_testkit::{Child, free_port};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::AsyncWriteExt as _;

use super::{HOST, RULES, asks, readiness, until};
use crate::rig::client::{read_answer, tls};
use crate::rig::dns::{Dns, Record};
use crate::rig::echo::{self, Seen};
use crate::rig::{Rig, pem};

/// A Pebble that finds every host at `gateway`; its directory, and where it shows its roots.
fn start(program: &Path, rig: &Rig, dns: &Dns, gateway: u16) -> (Child, u16, u16) {
    let (cert, key, root) = rig.edge_certificate(&["localhost"], "pebble");
    std::fs::write(rig.dir.path().join("pebble-ca.pem"), pem("CERTIFICATE", &root)).unwrap();
    let (directory, management) = (free_port(), free_port());
    let config = serde_json::json!({ "pebble": {
        "listenAddress": format!("127.0.0.1:{directory}"),
        "managementListenAddress": format!("127.0.0.1:{management}"),
        "certificate": cert, "privateKey": key, "httpPort": free_port(), "tlsPort": gateway,
    } });
    let file = rig.dir.path().join("pebble.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let mut command = Command::new(program);
    command.arg("-config").arg(&file).args(["-strict", "-dnsserver", &dns.address.to_string()]);
    command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "15");
    let log = std::fs::File::create(rig.dir.path().join("pebble.log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    (Child::spawn(&mut command), directory, management)
}

/// The root below which it issues: it makes a new one at each start.
async fn issuing_root(management: u16, ca: &[u8]) -> Vec<u8> {
    let address = ([127, 0, 0, 1], management).into();
    let mut stream = tls(address, "localhost", ca, b"http/1.1").await.unwrap();
    stream.write_all(b"GET /roots/0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let answer = read_answer(&mut stream).await;
    CertificateDer::from_pem_slice(answer.body.as_bytes()).unwrap().to_vec()
}

#[tokio::test]
async fn pebble_issues_a_certificate_after_its_own_validation() {
    let Some(program) = countersign_testkit::pebble() else { return };
    let (rig, dns, gateway) = (Rig::new(), Dns::new().await, free_port());
    dns.set(HOST, &[Record::A([127, 0, 0, 1].into())]);
    rig.policy("gateway", RULES);
    rig.open_service("ads", echo::router(&["/open/{*rest}"], &Seen::default())).await;
    let (_pebble, directory, management) = start(&program, &rig, &dns, gateway);
    let ca = rig.dir.path().join("pebble-ca.pem");
    let state = rig.dir.path().join("acme");
    let edge = rig
        .gateway(&format!(
            "listen_tls = \"127.0.0.1:{gateway}\"\nadmin = \"127.0.0.1:0\"\n[tls.acme]\n\
             directory = \"https://localhost:{directory}/dir\"\nca = {ca:?}\nstate_dir = {state:?}\nhosts = [{HOST:?}]\n\
             contact = [\"mailto:ops@shop.test\"]\nterms_of_service_agreed = true\nretry_min_s = 1\nretry_max_s = 2\n\
             [[route]]\npath = \"/open/*\"\nto = \"ads\"\nuser = \"optional\"\n"
        ))
        .await;
    let kept = || {
        std::fs::read_dir(&state).ok()?.next()?.ok().filter(|dir| dir.path().join("shop.test.pem").exists())
    };
    until(async || kept().is_some() && !readiness(&edge).await.contains("[!]")).await;
    let ca = CertificateDer::from_pem_file(&ca).unwrap();
    let root = issuing_root(management, &ca).await;
    let mut stream = tls(edge.tls.unwrap(), HOST, &root, b"http/1.1").await.unwrap();
    assert_eq!(asks(&mut stream).await, 200);
}
