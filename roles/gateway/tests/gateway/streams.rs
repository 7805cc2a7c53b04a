//! What streams ends at the earliest of the caller's certificate and the user's token: at the edge, at a sidecar and at
//! a service with the SDK, whichever carrier has it.

use std::future::IntoFuture as _;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{any, post};
use bytes::Bytes;
use countersign_identity::{Possession, SpiffeId, UnixTime};
use countersign_keys::{KeyPair, SystemRandom};
use countersign_sdk::clock;
use countersign_sdk::inbound::DoorLimits;
use countersign_sdk::outbound::{Answer, InternalToken};
use countersign_sdk::workload::Workload;
use countersign_token::TxnToken;
use countersign_wire::snapshot::RevokedUser;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_stream::StreamExt as _;

use crate::rig::backend::{Backend, Reply};
use crate::rig::client::{bearer, drip, get};
use crate::rig::grpc::{at, serve, through, word, words};
use crate::rig::pair::{EVERYBODY, Pair};
use crate::rig::{Rig, Running, echo, eventually};

/// A token that is over before its exchange has begun is followed by one that lives longer: machines may be busy.
const LIVES: [u64; 4] = [3, 6, 12, 24];
const WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(30);
const OUTLIVING: &str = "streams_may_outlive_their_users_token_insecure = true\n";

/// Does `exchange` with a token of so long a life, and of a longer one if it did not begin.
async fn with_a_life(exchange: impl AsyncFn(Duration) -> Began) {
    for life in LIVES {
        if let Began::Yes = exchange(Duration::from_secs(life)).await {
            return;
        }
    }
    panic!("no exchange began before its token ended");
}

#[derive(Clone, Copy)]
enum Began {
    Yes,
    TooLate,
}

/// Tokens say in whole seconds when they end.
fn end_of(life: Duration) -> UnixTime {
    UnixTime::from_secs(clock::now().saturating_add(life).secs())
}

fn endless() -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> + Send {
    tokio_stream::iter(0..u32::MAX).then(async |_| {
        tokio::time::sleep(PAUSE).await;
        Ok(Bytes::from_static(b"."))
    })
}

/// `/out` answers without an end; `/in` answers when it has heard all.
fn router() -> Router {
    Router::new()
        .route("/out", any(async || Body::from_stream(Box::pin(endless()))))
        .route("/in", post(async |body: Bytes| body.len().to_string()))
}

/// Somebody who calls services in the name of users, as a gateway does.
struct Relay {
    workload: Workload,
    key: KeyPair,
}

impl Relay {
    async fn new(rig: &Rig) -> Self {
        let workload = rig.workload(SpiffeId::gateway(&rig.td, "edge").unwrap()).await;
        let key = KeyPair::generate(&SystemRandom::new()).unwrap();
        workload.publish_token_key(key.public_key()).await.unwrap();
        Self { workload, key }
    }

    fn token(&self, expires: UnixTime) -> InternalToken {
        let token = TxnToken {
            txn: "t".repeat(32),
            user_id: "u_alice".into(),
            name: "alice".into(),
            roles: vec!["buyer".into()],
            scope: "edge".into(),
            requested_by: self.workload.id().clone(),
            actors: Vec::new(),
            possession: Possession::None,
            expires,
        };
        InternalToken::minted(token.mint(&self.key, clock::now()).unwrap())
    }

    async fn send(&self, callee: &str, path: &str, body: Body, expires: UnixTime) -> Response<Answer> {
        let mut request = Request::new(body.map_err(Into::into).boxed_unsync());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().unwrap();
        let client = self.workload.client(callee).with_token(self.token(expires));
        tokio::time::timeout(WITHIN, client.send(request)).await.unwrap().unwrap()
    }

    /// An answer without an end.
    async fn hears(&self, callee: &str, expires: UnixTime) -> Option<Answer> {
        let answer = self.send(callee, "/out", Body::empty(), expires).await;
        match answer.status().as_u16() {
            200 => Some(answer.into_body()),
            status => {
                assert!(status == 401 && clock::now() >= expires, "{status}");
                None
            }
        }
    }

    /// The answer of `callee` breaks off when the token ends, and not before.
    async fn hears_until_the_end(&self, callee: &str, life: Duration) -> Began {
        let expires = end_of(life);
        let Some(mut body) = self.hears(callee, expires).await else { return Began::TooLate };
        assert!(breaks_off(&mut body).await, "it breaks off");
        assert!(clock::now() >= expires, "it was good until then");
        Began::Yes
    }

