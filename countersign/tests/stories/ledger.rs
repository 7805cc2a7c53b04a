//! # The ledger: who holds a head from before can prove that nothing was taken back.

use std::collections::HashMap;

use countersign_ledger::chain::{Record, WriterVerifier, leaf};
use countersign_ledger::digest::Digest;
use countersign_ledger::log::LogState;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Row as _, SqliteConnection};

use crate::deployment::{Deployment, text};

fn database(d: &Deployment) -> std::path::PathBuf {
    let found: Vec<_> = crate::deployment::files_below(&d.state().join("authority"))
        .into_iter()
        .filter(|p| p.extension().is_some_and(|e| e == "db"))
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

/// Runs SQL on the stopped deployment's database, as somebody who owns the disk could.
fn tamper(d: &Deployment, sql: &'static str) {
    let path = database(d);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut db: SqliteConnection = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
        let done = sqlx::query(sql).execute(&mut db).await.unwrap();
        assert!(done.rows_affected() > 0, "{sql} changed nothing");
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut db).await.unwrap();
    });
}

#[test]
fn a_ledger_that_was_cut_rolled_back_or_rewritten_fails_against_a_saved_head() {
    let mut d = Deployment::start();
    let head = d.scratch("outside").join("head.json").display().to_string();
    let said = d.ok(&["audit", "verify"]);
    assert!(said.contains("internally consistent only"), "{said}");

    // Yesterday's file, kept before the head was saved.
    d.ok(&["down"]);
    let yesterday = std::fs::read(database(&d)).unwrap();
    d.up();
    d.ok(&["login", "alice", "--token"]);
    d.ok(&["audit", "head", "--out", &head]);
    let said = d.ok(&["audit", "verify", "--head", &head]);
    assert!(said.contains("matches the saved head"), "{said}");
    d.ok(&["down"]);
    let today = std::fs::read(database(&d)).unwrap();

    let refused = |d: &Deployment, case: &str| {
        let out = d.run(&["audit", "verify", "--head", &head]);
        assert_eq!(out.status.code(), Some(1), "{case}: {}{}", text(&out.stdout), text(&out.stderr));
    };
    let put = |d: &Deployment, bytes: &[u8]| {
        std::fs::write(database(d), bytes).unwrap();
        for suffix in ["-wal", "-shm"] {
            let mut path = database(d).into_os_string();
            path.push(suffix);
            let _ = std::fs::remove_file(path);
        }
    };

    put(&d, &yesterday);
    d.up();
    refused(&d, "yesterday's file");
    d.ok(&["down"]);

    put(&d, &today);
    tamper(&d, "DELETE FROM ledger WHERE idx > (SELECT MAX(idx) - 5 FROM ledger)");
    d.up();
    refused(&d, "the tail was cut");
    d.ok(&["down"]);

    put(&d, &today);
    tamper(&d, "UPDATE ledger SET event = replace(event, 'accepted', 'wrong_password') WHERE kind = 'login'");
    d.up();
    refused(&d, "an event was changed");
    d.ok(&["down"]);

    put(&d, &today);
    rewrite_everything(&d);
    d.up();
    let said = d.ok(&["audit", "verify"]);
    assert!(said.contains("internally consistent only"), "every hash was computed again: {said}");
    refused(&d, "all hashes were recomputed");
    d.ok(&["down"]);

    put(&d, &today);
    d.up();
    d.ok(&["audit", "verify", "--head", &head]);
}

/// What the best forger can do who owns the database: change an old event, then compute every hash after it again.
fn rewrite_everything(d: &Deployment) {
    let path = database(d);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut db: SqliteConnection = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
        let rows = sqlx::query("SELECT idx, writer, boot, sequence, event FROM ledger ORDER BY idx")
            .fetch_all(&mut db)
            .await
            .unwrap();
        let domain = "fleamarket.test".parse().unwrap();
        let mut log = LogState::empty(&domain);
        let mut chains: HashMap<(String, String), Digest> = HashMap::new();
        let mut changed = 0;
        for row in &rows {
            let (idx, writer, boot): (i64, String, String) = (row.get(0), row.get(1), row.get(2));
            let mut event: String = row.get(4);
            if event.contains("\"outcome\":\"accepted\"") {
                event = event.replace("\"outcome\":\"accepted\"", "\"outcome\":\"wrong_password\"");
                changed += 1;
            }
            let start = || WriterVerifier::start(writer.parse().unwrap(), boot.parse().unwrap()).hash();
            let chain = chains.entry((writer.clone(), boot.clone())).or_insert_with(start);
            *chain = link(chain, &leaf(event.as_bytes()));
            let record = Record {
                writer: writer.parse().unwrap(),
                boot: boot.parse().unwrap(),
                sequence: u64::try_from(row.get::<i64, _>(3)).unwrap(),
                bytes: event.clone().into_bytes(),
                chain: *chain,
            };
            log.append(&record);
            sqlx::query("UPDATE ledger SET event = $1, chain = $2, log = $3 WHERE idx = $4")
                .bind(event)
                .bind(chain.to_string())
                .bind(log.hash().to_string())
                .bind(idx)
                .execute(&mut db)
                .await
                .unwrap();
        }
        assert!(changed > 0, "there was a login to deny");
        sqlx::query("UPDATE ledger_state SET hash = $1")
            .bind(log.hash().to_string())
            .execute(&mut db)
            .await
            .unwrap();
        sqlx::query("DELETE FROM ledger_heads").execute(&mut db).await.unwrap();
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut db).await.unwrap();
    });
}

/// The chain's step, as the ledger's documentation states it.
fn link(previous: &Digest, leaf: &Digest) -> Digest {
    let bytes = [&[1_u8][..], previous.as_bytes(), leaf.as_bytes()].concat();
    Digest::try_from(&countersign_keys::sha256(&bytes)[..]).unwrap()
}

#[test]
fn the_five_steps_of_figure_3_1_are_five_events_of_the_ledger() {
    let d = Deployment::shared();
    for kind in [
        "bootstrap_credential_issued",
        "enrolment_requested",
        "csr_built",
        "certificate_signed",
        "certificate_delivered",
    ] {
        let found = d.json(&["audit", "search", "--kind", kind]);
        assert!(!found.as_array().unwrap().is_empty(), "no {kind}");
    }
    let signed = d.json(&["audit", "search", "--kind", "certificate_signed"]);
    assert!(
        signed.to_string().contains("spiffe://fleamarket.test/svc/ads"),
        "registration links identity and key"
    );
}
