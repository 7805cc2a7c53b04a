//! What a callee believes in each mode, and what it refuses, whoever sends it.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{Bound, Mode, SpiffeId, TrustDomain, UnixTime};
use countersign_keys::{KeyPair, PublicKey, SystemRandom, random_bytes, sha256};
use countersign_ledger::{CheckResult, Decision, Stage, Verdict};
use countersign_pki::CrlPolicy;
use countersign_sdk::{
    Caller, Workload,
    outbound::{Outgoing, empty, full},
    signing_chains::write_chain,
    tls::{Connector, Expected, TrustState},
};
use countersign_token::{
    JwtSvid, ServiceToken,
    macaroon::{HeldMacaroon, MacaroonName, Narrowing, Predicate, service},
    service_token::{BodyBinding, UserBinding},
    wpt::{self, ProofTarget, target_uri},
};
use countersign_wire::{
    agent::{IssueTokenRequest, TokenKind},
    snapshot::{Jwk, KeyPurpose, RevokedToken, RevokedUser, TokenAuthority, WorkloadKey},
};
use http::{HeaderMap, Method, Request, Response};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use countersign_sdk::clock;

use crate::deployment::{Deployment, HOUR, Leaf, LeafProfile, Served, key, text};

const MINUTE: Duration = Duration::from_mins(1);

