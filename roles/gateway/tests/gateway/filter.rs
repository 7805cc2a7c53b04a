//! A filter of the operator's own: a real server of Envoy's external authorisation, asked by a gateway and by a sidecar.

mod bodies;
mod refusals;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign_gateway::sidecar::{Settings as SidecarSettings, Sidecar, SidecarError};
use countersign_gateway::{FilterSettingsError, Gateway, GatewayError};
use countersign_identity::SpiffeId;
use countersign_ledger::{CheckResult, Decision};
use countersign_sdk::accept::{Limits, Transport, bind_unix};
use countersign_sdk::workload::Workload;
use countersign_wire::ext_authz::authorization_server::{Authorization, AuthorizationServer};
use countersign_wire::ext_authz::check_response::HttpResponse;
use countersign_wire::ext_authz::{
    CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue, HeaderValueOption, HttpStatus,
    OkHttpResponse, Status,
};
use tokio::net::TcpListener;

use crate::rig::client::{bearer, get};
use crate::rig::echo::{self, Seen, header};
use crate::rig::{Rig, Running, settings};
use crate::sidecar_http1::{ask, caller};

const RULES: &str = "@id(\"signed-in\")\npermit (principal is User, action, resource);\n\
    @id(\"no-guests\")\nforbid (principal is User, action, resource)\n\
    when { context has user && context.user.roles.contains(\"guest\") };";
const ROUTES: &str = "[[route]]\npath = \"/ads/*\"\nto = \"ads\"\n";
const EVERYBODY: &str = "@id(\"all\") permit (principal, action, resource);";

/// What the filter was asked, and what it answers, after a while.
#[derive(Clone)]
pub(crate) struct Filter {
    asked: Arc<Mutex<Vec<CheckRequest>>>,
    answer: Arc<dyn Fn() -> CheckResponse + Send + Sync>,
    after: Duration,
    /// It says this in place of an answer.
    fails: Option<tonic::Code>,
}

impl Filter {
    pub(crate) fn new(answer: impl Fn() -> CheckResponse + Send + Sync + 'static) -> Self {
        Self { asked: Arc::default(), answer: Arc::new(answer), after: Duration::ZERO, fails: None }
    }

    pub(crate) fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }

    pub(crate) fn asked(&self) -> Vec<CheckRequest> {
        self.asked.lock().unwrap().clone()
    }

    fn router(&self) -> axum::Router {
        let service = AuthorizationServer::new(self.clone());
        axum::Router::new().route_service("/envoy.service.auth.v3.Authorization/Check", service)
    }

    /// Listens on a socket of this mode.
    pub(crate) async fn on_socket(&self, rig: &Rig, mode: u32) -> PathBuf {
        let path = rig.dir.path().join("filter.sock");
        let listener = bind_unix(&path, 0o600).await.unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let (router, stop) = (self.router(), rig.shutdown.clone());
        tokio::spawn(async move {
            countersign_sdk::accept::serve(listener, Transport::Plain, router, Limits::default(), stop).await
        });
        path
    }
}

#[tonic::async_trait]
impl Authorization for Filter {
    async fn check(
        &self,
        request: tonic::Request<CheckRequest>,
    ) -> Result<tonic::Response<CheckResponse>, tonic::Status> {
        self.asked.lock().unwrap().push(request.into_inner());
        tokio::time::sleep(self.after).await;
        match self.fails {
            Some(code) => Err(tonic::Status::new(code, "as it was told")),
            None => Ok(tonic::Response::new((self.answer)())),
        }
    }
}

fn option(name: &str, value: &str, append_action: i32) -> HeaderValueOption {
    let header = HeaderValue { key: name.into(), value: value.into(), raw_value: Vec::new() };
    HeaderValueOption { header: Some(header), append_action }
}

fn verdict(code: i32, http: HttpResponse) -> CheckResponse {
    CheckResponse { status: Some(Status { code, message: String::new() }), http_response: Some(http) }
}

pub(crate) fn yes() -> CheckResponse {
    verdict(0, HttpResponse::OkResponse(OkHttpResponse::default()))
}

