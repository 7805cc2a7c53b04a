//! Who is well: by asking, and by what happens to requests.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{ask, endpoints, gateway, until};
use crate::rig::backend::{Backend, Reply, status};
use crate::rig::client::get;
use crate::rig::{Rig, Running};

/// Well as long as the flag says so; its name is what it answers to requests.
async fn sick(name: &'static str, well: &Arc<AtomicBool>) -> Backend {
    let well = Arc::clone(well);
    Backend::new(move |_, seen| match (seen.starts_with("GET /healthz "), well.load(Ordering::SeqCst)) {
        (true, false) => Reply::Raw(status(500)),
        _ => Reply::Text(name.into()),
    })
    .await
}

/// Waits for thirty answers of this endpoint in a row: by chance once in 2^30 runs.
async fn only(edge: &Running, name: &str) {
    let mut row = 0;
    for _ in 0..2_000 {
        row = if ask(edge).await.body == name { row + 1 } else { 0 };
        if row == 30 {
            return;
        }
    }
    panic!("others than {name} still answer");
}

#[tokio::test]
async fn an_endpoint_that_says_that_it_is_not_well_gets_no_requests_until_it_is() {
    let rig = Rig::new();
    let well = Arc::new(AtomicBool::new(true));
    let (one, two) = (sick("one", &well).await, Backend::named("two").await);
    let health = "health = { path = \"/healthz\", every_ms = 20, unhealthy_after = 2, healthy_after = 2 }\n";
    let edge = gateway(&rig, &format!("{health}{}", endpoints(&[&one, &two]))).await;
    until(&edge, |answer| answer.body == "one").await;
    well.store(false, Ordering::SeqCst);
    let requests = || one.seen.lock().unwrap().iter().filter(|seen| !seen.contains("/healthz")).count();
    only(&edge, "two").await;
    let before = requests();
    for _ in 0..20 {
        assert_eq!(ask(&edge).await.body, "two");
    }
    assert_eq!(requests(), before);
    well.store(true, Ordering::SeqCst);
    until(&edge, |answer| answer.body == "one").await;
    let check = one.seen.lock().unwrap().iter().find(|seen| seen.contains("/healthz")).cloned().unwrap();
    assert!(check.contains("user-agent: countersign-health"), "{check}");
}

#[tokio::test]
async fn with_nobody_well_all_are_used_unless_the_threshold_is_zero_and_the_refusal_says_why() {
    let well = Arc::new(AtomicBool::new(false));
    let health = "health = { path = \"/healthz\", every_ms = 20 }\n";
    let (rig, one) = (Rig::new(), sick("one", &well).await);
    let edge = gateway(&rig, &format!("{health}{}", endpoints(&[&one]))).await;
    until(&edge, |_| one.count() > 3).await;
    assert_eq!(ask(&edge).await.body, "one", "rather a doubtful endpoint than none");

    let (rig, one) = (Rig::new(), sick("one", &well).await);
    let toml = format!("panic_percent = 0\n{health}{}", endpoints(&[&one]));
    let edge = gateway(&rig, &toml).await;
    let refused = until(&edge, |answer| answer.status != 200).await;
    assert_eq!(refused.problem(503), "unavailable");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let decision = rig.decision(|decision| decision.status == 503).await;
    assert_eq!(decision.code.as_deref(), Some("CS5009"));
    let reason = decision.reason.unwrap();
    let place = one.address.to_string();
    for part in ["of 1 none is well", "health check of", &place, "(/healthz)", "it answered 500"] {
        assert!(reason.contains(part), "{part} is not in: {reason}");
    }
    well.store(true, Ordering::SeqCst);
    until(&edge, |answer| answer.status == 200).await;
}

#[tokio::test]
async fn an_endpoint_that_keeps_failing_is_left_alone_for_a_while_and_then_tried_again() {
    let rig = Rig::new();
    let well = Arc::new(AtomicBool::new(false));
    let good = Arc::clone(&well);
    let bad = Backend::new(move |_, _| {
        if good.load(Ordering::SeqCst) { Reply::Text("back".into()) } else { Reply::Raw(status(503)) }
    })
    .await;
    let fine = Backend::named("fine").await;
    let outlier = "outlier = { failures = 3, eject_ms = 300 }\n";
    let edge = gateway(&rig, &format!("{outlier}{}", endpoints(&[&bad, &fine]))).await;
    until(&edge, |_| bad.count() >= 3).await;
    only(&edge, "fine").await;
    well.store(true, Ordering::SeqCst);
    until(&edge, |answer| answer.body == "back").await;
}

#[tokio::test]
async fn only_a_share_of_the_endpoints_is_left_alone_and_a_single_one_never() {
    let rig = Rig::new();
    let bad = Backend::new(|_, _| Reply::Raw(status(503))).await;
    let outlier = "outlier = { failures = 1, eject_ms = 60000 }\npanic_percent = 0\n";
    let edge = gateway(&rig, &format!("{outlier}{}", endpoints(&[&bad]))).await;
    for _ in 0..10 {
        assert_eq!(ask(&edge).await.status, 503);
    }
    assert_eq!(bad.count(), 10, "each of them was asked, none was refused here");

    let rig = Rig::new();
    let (one, two) = (
        Backend::new(|_, _| Reply::Raw(status(503))).await,
        Backend::new(|_, _| Reply::Raw(status(502))).await,
    );
    let edge = gateway(&rig, &format!("{outlier}{}", endpoints(&[&one, &two]))).await;
    for _ in 0..40 {
        get(edge.plain, "/a", &[]).await;
    }
    assert_eq!(one.count() + two.count(), 40, "half of two may be left alone, not both");
    assert!(one.count().min(two.count()) < 10, "{} {}", one.count(), two.count());
}