/// A service that accepts `modes`, lets `ads` and `chat` in, and tells how they were proven.
pub(crate) async fn callee(deployment: &Arc<Deployment>, modes: &[Mode]) -> Served {
    deployment.permit("users", &["ads", "chat"]);
    deployment.modes("users", |users| users.accepts = modes.to_vec());
    let tell = |caller: Caller, headers: HeaderMap| async move {
        assert!(headers.get("authorization").is_none(), "a credential reached the handler");
        let bound: Vec<_> = caller.proof().binding.iter().map(Bound::as_str).collect();
        let who = caller.workload().map_or("nobody", |workload| workload.id.path()).to_owned();
        let user = caller.user().map_or("", |user| user.name.as_str()).to_owned();
        format!("{who} {} {} [{}] {user}", caller.mode(), caller.proof().freshness, bound.join(" "))
    };
    let echo = |body: Bytes| async move { format!("{} bytes", body.len()) };
    let router = Router::new().route("/who", get(tell)).route("/post", post(echo));
    let served = deployment.serve("users", router).await;
    while served.workload.live().accepts("users") != modes {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    served
}

/// A connection of somebody who writes every header as he likes.
pub(crate) struct Line {
    send: SendRequest<Outgoing>,
    pub(crate) exporter: [u8; 32],
}

impl Line {
    pub(crate) async fn open(deployment: &Deployment, served: &Served, leaf: Option<&Leaf>) -> Self {
        let trust = TrustState::new(deployment.bundles(), CrlPolicy::Require);
        if let Some(leaf) = leaf {
            trust.set_identity(leaf.identity());
        }
        let connector = Connector::new(trust, Expected::exactly(deployment.id("users")));
        let tcp = TcpStream::connect(served.address).await.unwrap();
        let (stream, _) = connector.connect(tcp).await.unwrap();
        let session = stream.get_ref().1;
        let exporter = session.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", None).unwrap();
        let (send, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { send, exporter }
    }

    pub(crate) async fn ask(&self, request: Request<Outgoing>) -> Response<Incoming> {
        self.send.clone().send_request(request).await.unwrap()
    }

    /// Status and words of the answer.
    pub(crate) async fn said(&self, request: Request<Outgoing>) -> (u16, String) {
        let answer = self.ask(request).await;
        (answer.status().as_u16(), text(answer).await)
    }
}

pub(crate) fn request(
    method: Method,
    target: &str,
    headers: &[(&'static str, &str)],
    body: Outgoing,
) -> Request<Outgoing> {
    let mut request =
        Request::builder().method(method).uri(format!("https://users{target}")).body(body).unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

pub(crate) fn get_with(headers: &[(&'static str, &str)]) -> Request<Outgoing> {
    request(Method::GET, "/who", headers, empty())
}

/// A signing key of a service, certified.
pub(crate) fn signer(deployment: &Deployment, service: &str) -> Leaf {
    deployment.leaf_of(&deployment.id(service), LeafProfile::Signing, HOUR, clock::now())
}

pub(crate) fn thumbprint(leaf: &Leaf) -> [u8; 32] {
    sha256(&leaf.chain[0])
}

pub(crate) fn random_id() -> String {
    URL_SAFE_NO_PAD.encode(random_bytes::<16>(&SystemRandom::new()).unwrap())
}

/// What `ads` signs for `GET /who`, bound to the connection with this exporter.
pub(crate) fn token(deployment: &Deployment, line: &Line) -> ServiceToken {
    let now = clock::now();
    ServiceToken {
        issuer: deployment.id("ads"),
        audience: deployment.id("users"),
        jti: random_id(),
        method: "GET".into(),
        path_and_query: "/who".into(),
        body: BodyBinding::Sha256(sha256(b"")),
        channel: Some(line.exporter),
        user: UserBinding::None,
        private: Default::default(),
        issued_at: now,
        expires: now.saturating_add(Duration::from_secs(30)),
    }
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// The refusal as the operator sees it: code, stage, and the check that failed.
pub(crate) async fn refusal(deployment: &Deployment, code: &str) -> (Stage, String, String) {
    let decision = deployment.reported(|decision: &Decision| decision.code.as_deref() == Some(code)).await;
    let decision = decision.unwrap_or_else(|| panic!("nothing was refused with {code}"));
    let failed = decision.checks.iter().find(|check| check.result == CheckResult::Fail).unwrap();
    (decision.stage, failed.name.clone(), failed.detail.clone())
}

#[tokio::test]
async fn a_signed_token_is_taken_once_and_its_chain_is_needed_once() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::Jwt]).await;
    let line = Line::open(&deployment, &users, None).await;
    let ads = signer(&deployment, "ads");
    let minted = |token: ServiceToken| bearer(&token.mint(&ads.key, Some(&thumbprint(&ads))).unwrap());

    // An unknown certificate is asked for; the next call with it is taken, and the one after that without.
    let unknown = line.ask(get_with(&[("authorization", &minted(token(&deployment, &line)))])).await;
    assert_eq!(unknown.status(), 401);
    assert_eq!(unknown.headers()["www-authenticate"], "Countersign need=\"signing-chain\"");
    let (chain, first) = (write_chain(&ads.chain), minted(token(&deployment, &line)));
    let with_chain = [("authorization", first.as_str()), ("countersign-signing-chain", chain.as_str())];
    let (status, said) = line.said(get_with(&with_chain)).await;
    assert_eq!(
        (status, said.as_str()),
        (200, "/svc/ads jwt single_use [channel target method_and_query body] ")
    );
    let second = minted(token(&deployment, &line));
    assert_eq!(line.said(get_with(&[("authorization", &second)])).await.0, 200);

    // A copy is refused on the same connection, and on another one.
    assert_eq!(line.said(get_with(&[("authorization", &second)])).await.0, 401);
    assert_eq!(refusal(&deployment, "CS3022").await.1, "replay");
    let other = Line::open(&deployment, &users, None).await;
    assert_eq!(other.said(get_with(&[("authorization", &second)])).await.0, 401);
    assert_eq!(refusal(&deployment, "CS3025").await.0, Stage::Token);
}

#[tokio::test]
async fn the_chain_of_somebody_else_is_not_remembered_for_whoever_shows_it() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::Jwt]).await;
    let line = Line::open(&deployment, &users, None).await;
    let (ads, thief) = (signer(&deployment, "ads"), signer(&deployment, "ads"));
    let minted = |key| bearer(&token(&deployment, &line).mint(key, Some(&thumbprint(&ads))).unwrap());
    let chain = write_chain(&ads.chain);
    let forged = minted(&thief.key);
    let headers = [("authorization", forged.as_str()), ("countersign-signing-chain", chain.as_str())];
    assert_eq!(line.said(get_with(&headers)).await.0, 401);
    let asked = line.ask(get_with(&[("authorization", &minted(&ads.key))])).await;
    assert_eq!(asked.headers()["www-authenticate"], "Countersign need=\"signing-chain\"");
    let own = minted(&ads.key);
    let headers = [("authorization", own.as_str()), ("countersign-signing-chain", chain.as_str())];
    assert_eq!(line.said(get_with(&headers)).await.0, 200);
    assert_eq!(line.said(get_with(&[("authorization", &minted(&ads.key))])).await.0, 200);
}

#[tokio::test]
async fn each_change_to_a_signed_request_is_refused_for_its_own_reason() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::Jwt]).await;
    let line = Line::open(&deployment, &users, None).await;
    let ads = signer(&deployment, "ads");
    let chain = write_chain(&ads.chain);
    let good = token(&deployment, &line);
    let now = clock::now();
    let later = |span| now.saturating_add(span);
    let cases: Vec<(&str, ServiceToken)> = vec![
        ("CS3024", ServiceToken { method: "POST".into(), ..good.clone() }),
        ("CS3024", ServiceToken { path_and_query: "/who?admin=1".into(), ..good.clone() }),
        ("CS3026", ServiceToken { body: BodyBinding::Sha256(sha256(b"another body")), ..good.clone() }),
        ("CS3007", ServiceToken { audience: deployment.id("chat"), ..good.clone() }),
        ("CS3025", ServiceToken { channel: Some([7; 32]), ..good.clone() }),
        ("CS3020", ServiceToken { user: UserBinding::TxnToken([7; 32]), ..good.clone() }),
        (
            "CS3005",
            ServiceToken {
                issued_at: now.saturating_sub(MINUTE),
                expires: now.saturating_sub(Duration::from_secs(30)),
                ..good.clone()
            },
        ),
        (
            "CS3006",
            ServiceToken {
                issued_at: later(MINUTE * 2),
                expires: later(MINUTE * 2 + MINUTE / 2),
                ..good.clone()
            },
        ),
    ];
    for (code, changed) in cases {
        let changed = ServiceToken { jti: random_id(), ..changed };
        let minted = bearer(&changed.mint(&ads.key, Some(&thumbprint(&ads))).unwrap());
        let headers = [("authorization", minted.as_str()), ("countersign-signing-chain", chain.as_str())];
        assert_eq!(line.said(get_with(&headers)).await.0, 401, "{code}: {changed:?}");
        refusal(&deployment, code).await;
    }
    // A second in the future is no attack: clocks differ.
    let ahead = ServiceToken { issued_at: later(Duration::from_secs(1)), jti: random_id(), ..good };
    let minted = bearer(&ahead.mint(&ads.key, Some(&thumbprint(&ads))).unwrap());
    assert_eq!(line.said(get_with(&[("authorization", &minted)])).await.0, 200);
}

