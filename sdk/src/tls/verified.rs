//! Chains that were verified before: the same bytes under the same trust need no second verification.
//!
//! Of a handshake, two or three signatures are those of certificates, which say the same every time. What is proven
//! anew each time is that the peer holds the key: rustls checks its CertificateVerify whatever is remembered here.
//!
//! A memory belongs to one set of bundles and revocation lists; others have an empty one. It holds successes alone, a
//! bounded number of them, each until the first certificate of its path, or the first list that speaks for it, ends. What
//! enters it was presented by whoever holds its key: a stranger who replays chains of others drives nobody out.

use std::sync::Arc;

use countersign_identity::{UnixTime, Verified, Workload};
use countersign_keys::Sha256;
use countersign_ledger::CheckRecord;
use countersign_pki::verify::Usage;
use rustls::pki_types::CertificateDer;

use crate::bounded::Bounded;

/// What was verified under one set of bundles and lists.
#[derive(Debug)]
pub(super) struct VerifiedChains(Bounded<Arc<Proven>>);

/// Who a chain proves, for whoever holds its key.
#[derive(Debug)]
pub(super) struct Proven {
    pub(super) workload: Verified<Workload>,
    pub(super) checks: Arc<[CheckRecord]>,
    /// When it was verified: every certificate had begun.
    pub(super) since: UnixTime,
    /// From then on it is to be verified again.
    pub(super) until: UnixTime,
}

/// A chain that was verified just now, and the memory that it belongs to: kept once its key is proven.
#[derive(Debug)]
pub(super) struct Unkept {
    memory: Arc<VerifiedChains>,
    key: ChainKey,
    proven: Arc<Proven>,
}

/// Every byte that the verdict depends on, besides the trust and the time.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChainKey([u8; 32]);

impl VerifiedChains {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Bounded::new(CHAINS_MAX)))
    }

    /// What is known of a chain, as long as it counts.
    pub(super) fn find(&self, key: ChainKey, now: UnixTime) -> Option<Arc<Proven>> {
        self.0.find(&key.0).filter(|proven| proven.since <= now && now < proven.until)
    }

    /// What is to be remembered of a chain, once its key is proven.
    pub(super) fn unkept(self: &Arc<Self>, key: ChainKey, proven: Proven) -> Unkept {
        Unkept { memory: Arc::clone(self), key, proven: Arc::new(proven) }
    }
}

impl Unkept {
    /// Whoever presented the chain holds its key.
    pub(super) fn keep(&self) {
        let now = self.proven.since;
        self.memory.0.keep(self.key.0, Arc::clone(&self.proven), |held| held.until <= now);
    }
}

impl ChainKey {
    /// Lengths stand before the certificates, so that no two chains are the same bytes.
    pub(super) fn of(chain: &[CertificateDer<'_>], usage: Usage) -> Self {
        let role: u8 = match usage {
            Usage::Client => 0,
            Usage::Server => 1,
            Usage::Signing => 2,
        };
        let mut hash = Sha256::new();
        hash.update(&[role]);
        for certificate in chain {
            hash.update(&u64::try_from(certificate.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(certificate);
        }
        Self(hash.finish())
    }
}

/// A deployment with more peers than this verifies some chains again.
const CHAINS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_told_apart_by_where_their_certificates_end_and_by_their_use() {
        let chain = |parts: &[&[u8]]| -> Vec<CertificateDer<'static>> {
            parts.iter().map(|part| CertificateDer::from(part.to_vec())).collect()
        };
        let key = |parts: &[&[u8]], usage| ChainKey::of(&chain(parts), usage).0;
        assert_eq!(key(&[b"ab", b"c"], Usage::Client), key(&[b"ab", b"c"], Usage::Client));
        assert_ne!(key(&[b"ab", b"c"], Usage::Client), key(&[b"a", b"bc"], Usage::Client));
        assert_ne!(key(&[b"ab", b"c"], Usage::Client), key(&[b"abc"], Usage::Client));
        assert_ne!(key(&[b"ab", b"c"], Usage::Client), key(&[b"ab", b"c"], Usage::Server));
    }
}