pub(crate) fn sets(names: &'static [(&'static str, &'static str)]) -> impl Fn() -> CheckResponse {
    move || {
        let headers = names.iter().map(|(name, value)| option(name, value, 0)).collect();
        verdict(0, HttpResponse::OkResponse(OkHttpResponse { headers, headers_to_remove: Vec::new() }))
    }
}

pub(crate) fn no(status: i32, body: &'static str) -> impl Fn() -> CheckResponse {
    move || {
        let headers = vec![option("x-why", "too loud", 0), option("connection", "x", 0)];
        let status = Some(HttpStatus { code: status });
        verdict(7, HttpResponse::DeniedResponse(DeniedHttpResponse { status, headers, body: body.into() }))
    }
}

/// A gateway whose filter listens on a socket, and who is behind it.
struct Edge {
    rig: Rig,
    gateway: Running,
    seen: Seen,
    filter: Filter,
}

impl Edge {
    async fn new(filter: Filter, more: &str) -> Self {
        let rig = Rig::new();
        let socket = filter.on_socket(&rig, 0o600).await;
        Self::asking(rig, filter, &format!("address = \"unix:{}\"\n{more}", socket.display()), ROUTES).await
    }

    async fn asking(rig: Rig, filter: Filter, settings: &str, routes: &str) -> Self {
        rig.policy("gateway", RULES);
        let seen = Seen::default();
        rig.open_service("ads", echo::router(&["/ads/{id}"], &seen)).await;
        let gateway = rig.gateway(&format!("{routes}[[filter]]\nname = \"opa\"\n{settings}")).await;
        Edge { rig, gateway, seen, filter }
    }

    async fn get(&self, user: &str, roles: &[&str], more: &[(&str, &str)]) -> crate::rig::client::Answer {
        let token = bearer(&self.rig.access_token(user, roles));
        let mut headers = vec![("authorization", token.as_str())];
        headers.extend(more);
        get(self.gateway.plain, "/ads/7?q=1", &headers).await
    }
}

/// The filter's part of a record.
fn of_filter(decision: &Decision) -> Option<(CheckResult, &str)> {
    let found = decision.checks.iter().find(|check| check.name == "filter")?;
    Some((found.result, &found.detail))
}

#[tokio::test]
async fn a_filter_is_told_who_was_proven_and_never_how() {
    let edge = Edge::new(Filter::new(yes), "").await;
    let cookies = [("cookie", "a=1"), ("x-user", "admin"), ("countersign-user", "admin")];
    assert_eq!(edge.get("alice", &["buyer"], &cookies).await.status, 200);
    let asked = edge.filter.asked().remove(0).attributes.unwrap();
    assert_eq!(asked.context_extensions["countersign.user"], "u_alice");
    assert_eq!(asked.context_extensions["countersign.user_roles"], "buyer");
    assert_eq!(asked.context_extensions["countersign.route"], "/ads/*");
    assert_eq!(asked.context_extensions["countersign.target"], "ads");
    let address = asked.source.unwrap().address.unwrap().socket_address.unwrap();
    assert_eq!(address.address, "127.0.0.1");
    let http = asked.request.unwrap().http.unwrap();
    assert_eq!((http.method.as_str(), http.path.as_str()), ("GET", "/ads/7?q=1"));
    assert_eq!((http.headers["cookie"].as_str(), http.headers[":path"].as_str()), ("a=1", "/ads/7?q=1"));
    for secret in ["authorization", "x-user", "countersign-user", "txn-token"] {
        assert!(!http.headers.contains_key(secret), "{secret}");
    }
    assert!(http.body.is_empty() && http.size == -1, "bodies are not shown unless the settings say so");
    let id = asked.context_extensions["countersign.decision"].clone();
    let record = edge.rig.decision(|decision| decision.id.to_string() == id).await;
    assert_eq!(of_filter(&record), Some((CheckResult::Pass, "opa lets it go on, 0 headers changed")));
}

