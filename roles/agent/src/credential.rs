//! The agent's own credential: its key, its SVID, the roots that it believes and the keys that sign snapshots.

use countersign_identity::{IdKind, SpiffeId, TrustDomain, UnixTime};
use countersign_keys::{KeyPair, PublicKey};
use countersign_pki::{Bundle, BundleSet, CertificateDer, CrlPolicy, Expectation, Usage, verify_peer};
use countersign_sdk::clock;
use countersign_sdk::tls::Identity;
use countersign_wire::Base64;
use countersign_wire::node::JoinResponse;
use serde::{Deserialize, Serialize};

use crate::error::AgentError;
use crate::node::VERSIONS;
use crate::state::StateDir;

const FILE: &str = "credential.json";
/// Certificates of a chain, roots and snapshot keys that one answer may carry.
const LIST_MAX: usize = 16;

/// Everything that [`enroll`](crate::enroll) and renewal bring home. Complete and checked, or not there.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    pub(crate) id: SpiffeId,
    pub(crate) not_after: UnixTime,
    pub(crate) roots: Vec<CertificateDer<'static>>,
    pub(crate) snapshot_keys: Vec<PublicKey>,
    key: KeyPair,
    chain: Vec<CertificateDer<'static>>,
}

impl Credential {
    /// Checks an answer of the authority to a join or a renewal for `key`. `known` is what is believed so far;
    /// when joining there is nothing yet but the roots in the answer, of which one was pinned.
    pub(crate) fn accept(
        answer: JoinResponse,
        key: KeyPair,
        trust_domain: &TrustDomain,
        known: Option<&BundleSet>,
    ) -> Result<Self, AgentError> {
        let bad = |why: &str| AgentError::BadAnswer(why.to_owned());
        let JoinResponse { version, spiffe_id, chain, roots, snapshot_keys } = answer;
        if !(VERSIONS.minimum..=VERSIONS.maximum).contains(&version) {
            return Err(bad(
                "it speaks a version of the node API that this agent does not: update one of them",
            ));
        }
        if [chain.len(), roots.len(), snapshot_keys.len()].iter().any(|n| *n == 0 || *n > LIST_MAX) {
            return Err(bad("it carries no chain, roots or snapshot keys, or too many"));
        }
        let id = SpiffeId::parse(&spiffe_id).map_err(|_| bad("it names no SPIFFE ID"))?;
        if id.trust_domain() != trust_domain || !matches!(id.kind(), IdKind::Agent(_)) {
            return Err(bad("it does not name an agent of this trust domain"));
        }
        let keys = snapshot_keys.iter().map(|jwk| PublicKey::from_jwk(jwk)).collect::<Result<Vec<_>, _>>();
        let snapshot_keys = keys.map_err(|_| bad("a snapshot key cannot be read"))?;
        let certificates =
            |list: Vec<Vec<u8>>| list.into_iter().map(CertificateDer::from).collect::<Vec<_>>();
        let (chain, roots) = (certificates(chain), certificates(roots));
        Self { id, not_after: UnixTime::from_secs(0), roots, snapshot_keys, key, chain }
            .checked(trust_domain, known)
    }

    /// The chain leads to a root, names this agent, is valid now, and belongs to the key.
    fn checked(mut self, trust_domain: &TrustDomain, known: Option<&BundleSet>) -> Result<Self, AgentError> {
        let own = self.bundles(trust_domain)?;
        let bundles = known.unwrap_or(&own);
        let expected = Expectation::Exactly(&self.id);
        let policy = CrlPolicy::AcceptMissing;
        let verdict = verify_peer(&self.chain, bundles, clock::now(), Usage::Client, expected, policy);
        let workload =
            verdict.outcome.map_err(|e| AgentError::BadAnswer(format!("its certificate fails: {e}")))?;
        self.identity()?;
        let facts = workload.certificate.as_ref();
        self.not_after =
            facts.map(|c| c.not_after).ok_or_else(|| AgentError::BadAnswer("no certificate".into()))?;
        Ok(self)
    }

