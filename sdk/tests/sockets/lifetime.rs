//! Continuous verification: what was true at the handshake is asked again as long as a connection lasts.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use countersign_pki::{
    Bundle, BundleSet, Crl, CrlPolicy, RevocationReason,
    issue::Issuer,
    revocation::{RevokedEntry, make_crl},
};
use countersign_sdk::{
    clock,
    outbound::{CallError, Channel},
    tls::TrustState,
    workload::NotReady,
};
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::deployment::{Deployment, HOUR, LeafProfile, Served, get_request};

const TWO_SECONDS: Duration = Duration::from_secs(2);

/// A service with a route that answers at once, one that never ends, and one that takes its time.
async fn users(deployment: &Arc<Deployment>) -> Served {
    deployment.permit("users", &["ads"]);
    let endless = || async {
        let ticks = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok::<_, Infallible>(Bytes::from_static(b"tick")), ()))
        });
        Body::from_stream(ticks)
    };
    let slow = || async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        "done"
    };
    let router = Router::new().route("/now", get(|| async { "now" })).route("/endless", get(endless));
    deployment.serve("users", router.route("/slow", get(slow))).await
}

/// Opens a stream, does something, and says how long the stream went on after that.
async fn cut_after(channel: &Channel, act: impl FnOnce()) -> Duration {
    let mut answer = channel.send(get_request("/endless")).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.frame().await.unwrap().is_ok());
    act();
    let start = Instant::now();
    let cut =
        timeout(Duration::from_secs(10), async { while let Some(Ok(_)) = answer.frame().await {} }).await;
    assert!(cut.is_ok(), "the stream goes on");
    start.elapsed()
}

#[tokio::test]
async fn revocation_cuts_open_connections_within_two_seconds() {
    let deployment = Deployment::new();
    let users = users(&deployment).await;
    let leaf = deployment.leaf("ads");
    let channel = deployment.bare_client(Some(&leaf), "users", users.address);
    let lasted = cut_after(&channel, || deployment.revoke(&leaf.serial_hex)).await;
    assert!(lasted < TWO_SECONDS, "{lasted:?}");
}

#[tokio::test]
async fn the_next_request_on_an_open_connection_fails_after_revocation() {
    let deployment = Deployment::new();
    let users = users(&deployment).await;
    let (leaf, other) = (deployment.leaf("ads"), deployment.leaf("ads"));
    let revoked = deployment.bare_client(Some(&leaf), "users", users.address);
    let untouched = deployment.bare_client(Some(&other), "users", users.address);
    for channel in [&revoked, &untouched] {
        assert_eq!(channel.send(get_request("/now")).await.unwrap().status(), 200);
    }
    deployment.revoke(&leaf.serial_hex);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let refused = revoked.send(get_request("/now")).await;
    assert!(matches!(&refused, Err(CallError::Broken { .. })), "{refused:?}");
    // Nobody else is disturbed: the same connection goes on.
    assert_eq!(untouched.send(get_request("/now")).await.unwrap().status(), 200);
    assert_eq!(untouched.connections(), 1);
}

#[tokio::test]
async fn a_caller_leaves_a_callee_that_was_revoked() {
    let deployment = Deployment::new();
    let users = users(&deployment).await;
    let ads = deployment.workload("ads").await;
    let client = ads.client("users");
    let mut answer = client.get("/endless").send().await.unwrap();
    assert!(answer.frame().await.unwrap().is_ok());
    deployment.revoke(users.workload.identity().unwrap().serial_hex());
    let start = Instant::now();
    let ended =
        timeout(Duration::from_secs(10), async { while let Some(Ok(_)) = answer.frame().await {} }).await;
    assert!(ended.is_ok() && start.elapsed() < TWO_SECONDS, "{:?}", start.elapsed());
    let refused = client.get("/now").send().await.unwrap_err();
    assert!(matches!(refused, CallError::Handshake { .. }), "{refused}");
    assert_eq!(users.workload.ready(), Err(NotReady::CertificateRevoked));
}

#[test]
fn only_the_list_of_our_own_issuer_revokes_us() {
    let deployment = Deployment::new();
    let leaf = deployment.leaf("ads");
    let now = clock::now();
    let entry = RevokedEntry {
        serial: u128::from_str_radix(&leaf.serial_hex, 16).unwrap().to_be_bytes().to_vec(),
        at: now,
        reason: RevocationReason::KeyCompromise,
        not_after: now.saturating_add(HOUR),
    };
    let is_revoked_by = |issuer: &Issuer| {
        let list = make_crl(issuer, 1, std::slice::from_ref(&entry), now, now.saturating_add(HOUR)).unwrap();
        let roots = vec![deployment.root.certificate().clone()];
        let bundle = Bundle::new(deployment.td.clone(), roots, vec![Crl::read(&list).unwrap()]).unwrap();
        let trust = TrustState::new(BundleSet::from_iter([bundle]), CrlPolicy::Require);
        trust.set_identity(leaf.identity());
        trust.load().own_certificate_is_revoked()
    };
    assert!(is_revoked_by(&deployment.issuing));
    assert!(!is_revoked_by(&deployment.root), "another issuer's serial number is another certificate");
}

#[tokio::test]
async fn a_service_whose_policies_cannot_be_loaded_says_that_it_is_not_ready() {
    let deployment = Deployment::new();
    let users = users(&deployment).await;
    assert_eq!(users.workload.ready(), Ok(()));
    deployment.world.lock().unwrap().policies.insert("users".into(), "permit (nonsense".into());
    deployment.publish();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(matches!(users.workload.ready(), Err(NotReady::PoliciesRefused { .. })));
}

