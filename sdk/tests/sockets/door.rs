//! What the layer in front of a service lets in, and what it says to the others.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use axum::{Router, http::HeaderMap, routing::get};
use countersign_identity::{Binding, Freshness, Mode, UserProof};
use countersign_ledger::{CheckResult, Decision, Stage, Verdict};
use countersign_sdk::{
    Caller, EndUser,
    inbound::{CallerMissing, DoorLimits, InboundError, UserMissing},
    outbound::{CallError, Channel, InternalToken},
    tls::ClientAuth,
};
use http::{Request, StatusCode};

use crate::deployment::{Deployment, Served, counting, get_request, key, text};

/// A service that tells what it knows of its caller.
async fn mirror(deployment: &Arc<Deployment>) -> (Served, Channel) {
    let who = |caller: Caller, user: Option<EndUser>, headers: HeaderMap| async move {
        assert!(headers.get("txn-token").is_none() && headers.get("x-forwarded-user").is_none());
        let workload = caller.workload().map_or("nobody", |workload| workload.id.path()).to_owned();
        let user = user.map_or("no user".to_owned(), |user| format!("{} {:?}", user.name, user.roles));
        let proof = caller.proof();
        assert_eq!(proof.binding, Binding::CHANNEL);
        let fresh = if proof.user == UserProof::None { Freshness::Connection } else { Freshness::Reusable };
        assert_eq!(proof.freshness, fresh);
        format!("{workload} for {user}")
    };
    let users_only = |user: EndUser| async move { user.name.clone() };
    deployment.permit("users", &["ads"]);
    let router = Router::new().route("/who", get(who)).route("/mine", get(users_only));
    let router = router.route("/healthz", get(|| async { "ok" }));
    let served = deployment.serve("users", router).await;
    let channel = deployment.bare_client(Some(&deployment.leaf("ads")), "users", served.address);
    (served, channel)
}

async fn with_token(channel: &Channel, token: &str) -> (StatusCode, HeaderMap, String) {
    let mut request = get_request("/who");
    request.headers_mut().insert("txn-token", token.parse().unwrap());
    let answer = channel.send(request).await.unwrap();
    (answer.status(), answer.headers().clone(), text(answer).await)
}

const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn tells_the_handler_who_calls_and_for_whom() {
    let deployment = Deployment::new();
    let (served, channel) = mirror(&deployment).await;
    let plain = channel.send(get_request("/who")).await.unwrap();
    assert_eq!(text(plain).await, "/svc/ads for no user");
    let token = deployment.txn_token("alice", &deployment.gateway_key, MINUTE);
    assert_eq!(with_token(&channel, &token).await.2, "/svc/ads for alice [\"buyer\"]");
    drop(served);
}

#[tokio::test]
async fn a_token_that_does_not_hold_is_final_even_where_no_user_is_needed() {
    let deployment = Deployment::new();
    let (_served, channel) = mirror(&deployment).await;
    let good = deployment.txn_token("alice", &deployment.gateway_key, MINUTE);
    let mut tampered = good.clone().into_bytes();
    let middle = good.find('.').unwrap() + 10;
    tampered[middle] = if tampered[middle] == b'A' { b'B' } else { b'A' };
    let unknown = deployment.txn_token("alice", &key(), MINUTE);
    for (bad, code) in
        [(String::from_utf8(tampered).unwrap(), "CS3003"), (unknown, "CS3004"), ("nonsense".into(), "CS3002")]
    {
        let (status, headers, body) = with_token(&channel, &bad).await;
        assert_eq!(status, 401, "{code}");
        assert_eq!(headers["www-authenticate"], "Countersign need=\"txn-token\"");
        assert!(!body.contains("eyJ") && !body.contains("kid") && !body.contains(code), "{body}");
        let refused = |decision: &Decision| decision.code.as_deref() == Some(code);
        let decision = deployment.reported(refused).await.unwrap();
        assert_eq!(decision.stage, Stage::Token);
        let failed = decision.checks.iter().find(|check| check.result == CheckResult::Fail).unwrap();
        assert_eq!(failed.name, "token");
    }
}

#[tokio::test]
async fn a_token_that_is_no_text_or_empty_is_one_that_does_not_hold_and_not_none() {
    let deployment = Deployment::new();
    let (_served, channel) = mirror(&deployment).await;
    for bad in ["\u{fc}", ""] {
        assert_eq!(with_token(&channel, bad).await.0, 401, "{bad:?}");
    }
}

#[tokio::test]
async fn a_token_expires_and_then_no_longer_counts() {
    let deployment = Deployment::new();
    let (_served, channel) = mirror(&deployment).await;
    let token = deployment.txn_token("alice", &deployment.gateway_key, Duration::from_secs(2));
    assert_eq!(with_token(&channel, &token).await.0, 200);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(with_token(&channel, &token).await.0, 401);
}

