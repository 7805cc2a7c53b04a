//! Mode `bearer`: an opaque token, found by its id and compared by its keyed hash.

use countersign_identity::{Freshness, Mode, Verified, Workload, WorkloadProof};
use countersign_token::{BearerError, bearer};

use super::{Authenticator, EvidenceError, Rules, workload::Proven};

impl Authenticator {
    pub(super) fn bearer(&self, token: &str, rules: &Rules<'_>) -> Result<Proven, EvidenceError> {
        let secrets = self.secrets.load();
        // Without a key there are no tokens for us: whatever came is not known here.
        let key = secrets.bearer_key().ok_or(BearerError::NotBearer)?;
        let holder = bearer::verify(token, key, rules.now, |id| secrets.bearer(id).cloned())?;
        rules.keys.revoked.judge_token(&holder.id.to_string())?;
        let workload = Workload { id: holder.owner.clone(), certificate: None };
        let proven = Proven::by(Verified::vouch(workload), Mode::Bearer, WorkloadProof::Bearer);
        Ok(Proven { freshness: Freshness::Reusable, ..proven })
    }
}
