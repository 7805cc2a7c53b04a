//! # What can be seen of a request: a trace in a collector, a line of each hop, decisions as they are made

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::Value;

use crate::deployment::Deployment;
use crate::world::wait_for;

const SPAN: &str = "00f067aa0ba902b7";

/// A collector that takes what comes to `/v1/traces`.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Vec<u8>>>>);

impl Collector {
    fn start() -> (SocketAddr, Self) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, collector) = (listener.local_addr().unwrap(), Self::default());
        let bodies = collector.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let bodies = bodies.clone();
                std::thread::spawn(move || bodies.serve(stream));
            }
        });
        (address, collector)
    }

    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut writer = stream;
        loop {
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let before = head.len();
                if reader.read_line(&mut head).unwrap_or(0) == 0 {
                    return;
                }
                let line = head[before..].trim().to_lowercase();
                if let Some(bytes) = line.strip_prefix("content-length: ") {
                    length = bytes.parse().unwrap();
                }
                if line.is_empty() {
                    break;
                }
            }
            assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
            assert!(head.to_lowercase().contains("content-type: application/x-protobuf"), "{head}");
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            self.0.lock().unwrap().push(body);
            writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
    }

    /// Spans of this trace by the name of their service.
    fn trace(&self, id: &str) -> BTreeMap<String, Span> {
        let bodies = self.0.lock().unwrap();
        let requests = bodies.iter().map(|body| ExportTraceServiceRequest::decode(body.as_slice()).unwrap());
        let mut found = BTreeMap::new();
        for resource in requests.flat_map(|request| request.resource_spans) {
            let attributes = resource.resource.unwrap().attributes;
            let service = text_of(&attributes, "service.name").unwrap();
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                if hex(&span.trace_id) == id {
                    assert!(found.insert(service.clone(), span).is_none(), "{service} has two spans");
                }
            }
        }
        found
    }
}

