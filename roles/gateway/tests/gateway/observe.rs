//! What can be seen of a request afterwards: one exchange for whoever observes, metrics, an edge, and never a token.
use std::io;
use std::sync::{Arc, Mutex};

use crate::rig::client::{bearer, get, request};
use crate::rig::echo::{self, Seen};
use crate::rig::observer::listen;
use crate::rig::{Rig, eventually};
use metrics_exporter_prometheus::PrometheusBuilder;
use tracing_subscriber::fmt::MakeWriter;

const ROUTES: &str = "[[route]]\npath = \"/relics/{id}\"\nto = \"relics\"\n";
const ROUTE: &str = "/relics/{id}";
const RULES: &str = "@id(\"signed-in\")\npermit (principal is User, action == Action::\"GET\", resource);";

/// What was logged.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Log;

    fn make_writer(&self) -> Log {
        self.clone()
    }
}

// Log and metrics belong to the process, so everything is seen in one test; what other tests do beside it goes to other
// services.
#[tokio::test]
async fn each_request_leaves_one_exchange_one_count_and_one_edge_and_no_token_anywhere() {
    let heard = listen();
    let log = Log::default();
    let lines = log.clone();
    tracing_subscriber::fmt().json().with_max_level(tracing::Level::TRACE).with_writer(lines).init();
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    metrics::set_global_recorder(recorder).unwrap();

    let (rig, seen) = (Rig::new(), Seen::default());
    rig.policy("gateway", RULES);
    rig.open_service("relics", echo::router(&["/relics/{id}"], &seen)).await;
    let edge = rig.gateway(&format!("admin = \"127.0.0.1:0\"\n{ROUTES}")).await;
    let alice = bearer(&rig.access_token("alice", &["buyer"]));
    let path = "/relics/lamp-xyz?near=48.37,14.51";
    assert_eq!(get(edge.plain, path, &[("Authorization", &alice)]).await.status, 200);
    assert_eq!(request(edge.plain, "POST", path, &[("Authorization", &alice)], "{}").await.status, 403);
    assert_eq!(
        get(edge.plain, path, &[("Authorization", "Bearer eyJhbGciOiJub25lIn0.e30.eyJ")]).await.status,
        401
    );
    let internal = echo::header(&seen.last(), "txn-token").remove(0);

    // Edges arrive with the next report.
    eventually(|| rig.world.edges().iter().map(|edge| edge.requests).sum::<u64>() >= 3).await;
    let edges = rig.world.edges();
    let denied: u64 = edges.iter().map(|edge| edge.denied).sum();
    assert_eq!(denied, 2);
    let allowed = edges.iter().find(|edge| edge.requests > edge.denied).unwrap();
    assert_eq!(
        (allowed.target.as_str(), allowed.mode.as_str(), allowed.policy.as_str()),
        ("gateway", "none", "signed-in")
    );

    let text = log.text();
    for secret in ["eyJ", &internal, alice.trim_start_matches("Bearer "), "lamp-xyz", "48.37,14.51"] {
        let line = text.lines().find(|line| line.contains(secret) && line.contains("countersign"));
        assert_eq!(line, None, "{secret} is in the log");
    }
    let ended = heard.of(3, |exchange| exchange.route == ROUTE && exchange.to == "relics").await;
    let told: Vec<_> = ended.iter().map(|exchange| (exchange.status, exchange.method.as_str())).collect();
    assert_eq!(told, [(200, "GET"), (403, "POST"), (401, "GET")]);
    assert!(ended.iter().all(|exchange| exchange.bytes > Some(0) && exchange.service == "gateway"));
    assert_eq!(ended.iter().map(|exchange| exchange.code.is_some()).collect::<Vec<_>>(), [false, true, true]);
    assert!(ended[0].user.as_deref().is_some_and(|user| user.starts_with("p_")), "{:?}", ended[0]);
    let said = format!("{ended:?}");
    for secret in ["eyJ", &internal, "lamp-xyz", "48.37,14.51", "alice"] {
        assert!(!said.contains(secret), "{secret} is in {said}");
    }

    // Some are read only when somebody asks.
    assert_eq!(get(edge.admin.unwrap(), "/metrics", &[]).await.status, 200);
    let metrics = metrics.render();
    for series in [
        r#"countersign_requests_total{source="user",target="relics",auth="access_token",decision="allow",code_class="2xx"} 1"#,
        r#"countersign_requests_total{source="user",target="relics",auth="access_token",decision="deny",code_class="4xx"} 1"#,
        r#"countersign_requests_total{source="stranger",target="relics",auth="none",decision="deny",code_class="4xx"} 1"#,
        "countersign_request_duration_seconds",
        "countersign_decisions_total",
    ] {
        assert!(metrics.contains(series), "{series} is not in\n{metrics}");
    }
    for label in ["lamp-xyz", "u_alice", "alice", "/relics/"] {
        assert!(!metrics.contains(label), "{label} is a label in\n{metrics}");
    }
    check_metrics(&metrics);
}

/// Each has a type and says what it is, in names and units that Prometheus' own linter likes; those of the process are real.
fn check_metrics(text: &str) {
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
    }
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse::<f64>().unwrap()
    };
    assert!((value("countersign_config_reload_success") - 1.0).abs() < f64::EPSILON);
    assert!(value("countersign_audit_queue_length") >= 0.0);
    let now = f64::from(u32::try_from(countersign_sdk::clock::now().secs()).unwrap());
    let left = value("countersign_svid_expiry_timestamp_seconds") - now;
    assert!((0.0..86_400.0).contains(&left), "{left}");
    if let Some(said) = countersign_testkit::promtool(&["check", "metrics"], text) {
        assert_eq!(said, Ok(()));
    }
}

#[test]
fn prometheus_takes_the_alerts() {
    let alerts = countersign_testkit::workspace_root().join("deploy/observability/alerts.yml");
    if let Some(said) = countersign_testkit::promtool(&["check", "rules", alerts.to_str().unwrap()], "") {
        assert_eq!(said, Ok(()));
    }
}