#[tokio::test]
async fn a_filter_sets_and_removes_the_headers_that_its_settings_name_and_no_other() {
    let said = || {
        let headers = vec![
            option("x-opa-one", "1", 0),
            option("x-opa-one", "2", 0),
            option("x-opa-two", "new", 1),
            option("x-opa-three", "new", 3),
            option("x-other", "1", 0),
        ];
        let headers_to_remove = vec!["x-opa-gone".into(), "accept".into()];
        verdict(0, HttpResponse::OkResponse(OkHttpResponse { headers, headers_to_remove }))
    };
    let edge = Edge::new(Filter::new(said), "headers = [\"x-opa-*\"]\n").await;
    let came = [("x-opa-one", "0"), ("x-opa-two", "old"), ("x-opa-gone", "1"), ("accept", "*/*")];
    assert_eq!(edge.get("alice", &[], &came).await.status, 200);
    let saw = edge.seen.last();
    assert_eq!(header(&saw, "x-opa-one"), ["1", "2"]);
    assert_eq!(header(&saw, "x-opa-two"), ["old"], "only if absent");
    assert!(header(&saw, "x-opa-three").is_empty(), "only if there");
    assert!(header(&saw, "x-opa-gone").is_empty() && header(&saw, "x-other").is_empty(), "{saw}");
    assert_eq!(header(&saw, "accept"), ["*/*"]);
}

#[tokio::test]
async fn what_a_filter_says_of_identities_and_of_the_message_counts_for_nothing() {
    // Its settings name all of them: what no rule can touch, no filter can.
    let names =
        "headers = [\"countersign-*\", \"x-*\", \"t*\", \"h*\", \"c*\", \"u*\", \"a*\", \"k*\", \"f*\"]\n";
    let said = sets(&[
        ("countersign-user", "u_root"),
        ("Countersign_User", "u_root"),
        ("x-user", "root"),
        ("x-forwarded-for", "10.0.0.1"),
        ("txn-token", "forged"),
        ("authorization", "Bearer forged"),
        ("host", "elsewhere"),
        (":path", "/admin"),
        ("connection", "x-opa"),
        ("keep-alive", "1"),
        ("transfer-encoding", "chunked"),
        ("content-length", "7"),
        ("x-opa", "kept"),
    ]);
    let edge = Edge::new(Filter::new(said), names).await;
    assert_eq!(edge.get("alice", &[], &[]).await.status, 200);
    let saw = edge.seen.last();
    assert_eq!(header(&saw, "x-opa"), ["kept"]);
    assert_eq!((saw["path"].as_str(), saw["method"].as_str()), (Some("/ads/7"), Some("GET")));
    assert_eq!(header(&saw, "x-forwarded-for"), ["127.0.0.1"]);
    let text = saw.to_string();
    for forged in ["u_root", "\"root\"", "forged", "elsewhere", "10.0.0.1"] {
        assert!(!text.contains(forged), "{forged} in {text}");
    }
    assert_eq!(header(&saw, "txn-token").len(), 1);
}

#[tokio::test]
async fn a_filter_that_says_no_gives_the_client_its_answer_and_the_service_is_not_reached() {
    let edge = Edge::new(Filter::new(no(451, "not here")), "").await;
    let answer = edge.get("alice", &[], &[]).await;
    assert_eq!((answer.status, answer.body.as_str()), (451, "not here"));
    assert_eq!(answer.header("x-why"), Some("too loud"));
    assert_ne!(answer.header("connection"), Some("x"));
    let id = answer.header("countersign-decision").unwrap().to_owned();
    let record = edge.rig.decision(|decision| decision.id.to_string() == id).await;
    assert_eq!((record.code.as_deref(), record.status), (Some("CS4007"), 451));
    assert_eq!(of_filter(&record), Some((CheckResult::Fail, "filter opa refused it with 451")));
    assert_eq!(edge.seen.count(), 0);
}

#[tokio::test]
async fn a_refusal_never_looks_like_a_success() {
    for status in [0, 100, 200, 204, 600] {
        let edge = Edge::new(Filter::new(no(status, "")), "").await;
        edge.get("alice", &[], &[]).await.problem(403);
        assert_eq!(edge.seen.count(), 0, "{status}");
    }
}

#[tokio::test]
async fn a_filter_cannot_permit_what_the_policy_denies_and_is_not_asked_about_it() {
    let edge = Edge::new(Filter::new(yes), "").await;
    assert_eq!(edge.get("mallory", &["guest"], &[]).await.status, 403);
    assert_eq!(get(edge.gateway.plain, "/ads/7", &[]).await.status, 401);
    assert!(edge.filter.asked().is_empty());
    assert_eq!(edge.get("alice", &["buyer"], &[]).await.status, 200);
    assert_eq!(edge.filter.asked().len(), 1);
}

