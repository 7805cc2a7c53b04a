//! # What was acknowledged survives `kill -9`.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use countersign_keys::{KeyPair, SystemRandom};
use serde_json::Value;

use crate::deployment::{BINARY, Deployment};

const KILLS: u32 = 50;
const IN_FLIGHT_MIN: u32 = 20;
const CALLERS: usize = 3;

/// One request over the admin socket; `None` where the connection broke before the whole answer came.
fn post(socket: &Path, path: &str, body: &str) -> Option<Value> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 2"), "{answer}");
    serde_json::from_str(body).ok()
}

struct Authority {
    child: Child,
    socket: PathBuf,
}

impl Authority {
    fn start(d: &Deployment) -> Self {
        let mut command = Command::new(BINARY);
        command
            .args(["serve", "authority", "--config"])
            .arg(d.state().join("countersign.toml"))
            .env("HOME", d.home());
        let log = std::fs::File::create(d.scratch("durability").join("authority.log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let socket = d.state().join("admin.sock");
        let started = Instant::now();
        while !d.run(&["ca", "bundle"]).status.success() {
            let log =
                || std::fs::read_to_string(d.scratch("durability").join("authority.log")).unwrap_or_default();
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "the authority does not come back: {}",
                log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, socket }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn of_fifty_kills_while_issuing_no_acknowledged_certificate_and_no_event_is_lost() {
    let d = Deployment::start();
    d.ok(&["down"]);
    let key = KeyPair::generate(&SystemRandom::new()).unwrap();
    let csr = countersign_pki::csr::make(&key, None).unwrap();
    let body = serde_json::json!({
        "service": "ads",
        "csr": base64::engine::general_purpose::STANDARD.encode(csr),
        "ttl_s": 86_400,
    })
    .to_string();
    let acknowledged: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let mut in_flight_kills = 0;
    for round in 0..KILLS {
        let authority = Authority::start(&d);
        let (stop, open, done) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let (socket, body) = (authority.socket.clone(), body.clone());
                let (stop, open, done, acknowledged) =
                    (stop.clone(), open.clone(), done.clone(), acknowledged.clone());
                std::thread::spawn(move || {
                    let mut broken = 0_u32;
                    while !stop.load(Ordering::SeqCst) {
                        open.fetch_add(1, Ordering::SeqCst);
                        let answer = post(&socket, "/api/v1/certificates", &body);
                        open.fetch_sub(1, Ordering::SeqCst);
                        match answer {
                            Some(answer) => {
                                let serial = answer["certificate"]["serial"].as_str().unwrap().to_owned();
                                acknowledged.lock().unwrap().insert(serial);
                                done.fetch_add(1, Ordering::SeqCst);
                            }
                            None => broken += 1,
                        }
                        if broken > 0 {
                            break;
                        }
                    }
                    broken
                })
            })
            .collect();
        // At another moment in each round: after some answers, and while a request is out.
        let waited = Instant::now();
        while done.load(Ordering::SeqCst) < u64::from(1 + round % 4) || open.load(Ordering::SeqCst) == 0 {
            assert!(waited.elapsed() < Duration::from_secs(20), "nothing is issued");
            std::thread::yield_now();
        }
        authority.kill();
        stop.store(true, Ordering::SeqCst);
        let broken: u32 = callers.into_iter().map(|c| c.join().unwrap()).sum();
        in_flight_kills += u32::from(broken > 0);
    }
    assert!(in_flight_kills >= IN_FLIGHT_MIN, "only {in_flight_kills} kills met a request in flight");

    let authority = Authority::start(&d);
    let acknowledged = acknowledged.lock().unwrap();
    let stored = serials(&d);
    let missing: Vec<_> = acknowledged.difference(&stored).collect();
    assert!(
        missing.is_empty(),
        "{} of {} acknowledged serials are missing",
        missing.len(),
        acknowledged.len()
    );
    d.ok(&["audit", "verify"]);
    authority.kill();
    eprintln!(
        "{KILLS} kills, {in_flight_kills} with a request in flight, {} serials acknowledged",
        acknowledged.len()
    );
}

/// Every serial that is both in the certificate table's listing and in a `certificate_signed` event.
fn serials(d: &Deployment) -> BTreeSet<String> {
    let listed: BTreeSet<String> = d
        .json(&["cert", "list", "--limit", "1000"])
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["serial"].as_str().unwrap().to_owned())
        .collect();
    let events = d.json(&["audit", "search", "--kind", "certificate_signed", "--limit", "1000"]);
    let signed: BTreeSet<String> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["entry"]["event"]["serial"].as_str().unwrap().to_owned())
        .collect();
    listed.intersection(&signed).cloned().collect()
}