#[tokio::test]
async fn a_captured_token_in_the_hands_of_another_certified_service_is_refused() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::Jwt, Mode::MtlsJwt]).await;
    let (ads, chat) = (signer(&deployment, "ads"), signer(&deployment, "chat"));
    let victim = Line::open(&deployment, &users, None).await;
    let captured = bearer(&token(&deployment, &victim).mint(&ads.key, Some(&thumbprint(&ads))).unwrap());

    // Chat shows its own certificate beside it.
    let thief = Line::open(&deployment, &users, None).await;
    let chats = write_chain(&chat.chain);
    let headers = [("authorization", captured.as_str()), ("countersign-signing-chain", chats.as_str())];
    assert_eq!(thief.said(get_with(&headers)).await.0, 401);
    let (stage, check, detail) = refusal(&deployment, "CS3032").await;
    assert_eq!((stage, check.as_str()), (Stage::Token, "issuer"));
    assert!(detail.starts_with("issuer is not the name in its signing certificate"), "{detail}");

    // Chat signs in the name of ads, with its own key.
    let forged = token(&deployment, &thief).mint(&chat.key, Some(&thumbprint(&chat))).unwrap();
    let headers = [("authorization", &*bearer(&forged)), ("countersign-signing-chain", chats.as_str())];
    assert_eq!(thief.said(get_with(&headers)).await.0, 401);
    // Neither was the proof used up: its owner can still use it.
    let adss = write_chain(&ads.chain);
    let headers = [("authorization", captured.as_str()), ("countersign-signing-chain", adss.as_str())];
    assert_eq!(victim.said(get_with(&headers)).await.0, 200);
}

#[tokio::test]
async fn beside_a_certificate_the_token_must_name_its_holder() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::MtlsJwt]).await;
    let ads = signer(&deployment, "ads");
    let chain = write_chain(&ads.chain);
    let own = Line::open(&deployment, &users, Some(&deployment.leaf("ads"))).await;
    let minted = bearer(&token(&deployment, &own).mint(&ads.key, Some(&thumbprint(&ads))).unwrap());
    let headers = [("authorization", minted.as_str()), ("countersign-signing-chain", chain.as_str())];
    let (status, said) = own.said(get_with(&headers)).await;
    assert_eq!(
        (status, said.as_str()),
        (200, "/svc/ads mtls+jwt single_use [channel target method_and_query body] ")
    );
    // The token alone, or the certificate alone, is less than the floor.
    let bare = own.ask(get_with(&[])).await;
    assert_eq!(
        (bare.status().as_u16(), bare.headers()["www-authenticate"].to_str().unwrap()),
        (401, "Countersign need=\"mtls+jwt\"")
    );
    let chat = Line::open(&deployment, &users, Some(&deployment.leaf("chat"))).await;
    let minted = bearer(&token(&deployment, &chat).mint(&ads.key, Some(&thumbprint(&ads))).unwrap());
    let headers = [("authorization", minted.as_str()), ("countersign-signing-chain", chain.as_str())];
    assert_eq!(chat.said(get_with(&headers)).await.0, 401);
    let (_, check, detail) = refusal(&deployment, "CS3032").await;
    assert_eq!(check, "issuer");
    assert!(detail.contains("certificate of the connection"), "{detail}");
}

#[tokio::test]
async fn a_signing_certificate_that_is_revoked_counts_no_longer_although_it_is_known() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::Jwt]).await;
    let line = Line::open(&deployment, &users, None).await;
    let ads = signer(&deployment, "ads");
    let chain = write_chain(&ads.chain);
    let ask = || {
        let minted = bearer(&token(&deployment, &line).mint(&ads.key, Some(&thumbprint(&ads))).unwrap());
        get_with(&[("authorization", &minted), ("countersign-signing-chain", &chain)])
    };
    assert_eq!(line.said(ask()).await.0, 200);
    deployment.revoke(&ads.serial_hex);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(line.said(ask()).await.0, 401);
    assert_eq!(refusal(&deployment, "CS2006").await.1, "signing certificate");

    // A certificate for connections signs nothing, and one of strangers neither.
    let tls = deployment.leaf("ads");
    let foreign = Deployment::new();
    let foreigner = signer(&foreign, "ads");
    for (leaf, code) in [(&tls, "CS2002"), (&foreigner, "CS2005")] {
        let minted = bearer(&token(&deployment, &line).mint(&leaf.key, Some(&thumbprint(leaf))).unwrap());
        let chain = write_chain(&leaf.chain);
        let headers = [("authorization", minted.as_str()), ("countersign-signing-chain", chain.as_str())];
        assert_eq!(line.said(get_with(&headers)).await.0, 401, "{code}");
        refusal(&deployment, code).await;
    }
}

