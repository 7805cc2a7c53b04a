//! One connection, many calls: credentials are parsed once, connections are reused, and bounded.

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::get};
use countersign_sdk::{
    Workload,
    outbound::{CallError, CallLimits, Channel, EdgeTarget, EdgeUrlError, Target},
    tls::HandshakeError,
};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;

use crate::deployment::{Deployment, Served, counting, get_request, text};

async fn users(deployment: &Arc<Deployment>) -> Served {
    deployment.permit("users", &["ads"]);
    let slow = || async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        "late"
    };
    let (router, _) = counting();
    deployment.serve("users", router.route("/slow", get(slow))).await
}

async fn ads(deployment: &Arc<Deployment>, limits: CallLimits) -> Workload {
    let socket = deployment.agent("ads").await;
    Workload::builder(socket).call_limits(limits).connect().await.unwrap()
}

#[tokio::test]
async fn two_hundred_calls_use_one_connection_and_one_parsed_certificate() {
    let deployment = Deployment::new();
    let users = users(&deployment).await;
    let ads = deployment.workload("ads").await;
    for n in 0..200 {
        let answer = ads.client("users").get(&format!("/users/{n}")).send().await.unwrap();
        assert_eq!(text(answer).await, "hello");
    }
    assert_eq!(ads.client("users").connections(), 1);
    assert_eq!((ads.certificates_parsed(), users.workload.certificates_parsed()), (1, 1));
    let connections: std::collections::HashSet<_> = {
        deployment.reported(|decision| decision.target == "users").await.unwrap();
        deployment.decisions().into_iter().map(|decision| decision.connection).collect()
    };
    assert_eq!(connections.len(), 1, "the server saw another connection");
}

#[tokio::test]
async fn a_client_that_connects_anew_shakes_hands_for_every_request_and_the_callee_counts_it() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    // The runtime of this test is this thread, so everything that it serves is counted here.
    let _recording = metrics::set_default_local_recorder(&recorder);
    let deployment = Deployment::new();
    let users = users(&deployment).await;
    let ads = deployment.workload("ads").await;
    let anew = ads.client("users").connecting_anew_for_every_request();
    for n in 0..5 {
        let answer = anew.get(&format!("/users/{n}")).send().await.unwrap();
        assert_eq!(text(answer).await, "hello");
    }
    let counted = |count: u8| {
        let labels = r#"client="proven",resumed="false",group="X25519MLKEM768""#;
        let series = format!("countersign_handshakes_total{{{labels}}} {count}\n");
        assert!(metrics.render().contains(&series), "{}", metrics.render());
    };
    counted(5);
    for n in 0..5 {
        ads.client("users").get(&format!("/users/{n}")).send().await.unwrap();
    }
    counted(6);
    let stranger = deployment.bare_client(None, "users", users.address);
    assert!(stranger.send(crate::deployment::get_request("/users/7")).await.is_err());
    let refused = r#"countersign_handshakes_total{client="refused",resumed="false",group="none"} 1"#;
    assert!(metrics.render().contains(refused), "{}", metrics.render());
}

#[tokio::test]
async fn a_crowd_of_first_callers_makes_one_connection() {
    let deployment = Deployment::new();
    let _users = users(&deployment).await;
    let ads = deployment.workload("ads").await;
    let calls = (0..50).map(|n| {
        let client = ads.client("users");
        tokio::spawn(async move { client.get(&format!("/users/{n}")).send().await.unwrap().status() })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), 200);
    }
    assert_eq!(ads.client("users").connections(), 1);
}

