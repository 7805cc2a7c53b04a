//! Opening, durability, and who may read the file.

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_identity::TrustDomain;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions, install_default_drivers};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Any, AnyConnection, AnyPool, Connection as _, Executor as _, SqlSafeStr as _, Transaction};

use crate::StoreError;

/// The state of one trust domain in one database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Db {
    kind: Kind,
    trust_domain: TrustDomain,
    writer: AnyPool,
    reader: AnyPool,
}

/// Which database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One file, one writing connection.
    Sqlite,
    /// A server.
    Postgres,
}

/// What a writing connection says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durability {
    /// `synchronous` or `synchronous_commit`.
    pub setting: &'static str,
    /// What the database says.
    pub value: String,
    /// Is an acknowledged write safe?
    pub durable: bool,
}

impl Db {
    /// Opens or creates the database file (0600, also its `-wal` and `-shm`) and migrates it.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`], [`StoreError::File`], [`StoreError::NotDurable`], [`StoreError::Newer`],
    /// [`StoreError::Migration`], [`StoreError::Busy`].
    pub async fn open_sqlite(path: &Path, trust_domain: &TrustDomain) -> Result<Db, StoreError> {
        make_private(path)?;
        let url = sqlite_url(path)?;
        let writer =
            pool(1, Kind::Sqlite, Role::Writer).connect_with(options(&url)?).await.map_err(opening)?;
        migrator().run(&writer).await?;
        let reader = pool(READERS_MAX, Kind::Sqlite, Role::Reader)
            .connect_with(options(&url)?)
            .await
            .map_err(opening)?;
        // The files beside it inherit its mode; those left by an older run may not have.
        make_private(path)?;
        Ok(Db { kind: Kind::Sqlite, trust_domain: trust_domain.clone(), writer, reader })
    }

    /// Connects to `postgres://…` and migrates the database.
    ///
    /// # Errors
    /// As [`Db::open_sqlite`].
    pub async fn open_postgres(url: &str, trust_domain: &TrustDomain) -> Result<Db, StoreError> {
        probe(url, Kind::Postgres).await?;
        let writer = pool(CONNECTIONS_MAX, Kind::Postgres, Role::Writer)
            .connect_with(options(url)?)
            .await
            .map_err(opening)?;
        migrator().run(&writer).await?;
        Ok(Db { kind: Kind::Postgres, trust_domain: trust_domain.clone(), reader: writer.clone(), writer })
    }

    /// The same database, speaking for another trust domain.
    #[must_use]
    pub fn for_trust_domain(&self, trust_domain: &TrustDomain) -> Db {
        Db { trust_domain: trust_domain.clone(), ..self.clone() }
    }

    /// Whom this speaks for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Which database it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Asks a writing connection whether what it acknowledges is safe.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn durability(&self) -> Result<Durability, StoreError> {
        let mut connection = self.writer.acquire().await?;
        durability_of(&mut connection, self.kind).await.map_err(StoreError::from)
    }

    /// Ends all connections; what is committed is safe without it.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    /// The pool for SELECTs that need no transaction.
    pub(crate) fn reader(&self) -> &AnyPool {
        &self.reader
    }

    /// The pool for single statements that change something.
    pub(crate) fn writer(&self) -> &AnyPool {
        &self.writer
    }

    /// A transaction that holds the write lock from its beginning (SQLite) or locks rows as it goes (PostgreSQL).
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Any>, StoreError> {
        Ok(match self.kind {
            Kind::Sqlite => self.writer.begin_with("BEGIN IMMEDIATE").await?,
            Kind::Postgres => self.writer.begin().await?,
        })
    }

    /// The trust domain as the first part of every key.
    pub(crate) fn domain(&self) -> &str {
        self.trust_domain.as_str()
    }
}

impl Kind {
    /// `sqlite` or `postgres`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Sqlite => "sqlite",
            Kind::Postgres => "postgres",
        }
    }
}

/// Says what is wrong with a first connection; the pool would try again until it could only say that time is up.
async fn probe(url: &str, kind: Kind) -> Result<(), StoreError> {
    install_default_drivers();
    let options = options(url)?;
    let connecting = tokio::time::timeout(ACQUIRE_TIMEOUT, AnyConnection::connect_with(&options));
    let mut connection = connecting
        .await
        .map_err(|_| StoreError::Unreachable {
            why: format!("no answer within {} s", ACQUIRE_TIMEOUT.as_secs()),
        })?
        .map_err(opening)?;
    prepare(&mut connection, kind, Role::Writer).await.map_err(opening)?;
    Ok(connection.close().await?)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Writer,
    Reader,
}