#[tokio::test]
async fn a_registered_key_signs_for_its_owner_alone() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::Jwt]).await;
    let registered = key();
    register(&deployment, "chat", registered.public_key());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let line = Line::open(&deployment, &users, None).await;
    let of = |service: &str| ServiceToken { issuer: deployment.id(service), ..token(&deployment, &line) };
    let chat = bearer(&of("chat").mint(&registered, None).unwrap());
    assert!(line.said(get_with(&[("authorization", &chat)])).await.1.starts_with("/svc/chat jwt"));
    let ads = bearer(&of("ads").mint(&registered, None).unwrap());
    assert_eq!(line.said(get_with(&[("authorization", &ads)])).await.0, 401);
    assert_eq!(refusal(&deployment, "CS3032").await.1, "issuer");
}

fn register(deployment: &Deployment, service: &str, key: &PublicKey) {
    let jwk = Jwk::from_text(&key.to_jwk()).unwrap();
    let entry = WorkloadKey { owner: deployment.id(service), purpose: KeyPurpose::Signing, jwk };
    deployment.world.lock().unwrap().workload_keys.push(entry);
    deployment.publish();
}

#[tokio::test]
async fn requests_are_signed_with_a_registered_key_of_any_algorithm_and_count_until_it_is_withdrawn() {
    for key in [KeyPair::generate_ed25519(&SystemRandom::new()), KeyPair::generate_rsa()] {
        let (key, deployment) = (key.unwrap(), Deployment::new());
        let _users = callee(&deployment, &[Mode::Jwt]).await;
        deployment.register("ads");
        deployment.modes("ads", |ads| ads.sends = Mode::Jwt);
        let socket = deployment.agent("ads").await;
        let ads = Workload::builder(socket).signing_key(key.clone()).connect().await.unwrap();
        let until = async |status: u16| {
            for _ in 0..100 {
                let answer = ads.client("users").get("/who").send().await.unwrap();
                if answer.status() == status {
                    return text(answer).await;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            panic!("{status} never came");
        };
        until(401).await;
        register(&deployment, "ads", key.public_key());
        let said = until(200).await;
        assert!(said.starts_with("/svc/ads jwt single_use [channel target method_and_query body]"), "{said}");
        deployment.world.lock().unwrap().workload_keys.clear();
        deployment.publish();
        until(401).await;
    }
}

#[tokio::test]
async fn a_body_is_compared_before_the_handler_sees_it() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::Jwt]).await;
    let line = Line::open(&deployment, &users, None).await;
    let ads = signer(&deployment, "ads");
    let chain = write_chain(&ads.chain);
    let post = |claimed: BodyBinding, sent: Vec<u8>| {
        let (method, path_and_query) = ("POST".into(), "/post".into());
        let token = ServiceToken { method, path_and_query, body: claimed, ..token(&deployment, &line) };
        let minted = bearer(&token.mint(&ads.key, Some(&thumbprint(&ads))).unwrap());
        let headers = [("authorization", minted.as_str()), ("countersign-signing-chain", chain.as_str())];
        request(Method::POST, "/post", &headers, full(sent))
    };
    let digest = |bytes: &[u8]| BodyBinding::Sha256(sha256(bytes));
    assert_eq!(line.said(post(digest(b"order 1"), b"order 1".to_vec())).await, (200, "7 bytes".into()));
    assert_eq!(line.said(post(digest(b"order 1"), b"order 9".to_vec())).await.0, 401);
    assert_eq!(refusal(&deployment, "CS3026").await.1, "body");
    assert_eq!(line.said(post(digest(b""), b"order 9".to_vec())).await.0, 401);
    let most = vec![7_u8; 256 << 10];
    assert_eq!(line.said(post(digest(&most), most.clone())).await, (200, "262144 bytes".into()));
    let more = vec![7_u8; (256 << 10) + 1];
    assert_eq!(line.said(post(digest(&more), more.clone())).await.0, 413);
    // Unbound, and explicitly so: whether that is enough is for the policy to say.
    assert_eq!(line.said(post(BodyBinding::Unbound, more)).await, (200, "262145 bytes".into()));
}