#[tokio::test]
async fn while_a_filter_gives_no_answer_nothing_goes_on() {
    let slow = Filter { after: Duration::from_secs(60), ..Filter::new(yes) };
    let answers: [(&str, Filter); 5] = [
        ("slow", slow),
        ("no status", Filter::new(CheckResponse::default)),
        ("yes and no", Filter::new(|| CheckResponse { status: Some(Status::default()), ..no(403, "")() })),
        (
            "failed itself",
            Filter::new(|| verdict(7, HttpResponse::ErrorResponse(DeniedHttpResponse::default()))),
        ),
        (
            "a yes that failed",
            Filter::new(|| verdict(0, HttpResponse::ErrorResponse(DeniedHttpResponse::default()))),
        ),
    ];
    for (what, filter) in answers {
        let edge = Edge::new(filter, "timeout_ms = 200\n").await;
        edge.get("alice", &[], &[]).await.problem(503);
        let record = edge.rig.decision(|decision| decision.code.as_deref() == Some("CS5011")).await;
        assert_eq!(of_filter(&record).unwrap().0, CheckResult::Fail, "{what}");
        assert_eq!(edge.seen.count(), 0, "{what}");
    }
}

#[tokio::test]
async fn a_filter_that_is_away_refuses_everything_and_lets_it_through_only_by_a_long_name() {
    for (more, status, reached) in
        [("", 503, 0), ("fail_open_insecure_when_the_filter_is_down = true\n", 200, 1)]
    {
        let rig = Rig::new();
        let address = format!("address = \"unix:{}\"\n{more}", rig.dir.path().join("nobody.sock").display());
        let edge = Edge::asking(rig, Filter::new(yes), &address, ROUTES).await;
        assert_eq!(edge.get("alice", &[], &[]).await.status, status, "{more}");
        assert_eq!(edge.seen.count(), reached);
        let record = edge.rig.decision(|decision| of_filter(decision).is_some()).await;
        assert!(of_filter(&record).unwrap().1.contains("no socket"), "{record:?}");
    }
    // What says no is heard even so.
    let edge =
        Edge::new(Filter::new(no(403, "")), "fail_open_insecure_when_the_filter_is_down = true\n").await;
    assert_eq!(edge.get("alice", &[], &[]).await.status, 403);
}

#[tokio::test]
async fn a_filter_that_is_there_and_gives_no_answer_is_not_passed_by_a_long_name() {
    const OPEN: &str = "timeout_ms = 1500\nfail_open_insecure_when_the_filter_is_down = true\n";
    let says = |code| Filter { fails: Some(code), ..Filter::new(yes) };
    for (what, filter, status) in [
        ("it says that it is down", says(tonic::Code::Unavailable), 200),
        ("it is overloaded", says(tonic::Code::ResourceExhausted), 503),
        ("it failed", says(tonic::Code::Internal), 503),
        ("it cannot be understood", Filter::new(CheckResponse::default), 503),
        ("it is too slow", Filter::new(yes).after(Duration::from_secs(60)), 503),
    ] {
        let edge = Edge::new(filter, OPEN).await;
        assert_eq!(edge.get("alice", &[], &[]).await.status, status, "{what}");
    }
    let slow = Filter::new(yes).after(Duration::from_secs(2));
    let edge = Edge::new(slow, &OPEN.replace("1500", "20000\nquestions_max = 1")).await;
    let (_, second) = tokio::join!(edge.get("alice", &[], &[]), async {
        while edge.filter.asked().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        edge.get("bob", &[], &[]).await
    });
    assert_eq!(second.status, 503, "too many questions");
}

#[tokio::test]
async fn no_more_questions_are_open_at_one_time_than_the_settings_say() {
    let slow = Filter { after: Duration::from_secs(3), ..Filter::new(yes) };
    let edge = Edge::new(slow, "questions_max = 1\ntimeout_ms = 20000\n").await;
    let (first, second) = tokio::join!(edge.get("alice", &[], &[]), async {
        while edge.filter.asked().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        edge.get("bob", &[], &[]).await
    });
    assert_eq!((first.status, second.status), (200, 503));
    assert_eq!(edge.filter.asked().len(), 1);
}