    /// The answer of `callee` goes on when the token has ended, until the user is revoked.
    async fn hears_past_the_end(&self, rig: &Rig, callee: &str, life: Duration) -> Began {
        let expires = end_of(life);
        let Some(mut body) = self.hears(callee, expires).await else { return Began::TooLate };
        while clock::now() <= expires {
            assert!(body.frame().await.unwrap().is_ok(), "it goes on");
        }
        for _ in 0..10 {
            assert!(body.frame().await.unwrap().is_ok(), "it goes on when the token has ended");
        }
        revoke_alice(rig);
        assert!(breaks_off(&mut body).await, "it breaks off");
        Began::Yes
    }
}

async fn breaks_off(body: &mut Answer) -> bool {
    let broken = async {
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return true;
            }
        }
        false
    };
    tokio::time::timeout(WITHIN, broken).await.expect("it ends")
}

/// Takes back all that she has until now.
fn revoke_alice(rig: &Rig) {
    let moment = clock::now().saturating_add(Duration::from_secs(1));
    let until = moment.saturating_add(Duration::from_secs(3600));
    rig.world.change(|snapshot| {
        snapshot.revoked.users.push(RevokedUser { id: "u_alice".into(), issued_before: moment, until });
    });
}

/// A service behind a sidecar, one with the SDK, and somebody who calls them in the name of users.
async fn services(callee: &str, limits: DoorLimits) -> (Pair, Relay) {
    let (pair, listener) = Pair::new(callee, "").await;
    tokio::spawn(axum::serve(listener, router()).into_future());
    let rig = &pair.rig;
    rig.policy("chat", EVERYBODY);
    let listening = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    rig.register("chat", listening.local_addr().unwrap());
    let chat = rig.workload(SpiffeId::service(&rig.td, "chat").unwrap()).await;
    let serving = chat.serve(listening, router().layer(chat.require().limits(limits)));
    tokio::spawn(serving.with_graceful_shutdown(rig.shutdown.clone().cancelled_owned()).into_future());
    let relay = Relay::new(rig).await;
    for workload in [&pair.users, &chat] {
        eventually(|| !workload.live().tokens().internal.is_empty()).await;
    }
    eventually(|| relay.workload.live().service("chat").is_some()).await;
    (pair, relay)
}

#[tokio::test]
async fn a_sidecar_and_a_service_with_the_sdk_end_an_answer_with_the_token_of_its_user() {
    let (_pair, relay) = services("", DoorLimits::default()).await;
    tokio::join!(
        with_a_life(async |life| relay.hears_until_the_end("users", life).await),
        with_a_life(async |life| relay.hears_until_the_end("chat", life).await)
    );
}

#[tokio::test]
async fn a_sidecar_and_a_service_with_the_sdk_take_no_more_of_an_upload_than_the_token_of_its_user_allows() {
    let (_pair, relay) = services("", DoorLimits::default()).await;
    // The one says so; the other gives its handler a body that breaks off.
    for (callee, status, said) in
        [("users", 401, "credential_expired"), ("chat", 400, "request body broke off")]
    {
        let expires = end_of(Duration::from_secs(LIVES[0]));
        let answer = relay.send(callee, "/in", Body::from_stream(Box::pin(endless())), expires).await;
        assert_eq!(answer.status(), status);
        let problem = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&problem).contains(said), "{problem:?}");
        assert!(clock::now() >= expires);
    }
}

#[tokio::test]
async fn where_it_may_outlive_the_token_an_answer_goes_on_until_its_user_is_revoked() {
    let limits = DoorLimits { streams_may_outlive_their_users_token_insecure: true, ..DoorLimits::default() };
    for callee in ["users", "chat"] {
        let (pair, relay) = services(OUTLIVING, limits).await;
        with_a_life(async |life| relay.hears_past_the_end(&pair.rig, callee, life).await).await;
    }
}

/// A body that is not there whole is the full carrier's.
const BOTH_CARRIERS: [&str; 2] = [
    "GET /a HTTP/1.1\r\nHost: flea.test\r\n",
    "POST /a HTTP/1.1\r\nHost: flea.test\r\nTransfer-Encoding: chunked\r\n",
];