fn pool(connections_max: u32, kind: Kind, role: Role) -> AnyPoolOptions {
    install_default_drivers();
    AnyPoolOptions::new()
        .max_connections(connections_max)
        // A server may have hung up; a file does not, and asking before each use would only cost.
        .test_before_acquire(kind == Kind::Postgres)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(move |connection, _| Box::pin(prepare(connection, kind, role)))
}

async fn prepare(connection: &mut AnyConnection, kind: Kind, role: Role) -> Result<(), sqlx::Error> {
    connection.execute(setup(kind, role)).await?;
    if role == Role::Writer {
        refuse_unless_durable(connection, kind).await?;
    }
    Ok(())
}

/// The first words on every connection.
fn setup(kind: Kind, role: Role) -> &'static str {
    match (kind, role) {
        (Kind::Sqlite, Role::Writer) => {
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
             PRAGMA busy_timeout = 5000; PRAGMA trusted_schema = OFF"
        }
        (Kind::Sqlite, Role::Reader) => {
            "PRAGMA busy_timeout = 5000; PRAGMA query_only = ON; PRAGMA trusted_schema = OFF"
        }
        (Kind::Postgres, _) => {
            "SET synchronous_commit = on; SET lock_timeout = '5s'; SET statement_timeout = '30s'; \
             SET idle_in_transaction_session_timeout = '30s'; SET timezone = 'UTC'"
        }
    }
}

async fn refuse_unless_durable(connection: &mut AnyConnection, kind: Kind) -> Result<(), sqlx::Error> {
    let found = durability_of(connection, kind).await?;
    if found.durable {
        return Ok(());
    }
    Err(sqlx::Error::Configuration(Box::new(not_durable(found))))
}

async fn durability_of(connection: &mut AnyConnection, kind: Kind) -> Result<Durability, sqlx::Error> {
    match kind {
        Kind::Sqlite => {
            let level: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *connection).await?;
            let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(connection).await?;
            let durable = level >= SYNCHRONOUS_FULL && journal == "wal";
            Ok(Durability {
                setting: "synchronous",
                value: format!("{level}, journal_mode {journal}"),
                durable,
            })
        }
        Kind::Postgres => {
            let value: String =
                sqlx::query_scalar("SHOW synchronous_commit").fetch_one(&mut *connection).await?;
            let fsync: String = sqlx::query_scalar("SHOW fsync").fetch_one(connection).await?;
            // `fsync = off` is for servers of tests only, and no connection can change it: it is reported.
            let durable = STRONG_ENOUGH.contains(&value.as_str());
            Ok(Durability {
                setting: "synchronous_commit",
                value: format!("{value}, fsync {fsync}"),
                durable,
            })
        }
    }
}

fn not_durable(found: Durability) -> StoreError {
    let want = if found.setting == "synchronous" { "2, journal_mode wal" } else { "on" };
    StoreError::NotDurable { setting: found.setting, want, got: found.value }
}

/// A refusal of ours comes out of the driver as itself.
fn opening(error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Configuration(inner) => match inner.downcast::<StoreError>() {
            Ok(ours) => *ours,
            Err(other) => StoreError::Unreachable { why: other.to_string() },
        },
        sqlx::Error::Database(_) => StoreError::Unreachable { why: error.to_string() },
        other => StoreError::from(other),
    }
}

fn options(url: &str) -> Result<AnyConnectOptions, StoreError> {
    // The URL may hold a password, so nothing of it is repeated.
    url.parse().map_err(|_| StoreError::Unreachable { why: "its URL cannot be read".to_owned() })
}

fn sqlite_url(path: &Path) -> Result<String, StoreError> {
    let text = path.to_str().ok_or_else(|| file_error(path, "its name is not UTF-8"))?;
    let mut url = String::from("sqlite://");
    for byte in text.bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => url.push(char::from(byte)),
            other => url.push_str(&format!("%{other:02X}")),
        }
    }
    url.push_str("?mode=rw");
    Ok(url)
}

