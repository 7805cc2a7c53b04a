//! gRPC with a real client and a real server (tonic), through an edge and through a pair of sidecars.

use std::time::Duration;

use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

use crate::filter::{Filter, no};
use crate::rig::client::{bearer, request};
use crate::rig::grpc::{Client, at, serve, serve_tcp, through, word, words};
use crate::rig::pair::Pair;
use crate::rig::{Rig, Running};

const HTTP2: &str = "app_http2 = true\n";
const ROUTE: &str = "[[route]]\npath = \"/test.Echo/*\"\nto = \"users\"\nuser = \"optional\"\n";
const PAUSE: Duration = Duration::from_millis(150);
/// Shorter than the streams of the tests, longer than their pauses.
const LIMIT: &str = "request_timeout_ms = 900\n";

async fn pair(callee: &str, caller: &str) -> Pair {
    let (pair, listener) = Pair::new(&format!("{HTTP2}{callee}"), caller).await;
    serve(listener);
    pair
}

async fn behind_edge(more: &str) -> (Pair, Running) {
    let pair = pair("", "").await;
    let edge = pair.rig.gateway(&format!("{ROUTE}{more}")).await;
    (pair, edge)
}

/// Every kind of call, their metadata, their trailers and their errors.
async fn speaks(mut client: Client) {
    let answer = client.once(word("hello", 7, 0)).await.unwrap();
    assert_eq!(answer.metadata().get("x-answered").unwrap(), "yes");
    assert_eq!(answer.into_inner(), word("hello", 7, 0));

    let mut counted = client.count(word("n", 5, 0)).await.unwrap().into_inner();
    for number in 0..5 {
        assert_eq!(counted.message().await.unwrap().unwrap(), word("n", number, 0));
    }
    assert_eq!(counted.message().await.unwrap(), None, "grpc-status 0 stands in the trailers");

    assert_eq!(client.sum(words(40, Duration::ZERO)).await.unwrap().into_inner(), word("sum", 40, 0));

    // Each word is said only when the one before was answered: nothing waits for the end of anything.
    let (say, said) = tokio::sync::mpsc::channel(1);
    let said = tokio_stream::wrappers::ReceiverStream::new(said);
    say.send(word("ping", 0, 0)).await.unwrap();
    let mut heard = client.talk(said).await.unwrap().into_inner();
    for number in 1..6 {
        assert_eq!(heard.message().await.unwrap().unwrap().count, number - 1);
        say.send(word("ping", number, 0)).await.unwrap();
    }
    drop(say);
    assert_eq!(heard.next().await.unwrap().unwrap().count, 5);
    assert!(heard.next().await.is_none());

    let error = client.once(word("fail", 0, 0)).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::FailedPrecondition, "at once"));

    let mut counted = client.count(word("fail", 2, 0)).await.unwrap().into_inner();
    for _ in 0..2 {
        assert!(counted.message().await.unwrap().is_some());
    }
    let error = counted.message().await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::NotFound, "after all of them, 100 % sure"));
    assert_eq!(error.metadata().get("x-why").unwrap(), "trailers");
}

#[tokio::test]
async fn every_kind_of_call_passes_a_pair_of_sidecars() {
    let pair = pair("", "").await;
    speaks(through(&pair.out, "users").with("x-asked", "yes")).await;
    let mut client = through(&pair.out, "users").with("countersign-caller", "spiffe://evil.test/svc/admin");
    let answer = client.once(word("who", 0, 0)).await.unwrap();
    assert_eq!(answer.metadata().get("x-caller").unwrap(), "spiffe://fleamarket.test/svc/ads");
}

#[tokio::test]
async fn every_kind_of_call_passes_the_edge_and_the_sidecar_behind_it() {
    let (pair, edge) = behind_edge("").await;
    let token = bearer(&pair.rig.access_token("alice", &["buyer"]));
    speaks(at(edge.plain).with("x-asked", "yes").with("authorization", &token)).await;
}

#[tokio::test]
async fn every_kind_of_call_passes_the_edge_to_an_upstream_that_speaks_http2() {
    let rig = Rig::new();
    rig.policy("gateway", crate::rig::pair::EVERYBODY);
    let address = serve_tcp().await;
    let upstream = format!("[[upstream]]\nname = \"echo\"\nhttp2 = true\nendpoints = [\"{address}\"]\n");
    let route = ROUTE.replace("users", "echo").replace("optional", "none");
    let edge = rig.gateway(&format!("{route}{upstream}")).await;
    speaks(at(edge.plain).with("x-asked", "yes")).await;
}

#[tokio::test]
async fn a_stream_that_moves_outlives_every_time_limit_and_one_that_does_not_is_ended() {
    let pair = pair(LIMIT, LIMIT).await;
    let edge = pair.rig.gateway(&format!("{ROUTE}[limits]\n{LIMIT}")).await;
    for mut client in [through(&pair.out, "users"), at(edge.plain)] {
        let mut counted = client.count(word("n", 12, PAUSE.as_millis() as u64)).await.unwrap().into_inner();
        let mut heard = 0;
        while counted.message().await.unwrap().is_some() {
            heard += 1;
        }
        assert_eq!(heard, 12);
        // The head of the answer comes only after the last word.
        assert_eq!(client.sum(words(12, PAUSE)).await.unwrap().into_inner().count, 12);
        let late = client.once(word("slow", 0, 20_000)).await.unwrap_err();
        assert_eq!(late.code(), Code::DeadlineExceeded, "{late:?}");
    }
}