/// An edge, and a backend whose answer has no end.
async fn edge(limits: &str) -> (Rig, Running, Backend) {
    let rig = Rig::new();
    rig.policy("gateway", EVERYBODY);
    let drips = |_: usize, _: &str| Reply::Drip("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n".into());
    let backend = Backend::new(drips).await;
    let toml = format!(
        "[[route]]\npath = \"/*\"\nto = \"b\"\n[[upstream]]\nname = \"b\"\nendpoints = [\"{}\"]\n[limits]\n{limits}",
        backend.address
    );
    let edge = rig.gateway(&toml).await;
    (rig, edge, backend)
}

/// Asks, and gives the connection back once the answer has begun.
async fn begin(edge: &Running, head: &str, token: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(edge.plain).await.unwrap();
    let body = if head.starts_with("POST") { "0\r\n\r\n" } else { "" };
    let request = format!("{head}Authorization: {}\r\n\r\n{body}", bearer(token));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    match &status {
        b"HTTP/1.1 200" => Some(stream),
        b"HTTP/1.1 401" => None,
        other => panic!("{}", String::from_utf8_lossy(other)),
    }
}

/// Reads an answer to its end, which is no end that HTTP knows.
async fn ends(stream: &mut TcpStream) {
    let mut heard = Vec::new();
    let ended = tokio::time::timeout(WITHIN, stream.read_to_end(&mut heard)).await;
    assert!(ended.is_ok(), "it did not end");
    assert!(heard.len() < 1_000_000, "it came to its end");
}

#[tokio::test]
async fn both_carriers_of_the_edge_end_an_answer_with_the_token_of_its_user() {
    let (rig, edge, _backend) = edge("").await;
    let (rig, edge) = (&rig, &edge);
    futures::future::join_all(BOTH_CARRIERS.map(|head| {
        with_a_life(async move |life| {
            let expires = end_of(life);
            let token = rig.access_token_for("alice", &["buyer"], life);
            let Some(mut stream) = begin(edge, head, &token).await else { return Began::TooLate };
            ends(&mut stream).await;
            assert!(clock::now() >= expires, "it was good until then");
            Began::Yes
        })
    }))
    .await;
}

#[tokio::test]
async fn both_carriers_of_the_edge_end_an_answer_when_its_user_is_revoked() {
    for limits in ["", OUTLIVING] {
        let (rig, edge, _backend) = edge(limits).await;
        let token = rig.access_token("alice", &["buyer"]);
        let [quick, full] = BOTH_CARRIERS;
        let (quick, full) = tokio::join!(begin(&edge, quick, &token), begin(&edge, full, &token));
        let (mut quick, mut full) = (quick.unwrap(), full.unwrap());
        revoke_alice(&rig);
        tokio::join!(ends(&mut quick), ends(&mut full));
    }
}

#[tokio::test]
async fn where_it_may_outlive_the_token_an_answer_of_either_carrier_goes_on() {
    let (rig, edge, _backend) = edge(OUTLIVING).await;
    let (rig, edge) = (&rig, &edge);
    futures::future::join_all(BOTH_CARRIERS.map(|head| {
        with_a_life(async move |life| {
            let token = rig.access_token_for("alice", &["buyer"], life);
            // The token ends within the second after this.
            let over = end_of(life + Duration::from_secs(1));
            let Some(mut stream) = begin(edge, head, &token).await else { return Began::TooLate };
            let mut piece = [0; 1024];
            while clock::now() <= over {
                assert!(stream.read(&mut piece).await.unwrap() > 0, "it goes on");
            }
            for _ in 0..10 {
                assert!(stream.read(&mut piece).await.unwrap() > 0, "it goes on when the token has ended");
            }
            Began::Yes
        })
    }))
    .await;
}

