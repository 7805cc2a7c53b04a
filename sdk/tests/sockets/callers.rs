//! The caller's side of every mode: what is shown, when it is made, and that a switch costs no request.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::Request};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{Mode, WimseProof};
use countersign_keys::AgreementKey;
use countersign_ledger::Verdict;
use countersign_request::QueryError;
use countersign_sdk::{
    Workload, clock,
    credentials::CredentialError,
    outbound::{AnswerError, CallError},
    sealed::{Opener, SEALED_MEDIA_TYPE, SealedError},
    tls::IdentityError,
};
use countersign_token::{
    JweError,
    macaroon::{HeldMacaroon, RequestFacts, service},
};
use countersign_wire::{
    agent::{IssueResponse, TokenKind},
    codes::Code,
    snapshot::{Jwk, KeyPurpose, WorkloadKey},
};
use http::{HeaderMap, Uri};
use http_body::Body;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::deployment::{Deployment, Served, counting, text};

/// What came over the wire, of each request.
pub(crate) type Seen = Arc<Mutex<Vec<(Uri, HeaderMap)>>>;

/// `users` without a door: it shows what callers send, tokens and all; and `ads`, which sends `mode`.
pub(crate) async fn open_callee(deployment: &Arc<Deployment>, mode: Mode) -> (Served, Workload, Seen) {
    deployment.register("ads");
    deployment.speak(&["users"], Mode::ALL, Mode::Mtls);
    deployment.speak(&["ads"], &[Mode::Mtls], mode);
    let seen = Seen::default();
    let record = Arc::clone(&seen);
    let bodies = Arc::clone(&deployment.bodies);
    let router = Router::new().fallback(move |request: Request| {
        record.lock().unwrap().push((request.uri().clone(), request.headers().clone()));
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            bodies.lock().unwrap().push(body);
            "hello"
        }
    });
    let workload = deployment.workload("users").await;
    let users = deployment.serve_as(workload, "users", router).await;
    let ads = deployment.workload("ads").await;
    settled(deployment, &[&ads, &users.workload]).await;
    (users, ads, seen)
}

/// `users` behind its door, which lets `ads` in; and `ads`, which sends `mode`.
async fn guarded_callee(deployment: &Arc<Deployment>, mode: Mode) -> (Served, Workload) {
    deployment.permit("users", &["ads"]);
    deployment.register("ads");
    deployment.speak(&["users"], Mode::ALL, Mode::Mtls);
    deployment.speak(&["ads"], &[Mode::Mtls], mode);
    let (router, _) = counting();
    let users = deployment.serve("users", router).await;
    let ads = deployment.workload("ads").await;
    settled(deployment, &[&ads, &users.workload]).await;
    (users, ads)
}