#[tokio::test]
async fn a_quiet_stream_is_ended_after_body_idle_timeout_and_a_long_one_after_total_timeout() {
    let idle = pair("body_idle_timeout_ms = 600\n", "").await;
    let mut client = through(&idle.out, "users");
    let mut counted = client.count(word("n", 3, 20_000)).await.unwrap().into_inner();
    assert!(counted.message().await.is_err());
    let total = pair("total_timeout_ms = 900\n", "").await;
    let mut client = through(&total.out, "users");
    let mut counted = client.count(word("n", 1_000, 100)).await.unwrap().into_inner();
    let ended = loop {
        match counted.message().await {
            Ok(Some(_)) => {}
            ended => break ended,
        }
    };
    assert!(ended.is_err(), "{ended:?}");
}

fn refused(error: &Status, code: Code) {
    assert_eq!(error.code(), code, "{error:?}");
    assert!(error.message().contains("(d_"), "the decision id is told: {error:?}");
    assert!(!error.message().contains("polic"), "and nothing else: {error:?}");
}

#[tokio::test]
async fn a_refusal_is_told_in_grpc_to_who_speaks_it_and_as_a_problem_to_others() {
    let pair = pair("", "").await;
    let edge = pair.rig.gateway(&ROUTE.replace("optional", "required")).await;
    refused(&at(edge.plain).once(word("a", 0, 0)).await.unwrap_err(), Code::Unauthenticated);
    let bad = at(edge.plain).with("authorization", "Bearer not.a.token").once(word("a", 0, 0)).await;
    refused(&bad.unwrap_err(), Code::Unauthenticated);
    let answer =
        request(edge.plain, "POST", "/test.Echo/Once", &[("Content-Type", "application/grpc-web")], "x")
            .await;
    assert_eq!(answer.problem(401), "authentication_required");
    let good = bearer(&pair.rig.access_token("alice", &["buyer"]));
    assert!(at(edge.plain).with("authorization", &good).once(word("a", 0, 0)).await.is_ok());
    // No route, and no rule at the edge.
    let nowhere = Rig::new();
    nowhere.policy("gateway", "@id(\"get\") permit (principal, action == Action::\"GET\", resource);");
    let edge = nowhere.gateway(&ROUTE.replace("optional", "none").replace("Echo", "Other")).await;
    refused(&at(edge.plain).once(word("a", 0, 0)).await.unwrap_err(), Code::NotFound);
    let edge = nowhere.gateway_of(edge.workload.clone(), &ROUTE.replace("optional", "none")).await;
    refused(&at(edge.plain).once(word("a", 0, 0)).await.unwrap_err(), Code::PermissionDenied);
}

#[tokio::test]
async fn the_door_of_a_service_refuses_in_grpc_and_so_does_a_sidecar_that_cannot_reach_it() {
    let pair = pair("", "").await;
    let mut client = through(&pair.out, "users");
    assert!(client.once(word("a", 0, 0)).await.is_ok());
    refused(&through(&pair.out, "nobody").once(word("a", 0, 0)).await.unwrap_err(), Code::Unavailable);
    pair.rig.policy("users", "@id(\"get\") permit (principal, action == Action::\"GET\", resource);");
    crate::rig::eventually(|| pair.users.live().snapshot().sequence == pair.rig.world.sequence()).await;
    refused(&client.once(word("a", 0, 0)).await.unwrap_err(), Code::PermissionDenied);
    pair.rig.policy("users", crate::rig::pair::EVERYBODY);
    crate::rig::eventually(|| pair.users.live().snapshot().sequence == pair.rig.world.sequence()).await;
    std::fs::remove_file(pair.rig.dir.path().join("users.sock")).unwrap();
    refused(&client.once(word("a", 0, 0)).await.unwrap_err(), Code::Unavailable);
    // It travels as a success, and is recorded as what it is.
    let record = pair.rig.decision(|decision| decision.code.as_deref() == Some("CS5001")).await;
    assert_eq!((record.verdict.as_str(), record.status), ("deny", 502), "{record:?}");
}

#[tokio::test]
async fn a_filter_refuses_in_grpc_too() {
    let (elsewhere, filter) = (Rig::new(), Filter::new(no(451, "not here")));
    let socket = filter.on_socket(&elsewhere, 0o600).await;
    let table = format!("[[filter]]\nname = \"opa\"\naddress = \"unix:{}\"\n", socket.display());
    let pair = pair(&table, "").await;
    refused(&through(&pair.out, "users").once(word("a", 0, 0)).await.unwrap_err(), Code::PermissionDenied);
    let record = pair.rig.decision(|decision| decision.code.as_deref() == Some("CS4007")).await;
    assert_eq!((record.verdict.as_str(), record.status), ("deny", 403), "{record:?}");
}