#[tokio::test]
async fn a_socket_that_others_open_is_not_asked() {
    // It is there, so that no setting lets anybody past it.
    for more in ["", "fail_open_insecure_when_the_filter_is_down = true\n"] {
        let (rig, filter) = (Rig::new(), Filter::new(yes));
        let socket = filter.on_socket(&rig, 0o666).await;
        let settings = format!("address = \"unix:{}\"\n{more}", socket.display());
        let edge = Edge::asking(rig, filter, &settings, ROUTES).await;
        assert_eq!(edge.get("alice", &[], &[]).await.status, 503);
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(edge.get("alice", &[], &[]).await.status, 200);
        // A connection that is kept does not outlive the mode that it was made under.
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o660)).unwrap();
        assert_eq!(edge.get("alice", &[], &[]).await.status, 503);
        assert_eq!(edge.filter.asked().len(), 1);
    }
}

#[tokio::test]
async fn over_the_network_a_filter_is_the_workload_that_the_settings_expect() {
    for (expect, status, asked) in [("opa", 200, 1), ("other", 503, 0)] {
        let (rig, filter) = (Rig::new(), Filter::new(yes));
        let workload = rig.workload(SpiffeId::service(&rig.td, "opa").unwrap()).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (serving, stop) = (workload.serve(listener, filter.router()), rig.shutdown.clone());
        tokio::spawn(async move { serving.with_graceful_shutdown(stop.cancelled_owned()).await });
        let settings = format!(
            "address = \"{address}\"\nexpect = \"spiffe://fleamarket.test/svc/{expect}\"\ntimeout_ms = 5000\n"
        );
        let edge = Edge::asking(rig, filter, &settings, ROUTES).await;
        assert_eq!(edge.get("alice", &[], &[]).await.status, status, "{expect}");
        assert_eq!((edge.filter.asked().len(), edge.seen.count()), (asked, asked));
    }
}

#[tokio::test]
async fn a_route_may_name_the_filters_that_it_wants() {
    let rig = Rig::new();
    let (one, two) = (Filter::new(no(403, "")), Filter::new(yes));
    let socket = one.on_socket(&rig, 0o600).await;
    std::fs::rename(&socket, rig.dir.path().join("one.sock")).unwrap();
    let other = two.on_socket(&rig, 0o600).await;
    let settings = format!(
        "address = \"unix:{}\"\n[[filter]]\nname = \"two\"\naddress = \"unix:{}\"\n",
        rig.dir.path().join("one.sock").display(),
        other.display()
    );
    let routes = "[[route]]\npath = \"/ads/*\"\nto = \"ads\"\n\
        [[route]]\npath = \"/ads/1\"\nto = \"ads\"\nfilters = []\n\
        [[route]]\npath = \"/ads/2\"\nto = \"ads\"\nfilters = [\"two\"]\n";
    let edge = Edge::asking(rig, one, &settings, routes).await;
    let token = bearer(&edge.rig.access_token("alice", &[]));
    for (path, status, asked) in [("/ads/7", 403, (1, 0)), ("/ads/1", 200, (1, 0)), ("/ads/2", 200, (1, 1))] {
        let answer = get(edge.gateway.plain, path, &[("authorization", &token)]).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!((edge.filter.asked().len(), two.asked().len()), asked, "{path}");
    }
}

#[tokio::test]
async fn a_header_that_a_filter_cannot_be_shown_is_refused() {
    let edge = Edge::new(Filter::new(yes), "").await;
    let token = bearer(&edge.rig.access_token("alice", &[]));
    let mut bytes =
        format!("GET /ads/7 HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\nX-Odd: ").into_bytes();
    bytes.extend(b"\xe9\r\n\r\n");
    assert_eq!(crate::rig::client::raw(edge.gateway.plain, bytes).await.status, 400);
    assert!(edge.filter.asked().is_empty());
}

