//! One service behind its sidecar: what it learns, what it is spared, and how it calls others.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use countersign_gateway::sidecar::{AppError, Settings, Sidecar, SidecarError};
use countersign_identity::{Mode, SpiffeId};
use countersign_keys::RandomError;
use countersign_ledger::CheckResult;
use countersign_sdk::inbound::InboundError;
use countersign_sdk::workload::Workload;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::rig::Rig;
use crate::rig::client::{bearer, get};
use crate::rig::echo::{self, Seen, header};

const EVERYBODY: &str = "@id(\"all\") permit (principal, action, resource);";
const ROUTE: &str = "[[route]]\npath = \"/users/{id}\"\nto = \"users\"\nuser = \"required\"\n";

/// The service `users` behind a sidecar.
struct Behind {
    rig: Rig,
    app: PathBuf,
    outbound: PathBuf,
    inbound: SocketAddr,
    seen: Seen,
}

impl Behind {
    async fn new() -> Self {
        Self::with(EVERYBODY, "").await
    }

    async fn with(policy: &str, more: &str) -> Self {
        let rig = Rig::new();
        let dir = rig.dir.path();
        let (app, outbound) = (dir.join("app.sock"), dir.join("out.sock"));
        let seen = Seen::default();
        serve_app(&app, &outbound, seen.clone());
        rig.policy("users", policy);
        rig.policy("gateway", EVERYBODY);
        let workload = rig.workload(SpiffeId::service(&rig.td, "users").unwrap()).await;
        let text = format!(
            "service = \"users\"\ninbound = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\napp = \"unix:{}\"\noutbound = \"unix:{}\"\n{more}",
            app.display(),
            outbound.display()
        );
        let sidecar = bind(&text, &workload).await.unwrap();
        let inbound = sidecar.address().unwrap();
        rig.register("users", inbound);
        tokio::spawn(sidecar.run(rig.shutdown.clone()));
        Self { rig, app, outbound, inbound, seen }
    }

    async fn caller(&self, name: &str) -> Workload {
        let workload = self.rig.workload(SpiffeId::service(&self.rig.td, name).unwrap()).await;
        crate::rig::eventually(|| workload.live().service("users").is_some()).await;
        workload
    }
}

async fn bind(settings: &str, workload: &Workload) -> Result<Sidecar, SidecarError> {
    let settings: Settings = toml::from_str(settings).unwrap();
    Sidecar::bind(settings, workload.clone(), Arc::new(String::new)).await
}

/// Answers with what it saw and over which connection; `/users/relay` asks the service `chat` on behalf of whoever
/// called.
fn serve_app(socket: &Path, outbound: &Path, seen: Seen) {
    let listener = UnixListener::bind(socket).unwrap();
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (connections, outbound) = (AtomicUsize::new(0), outbound.to_owned());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let number = connections.fetch_add(1, Ordering::Relaxed);
            let (seen, outbound) = (seen.clone(), outbound.clone());
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let (seen, outbound) = (seen.clone(), outbound.clone());
                async move { Ok::<_, std::convert::Infallible>(answer(request, number, &seen, &outbound).await) }
            });
            // In the version that the sidecar speaks.
            let http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move { http.serve_connection(TokioIo::new(stream), service).await });
        }
    });
}

async fn answer(
    request: Request<Incoming>,
    number: usize,
    seen: &Seen,
    outbound: &Path,
) -> Response<Full<Bytes>> {
    let (path, headers) = (request.uri().path().to_owned(), request.headers().clone());
    let length = request.into_body().collect().await.unwrap().to_bytes().len();
    let pairs: Vec<_> =
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap())).collect();
    let saw = json!({ "connection": number, "path": path, "headers": pairs, "body_bytes": length });
    seen.push(saw.clone());
    if path != "/users/relay" {
        let mut answer = Response::new(Full::from(saw.to_string()));
        answer.headers_mut().insert("countersign-user", HeaderValue::from_static("forged"));
        return answer;
    }
    let context = headers.get("countersign-context").cloned();
    let (status, body) = call(outbound, "chat", "/chats", context).await;
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer
}

