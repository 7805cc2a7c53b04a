//! What the ledger costs an allowed call: handing it over, packing it and bringing it to the disk; beside a call that is
//! recorded alone.
//!
//! `cargo bench -p countersign-sdk --bench calls`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops when it cannot go on"
)]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use countersign_identity::{DecisionId, UnixTime};
use countersign_ledger::{
    CallBatcher, CallEdge, CheckRecord, CheckResult, ConnectionId, Decision, Event, NewCall, Pseudonym,
    PseudonymKey, Stage, Verdict,
};
use countersign_sdk::{
    spool::{CallRow, EdgeFacts, EdgeIndex, Spool, SpoolLimits},
    trace::TraceId,
};
use countersign_testkit::measure::process_cpu;
use http::StatusCode;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const CALLS: u64 = 1_000_000;
const BURST: u64 = 2200;
const BURSTS: u64 = 300;
const ALONE: u64 = 20_000;
const CONNECTIONS: u64 = 64;
const USERS: u64 = 20;

fn main() {
    let users: Vec<_> =
        (0..USERS).map(|user| Pseudonym::of(&PseudonymKey::new([1; 32]), &user.to_string())).collect();
    println!("| what | ns of CPU per call | bytes per call |\n|---|---|---|");
    push(&users);
    pack(&users);
    whole(&users);
    alone(&users);
}