#[tokio::test]
async fn without_a_channel_a_proof_counts_once_here_and_not_from_before_the_start() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::Jwt]).await;
    let line = Line::open(&deployment, &users, None).await;
    let ads = signer(&deployment, "ads");
    let chain = write_chain(&ads.chain);
    let token = ServiceToken { channel: None, ..token(&deployment, &line) };
    let minted = bearer(&token.mint(&ads.key, Some(&thumbprint(&ads))).unwrap());
    let headers = [("authorization", minted.as_str()), ("countersign-signing-chain", chain.as_str())];
    // The process has only just begun: the one before it may have seen this.
    assert_eq!(line.said(get_with(&headers)).await.0, 401);
    assert_eq!(refusal(&deployment, "CS3031").await.1, "replay");

    tokio::time::sleep(Duration::from_secs(6)).await;
    let now = clock::now();
    let (issued_at, expires) = (now, now.saturating_add(Duration::from_secs(30)));
    let token = ServiceToken { jti: random_id(), issued_at, expires, ..token };
    let minted = bearer(&token.mint(&ads.key, Some(&thumbprint(&ads))).unwrap());
    let headers = [("authorization", minted.as_str()), ("countersign-signing-chain", chain.as_str())];
    let (status, said) = line.said(get_with(&headers)).await;
    assert_eq!((status, said.as_str()), (200, "/svc/ads jwt single_use [target method_and_query body] "));
    // Here it is used up, on every connection.
    let other = Line::open(&deployment, &users, None).await;
    assert_eq!(other.said(get_with(&headers)).await.0, 401);
    refusal(&deployment, "CS3022").await;
    // After a restart nobody remembers it, and so it is too old.
    users.stop.cancel();
    let directory = deployment.directory.path();
    let again = Workload::builder(directory.join("users-agent.sock")).spool(directory.join("again"));
    let again = again.connect().await.unwrap();
    let router = Router::new().route("/who", get(|| async { "in" })).layer(again.require());
    let again = deployment.serve_as(again, "users", router).await;
    while again.workload.live().accepts("users") != [Mode::Jwt] {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let line = Line::open(&deployment, &again, None).await;
    deployment.reports.lock().unwrap().clear();
    assert_eq!(line.said(get_with(&headers)).await.0, 401);
    refusal(&deployment, "CS3031").await;
}

#[tokio::test]
async fn a_signing_certificate_ends_although_its_chain_is_known() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::Jwt]).await;
    let line = Line::open(&deployment, &users, None).await;
    let (ads, issued) = (deployment.id("ads"), clock::now().saturating_sub(Duration::from_secs(57)));
    let ads = deployment.leaf_of(&ads, LeafProfile::Signing, MINUTE, issued);
    let chain = write_chain(&ads.chain);
    let ask = || {
        let minted = bearer(&token(&deployment, &line).mint(&ads.key, Some(&thumbprint(&ads))).unwrap());
        get_with(&[("authorization", &minted), ("countersign-signing-chain", &chain)])
    };
    assert_eq!(line.said(ask()).await.0, 200);
    tokio::time::sleep(Duration::from_millis(4200)).await;
    assert_eq!(line.said(ask()).await.0, 401);
    refusal(&deployment, "CS2003").await;
}

#[tokio::test]
async fn evidence_that_does_not_go_together_is_refused_and_never_ranked() {
    let deployment = Deployment::new();
    let users =
        callee(&deployment, &[Mode::Mtls, Mode::Bearer, Mode::Wimse, Mode::Macaroon, Mode::Jwt]).await;
    let stranger = Line::open(&deployment, &users, None).await;
    let known = Line::open(&deployment, &users, Some(&deployment.leaf("ads"))).await;
    let opaque = deployment.issue("ads", TokenKind::Bearer, "users");
    let authorization = bearer(&opaque);
    let wit = deployment.issue_wit("ads", &key());
    let cases: [(&Line, Vec<(&'static str, &str)>); 6] = [
        (&known, vec![("authorization", &authorization)]),
        (
            &stranger,
            vec![
                ("authorization", &authorization),
                ("workload-identity-token", &wit),
                ("workload-proof-token", "x"),
            ],
        ),
        (&stranger, vec![("workload-identity-token", &wit)]),
        (&stranger, vec![("workload-proof-token", "x")]),
        (&stranger, vec![("countersign-signing-chain", ":AQID:")]),
        (&known, vec![("txn-token", "x"), ("user-token", "y")]),
    ];
    for (line, headers) in cases {
        assert_eq!(line.said(get_with(&headers)).await.0, 401, "{headers:?}");
        let (_, check, _) = refusal(&deployment, "CS3020").await;
        assert_eq!(check, "combination");
        deployment.reports.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn missing_and_unknown_tokens_get_401_with_a_challenge_and_never_403() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::Jwt, Mode::Bearer]).await;
    let line = Line::open(&deployment, &users, None).await;
    let missing = line.ask(get_with(&[])).await;
    assert_eq!(missing.status(), 401);
    assert_eq!(missing.headers()["www-authenticate"], "Countersign need=\"jwt\"");
    assert_eq!(
        refusal(&deployment, "CS2024").await,
        (
            Stage::Identity,
            "floor".into(),
            "caller proved itself in mode none, and this service accepts only jwt, bearer".into()
        )
    );
    for unknown in ["Bearer nonsense", "Bearer", "Bearer eyJ.eyJ.sig", "Macaroon nonsense"] {
        let answer = line.ask(get_with(&[("authorization", unknown)])).await;
        assert_eq!(answer.status(), 401, "{unknown}");
        assert!(answer.headers().contains_key("www-authenticate"), "{unknown}");
    }
    // No token in a URL, under whatever name: it would be in every log.
    let in_url = request(Method::GET, "/who?access_token=x", &[], empty());
    assert_eq!(line.said(in_url).await.0, 400);
}

#[tokio::test]
async fn an_opaque_token_counts_where_its_scope_says_until_it_is_taken_back() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::Bearer]).await;
    let line = Line::open(&deployment, &users, None).await;
    let opaque = deployment.issue("ads", TokenKind::Bearer, "users");
    let elsewhere = deployment.issue("ads", TokenKind::Bearer, "chat");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let ask = |token: &str| get_with(&[("authorization", &bearer(token))]);
    let (status, said) = line.said(ask(&opaque)).await;
    assert_eq!((status, said.as_str()), (200, "/svc/ads bearer reusable [] "));
    assert_eq!(line.said(ask(&elsewhere)).await.0, 401);
    refusal(&deployment, "CS3004").await;
    let mut changed = opaque.clone().into_bytes();
    changed[30] = if changed[30] == b'0' { b'1' } else { b'0' };
    assert_eq!(line.said(ask(&String::from_utf8(changed).unwrap())).await.0, 401);
    refusal(&deployment, "CS3002").await;

    deployment.take_back(opaque.get(4..20).unwrap());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(line.said(ask(&opaque)).await.0, 401);
    assert_eq!(refusal(&deployment, "CS3027").await.1, "revocation");
}