#[tokio::test]
async fn a_key_counts_only_for_the_gateway_that_owns_it() {
    let deployment = Deployment::new();
    let (_served, channel) = mirror(&deployment).await;
    // The key is published, but by another workload than the one that the token names.
    let stolen = key();
    let owner = deployment.id("chat");
    deployment.world.lock().unwrap().token_keys.push((owner, stolen.public_key().clone()));
    deployment.publish();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let token = deployment.txn_token("alice", &stolen, MINUTE);
    assert_eq!(with_token(&channel, &token).await.0, 401);
    assert!(deployment.reported(|decision| decision.code.as_deref() == Some("CS3012")).await.is_some());
}

#[tokio::test]
async fn identity_headers_of_the_caller_reach_nobody_and_connection_cannot_delete_ours() {
    let deployment = Deployment::new();
    let (_served, channel) = mirror(&deployment).await;
    // The mirror asserts that none of them is left.
    let request =
        Request::get("/who").header("x-forwarded-user", "mod").header("x-forwarded-client-cert", "By=x");
    let request = request.body(countersign_sdk::outbound::empty()).unwrap();
    let answer = channel.send(request).await.unwrap();
    assert_eq!(text(answer).await, "/svc/ads for no user");

    let token = deployment.txn_token("alice", &deployment.gateway_key, MINUTE);
    let answer = http1(&deployment, "Connection: txn-token\r\nConnection: close\r\n", &token).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("for alice [\"buyer\"]"), "{answer}");
}

#[tokio::test]
async fn an_alias_or_a_second_token_header_is_refused() {
    let deployment = Deployment::new();
    let (_served, _channel) = mirror(&deployment).await;
    let token = deployment.txn_token("alice", &deployment.gateway_key, MINUTE);
    for headers in ["Txn_Token: x\r\n", "Txn-Token: x\r\n", "Host: other\r\n"] {
        let answer = http1(&deployment, headers, &token).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{headers}: {answer}");
    }
}

