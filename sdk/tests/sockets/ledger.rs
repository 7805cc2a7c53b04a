//! What is on disk before anybody is answered, and how it gets to the authority.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use countersign_identity::{Mode, UnixTime};
use countersign_ledger::{Decision, Event, Record, Verdict, WriterVerifier};
use countersign_sdk::spool::{EDGES_MAX, EdgeCall, Ship, Spool, SpoolError, SpoolLimits};
use countersign_wire::agent::ReportRequest;
use tokio_util::sync::CancellationToken;

use crate::{
    callers::eventually,
    deployment::{Deployment, counting, get_request, read, text},
    modes::callee,
};

const TICK: Duration = Duration::from_millis(700);

fn event(by_ms: u64) -> Event {
    Event::ClockSteppedBack { by_ms }
}

fn open(directory: &Path, limits: SpoolLimits) -> Arc<Spool> {
    let writer = "spiffe://fleamarket.test/svc/ads".parse().unwrap();
    Spool::open(directory.to_owned(), writer, limits).unwrap()
}

fn count_call(spool: &Spool, source: &str) {
    let (target, mode, user, policy) = ("ads", "mtls", "none", "");
    let latency = Duration::from_micros(3);
    spool.edges().count(EdgeCall { source, target, mode, user, policy, allowed: true, latency });
}

/// Everything in the files of a directory.
fn on_disk(directory: &Path) -> String {
    spooled(directory).iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

/// The files of records in a directory, by their names.
fn spooled(directory: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "spool")).collect();
    files.sort();
    files
}

/// An authority that takes everything, or nothing for a while.
#[derive(Clone, Default)]
struct Taker {
    taken: Arc<Mutex<Vec<ReportRequest>>>,
    refuses: Arc<Mutex<u32>>,
    refuses_edges: bool,
}

impl Ship for Taker {
    async fn ship(&self, report: ReportRequest) -> Result<u64, tonic::Status> {
        let mut refuses = self.refuses.lock().unwrap();
        if *refuses > 0 {
            *refuses -= 1;
            return Err(tonic::Status::unavailable("not now"));
        }
        if self.refuses_edges && !report.edges.is_empty() {
            return Err(tonic::Status::invalid_argument("no counters"));
        }
        let last = report.records.last().map_or(0, |record| record.sequence);
        self.taken.lock().unwrap().push(report);
        Ok(last)
    }
}

impl Taker {
    fn records(&self) -> Vec<Record> {
        let taken = self.taken.lock().unwrap();
        taken.iter().flat_map(|report| &report.records).map(read).collect()
    }

    /// Ships what there is, once.
    async fn take_all(&self, spool: &Arc<Spool>) {
        let ended = CancellationToken::new();
        ended.cancel();
        Arc::clone(spool).ship(self.clone(), ended).await;
    }
}

#[tokio::test]
async fn a_refusal_is_on_disk_before_its_answer_leaves() {
    let deployment = Deployment::new();
    deployment.permit("users", &["ads"]);
    deployment.report_fails.store(usize::MAX, Ordering::SeqCst);
    let users = deployment.serve("users", counting().0).await;
    let client = deployment.bare_client(Some(&deployment.leaf("chat")), "users", users.address);
    for _ in 0..3 {
        let answer = client.send(get_request("/users/7")).await.unwrap();
        let problem: serde_json::Value = serde_json::from_str(&text(answer).await).unwrap();
        let spooled = on_disk(&deployment.directory.path().join("spool/users"));
        assert!(spooled.contains(problem["decision"].as_str().unwrap()), "{spooled}");
    }
    assert!(users.workload.spool().backlog_bytes() > 0);
}

