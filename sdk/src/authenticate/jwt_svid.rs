//! Mode `bearer`, with a JWT-SVID: a trust domain's word on who sends it. Whoever has a copy can use it.

use countersign_identity::{Freshness, Mode, SpiffeId, WorkloadProof};
use countersign_token::JwtSvid;

use super::{Authenticator, EvidenceError, Rules, known::Held, workload::Proven};

impl Authenticator {
    pub(super) fn jwt_svid(&self, token: &str, rules: &Rules<'_>) -> Result<Proven, EvidenceError> {
        let subject = self.svids.recall(&[token.as_bytes()], rules, || verify(token, &self.me, rules))?;
        let proven = Proven::named(subject.value.clone(), Mode::Bearer, WorkloadProof::Bearer);
        Ok(Proven { freshness: Freshness::Reusable, ..proven })
    }
}

fn verify(token: &str, me: &SpiffeId, rules: &Rules<'_>) -> Result<Held<SpiffeId>, EvidenceError> {
    let mut key = None;
    let svid = JwtSvid::verify(token, me.as_str(), rules.now, |trust_domain, kid| {
        let found = rules.keys.authorities.get(trust_domain)?.jwt_svid.get(kid).cloned();
        key = found.as_ref().map(countersign_keys::PublicKey::thumbprint);
        found
    })?;
    Ok(Held { value: svid.subject.clone(), facts: svid.facts(&key.unwrap_or_default()).into() })
}
