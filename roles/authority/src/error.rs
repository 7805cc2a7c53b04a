//! Why the authority did not start, or stopped.

use std::{net::SocketAddr, path::PathBuf};

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
    #[error("sealed key `{name}` does not open: {why}; restore the database from a backup, nothing was changed")]
    SealedKeyDamaged {
        /// Name of the key's row.
        name: String,
        /// What failed.
        why: String,
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
    #[error("database: {0}")]
    Store(String),
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
    /// The exit code of the process: 2 for keys and configuration, 1 for what went wrong besides.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::MasterKeyMissing { .. }
            | Self::MasterKeyUnusable { .. }
            | Self::MasterKeyWrong { .. }
            | Self::MasterKeyInsideState { .. }
            | Self::SealedKeyDamaged { .. }
            | Self::OtherTrustDomain { .. }
            | Self::Setting { .. }
            | Self::Policies { .. } => 2,
            Self::Store(_) | Self::Listen { .. } | Self::File { .. } | Self::Ca(_) | Self::Stopped { .. } => 1,
        }
    }
}
