//! Waiting times, and how much at one time.
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{ask, endpoints, gateway};
use crate::rig::backend::{Backend, Reply};
use crate::rig::client::{Answer, get};
use crate::rig::{Rig, Running, eventually};

async fn reason(rig: &Rig, status: u16) -> (String, String) {
    let decision = rig.decision(|decision| decision.status == status).await;
    (decision.code.unwrap(), decision.reason.unwrap())
}

/// Asks in the background.
fn begin(edge: &Running) -> tokio::task::JoinHandle<Answer> {
    let plain = edge.plain;
    tokio::spawn(async move { get(plain, "/a", &[]).await })
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_is_given_up() {
    let rig = Rig::new();
    let backend = Backend::new(|_, _| Reply::Silence).await;
    let edge = gateway(&rig, &format!("timeouts = {{ answer_ms = 50 }}\n{}", endpoints(&[&backend]))).await;
    assert_eq!(ask(&edge).await.problem(504), "gateway_timeout");
    assert_eq!(backend.count(), 1, "whoever is too slow is not asked twice");
    let (code, reason) = reason(&rig, 504).await;
    assert_eq!(code, "CS5002");
    assert!(reason.contains("timeouts.answer_ms = 50"), "{reason}");
    eventually(|| backend.open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_connection_that_never_comes_about_is_given_up() {
    let rig = Rig::new();
    // It accepts, and never answers the handshake.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let toml = format!(
        "timeouts = {{ connect_ms = 50 }}\nendpoints = [\"{}\"]\ntls = {{ expect = \"spiffe://fleamarket.test/svc/ads\" }}",
        silent.local_addr().unwrap()
    );
    let edge = gateway(&rig, &toml).await;
    assert_eq!(ask(&edge).await.problem(504), "gateway_timeout");
    let (_, reason) = reason(&rig, 504).await;
    assert!(reason.contains("timeouts.connect_ms = 50"), "{reason}");
}

#[tokio::test]
async fn all_tries_together_take_no_longer_than_they_may() {
    let rig = Rig::new();
    let backend = Backend::new(|_, _| Reply::Silence).await;
    let edge = gateway(&rig, &format!("timeouts = {{ whole_ms = 50 }}\n{}", endpoints(&[&backend]))).await;
    assert_eq!(ask(&edge).await.problem(504), "gateway_timeout");
    let (_, reason) = reason(&rig, 504).await;
    assert!(reason.contains("timeouts.whole_ms = 50"), "{reason}");
}

#[tokio::test]
async fn a_body_that_pauses_or_does_not_end_is_cut() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nhalf".to_owned();
    let pauses = Reply::Raw(head.clone());
    for (limit, reply) in [("body_idle_ms = 100", pauses), ("whole_ms = 100", Reply::Drip(head))] {
        let rig = Rig::new();
        let backend = Backend::new(move |_, _| reply.clone()).await;
        let edge = gateway(&rig, &format!("timeouts = {{ {limit} }}\n{}", endpoints(&[&backend]))).await;
        let answer = ask(&edge).await;
        assert_eq!(answer.status, 200, "{limit}");
        assert!(answer.body.starts_with("half") && answer.body.len() < 1_000, "{limit}: {answer:?}");
        eventually(|| backend.open.load(Ordering::SeqCst) == 0).await;
    }
}

#[tokio::test]
async fn more_requests_than_an_endpoint_may_have_are_refused_at_once() {
    let rig = Rig::new();
    let backend = Backend::new(|_, _| Reply::Later(Duration::from_millis(500), "late".into())).await;
    let edge = gateway(&rig, &format!("breaker = {{ requests_max = 1 }}\n{}", endpoints(&[&backend]))).await;
    let first = begin(&edge);
    eventually(|| backend.count() == 1).await;
    let refused = ask(&edge).await;
    assert_eq!(refused.problem(503), "unavailable");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(first.await.unwrap().body, "late");
    let (code, reason) = reason(&rig, 503).await;
    assert_eq!(code, "CS5010");
    assert!(reason.contains("breaker.requests_max = 1"), "{reason}");
    assert_eq!(ask(&edge).await.body, "late", "a seat that was given back is free again");
}

#[tokio::test]
async fn a_request_waits_for_a_free_connection_as_long_as_few_do() {
    let rig = Rig::new();
    let backend = Backend::new(|_, _| Reply::Later(Duration::from_millis(500), "late".into())).await;
    let settings = "breaker = { connections_max = 1, pending_max = 1 }\n";
    let edge = gateway(&rig, &format!("{settings}{}", endpoints(&[&backend]))).await;
    let first = begin(&edge);
    eventually(|| backend.count() == 1).await;
    // One of these waits, the other one is too many.
    let (second, third) = (begin(&edge), begin(&edge));
    let answers = [second.await.unwrap(), third.await.unwrap()];
    let (waited, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert_eq!((waited.len(), refused.len()), (1, 1), "{answers:?}");
    assert_eq!(refused[0].problem(503), "unavailable");
    assert_eq!((first.await.unwrap().body.as_str(), waited[0].body.as_str()), ("late", "late"));
    let (_, reason) = reason(&rig, 503).await;
    assert!(reason.contains("breaker.pending_max = 1"), "{reason}");
}

#[tokio::test]
async fn a_connection_without_requests_is_closed_after_a_while() {
    let rig = Rig::new();
    let backend = Backend::named("here").await;
    let edge = gateway(&rig, &format!("timeouts = {{ idle_ms = 50 }}\n{}", endpoints(&[&backend]))).await;
    assert_eq!(ask(&edge).await.status, 200);
    eventually(|| backend.open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_client_that_goes_away_is_no_failure_of_the_upstream() {
    let rig = Rig::new();
    let backend =
        Backend::new(|number, _| if number < 3 { Reply::Silence } else { Reply::Text("well".into()) }).await;
    let settings = "outlier = { failures = 1, ejected_max_percent = 100 }\n";
    let edge = gateway(&rig, &format!("{settings}{}", endpoints(&[&backend]))).await;
    for count in 1..=3 {
        let asking = begin(&edge);
        eventually(|| backend.count() == count).await;
        asking.abort();
        let _ = asking.await;
    }
    assert_eq!(ask(&edge).await.body, "well", "it was not ejected");
}