/// A call of the service, through its sidecar.
async fn call(socket: &Path, host: &str, path: &str, context: Option<HeaderValue>) -> (StatusCode, Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert(http::header::HOST, HeaderValue::from_str(host).unwrap());
    if let Some(context) = context {
        headers.insert(HeaderName::from_static("countersign-context"), context);
    }
    let stream = UnixStream::connect(socket).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = path.parse().unwrap();
    *request.headers_mut() = headers;
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status();
    (status, answer.into_body().collect().await.unwrap().to_bytes())
}

async fn body(answer: Response<countersign_sdk::outbound::Answer>) -> Value {
    assert_eq!(answer.status(), StatusCode::OK);
    serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

#[tokio::test]
async fn two_callers_through_one_sidecar_never_share_a_connection_to_the_service() {
    for more in ["", "app_http2 = true\n"] {
        let behind = Behind::with(EVERYBODY, more).await;
        let (ads, chat) =
            (behind.caller("ads").await.client("users"), behind.caller("chat").await.client("users"));
        let mut used = [Vec::new(), Vec::new()];
        for _ in 0..4 {
            for (caller, used) in [&ads, &chat].into_iter().zip(&mut used) {
                let saw = body(caller.get("/users/7").send().await.unwrap()).await;
                used.push(saw["connection"].as_u64().unwrap());
            }
        }
        assert!(used[0].iter().all(|number| !used[1].contains(number)), "{more}{used:?}");
        // Each keeps its own: that they differ is not because none is kept.
        assert!(used.iter().all(|used| used.iter().all(|number| *number == used[0])), "{more}{used:?}");
    }
}

#[tokio::test]
async fn the_service_learns_who_calls_from_its_sidecar_and_never_from_the_caller() {
    let behind = Behind::new().await;
    let ads = behind.caller("ads").await.client("users");
    let mut request = Request::get("/users/7?q=1").body(countersign_sdk::outbound::empty()).unwrap();
    for name in
        ["countersign-user", "countersign-caller", "x-countersign-user", "countersign-context", "x-user"]
    {
        request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static("admin"));
    }
    let answer = ads.send(request).await.unwrap();
    assert!(!answer.headers().contains_key("countersign-user"), "the service cannot speak for its sidecar");
    let saw = body(answer).await;
    assert_eq!(header(&saw, "countersign-caller"), [format!("spiffe://{}/svc/ads", behind.rig.td)]);
    assert_eq!(header(&saw, "countersign-decision").len(), 1);
    assert_eq!(header(&saw, "host"), ["users"]);
    assert!(header(&saw, "countersign-user").is_empty(), "{saw}");
    assert!(header(&saw, "x-user").is_empty(), "{saw}");
    assert_ne!(header(&saw, "countersign-context"), ["admin"]);
}