/// The worker's part alone, in bursts: between them the spool's thread empties the ring.
fn push(users: &[Pseudonym]) {
    let directory = tempfile::tempdir().unwrap();
    let spool = open(directory.path(), SpoolLimits { bytes_max: 1 << 32, ..SpoolLimits::default() });
    let mut ring = spool.ring();
    let edge = ring.edge_index(&facts(0)).unwrap();
    let rows: Vec<_> = (0..BURST).map(|number| row(edge, number, users)).collect();
    let (mut spent, mut pushed) = (Duration::ZERO, 0);
    while pushed < BURST * BURSTS {
        let began = Instant::now();
        let taken = rows.iter().take_while(|row| ring.push(**row).is_ok()).count();
        spent += began.elapsed();
        pushed += u64::try_from(taken).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    print("push", spent, pushed, None);
}

/// The spool's part without disk: rows into batches, batches into JSON and its hash.
fn pack(users: &[Pseudonym]) {
    let id = "spiffe://fleamarket.test/countersign/gateway/edge".parse().unwrap();
    let mut batcher = CallBatcher::new(&id);
    let mut writer = countersign_ledger::Writer::start(id, countersign_ledger::BootId::from_random([1; 16]));
    let facts: Vec<_> = (0..8).map(|edge| facts(edge).edge).collect();
    let mut bytes = 0;
    let mut write = |batch: countersign_ledger::CallBatch| {
        bytes += writer.append(&batch.into(), NOW).unwrap().bytes.len();
    };
    let before = process_cpu(std::process::id());
    for number in 0..CALLS {
        let edge = number % 8;
        let call = new_call(number, edge, facts.get(usize::try_from(edge).unwrap()).unwrap(), users);
        if batcher.push(&call).is_err() {
            write(batcher.take().unwrap());
            batcher.push(&call).unwrap();
        }
    }
    batcher.take().map(&mut write);
    print("pack and hash", process_cpu(std::process::id()) - before, CALLS, Some(bytes));
}

/// Everything until the calls are on disk, both threads.
fn whole(users: &[Pseudonym]) {
    let directory = tempfile::tempdir().unwrap();
    let spool = open(directory.path(), SpoolLimits { bytes_max: 1 << 32, ..SpoolLimits::default() });
    let before = process_cpu(std::process::id());
    let mut ring = spool.ring();
    let edges: Vec<_> = (0..8).map(|edge| ring.edge_index(&facts(edge)).unwrap()).collect();
    for number in 0..CALLS {
        let edge = *edges.get(usize::try_from(number % 8).unwrap()).unwrap();
        while ring.push(row(edge, number, users)).is_err() {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    spool.close();
    let spent = process_cpu(std::process::id()) - before;
    print("push, pack, hash and write", spent, CALLS, Some(on_disk(directory.path())));
}

/// As every call was recorded before, and one that fits no batch still is.
fn alone(users: &[Pseudonym]) {
    let directory = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { bytes_max: 1 << 32, waiting_max: usize::MAX, ..SpoolLimits::default() };
    let spool = open(directory.path(), limits);
    let before = process_cpu(std::process::id());
    for number in 0..ALONE {
        spool.record(Event::Decision(Box::new(decision(number, users))));
    }
    spool.close();
    let spent = process_cpu(std::process::id()) - before;
    print("alone: make, encode, hash and write", spent, ALONE, Some(on_disk(directory.path())));
}

fn open(directory: &Path, limits: SpoolLimits) -> Arc<Spool> {
    let writer = "spiffe://fleamarket.test/countersign/gateway/edge".parse().unwrap();
    Spool::open(directory.to_owned(), writer, limits).unwrap()
}

fn facts(edge: u64) -> EdgeFacts {
    let check = |(name, detail): (&str, &str)| CheckRecord {
        name: name.to_owned(),
        result: CheckResult::Pass,
        detail: detail.to_owned(),
    };
    let checks = [
        ("request", ""),
        ("quota", ""),
        ("route", "/ads/* to ads"),
        ("token", "access token"),
        ("policy", "browse"),
        ("upstream", "200"),
    ];
    let edge = CallEdge {
        source: None,
        target: "gateway".to_owned(),
        method: "GET".to_owned(),
        route: format!("/ads/{{id}}/{edge}"),
        mode: "none".to_owned(),
        stage: Stage::Policy,
        checks: checks.map(check).to_vec(),
        policy: Some("browse".to_owned()),
    };
    EdgeFacts { edge, user_proof: "access_token", has_user: true }
}

fn new_call<'a>(number: u64, edge: u64, facts: &'a CallEdge, users: &[Pseudonym]) -> NewCall<'a> {
    NewCall {
        id: id(number),
        edge: u32::try_from(edge).unwrap(),
        facts,
        at: NOW,
        latency_us: 700,
        status: 200,
        trace: u128::from(number) | 1 << 100,
        user: users.get(usize::try_from(number % USERS).unwrap()).copied(),
        connection: Some(connection(number)),
    }
}

fn row(edge: EdgeIndex, number: u64, users: &[Pseudonym]) -> CallRow {
    CallRow {
        edge,
        id: id(number),
        at: NOW,
        latency_us: 700,
        status: StatusCode::OK,
        trace: TraceId::from_random([7; 16]),
        user: users.get(usize::try_from(number % USERS).unwrap()).copied(),
        connection: Some(connection(number)),
    }
}

fn decision(number: u64, users: &[Pseudonym]) -> Decision {
    let CallEdge { source, target, method, route, mode, stage, checks, policy } = facts(number % 8).edge;
    let (connection, peer) = connection(number);
    Decision {
        id: id(number),
        verdict: Verdict::Allow,
        stage,
        source,
        target,
        method,
        route,
        user: users.get(usize::try_from(number % USERS).unwrap()).map(ToString::to_string),
        mode,
        checks,
        policy,
        code: None,
        reason: None,
        fix: None,
        status: 200,
        latency_us: 700,
        connection: Some(connection.to_string()),
        peer: peer.map(|peer| peer.to_string()),
        trace: Some(TraceId::from_random([7; 16]).to_string()),
    }
}

fn id(number: u64) -> DecisionId {
    let mut id = [0; 10];
    id.iter_mut()
        .zip(number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes())
        .for_each(|(to, from)| *to = from);
    DecisionId::from_random(id)
}

fn connection(number: u64) -> (ConnectionId, Option<std::net::SocketAddr>) {
    let number = number % CONNECTIONS;
    let port = 40_000 + u16::try_from(number).unwrap();
    (ConnectionId::from_random(number), Some(([127, 0, 0, 1], port).into()))
}

fn on_disk(directory: &Path) -> usize {
    let files = std::fs::read_dir(directory).unwrap();
    let bytes = files.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>();
    usize::try_from(bytes).unwrap()
}

fn print(what: &str, spent: Duration, calls: u64, bytes: Option<usize>) {
    let ns = spent.as_nanos() / u128::from(calls);
    let bytes = bytes.map_or("–".to_owned(), |bytes| (u64::try_from(bytes).unwrap() / calls).to_string());
    println!("| {what} | {ns} | {bytes} |");
}
