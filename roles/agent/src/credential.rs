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
        let key = self.key.to_pkcs8().map_err(|_| AgentError::NoRandomness)?;
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
        let key = KeyPair::from_pkcs8(saved.key.as_slice())
            .map_err(|_| AgentError::BadAnswer("the saved key cannot be read".to_owned()))?;
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