#[test]
fn whether_streams_may_outlive_a_token_is_a_setting_that_is_off() {
    type Sidecar = countersign_gateway::sidecar::Settings;
    let edge = |text: &str| crate::rig::settings(&format!("[limits]\n{text}")).limits;
    let sidecar = |text: &str| toml::from_str::<Sidecar>(&format!("service = \"ads\"\n{text}"));
    for (text, on) in [("", false), (OUTLIVING, true)] {
        assert_eq!(edge(text).streams_may_outlive_their_users_token_insecure, on);
        assert_eq!(sidecar(text).unwrap().streams_may_outlive_their_users_token_insecure, on);
    }
    for bad in
        ["streams_may_outlive_their_users_token = true", "streams_may_outlive_their_users_token_insecure = 1"]
    {
        assert!(
            toml::from_str::<countersign_gateway::Settings>(&format!("[limits]\n{bad}")).is_err(),
            "{bad}"
        );
        assert!(sidecar(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn an_upload_ends_with_the_token_of_its_user() {
    let (rig, seen) = (Rig::new(), echo::Seen::default());
    rig.policy("gateway", EVERYBODY);
    rig.service("ads", EVERYBODY, echo::router(&["/ads"], &seen)).await;
    let edge = rig.gateway("[[route]]\npath = \"/ads\"\nto = \"ads\"\n").await;
    let life = Duration::from_secs(LIVES[0]);
    let expires = end_of(life);
    let token = rig.access_token_for("alice", &["buyer"], life);
    let head = format!("POST /ads HTTP/1.1\r\nHost: flea.test\r\nAuthorization: {}\r\n", bearer(&token));
    let stream = TcpStream::connect(edge.plain).await.unwrap();
    let answer = drip(stream, &head, 100_000, PAUSE).await;
    assert_eq!(answer.problem(401), "credential_expired");
    assert!(clock::now() >= expires && seen.count() == 0);
}

#[tokio::test]
async fn a_service_that_sees_first_that_the_token_has_ended_is_no_challenge_to_the_edge() {
    let rig = Rig::new();
    rig.policy("gateway", EVERYBODY);
    let life = Duration::from_secs(LIVES[0]);
    // The token ends within the second after this.
    let over = end_of(life + Duration::from_secs(1));
    let router = Router::new().route(
        "/ads",
        any(async move || {
            while clock::now() <= over {
                tokio::time::sleep(PAUSE).await;
            }
            (StatusCode::UNAUTHORIZED, [("www-authenticate", "Countersign need=\"txn-token\"")])
        }),
    );
    rig.open_service("ads", router).await;
    let edge = rig.gateway("[[route]]\npath = \"/ads\"\nto = \"ads\"\n").await;
    let token = bearer(&rig.access_token_for("alice", &["buyer"], life));
    let answer = get(edge.plain, "/ads", &[("Authorization", &token)]).await;
    assert_eq!(answer.problem(401), "credential_expired");
}

#[tokio::test]
async fn a_grpc_stream_ends_with_the_token_of_its_user_and_another_goes_on() {
    let (pair, listener) = Pair::new("app_http2 = true\n", "").await;
    serve(listener);
    let edge = pair.rig.gateway("[[route]]\npath = \"/test.Echo/*\"\nto = \"users\"\n").await;
    let long = pair.rig.access_token("bob", &["buyer"]);
    let mut bob = at(edge.plain).with("authorization", &bearer(&long));
    let mut others = bob.count(word("n", 100_000, 50)).await.unwrap().into_inner();
    let (rig, edge) = (&pair.rig, &edge);
    with_a_life(async move |life| {
        let expires = end_of(life);
        let short = rig.access_token_for("alice", &["buyer"], life);
        let mut alice = at(edge.plain).with("authorization", &bearer(&short));
        let Ok(counted) = alice.count(word("n", 100_000, 50)).await else { return Began::TooLate };
        let Ok(talked) = alice.talk(words(100_000, PAUSE)).await else { return Began::TooLate };
        for mut heard in [counted.into_inner(), talked.into_inner()] {
            let ended =
                tokio::time::timeout(WITHIN, async { while let Ok(Some(_)) = heard.message().await {} });
            ended.await.expect("it ends");
        }
        assert!(clock::now() >= expires, "it was good until then");
        Began::Yes
    })
    .await;
    for _ in 0..100 {
        assert!(others.message().await.unwrap().is_some(), "nobody's token ended");
    }
}

#[tokio::test]
async fn a_stream_ends_when_the_certificate_of_its_caller_is_revoked() {
    let (pair, listener) = Pair::new("app_http2 = true\n", "").await;
    serve(listener);
    let mut client = through(&pair.out, "users");
    let mut counted = client.count(word("n", 100_000, 20)).await.unwrap().into_inner();
    assert!(counted.message().await.unwrap().is_some());
    pair.rig.world.revoke(&SpiffeId::service(&pair.rig.td, "ads").unwrap());
    let ended = tokio::time::timeout(WITHIN, async { while let Ok(Some(_)) = counted.message().await {} });
    ended.await.expect("it ends");
}