#[tokio::test]
async fn a_macaroon_is_as_wide_as_its_caveats_and_an_unknown_one_denies() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::Macaroon]).await;
    let line = Line::open(&deployment, &users, None).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (ads, callee) = (deployment.id("ads"), deployment.id("users"));
    let held = || {
        let name = MacaroonName::new("m1", ads.clone(), random_bytes(&SystemRandom::new()).unwrap()).unwrap();
        let root = deployment.desk.macaroon_root(&callee);
        HeldMacaroon::new(service::mint(&root, &name, &callee, clock::now().saturating_add(HOUR)).unwrap())
    };
    let narrowing = Narrowing {
        callee: &callee,
        method: "GET",
        path: "/who",
        query: None,
        body: Some(sha256(b"")),
        before: clock::now().saturating_add(MINUTE),
    };
    let ask = |macaroon: &HeldMacaroon, to: &Narrowing<'_>| {
        get_with(&[("authorization", &format!("Macaroon {}", macaroon.present(to).unwrap()))])
    };
    let (status, said) = line.said(ask(&held(), &narrowing)).await;
    assert_eq!((status, said.as_str()), (200, "/svc/ads macaroon reusable [target method_and_query body] "));
    for refused in [
        Narrowing { method: "POST", ..narrowing },
        Narrowing { path: "/other", ..narrowing },
        Narrowing { query: Some("a=1"), ..narrowing },
    ] {
        assert_eq!(line.said(ask(&held(), &refused)).await.0, 401, "{refused:?}");
        refusal(&deployment, "CS3030").await;
        deployment.reports.lock().unwrap().clear();
    }
    let other_body = Narrowing { body: Some(sha256(b"other")), ..narrowing };
    assert_eq!(line.said(ask(&held(), &other_body)).await.0, 401);
    refusal(&deployment, "CS3026").await;
    let late = Narrowing { before: clock::now().saturating_sub(MINUTE), ..narrowing };
    assert_eq!(line.said(ask(&held(), &late)).await.0, 401);
    refusal(&deployment, "CS3005").await;
    let for_bob = held().narrowed(&Predicate::User("u_bob")).unwrap();
    assert_eq!(line.said(ask(&for_bob, &narrowing)).await.0, 401);
    refusal(&deployment, "CS3030").await;
    let unknown = held().root().clone().attenuate("phase-of-moon = full").unwrap();
    assert_eq!(line.said(ask(&HeldMacaroon::new(unknown), &narrowing)).await.0, 401);
}