fn text_of(attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.clone()?.value? {
        Any::StringValue(text) => Some(text),
        Any::IntValue(number) => Some(number.to_string()),
        other => panic!("{key} is {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Asks for ads near by, which ads asks users about.
fn previews(d: &Deployment, trace: &str, flags: &str) {
    let parent = format!("traceparent: 00-{trace}-{SPAN}-{flags}");
    let (status, body) = d.as_user("alice", "/ads?near=48.37,14.51", &["-H", &parent]);
    assert_eq!(status, 200, "{body}");
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["previews"], "shown", "{body}");
}

/// The client's span, then gateway, ads and users, each the parent of the next.
fn is_one_trace(collector: &Collector, trace: &str) {
    let hops = ["gateway", "ads", "users"];
    let spans = wait_for(|| Some(collector.trace(trace)).filter(|spans| spans.len() >= hops.len()));
    let spans = spans.unwrap_or_else(|| panic!("not all hops were seen: {:?}", collector.trace(trace)));
    let mut parent = SPAN.to_owned();
    for hop in hops {
        let span = &spans[hop];
        assert_eq!(hex(&span.parent_span_id), parent, "{hop}");
        parent = hex(&span.span_id);
        assert_eq!(span.kind, 2, "a server's");
        assert_eq!(text_of(&span.attributes, "http.request.method").as_deref(), Some("GET"));
        assert_eq!(text_of(&span.attributes, "http.response.status_code").as_deref(), Some("200"));
        let route = text_of(&span.attributes, "http.route").unwrap();
        assert_eq!(span.name, format!("GET {route}"));
        assert!(text_of(&span.attributes, "countersign.decision.id").unwrap().starts_with("d_"));
    }
    let caller = text_of(&spans["users"].attributes, "countersign.caller").unwrap();
    assert!(caller.ends_with("/svc/ads"), "{caller}");
}

fn says_nothing_that_it_must_not(d: &Deployment, collector: &Collector) {
    let token = std::fs::read_to_string(d.curl_config("alice")).unwrap();
    let token = token.split("Bearer ").nth(1).unwrap().trim_end_matches(['"', '\n']).to_owned();
    assert!(token.starts_with("eyJ"), "{token}");
    for body in collector.0.lock().unwrap().iter() {
        let text = String::from_utf8_lossy(body);
        for secret in ["eyJ", &token, "48.37", "near=", "alice"] {
            assert!(!text.contains(secret), "{secret} is in a span: {text}");
        }
    }
}

/// A line of `log` that belongs to this trace.
fn line_of(d: &Deployment, log: &str, trace: &str) -> Value {
    let path = d.state().join(format!("logs/{log}.log"));
    let found = wait_for(|| {
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find(|line| line["trace"] == trace && line.get("decision").is_some())
    });
    found.unwrap_or_else(|| panic!("no line of {trace} in {}", path.display()))
}

#[test]
fn a_request_over_three_hops_is_one_trace_in_a_collector_and_one_line_of_each_hop() {
    let (address, collector) = Collector::start();
    let endpoint = format!("http://{address}");
    let environment = [("COUNTERSIGN_OTLP__ENDPOINT", endpoint.as_str()), ("COUNTERSIGN_LOG__ACCESS", "all")];
    let d = Deployment::start_in(&environment, &[]);
    let (trace, unasked) = ("4bf92f3577b34da6a3ce929d0e0e4736", "5bf92f3577b34da6a3ce929d0e0e4736");
    previews(&d, unasked, "00");
    previews(&d, trace, "01");
    is_one_trace(&collector, trace);
    // Nobody knows this client, so its flag decides nothing.
    is_one_trace(&collector, unasked);
    says_nothing_that_it_must_not(&d, &collector);

    for (hop, caller) in [("gateway", None), ("ads", Some("/gateway/edge")), ("users", Some("/svc/ads"))] {
        for trace in [trace, unasked] {
            let line = line_of(&d, hop, trace);
            assert_eq!((&line["method"], &line["status"]), (&"GET".into(), &200.into()), "{line}");
            assert_eq!(line["caller"].as_str().map(|id| id.ends_with(caller.unwrap())), caller.map(|_| true));
            assert!(line["user"].as_str().unwrap().starts_with("p_"), "{line}");
            assert!(
                line["bytes"].as_u64().unwrap() > 0 && line["duration_ms"].as_f64().unwrap() > 0.0,
                "{line}"
            );
            assert!(line["time"].as_str().unwrap().ends_with('Z'));
        }
        let log = std::fs::read_to_string(d.state().join(format!("logs/{hop}.log"))).unwrap();
        for secret in ["eyJ", "48.37", "alice"] {
            assert!(!log.contains(secret), "{secret} is in {hop}.log");
        }
    }
}

#[test]
fn through_sidecars_it_is_one_trace_too_and_by_default_only_what_goes_wrong_leaves_a_line() {
    let (address, collector) = Collector::start();
    let endpoint = format!("http://{address}");
    let d = Deployment::start_in(&[("COUNTERSIGN_OTLP__ENDPOINT", &endpoint)], &["--sidecar"]);
    let trace = "6bf92f3577b34da6a3ce929d0e0e4736";
    previews(&d, trace, "01");
    is_one_trace(&collector, trace);
    says_nothing_that_it_must_not(&d, &collector);

    let refused = "7bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("traceparent: 00-{refused}-{SPAN}-01");
    let (status, _) = d.as_user("alice", "/reports", &["-H", &parent]);
    assert!(status >= 400, "{status}");
    let line = line_of(&d, "gateway", refused);
    assert_eq!(line["status"], status);
    assert!(line["code"].as_str().unwrap().starts_with("CS"), "{line}");
    let log = std::fs::read_to_string(d.state().join("logs/gateway.log")).unwrap();
    assert!(!log.contains(trace), "what went well leaves no line");
}

/// `tap`, as somebody at a terminal runs it.
struct Tap {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Tap {
    fn start(d: &Deployment, arguments: &[&str]) -> Self {
        let mut command: Command = d.command(&[&["tap"], arguments].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It says on stderr when it looks.
        let mut said = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.contains("from now on"), "{said}");
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

#[test]
fn tap_shows_decisions_as_they_are_made_only_those_asked_for_and_no_token() {
    let d = Deployment::start();
    let mut all = Tap::start(&d, &["-o", "jsonl"]);
    let mut users = Tap::start(&d, &["-o", "jsonl", "--source", "ads", "--target", "users", "-n", "1"]);
    let mut denied = Tap::start(&d, &["--denied"]);
    previews(&d, "8bf92f3577b34da6a3ce929d0e0e4736", "01");
    let first: Value = serde_json::from_str(&users.line()).unwrap();
    assert!(first["source"].as_str().unwrap().ends_with("/svc/ads") && first["target"] == "users", "{first}");
    assert_eq!((&first["verdict"], &first["status"]), (&"allow".into(), &200.into()), "{first}");
    assert_eq!(users.end(), (Some(0), String::new()), "one was asked for");

    let (status, body) = d.as_user("alice", "/reports", &[]);
    let problem: Value = serde_json::from_str(&body).unwrap();
    let decision = problem["decision"].as_str().unwrap();
    let line = denied.line();
    assert!(line.contains("deny") && line.contains(decision) && line.contains(&status.to_string()), "{line}");
    let code = d.json(&["explain", decision])["code"].as_str().expect("a refusal has a code").to_owned();
    let mut by_code = Tap::start(&d, &["-o", "jsonl", "--code", &code, "-n", "1"]);
    d.as_user("alice", "/ads/1", &[]);
    d.as_user("alice", "/reports", &[]);
    assert_eq!(serde_json::from_str::<Value>(&by_code.line()).unwrap()["code"], code);

    let mut seen = String::new();
    while !seen.contains(decision) {
        seen.push_str(&all.line());
    }
    for tap in [all, denied] {
        kill(Pid::from_raw(i32::try_from(tap.child.id()).unwrap()), Signal::SIGINT).unwrap();
        let (code, rest) = tap.end();
        assert_eq!(code, Some(0), "it ends when it is told to");
        seen.push_str(&rest);
    }
    assert!(seen.lines().count() >= 4, "{seen}");
    for secret in ["eyJ", "48.37", "alice"] {
        assert!(!seen.contains(secret), "{secret} is in {seen}");
    }
    assert_eq!(d.run(&["status", "-o", "jsonl"]).status.code(), Some(2));
}
