//! What is tried again, what never is, and how often.
use super::{ask, endpoints, gateway};
use crate::rig::Rig;
use crate::rig::backend::{Backend, Reply, ok};
use crate::rig::client::{Answer, get, request};

/// No ejections: what is tested is the retry alone.
const NO_OUTLIER: &str = "outlier = { failures = 0 }\n";

async fn post(edge: &crate::rig::Running, body: &str) -> Answer {
    request(edge.plain, "POST", "/a", &[], body).await
}

/// An address at which nobody listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn what_could_not_be_sent_is_sent_elsewhere_whatever_the_method() {
    let rig = Rig::new();
    let backend = Backend::named("here").await;
    let toml = format!(
        "{NO_OUTLIER}endpoints = [\"{}\", \"{}\"]\nretry = {{ budget_min = 1000 }}",
        nobody(),
        backend.address
    );
    let edge = gateway(&rig, &toml).await;
    for _ in 0..30 {
        assert_eq!(post(&edge, "a body").await.body, "here");
    }
    assert_eq!(backend.count(), 30);
}

#[tokio::test]
async fn without_further_tries_the_first_failure_is_the_answer() {
    let rig = Rig::new();
    let edge = gateway(&rig, &format!("endpoints = [\"{}\"]\nretry = {{ tries_max = 0 }}", nobody())).await;
    assert_eq!(ask(&edge).await.problem(502), "bad_gateway");
    let decision = rig.decision(|decision| decision.status == 502).await;
    assert_eq!(decision.code.as_deref(), Some("CS5001"));
    assert!(decision.reason.unwrap().contains("is it running, and is this its address?"));
}

#[tokio::test]
async fn a_safe_request_whose_connection_broke_is_sent_again_and_an_unsafe_one_is_not() {
    let rig = Rig::new();
    let backend =
        Backend::new(|number, _| if number % 2 == 0 { Reply::Close } else { Reply::Text("second".into()) })
            .await;
    let edge = gateway(&rig, &format!("{NO_OUTLIER}{}", endpoints(&[&backend]))).await;
    assert_eq!(ask(&edge).await.body, "second");
    assert_eq!(backend.count(), 2);
    assert_eq!(post(&edge, "").await.problem(502), "bad_gateway");
    assert_eq!(backend.count(), 3, "a POST that may have arrived is never sent twice");
    let _ = ask(&edge).await;
    let before = backend.count();
    assert_eq!(before % 2, 0);
    let with_body = request(edge.plain, "PUT", "/a", &[], "a body").await;
    assert_eq!(with_body.status, 502);
    assert_eq!(backend.count(), before + 1, "a body that is gone cannot be sent twice");
}

#[tokio::test]
async fn nothing_is_repeated_once_a_byte_of_an_answer_came() {
    let rig = Rig::new();
    let backend = Backend::new(|number, _| match number {
        0 => Reply::Last("HTTP/1.1 200 OK\r\ncontent-le".into()),
        _ => Reply::Text("second".into()),
    })
    .await;
    let edge = gateway(&rig, &format!("{NO_OUTLIER}{}", endpoints(&[&backend]))).await;
    assert_eq!(ask(&edge).await.problem(502), "bad_gateway");
    assert_eq!(backend.count(), 1);
    assert_eq!(ask(&edge).await.body, "second");
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_waited_costs_no_request() {
    let rig = Rig::new();
    let backend = Backend::new(|_, _| Reply::Last(ok("once"))).await;
    let edge = gateway(&rig, &format!("retry = {{ tries_max = 0 }}\n{}", endpoints(&[&backend]))).await;
    for _ in 0..20 {
        assert_eq!(post(&edge, "a body").await.body, "once");
    }
    assert_eq!(backend.count(), 20);
}

#[tokio::test]
async fn retries_end_with_their_budget() {
    let rig = Rig::new();
    let backend = Backend::new(|_, _| Reply::Close).await;
    let settings = "retry = { tries_max = 2, budget_percent = 0, budget_min = 5 }\n";
    let edge = gateway(&rig, &format!("{NO_OUTLIER}{settings}{}", endpoints(&[&backend]))).await;
    for _ in 0..20 {
        assert_eq!(ask(&edge).await.status, 502);
    }
    assert_eq!(backend.count(), 25, "twenty requests, and five retries in the window");
}

#[tokio::test]
async fn what_is_no_http_is_refused_and_not_asked_for_again() {
    let rig = Rig::new();
    let backend = Backend::new(|_, _| Reply::Last("SSH-2.0-OpenSSH_9.2\r\n".into())).await;
    let edge = gateway(&rig, &endpoints(&[&backend])).await;
    assert_eq!(ask(&edge).await.problem(502), "bad_gateway");
    assert_eq!(backend.count(), 1);
    let decision = rig.decision(|decision| decision.status == 502).await;
    assert_eq!(decision.code.as_deref(), Some("CS5003"));
    assert_eq!(get(edge.plain, "/a", &[]).await.status, 502);
}

#[tokio::test]
async fn an_answer_whose_head_does_not_end_is_refused() {
    let rig = Rig::new();
    let head = |bytes: usize| {
        format!("HTTP/1.1 200 OK\r\nx-long: {}\r\ncontent-length: 0\r\n\r\n", "a".repeat(bytes))
    };
    let backend =
        Backend::new(move |number, _| Reply::Last(head(if number == 0 { 16 * 1024 } else { 512 * 1024 })))
            .await;
    let edge = gateway(&rig, &endpoints(&[&backend])).await;
    assert_eq!(ask(&edge).await.status, 200);
    assert_eq!(ask(&edge).await.status, 502);
    assert_eq!(backend.count(), 2);
}
