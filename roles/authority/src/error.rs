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
    #[error("{}: {why}", path.display())]
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
            Self::File { .. } => Code::EvidenceUnwritable,
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