#[tokio::test]
async fn a_workload_identity_token_needs_a_proof_for_this_target_and_this_connection() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::Wimse]).await;
    let line = Line::open(&deployment, &users, None).await;
    let held = key();
    let wit = deployment.issue_wit("ads", &held);
    let now = clock::now();
    let proof = |audience: &str, exporter: &[u8; 32], key: &KeyPair| {
        let target = ProofTarget { audience, exporter: Some(exporter), ..ProofTarget::default() };
        wpt::mint(key, &wit, &target, &random_id(), now, now.saturating_add(Duration::from_secs(30))).unwrap()
    };
    let ask = |proof: &str| get_with(&[("workload-identity-token", &wit), ("workload-proof-token", proof)]);
    let here = target_uri("users", "/who");
    let good = proof(&here, &line.exporter, &held);
    let (status, said) = line.said(ask(&good)).await;
    assert_eq!((status, said.as_str()), (200, "/svc/ads wimse single_use [channel target] "));
    assert_eq!(line.said(ask(&good)).await.0, 401);
    refusal(&deployment, "CS3022").await;
    assert_eq!(line.said(ask(&proof(&target_uri("users", "/other"), &line.exporter, &held))).await.0, 401);
    refusal(&deployment, "CS3024").await;
    assert_eq!(line.said(ask(&proof(&here, &[7; 32], &held))).await.0, 401);
    refusal(&deployment, "CS3025").await;
    assert_eq!(line.said(ask(&proof(&here, &line.exporter, &key()))).await.0, 401);
    refusal(&deployment, "CS3003").await;

    // A key of another trust domain speaks for its own subjects alone, whatever it signs.
    let foreign = Deployment::of("other.test");
    deployment.world.lock().unwrap().token_authorities.push(foreign.desk.authority());
    deployment.publish();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let forged = foreign.forge_wit(&deployment.id("ads"), &held);
    let target = ProofTarget { audience: &here, exporter: Some(&line.exporter), ..ProofTarget::default() };
    let expires = now.saturating_add(Duration::from_secs(30));
    let proof = wpt::mint(&held, &forged, &target, &random_id(), now, expires).unwrap();
    let headers = [("workload-identity-token", forged.as_str()), ("workload-proof-token", proof.as_str())];
    assert_eq!(line.said(get_with(&headers)).await.0, 401);
    refusal(&deployment, "CS3008").await;
}

#[tokio::test]
async fn plain_http_is_refused_unless_none_is_accepted_and_then_proves_nobody() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::Mtls, Mode::Jwt]).await;
    assert_eq!(plain(&users, "").await, None);
    let decision = deployment.reported(|decision| decision.verdict == Verdict::Deny).await.unwrap();
    assert_eq!(decision.stage, Stage::Transport);
    assert!(decision.reason.unwrap().starts_with("plain http"));

    let all = "@id(\"all\") permit (principal, action, resource in Service::\"users\");";
    deployment.world.lock().unwrap().policies.insert("users".into(), all.into());
    deployment.modes("users", |modes| modes.accepts = vec![Mode::None, Mode::Mtls]);
    deployment.publish();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let forged = "X-Caller: ads\r\nX-Forwarded-Client-Cert: By=spiffe://fleamarket.test/svc/ads\r\n";
    let (status, said) = plain(&users, forged).await.unwrap();
    assert_eq!((status, said.as_str()), (200, "nobody none none [] "));
    // A user may come without a workload where nobody has to prove anything.
    let alice = deployment.txn_token("alice", &deployment.gateway_key, MINUTE);
    let (status, said) = plain(&users, &format!("Txn-Token: {alice}\r\n")).await.unwrap();
    assert_eq!((status, said.as_str()), (200, "nobody none reusable [] alice"));
    // A token that proves a workload is not taken in the clear.
    let opaque = deployment.issue("ads", TokenKind::Bearer, "users");
    let (status, _) = plain(&users, &format!("Authorization: Bearer {opaque}\r\n")).await.unwrap();
    assert_eq!(status, 401);
    refusal(&deployment, "CS3021").await;
    // A rule that names a workload denies; over TLS it is told what would help.
    deployment.permit("users", &["ads"]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(plain(&users, forged).await.unwrap().0, 403);
    let stranger = Line::open(&deployment, &users, None).await.ask(get_with(&[])).await;
    assert_eq!(stranger.status(), 401);
    assert_eq!(stranger.headers()["www-authenticate"], "Countersign need=\"certificate\"");
    // TLS is still spoken on the same port.
    let known = Line::open(&deployment, &users, Some(&deployment.leaf("ads"))).await;
    assert_eq!(known.said(get_with(&[])).await.0, 200);
}

#[tokio::test]
async fn a_connection_does_not_outlive_the_floor_under_which_it_was_accepted() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::None, Mode::Jwt]).await;
    let all = "@id(\"all\") permit (principal, action, resource in Service::\"users\");";
    deployment.world.lock().unwrap().policies.insert("users".into(), all.into());
    deployment.publish();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let line = Line::open(&deployment, &users, None).await;
    assert_eq!(line.said(get_with(&[])).await.0, 200);
    let mut open = TcpStream::connect(users.address).await.unwrap();
    let ask = b"GET /who HTTP/1.1\r\nhost: users\r\n\r\n";
    open.write_all(ask).await.unwrap();
    let mut buffer = vec![0; 4096];
    let read = open.read(&mut buffer).await.unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 200"));

    deployment.modes("users", |modes| modes.accepts = vec![Mode::Jwt]);
    deployment.publish();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(line.said(get_with(&[])).await.0, 401);
    // The plain one is told to go, and at most refused.
    let _ = open.write_all(ask).await;
    let read = open.read(&mut buffer).await.unwrap_or(0);
    assert!(read == 0 || buffer[..read].starts_with(b"HTTP/1.1 401"), "{:?}", &buffer[..read]);
    assert_eq!(plain(&users, "").await, None);
}