/// Creates the file if it is not there, and takes every right on it from everybody but its owner.
fn make_private(path: &Path) -> Result<(), StoreError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(PRIVATE)
        .open(path)
        .map_err(|error| StoreError::Unreachable { why: format!("{}: {error}", path.display()) })?;
    for file in [path.to_path_buf(), beside(path, "-wal"), beside(path, "-shm")] {
        match std::fs::set_permissions(&file, Permissions::from_mode(PRIVATE)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(file_error(&file, &error.to_string())),
        }
    }
    Ok(())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn file_error(path: &Path, why: &str) -> StoreError {
    StoreError::File { path: path.to_path_buf(), why: why.to_owned() }
}

fn migrator() -> Migrator {
    let migrations = MIGRATIONS
        .iter()
        .map(|(version, name, sql)| {
            Migration::new(*version, (*name).into(), MigrationType::Simple, sql.into_sql_str(), false)
        })
        .collect();
    Migrator::with_migrations(migrations)
}

/// Expand first, contract a version later; a migration that was released never changes.
const MIGRATIONS: [(i64, &str, &str); 4] = [
    (1, "first", include_str!("../migrations/0001_first.sql")),
    (2, "tokens", include_str!("../migrations/0002_tokens.sql")),
    (3, "modes", include_str!("../migrations/0003_modes.sql")),
    (4, "federation", include_str!("../migrations/0004_federation.sql")),
];

const PRIVATE: u32 = 0o600;
/// SQLite's number for FULL; EXTRA is 3.
const SYNCHRONOUS_FULL: i64 = 2;
/// Values of `synchronous_commit` that wait for our own disk.
const STRONG_ENOUGH: [&str; 2] = ["on", "remote_apply"];
const READERS_MAX: u32 = 4;
const CONNECTIONS_MAX: u32 = 16;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    async fn judged(url: &str, kind: Kind, weaken: &'static str) -> StoreError {
        install_default_drivers();
        let mut connection = AnyConnection::connect(url).await.unwrap();
        connection.execute(setup(kind, Role::Writer)).await.unwrap();
        refuse_unless_durable(&mut connection, kind).await.expect("durable until it is weakened");
        connection.execute(weaken).await.unwrap();
        opening(refuse_unless_durable(&mut connection, kind).await.unwrap_err())
    }

    #[tokio::test]
    async fn rejects_a_sqlite_connection_that_is_not_durable() {
        let dir = countersign_testkit::temp_dir();
        let path = dir.path().join("a.db");
        make_private(&path).unwrap();
        let url = sqlite_url(&path).unwrap();
        let want = "2, journal_mode wal";
        for (weaken, got) in [
            ("PRAGMA synchronous = NORMAL", "1, journal_mode wal"),
            ("PRAGMA synchronous = OFF", "0, journal_mode wal"),
            ("PRAGMA journal_mode = MEMORY", "2, journal_mode memory"),
        ] {
            let refused = judged(&url, Kind::Sqlite, weaken).await;
            assert_eq!(refused, StoreError::NotDurable { setting: "synchronous", want, got: got.to_owned() });
        }
    }

    #[tokio::test]
    async fn rejects_a_postgres_connection_that_is_not_durable() {
        let Some(server) = countersign_testkit::Postgres::shared() else { return };
        let url = server.database();
        for (weaken, got) in [
            ("SET synchronous_commit = off", "off, fsync off"),
            ("SET synchronous_commit = local", "local, fsync off"),
        ] {
            let refused = judged(&url, Kind::Postgres, weaken).await;
            let expected =
                StoreError::NotDurable { setting: "synchronous_commit", want: "on", got: got.to_owned() };
            assert_eq!(refused, expected);
        }
    }

    #[tokio::test]
    async fn a_database_that_cannot_be_durable_is_neither_opened_nor_pooled() {
        // A database in memory keeps nothing, whatever it is told.
        let url = "sqlite::memory:";
        assert!(matches!(probe(url, Kind::Sqlite).await.unwrap_err(), StoreError::NotDurable { .. }));
        let pool = pool(1, Kind::Sqlite, Role::Writer).acquire_timeout(Duration::from_millis(300));
        assert!(pool.connect_with(options(url).unwrap()).await.is_err());
    }
}