/// Waits until all work by the newest snapshot.
pub(crate) async fn settled(deployment: &Deployment, workloads: &[&Workload]) {
    let newest = deployment.world.lock().unwrap().sequence;
    for workload in workloads {
        while workload.live().snapshot().sequence < newest {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(crate) fn last(seen: &Seen) -> (Uri, HeaderMap) {
    seen.lock().unwrap().last().unwrap().clone()
}

pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
}

/// The claims of a token, unverified.
pub(crate) fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

#[tokio::test]
async fn each_mode_shows_what_it_takes_and_nothing_else() {
    let deployment = Deployment::new();
    let (_users, ads, seen) = open_callee(&deployment, Mode::None).await;
    let evidence =
        ["authorization", "countersign-signing-chain", "workload-identity-token", "workload-proof-token"];
    let shown: [(Mode, &[&str]); 7] = [
        (Mode::None, &[]),
        (Mode::Bearer, &["authorization"]),
        (Mode::Macaroon, &["authorization"]),
        (Mode::Jwt, &["authorization", "countersign-signing-chain"]),
        (Mode::Wimse, &["workload-identity-token", "workload-proof-token"]),
        (Mode::Mtls, &[]),
        (Mode::MtlsJwt, &["authorization", "countersign-signing-chain"]),
    ];
    for (mode, want) in shown {
        deployment.speak(&["ads"], &[Mode::Mtls], mode);
        settled(&deployment, &[&ads]).await;
        assert_eq!(ads.client("users").get("/users/7").send().await.unwrap().status(), 200, "{mode}");
        let (_, headers) = last(&seen);
        let got: Vec<_> = evidence.into_iter().filter(|name| headers.contains_key(*name)).collect();
        assert_eq!(got, want, "{mode}");
    }
    // Plain, without a certificate, with one: three kinds of connection, each made once.
    assert_eq!(ads.client("users").connections(), 3);
}

#[tokio::test]
async fn a_self_signed_token_names_this_request_this_connection_and_its_recipient() {
    let deployment = Deployment::new();
    let (_users, ads, seen) = open_callee(&deployment, Mode::Jwt).await;
    let body = serde_json::json!({ "title": "bicycle" });
    ads.client("users").post("/users/7?x=%c3%a9").json(&body).send().await.unwrap();
    let (uri, headers) = last(&seen);
    let said = claims(header(&headers, "authorization").strip_prefix("Bearer ").unwrap());
    assert_eq!(said["iss"], deployment.id("ads").as_str());
    assert_eq!(said["aud"], deployment.id("users").as_str());
    assert_eq!((&said["htm"], &said["htp"]), (&"POST".into(), &"/users/7?x=%C3%A9".into()));
    assert_eq!(uri.path_and_query().unwrap().as_str(), "/users/7?x=%C3%A9");
    let digest = countersign_keys::sha256(body.to_string().as_bytes());
    assert_eq!(said["bdy"], URL_SAFE_NO_PAD.encode(digest));
    assert_eq!(said["exp"].as_i64().unwrap() - said["iat"].as_i64().unwrap(), 30);
    assert_eq!(URL_SAFE_NO_PAD.decode(said["cbx"].as_str().unwrap()).unwrap().len(), 32);

    // The next one is another, over the same connection.
    ads.client("users").post("/users/7").json(&body).send().await.unwrap();
    let (_, headers) = last(&seen);
    let next = claims(header(&headers, "authorization").strip_prefix("Bearer ").unwrap());
    assert_ne!(said["jti"], next["jti"]);
    assert_eq!(said["cbx"], next["cbx"]);
    assert_eq!(deployment.desk.certified(), 1, "one key signs all requests");
}

#[tokio::test]
async fn a_body_that_streams_is_said_to_be_unbound() {
    let deployment = Deployment::new();
    let (_users, ads, seen) = open_callee(&deployment, Mode::Jwt).await;
    let pieces = futures::stream::iter([Ok::<_, std::io::Error>(http_body::Frame::data("a stream".into()))]);
    let body = http_body_util::BodyExt::boxed_unsync(http_body_util::StreamBody::new(pieces));
    let body = http_body_util::BodyExt::boxed_unsync(http_body_util::BodyExt::map_err(body, Into::into));
    let request = http::Request::post("/users/7").body(body).unwrap();
    ads.client("users").send(request).await.unwrap();
    let (_, headers) = last(&seen);
    let said = claims(header(&headers, "authorization").strip_prefix("Bearer ").unwrap());
    assert_eq!(said["bdy"], "unbound");
}

#[tokio::test]
async fn a_request_on_a_new_connection_is_signed_for_that_connection() {
    let deployment = Deployment::new();
    let (users, ads, seen) = open_callee(&deployment, Mode::Jwt).await;
    let sent = async || {
        ads.client("users").get("/users/7").send().await.unwrap();
        let (_, headers) = last(&seen);
        claims(header(&headers, "authorization").strip_prefix("Bearer ").unwrap())
    };
    let before = sent().await;
    users.stop.cancel();
    users.ended.await.unwrap();
    let listener = TcpListener::bind(users.address).await.unwrap();
    let record = Arc::clone(&seen);
    let router = Router::new().fallback(move |request: Request| {
        record.lock().unwrap().push((request.uri().clone(), request.headers().clone()));
        async { "again" }
    });
    tokio::spawn(users.workload.serve(listener, router).into_future());
    let after = sent().await;
    assert_ne!(before["cbx"], after["cbx"]);
    assert_ne!(before["jti"], after["jti"]);
}

#[tokio::test]
async fn a_macaroon_leaves_narrowed_to_one_request_and_ten_seconds() {
    let deployment = Deployment::new();
    let (_users, ads, seen) = open_callee(&deployment, Mode::Macaroon).await;
    ads.client("users").get("/users/7?a=b").send().await.unwrap();
    let (_, headers) = last(&seen);
    let shown = header(&headers, "authorization").strip_prefix("Macaroon ").unwrap().to_owned();
    let (callee, root) = (deployment.id("users"), deployment.desk.macaroon_root(&deployment.id("users")));
    let now = clock::now();
    let facts = RequestFacts {
        callee: &callee,
        method: "GET",
        path: "/users/7",
        query: Some("a=b"),
        body: None,
        caller: None,
        user: None,
        now,
    };
    let judge = |facts: RequestFacts<'_>| {
        service::verify(&shown, &facts, |_| Some(&root)).map(|holder| holder.owner.clone())
    };
    assert_eq!(judge(facts), Ok(deployment.id("ads")));
    assert!(judge(RequestFacts { method: "POST", ..facts }).is_err());
    assert!(judge(RequestFacts { path: "/users/8", ..facts }).is_err());
    assert!(judge(RequestFacts { query: None, ..facts }).is_err());
    assert!(judge(RequestFacts { callee: &deployment.id("chat"), ..facts }).is_err());
    assert!(judge(RequestFacts { now: now.saturating_add(Duration::from_secs(11)), ..facts }).is_err());
    // What the agent gave, which is good for everything, is not what left; and every request takes a copy of one.
    ads.client("users").get("/users/8").send().await.unwrap();
    let (_, headers) = last(&seen);
    assert_ne!(header(&headers, "authorization"), format!("Macaroon {shown}"));
    let held = HeldMacaroon::parse(&shown).unwrap();
    let caveats: Vec<_> = held.root().caveats().iter().map(|c| String::from_utf8_lossy(c.id())).collect();
    for narrowed_by in ["aud = ", "method = ", "path = ", "query-sha256 = ", "before = "] {
        assert!(caveats.iter().any(|caveat| caveat.starts_with(narrowed_by)), "{narrowed_by}: {caveats:?}");
    }
    assert_eq!(deployment.desk.count(TokenKind::Macaroon), 1);
}

#[tokio::test]
async fn no_token_is_ever_sent_in_a_url() {
    let deployment = Deployment::new();
    let (_users, ads, seen) = open_callee(&deployment, Mode::Mtls).await;
    for mode in Mode::ALL {
        deployment.speak(&["ads"], &[Mode::Mtls], *mode);
        settled(&deployment, &[&ads]).await;
        seen.lock().unwrap().clear();
        let refused = ads.client("users").get("/users/7?access_token=x").send().await.unwrap_err();
        let source = countersign_request::RequestError::Query(QueryError::Token);
        assert_eq!(refused, CallError::Ambiguous { source });
        assert!(seen.lock().unwrap().is_empty(), "{mode}");
        ads.client("users").get("/users/7?q=x").send().await.unwrap();
        let (uri, headers) = last(&seen);
        assert_eq!(uri.path_and_query().unwrap().as_str(), "/users/7?q=x", "{mode}");
        for token in headers.values().filter_map(|value| value.to_str().ok()?.split(' ').nth(1)) {
            assert!(!uri.to_string().contains(token));
        }
    }
}

#[tokio::test]
async fn headers_of_a_handler_prove_nothing() {
    let deployment = Deployment::new();
    let (_users, ads, seen) = open_callee(&deployment, Mode::Mtls).await;
    let mut request = crate::deployment::get_request("/users/7");
    for name in [
        "authorization",
        "txn-token",
        "user-token",
        "workload-identity-token",
        "signature",
        "signature-input",
        "dpop",
    ] {
        request.headers_mut().insert(name, "Bearer stolen".parse().unwrap());
    }
    ads.client("users").send(request).await.unwrap();
    let (_, headers) = last(&seen);
    assert!(headers.values().all(|value| value != "Bearer stolen"), "{headers:?}");
}

#[tokio::test]
async fn the_door_lets_the_permitted_caller_in_in_every_mode_that_proves_it() {
    let deployment = Deployment::new();
    let (_users, ads) = guarded_callee(&deployment, Mode::Mtls).await;
    for mode in [Mode::Bearer, Mode::Macaroon, Mode::Jwt, Mode::Wimse, Mode::Mtls, Mode::MtlsJwt] {
        deployment.speak(&["ads"], &[Mode::Mtls], mode);
        settled(&deployment, &[&ads]).await;
        let answer = ads.client("users").get("/users/7?near=48.37,14.51").send().await.unwrap();
        assert_eq!(answer.status(), 200, "{mode}: {}", text(answer).await);
        let seen = deployment.reported(|decision| decision.mode == mode.as_str() && decision.status == 200);
        assert!(seen.await.is_some(), "{mode}");
    }
    // In mode none the caller is nobody, and a rule that names a workload denies.
    deployment.speak(&["ads"], &[Mode::Mtls], Mode::None);
    settled(&deployment, &[&ads]).await;
    let answer = ads.client("users").get("/users/7").send().await.unwrap();
    assert!(matches!(answer.status().as_u16(), 401 | 403), "{}", answer.status());
}

#[tokio::test]
async fn a_signed_request_gets_an_answer_that_its_callee_signed() {
    let deployment = Deployment::new();
    let (users, ads) = guarded_callee(&deployment, Mode::Wimse).await;
    deployment.modes("ads", |modes| modes.wimse = WimseProof::HttpSignature);
    settled(&deployment, &[&ads, &users.workload]).await;
    // Such proofs are bound to no connection, so a callee that has just started refuses them at first.
    let mut answer = ads.client("users").get("/users/7").send().await.unwrap();
    for _ in 0..100 {
        if answer.status() == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        answer = ads.client("users").get("/users/7").send().await.unwrap();
    }
    assert_eq!(answer.status(), 200);
    assert_eq!(text(answer).await, "hello");
}

#[tokio::test]
async fn switching_modes_under_load_fails_no_request() {
    let deployment = Deployment::new();
    let (_users, ads, seen) = open_callee(&deployment, Mode::Mtls).await;
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..8)
        .map(|n| {
            let (client, stop) = (ads.client("users"), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut sent = 0;
                while !stop.load(Ordering::SeqCst) {
                    let answer = client.get(&format!("/users/{n}")).send().await.unwrap();
                    assert_eq!(answer.status(), 200);
                    text(answer).await;
                    sent += 1;
                }
                sent
            })
        })
        .collect();
    for mode in Mode::ALL.iter().chain(Mode::ALL) {
        deployment.speak(&["ads"], &[Mode::Mtls], *mode);
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    stop.store(true, Ordering::SeqCst);
    let mut sent = 0;
    for caller in callers {
        sent += caller.await.unwrap();
    }
    assert_eq!(seen.lock().unwrap().len(), sent);
    assert!(sent > 100, "{sent}");
}

