use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use countersign_identity::TrustDomain;
use countersign_store::{Db, Kind, StoreError};

use crate::ground::{Ground, NOW};

both! {
    async fn a_database_of_a_newer_version_is_left_alone(ground: &Ground) {
        ground.db.close().await;
        let insert = match ground.db.kind() {
            Kind::Sqlite => "INSERT INTO _sqlx_migrations VALUES (999, 'future', CURRENT_TIMESTAMP, 1, x'00', 1)",
            Kind::Postgres => "INSERT INTO _sqlx_migrations VALUES (999, 'future', now(), true, '\\x00', 1)",
        };
        ground.tamper(insert).await;
        assert_eq!(reopen(ground).await.unwrap_err(), StoreError::Newer { version: 999 });
    }

    async fn a_migration_that_was_changed_after_it_ran_is_noticed(ground: &Ground) {
        ground.db.close().await;
        let update = match ground.db.kind() {
            Kind::Sqlite => "UPDATE _sqlx_migrations SET checksum = x'00'",
            Kind::Postgres => "UPDATE _sqlx_migrations SET checksum = '\\x00'",
        };
        ground.tamper(update).await;
        assert!(matches!(reopen(ground).await.unwrap_err(), StoreError::Migration { .. }));
    }

    async fn a_lock_that_is_held_too_long_is_busy_and_not_waited_for_ever(ground: &Ground) {
        sqlx::any::install_default_drivers();
        let other = sqlx::AnyPool::connect(&ground.url()).await.unwrap();
        let mut holder = other.acquire().await.unwrap();
        let take = match ground.db.kind() {
            Kind::Sqlite => "BEGIN IMMEDIATE",
            Kind::Postgres => "BEGIN; SELECT * FROM ledger_state FOR UPDATE",
        };
        sqlx::raw_sql(take).execute(&mut *holder).await.unwrap();
        let limit = Duration::from_secs(60);
        let blocked = tokio::time::timeout(limit, ground.db.append(&[ground.record()], NOW)).await;
        assert_eq!(blocked.expect("the wait is bounded"), Err(StoreError::Busy));
        sqlx::raw_sql("ROLLBACK").execute(&mut *holder).await.unwrap();
        ground.db.append(&[ground.record()], NOW).await.unwrap();
    }

    async fn what_the_database_refuses_is_told_without_our_values(ground: &Ground) {
        ground.tamper("DROP TABLE crls").await;
        let Err(StoreError::Refused { why }) = ground.db.crl("secret-looking-value").await else {
            panic!("a missing table must be refused")
        };
        assert!(why.contains("crls") && !why.contains("secret-looking-value"), "{why}");
    }

    async fn two_processes_may_open_and_migrate_at_once(ground: &Ground) {
        let (first, second) = tokio::join!(ground.reopened(), ground.reopened());
        assert_eq!(first.meta().await.unwrap(), second.meta().await.unwrap());
    }
}

async fn reopen(ground: &Ground) -> Result<Db, StoreError> {
    match ground.file() {
        Some(file) => Db::open_sqlite(&file, &ground.home).await,
        None => Db::open_postgres(&ground.url(), &ground.home).await,
    }
}

fn home() -> TrustDomain {
    TrustDomain::parse("fleamarket.test").unwrap()
}

#[tokio::test]
async fn nobody_but_the_owner_reads_the_file_its_log_or_its_index() {
    let ground = Ground::sqlite().await;
    ground.db.append(&[ground.record()], NOW).await.unwrap();
    let file = ground.file().unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let path = format!("{}{suffix}", file.display());
        let mode = std::fs::metadata(&path).unwrap_or_else(|_| panic!("{path} exists")).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{path}");
    }
    // Rights that somebody gave away are taken back.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let _second = ground.reopened().await;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_file_may_have_any_name_that_is_text() {
    let dir = countersign_testkit::temp_dir();
    for name in ["with space.db", "what?mode=memory.db", "100%25.db", "#hash.db", "ümlaut.db", ":memory:"] {
        let path = dir.path().join(name);
        let db = Db::open_sqlite(&path, &home()).await.unwrap();
        assert_eq!(db.meta().await.unwrap(), None);
        db.close().await;
        assert!(std::fs::metadata(&path).unwrap().len() > 4096, "{name} holds the tables");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 6, "and no other file was made");
}

#[tokio::test]
async fn a_name_that_is_not_text_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let dir = countersign_testkit::temp_dir();
    let path = dir.path().join(std::ffi::OsStr::from_bytes(b"\xff.db"));
    assert!(matches!(Db::open_sqlite(&path, &home()).await.unwrap_err(), StoreError::File { .. }));
}

#[tokio::test]
async fn what_is_not_there_is_unreachable_and_no_password_is_repeated() {
    let missing = Db::open_sqlite(Path::new("/nonexistent/authority.db"), &home()).await.unwrap_err();
    assert!(matches!(missing, StoreError::Unreachable { .. }));
    let port = countersign_testkit::free_port();
    for url in [format!("postgres://u:hunter2@127.0.0.1:{port}/x"), "postgres://u:hunter2@[oops".to_owned()] {
        let error = Db::open_postgres(&url, &home()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_not_overwritten() {
    let dir = countersign_testkit::temp_dir();
    let path = dir.path().join("notes.txt");
    let text = "not a database\n".repeat(500);
    std::fs::write(&path, &text).unwrap();
    assert!(Db::open_sqlite(&path, &home()).await.is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}
