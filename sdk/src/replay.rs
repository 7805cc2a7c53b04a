//! Single use of proofs, for all connections of a process.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use countersign_identity::UnixTime;
use countersign_token::replay::{ReplayCache, ReplayError, ReplayLimits, Sighting, shard_of};

/// The proofs that this process accepted and that could still be presented; those of one caller under one lock.
pub struct ReplayGuard(Vec<Mutex<ReplayCache>>);

impl ReplayGuard {
    /// Has seen nothing, in a process that started at `started`.
    #[must_use]
    pub fn new(started: UnixTime) -> Self {
        let limits = ReplayLimits::default();
        // Room for others in every shard, however much one caller of it sends.
        let each = ReplayLimits { total: limits.per_issuer.saturating_mul(CALLERS_AT_THEIR_QUOTA), ..limits };
        Self((0..SHARDS).map(|_| Mutex::new(ReplayCache::new(started, each))).collect())
    }

    /// Accepts a proof for the first and only time. Ask once its signature and its recipient were checked.
    ///
    /// # Errors
    /// It was used before, cannot be known to be new, or cannot be remembered.
    pub fn admit(&self, proof: &Sighting<'_>, now: UnixTime) -> Result<(), ReplayError> {
        let shard = self.0.get(shard_of(proof.issuer, SHARDS));
        // There are as many shards as `shard_of` chooses from.
        let Some(shard) = shard else { return Err(ReplayError::Full { live: 0 }) };
        shard.lock().unwrap_or_else(PoisonError::into_inner).admit(proof, now)
    }
}

impl fmt::Debug for ReplayGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplayGuard(..)")
    }
}

const SHARDS: usize = 8;
/// Callers of one shard that may use up their whole quota before a third one is refused.
const CALLERS_AT_THEIR_QUOTA: usize = 2;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_caller_that_uses_up_its_quota_leaves_room_for_another_one_of_its_shard() {
        let start = UnixTime::from_secs(1_800_000_000);
        let (guard, now) = (ReplayGuard::new(start), start.saturating_add(Duration::from_secs(60)));
        let expires = now.saturating_add(Duration::from_secs(30));
        let greedy = "spiffe://td/svc/greedy";
        let names: Vec<String> = (0..100).map(|n| format!("spiffe://td/svc/s{n}")).collect();
        let other = names.iter().find(|name| shard_of(name, SHARDS) == shard_of(greedy, SHARDS)).unwrap();
        let admit = |issuer: &str, jti: &str| {
            guard.admit(&Sighting { issuer, jti, issued_at: now, expires, channel_bound: true }, now)
        };
        for number in 0..ReplayLimits::default().per_issuer {
            assert_eq!(admit(greedy, &number.to_string()), Ok(()));
        }
        let refused = admit(greedy, "one more");
        assert!(matches!(refused, Err(ReplayError::IssuerQuota { .. })), "{refused:?}");
        assert_eq!(admit(other, "1"), Ok(()));
    }

    #[test]
    fn a_proof_is_admitted_once_and_each_caller_has_its_own() {
        let start = UnixTime::from_secs(1_800_000_000);
        let (guard, now) = (ReplayGuard::new(start), start.saturating_add(Duration::from_secs(60)));
        let expires = now.saturating_add(Duration::from_secs(30));
        for issuer in ["spiffe://td/svc/ads", "spiffe://td/svc/chat", "spiffe://td/svc/users"] {
            let proof = Sighting { issuer, jti: "1", issued_at: now, expires, channel_bound: true };
            assert_eq!(guard.admit(&proof, now), Ok(()));
            assert_eq!(guard.admit(&proof, now), Err(ReplayError::Replayed));
        }
    }
}