#[tokio::test]
async fn allowed_calls_follow_in_a_batch_within_a_second_and_name_no_token() {
    let deployment = Deployment::new();
    deployment.permit("users", &["ads"]);
    let users = deployment.serve("users", counting().0).await;
    let client = deployment.bare_client(Some(&deployment.leaf("ads")), "users", users.address);
    let token = deployment.txn_token("alice", &deployment.gateway_key, Duration::from_mins(1));
    for _ in 0..20 {
        let mut request = get_request("/users/7?q=secret");
        request.headers_mut().insert("txn-token", token.parse().unwrap());
        assert_eq!(client.send(request).await.unwrap().status(), 200);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let decisions = deployment.decisions();
    assert_eq!(decisions.len(), 20);
    let all = format!("{decisions:?}");
    assert!(
        !all.contains("eyJ") && !all.contains("secret") && !all.contains("alice") && !all.contains("u_"),
        "{all}"
    );

    let reports = deployment.reports.lock().unwrap();
    let edges: Vec<_> = reports.iter().flat_map(|report| &report.edges).collect();
    assert_eq!(edges.iter().map(|edge| edge.requests).sum::<u64>(), 20);
    assert_eq!(edges[0].source, "spiffe://fleamarket.test/svc/ads");
    assert_eq!((edges[0].target.as_str(), edges[0].mode.as_str()), ("users", "mtls"));
    assert_eq!((edges[0].user.as_str(), edges[0].policy.as_str()), ("internal_token", "ads-may"));
    let mut chain: Option<WriterVerifier> = None;
    for record in reports.iter().flat_map(|report| &report.records).map(read) {
        let chain = chain.get_or_insert_with(|| WriterVerifier::start(record.writer.clone(), record.boot));
        chain.accept(&record).unwrap();
    }
    let records = reports.iter().flat_map(|report| &report.records).map(read);
    let batches = records.filter(|record| matches!(record.entry().unwrap().event, Event::AllowedCalls(_)));
    assert!(batches.count() < 5, "calls of one second are not recorded together");
}

#[tokio::test]
async fn a_permitted_call_whose_caller_hangs_up_is_recorded() {
    let deployment = Deployment::new();
    deployment.permit("users", &["ads"]);
    let endless = || std::future::pending::<&'static str>();
    let router = axum::Router::new().route("/endless", axum::routing::get(endless));
    let users = deployment.serve("users", router).await;
    let client = deployment.bare_client(Some(&deployment.leaf("ads")), "users", users.address);
    let calling = client.send(get_request("/endless"));
    assert!(tokio::time::timeout(Duration::from_millis(300), calling).await.is_err());
    let decision = deployment.reported(|decision| decision.route == "/endless").await.expect("no record");
    assert_eq!((decision.verdict, decision.status), (Verdict::Allow, 0));
    assert!(decision.latency_us > 0 && decision.reason.is_some());
}

#[tokio::test]
async fn what_a_dead_process_left_behind_is_shipped_by_its_successor() {
    let directory = countersign_testkit::temp_dir();
    let died = open(directory.path(), SpoolLimits::default());
    died.record_durably(event(1)).await.unwrap();
    died.record_durably(event(2)).await.unwrap();
    drop(died);
    // It died in the middle of a line.
    let file = spooled(directory.path()).remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.extend_from_slice(b"3 abcdef {\"v\":1,");
    std::fs::write(&file, bytes).unwrap();

    let successor = open(directory.path(), SpoolLimits::default());
    successor.record_durably(event(4)).await.unwrap();
    let taker = Taker::default();
    taker.take_all(&successor).await;
    let records = taker.records();
    assert_eq!(records.iter().map(|record| record.sequence).collect::<Vec<_>>(), [1, 2, 1]);
    assert!(records[0].boot == records[1].boot && records[1].boot != records[2].boot);
    let mut chain = WriterVerifier::start(records[0].writer.clone(), records[0].boot);
    chain.accept(&records[0]).unwrap();
    chain.accept(&records[1]).unwrap();
    assert!(!file.exists(), "a shipped file stays");
    assert_eq!(successor.backlog_bytes(), 0);
}

#[tokio::test]
async fn a_clock_that_was_set_back_does_not_reverse_what_a_dead_process_left() {
    let directory = countersign_testkit::temp_dir();
    let limits = SpoolLimits { file_bytes_max: 1, ..SpoolLimits::default() };
    let died = open(directory.path(), limits);
    for n in 0..4 {
        died.record_durably(event(n)).await.unwrap();
    }
    drop(died);
    let files = spooled(directory.path());
    assert_eq!(files.len(), 4);
    for (hours, file) in files.iter().rev().enumerate() {
        let at = std::time::UNIX_EPOCH + Duration::from_hours(1 + hours as u64);
        std::fs::File::options().write(true).open(file).unwrap().set_modified(at).unwrap();
    }
    let taker = Taker::default();
    taker.take_all(&open(directory.path(), limits)).await;
    let sequences: Vec<_> = taker.records().iter().map(|record| record.sequence).collect();
    assert_eq!(sequences, [1, 2, 3, 4]);
}

#[tokio::test]
async fn records_wait_for_an_authority_that_is_away_and_then_come_once_and_in_order() {
    let directory = countersign_testkit::temp_dir();
    let limits = SpoolLimits { file_bytes_max: 600, ..SpoolLimits::default() };
    let spool = open(directory.path(), limits);
    let taker = Taker::default();
    *taker.refuses.lock().unwrap() = 2;
    let stop = CancellationToken::new();
    let shipping = tokio::spawn(Arc::clone(&spool).ship(taker.clone(), stop.clone()));
    for n in 0..20 {
        spool.record_durably(event(n)).await.unwrap();
    }
    for _ in 0..100 {
        if taker.records().len() == 20 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.cancel();
    shipping.await.unwrap();
    let sequences: Vec<_> = taker.records().iter().map(|record| record.sequence).collect();
    assert_eq!(sequences, (1..=20).collect::<Vec<_>>());
    let files = spooled(directory.path());
    assert_eq!(files.len(), 1, "only the file that is being written stays");
}

#[tokio::test]
async fn a_full_spool_refuses_to_grow_and_counts_what_it_could_not_keep() {
    let directory = countersign_testkit::temp_dir();
    let limits =
        SpoolLimits { bytes_max: 4096, file_bytes_max: 1024, waiting_max: 8, urgent_max: 8, ring_rows: 64 };
    let spool = open(directory.path(), limits);
    let mut kept = 0;
    let full = loop {
        match spool.record_durably(event(kept)).await {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full, SpoolError::Full);
    assert!(kept > 4, "{kept}");
    assert!(on_disk(directory.path()).len() <= 4096 + 512, "the limit does not hold");
    for n in 0..20 {
        spool.record(event(1000 + n));
    }
    tokio::time::sleep(TICK).await;

    let taker = Taker::default();
    taker.take_all(&spool).await;
    tokio::time::sleep(TICK).await;
    taker.take_all(&spool).await;
    let events: Vec<_> = taker.records().iter().map(|record| record.entry().unwrap().event).collect();
    let dropped = events.iter().find_map(|event| match event {
        Event::Dropped { count, since, until } => Some((*count, *since <= *until)),
        _ => None,
    });
    // The refusal that came too late counts as well.
    assert_eq!(dropped, Some((21, true)));
    // The numbers have no gap: what was not kept never had one.
    let sequences: Vec<_> = taker.records().iter().map(|record| record.sequence).collect();
    assert_eq!(sequences, (1..=kept + 1).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_report_is_never_larger_than_what_an_agent_takes() {
    let directory = countersign_testkit::temp_dir();
    let spool = open(directory.path(), SpoolLimits::default());
    for _ in 0..2 {
        let crowd = (0..700).map(|n| spool.record_durably(event(n)));
        assert!(futures::future::join_all(crowd).await.iter().all(Result::is_ok));
    }
    for shard in 0..3 {
        let spool = Arc::clone(&spool);
        let count =
            move || (0..600).for_each(|n| count_call(&spool, &format!("spiffe://td/svc/s{shard}-{n}")));
        std::thread::spawn(count).join().unwrap();
    }
    let taker = Taker::default();
    taker.take_all(&spool).await;
    let taken = taker.taken.lock().unwrap();
    assert!(taken.iter().all(|report| report.records.len() <= 1000 && report.edges.len() <= 1000));
    assert_eq!(taken.iter().map(|report| report.records.len()).sum::<usize>(), 1400);
    assert_eq!(taken.iter().map(|report| report.edges.len()).sum::<usize>(), 1800);
}

#[tokio::test]
async fn counters_that_are_refused_hold_back_no_record() {
    let directory = countersign_testkit::temp_dir();
    let spool = open(directory.path(), SpoolLimits::default());
    spool.record_durably(event(1)).await.unwrap();
    count_call(&spool, "spiffe://td/svc/ads");
    let taker = Taker { refuses_edges: true, ..Taker::default() };
    taker.take_all(&spool).await;
    assert_eq!(taker.records().len(), 1);
    assert_eq!(spool.edges().take().len(), 1, "counters wait for the next time");
}

#[tokio::test]
async fn files_are_for_their_owner_alone_and_a_closed_spool_takes_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let parent = countersign_testkit::temp_dir();
    let directory = parent.path().join("spool");
    let spool = open(&directory, SpoolLimits::default());
    spool.record_durably(event(1)).await.unwrap();
    spool.record(event(2));
    spool.close();
    assert_eq!(spool.record_durably(event(3)).await, Err(SpoolError::Closed));
    assert!(on_disk(&directory).contains("\"by_ms\":2"), "what was waiting is lost");
    spool.record(event(4));
    assert_eq!(spool.waiting(), 0, "an event waits for a thread that has ended");
    assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    let file = std::fs::metadata(&spooled(&directory)[0]).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn rejects_a_place_that_is_none_an_event_that_is_too_large_and_a_crowd() {
    let directory = countersign_testkit::temp_dir();
    let file = directory.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let writer: countersign_identity::SpiffeId = "spiffe://fleamarket.test/svc/ads".parse().unwrap();
    let refused = Spool::open(file.join("below"), writer, SpoolLimits::default()).unwrap_err();
    assert!(matches!(refused, SpoolError::Disk { .. }), "{refused}");

    let spool =
        open(&directory.path().join("spool"), SpoolLimits { urgent_max: 1, ..SpoolLimits::default() });
    let huge = Event::LedgerAlarm { finding: "x".repeat(1 << 20) };
    assert!(matches!(spool.record_durably(huge).await, Err(SpoolError::Event { .. })));
    let crowd = (0..64).map(|n| spool.record_durably(event(n)));
    let answers = futures::future::join_all(crowd).await;
    assert!(answers.contains(&Err(SpoolError::Busy(1))));
    assert!(answers.contains(&Ok(())));
}

#[tokio::test]
async fn refused_strangers_cannot_fill_the_disk() {
    let deployment = Deployment::new();
    deployment.permit("users", &["ads"]);
    let users = deployment.serve("users", counting().0).await;
    for _ in 0..60 {
        let stranger = deployment.bare_client(None, "users", users.address);
        assert!(stranger.send(get_request("/users/7")).await.is_err());
    }
    tokio::time::sleep(TICK).await;
    let recorded = deployment.decisions().len();
    // One minute may end while this runs.
    assert!((31..=62).contains(&recorded) && recorded < 60, "{recorded}");
}

#[tokio::test]
async fn refused_strangers_cannot_fill_the_disk_where_no_handshake_stops_them() {
    for floor in [[Mode::Jwt, Mode::Mtls], [Mode::None, Mode::Mtls]] {
        let deployment = Deployment::new();
        let users = callee(&deployment, &floor).await;
        let stranger = deployment.bare_client(None, "users", users.address);
        for _ in 0..100 {
            assert!(stranger.send(get_request("/who")).await.unwrap().status().is_client_error());
        }
        // Whoever proved something is recorded each time, and after them in order.
        let media = deployment.bare_client(Some(&deployment.leaf("media")), "users", users.address);
        for _ in 0..40 {
            assert_eq!(media.send(get_request("/who")).await.unwrap().status(), 403);
        }
        let of_media = |decision: &Decision| decision.source.is_some();
        eventually(|| deployment.decisions().iter().filter(|decision| of_media(decision)).count() == 40)
            .await;
        let of_strangers = deployment.decisions().iter().filter(|decision| !of_media(decision)).count();
        // One minute may end while this runs.
        assert!((31..=62).contains(&of_strangers), "{of_strangers} with {floor:?}");
    }
}

#[test]
fn counters_are_bounded_too() {
    let directory = countersign_testkit::temp_dir();
    let spool = open(directory.path(), SpoolLimits::default());
    for n in 0..EDGES_MAX * 2 {
        count_call(&spool, &format!("spiffe://fleamarket.test/svc/s{n}"));
    }
    let taken = spool.edges().take();
    assert_eq!(taken.len(), EDGES_MAX + 1);
    count_call(&spool, "spiffe://fleamarket.test/svc/new");
    spool.edges().put_back(taken);
    assert!(spool.edges().take().len() <= EDGES_MAX + 1, "what is put back goes past the limit");
    assert!(UnixTime::from_secs(0) < countersign_sdk::clock::now());
}
