//! Filters that are shown bodies.

use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::{EVERYBODY, Edge, Filter, yes};
use crate::rig::Rig;
use crate::rig::client::{bearer, raw, read_answer, request};

#[tokio::test]
async fn a_filter_that_reads_bodies_sees_each_whole_and_the_service_gets_the_same() {
    let edge = Edge::new(Filter::new(yes), "body_bytes_max = 8\n").await;
    let token = bearer(&edge.rig.access_token("alice", &[]));
    let post = async |body: &str| {
        let headers = [("authorization", token.as_str()), ("content-type", "text/plain")];
        request(edge.gateway.plain, "POST", "/ads/7", &headers, body).await.status
    };
    assert_eq!(post("12345678").await, 200);
    assert_eq!(edge.seen.last()["body"], "12345678");
    let http = edge.filter.asked().remove(0).attributes.unwrap().request.unwrap().http.unwrap();
    assert_eq!((http.body.as_str(), http.raw_body.as_slice(), http.size), ("12345678", &b"12345678"[..], 8));
    // Nothing goes past it unseen.
    assert_eq!(post("123456789").await, 413);
    let head = format!(
        "POST /ads/7 HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\n12345\r\n5\r\n67890\r\n0\r\n\r\n"
    );
    assert_eq!(raw(edge.gateway.plain, head).await.status, 413);
    assert_eq!((edge.seen.count(), edge.filter.asked().len()), (1, 1));
}

#[tokio::test]
async fn a_body_that_is_no_text_is_shown_as_its_bytes_and_as_text_all_the_same() {
    let edge = Edge::new(Filter::new(yes), "body_bytes_max = 64\n").await;
    let token = bearer(&edge.rig.access_token("alice", &[]));
    let mut bytes = format!(
        "POST /ads/7 HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\nContent-Length: 9\r\n\r\n"
    )
    .into_bytes();
    bytes.extend(b"\xff<script>");
    assert_eq!(raw(edge.gateway.plain, bytes).await.status, 200);
    let http = edge.filter.asked().remove(0).attributes.unwrap().request.unwrap().http.unwrap();
    assert_eq!((http.raw_body.as_slice(), http.body.as_str()), (&b"\xff<script>"[..], "\u{fffd}<script>"));
}

#[tokio::test]
async fn no_more_bodies_are_held_for_a_filter_than_questions_may_be_open() {
    let edge =
        Edge::new(Filter::new(yes), "body_bytes_max = 64\nquestions_max = 1\ntimeout_ms = 20000\n").await;
    let token = bearer(&edge.rig.access_token("alice", &[]));
    let post = async || {
        request(edge.gateway.plain, "POST", "/ads/7", &[("authorization", &token)], "whole").await.status
    };
    let head = format!(
        "POST /ads/7 HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\nContent-Length: 8\r\n\r\n1234"
    );
    // Whoever comes first has the turn: until it is the one with half a body, it tries again.
    let mut taken = None;
    for _ in 0..100 {
        let mut half = TcpStream::connect(edge.gateway.plain).await.unwrap();
        half.write_all(head.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        if post().await == 503 {
            taken = Some(half);
            break;
        }
    }
    let mut half = taken.expect("its turn is taken before a byte of the body is read");
    // Who brings no body takes no turn.
    assert_eq!(edge.get("bob", &[], &[]).await.status, 200);
    half.write_all(b"5678").await.unwrap();
    assert_eq!(read_answer(&mut half).await.status, 200);
    assert_eq!(post().await, 200);
}

/// Sends a body with a trailer over HTTP/2; what the service behind says of both.
async fn send_with_trailer(address: SocketAddr) -> Bytes {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "5".parse().unwrap())]);
    let body = Full::<Bytes>::from("whole").with_trailers(std::future::ready(Some(Ok(trailers))));
    let request = Request::post("http://flea.test/in").body(body).unwrap();
    sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn a_body_that_was_held_for_a_filter_goes_on_with_its_trailers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tell = async |body: axum::body::Body| {
        let body = body.collect().await.unwrap();
        let sum = body.trailers().and_then(|trailers| trailers.get("x-sum").cloned());
        format!("{:?} and {sum:?}", body.to_bytes())
    };
    let router = axum::Router::new().route("/in", axum::routing::post(tell));
    tokio::spawn(axum::serve(listener, router).into_future());
    for (settings, shown) in [("body_bytes_max = 64\n", "whole"), ("", "")] {
        let (rig, filter) = (Rig::new(), Filter::new(yes));
        rig.policy("gateway", EVERYBODY);
        let toml = format!(
            "[[route]]\npath = \"/in\"\nto = \"b\"\nuser = \"none\"\n\
             [[upstream]]\nname = \"b\"\nhttp2 = true\nendpoints = [\"{address}\"]\n\
             [[filter]]\nname = \"opa\"\naddress = \"unix:{}\"\n{settings}",
            filter.on_socket(&rig, 0o600).await.display()
        );
        let edge = rig.gateway(&toml).await;
        assert_eq!(send_with_trailer(edge.plain).await, "b\"whole\" and Some(\"5\")", "{settings}");
        let asked = filter.asked().remove(0).attributes.unwrap().request.unwrap().http.unwrap();
        assert_eq!(asked.body, shown);
    }
}
