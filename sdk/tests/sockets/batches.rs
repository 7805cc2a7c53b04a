//! Allowed calls through the rings of the threads that answered them.

use std::{path::Path, sync::Arc, time::Duration};

use countersign_identity::{DecisionId, UnixTime};
use countersign_ledger::{
    BootId, CallEdge, ConnectionId, Decision, Entry, Event, Pseudonym, PseudonymKey, Record, Stage, Verdict,
    WriterVerifier,
};
use countersign_sdk::{
    clock,
    spool::{CallRow, EdgeFacts, EdgeIndex, RING_EDGES_MAX, RingError, Spool, SpoolLimits},
    trace::TraceId,
};
use http::StatusCode;

const KILLED: &str = "0123456789abcdef0123456789abcdef";

fn open(directory: &Path, limits: SpoolLimits) -> Arc<Spool> {
    let writer = "spiffe://fleamarket.test/svc/ads".parse().unwrap();
    Spool::open_local(directory.to_owned(), writer, limits).unwrap()
}

/// A spool whose thread looks at the rings only when it is told to.
fn slow(directory: &Path) -> Arc<Spool> {
    open(directory, SpoolLimits { ring_rows: 64, ..SpoolLimits::default() })
}

fn facts(source: usize) -> EdgeFacts {
    let edge = CallEdge {
        source: Some(format!("spiffe://fleamarket.test/svc/s{source}")),
        target: "ads".to_owned(),
        method: "GET".to_owned(),
        route: "/ads/{id}".to_owned(),
        mode: "mtls".to_owned(),
        stage: Stage::Policy,
        checks: Vec::new(),
        policy: Some("browse".to_owned()),
    };
    EdgeFacts { edge, user_proof: "none", has_user: true }
}

fn row(edge: EdgeIndex, number: u64) -> CallRow {
    let mut id = [0; 10];
    id[2..].copy_from_slice(&number.to_be_bytes());
    CallRow {
        edge,
        id: DecisionId::from_random(id),
        at: clock::now(),
        latency_us: 700,
        status: StatusCode::OK,
        trace: TraceId::random(),
        user: Some(Pseudonym::of(&PseudonymKey::new([1; 32]), "u_alice")),
        connection: Some((ConnectionId::from_random(number % 4), Some(([127, 0, 0, 1], 4711).into()))),
    }
}

/// Pushes calls, waiting where the ring is full or has no room for edges, as long as it takes.
fn push_all(spool: &Spool, edges: usize, numbers: std::ops::Range<u64>) {
    let mut ring = spool.ring();
    for number in numbers {
        let facts = facts(usize::try_from(number).unwrap() % edges);
        while ring.edge_index(&facts).is_none_or(|edge| ring.push(row(edge, number)).is_err()) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What lies in the files of a directory, in order, after its chain was walked.
fn entries(directory: &Path) -> Vec<Entry> {
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "spool")).collect();
    files.sort();
    let lines: String = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let mut chain: Option<WriterVerifier> = None;
    let entry = |line: &str| {
        let mut parts = line.splitn(3, ' ');
        let (sequence, hash) = (parts.next().unwrap(), parts.next().unwrap());
        let bytes = parts.next().unwrap().as_bytes().to_vec();
        let entry: Entry = serde_json::from_slice(&bytes).unwrap();
        let Entry { writer, boot, .. } = entry.clone();
        let chain = chain.get_or_insert_with(|| WriterVerifier::start(writer.clone(), boot));
        let (sequence, hash) = (sequence.parse().unwrap(), hash.parse().unwrap());
        chain.accept(&Record { writer, boot, sequence, bytes, chain: hash }).unwrap();
        entry
    };
    lines.lines().map(entry).collect()
}

fn decisions(directory: &Path) -> Vec<(UnixTime, Decision)> {
    entries(directory).iter().flat_map(Entry::decisions).collect()
}

#[test]
fn calls_of_many_threads_are_all_in_the_ledger_once_and_counted_for_their_edges() {
    let directory = countersign_testkit::temp_dir();
    let spool = slow(directory.path());
    std::thread::scope(|scope| {
        let spool = &spool;
        (0..4).for_each(|thread| {
            drop(scope.spawn(move || push_all(spool, 7, thread * 500..(thread + 1) * 500)))
        });
    });
    spool.close();
    let decisions = decisions(directory.path());
    let mut ids: Vec<_> = decisions.iter().map(|(_, decision)| decision.id).collect();
    ids.sort_by_key(|id| *id.as_bytes());
    let expected = (0..2000).map(|number| {
        let mut id = [0; 10];
        id[2..].copy_from_slice(&u64::to_be_bytes(number));
        DecisionId::from_random(id)
    });
    assert_eq!(ids, expected.collect::<Vec<_>>());
    let (at, decision) = &decisions[0];
    assert!(*at <= clock::now());
    assert_eq!((decision.verdict, decision.status, decision.latency_us), (Verdict::Allow, 200, 700));
    assert_eq!((decision.target.as_str(), decision.policy.as_deref()), ("ads", Some("browse")));
    assert_eq!(decision.peer.as_deref(), Some("127.0.0.1:4711"));
    assert!(decision.user.as_ref().unwrap().starts_with("p_") && decision.trace.is_some());

    let edges = spool.edges().take();
    assert_eq!((edges.len(), edges.iter().map(|edge| edge.requests).sum::<u64>()), (7, 2000));
    assert!(edges.iter().all(|edge| edge.denied == 0 && edge.latency_log2_us[10] == edge.requests));
}