#[tokio::test]
async fn settings_of_filters_that_cannot_be_are_refused_with_what_to_do() {
    let rig = Rig::new();
    let workload = rig.workload(SpiffeId::gateway(&rig.td, "edge").unwrap()).await;
    let refused = async |toml: &str| {
        let settings = settings(&format!("listen = \"127.0.0.1:0\"\n{toml}"));
        match Gateway::bind(settings, workload.clone(), Arc::new(String::new)).await {
            Err(GatewayError::Filter(error)) => error,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{toml} is taken"),
        }
    };
    let one = |name: &str, more: &str| format!("[[filter]]\nname = \"{name}\"\n{more}\n");
    let at = "address = \"unix:/run/a.sock\"";
    assert!(matches!(refused(&one("No Name", at)).await, FilterSettingsError::Name { .. }));
    let twice = format!("{}{}", one("a", at), one("a", at));
    assert_eq!(refused(&twice).await, FilterSettingsError::Twice { name: "a".into() });
    let many: String = (0..17).map(|n| one(&format!("a{n}"), at)).collect();
    assert_eq!(refused(&many).await, FilterSettingsError::TooMany { count: 17 });
    let zero = refused(&one("a", &format!("{at}\ntimeout_ms = 0"))).await;
    assert_eq!(zero, FilterSettingsError::NoTime { name: "a".into() });
    let expect = "address = \"10.0.0.1:9\"\nexpect = \"opa\"";
    assert!(matches!(refused(&one("a", expect)).await, FilterSettingsError::Expect { .. }));
    for nobody in [
        "address = \"127.0.0.1:9\"",
        "address = \"unix:a.sock\"",
        "address = \"unix:/a.sock\"\nexpect = \"spiffe://fleamarket.test/svc/opa\"",
        "address = \"10.0.0.1\"\nexpect = \"spiffe://fleamarket.test/svc/opa\"",
    ] {
        let error = refused(&one("a", nobody)).await;
        assert!(matches!(error, FilterSettingsError::Unproven { .. }), "{nobody}: {error}");
    }
    for header in ["countersign-user", "host", "x y", "*"] {
        let error = refused(&one("a", &format!("{at}\nheaders = [\"{header}\"]"))).await;
        assert!(matches!(error, FilterSettingsError::Header { .. }), "{header}: {error}");
    }
    let route = format!("{}[[route]]\npath = \"/a\"\nto = \"a\"\nfilters = [\"b\"]\n", one("a", at));
    assert_eq!(refused(&route).await, FilterSettingsError::Unknown { name: "b".into() });
    assert!(toml::from_str::<countersign_gateway::Settings>(&one("a", "adress = \"x\"")).is_err());
}

/// The service `users` behind a sidecar that asks a filter.
async fn behind(filter: &Filter, more: &str) -> (Rig, Seen) {
    let (rig, seen) = (Rig::new(), Seen::default());
    let app = rig.dir.path().join("app.sock");
    serve_app(&app, &seen, &rig).await;
    let socket = filter.on_socket(&rig, 0o600).await;
    rig.policy("users", EVERYBODY);
    let workload = rig.workload(SpiffeId::service(&rig.td, "users").unwrap()).await;
    let settings: SidecarSettings = toml::from_str(&format!(
        "service = \"users\"\ninbound = \"127.0.0.1:0\"\napp = \"unix:{}\"\n\
         routes = [\"/users/{{id}}\"]\n[[filter]]\nname = \"opa\"\naddress = \"unix:{}\"\n{more}",
        app.display(),
        socket.display()
    ))
    .unwrap();
    let sidecar = Sidecar::bind(settings, workload, Arc::new(String::new)).await.unwrap();
    rig.register("users", sidecar.address().unwrap());
    tokio::spawn(sidecar.run(rig.shutdown.clone()));
    (rig, seen)
}

async fn serve_app(path: &Path, seen: &Seen, rig: &Rig) {
    let listener = bind_unix(path, 0o600).await.unwrap();
    let (router, stop) = (echo::router(&["/users/{id}"], seen), rig.shutdown.clone());
    tokio::spawn(async move {
        countersign_sdk::accept::serve(listener, Transport::Plain, router, Limits::default(), stop).await
    });
}

/// The service `ads`, which calls `users`.
async fn ads(rig: &Rig) -> Workload {
    let ads = rig.workload(SpiffeId::service(&rig.td, "ads").unwrap()).await;
    crate::rig::eventually(|| ads.live().service("users").is_some()).await;
    ads
}

