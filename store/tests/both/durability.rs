//! What was acknowledged survives: kill -9 of the process that wrote it, and a crash of the server.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use countersign_identity::TrustDomain;
use countersign_store::{Db, Kind};
use countersign_testkit::{Child, Postgres};

use crate::ground::{Ground, NOW, certificate, founding};

const KILLS: u32 = 50;
const KILLS_IN_FLIGHT_MIN: u32 = 20;

both! {
    async fn every_writing_connection_says_that_it_is_durable(ground: &Ground) {
        let found = ground.db.durability().await.unwrap();
        assert!(found.durable);
        match ground.db.kind() {
            Kind::Sqlite => assert_eq!((found.setting, found.value.as_str()), ("synchronous", "2, journal_mode wal")),
            Kind::Postgres => {
                assert_eq!(found.setting, "synchronous_commit");
                assert!(found.value.starts_with("on,"), "{}", found.value);
            }
        }
    }

    async fn no_acknowledged_serial_is_missing_after_fifty_kills_while_issuing(ground: &Ground) {
        let (mut acknowledged, mut in_flight) = (Vec::new(), 0);
        for turn in 0..KILLS {
            let (serials, interrupted) = issue_until_killed(ground, turn);
            acknowledged.extend(serials);
            in_flight += u32::from(interrupted);
        }
        assert!(in_flight >= KILLS_IN_FLIGHT_MIN, "only {in_flight} kills met a request in flight");
        assert!(acknowledged.len() > KILLS as usize, "only {} were issued", acknowledged.len());
        let db = ground.reopened().await;
        for serial in &acknowledged {
            assert!(db.certificate(serial).await.unwrap().is_some(), "acknowledged serial {serial} is missing");
        }
        // Each certificate has its event, also the last one before each kill.
        let issued = db.live_certificates(NOW).await.unwrap();
        assert!(issued >= acknowledged.len() as u64);
        assert_eq!(db.log_state().await.unwrap().size(), issued);
    }
}

#[tokio::test]
async fn what_postgres_acknowledged_survives_its_crash_although_the_server_prefers_speed() {
    let lazy = ["synchronous_commit=off", "wal_writer_delay=10s"];
    let Some(mut server) = Postgres::start_with(&lazy) else { return };
    let home = TrustDomain::parse("fleamarket.test").unwrap();
    let url = server.database();
    let db = Db::open_postgres(&url, &home).await.unwrap();
    db.found(&founding(&home), NOW).await.unwrap();
    let ads = countersign_identity::SpiffeId::service(&home, "ads").unwrap();
    db.issue_and_record(&certificate("01", &ads), &[], NOW).await.unwrap();

    // The same server loses what a connection writes that does not insist: the test can fail.
    sqlx::any::install_default_drivers();
    let careless = sqlx::AnyPool::connect(&url).await.unwrap();
    sqlx::raw_sql("UPDATE meta SET epoch = 'lost'").execute(&careless).await.unwrap();
    server.crash_and_restart();

    let db = Db::open_postgres(&url, &home).await.unwrap();
    assert!(db.certificate("01").await.unwrap().is_some());
    assert_eq!(db.meta().await.unwrap().unwrap().epoch, "e1");
}

/// Kills a process that issues, after a time that differs from turn to turn. Returns what it acknowledged, and
/// whether it was in the middle of a request.
fn issue_until_killed(ground: &Ground, turn: u32) -> (Vec<String>, bool) {
    let mut child = Child::spawn(
        Command::new(std::env::current_exe().unwrap())
            .args(["durability::issues_until_killed", "--exact", "--ignored", "--nocapture"])
            .env("COUNTERSIGN_TEST_DATABASE", ground.url())
            .env("COUNTERSIGN_TEST_TURN", turn.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null()),
    );
    let (sender, lines) = mpsc::channel();
    let stdout = child.inner().stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let mut acknowledged = Vec::new();
    let mut open = false;
    let mut note = |line: String| match line.split_once(' ') {
        Some(("begin", _)) => open = true,
        Some(("done", serial)) => {
            open = false;
            acknowledged.push(serial.to_owned());
        }
        _ => {}
    };
    // Past the start, then a moment that walks through the phases of a request.
    for line in lines.iter() {
        let started = line.starts_with("done ");
        note(line);
        if started {
            break;
        }
    }
    std::thread::sleep(Duration::from_micros(u64::from(turn) * 397));
    child.kill();
    reader.join().unwrap();
    lines.try_iter().for_each(&mut note);
    (acknowledged, open)
}

/// Not a test of its own: the process that is killed.
#[tokio::test]
#[ignore = "run by no_acknowledged_serial_is_missing_after_fifty_kills_while_issuing"]
#[allow(clippy::print_stdout)]
async fn issues_until_killed() {
    let Ok(url) = std::env::var("COUNTERSIGN_TEST_DATABASE") else { return };
    let turn = std::env::var("COUNTERSIGN_TEST_TURN").unwrap();
    let home = TrustDomain::parse("fleamarket.test").unwrap();
    let db = match url.strip_prefix("sqlite://") {
        Some(path) => Db::open_sqlite(path.as_ref(), &home).await.unwrap(),
        None => Db::open_postgres(&url, &home).await.unwrap(),
    };
    let ads = countersign_identity::SpiffeId::service(&home, "ads").unwrap();
    let boot: u128 = turn.parse::<u128>().unwrap() + (1 << 64);
    let mut writer = countersign_ledger::Writer::start(
        countersign_identity::SpiffeId::authority(&home),
        countersign_ledger::BootId::from_random(boot.to_be_bytes()),
    );
    for number in 0..100_000 {
        let serial = format!("{turn:0>4}{number:08x}");
        println!("begin {serial}");
        let record = crate::ground::event(&mut writer);
        db.issue_and_record(&certificate(&serial, &ads), &[record], NOW).await.unwrap();
        println!("done {serial}");
    }
}
