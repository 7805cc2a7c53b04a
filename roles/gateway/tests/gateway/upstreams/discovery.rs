//! Where endpoints come from.
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use countersign_gateway::{DiscoveryError, UpstreamSettingsError};

use super::connect::refused;
use super::{EVERYTHING, ask, gateway, until};
use crate::rig::backend::{Backend, Reply};
use crate::rig::client::get;
use crate::rig::dns::{Dns, Record};
use crate::rig::{Rig, eventually};

const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn asking(dns: &Dns) -> String {
    format!("resolver = {{ nameservers = [\"{}\"], ttl_min_ms = 20, timeout_ms = 1000 }}\n", dns.address)
}

/// Two backends on one port of two addresses.
async fn twins() -> (Backend, Backend) {
    loop {
        let one = Backend::new(|_, seen| {
            let late = seen.starts_with("GET /late ");
            let text = "one".to_owned();
            if late { Reply::Later(Duration::from_secs(1), text) } else { Reply::Text(text) }
        })
        .await;
        let address = format!("{SECOND}:{}", one.address.port());
        // The port may be in use there: then another one.
        if std::net::TcpListener::bind(&address).is_ok() {
            return (one, Backend::at(&address, |_, _| Reply::Text("two".into())).await);
        }
    }
}

#[tokio::test]
async fn a_name_is_looked_up_again_and_who_left_finishes_his_requests() {
    let (rig, dns) = (Rig::new(), Dns::new().await);
    let (one, two) = twins().await;
    dns.set("backend.test", &[Record::A(FIRST)]);
    let upstream = format!("dns = \"backend.test:{}\"\n{}", one.address.port(), asking(&dns));
    let edge = gateway(&rig, &upstream).await;
    until(&edge, |answer| answer.body == "one").await;
    assert_eq!(two.count(), 0);

    let plain = edge.plain;
    let late = tokio::spawn(async move { get(plain, "/late", &[]).await });
    eventually(|| one.last().starts_with("GET /late ")).await;
    dns.set("backend.test", &[Record::A(SECOND)]);
    until(&edge, |answer| answer.body == "two").await;
    for _ in 0..10 {
        assert_eq!(ask(&edge).await.body, "two");
    }
    assert_eq!(late.await.unwrap().body, "one");
    eventually(|| one.open.load(Ordering::SeqCst) == 0).await;
    dns.set("backend.test", &[Record::A(FIRST), Record::A(SECOND)]);
    until(&edge, |answer| answer.body == "one").await;
}

#[tokio::test]
async fn a_name_server_that_fails_changes_nothing_and_one_that_says_nobody_is_believed() {
    let (rig, dns) = (Rig::new(), Dns::new().await);
    let backend = Backend::named("here").await;
    dns.break_down(true);
    dns.set("backend.test", &[Record::A(FIRST)]);
    let upstream = format!("dns = \"backend.test:{}\"\n{}", backend.address.port(), asking(&dns));
    let edge = gateway(&rig, &upstream).await;
    assert_eq!(ask(&edge).await.problem(503), "unavailable");
    let reason = rig.decision(|decision| decision.status == 503).await.reason.unwrap();
    assert!(reason.contains("none is known"), "{reason}");
    dns.break_down(false);
    until(&edge, |answer| answer.body == "here").await;

    dns.break_down(true);
    let asked = dns.questions();
    eventually(|| dns.questions() > asked + 8).await;
    assert_eq!(ask(&edge).await.body, "here");
    dns.break_down(false);
    dns.set("backend.test", &[]);
    let refused = until(&edge, |answer| answer.status != 200).await;
    assert_eq!(refused.problem(503), "unavailable");
}

#[tokio::test]
async fn a_service_record_names_ports_and_who_comes_first() {
    let (rig, dns) = (Rig::new(), Dns::new().await);
    let (first, second) = (Backend::named("first").await, Backend::named("second").await);
    let record = |priority, backend: &Backend| {
        Record::Srv(priority, 1, backend.address.port(), "host.backend.test".into())
    };
    dns.set("host.backend.test", &[Record::A(FIRST)]);
    dns.set("_http._tcp.backend.test", &[record(10, &first), record(20, &second)]);
    let health = "health = { path = \"/\", every_ms = 20, unhealthy_after = 1 }";
    let upstream = format!("srv = \"_http._tcp.backend.test\"\n{}{health}", asking(&dns));
    let edge = gateway(&rig, &upstream).await;
    until(&edge, |answer| answer.body == "first").await;
    for _ in 0..20 {
        assert_eq!(ask(&edge).await.body, "first");
    }
    first.kill();
    until(&edge, |answer| answer.body == "second").await;
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes_and_a_bad_one_changes_nothing() {
    let rig = Rig::new();
    let (one, two) = (Backend::named("one").await, Backend::named("two").await);
    let path = rig.dir.path().join("endpoints.txt");
    std::fs::write(&path, format!("# ours\n{}\n", one.address)).unwrap();
    let edge = gateway(&rig, &format!("file = \"{}\"", path.display())).await;
    assert_eq!(ask(&edge).await.body, "one");
    std::fs::write(&path, format!("{}\nnonsense\n", two.address)).unwrap();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(ask(&edge).await.body, "one");
    std::fs::write(&path, format!("{}\n", two.address)).unwrap();
    until(&edge, |answer| answer.body == "two").await;
    eventually(|| one.open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_file_that_names_a_socket_does_not_get_around_the_tls_that_is_asked_for() {
    let rig = Rig::new();
    let socket = rig.dir.path().join("backend.sock");
    let backend = Backend::on_socket(&socket, "not proven").await;
    let path = rig.dir.path().join("endpoints.txt");
    std::fs::write(&path, "127.0.0.1:1\n").unwrap();
    let tls = "tls = { expect = \"spiffe://fleamarket.test/svc/ads\" }";
    let edge = gateway(&rig, &format!("file = \"{}\"\n{tls}", path.display())).await;
    assert_eq!(ask(&edge).await.status, 502);
    std::fs::write(&path, format!("unix:{}\n", socket.display())).unwrap();
    let refused = |decision: &countersign_ledger::Decision| {
        decision.reason.as_deref().is_some_and(|reason| reason.contains("tls is for addresses"))
    };
    for _ in 0..200 {
        assert_eq!(ask(&edge).await.status, 502);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    rig.decision(refused).await;
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn rejects_a_source_that_cannot_be_asked() {
    type E = UpstreamSettingsError;
    let with = |more: &str| format!("{EVERYTHING}[[upstream]]\nname = \"backend\"\n{more}");
    for bad in
        ["dns = \"backend.test\"", "dns = \"unix:/a\"", "srv = \"backend.test\"", "srv = \"_http.backend\""]
    {
        let error = refused(&with(bad)).await;
        assert!(matches!(error, UpstreamSettingsError::DnsName { .. }), "{bad}: {error}");
    }
    let two = "dns = \"a:1\"\nsrv = \"_http._tcp.a\"";
    assert!(matches!(refused(&with(two)).await, UpstreamSettingsError::Where { .. }));
    let UpstreamSettingsError::File { source, .. } = refused(&with("file = \"/none\"")).await else {
        panic!("it loads");
    };
    assert!(matches!(source, DiscoveryError::Unreadable { .. }), "{source}");
    let health = "endpoints = [\"a:1\"]\nhealth = { path = \"healthz\" }";
    assert!(matches!(refused(&with(health)).await, E::HealthPath { .. }));
    let zero = "endpoints = [\"a:1\"]\nhealth = { path = \"/\", every_ms = 0 }";
    assert!(matches!(refused(&with(zero)).await, E::Number { .. }));
}