#[tokio::test]
async fn a_sidecar_asks_its_filter_about_callers_in_http1_too() {
    let filter = Filter::new(no(403, ""));
    let (rig, seen) = behind(&filter, "").await;
    let address = ads(&rig).await.live().service("users").unwrap().address.parse().unwrap();
    let (_chat, mut stream) = caller(&rig, "chat", address).await;
    for asked in 1..3 {
        assert_eq!(ask(&mut stream, &[]).await.status, 403);
        assert_eq!((filter.asked().len(), seen.count()), (asked, 0));
    }
}

async fn call(ads: &Workload) -> u16 {
    ads.client("users").get("/users/7").send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_sidecar_asks_its_filter_about_callers_that_the_door_let_in() {
    let said = sets(&[("x-opa", "1"), ("countersign-caller", "forged")]);
    let filter = Filter::new(said);
    let (rig, seen) = behind(&filter, "headers = [\"x-*\", \"countersign-*\"]\n").await;
    let ads = ads(&rig).await;
    assert_eq!(call(&ads).await, 200);
    let asked = filter.asked().remove(0).attributes.unwrap();
    assert_eq!(asked.source.unwrap().principal, "spiffe://fleamarket.test/svc/ads");
    assert_eq!(asked.context_extensions["countersign.target"], "users");
    assert_eq!(asked.context_extensions["countersign.route"], "/users/{id}");
    let saw = seen.last();
    assert_eq!(header(&saw, "x-opa"), ["1"]);
    assert_eq!(header(&saw, "countersign-caller"), ["spiffe://fleamarket.test/svc/ads"]);
    let id = asked.context_extensions["countersign.decision"].clone();
    let record = rig.decision(|decision| decision.id.to_string() == id).await;
    assert_eq!(of_filter(&record).unwrap().0, CheckResult::Pass);
    // Whom the policy keeps out, the filter is not asked about.
    rig.policy("users", "@id(\"none\") forbid (principal, action, resource);");
    while call(&ads).await != 403 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = filter.asked().len();
    assert_eq!(call(&ads).await, 403);
    assert_eq!(filter.asked().len(), before);
}

#[tokio::test]
async fn a_filter_of_a_sidecar_refuses_and_the_ledger_says_so() {
    let filter = Filter::new(no(418, "short and stout"));
    let (rig, seen) = behind(&filter, "").await;
    assert_eq!(call(&ads(&rig).await).await, 418);
    let record = rig.decision(|decision| decision.code.as_deref() == Some("CS4007")).await;
    assert_eq!((record.verdict.as_str(), record.status), ("deny", 418));
    assert_eq!(of_filter(&record), Some((CheckResult::Fail, "filter opa refused it with 418")));
    assert_eq!(seen.count(), 0);
    let (rig, seen) = behind(&Filter::new(CheckResponse::default), "").await;
    assert_eq!(call(&ads(&rig).await).await, 503);
    rig.decision(|decision| decision.code.as_deref() == Some("CS5011")).await;
    assert_eq!(seen.count(), 0);
}

#[tokio::test]
async fn what_a_filter_of_a_sidecar_said_is_recorded_where_the_service_is_away_too() {
    let (rig, _seen) = behind(&Filter::new(yes), "").await;
    let ads = ads(&rig).await;
    std::fs::remove_file(rig.dir.path().join("app.sock")).unwrap();
    assert_eq!(call(&ads).await, 502);
    let record = rig.decision(|decision| decision.code.as_deref() == Some("CS5001")).await;
    assert_eq!(of_filter(&record).unwrap().0, CheckResult::Pass);
    assert_eq!(record.checks.last().unwrap().name, "upstream", "{record:?}");
}

#[tokio::test]
async fn settings_of_a_sidecars_filters_are_judged_as_those_of_a_gateway() {
    let rig = Rig::new();
    let workload = rig.workload(SpiffeId::service(&rig.td, "users").unwrap()).await;
    let text = "service = \"users\"\ninbound = \"127.0.0.1:0\"\napp = \"unix:/a\"\n[[filter]]\nname = \"opa\"\naddress = \"127.0.0.1:9\"\n";
    let refused = Sidecar::bind(toml::from_str(text).unwrap(), workload, Arc::new(String::new)).await;
    assert!(matches!(refused.err(), Some(SidecarError::Filter(FilterSettingsError::Unproven { .. }))));
}
