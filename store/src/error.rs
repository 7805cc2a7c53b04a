//! What can go wrong between us and the database.

use std::path::PathBuf;

/// Why the store did not do it. Never is a part of a call durable; whether all of it is stays unknown when the
/// connection breaks in the very moment of the commit ([`StoreError::Unreachable`], [`StoreError::Busy`],
/// [`StoreError::Refused`]), and is certainly not the case with the other variants.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The file or the server is not there, or may not be used.
    #[error("the database cannot be opened: {why}; check `database` in the configuration")]
    Unreachable {
        /// What the driver says.
        why: String,
    },
    /// The database file cannot be made private.
    #[error("{path:?} cannot be made readable for its owner alone: {why}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// A writing connection would lose what it acknowledged.
    #[error("{setting} is {got:?} and must be {want:?}: remove what weakens it from the server or the URL")]
    NotDurable {
        /// `synchronous` or `synchronous_commit`.
        setting: &'static str,
        /// What it must be.
        want: &'static str,
        /// What the database says that it is.
        got: String,
    },
    /// Migrated by a newer version of this program.
    #[error("the database has migration {version}, which this version does not know: run the newer version")]
    Newer {
        /// Its number.
        version: i64,
    },
    /// The migration failed or was changed after it ran.
    #[error("the database cannot be migrated: {why}")]
    Migration {
        /// What the migrator says.
        why: String,
    },
    /// The wait for a connection or a lock was too long.
    #[error("the database is busy: try again")]
    Busy,
    /// A row with this name or number is there already.
    #[error("{what} is there already")]
    Conflict {
        /// What.
        what: &'static str,
    },
    /// The row that is to be changed is not there.
    #[error("there is no such {what}")]
    Missing {
        /// What.
        what: &'static str,
    },
    /// This trust domain has no state yet: [`crate::Db::found`] makes it.
    #[error("the database holds nothing for this trust domain")]
    NotFounded,
    /// A number that must grow did not: somebody else was quicker, or an old writer is still at work.
    #[error("{what} {got} does not come after {newest}")]
    NotNewer {
        /// What.
        what: &'static str,
        /// What was offered.
        got: u64,
        /// What is stored.
        newest: u64,
    },
    /// The ledger holds another event at this place of the writer's chain.
    #[error("the ledger already holds another event of {writer} boot {boot} sequence {sequence}")]
    LedgerConflict {
        /// SPIFFE ID of the writer.
        writer: String,
        /// Its start.
        boot: String,
        /// Place in its chain.
        sequence: u64,
    },
    /// A row does not have the form that we write.
    #[error("{table}.{column} holds something unreadable: restore the database from its backup")]
    Corrupt {
        /// Table.
        table: &'static str,
        /// Column.
        column: &'static str,
    },
    /// A value cannot be stored.
    #[error("{what} cannot be stored: {why}")]
    Unstorable {
        /// What.
        what: &'static str,
        /// Why.
        why: &'static str,
    },
    /// Anything else that the database refuses.
    #[error("the database refuses: {why}")]
    Refused {
        /// What it says; never a value of ours, those are bound and not part of the message.
        why: String,
    },
}

impl StoreError {
    /// For a statement whose only expected violation is that `what` is there already.
    pub(crate) fn or_conflict(what: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
        move |error| match error.as_database_error() {
            Some(database) if database.is_unique_violation() => StoreError::Conflict { what },
            _ => StoreError::from(error),
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> StoreError {
        match &error {
            sqlx::Error::PoolTimedOut => StoreError::Busy,
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolClosed
            | sqlx::Error::Configuration(_) => StoreError::Unreachable { why: error.to_string() },
            sqlx::Error::Database(database) if is_busy(database.code().as_deref()) => StoreError::Busy,
            _ => StoreError::Refused { why: error.to_string() },
        }
    }
}

/// SQLITE_BUSY and its extended forms, SQLITE_LOCKED; PostgreSQL's lock and statement timeouts.
fn is_busy(code: Option<&str>) -> bool {
    matches!(code, Some("5" | "261" | "517" | "773" | "6" | "55P03" | "57014" | "40P01" | "40001"))
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> StoreError {
        use sqlx::migrate::MigrateError;
        match error {
            MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _) => {
                StoreError::Newer { version }
            }
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                StoreError::from(error)
            }
            other => StoreError::Migration { why: other.to_string() },
        }
    }
}
