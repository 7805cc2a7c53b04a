//! On whose behalf a workload calls.

use countersign_identity::{SpiffeId, User, UserProof, Verified};
use countersign_token::{TxnToken, TxnTokenError};

use super::{Authenticator, EvidenceError, Rules, presented::UserToken, workload::Proven};

/// A user whose token holds here.
pub(super) struct ProvenUser {
    pub(super) user: Verified<User>,
    pub(super) proof: UserProof,
    /// Does the workload's own proof name exactly this token?
    pub(super) is_covered: bool,
}

impl ProvenUser {
    /// The workloads that the request came through, first one first, the caller itself left out.
    pub(super) fn came_through(&self, caller: Option<&SpiffeId>) -> Vec<SpiffeId> {
        let mut chain: Vec<SpiffeId> =
            self.user.requested_by.iter().chain(&self.user.actors).cloned().collect();
        chain.dedup();
        chain.retain(|id| Some(id) != caller);
        chain
    }
}

impl Authenticator {
    pub(super) fn user(
        &self,
        token: &UserToken,
        proven: &Proven,
        rules: &Rules<'_>,
    ) -> Result<ProvenUser, EvidenceError> {
        match token {
            UserToken::Internal(token) => {
                let user = internal(token, rules)?;
                let is_covered = proven.users.covers_txn_token;
                Ok(ProvenUser { user, proof: UserProof::InternalToken, is_covered })
            }
            UserToken::Hop(_) | UserToken::Nested(_) => {
                Err(EvidenceError::UnknownKind { typ: String::new() })
            }
        }
    }
}

/// The token that the gateway minted, passed on as it is.
pub(super) fn internal(token: &str, rules: &Rules<'_>) -> Result<Verified<User>, TxnTokenError> {
    let key_of = |kid: &str| rules.keys.internal.get(kid).cloned();
    TxnToken::verify(token, &rules.keys.trust_domain, rules.now, key_of)
}
