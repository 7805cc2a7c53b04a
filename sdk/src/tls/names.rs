//! Which of several certificates a client is shown: by the name that it asks for (SNI, RFC 6066 section 3).

use std::{collections::HashMap, fmt, sync::Arc};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use serde::Deserialize;

use super::{
    challenge::{Challenge, Challenges},
    state::Identity,
};

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
    /// Names that have no certificate yet, and are never shown another one's.
    awaited: Arc<[String]>,
    challenges: Challenges,
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
        let otherwise = first.filter(|_| unknown == UnknownName::First);
        Self { names, otherwise, awaited: Arc::default(), challenges: Challenges::default() }
    }

    /// A client that asks for one of these names is shown a certificate that has it, or none at all.
    pub(super) fn awaiting(self, awaited: Arc<[String]>) -> Self {
        Self { awaited, ..self }
    }

    /// Shows these to whoever validates their hosts.
    pub(super) fn answering(self, challenges: &[Challenge]) -> Self {
        Self { challenges: Challenges::of(challenges), ..self }
    }

    fn find(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let Some(name) = name else { return self.otherwise.as_ref() };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let otherwise = || self.otherwise.as_ref().filter(|_| !self.awaited.contains(&name));
        self.certified(&name).or_else(otherwise)
    }

    /// The whole name counts first, then `*` in place of its first label (RFC 9525 section 6.3).
    fn certified(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let wildcard = || self.names.get(&format!("*.{}", name.split_once('.')?.1));
        self.names.get(name).or_else(wildcard)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let challenge = self.challenges.asked_by(&hello);
        challenge.unwrap_or_else(|| self.find(hello.server_name()).cloned())
    }
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByName({:?})", self.names.keys())
    }
}
