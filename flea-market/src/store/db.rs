//! Opening a database, and what every service keeps in it.

use std::{
    fs::OpenOptions,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use crate::asking::EndUser;
use sqlx::{
    Any, AnyPool, Executor as _, SqlSafeStr as _, Transaction,
    any::{AnyPoolOptions, install_default_drivers},
    migrate::{Migration, MigrationType, Migrator},
};
use thiserror::Error;

/// One service's database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Db {
    is_sqlite: bool,
    writer: AnyPool,
    reader: AnyPool,
}

/// Why a service's database cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Neither `sqlite:FILE` nor `postgres://…`.
    #[error("database is neither sqlite:FILE nor postgres://…")]
    Address,
    /// The file or the server.
    #[error("database cannot be opened: {why}")]
    Unreachable {
        /// What the system says; never the URL, which may hold a password.
        why: String,
    },
    /// It belongs to another service.
    #[error("database belongs to the service {owner:?}: give {service:?} one of its own")]
    OtherOwner {
        /// Who wanted to open it.
        service: String,
        /// Whose it is.
        owner: String,
    },
    /// A statement failed.
    #[error("database refused a statement: {why}")]
    Statement {
        /// What it says.
        why: String,
    },
    /// What is stored is not what this version stores.
    #[error("database holds something unreadable: {what}")]
    Unreadable {
        /// What.
        what: &'static str,
    },
    /// The name belonged to another account.
    #[error("the name {handle:?} belongs to another account: ask for another name")]
    NameTaken {
        /// The name.
        handle: String,
    },
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Statement { why: error.to_string() }
    }
}

impl Db {
    /// Opens `sqlite:FILE` (made with mode 0600 if it is not there) or `postgres://…` for `service`,
    /// and brings its tables up to date.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(super) async fn open(address: &str, service: &str, schema: &'static str) -> Result<Self, StoreError> {
        install_default_drivers();
        let db = if let Some(file) = address.strip_prefix("sqlite:") {
            make_private(Path::new(file))?;
            let url = sqlite_url(file);
            // A file does not hang up: asking before each use would only cost.
            let open = |connections, setup| open_pool(&url, connections, setup, false);
            let writer = open(1, SQLITE_WRITER).await?;
            Self { is_sqlite: true, writer, reader: open(READERS_MAX, SQLITE_READER).await? }
        } else if address.starts_with("postgres://") || address.starts_with("postgresql://") {
            let pool = open_pool(address, CONNECTIONS_MAX, POSTGRES, true).await?;
            Self { is_sqlite: false, writer: pool.clone(), reader: pool }
        } else {
            return Err(StoreError::Address);
        };
        // Whose it is comes before the tables: a database of somebody else's is left as it was.
        db.refuse_other_owner(service).await?;
        let migrated = migrator(schema).run(&db.writer).await;
        migrated.map_err(|error| StoreError::Unreachable { why: error.to_string() })?;
        db.own(service).await?;
        Ok(db)
    }

    /// The handle of a person: the name that their account first came with.
    ///
    /// # Errors
    /// The name belonged to another account, or the database.
    pub async fn recognise(&self, user: &EndUser) -> Result<String, StoreError> {
        if let Some(handle) = self.handle_of(&user.id).await? {
            return Ok(handle);
        }
        let claim = "INSERT INTO people (handle, account) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        sqlx::query(claim).bind(&user.name).bind(&user.id).execute(&self.writer).await?;
        let handle = self.handle_of(&user.id).await?;
        handle.ok_or_else(|| StoreError::NameTaken { handle: user.name.clone() })
    }

    async fn handle_of(&self, account: &str) -> Result<Option<String>, StoreError> {
        let handle = "SELECT handle FROM people WHERE account = $1";
        Ok(sqlx::query_scalar(handle).bind(account).fetch_optional(&self.writer).await?)
    }

    /// The next number of `counter`, from 1.
    pub(super) async fn next_number(
        transaction: &mut Transaction<'static, Any>,
        counter: &str,
    ) -> Result<i64, StoreError> {
        let next = "INSERT INTO counters (name, value) VALUES ($1, 1)
                    ON CONFLICT (name) DO UPDATE SET value = counters.value + 1 RETURNING value";
        Ok(sqlx::query_scalar(next).bind(counter).fetch_one(&mut **transaction).await?)
    }

    /// Whether `counter` never gave a number.
    pub(super) async fn is_unused(&self, counter: &str) -> Result<bool, StoreError> {
        let given = "SELECT value FROM counters WHERE name = $1";
        let given: Option<i64> = sqlx::query_scalar(given).bind(counter).fetch_optional(&self.writer).await?;
        Ok(given.is_none())
    }

    /// A transaction that holds the write lock from its beginning (SQLite) or locks as it goes.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, Any>, StoreError> {
        if self.is_sqlite {
            return Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?);
        }
        Ok(self.writer.begin().await?)
    }

    pub(super) const fn reader(&self) -> &AnyPool {
        &self.reader
    }

    pub(super) const fn writer(&self) -> &AnyPool {
        &self.writer
    }

    async fn refuse_other_owner(&self, service: &str) -> Result<(), StoreError> {
        let is_new = sqlx::query("SELECT service FROM owner").fetch_optional(&self.writer).await.is_err();
        if is_new {
            return Ok(());
        }
        let owner: Option<String> =
            sqlx::query_scalar("SELECT service FROM owner").fetch_optional(&self.writer).await?;
        match owner {
            Some(owner) if owner != service => {
                Err(StoreError::OtherOwner { service: service.to_owned(), owner })
            }
            _ => Ok(()),
        }
    }

    async fn own(&self, service: &str) -> Result<(), StoreError> {
        let own = "INSERT INTO owner (service) VALUES ($1) ON CONFLICT DO NOTHING";
        sqlx::query(own).bind(service).execute(&self.writer).await?;
        Ok(())
    }
}

