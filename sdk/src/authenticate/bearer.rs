//! Mode `bearer`: an opaque token, found by its id and compared by its keyed hash.

use countersign_identity::{Freshness, Mode, WorkloadProof};
use countersign_token::{BearerError, bearer};

use super::{Authenticator, EvidenceError, Rules, workload::Proven};

impl Authenticator {
    pub(super) fn bearer(&self, token: &str, rules: &Rules<'_>) -> Result<Proven, EvidenceError> {
        let secrets = self.secrets.load();
        // Without a key there are no tokens for us: whatever came is not known here.
        let key = secrets.bearer_key().ok_or(BearerError::NotBearer)?;
        let holder = bearer::verify(token, key, rules.now, |id| secrets.bearer(id).cloned())?;
        rules.keys.revoked.judge(&holder.facts(rules.now))?;
        let proven = Proven::named(holder.owner.clone(), Mode::Bearer, WorkloadProof::Bearer);
        Ok(Proven { freshness: Freshness::Reusable, ..proven })
    }
}