#[tokio::test]
async fn the_user_goes_along_to_the_next_service_and_the_service_in_between_never_sees_a_token() {
    let behind = Behind::new().await;
    let chat = Seen::default();
    let _chat = behind.rig.open_service("chat", echo::router(&["/chats"], &chat)).await;
    let gateway = behind.rig.gateway(ROUTE).await;
    let token = bearer(&behind.rig.access_token("alice", &["buyer"]));
    let answer = get(gateway.plain, "/users/relay", &[("authorization", &token)]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let saw = behind.seen.last();
    assert_eq!(header(&saw, "countersign-user"), ["u_alice"]);
    assert_eq!(header(&saw, "countersign-user-name"), ["alice"]);
    assert_eq!(header(&saw, "countersign-user-roles"), ["buyer"]);
    for name in ["txn-token", "user-token", "authorization"] {
        assert!(header(&saw, name).is_empty(), "{name} in {saw}");
    }
    assert!(!header(&saw, "countersign-context")[0].contains('.'), "a sealed context is no token");
    assert_eq!(header(&chat.last(), "txn-token").len(), 1, "{}", chat.last());
    // Without the context it is a call of its own, for nobody.
    assert_eq!(call(&behind.outbound, "chat", "/chats", None).await.0, 200);
    assert!(header(&chat.last(), "txn-token").is_empty());
}

#[tokio::test]
async fn a_context_that_this_sidecar_did_not_seal_is_refused_and_the_call_is_not_made() {
    let behind = Behind::new().await;
    let chat = Seen::default();
    let _chat = behind.rig.open_service("chat", echo::router(&["/chats"], &chat)).await;
    let caller = behind.caller("ads").await.client("users");
    body(caller.get("/users/7").send().await.unwrap()).await;
    let good = header(&behind.seen.last(), "countersign-context").remove(0);
    let send = async |context: &str| {
        call(&behind.outbound, "chat", "/chats", Some(HeaderValue::from_str(context).unwrap())).await.0
    };
    assert_eq!(send(&good).await, 200);
    let flipped: String = good.chars().rev().collect();
    for bad in ["", "AAAA", &flipped, &good[..good.len() - 2]] {
        assert_eq!(send(bad).await, 403, "{bad}");
    }
    assert_eq!(chat.count(), 1);
}

#[tokio::test]
async fn of_two_contexts_neither_counts() {
    let behind = Behind::new().await;
    let chat = Seen::default();
    let _chat = behind.rig.open_service("chat", echo::router(&["/chats"], &chat)).await;
    let caller = behind.caller("ads").await.client("users");
    body(caller.get("/users/7").send().await.unwrap()).await;
    let good = header(&behind.seen.last(), "countersign-context").remove(0);
    for second in [good.as_str(), "AAAA", ""] {
        let head = format!(
            "GET /chats HTTP/1.1\r\nHost: chat\r\nConnection: close\r\nCountersign-Context: {good}\r\nCountersign-Context: {second}\r\n\r\n"
        );
        let mut stream = UnixStream::connect(&behind.outbound).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(chat.count(), 0);
}

/// What the mode of the socket keeps out by itself: it is opened to others here, while the sidecar runs.
#[tokio::test]
async fn another_uid_that_can_open_the_outbound_socket_is_refused_all_the_same() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let behind = Behind::new().await;
    let chat = Seen::default();
    let _chat = behind.rig.open_service("chat", echo::router(&["/chats"], &chat)).await;
    let open =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    open(behind.rig.dir.path(), 0o711);
    open(&behind.outbound, 0o666);
    let socket = behind.outbound.to_str().unwrap();
    let curl =
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", socket, "http://chat/chats"];
    let asked_as = async |whom: &[&str]| {
        let words = [whom, &curl].concat();
        let out = tokio::process::Command::new(words[0]).args(&words[1..]).output().await.unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    assert_eq!(asked_as(&["setpriv", "--reuid=65534", "--clear-groups"]).await, "403");
    assert_eq!(chat.count(), 0);
    assert_eq!(asked_as(&[]).await, "200");
}

#[tokio::test]
async fn a_service_whose_socket_belongs_to_another_user_is_not_asked() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let behind = Behind::new().await;
    let ads = behind.caller("ads").await.client("users");
    std::os::unix::fs::chown(&behind.app, Some(65_534), None).unwrap();
    assert_eq!(ads.get("/users/7").send().await.unwrap().status(), 502);
    assert_eq!(behind.seen.count(), 0);
    std::os::unix::fs::chown(&behind.app, Some(0), None).unwrap();
    assert_eq!(ads.get("/users/7").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn whoever_took_the_place_of_the_service_gets_the_next_call_though_a_connection_to_the_other_is_kept() {
    let behind = Behind::new().await;
    let ads = behind.caller("ads").await.client("users");
    for _ in 0..2 {
        assert_eq!(body(ads.get("/users/7").send().await.unwrap()).await["connection"], 0);
    }
    let (new, seen) = (behind.rig.dir.path().join("new.sock"), Seen::default());
    serve_app(&new, &behind.outbound, seen.clone());
    std::fs::rename(&new, &behind.app).unwrap();
    assert_eq!(ads.get("/users/7").send().await.unwrap().status(), 200);
    assert_eq!((behind.seen.count(), seen.count()), (2, 1));
}

#[tokio::test]
async fn a_call_to_what_is_no_service_is_not_made() {
    let behind = Behind::new().await;
    for host in ["nobody", "127.0.0.1:1", "flea.test"] {
        assert_eq!(call(&behind.outbound, host, "/", None).await.0, StatusCode::BAD_GATEWAY, "{host}");
    }
}

#[tokio::test]
async fn routes_are_those_that_the_policies_name() {
    let rules = "@id(\"one\") permit (principal, action == Action::\"GET\", resource == Route::\"users /users/{id}\");";
    let behind = Behind::with(rules, "").await;
    let ads = behind.caller("ads").await.client("users");
    assert_eq!(ads.get("/users/7").send().await.unwrap().status(), 200);
    for path in ["/users", "/users/7/secrets", "/"] {
        assert_eq!(ads.get(path).send().await.unwrap().status(), 403, "{path}");
    }
    assert_eq!(behind.seen.count(), 1);
}

#[tokio::test]
async fn a_service_that_is_not_there_is_a_bad_gateway_and_the_sidecar_is_not_ready() {
    let behind = Behind::new().await;
    let ads = behind.caller("ads").await.client("users");
    std::fs::remove_file(&behind.app).unwrap();
    assert_eq!(ads.get("/users/7").send().await.unwrap().status(), 502);
    let record = behind.rig.decision(|decision| decision.target == "users").await;
    let upstream = record.checks.last().unwrap();
    assert_eq!(
        (record.verdict.as_str(), record.code.as_deref(), record.status),
        ("deny", Some("CS5001"), 502)
    );
    assert_eq!((upstream.name.as_str(), upstream.result), ("upstream", CheckResult::Fail), "{record:?}");
    let said = AppError::NoSocket { path: behind.app.display().to_string() };
    assert!(said.to_string().contains("does not listen there"));
    std::fs::write(&behind.app, "a file").unwrap();
    assert_eq!(ads.get("/users/7").send().await.unwrap().status(), 502);
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused_with_what_to_do() {
    let rig = Rig::new();
    let workload = rig.workload(SpiffeId::service(&rig.td, "users").unwrap()).await;
    let refused = async |more: &str| {
        bind(&format!("service = \"users\"\n{more}"), &workload).await.map(|_| ()).unwrap_err()
    };
    assert!(matches!(refused("").await, SidecarError::NothingToDo));
    assert!(matches!(refused("inbound = \"127.0.0.1:0\"").await, SidecarError::NoApp));
    let two = "inbound = \"127.0.0.1:0\"\napp = \"unix:/a\"\napp_on_loopback_port_insecure = \"127.0.0.1:1\"";
    assert!(matches!(refused(two).await, SidecarError::NoApp));
    let two = "outbound = \"unix:/a\"\noutbound_on_loopback_port_insecure = \"127.0.0.1:0\"";
    assert!(matches!(refused(two).await, SidecarError::TwoOutbound));
    let open = "inbound = \"127.0.0.1:0\"\napp_on_loopback_port_insecure = \"10.0.0.1:80\"";
    assert!(matches!(
        refused(open).await,
        SidecarError::Exposed { setting: "app_on_loopback_port_insecure", .. }
    ));
    let nowhere = "outbound = \"unix:/proc/none/out.sock\"";
    assert!(matches!(refused(nowhere).await, SidecarError::Listen { .. }));
    let route = "inbound = \"127.0.0.1:0\"\napp = \"unix:/a\"\nroutes = [\"users\"]";
    let sidecar = bind(&format!("service = \"users\"\n{route}"), &workload).await.unwrap();
    let refused = sidecar.run(CancellationToken::new()).await.unwrap_err();
    assert!(matches!(refused, SidecarError::Routes(InboundError::Route { .. })), "{refused}");
    assert_eq!(SidecarError::Key(RandomError::Unavailable.into()).exit_code(), 1);
    let open = AppError::OpenToOthers { path: "/a".into(), mode: 0o666 };
    assert!(open.to_string().contains("666") && open.to_string().contains("make it 600"));
    let other = AppError::OtherOwner { path: "/a".into(), uid: 1, own: 2 };
    assert!(other.to_string().contains("run both as one user"));
}

/// Numbers of the connections to the service that the requests of one plain connection went over.
async fn numbers(sender: &mut hyper::client::conn::http1::SendRequest<Empty<Bytes>>) -> u64 {
    let mut request = Request::get("/users/7").body(Empty::new()).unwrap();
    request.headers_mut().insert(http::header::HOST, HeaderValue::from_static("users"));
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let saw: Value = serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap();
    saw["connection"].as_u64().unwrap()
}

#[tokio::test]
async fn two_callers_who_prove_nothing_never_share_a_connection_to_the_service() {
    let behind = Behind::new().await;
    behind.rig.accepts("users", &[Mode::None, Mode::Mtls]);
    let address = behind.inbound;
    let connect = async || {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    };
    let ads = behind.caller("ads").await;
    crate::rig::eventually(|| ads.live().service("users").unwrap().accepts.contains(&Mode::None)).await;
    // The sidecar gets to know of it in its own time.
    while crate::rig::client::get(address, "/users/7", &[]).await.status != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let (mut one, mut other) = (connect().await, connect().await);
    let mut used = [Vec::new(), Vec::new()];
    for _ in 0..4 {
        used[0].push(numbers(&mut one).await);
        used[1].push(numbers(&mut other).await);
    }
    assert!(used[0].iter().all(|number| !used[1].contains(number)), "{used:?}");
    assert!(used.iter().all(|used| used.iter().all(|number| *number == used[0])), "{used:?}");
}

#[tokio::test]
async fn a_call_of_the_service_that_is_not_made_is_in_the_ledger_under_the_id_that_it_is_told() {
    let behind = Behind::new().await;
    let own = format!("spiffe://{}/svc/users", behind.rig.td);
    let forged = Some(HeaderValue::from_static("AAAA"));
    for (host, context, code, target) in [
        ("nobody", None, "CS5005", "nobody"),
        ("127.0.0.1:1", None, "CS5005", "unknown"),
        ("chat", forged, "CS3003", "chat"),
    ] {
        let (_, body) = call(&behind.outbound, host, "/", context).await;
        let problem: Value = serde_json::from_slice(&body).unwrap();
        let id = problem["decision"].as_str().unwrap().to_owned();
        let record = behind.rig.decision(|decision| decision.id.to_string() == id).await;
        assert_eq!((record.code.as_deref(), record.target.as_str()), (Some(code), target), "{host}");
        assert_eq!((record.verdict.as_str(), record.source.as_deref()), ("deny", Some(own.as_str())));
        assert_eq!((record.method.as_str(), record.route.as_str()), ("GET", ""), "no path is recorded");
    }
}

#[tokio::test]
async fn a_rule_for_everything_lets_every_method_and_the_root_through() {
    let behind = Behind::with(EVERYBODY, "routes = [\"/*\"]\n").await;
    let ads = behind.caller("ads").await.client("users");
    for (method, path) in [("OPTIONS", "/users/7"), ("OPTIONS", "/"), ("GET", "/"), ("DELETE", "/a/b")] {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(countersign_sdk::outbound::empty()).unwrap();
        assert_eq!(ads.send(request).await.unwrap().status(), 200, "{method} {path}");
    }
    let last = behind.rig.decision(|decision| decision.method == "GET" && decision.target == "users").await;
    assert_eq!(last.route, "/*", "the root has a name too");
}

#[tokio::test]
async fn a_user_without_a_pseudonym_is_counted_as_a_user_all_the_same() {
    let rig = Rig::new();
    rig.world.change(|snapshot| snapshot.pseudonym_key = None);
    rig.policy("gateway", EVERYBODY);
    let seen = Seen::default();
    rig.open_service("ads", echo::router(&["/ads"], &seen)).await;
    let gateway = rig.gateway("[[route]]\npath = \"/ads\"\nto = \"ads\"\nuser = \"optional\"\n").await;
    let token = bearer(&rig.access_token("alice", &[]));
    assert_eq!(get(gateway.plain, "/ads", &[("authorization", &token)]).await.status, 200);
    assert_eq!(get(gateway.plain, "/ads", &[]).await.status, 200);
    let record = rig.decision(|decision| decision.target == "gateway" && decision.status == 200).await;
    assert_eq!(record.user, None, "there is no key for a pseudonym");
    let sources = || {
        let edges = rig.world.edges();
        let counted = edges.into_iter().filter(|edge| edge.target == "gateway" && edge.requests > 0);
        let mut sources: Vec<String> = counted.map(|edge| edge.source).collect();
        sources.sort();
        sources.dedup();
        sources
    };
    crate::rig::eventually(|| sources() == ["stranger", "user"]).await;
}