/// One HTTP/1.1 request as ads, with headers of our choice.
async fn http1(deployment: &Deployment, headers: &str, token: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = deployment.world.lock().unwrap().services["users"];
    let leaf = deployment.leaf("ads");
    let mut stream = crate::handshake::tls_as(address, &leaf).await;
    let head = format!(
        "GET /who HTTP/1.1\r\nHost: users\r\n{headers}Txn-Token: {token}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    format!("{}\n{body}", head.lines().next().unwrap())
}

#[tokio::test]
async fn a_route_that_is_skipped_is_for_everybody_and_the_others_are_not() {
    let deployment = Deployment::new();
    let (served, _channel) = mirror(&deployment).await;
    let stranger = deployment.bare_client(Some(&deployment.leaf("chat")), "users", served.address);
    assert_eq!(stranger.send(get_request("/healthz")).await.unwrap().status(), 200);
    assert_eq!(stranger.send(get_request("/who")).await.unwrap().status(), 403);
    assert_eq!(stranger.send(get_request("/healthz/..")).await.unwrap().status(), 400);
    assert_eq!(stranger.send(get_request("/nowhere")).await.unwrap().status(), 403);
}

#[tokio::test]
async fn a_service_without_rules_accepts_nobody() {
    let deployment = Deployment::new();
    let (router, reached) = counting();
    let users = deployment.serve("users", router).await;
    let client = deployment.bare_client(Some(&deployment.leaf("ads")), "users", users.address);
    assert_eq!(client.send(get_request("/users/7")).await.unwrap().status(), 403);
    assert_eq!(reached.load(Ordering::SeqCst), 0);
    assert!(deployment.reported(|decision| decision.code.as_deref() == Some("CS4004")).await.is_some());
}

#[tokio::test]
async fn rules_that_cannot_be_loaded_refuse_everybody_until_they_are_corrected() {
    let deployment = Deployment::new();
    let (served, channel) = mirror(&deployment).await;
    assert_eq!(channel.send(get_request("/who")).await.unwrap().status(), 200);
    let broken = "permit (principal, action, resource) when { context.nothing };";
    deployment.world.lock().unwrap().policies.insert("users".into(), broken.into());
    deployment.publish();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(channel.send(get_request("/who")).await.unwrap().status(), 403);
    deployment.permit("users", &["ads"]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(channel.send(get_request("/who")).await.unwrap().status(), 200);
    drop(served);
}

#[tokio::test]
async fn where_no_certificate_could_be_shown_a_stranger_gets_403_without_a_challenge() {
    let deployment = Deployment::new();
    deployment.permit("users", &["ads"]);
    let workload = deployment.workload("users").await;
    let (router, reached) = counting();
    let router = router.layer(workload.require());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(workload.serve(listener, router).client_auth(ClientAuth::Never).into_future());
    let client = deployment.bare_client(Some(&deployment.leaf("ads")), "users", address);
    let answer = client.send(get_request("/users/7")).await.unwrap();
    assert_eq!(answer.status(), 403);
    assert!(answer.headers().get("www-authenticate").is_none());
    assert_eq!(reached.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_token_from_somebody_without_a_name_does_not_count() {
    let deployment = Deployment::new();
    // Even a rule that lets everybody in does not make such a token good.
    let all = "@id(\"all\") permit (principal, action, resource in Service::\"users\");";
    deployment.world.lock().unwrap().policies.insert("users".into(), all.into());
    deployment.modes("users", |modes| modes.accepts = vec![Mode::Jwt]);
    let (router, reached) = counting();
    let served = deployment.serve("users", router).await;
    while served.workload.live().accepts("users") != [Mode::Jwt] {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stranger = deployment.bare_client(None, "users", served.address);
    let token = deployment.txn_token("alice", &deployment.gateway_key, MINUTE);
    let mut request = get_request("/users/7");
    request.headers_mut().insert("txn-token", token.parse().unwrap());
    assert_eq!(stranger.send(request).await.unwrap().status(), 401);
    assert_eq!(reached.load(Ordering::SeqCst), 0);
    let decision = deployment.reported(|decision| decision.code.as_deref() == Some("CS2001")).await.unwrap();
    assert!(decision.reason.unwrap().contains("proved no name"));
}

#[tokio::test]
async fn a_route_for_users_refuses_a_service_that_calls_for_itself() {
    let deployment = Deployment::new();
    let (_served, channel) = mirror(&deployment).await;
    let answer = channel.send(get_request("/mine")).await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(UserMissing::NoUser.to_string(), "this route is for users, and the caller passed none on");
    assert_eq!(UserMissing::from(CallerMissing), UserMissing::NoCaller(CallerMissing));
}

#[tokio::test]
async fn an_extractor_without_the_layer_says_so_and_lets_nobody_in() {
    let deployment = Deployment::new();
    let workload = deployment.workload("users").await;
    let router = Router::new().route("/who", get(|_caller: Caller| async { "in" }));
    let users = deployment.serve_as(workload, "users", router).await;
    let client = deployment.bare_client(Some(&deployment.leaf("ads")), "users", users.address);
    let answer = client.send(get_request("/who")).await.unwrap();
    assert_eq!(answer.status(), 500);
    assert!(CallerMissing.to_string().contains("no countersign layer is installed on this route"));
}

#[tokio::test]
async fn rejects_routes_that_are_no_templates_or_match_the_same_paths() {
    let deployment = Deployment::new();
    let workload = deployment.workload("users").await;
    let refused = workload.require().skip("healthz").unwrap_err();
    assert!(matches!(refused, InboundError::Route { .. }));
    let refused = workload.require().routes(["/a/{x}", "/a/{y}"]).unwrap_err();
    assert!(matches!(refused, InboundError::Table(_)));
}

#[tokio::test]
async fn works_on_any_http_service_and_names_its_routes_by_declared_templates() {
    let deployment = Deployment::new();
    deployment.permit("users", &["ads"]);
    let workload = deployment.workload("users").await;
    let plain = tower::service_fn(|_request: Request<countersign_sdk::accept::RequestBody>| async {
        let body = http_body_util::Full::new(bytes::Bytes::from_static(b"no framework"));
        Ok::<_, std::convert::Infallible>(http::Response::new(body))
    });
    let layer = workload.require().routes(["/users/{id}"]).unwrap();
    let service = tower_layer::Layer::layer(&layer, plain);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(workload.serve(listener, service).into_future());
    let client = deployment.bare_client(Some(&deployment.leaf("ads")), "users", address);
    assert_eq!(text(client.send(get_request("/users/7")).await.unwrap()).await, "no framework");
    let allowed = deployment.reported(|decision| decision.verdict == Verdict::Allow).await.unwrap();
    assert_eq!(allowed.route, "/users/{id}");
}

/// ads → users, where ads passes on or not.
async fn hop(deployment: &Arc<Deployment>) -> (Served, Served, Channel) {
    let (users, _) = mirror(deployment).await;
    let ads = deployment.workload("ads").await;
    let client = ads.client("users");
    let passing = client.clone();
    let pass_on = move |caller: Caller| {
        let client = passing.clone().on_behalf_of(&caller);
        async move { text(client.get("/who").send().await.unwrap()).await }
    };
    let own = client.clone();
    let for_itself = move || {
        let client = own.clone();
        async move { text(client.get("/who").send().await.unwrap()).await }
    };
    let forge = move |caller: Caller| {
        let client = client.clone();
        async move {
            assert!(caller.user().is_some());
            // A header is not a way to pass a token on.
            let mut request = get_request("/who");
            request.headers_mut().insert("txn-token", "forged".parse().unwrap());
            text(client.send(request).await.unwrap()).await
        }
    };
    deployment.permit("ads", &["gateway"]);
    let router = Router::new().route("/pass", get(pass_on)).route("/own", get(for_itself));
    let router = router.route("/forge", get(forge));
    let router = router.layer(ads.require());
    let served = deployment.serve_as(ads, "ads", router).await;
    let gateway = deployment.bare_client(Some(&deployment.leaf("gateway")), "ads", served.address);
    (users, served, gateway)
}

#[tokio::test]
async fn the_users_context_goes_along_only_from_the_inbound_caller() {
    let deployment = Deployment::new();
    let (_users, _ads, gateway) = hop(&deployment).await;
    let token = deployment.txn_token("alice", &deployment.gateway_key, MINUTE);
    let ask = async |path: &str| {
        let mut request = get_request(path);
        request.headers_mut().insert("txn-token", token.parse().unwrap());
        text(gateway.send(request).await.unwrap()).await
    };
    assert_eq!(ask("/pass").await, "/svc/ads for alice [\"buyer\"]");
    assert_eq!(ask("/own").await, "/svc/ads for no user");
    assert_eq!(ask("/forge").await, "/svc/ads for no user");
    // One trace joins both hops.
    let of = |target: &'static str| move |decision: &Decision| decision.target == target;
    let (ads, users) =
        (deployment.reported(of("ads")).await.unwrap(), deployment.reported(of("users")).await.unwrap());
    assert!(ads.trace.is_some() && ads.trace == users.trace);
}

#[tokio::test]
async fn a_gateway_passes_on_what_it_minted() {
    let deployment = Deployment::new();
    deployment.permit("users", &["gateway"]);
    let seen = Arc::new(Mutex::new(None));
    let told = Arc::clone(&seen);
    let handler = move |user: EndUser| {
        *told.lock().unwrap() = Some(user.name.clone());
        async { "ok" }
    };
    let users = deployment.serve("users", Router::new().route("/me", get(handler))).await;
    let gateway = deployment.workload("gateway").await;
    assert_eq!(gateway.target(), "gateway");
    gateway.publish_token_key(deployment.gateway_key.public_key()).await.unwrap();
    assert_eq!(deployment.published.lock().unwrap().len(), 1);
    let token = InternalToken::minted(deployment.txn_token("bob", &deployment.gateway_key, MINUTE));
    assert_eq!(format!("{token:?}"), "InternalToken(..)");
    let answer = gateway.client("users").with_token(token).get("/me").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(seen.lock().unwrap().as_deref(), Some("bob"));
    drop(users);
}

#[tokio::test]
async fn a_service_that_is_not_registered_cannot_be_called() {
    let deployment = Deployment::new();
    let ads = deployment.workload("ads").await;
    let refused = ads.client("nowhere").get("/").send().await.unwrap_err();
    assert_eq!(refused, CallError::UnknownService { name: "nowhere".into() });
    let refused = ads.client("nowhere").get("no path at all").send().await.unwrap_err();
    assert_eq!(refused, CallError::BadRequest);
}

#[tokio::test]
async fn a_handler_that_does_not_answer_and_a_body_that_is_too_long_are_ended() {
    let deployment = Deployment::new();
    deployment.permit("users", &["ads"]);
    let workload = deployment.workload("users").await;
    let never = || std::future::pending::<&'static str>();
    let limits =
        DoorLimits { body_bytes_max: 8, answer: Duration::from_millis(300), ..DoorLimits::default() };
    let router =
        Router::new().route("/never", get(never)).route("/put", axum::routing::put(|| async { "in" }));
    let router = router.layer(workload.require().limits(limits));
    let users = deployment.serve_as(workload, "users", router).await;
    let client = deployment.bare_client(Some(&deployment.leaf("ads")), "users", users.address);
    assert_eq!(client.send(get_request("/never")).await.unwrap().status(), 504);
    let put = |bytes: usize| {
        let body = countersign_sdk::outbound::full(vec![b'x'; bytes]);
        client.send(Request::put("/put").header("content-length", bytes).body(body).unwrap())
    };
    assert_eq!(put(8).await.unwrap().status(), 200);
    assert_eq!(put(9).await.unwrap().status(), 413);
}
