//! In which groups keys are agreed on.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs::kx_group};
use serde::Deserialize;
use thiserror::Error;

use super::provider;

/// Groups of the key exchange (RFC 8446 section 4.2.7), the preferred one first. In TOML: a list of their names, such as
/// `["X25519MLKEM768", "X25519"]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Groups(Vec<Group>);

/// One of the groups that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// X25519 and ML-KEM-768 together: what is recorded today stays secret from tomorrow's quantum computers.
    X25519MlKem768,
    /// X25519 (RFC 7748).
    X25519,
    /// NIST P-256, which every stack speaks.
    P256,
}

/// Why a list of groups cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GroupsError {
    /// Without a group there is no handshake.
    #[error("tls.groups is empty: name at least one of X25519MLKEM768, X25519, P-256")]
    Empty,
    /// No such group here.
    #[error("tls.groups names {name:?}: there are X25519MLKEM768, X25519 and P-256")]
    Unknown {
        /// As it was written.
        name: String,
    },
    /// The same group again.
    #[error("tls.groups names {name:?} twice")]
    Twice {
        /// As it was written.
        name: String,
    },
}

impl Groups {
    /// These and no others.
    ///
    /// # Errors
    /// See [`GroupsError`].
    pub fn parse<S: AsRef<str>>(names: &[S]) -> Result<Self, GroupsError> {
        let mut groups = Vec::new();
        for name in names.iter().map(AsRef::as_ref) {
            let group = Group::ALL.into_iter().find(|group| group.name() == name);
            let group =
                group.ok_or_else(|| GroupsError::Unknown { name: name.chars().take(64).collect() })?;
            if groups.contains(&group) {
                return Err(GroupsError::Twice { name: name.to_owned() });
            }
            groups.push(group);
        }
        if groups.is_empty() { Err(GroupsError::Empty) } else { Ok(Self(groups)) }
    }

    /// The SDK's cryptography with these groups.
    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        Arc::new(self.with((*provider()).clone()))
    }

    /// The same cryptography, but keys are agreed on in these groups alone.
    pub(super) fn with(&self, provider: CryptoProvider) -> CryptoProvider {
        let kx_groups = self.0.iter().map(|group| group.exchange()).collect();
        CryptoProvider { kx_groups, ..provider }
    }
}

impl Default for Groups {
    /// The post-quantum one first, and what every stack speaks last.
    fn default() -> Self {
        Self(Group::ALL.to_vec())
    }
}

impl TryFrom<Vec<String>> for Groups {
    type Error = GroupsError;

    fn try_from(names: Vec<String>) -> Result<Self, GroupsError> {
        Self::parse(&names)
    }
}

impl Group {
    /// All of them, in the order of the default.
    pub const ALL: [Self; 3] = [Self::X25519MlKem768, Self::X25519, Self::P256];

    /// Its name in settings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::X25519MlKem768 => "X25519MLKEM768",
            Self::X25519 => "X25519",
            Self::P256 => "P-256",
        }
    }

    fn exchange(self) -> &'static dyn SupportedKxGroup {
        match self {
            Self::X25519MlKem768 => kx_group::X25519MLKEM768,
            Self::X25519 => kx_group::X25519,
            Self::P256 => kx_group::SECP256R1,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_default_prefers_the_post_quantum_group() {
        assert_eq!(Groups::default(), Groups::parse(&["X25519MLKEM768", "X25519", "P-256"]).unwrap());
    }

    #[test]
    fn rejects_lists_that_name_nothing_something_else_or_the_same_twice() {
        assert_eq!(Groups::parse::<&str>(&[]), Err(GroupsError::Empty));
        let unknown = GroupsError::Unknown { name: "x25519".into() };
        assert_eq!(Groups::parse(&["x25519"]), Err(unknown));
        let twice = GroupsError::Twice { name: "P-256".into() };
        assert_eq!(Groups::parse(&["P-256", "P-256"]), Err(twice));
        assert!(serde_json::from_str::<Groups>("[\"X25519\"]").is_ok());
        assert!(serde_json::from_str::<Groups>("[]").is_err());
    }
}
