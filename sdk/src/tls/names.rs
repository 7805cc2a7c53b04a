//! Which of several certificates a client is shown: by the name that it asks for (SNI, RFC 6066 section 3).

use std::{collections::HashMap, fmt, sync::Arc};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use serde::Deserialize;

use super::state::Identity;

/// What becomes of a client that asks for a name that no certificate has, or for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownName {
    /// It is shown the first certificate, and can judge for itself.
    #[default]
    First,
    /// The handshake ends.
    Refuse,
}

/// Certificates by their DNS names.
pub(super) struct ByName {
    names: HashMap<String, Arc<CertifiedKey>>,
    otherwise: Option<Arc<CertifiedKey>>,
}

impl ByName {
    /// A name that several have is that of the first of them.
    pub(super) fn of(identities: &[Arc<Identity>], unknown: UnknownName) -> Self {
        let mut names = HashMap::new();
        for identity in identities {
            for name in identity.dns_names() {
                names.entry(name.clone()).or_insert_with(|| Arc::clone(identity.certified()));
            }
        }
        let first = identities.first().map(|identity| Arc::clone(identity.certified()));
        Self { names, otherwise: first.filter(|_| unknown == UnknownName::First) }
    }

    /// The whole name counts first, then `*` in place of its first label (RFC 9525 section 6.3).
    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let wildcard = || self.names.get(&format!("*.{}", name.split_once('.')?.1));
        self.names.get(&name).or_else(wildcard)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        hello.server_name().and_then(|name| self.find(name)).or(self.otherwise.as_ref()).cloned()
    }
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByName({:?})", self.names.keys())
    }
}
