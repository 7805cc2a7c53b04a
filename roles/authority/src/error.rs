//! Why the authority did not start, or stopped.

use std::{net::SocketAddr, path::PathBuf};

use countersign_store::StoreError;
use countersign_wire::codes::Code;

/// What [`run`](crate::run) can end with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// No file where the master key should be, but a database that needs it.
    #[error("master key {} is missing, and the database cannot be read without it; restore the key file from your backup, nothing was changed", path.display())]
    MasterKeyMissing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is not a master key, or others may read it.
    #[error("master key {} cannot be used: {why}; nothing was changed", path.display())]
    MasterKeyUnusable {
        /// Where it was found.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A master key, but not the one that sealed this database.
    #[error("master key {} does not open the database of {trust_domain}: it belongs to another deployment; nothing was changed", path.display())]
    MasterKeyWrong {
        /// Where it was found.
        path: PathBuf,
        /// Whose database it is.
        trust_domain: String,
    },
    /// One sealed key does not open although the canary did: rows were swapped or damaged.
    #[error(
        "sealed key `{name}` does not open: {why}; restore the database from a backup, nothing was changed"
    )]
    SealedKeyDamaged {
        /// Name of the key's row.
        name: String,
        /// What failed.
        why: String,
    },
    /// The canary of a database is there and the database is not.
    #[error("the database {} is gone, although this state directory had one; restore it from a backup, nothing was made", path.display())]
    DatabaseGone {
        /// Where it was.
        path: PathBuf,
    },
    /// The master key lies in the directory that it protects.
    #[error("master key {} lies inside the state directory; keep it elsewhere, a copy of the state must not open itself", path.display())]
    MasterKeyInsideState {
        /// Where it was configured.
        path: PathBuf,
    },
    /// The database belongs to another trust domain.
    #[error("the database belongs to trust domain {found}, the configuration names {configured}")]
    OtherTrustDomain {
        /// From the configuration.
        configured: String,
        /// From the database.
        found: String,
    },
    /// A setting cannot be used.
    #[error("setting `{name}`: {why}")]
    Setting {
        /// Path of the key in the TOML file.
        name: &'static str,
        /// What is wrong, and what to write.
        why: String,
    },
    /// Policies that do not load.
    #[error("policies: {why}")]
    Policies {
        /// File, line, cause.
        why: String,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An address could not be taken.
    #[error("cannot listen on {address}: {why}; choose another port in [authority]")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// From the operating system.
        why: String,
    },
    /// A file of the state directory could not be written or read.
    #[error("cannot use {}: {why}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// From the operating system.
        why: String,
    },
    /// Making the CA, a certificate or a CRL failed.
    #[error("certificate authority: {0}")]
    Ca(String),
    /// A listener ended by itself.
    #[error("listener {name} stopped: {why}")]
    Stopped {
        /// Which one.
        name: &'static str,
        /// Why.
        why: String,
    },
}

impl AuthorityError {
    /// The registered code, which knows the exit code: 2 for keys and configuration.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::MasterKeyMissing { .. } => Code::MasterKeyMissing,
            Self::MasterKeyUnusable { .. } | Self::MasterKeyInsideState { .. } => Code::MasterKeyUnreadable,
            Self::MasterKeyWrong { .. } => Code::MasterKeyWrong,
            Self::SealedKeyDamaged { .. } => Code::SealedKeyInvalid,
            Self::DatabaseGone { .. } => Code::DatabaseCorrupt,
            Self::OtherTrustDomain { .. } => Code::TrustDomainMismatch,
            Self::Setting { .. } => Code::ConfigValue,
            Self::Policies { .. } => Code::PolicyInvalid,
            Self::Store(error) => store_code(error),
            Self::Listen { .. } => Code::AddressInUse,
            Self::File { .. } => Code::StateDirectory,
            Self::Ca(_) | Self::Stopped { .. } => Code::Internal,
        }
    }

    /// What the process ends with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            // The database is the authority's own: nobody else is unreachable.
            Self::Store(_) | Self::DatabaseGone { .. } => 1,
            _ => self.code().entry().exit as u8,
        }
    }
}

/// The registered code of a failure of the store.
pub(crate) fn store_code(error: &StoreError) -> Code {
    match error {
        StoreError::Unreachable { .. } => Code::DatabaseUnreachable,
        StoreError::NotDurable { .. } => Code::DatabaseNotDurable,
        StoreError::Newer { .. } => Code::DatabaseNewer,
        StoreError::Busy => Code::DatabaseBusy,
        StoreError::Corrupt { .. } => Code::DatabaseCorrupt,
        StoreError::Conflict { .. } => Code::Conflict,
        StoreError::Missing { .. } => Code::ObjectUnknown,
        StoreError::Unstorable { .. } => Code::ParameterInvalid,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<(AuthorityError, Code, u8)> {
        let path = || PathBuf::from("/k");
        let text = || "x".to_owned();
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        vec![
            (AuthorityError::MasterKeyMissing { path: path() }, Code::MasterKeyMissing, 2),
            (AuthorityError::MasterKeyUnusable { path: path(), why: text() }, Code::MasterKeyUnreadable, 2),
            (AuthorityError::MasterKeyWrong { path: path(), trust_domain: text() }, Code::MasterKeyWrong, 2),
            (AuthorityError::MasterKeyInsideState { path: path() }, Code::MasterKeyUnreadable, 2),
            (AuthorityError::SealedKeyDamaged { name: text(), why: text() }, Code::SealedKeyInvalid, 2),
            (AuthorityError::DatabaseGone { path: path() }, Code::DatabaseCorrupt, 1),
            (
                AuthorityError::OtherTrustDomain { configured: text(), found: text() },
                Code::TrustDomainMismatch,
                2,
            ),
            (AuthorityError::Setting { name: "authority.listen", why: text() }, Code::ConfigValue, 2),
            (AuthorityError::Policies { why: text() }, Code::PolicyInvalid, 2),
            (AuthorityError::Store(StoreError::Busy), Code::DatabaseBusy, 1),
            (AuthorityError::Listen { address, why: text() }, Code::AddressInUse, 2),
            (AuthorityError::File { path: path(), why: text() }, Code::StateDirectory, 2),
            (AuthorityError::Ca(text()), Code::Internal, 1),
            (AuthorityError::Stopped { name: "api", why: text() }, Code::Internal, 1),
        ]
    }

    #[test]
    fn every_reason_has_its_code_its_exit_and_one_sentence_without_a_full_stop() {
        for (error, code, exit) in all() {
            assert_eq!((error.code(), error.exit_code()), (code, exit), "{error}");
            let text = error.to_string();
            assert!(!text.ends_with('.') && text.starts_with(char::is_lowercase), "{text}");
        }
    }

    #[test]
    fn failures_of_the_store_keep_their_codes() {
        let why = String::new;
        for (error, code) in [
            (StoreError::Unreachable { why: why() }, Code::DatabaseUnreachable),
            (StoreError::NotDurable { setting: "s", want: "w", got: why() }, Code::DatabaseNotDurable),
            (StoreError::Newer { version: 9 }, Code::DatabaseNewer),
            (StoreError::Busy, Code::DatabaseBusy),
            (StoreError::Corrupt { table: "t", column: "c" }, Code::DatabaseCorrupt),
            (StoreError::Conflict { what: "w" }, Code::Conflict),
            (StoreError::Missing { what: "w" }, Code::ObjectUnknown),
            (StoreError::Unstorable { what: "w", why: "y" }, Code::ParameterInvalid),
            (StoreError::Refused { why: why() }, Code::Internal),
        ] {
            assert_eq!(store_code(&error), code);
        }
    }
}