async fn open_pool(
    url: &str,
    connections: u32,
    setup: &'static str,
    may_hang_up: bool,
) -> Result<AnyPool, StoreError> {
    AnyPoolOptions::new()
        .max_connections(connections)
        .test_before_acquire(may_hang_up)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(move |connection, _| {
            Box::pin(async move { connection.execute(setup).await.map(|_| ()) })
        })
        .connect(url)
        .await
        .map_err(|error| StoreError::Unreachable { why: without_url(&error) })
}

/// A URL that cannot be read is repeated in the driver's message, and may hold a password.
fn without_url(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Configuration(_) => "its URL cannot be read".to_owned(),
        other => other.to_string(),
    }
}

fn sqlite_url(file: &str) -> String {
    let mut url = String::from("sqlite://");
    for byte in file.bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => url.push(char::from(byte)),
            other => url.push_str(&format!("%{other:02X}")),
        }
    }
    url + "?mode=rw"
}

/// Makes the file if it is not there, and takes it from everybody but its owner. The files that
/// SQLite makes beside it inherit that.
fn make_private(path: &Path) -> Result<(), StoreError> {
    let unreachable = |error: std::io::Error| StoreError::Unreachable { why: error.to_string() };
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(unreachable)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(unreachable)
}

fn migrator(schema: &'static str) -> Migrator {
    let common = include_str!("common.sql");
    let steps = [(1, "common", common), (2, "service", schema)].map(|(version, name, sql)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(steps.to_vec())
}

const SQLITE_WRITER: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
                             PRAGMA busy_timeout = 5000; PRAGMA trusted_schema = OFF";
const SQLITE_READER: &str = "PRAGMA busy_timeout = 5000; PRAGMA query_only = ON; PRAGMA trusted_schema = OFF";
const POSTGRES: &str = "SET synchronous_commit = on; SET lock_timeout = '5s'; SET statement_timeout = '10s'";
const READERS_MAX: u32 = 4;
const CONNECTIONS_MAX: u32 = 8;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn open(directory: &tempfile::TempDir) -> Db {
        let address = format!("sqlite:{}", directory.path().join("x.db").display());
        Db::open(&address, "users", include_str!("users.sql")).await.unwrap()
    }

    #[tokio::test]
    async fn a_statement_that_fails_says_why() {
        let directory = countersign_testkit::temp_dir();
        let db = open(&directory).await;
        sqlx::query("DROP TABLE counters").execute(db.writer()).await.unwrap();
        let failed = db.is_unused("ads").await.unwrap_err();
        assert!(matches!(&failed, StoreError::Statement { why } if why.contains("counters")), "{failed}");
    }

    #[tokio::test]
    async fn the_writer_is_durable_and_readers_cannot_write() {
        let directory = countersign_testkit::temp_dir();
        let db = open(&directory).await;
        let level: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(db.writer()).await.unwrap();
        assert_eq!(level, 2, "FULL");
        let written = sqlx::query("DELETE FROM people").execute(db.reader()).await;
        assert!(written.is_err());
    }
}
