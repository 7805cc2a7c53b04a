//! # The ledger: who holds a head from before can prove that nothing was taken back.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection};

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
    tamper(&d, "DELETE FROM ledger WHERE log_index > (SELECT MAX(log_index) - 5 FROM ledger)");
    d.up();
    refused(&d, "the tail was cut");
    d.ok(&["down"]);

    put(&d, &today);
    tamper(&d, "UPDATE ledger SET event = replace(event, 'accepted', 'wrong_password') WHERE kind = 'login'");
    d.up();
    refused(&d, "an event was changed");
    d.ok(&["down"]);

    put(&d, &today);
    d.up();
    d.ok(&["audit", "verify", "--head", &head]);
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