#[tokio::test]
async fn expiry_cuts_open_connections_within_two_seconds() {
    let deployment = Deployment::new();
    let users = users(&deployment).await;
    let then = clock::now().saturating_sub(Duration::from_secs(57));
    let leaf = deployment.leaf_of(&deployment.id("ads"), LeafProfile::Workload, Duration::from_mins(1), then);
    let left = Duration::from_secs(3);
    let channel = deployment.bare_client(Some(&leaf), "users", users.address);
    let lasted = cut_after(&channel, || {}).await;
    assert!(lasted > Duration::from_secs(1), "cut before it expired: {lasted:?}");
    assert!(lasted < left + TWO_SECONDS, "{lasted:?}");
}

#[tokio::test]
async fn removing_a_trust_domain_cuts_its_open_connections() {
    let (deployment, friend) = (Deployment::new(), Deployment::of("friend.test"));
    let users = users(&deployment).await;
    let rule = "@id(\"friend\") permit (principal == Workload::\"spiffe://friend.test/svc/ads\", action, resource in Service::\"users\");";
    let federated = friend.snapshot().bundles.remove(0);
    {
        let mut world = deployment.world.lock().unwrap();
        world.policies.insert("users".into(), rule.into());
        world.extra_bundle = Some(federated);
    }
    deployment.publish();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let channel = deployment.bare_client(Some(&friend.leaf("ads")), "users", users.address);
    let lasted = cut_after(&channel, || {
        deployment.world.lock().unwrap().extra_bundle = None;
        deployment.publish();
    });
    assert!(lasted.await < TWO_SECONDS);
}

#[tokio::test]
async fn a_drain_finishes_what_has_begun_and_accepts_nothing_new() {
    let deployment = Deployment::new();
    let users = users(&deployment).await;
    let channel = deployment.bare_client(Some(&deployment.leaf("ads")), "users", users.address);
    assert_eq!(channel.send(get_request("/now")).await.unwrap().status(), 200);
    let slow = channel.clone();
    let running = tokio::spawn(async move { slow.send(get_request("/slow")).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    users.stop.cancel();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let late = deployment.bare_client(Some(&deployment.leaf("ads")), "users", users.address);
    assert!(matches!(late.send(get_request("/now")).await, Err(CallError::Unreachable { .. })));
    assert_eq!(running.await.unwrap().unwrap().status(), 200);
    let cut = timeout(Duration::from_secs(5), users.ended).await.unwrap().unwrap();
    assert_eq!(cut, 0, "nothing had to be cut");
}

#[tokio::test]
async fn a_stale_snapshot_counts_for_its_grace_and_not_longer() {
    let deployment = Deployment::new();
    let users = users(&deployment).await;
    let channel = deployment.bare_client(Some(&deployment.leaf("ads")), "users", users.address);
    assert_eq!(users.workload.ready(), Ok(()));

    let age = |issued_ago: Duration| {
        let mut world = deployment.world.lock().unwrap();
        world.issued_ago = issued_ago;
        world.valid_for = Duration::from_mins(1);
    };
    age(Duration::from_mins(9));
    deployment.publish();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(channel.send(get_request("/now")).await.unwrap().status(), 200);
    assert_eq!(users.workload.ready(), Err(NotReady::SnapshotStale));

    age(Duration::from_mins(12));
    deployment.publish();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let answer = channel.send(get_request("/now")).await.unwrap();
    assert_eq!(answer.status(), 503);
    // Whom to trust as a callee is as unknown as whom to accept.
    let refused = users.workload.client("users").get("/now").send().await.unwrap_err();
    assert_eq!(refused, CallError::Stale);

    age(Duration::ZERO);
    deployment.publish();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(channel.send(get_request("/now")).await.unwrap().status(), 200);
    assert_eq!(users.workload.ready(), Ok(()));
}

#[tokio::test]
async fn a_snapshot_that_goes_back_or_is_not_understood_is_refused_and_readiness_says_so() {
    let deployment = Deployment::new();
    let users = users(&deployment).await;
    let held = users.workload.live().snapshot().sequence;
    deployment.world.lock().unwrap().critical = vec!["quantum".into()];
    deployment.publish();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(matches!(users.workload.ready(), Err(NotReady::SnapshotRefused { .. })));
    assert_eq!(users.workload.live().snapshot().sequence, held);

    {
        let mut world = deployment.world.lock().unwrap();
        world.critical.clear();
        world.sequence = held - 1;
        world.policies.clear();
    }
    deployment.publish_same_sequence();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(matches!(users.workload.ready(), Err(NotReady::SnapshotRefused { .. })));
    assert_eq!(users.workload.live().snapshot().sequence, held);
    assert!(users.workload.live().snapshot().policy("users").is_some());

    deployment.world.lock().unwrap().sequence = held + 5;
    deployment.permit("users", &["ads"]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(users.workload.ready(), Ok(()));
}

#[tokio::test]
async fn a_snapshot_that_somebody_else_signed_changes_nothing() {
    let deployment = Deployment::new();
    let users = users(&deployment).await;
    let mut forged = deployment.snapshot();
    forged.sequence += 10;
    forged.policies.files.clear();
    let forger = crate::deployment::key();
    deployment.publish_signed(countersign_sdk::snapshot::sign(&forged, &forger).unwrap());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let channel = deployment.bare_client(Some(&deployment.leaf("ads")), "users", users.address);
    assert_eq!(channel.send(get_request("/now")).await.unwrap().status(), 200);
    assert!(matches!(users.workload.ready(), Err(NotReady::SnapshotRefused { .. })));
    assert!(HOUR > TWO_SECONDS);
}
