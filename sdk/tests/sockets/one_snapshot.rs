//! What names a request's route, judges its evidence and decides is one snapshot, however long its body takes.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    middleware::map_request,
    routing::post,
};
use countersign_identity::Mode;
use countersign_keys::sha256;
use countersign_sdk::{Caller, outbound::Outgoing, signing_chains::write_chain};
use countersign_token::{ServiceToken, service_token::BodyBinding};
use http::Method;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::{Notify, mpsc};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

use crate::{
    deployment::{Deployment, Served},
    modes::{Line, bearer, request, signer, thumbprint, token},
};

/// A service that ads may call, whose door tells when it reads a body.
async fn service(deployment: &Arc<Deployment>, reads: &Arc<Notify>) -> Served {
    deployment.permit("users", &["ads"]);
    deployment.modes("users", |users| users.accepts = vec![Mode::Jwt]);
    let workload = deployment.workload("users").await;
    let reads = Arc::clone(reads);
    let tells = move |request: Request| {
        let reads = Arc::clone(&reads);
        let read = move |frame| {
            reads.notify_one();
            frame
        };
        std::future::ready(request.map(|body| Body::new(body.map_frame(read))))
    };
    let echo = |caller: Caller, body: Bytes| async move { format!("{} {}", caller.route(), body.len()) };
    let router = Router::new().route("/post", post(echo)).layer(workload.require()).layer(map_request(tells));
    let served = deployment.serve_as(workload, "users", router).await;
    comes_to_accept(&served, &[Mode::Jwt]).await;
    served
}

async fn comes_to_accept(served: &Served, modes: &[Mode]) {
    while served.workload.live().accepts("users") != modes {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A body that is `b"order 1"`, and comes as it is sent.
fn slow_body() -> (mpsc::Sender<&'static [u8]>, Outgoing) {
    let (send, pieces) = mpsc::channel::<&'static [u8]>(1);
    let frames = ReceiverStream::new(pieces).map(|piece| Ok(Frame::data(Bytes::from_static(piece))));
    (send, StreamBody::new(frames).boxed_unsync())
}

#[tokio::test]
async fn a_request_is_decided_by_the_snapshot_that_named_it_though_another_came_with_its_body() {
    let (deployment, reads) = (Deployment::new(), Arc::new(Notify::new()));
    let users = service(&deployment, &reads).await;
    let line = Line::open(&deployment, &users, None).await;
    let ads = signer(&deployment, "ads");
    let chain = write_chain(&ads.chain);
    let order = |body: Outgoing| {
        let (method, path_and_query) = ("POST".into(), "/post".into());
        let bound = BodyBinding::Sha256(sha256(b"order 1"));
        let token = ServiceToken { method, path_and_query, body: bound, ..token(&deployment, &line) };
        let minted = bearer(&token.mint(&ads.key, Some(&thumbprint(&ads))).unwrap());
        let headers = [("authorization", minted.as_str()), ("countersign-signing-chain", chain.as_str())];
        request(Method::POST, "/post", &headers, body)
    };
    let (send, body) = slow_body();
    let (said, ()) = tokio::join!(line.said(order(body)), async {
        send.send(b"order ").await.unwrap();
        // The caller is proven now, and its evidence waits for the rest of the body.
        reads.notified().await;
        deployment.permit("users", &["chat"]);
        deployment.modes("users", |users| users.accepts = vec![Mode::Jwt, Mode::Mtls]);
        comes_to_accept(&users, &[Mode::Jwt, Mode::Mtls]).await;
        send.send(b"1").await.unwrap();
        drop(send);
    });
    assert_eq!(said, (200, "/post 7".to_owned()), "by the one that was there when it began");
    let (send, body) = slow_body();
    let (said, ()) = tokio::join!(line.said(order(body)), async {
        send.send(b"order 1").await.unwrap();
        drop(send);
    });
    assert_eq!(said.0, 403, "by the one that is there now");
}