#[test]
fn each_edge_keeps_its_facts_however_many_there_are() {
    let directory = countersign_testkit::temp_dir();
    let spool = slow(directory.path());
    let edges = 3 * RING_EDGES_MAX + 5;
    push_all(&spool, edges, 0..u64::try_from(edges).unwrap());
    spool.close();
    let decisions = decisions(directory.path());
    assert_eq!(decisions.len(), edges);
    for (_, decision) in decisions {
        let [_, _, number @ ..] = *decision.id.as_bytes();
        let source = format!("spiffe://fleamarket.test/svc/s{}", u64::from_be_bytes(number));
        assert_eq!(decision.source, Some(source));
    }
}

#[test]
fn a_full_ring_says_so_and_so_does_a_full_table_of_edges() {
    let directory = countersign_testkit::temp_dir();
    let spool = slow(directory.path());
    spool.close();
    let mut ring = spool.ring();
    let edge = ring.edge_index(&facts(0)).unwrap();
    assert_eq!(ring.edge_index(&facts(0)), Some(edge));
    let pushed = (0..1000).map(|number| ring.push(row(edge, number))).position(|pushed| pushed.is_err());
    assert_eq!(pushed, Some(64));
    assert_eq!(ring.push(row(edge, 1)), Err(RingError::Full));
    // Nobody empties the ring, so there is room for two tables and no more.
    let given = (0..3 * RING_EDGES_MAX).filter(|source| ring.edge_index(&facts(*source)).is_some());
    assert_eq!(given.count(), 2 * RING_EDGES_MAX);
}

#[test]
fn an_index_of_another_ring_or_of_an_older_table_is_refused() {
    let directory = countersign_testkit::temp_dir();
    let spool = slow(directory.path());
    let (mut ring, mut other) = (spool.ring(), spool.ring());
    let (edge, foreign) = (ring.edge_index(&facts(0)).unwrap(), other.edge_index(&facts(1)).unwrap());
    assert_ne!(edge, foreign);
    assert_eq!(ring.push(row(foreign, 1)), Err(RingError::UnknownEdge));
    assert_eq!(ring.push(row(edge, 1)), Ok(()));
    assert!((0..RING_EDGES_MAX).all(|source| ring.edge_index(&facts(1 + source)).is_some()));
    assert_eq!(ring.push(row(edge, 2)), Err(RingError::UnknownEdge));
    let again = ring.edge_index(&facts(0)).unwrap();
    assert_eq!(ring.push(row(again, 2)), Ok(()));
    spool.close();
    assert_eq!(decisions(directory.path()).len(), 2);
}

#[test]
fn a_call_with_long_texts_gets_no_index() {
    let directory = countersign_testkit::temp_dir();
    let spool = slow(directory.path());
    let mut long = facts(0);
    long.edge.route = "x".repeat(1 << 16);
    assert_eq!(spool.ring().edge_index(&long), None);
    let refused = spool.record_call(&long, |edge| row(edge, 1));
    assert_eq!(refused, Err(RingError::UnknownEdge));
    assert_eq!(spool.record_call(&facts(0), |edge| row(edge, 1)), Ok(()));
    drop(spool);
    assert_eq!(decisions(directory.path()).len(), 1);
}

#[test]
fn calls_that_the_disk_does_not_take_are_counted() {
    let directory = countersign_testkit::temp_dir();
    let writer = "spiffe://fleamarket.test/svc/ads".parse().unwrap();
    let limits = SpoolLimits { bytes_max: 512, ring_rows: 64, ..SpoolLimits::default() };
    let spool = Spool::open(directory.path().to_owned(), writer, limits).unwrap();
    push_all(&spool, 2, 0..50);
    let dropped = || {
        entries(directory.path()).into_iter().find_map(|entry| match entry.event {
            Event::Dropped { count, .. } => Some(count),
            _ => None,
        })
    };
    while dropped().is_none() {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(dropped(), Some(50));
}

#[test]
fn a_start_that_was_killed_is_recorded_by_the_next_one_and_a_clean_end_is_not() {
    let directory = countersign_testkit::temp_dir();
    let sign = directory.path().join(format!("{KILLED}.alive"));
    std::fs::write(&sign, b"").unwrap();
    open(directory.path(), SpoolLimits::default()).close();
    let killed: BootId = KILLED.parse().unwrap();
    let told = |entry: &Entry| entry.event == Event::EndedAbruptly { boot: killed };
    assert_eq!(entries(directory.path()).iter().filter(|entry| told(entry)).count(), 1);
    assert!(!sign.exists());

    let first = open(directory.path(), SpoolLimits::default());
    let second = open(directory.path(), SpoolLimits::default());
    first.close();
    second.close();
    let signs = std::fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().path());
    assert_eq!(signs.filter(|path| path.extension().is_some_and(|e| e == "alive")).count(), 0);
    assert_eq!(entries(directory.path()).len(), 1, "a living start or a clean end is no loss");
}
