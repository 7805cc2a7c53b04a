//! Registration entries: which services may run on this node, and who may launch them.
//!
//! They live at the authority alone. What it sends is read strictly: an entry that would let this node hold a
//! name it must never hold (another agent's, the authority's, one of another trust domain) is left out.

use std::collections::HashMap;

use countersign_identity::{IdKind, ServiceName, SpiffeId, TrustDomain};
use countersign_wire::node;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Entries that one node may hold.
pub(crate) const ENTRIES_MAX: usize = 10_000;
/// Uids that one entry may list.
const LAUNCH_BY_MAX: usize = 256;

/// One service that this node may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Immutable, opaque, never reused.
    pub(crate) id: String,
    /// Short name.
    pub(crate) name: ServiceName,
    /// What its certificates say.
    pub(crate) spiffe_id: SpiffeId,
    /// Uids whose processes may become this service.
    pub(crate) launch_by: Vec<u32>,
}

/// Why an entry was left out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum EntryError {
    /// No opaque id.
    #[error("entry has no id")]
    NoId,
    /// The short name is not one.
    #[error("entry {0:?} has no valid short name")]
    Name(String),
    /// The SPIFFE ID is not one, of another trust domain, or reserved for somebody else.
    #[error("entry {name:?} carries {spiffe_id:?}, which is no service or gateway of this trust domain")]
    SpiffeId {
        /// The entry's short name.
        name: String,
        /// What it carries.
        spiffe_id: String,
    },
    /// More launchers than an entry may list.
    #[error("entry {0:?} lists more than {LAUNCH_BY_MAX} launchers")]
    TooManyLaunchers(String),
}

impl Entry {
    fn parse(entry: node::Entry, trust_domain: &TrustDomain) -> Result<Self, EntryError> {
        let node::Entry { id, name, spiffe_id, launch_by } = entry;
        if id.is_empty() {
            return Err(EntryError::NoId);
        }
        if launch_by.len() > LAUNCH_BY_MAX {
            return Err(EntryError::TooManyLaunchers(name));
        }
        let Ok(short) = ServiceName::parse(&name) else {
            return Err(EntryError::Name(name));
        };
        match SpiffeId::parse(&spiffe_id) {
            Ok(parsed) if may_be_held(&parsed, trust_domain) => {
                Ok(Self { id, name: short, spiffe_id: parsed, launch_by })
            }
            _ => Err(EntryError::SpiffeId { name, spiffe_id }),
        }
    }
}

/// An agent's own name or the authority's is never handed to a workload, whatever the authority sends.
fn may_be_held(id: &SpiffeId, trust_domain: &TrustDomain) -> bool {
    id.trust_domain() == trust_domain && matches!(id.kind(), IdKind::Service(_) | IdKind::Gateway(_))
}

/// The entries of this node, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    by_id: HashMap<String, Entry>,
}

impl Entries {
    /// Reads what the authority sent, whole: what is not in it is no longer an entry.
    pub(crate) fn read(sent: Vec<node::Entry>, trust_domain: &TrustDomain) -> Self {
        if sent.len() > ENTRIES_MAX {
            tracing::error!(
                entries = sent.len(),
                max = ENTRIES_MAX,
                "the authority sent too many entries: the rest is ignored"
            );
        }
        let mut by_id = HashMap::new();
        for entry in sent.into_iter().take(ENTRIES_MAX) {
            match Entry::parse(entry, trust_domain) {
                Ok(entry) => {
                    by_id.insert(entry.id.clone(), entry);
                }
                Err(error) => tracing::error!(%error, "an entry of the authority was left out"),
            }
        }
        Self { by_id }
    }

    /// By short name or full SPIFFE ID, as a launcher writes it.
    pub(crate) fn find(&self, wanted: &str) -> Option<&Entry> {
        self.by_id.values().find(|e| e.name.as_str() == wanted || e.spiffe_id.as_str() == wanted)
    }

    /// Whether `held` is still granted as it was, and still to `uid`.
    pub(crate) fn still_grant(&self, held: &Entry, uid: u32) -> bool {
        self.by_id.get(&held.id).is_some_and(|e| e.spiffe_id == held.spiffe_id && e.launch_by.contains(&uid))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entry(name: &str, spiffe_id: &str) -> node::Entry {
        node::Entry { id: "e1".into(), name: name.into(), spiffe_id: spiffe_id.into(), launch_by: vec![0] }
    }

    fn parse(entry: node::Entry) -> Result<Entry, EntryError> {
        Entry::parse(entry, &TrustDomain::parse("flea.test").unwrap())
    }

    #[test]
    fn accepts_services_and_gateways_of_its_own_trust_domain() {
        assert_eq!(parse(entry("ads", "spiffe://flea.test/svc/ads")).unwrap().name.as_str(), "ads");
        assert!(parse(entry("gateway", "spiffe://flea.test/countersign/gateway/main")).is_ok());
    }

    #[test]
    fn rejects_names_that_no_workload_may_hold() {
        for id in [
            "spiffe://flea.test/countersign/authority",
            "spiffe://flea.test/countersign/agent/n1",
            "spiffe://flea.test/countersign/other",
            "spiffe://elsewhere.test/svc/ads",
            "spiffe://flea.test",
            "spiffe://flea.test/svc/../countersign/authority",
            "spiffe://flea.test/svc/%61ds",
            "ads",
        ] {
            let expected = EntryError::SpiffeId { name: "ads".into(), spiffe_id: id.into() };
            assert_eq!(parse(entry("ads", id)).unwrap_err(), expected, "{id}");
        }
    }

    #[test]
    fn rejects_an_entry_without_an_id() {
        let mut nameless = entry("ads", "spiffe://flea.test/svc/ads");
        nameless.id.clear();
        assert_eq!(parse(nameless).unwrap_err(), EntryError::NoId);
    }

    #[test]
    fn rejects_a_short_name_that_is_none() {
        assert_eq!(
            parse(entry("../x", "spiffe://flea.test/svc/x")).unwrap_err(),
            EntryError::Name("../x".into())
        );
    }

    #[test]
    fn rejects_more_launchers_than_the_limit() {
        let mut many = entry("ads", "spiffe://flea.test/svc/ads");
        many.launch_by = vec![0; LAUNCH_BY_MAX];
        assert!(parse(many.clone()).is_ok());
        many.launch_by.push(0);
        assert_eq!(parse(many).unwrap_err(), EntryError::TooManyLaunchers("ads".into()));
    }

    #[test]
    fn an_entry_that_is_no_longer_sent_is_no_longer_granted() {
        let trust_domain = TrustDomain::parse("flea.test").unwrap();
        let read = |id: &str| Entries::read(vec![entry("ads", id)], &trust_domain);
        let before = read("spiffe://flea.test/svc/ads");
        let held = before.find("ads").unwrap().clone();
        assert!(before.find("spiffe://flea.test/svc/ads").is_some());
        assert!(before.still_grant(&held, 0));
        assert!(!read("spiffe://flea.test/svc/other").still_grant(&held, 0), "same id, another name");
        assert!(!Entries::default().still_grant(&held, 0));
        assert!(!before.still_grant(&held, 1), "the launcher is another one");
    }

    #[test]
    fn more_entries_than_the_limit_are_cut_off() {
        let trust_domain = TrustDomain::parse("flea.test").unwrap();
        let sent = (0..=ENTRIES_MAX)
            .map(|n| node::Entry { id: n.to_string(), ..entry("ads", "spiffe://flea.test/svc/ads") });
        assert_eq!(Entries::read(sent.collect(), &trust_domain).by_id.len(), ENTRIES_MAX);
    }
}