#[tokio::test]
async fn one_call_too_many_is_refused_at_once() {
    let deployment = Deployment::new();
    let _users = users(&deployment).await;
    let ads = ads(&deployment, CallLimits { in_flight_max: 1, ..CallLimits::default() }).await;
    let client = ads.client("users");
    let running = tokio::spawn(client.get("/slow").send());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let refused = client.get("/users/7").send().await.unwrap_err();
    assert!(matches!(refused, CallError::Overloaded { .. }), "{refused}");
    assert_eq!(running.await.unwrap().unwrap().status(), 200);
    assert_eq!(client.get("/users/7").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_is_not_waited_for() {
    let deployment = Deployment::new();
    let _users = users(&deployment).await;
    let answer = Duration::from_millis(300);
    let ads = ads(&deployment, CallLimits { answer, ..CallLimits::default() }).await;
    let refused = ads.client("users").get("/slow").send().await.unwrap_err();
    assert!(matches!(refused, CallError::TimedOut { .. }), "{refused}");
}

#[tokio::test]
async fn a_server_that_is_silent_is_not_waited_for() {
    let deployment = Deployment::new();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    deployment.world.lock().unwrap().services.insert("users".into(), silent.local_addr().unwrap());
    deployment.publish();
    let connect = Duration::from_millis(300);
    let ads = ads(&deployment, CallLimits { connect, ..CallLimits::default() }).await;
    let refused = ads.client("users").get("/users/7").send().await.unwrap_err();
    assert!(matches!(refused, CallError::TimedOut { .. }), "{refused}");
    drop(silent);
    let refused = ads.client("users").get("/users/7").send().await.unwrap_err();
    assert!(matches!(refused, CallError::Unreachable { .. }), "{refused}");
}

#[tokio::test]
async fn a_service_that_moved_is_called_at_its_new_address() {
    let deployment = Deployment::new();
    let first = users(&deployment).await;
    let ads = deployment.workload("ads").await;
    assert_eq!(ads.client("users").get("/users/7").send().await.unwrap().status(), 200);
    first.stop.cancel();
    first.ended.await.unwrap();
    let (router, reached) = counting();
    let _second =
        deployment.serve_as(first.workload.clone(), "users", router.layer(first.workload.require())).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(ads.client("users").get("/users/7").send().await.unwrap().status(), 200);
    assert_eq!(reached.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_stream_that_is_reset_costs_no_other_call_its_connection() {
    let deployment = Deployment::new();
    let path = deployment.directory.path().join("resets.sock");
    let listener = countersign_sdk::accept::bind_unix(&path, 0o600).await.unwrap();
    let connection = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let answer = |request: http::Request<hyper::body::Incoming>| async move {
            match request.uri().path() {
                "/broken" => Err("no"),
                _ => Ok(http::Response::new(http_body_util::Empty::<bytes::Bytes>::new())),
            }
        };
        let executor = hyper_util::rt::TokioExecutor::new();
        let server = hyper::server::conn::http2::Builder::new(executor);
        let _ = server.serve_connection(io, hyper::service::service_fn(answer)).await;
    });
    let channel = Channel::new(Target::Unix(path), CallLimits::default());
    for _ in 0..3 {
        let broken = channel.send(get_request("/broken")).await.unwrap_err();
        assert!(matches!(broken, CallError::Broken { .. }), "{broken}");
        assert_eq!(channel.send(get_request("/")).await.unwrap().status(), 200);
    }
    assert_eq!(channel.connections(), 1);
    connection.abort();
}

#[tokio::test]
async fn a_callee_that_was_restarted_is_connected_to_again() {
    let deployment = Deployment::new();
    let first = users(&deployment).await;
    let ads = deployment.workload("ads").await;
    assert_eq!(ads.client("users").get("/users/7").send().await.unwrap().status(), 200);
    first.stop.cancel();
    first.ended.await.unwrap();
    let listener = TcpListener::bind(first.address).await.unwrap();
    let router =
        Router::new().route("/users/{id}", get(|| async { "again" })).layer(first.workload.require());
    tokio::spawn(first.workload.serve(listener, router).into_future());
    let answer = ads.client("users").get("/users/7").send().await.unwrap();
    assert_eq!(text(answer).await, "again");
    assert_eq!(ads.client("users").connections(), 2);
}

#[test]
fn rejects_urls_that_are_not_https() {
    for bad in ["http://localhost:1", "localhost", "", "https://"] {
        let refused = EdgeTarget::new(bad, &[]).unwrap_err();
        assert_eq!(refused, EdgeUrlError::NotHttps { url: bad.into() });
    }
    let refused = EdgeTarget::new("https://localhost", &[]).unwrap_err();
    assert!(matches!(refused, EdgeUrlError::Tls(HandshakeError::Configuration { .. })), "{refused}");
}
