//! Mode `macaroon`: a macaroon under a root key of our own, narrowed by its holder to this request.

use countersign_identity::{Freshness, Mode, WorkloadProof};
use countersign_token::macaroon::{HeldMacaroon, Predicate, RequestFacts, service};

use super::{Authenticator, EvidenceError, Rules, body::BodyClaim, presented::Presented, workload::Proven};

impl Authenticator {
    pub(super) fn macaroon(
        &self,
        credential: &str,
        presented: &Presented<'_>,
        rules: &Rules<'_>,
    ) -> Result<Proven, EvidenceError> {
        let (secrets, request) = (self.secrets.load(), presented.request);
        let body = named_body(credential)?;
        let user = match presented.txn_token {
            Some(token) => Some(self.internal_user(token, rules)?),
            None => None,
        };
        let facts = RequestFacts {
            callee: &self.me,
            method: request.method().as_str(),
            path: request.path(),
            query: request.query(),
            // Taken at its word here, and compared before there is a caller.
            body,
            caller: None,
            user: user.as_ref().map(|user| user.value.id.as_str()),
            now: rules.now,
        };
        let holder = service::verify(credential, &facts, |id| secrets.macaroon_key(id))?;
        rules.keys.revoked.judge(&holder.facts(rules.now))?;
        Ok(Proven {
            binding: holder.binding,
            freshness: Freshness::Reusable,
            body: body.map_or(BodyClaim::Nothing, BodyClaim::Sha256),
            ..Proven::named(holder.owner.clone(), Mode::Macaroon, WorkloadProof::Macaroon)
        })
    }
}

/// The body that a caveat names. Of several that differ, all but one will not hold.
fn named_body(credential: &str) -> Result<Option<[u8; 32]>, EvidenceError> {
    let macaroon = HeldMacaroon::parse(credential)?;
    let own = macaroon.root().caveats().iter().filter(|caveat| caveat.discharger().is_none());
    Ok(own.filter_map(|caveat| Predicate::parse(caveat.id()).ok()).find_map(|predicate| match predicate {
        Predicate::Body(digest) => Some(digest),
        _ => None,
    }))
}
