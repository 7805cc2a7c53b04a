//! Mode `wimse`: a workload identity token of an authority, and a proof that its key is held.

use countersign_identity::{Bound, Freshness, Mode, Verified, WorkloadProof};
use countersign_token::{
    Sighting, http_signature,
    wit::{ProvenWorkload, Unproven, Wit},
    wpt::{self, ProofTarget, target_uri},
};

use super::{
    Authenticator, EvidenceError, Rules,
    body::BodyClaim,
    known::Held,
    presented::{Presented, WimseProof},
    workload::{Proven, Users},
};
use crate::{accept::Exporter, live::wit_facts};

impl Authenticator {
    pub(super) fn wimse(
        &self,
        wit: &str,
        proof: &WimseProof<'_>,
        presented: &Presented<'_>,
        rules: &Rules<'_>,
    ) -> Result<Proven, EvidenceError> {
        let held = self.wits.recall(&[wit.as_bytes()], rules, || {
            let wit = Wit::verify(wit, rules.now, |kid| rules.keys.wit_issuer(kid))?;
            let [signed_by, _] = wit.key_ids();
            let facts = wit_facts(&wit, signed_by, rules.now);
            Ok(Held { value: wit, facts: facts.into() })
        })?;
        let wit = &held.value;
        rules.keys.judge_wit(wit, rules.now)?;
        match proof {
            WimseProof::Token(token) => self.proof_token(token, wit, presented, rules),
            WimseProof::Signature => self.signature(wit, presented, rules),
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

    fn signature(
        &self,
        wit: &Unproven,
        presented: &Presented<'_>,
        rules: &Rules<'_>,
    ) -> Result<Proven, EvidenceError> {
        let target = presented.request.path_and_query();
        let request = http_signature::Head {
            method: presented.request.method().as_str(),
            target: &target,
            headers: presented.request.headers(),
        };
        let audience = target_uri(self.authority(), presented.request.path());
        let (signed, body) = http_signature::verify_request_head(&request, &audience, wit, rules.now)?;
        self.admit_once(&signed.workload, rules)?;
        let answer = signed.sign_response.then(|| signed.workload.proof_id.clone());
        Ok(Proven { body: BodyClaim::Sha256(body), answer, ..of(wit, &signed.workload) })
    }

    fn admit_once(&self, proven: &Verified<ProvenWorkload>, rules: &Rules<'_>) -> Result<(), EvidenceError> {
        let sighting = Sighting {
            issuer: proven.subject.as_str(),
            jti: &proven.proof_id,
            issued_at: proven.proof_issued,
            expires: proven.proof_expires,
            channel_bound: proven.binding.contains(Bound::Channel),
        };
        self.admit(&sighting, rules)
    }
}

fn of(wit: &Unproven, proven: &Verified<ProvenWorkload>) -> Proven {
    let covers = |name: &str| proven.covers.iter().any(|covered| covered == name);
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
        ..Proven::named(proven.subject.clone(), Mode::Wimse, WorkloadProof::SignedRequest)
    }
}