#[tokio::test]
async fn a_jwt_svid_is_a_bearer_token_of_its_own_trust_domain_and_for_its_audience() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::Bearer]).await;
    let (theirs, other) = (key(), TrustDomain::parse("other.test").unwrap());
    let ours = deployment.desk.authority();
    let jwt_svid = vec![Jwk::from_text(&theirs.public_key().to_jwk()).unwrap()];
    let authority = TokenAuthority { trust_domain: other.clone(), jwt_svid, wit: Vec::new(), ..ours };
    deployment.world.lock().unwrap().token_authorities.push(authority);
    let friend = SpiffeId::service(&other, "ads").unwrap();
    let rule = format!(
        "@id(\"friend\") permit (principal == Workload::\"{friend}\", action, resource in Service::\"users\");"
    );
    deployment.world.lock().unwrap().policies.insert("users".into(), rule);
    deployment.publish();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let line = Line::open(&deployment, &users, None).await;
    let now = clock::now();
    let svid = |subject: &SpiffeId, audience: &str| {
        let svid = JwtSvid {
            subject: subject.clone(),
            audiences: vec![audience.to_owned()],
            jti: Some(random_id()),
            issued_at: Some(now),
            expires: now.saturating_add(MINUTE),
        };
        get_with(&[("authorization", &bearer(&svid.mint(&theirs).unwrap()))])
    };
    let us = deployment.id("users");
    let (status, said) = line.said(svid(&friend, us.as_str())).await;
    assert_eq!((status, said.as_str()), (200, "/svc/ads bearer reusable [] "));
    assert_eq!(line.said(svid(&friend, deployment.id("chat").as_str())).await.0, 401);
    refusal(&deployment, "CS3007").await;
    // The other domain's key says nothing of our own services.
    assert_eq!(line.said(svid(&deployment.id("ads"), us.as_str())).await.0, 401);
    refusal(&deployment, "CS3004").await;
}

impl Deployment {
    pub(crate) fn issue(&self, owner: &str, kind: TokenKind, callee: &str) -> String {
        let audience = self.id(callee).to_string();
        let request = IssueTokenRequest { kind: kind.into(), audience, ..IssueTokenRequest::default() };
        self.desk.issue(&self.id(owner), &request).unwrap().token
    }

    pub(crate) fn issue_wit(&self, owner: &str, key: &KeyPair) -> String {
        self.forge_wit(&self.id(owner), key)
    }

    /// Signed by our key for whomever.
    fn forge_wit(&self, owner: &SpiffeId, key: &KeyPair) -> String {
        let request = IssueTokenRequest {
            kind: TokenKind::Wit.into(),
            jwk: key.public_key().to_jwk(),
            possession: key.sign_fixed("wit-key", owner.as_str().as_bytes()).unwrap().to_vec(),
            ..IssueTokenRequest::default()
        };
        self.desk.issue(owner, &request).unwrap().token
    }

    pub(crate) fn take_back(&self, token: &str) {
        let until = clock::now().saturating_add(HOUR);
        self.world.lock().unwrap().taken_back.tokens.push(RevokedToken { id: token.to_owned(), until });
        self.publish();
    }

    pub(crate) fn take_back_user(&self, user: &str, issued_before: UnixTime) {
        let (id, until) = (user.to_owned(), clock::now().saturating_add(HOUR));
        self.world.lock().unwrap().taken_back.users.push(RevokedUser { id, issued_before, until });
        self.publish();
    }
}

/// Status and body of one plain HTTP/1.1 request, if there was an answer.
async fn plain(served: &Served, headers: &str) -> Option<(u16, String)> {
    let mut tcp = TcpStream::connect(served.address).await.unwrap();
    let head = format!("GET /who HTTP/1.1\r\nhost: users\r\nconnection: close\r\n{headers}\r\n");
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    let _ = tcp.read_to_end(&mut said).await;
    let said = String::from_utf8(said).ok()?;
    let status = said.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, said.split_once("\r\n\r\n")?.1.to_owned()))
}

#[tokio::test]
async fn what_was_taken_back_is_refused_although_it_is_known() {
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::Mtls]).await;
    let line = Line::open(&deployment, &users, Some(&deployment.leaf("ads"))).await;
    let alice = deployment.txn_token("alice", &deployment.gateway_key, MINUTE);
    let ask = || get_with(&[("txn-token", &alice)]);
    for _ in 0..2 {
        assert_eq!(line.said(ask()).await, (200, "/svc/ads mtls reusable [channel] alice".into()));
    }
    let issued = clock::now().saturating_add(Duration::from_secs(1));
    deployment.take_back_user("u_alice", issued);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(line.said(ask()).await.0, 401);
    assert_eq!(refusal(&deployment, "CS3027").await.1, "revocation");
}