    /// For TLS.
    pub(crate) fn identity(&self) -> Result<Identity, AgentError> {
        Identity::workload(self.chain.clone(), &self.key).map_err(|e| AgentError::BadAnswer(e.to_string()))
    }

    /// What is believed before the first snapshot.
    pub(crate) fn bundles(&self, trust_domain: &TrustDomain) -> Result<BundleSet, AgentError> {
        Bundle::new(trust_domain.clone(), self.roots.clone(), Vec::new())
            .map(|bundle| BundleSet::from_iter([bundle]))
            .map_err(|e| AgentError::BadAnswer(e.to_string()))
    }

    /// Keeps it for the next start.
    pub(crate) fn save(&self, state: &StateDir) -> Result<(), AgentError> {
        let key = self.key.to_pkcs8().map_err(|e| AgentError::Key(e.to_string()))?;
        let list =
            |certificates: &[CertificateDer<'_>]| certificates.iter().map(|c| c.as_ref().into()).collect();
        state.save(
            FILE,
            &Saved {
                id: self.id.clone(),
                key: key.expose().as_slice().into(),
                chain: list(&self.chain),
                roots: list(&self.roots),
                snapshot_keys: self.snapshot_keys.iter().map(PublicKey::to_jwk).collect(),
            },
        )
    }

    /// What the last start left, if it is still good.
    pub(crate) fn load(state: &StateDir, trust_domain: &TrustDomain) -> Result<Option<Self>, AgentError> {
        let Some(saved) = state.load::<Saved>(FILE)? else { return Ok(None) };
        let answer = JoinResponse {
            version: VERSIONS.minimum,
            spiffe_id: saved.id.to_string(),
            chain: saved.chain.into_iter().map(|c| c.0).collect(),
            roots: saved.roots.into_iter().map(|c| c.0).collect(),
            snapshot_keys: saved.snapshot_keys,
        };
        let key = KeyPair::from_pkcs8(saved.key.as_slice()).map_err(|e| AgentError::Key(e.to_string()))?;
        Self::accept(answer, key, trust_domain, None).map(Some)
    }
}

/// On disk, 0600.
#[derive(Serialize, Deserialize)]
struct Saved {
    id: SpiffeId,
    key: Base64,
    chain: Vec<Base64>,
    roots: Vec<Base64>,
    snapshot_keys: Vec<String>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use countersign_keys::SystemRandom;
    use countersign_pki::csr::{self, Csr};
    use countersign_pki::issue::{Issuer, Root, issue_workload, make_issuing, make_root};
    use countersign_pki::profile::LeafTtl;

    use super::*;

    fn key() -> KeyPair {
        KeyPair::generate(&SystemRandom::new()).unwrap()
    }

    fn home() -> TrustDomain {
        TrustDomain::parse("flea.test").unwrap()
    }

    struct Ca {
        root: Issuer,
        issuing: Issuer,
    }

    impl Ca {
        fn new() -> Self {
            let then = clock::now().saturating_sub(Duration::from_secs(7200));
            let root = make_root(Root::Workload, &home(), key(), then, [1; 16]).unwrap();
            let issuing = make_issuing(&root, &home(), key(), then, [2; 16]).unwrap();
            Self { root, issuing }
        }

        fn answer(&self, key: &KeyPair, id: &str, age: Duration) -> JoinResponse {
            let csr = Csr::parse(&csr::make(key, None).unwrap()).unwrap();
            let (id, ttl) = (SpiffeId::parse(id).unwrap(), LeafTtl::new(Duration::from_secs(3600)).unwrap());
            let now = clock::now().saturating_sub(age);
            let leaf = issue_workload(&self.issuing, &csr, &id, ttl, now, [3; 16]).unwrap();
            JoinResponse {
                version: 1,
                spiffe_id: id.to_string(),
                chain: vec![leaf.der.to_vec(), self.issuing.certificate().to_vec()],
                roots: vec![self.root.certificate().to_vec()],
                snapshot_keys: vec![super::tests::key().public_key().to_jwk()],
            }
        }
    }

