//! Mode `wimse`: a workload identity token of an authority, and a proof that its key is held.

use countersign_identity::{Freshness, Mode, Verified, Workload, WorkloadProof};
use countersign_token::{
    Sighting,
    wit::{ProvenWorkload, Unproven, Wit, WitIssuer},
    wpt::{self, ProofTarget, target_uri},
};

use super::{
    Authenticator, EvidenceError, Rules,
    presented::{Presented, WimseProof},
    workload::{Proven, Users},
};
use crate::accept::Exporter;

impl Authenticator {
    pub(super) fn wimse(
        &self,
        wit: &str,
        proof: &WimseProof<'_>,
        presented: &Presented<'_>,
        rules: &Rules<'_>,
    ) -> Result<Proven, EvidenceError> {
        let wit: Unproven = Wit::verify(wit, rules.now, |kid| issuer(rules, kid))?;
        if let Some(id) = wit.token_id() {
            rules.keys.revoked.judge_token(id)?;
        }
        wit.key_ids().iter().try_for_each(|kid| rules.keys.revoked.judge_key(kid))?;
        match proof {
            WimseProof::Token(token) => self.proof_token(token, &wit, presented, rules),
            WimseProof::Signature => Err(EvidenceError::UnknownKind { typ: "signature".to_owned() }),
        }
    }

    fn proof_token(
        &self,
        token: &str,
        wit: &Unproven,
        presented: &Presented<'_>,
        rules: &Rules<'_>,
    ) -> Result<Proven, EvidenceError> {
        let audience = target_uri(self.authority(), presented.request.path());
        let others: Vec<_> = presented.user_token.map(|token| ("user-token", token)).into_iter().collect();
        let target = ProofTarget {
            audience: &audience,
            txn_token: presented.txn_token,
            others: &others,
            exporter: presented.exporter.map(Exporter::expose),
            ..ProofTarget::default()
        };
        let proven = wpt::verify(token, wit, &target, rules.now)?;
        self.admit_once(&proven, rules)?;
        Ok(of(wit, &proven))
    }

    fn admit_once(&self, proven: &Verified<ProvenWorkload>, rules: &Rules<'_>) -> Result<(), EvidenceError> {
        let sighting = Sighting {
            issuer: proven.subject.as_str(),
            jti: &proven.proof_id,
            issued_at: proven.proof_issued,
            expires: proven.proof_expires,
            channel_bound: proven.binding.contains(countersign_identity::Bound::Channel),
        };
        self.admit(&sighting, rules)
    }
}

/// Whose key for workload identity tokens it is.
fn issuer(rules: &Rules<'_>, kid: &str) -> Option<WitIssuer> {
    rules.keys.authorities.iter().find_map(|(trust_domain, authority)| {
        let key = authority.wit.get(kid)?.clone();
        let issuer = Some(authority.issuer.clone());
        Some(WitIssuer { kid: kid.to_owned(), key, trust_domain: trust_domain.clone(), issuer })
    })
}

fn of(wit: &Unproven, proven: &Verified<ProvenWorkload>) -> Proven {
    let covers = |name: &str| proven.covers.iter().any(|covered| covered == name);
    let workload = Workload { id: proven.subject.clone(), certificate: None };
    let [_, key] = wit.key_ids();
    Proven {
        binding: proven.binding,
        freshness: Freshness::SingleUse,
        keys: vec![key],
        users: Users {
            covers_txn_token: covers("txn-token"),
            covers_user_token: covers("user-token"),
            nested: None,
        },
        ..Proven::by(Verified::vouch(workload), Mode::Wimse, WorkloadProof::SignedRequest)
    }
}
