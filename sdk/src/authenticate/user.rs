//! On whose behalf a workload calls.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{SpiffeId, User, UserProof, Verified};
use countersign_token::{
    TokenFacts, TokenKind, TxnToken,
    confirmation::Shown,
    exchanged_token::{ExchangedToken, ExpectedToken},
};

use super::{
    Authenticator, EvidenceError, Rules,
    known::Held,
    presented::{UserToken, kind},
    workload::Proven,
};

/// A user whose token holds here.
pub(super) struct ProvenUser {
    pub(super) user: Verified<User>,
    pub(super) proof: UserProof,
    /// What can end the token.
    pub(super) facts: Arc<TokenFacts>,
    /// Does the workload's own proof name exactly this token?
    pub(super) is_covered: bool,
}

impl ProvenUser {
    /// The workloads that the request came through, first one first, the caller itself left out.
    pub(super) fn came_through(&self, caller: Option<&SpiffeId>) -> Vec<SpiffeId> {
        let mut chain: Vec<SpiffeId> =
            self.user.actors.iter().chain(&self.user.requested_by).cloned().collect();
        chain.dedup();
        if chain.last() == caller {
            chain.pop();
        }
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
        let (held, proof, is_covered) = match token {
            UserToken::Internal(token) => {
                (self.internal_user(token, rules)?, UserProof::InternalToken, proven.users.covers_txn_token)
            }
            UserToken::Hop(token) => {
                (self.hop_user(token, proven, rules)?, UserProof::HopToken, proven.users.covers_user_token)
            }
            UserToken::Nested(token) => match kind(token) {
                Some(TokenKind::TxnToken) => (self.internal_user(token, rules)?, UserProof::HopToken, true),
                _ => (self.hop_user(token, proven, rules)?, UserProof::HopToken, true),
            },
        };
        Ok(ProvenUser { user: held.value.clone(), proof, facts: Arc::clone(&held.facts), is_covered })
    }

    /// The token that the gateway minted, passed on as it is.
    pub(super) fn internal_user(
        &self,
        token: &str,
        rules: &Rules<'_>,
    ) -> Result<Arc<Held<Verified<User>>>, EvidenceError> {
        self.users.recall(&[b"txn-token", token.as_bytes()], rules, || {
            let key_of = |kid: &str| rules.keys.internal.get(kid).cloned();
            let grant = TxnToken::verify_grant(token, &rules.keys.trust_domain, rules.now, key_of)?;
            Ok(Held { value: grant.user, facts: grant.facts.into() })
        })
    }

    /// The token that the token service issued for this hop: for us, and to be shown by this caller alone.
    fn hop_user(
        &self,
        token: &str,
        proven: &Proven,
        rules: &Rules<'_>,
    ) -> Result<Arc<Held<Verified<User>>>, EvidenceError> {
        let certificates: Vec<_> =
            proven.certificates.iter().map(|hash| URL_SAFE_NO_PAD.encode(hash)).collect();
        let shown = Shown::Held { keys: &proven.keys, certificates: &certificates };
        let presenter = proven.id();
        let mut inputs = vec![b"user-token".as_slice(), token.as_bytes()];
        inputs.push(presenter.map_or(b"", |id| id.as_str().as_bytes()));
        inputs.extend(proven.keys.iter().chain(&certificates).map(String::as_bytes));
        self.users.recall(&inputs, rules, || {
            let authority = rules.keys.authorities.get(&rules.keys.trust_domain);
            let issuer = authority.map_or("", |authority| authority.issuer.as_str());
            let expected = ExpectedToken { issuer, audience: &self.me, presenter, shown };
            let mut signed_by = None;
            let verified = ExchangedToken::verify(token, &expected, rules.now, |kid| {
                signed_by = Some(kid.to_owned());
                authority?.exchange.get(kid).cloned()
            })?;
            let facts = verified.facts(&signed_by.unwrap_or_default());
            Ok(Held { value: ExchangedToken::user(&verified), facts: facts.into() })
        })
    }
}
