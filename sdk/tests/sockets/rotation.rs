//! Getting an identity, and a new one without anybody noticing.

use std::{path::PathBuf, time::Duration};

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use countersign_pki::{CertificateDer, CrlPolicy};
use countersign_sdk::{
    Workload,
    agent::AgentError,
    launch::{self, LaunchError},
    live::CompileError,
    snapshot::SnapshotRefusal,
    spool::SpoolError,
    tls::{Identity, IdentityError, TrustState},
    workload::{ConnectError, NotReady},
};
use countersign_wire::agent::IssueResponse;
use http_body_util::BodyExt;

use crate::deployment::{Deployment, get_request, key};

#[tokio::test]
async fn connecting_makes_a_key_and_gets_exactly_the_attested_identity() {
    let deployment = Deployment::new();
    let ads = deployment.workload("ads").await;
    assert_eq!(ads.id().as_str(), "spiffe://fleamarket.test/svc/ads");
    assert_eq!(ads.target(), "ads");
    assert_eq!(ads.ready(), Ok(()));
    let other = deployment.workload("chat").await;
    assert_ne!(ads.identity().unwrap().serial_hex(), other.identity().unwrap().serial_hex());
    ads.close().await;
}

#[tokio::test]
async fn credentials_rotate_without_dropping_a_connection() {
    let deployment = Deployment::new();
    deployment.permit("users", &["ads"]);
    let endless = || async {
        let ticks = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Some((Ok::<_, std::convert::Infallible>(Bytes::from_static(b"tick")), ()))
        });
        Body::from_stream(ticks)
    };
    // Six seconds are left of each certificate: renewal comes after three, give or take.
    deployment.world.lock().unwrap().leaf_age = Some(Duration::from_secs(54));
    let users = deployment.serve("users", Router::new().route("/endless", get(endless))).await;
    let serial = || users.workload.identity().unwrap().serial_hex().to_owned();
    let (before, parsed) = (serial(), users.workload.certificates_parsed());

    let channel = deployment.bare_client(Some(&deployment.leaf("ads")), "users", users.address);
    let mut answer = channel.send(get_request("/endless")).await.unwrap();
    for _ in 0..90 {
        if serial() != before {
            break;
        }
        assert!(answer.frame().await.unwrap().is_ok());
    }
    assert_ne!(serial(), before, "not renewed");
    assert_eq!(users.workload.certificates_parsed(), parsed + 1);
    // The stream goes on, over the connection whose handshake showed the certificate before.
    for _ in 0..10 {
        assert!(answer.frame().await.unwrap().is_ok());
    }
    assert_eq!(channel.connections(), 1);
    // Who connects now sees the new one.
    let late = deployment.bare_client(Some(&deployment.leaf("ads")), "users", users.address);
    late.send(get_request("/endless")).await.unwrap();
    let seen = late.peer().unwrap().workload(countersign_sdk::clock::now()).unwrap();
    assert_eq!(seen.certificate.as_ref().unwrap().serial_hex, serial());
}

