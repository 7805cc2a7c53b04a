//! Which workload calls.

use countersign_identity::{Binding, Bound, Freshness, Mode, SpiffeId, Verified, Workload, WorkloadProof};
use countersign_token::Sighting;

use super::{
    Authenticator, EvidenceError, Rules,
    body::BodyClaim,
    presented::{Presented, WorkloadEvidence},
};
use crate::tls::Peer;

/// What the evidence of a workload amounts to.
pub(super) struct Proven {
    pub(super) workload: Option<Verified<Workload>>,
    pub(super) mode: Mode,
    pub(super) proof: WorkloadProof,
    pub(super) binding: Binding,
    pub(super) freshness: Freshness,
    /// SHA-256 of the certificates whose keys it proved to hold.
    pub(super) certificates: Vec<[u8; 32]>,
    /// RFC 7638 thumbprints of keys that it proved to hold: `jkt`.
    pub(super) keys: Vec<String>,
    /// What it says of tokens of users.
    pub(super) users: Users,
    /// What it says of the body.
    pub(super) body: BodyClaim,
    /// The nonce that a signed answer has to repeat.
    pub(super) answer: Option<String>,
}

/// What the evidence of a workload says of the token of a user that travels with it.
#[derive(Default)]
pub(super) struct Users {
    /// The proof names the token in `Txn-Token`, and it was that one.
    pub(super) covers_txn_token: bool,
    /// The proof names the token in `User-Token`, and it was that one.
    pub(super) covers_user_token: bool,
    /// The token is inside the proof.
    pub(super) nested: Option<String>,
}

impl Proven {
    fn nobody() -> Self {
        Self {
            workload: None,
            mode: Mode::None,
            proof: WorkloadProof::None,
            binding: Binding::NONE,
            freshness: Freshness::None,
            certificates: Vec::new(),
            keys: Vec::new(),
            users: Users::default(),
            body: BodyClaim::Nothing,
            answer: None,
        }
    }

    /// The owner of a token that was verified; the rest is for whoever knows more.
    pub(super) fn named(id: SpiffeId, mode: Mode, proof: WorkloadProof) -> Self {
        let workload = Verified::vouch(Workload { id, certificate: None });
        Self { workload: Some(workload), mode, proof, ..Self::nobody() }
    }

    /// What its own token proves, beside what the certificate of the connection does.
    pub(super) fn beside(mut self, peer: &Peer, workload: Verified<Workload>) -> Self {
        self.certificates.extend(peer.thumbprint());
        Self {
            workload: Some(workload),
            mode: Mode::MtlsJwt,
            proof: WorkloadProof::Certificate,
            binding: self.binding.and(Bound::Channel),
            ..self
        }
    }

    pub(super) fn id(&self) -> Option<&SpiffeId> {
        self.workload.as_ref().map(|workload| &workload.id)
    }

    pub(super) fn nested_user(&self) -> Option<&str> {
        self.users.nested.as_deref()
    }
}

impl Authenticator {
    pub(super) fn workload(
        &self,
        presented: &Presented<'_>,
        rules: &Rules<'_>,
    ) -> Result<Proven, EvidenceError> {
        match &presented.workload {
            WorkloadEvidence::Nothing => Ok(Proven::nobody()),
            WorkloadEvidence::Certificate(peer) => certificate(peer, rules),
            WorkloadEvidence::Bearer(token) => self.bearer(token, rules),
            WorkloadEvidence::Wimse { wit, proof } => self.wimse(wit, proof, presented, rules),
            WorkloadEvidence::Macaroon(credential) => self.macaroon(credential, presented, rules),
            WorkloadEvidence::ServiceToken(signed) => self.service_token(*signed, presented, rules),
            WorkloadEvidence::JwtSvid(token) => self.jwt_svid(token, rules),
        }
    }

    /// A proof of single use, for the first and only time. Its signature and recipient were checked.
    pub(super) fn admit(&self, proof: &Sighting<'_>, rules: &Rules<'_>) -> Result<(), EvidenceError> {
        self.clocks.measure(proof, rules.now);
        Ok(self.replay.admit(proof, rules.now)?)
    }
}

/// The peer of the connection, judged in the handshake and again now.
fn certificate(peer: &Peer, rules: &Rules<'_>) -> Result<Proven, EvidenceError> {
    let workload = peer.workload(rules.now)?;
    Ok(Proven {
        workload: Some(workload),
        mode: Mode::Mtls,
        proof: WorkloadProof::Certificate,
        binding: Binding::CHANNEL,
        freshness: Freshness::Connection,
        certificates: peer.thumbprint().into_iter().collect(),
        ..Proven::nobody()
    })
}