    const AGENT: &str = "spiffe://flea.test/countersign/agent/n1";

    #[test]
    fn accepts_a_chain_for_this_agent_below_its_own_roots_and_loads_what_it_saved() {
        let (ca, key) = (Ca::new(), key());
        let answer = ca.answer(&key, AGENT, Duration::ZERO);
        let credential = Credential::accept(answer, key.clone(), &home(), None).unwrap();
        assert_eq!(credential.id.as_str(), AGENT);
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path().join("agent")).unwrap();
        assert!(Credential::load(&state, &home()).unwrap().is_none());
        credential.save(&state).unwrap();
        let loaded = Credential::load(&state, &home()).unwrap().unwrap();
        assert_eq!((loaded.id, loaded.not_after), (credential.id, credential.not_after));
        assert_eq!(loaded.key.public_key(), key.public_key());

        let path = state.path(FILE);
        let text = std::fs::read_to_string(&path).unwrap().replace("\"key\":\"M", "\"key\":\"N");
        std::fs::write(&path, text).unwrap();
        assert!(matches!(Credential::load(&state, &home()), Err(AgentError::Key(_))));
    }

    #[test]
    fn rejects_answers_that_are_not_for_this_agent() {
        let (ca, key) = (Ca::new(), key());
        let good = ca.answer(&key, AGENT, Duration::ZERO);
        let with = |change: &dyn Fn(&mut JoinResponse)| {
            let mut answer = good.clone();
            change(&mut answer);
            answer
        };
        let bad = [
            ("version", with(&|a| a.version = 2)),
            ("no chain", with(&|a| a.chain.clear())),
            ("no roots", with(&|a| a.roots.clear())),
            ("no snapshot keys", with(&|a| a.snapshot_keys.clear())),
            ("too many roots", with(&|a| a.roots = vec![a.roots.concat(); LIST_MAX + 1])),
            ("a snapshot key that is none", with(&|a| a.snapshot_keys = vec!["{}".to_owned()])),
            ("no SPIFFE ID", with(&|a| a.spiffe_id.clear())),
            ("a name that the certificate does not say", with(&|a| a.spiffe_id = format!("{AGENT}x"))),
            ("a service", ca.answer(&key, "spiffe://flea.test/svc/ads", Duration::ZERO)),
            ("expired", ca.answer(&key, AGENT, Duration::from_secs(3700))),
            ("another root", with(&|a| a.roots = vec![Ca::new().root.certificate().to_vec()])),
            ("another key", ca.answer(&self::key(), AGENT, Duration::ZERO)),
        ];
        for (what, answer) in bad {
            let refused = Credential::accept(answer, key.clone(), &home(), None);
            assert!(matches!(refused, Err(AgentError::BadAnswer(_))), "{what}");
        }
        let foreign = TrustDomain::parse("elsewhere.test").unwrap();
        assert!(Credential::accept(good, key, &foreign, None).is_err());
    }

    #[test]
    fn a_renewal_is_judged_by_what_is_believed_and_not_by_what_it_brings() {
        let (ca, other, key) = (Ca::new(), Ca::new(), key());
        let known = Bundle::new(home(), vec![ca.root.certificate().clone()], Vec::new()).unwrap();
        let known = BundleSet::from_iter([known]);
        let ours = ca.answer(&key, AGENT, Duration::ZERO);
        assert!(Credential::accept(ours, key.clone(), &home(), Some(&known)).is_ok());
        let theirs = other.answer(&key, AGENT, Duration::ZERO);
        assert!(Credential::accept(theirs, key, &home(), Some(&known)).is_err());
    }
}