#[tokio::test]
async fn what_is_sent_next_is_got_before_the_first_request_needs_it() {
    let deployment = Deployment::new();
    let (_users, ads, _) = open_callee(&deployment, Mode::Mtls).await;
    ads.client("users").get("/users/7").send().await.unwrap();
    assert_eq!(deployment.desk.count(TokenKind::Bearer), 0, "nothing is asked for that is not sent");
    deployment.speak(&["ads"], &[Mode::Mtls], Mode::Bearer);
    eventually(|| deployment.desk.count(TokenKind::Bearer) == 1).await;
    // The authority may go now: the switch has happened.
    *deployment.desk.is_closed.lock().unwrap() = true;
    assert_eq!(ads.client("users").get("/users/7").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn credentials_are_renewed_before_they_end_and_kept_when_nobody_answers() {
    let deployment = Deployment::new();
    *deployment.desk.life.lock().unwrap() = Duration::from_secs(4);
    let (_users, ads, seen) = open_callee(&deployment, Mode::Bearer).await;
    let token = async || {
        ads.client("users").get("/users/7").send().await.unwrap();
        header(&last(&seen).1, "authorization").to_owned()
    };
    let first = token().await;
    assert_eq!(first, token().await);
    eventually(|| deployment.desk.count(TokenKind::Bearer) == 2).await;
    let second = token().await;
    assert_ne!(first, second);
    *deployment.desk.is_closed.lock().unwrap() = true;
    tokio::time::sleep(Duration::from_millis(2600)).await;
    // Renewal was due and failed: what is at hand counts until it ends.
    assert_eq!(second, token().await);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let refused = ads.client("users").get("/users/7").send().await.unwrap_err();
    assert!(
        matches!(&refused, CallError::Credential { mode: Mode::Bearer, source: CredentialError::Agent(_) }),
        "{refused}"
    );
    assert_eq!(refused.code(), Code::CredentialAbsent);
    *deployment.desk.is_closed.lock().unwrap() = false;
    eventually(|| deployment.desk.count(TokenKind::Bearer) == 3).await;
    assert_ne!(second, token().await);
}

#[tokio::test]
async fn an_answer_that_should_be_signed_and_is_not_is_refused() {
    let deployment = Deployment::new();
    let (_users, ads, seen) = open_callee(&deployment, Mode::Wimse).await;
    deployment.modes("ads", |modes| modes.wimse = WimseProof::HttpSignature);
    settled(&deployment, &[&ads]).await;
    let refused = ads.client("users").get("/users/7").send().await.unwrap_err();
    assert_eq!(refused, CallError::Answer { service: "users".into(), source: AnswerError::Unsigned });
    assert_eq!(refused.code(), Code::AnswerUnproven);
    let (_, headers) = last(&seen);
    assert!(header(&headers, "signature-input").contains("wimse-workload-to-workload"));
    assert!(headers.contains_key("content-digest") && !headers.contains_key("workload-proof-token"));
}

#[tokio::test]
async fn the_authority_learns_when_a_change_of_modes_took_effect() {
    let deployment = Deployment::new();
    let (_users, ads, _) = open_callee(&deployment, Mode::Mtls).await;
    *deployment.desk.is_closed.lock().unwrap() = true;
    deployment.speak(&["ads"], &[Mode::Mtls], Mode::Jwt);
    let newest = deployment.world.lock().unwrap().sequence;
    let told = |deployment: &Deployment| {
        let applied = deployment.desk.applied.lock().unwrap();
        applied.iter().any(|(id, applied)| *id == deployment.id("ads") && applied.sequence == newest)
    };
    settled(&deployment, &[&ads]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!told(&deployment), "it takes effect only with the key at hand");
    *deployment.desk.is_closed.lock().unwrap() = false;
    eventually(|| told(&deployment)).await;
    assert_eq!(deployment.desk.certified(), 1);
    drop(ads);
}

#[tokio::test]
async fn a_mode_that_the_callee_does_not_accept_is_refused_by_the_callee() {
    let deployment = Deployment::new();
    let (users, ads) = guarded_callee(&deployment, Mode::Bearer).await;
    assert_eq!(ads.client("users").get("/users/7").send().await.unwrap().status(), 200);
    deployment.speak(&["users"], &[Mode::Mtls], Mode::Mtls);
    settled(&deployment, &[&ads, &users.workload]).await;
    let answer = ads.client("users").get("/users/7").send().await;
    assert!(answer.as_ref().map_or(true, |answer| answer.status() == 401), "{answer:?}");
}

pub(crate) async fn eventually(holds: impl Fn() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never held");
}

#[tokio::test]
async fn rejects_a_signing_certificate_that_is_absent_or_for_another_key() {
    let refused = async |tamper: fn(&mut IssueResponse)| {
        let deployment = Deployment::new();
        let ads = deployment.workload("ads").await;
        deployment.world.lock().unwrap().tamper = Some(tamper);
        ads.credentials().signing().await.unwrap_err()
    };
    let empty = refused(|answer| answer.chain.clear()).await;
    assert_eq!(empty, CredentialError::Certificate(IdentityError::NoCertificate));
    // The issuer's certificate, which has a key of its own, in place of ours.
    let other_key = refused(|answer| drop(answer.chain.remove(0))).await;
    assert_eq!(other_key, CredentialError::Certificate(IdentityError::KeyMismatch));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_sent() {
    let deployment = Deployment::new();
    let (_users, ads, seen) = open_callee(&deployment, Mode::Jwt).await;
    let broken = BrokenBody.map_err(Into::into).boxed_unsync();
    let request = http::Request::post("/users/7").body(broken).unwrap();
    let refused = ads.client("users").send(request).await.unwrap_err();
    assert!(matches!(refused, CallError::Body { .. }), "{refused}");
    assert!(seen.lock().unwrap().is_empty());
}

/// Promises ten bytes and gives none.
struct BrokenBody;

impl Body for BrokenBody {
    type Data = bytes::Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, std::io::Error>>> {
        std::task::Poll::Ready(Some(Err(std::io::Error::other("the client hung up"))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(10)
    }
}

#[tokio::test]
async fn a_signed_answer_that_is_too_long_to_be_held_is_refused() {
    let deployment = Deployment::new();
    deployment.register("ads");
    let users = deployment.workload("users").await;
    let long = || async { ([("signature-input", "s=()"), ("signature", "s=:AA==:")], vec![0_u8; 300_000]) };
    let _users = deployment.serve_as(users, "users", Router::new().fallback(long)).await;
    deployment.speak(&["users"], Mode::ALL, Mode::Mtls);
    deployment.modes("ads", |modes| (modes.sends, modes.wimse) = (Mode::Wimse, WimseProof::HttpSignature));
    let ads = deployment.workload("ads").await;
    settled(&deployment, &[&ads, &_users.workload]).await;
    let refused = ads.client("users").get("/users/7").send().await.unwrap_err();
    assert_eq!(refused, CallError::Answer { service: "users".into(), source: AnswerError::Body });
}

#[tokio::test]
async fn an_answer_that_breaks_off_before_it_is_signed_has_one_status_for_caller_and_ledger() {
    let deployment = Deployment::new();
    deployment.permit("users", &["ads"]);
    deployment.register("ads");
    deployment.speak(&["users"], Mode::ALL, Mode::Mtls);
    deployment.modes("ads", |modes| (modes.sends, modes.wimse) = (Mode::Wimse, WimseProof::HttpSignature));
    let breaks_off = || async {
        axum::body::Body::from_stream(futures::stream::iter([Err::<bytes::Bytes, _>(std::io::Error::other(
            "gone",
        ))]))
    };
    let users = deployment.serve("users", Router::new().fallback(breaks_off)).await;
    let ads = deployment.workload("ads").await;
    settled(&deployment, &[&ads, &users.workload]).await;
    let mut status = ads.client("users").get("/users/7").send().await.unwrap().status();
    // Such proofs are bound to no connection, so a callee that has just started refuses them at first.
    for _ in 0..100 {
        if status == 500 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        status = ads.client("users").get("/users/7").send().await.unwrap().status();
    }
    assert_eq!(status, 500);
    let recorded = deployment.reported(|decision| decision.verdict == Verdict::Allow).await.unwrap();
    assert_eq!(recorded.status, 500);
}

#[tokio::test]
async fn a_key_that_rotates_is_pushed_and_costs_no_call() {
    let deployment = Deployment::new();
    let (users, ads) = guarded_callee(&deployment, Mode::Wimse).await;
    deployment.permit("users", &["ads", "chat"]);
    deployment.register("chat");
    deployment.speak(&["chat"], &[Mode::Mtls], Mode::Wimse);
    assert_eq!(ads.client("users").get("/users/7").send().await.unwrap().status(), 200);
    deployment.desk.rotate_wit_key();
    deployment.publish();
    let chat = deployment.workload("chat").await;
    settled(&deployment, &[&ads, &users.workload, &chat]).await;
    // Signed with the new key by whoever came after, and with the old one by whoever was there before.
    assert_eq!(chat.client("users").get("/users/7").send().await.unwrap().status(), 200);
    assert_eq!(ads.client("users").get("/users/7").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_sealed_payload_can_be_read_by_its_callee_alone() {
    let deployment = Deployment::new();
    let (_users, ads, seen) = open_callee(&deployment, Mode::Jwt).await;
    let [ours, others] = [(); 2].map(|()| AgreementKey::generate().unwrap());
    let register = |jwk: String| {
        let key = WorkloadKey {
            owner: deployment.id("users"),
            purpose: KeyPurpose::Encryption,
            jwk: Jwk::from_text(&jwk).unwrap(),
        };
        deployment.world.lock().unwrap().workload_keys.push(key);
        deployment.publish();
    };
    let send = async || ads.client("users").post("/users/7/iban").sealed_json(&"AT61 1904").send().await;

    let no_key = SealedError::NoKey { recipient: deployment.id("users") };
    assert_eq!(send().await.unwrap_err(), CallError::Sealed { service: "users".into(), source: no_key });
    assert!(seen.lock().unwrap().is_empty(), "it went out in the clear");

    register(ours.public_key().to_jwk());
    settled(&deployment, &[&ads]).await;
    send().await.unwrap();
    let sealed = deployment.bodies.lock().unwrap().last().unwrap().clone();
    assert!(!String::from_utf8_lossy(&sealed).contains("1904"));
    assert_eq!(header(&last(&seen).1, "content-type"), SEALED_MEDIA_TYPE);
    let opener =
        |key: &AgreementKey| Opener::from_pkcs8([key.to_pkcs8().unwrap().expose().as_slice()]).unwrap();
    assert_eq!(opener(&ours).json::<String>(&sealed), Ok("AT61 1904".to_owned()));
    assert_eq!(opener(&ours).json::<u64>(&sealed), Err(SealedError::NotJson));
    let refused = opener(&others).json::<String>(&sealed);
    assert!(matches!(refused, Err(SealedError::Jwe(JweError::UnknownKey { .. }))), "{refused:?}");

    register(ours.public_key().to_jwk().replace("\"x\":\"", "\"x\":\"AAAA"));
    settled(&deployment, &[&ads]).await;
    let bad = SealedError::BadKey { recipient: deployment.id("users") };
    assert_eq!(send().await.unwrap_err(), CallError::Sealed { service: "users".into(), source: bad });
    assert!(matches!(Opener::from_pkcs8([b"no key".as_slice()]), Err(SealedError::PrivateKey(_))));
}
