//! Why a service does not start, and why a neighbour's answer cannot be used.

use std::time::Duration;

use axum::{Router, extract::Path, routing::get};
use countersign_flea_market::{
    Caller, Neighbour, NeighbourError, RunError, Settings, open, store::StoreError,
};
use countersign_sdk::outbound::CallError;
use http::StatusCode;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    deployment::Deployment,
    square::{Square, answer},
};

const PATIENCE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn rejects_a_name_a_database_and_a_port_that_are_not_its_own() {
    let square = Square::with(&[]).await;
    let chat = square.workload("chat").await;
    let start = async |name: &str, listen: &str, file: &str| {
        let database = format!("sqlite:{}", square.deployment.directory.path().join(file).display());
        let settings = Settings { listen: listen.parse().unwrap(), database };
        let opened = open(name, settings, chat.clone()).await?;
        let stop = CancellationToken::new();
        stop.cancel();
        opened.serve(stop).await;
        Ok(())
    };
    assert_eq!(start("chat", "127.0.0.1:0", "chat.db").await, Ok(()));
    let unknown = start("auctions", "127.0.0.1:0", "a.db").await;
    assert_eq!(unknown, Err(RunError::UnknownService { name: "auctions".into() }));
    let other = StoreError::OtherOwner { service: "media".into(), owner: "chat".into() };
    assert_eq!(start("media", "127.0.0.1:0", "chat.db").await, Err(RunError::Store(other)));
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap();
    let taken = start("chat", &address.to_string(), "chat.db").await;
    assert!(matches!(taken, Err(RunError::Listen { address: refused, .. }) if refused == address));
}

#[tokio::test]
async fn an_answer_that_is_late_long_or_strange_is_not_used() {
    let deployment = Deployment::new();
    deployment.permit("users", &["ads"]);
    deployment.permit("ads", &["gateway"]);
    let slow = || async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        "{}"
    };
    let users = Router::new()
        .route("/fine", get(|| async { "{}" }))
        .route("/slow", get(slow))
        .route("/garbage", get(|| async { "<html>" }))
        .route("/long", get(|| async { format!("\"{}\"", "x".repeat(300 * 1024)) }))
        .route("/broken", get(|| async { StatusCode::IM_A_TEAPOT }));
    let _users = deployment.serve("users", users).await;

    let ads = deployment.workload("ads").await;
    let (users, nobody) = (ads.client("users"), ads.client("nobody"));
    let ask = move |caller: Caller, Path(what): Path<String>| async move {
        let client = if what == "nobody" { nobody } else { users };
        let answer = Neighbour::new(client, PATIENCE).get::<Value>(&caller, &format!("/{what}")).await;
        format!("{answer:?}")
    };
    let router = Router::new().route("/ask/{what}", get(ask)).layer(ads.require());
    let _ads = deployment.serve_as(ads, "ads", router).await;
    let gateway = deployment.workload("gateway").await;

    let unknown = CallError::UnknownService { name: "nobody".into() };
    for (what, expected) in [
        ("fine", Ok(serde_json::json!({}))),
        ("slow", Err(NeighbourError::Late(PATIENCE))),
        ("garbage", Err(NeighbourError::Unreadable)),
        ("long", Err(NeighbourError::Unreadable)),
        ("broken", Err(NeighbourError::Refused(StatusCode::IM_A_TEAPOT))),
        ("nobody", Err(NeighbourError::Call(unknown))),
    ] {
        let said = answer(gateway.client("ads").get(&format!("/ask/{what}"))).await;
        assert_eq!(said.text(), format!("{expected:?}"), "{what}");
    }
}

#[tokio::test]
async fn whoever_connects_to_an_opened_service_is_not_refused() {
    let square = Square::with(&[]).await;
    let chat = square.workload("chat").await;
    let listen = format!("127.0.0.1:{}", countersign_testkit::free_port()).parse().unwrap();
    let database = format!("sqlite:{}", square.deployment.directory.path().join("chat.db").display());
    let opened = open("chat", Settings { listen, database }, chat).await.unwrap();
    assert!(tokio::net::TcpStream::connect(listen).await.is_ok(), "it listens before it serves");
    drop(opened);
    assert!(tokio::net::TcpStream::connect(listen).await.is_err(), "nobody else listened there");
}