#[tokio::test]
async fn a_caller_uses_its_new_certificate_for_the_next_call() {
    let deployment = Deployment::new();
    deployment.permit("users", &["ads"]);
    let _users = deployment.serve("users", crate::deployment::counting().0).await;
    deployment.world.lock().unwrap().leaf_age = Some(Duration::from_secs(55));
    let ads = deployment.workload("ads").await;
    deployment.world.lock().unwrap().leaf_age = None;
    let first = ads.identity().unwrap().serial_hex().to_owned();
    let serial = || ads.identity().unwrap().serial_hex().to_owned();
    let call = async || ads.client("users").get("/users/7").send().await.unwrap().status();
    let start = std::time::Instant::now();
    while serial() == first {
        assert_eq!(call().await, 200);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The first certificate would still do, and is not used any more.
    assert!(start.elapsed() < Duration::from_secs(4), "renewed too late");
    assert_eq!((call().await.as_u16(), ads.client("users").connections()), (200, 2));
    // Calls past the end of the first certificate: none fails, and nothing is connected again.
    while start.elapsed() < Duration::from_secs(7) {
        assert_eq!(call().await, 200);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(ads.client("users").connections(), 2);
}

#[tokio::test]
async fn waits_for_an_agent_and_says_what_it_waited_for() {
    let deployment = Deployment::new();
    let path = deployment.directory.path().join("ads-agent.sock");
    let waiting = Workload::builder(path.clone()).wait(Duration::from_millis(300)).connect();
    let refused = waiting.await.unwrap_err();
    let ConnectError::TimedOut { waited, last } = refused else { panic!("{refused}") };
    assert_eq!(waited, Duration::from_millis(300));
    assert!(last.contains("ads-agent.sock"), "{last}");

    let late = tokio::spawn(async move { Workload::connect_to(&path).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    deployment.agent("ads").await;
    assert!(late.await.unwrap().is_ok());
}

#[tokio::test]
async fn an_agent_that_does_not_know_us_is_not_waited_for() {
    let deployment = Deployment::new();
    let socket = deployment.agent("ads").await;
    assert_eq!(launch::register(&socket, "ads").await.unwrap(), deployment.id("ads"));
    let refused = launch::register(&socket, "users").await.unwrap_err();
    assert!(refused.is_refusal(), "{refused}");
    assert!(matches!(refused, LaunchError::Agent(AgentError::Denied { .. })));
    let absent = launch::register(&PathBuf::from("/nonexistent/agent.sock"), "ads").await.unwrap_err();
    assert!(matches!(absent, LaunchError::Agent(AgentError::Unreachable { .. })), "{absent}");
}

#[test]
fn rejects_a_chain_and_a_key_that_are_no_identity() {
    let deployment = Deployment::new();
    let leaf = deployment.leaf("ads");
    let refused = |chain: Vec<CertificateDer<'static>>| Identity::workload(chain, &leaf.key).unwrap_err();
    assert_eq!(refused(Vec::new()), IdentityError::NoCertificate);
    assert_eq!(refused(vec![CertificateDer::from(vec![1, 2, 3])]), IdentityError::Unreadable);
    let issuing = deployment.issuing.certificate().clone();
    let refused = Identity::workload(vec![issuing.clone()], deployment.issuing.key()).unwrap_err();
    assert_eq!(refused, IdentityError::NoSpiffeId);
    assert_eq!(Identity::workload(leaf.chain.clone(), &key()).unwrap_err(), IdentityError::KeyMismatch);
    assert!(Identity::edge(vec![issuing], deployment.issuing.key()).is_ok());
}

#[test]
fn every_change_of_trust_is_a_new_generation_that_subscribers_learn_of() {
    let deployment = Deployment::new();
    let trust = TrustState::new(deployment.bundles(), CrlPolicy::Require);
    let mut changes = trust.subscribe();
    let first = trust.generation();
    trust.set_identity(deployment.leaf("ads").identity());
    trust.set_bundles(deployment.bundles());
    assert_eq!(trust.generation(), first + 2);
    assert!(changes.has_changed().unwrap());
    assert_eq!(*changes.borrow_and_update(), first + 2);
    assert!(!format!("{trust:?}").contains("PRIVATE"));
}

/// How connecting ends when the agent changes its answer in this way.
async fn connecting(tamper: fn(&mut IssueResponse)) -> ConnectError {
    let deployment = Deployment::new();
    deployment.world.lock().unwrap().tamper = Some(tamper);
    let socket = deployment.agent("ads").await;
    let start = std::time::Instant::now();
    let refused = Workload::connect_to(&socket).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5), "waited for what cannot come");
    refused
}

#[tokio::test]
async fn rejects_each_answer_of_an_agent_that_is_no_identity() {
    let refused = connecting(|answer| answer.spiffe_id = "spiffe://fleamarket.test/svc/users".into()).await;
    assert!(matches!(refused, ConnectError::OtherId { .. }), "{refused}");
    let refused = connecting(|answer| answer.chain.clear()).await;
    assert_eq!(refused, ConnectError::Identity(IdentityError::NoCertificate));
    let refused = connecting(|answer| answer.snapshot_keys.clear()).await;
    assert!(matches!(refused, ConnectError::Agent(AgentError::Failed { .. })), "{refused}");
    let refused = connecting(|answer| answer.snapshot_keys = vec!["{}".into()]).await;
    assert_eq!(refused, ConnectError::Snapshot(SnapshotRefusal::BadKey));
    assert_eq!(ConnectError::NoKey.to_string(), "no key could be made");
    assert_eq!(IdentityError::Key.to_string(), "private key cannot be used: give a P-256 key");
}

#[tokio::test]
async fn rejects_a_first_snapshot_that_cannot_be_used_and_a_place_for_records_that_is_none() {
    let deployment = Deployment::new();
    let socket = deployment.agent("ads").await;
    let file = deployment.directory.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let refused = Workload::builder(socket.clone()).spool(file.join("below")).connect().await.unwrap_err();
    assert!(matches!(refused, ConnectError::Spool(SpoolError::Disk { .. })), "{refused}");

    let mut snapshot = deployment.snapshot();
    snapshot.bundles[0].crls = vec![b"no list".as_slice().into()];
    deployment.publish_signed(countersign_sdk::snapshot::sign(&snapshot, &deployment.snapshot_key).unwrap());
    let refused = Workload::connect_to(&socket).await.unwrap_err();
    assert!(matches!(refused, ConnectError::Compile(CompileError::Crl { .. })), "{refused}");
}

#[tokio::test]
async fn is_not_ready_once_its_certificate_has_expired() {
    let deployment = Deployment::new();
    deployment.world.lock().unwrap().leaf_age = Some(Duration::from_secs(58));
    let ads = deployment.workload("ads").await;
    deployment.world.lock().unwrap().issues_nothing = true;
    assert_eq!(ads.ready(), Ok(()));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(ads.ready(), Err(NotReady::CertificateExpired));
    // The agent comes back, and so does the workload.
    {
        let mut world = deployment.world.lock().unwrap();
        (world.issues_nothing, world.leaf_age) = (false, None);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(ads.ready(), Ok(()));
}

#[tokio::test]
async fn a_launcher_that_is_told_nonsense_does_not_become_it() {
    let socket = Deployment::new();
    let socket = (socket.agent("ads").await, socket);
    let refused = launch::register(&socket.0, "nonsense").await.unwrap_err();
    assert_eq!(refused, LaunchError::BadId("nonsense".into()));
}
