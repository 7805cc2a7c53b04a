//! Whose clocks run ahead of ours. Behind cannot be told from slow; ahead can, and is to be seen long before it is
//! refused.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use countersign_identity::UnixTime;
use countersign_token::Sighting;

/// Callers that were ahead when they last proved themselves, each with its seconds.
#[derive(Default)]
pub(super) struct PeerClocks {
    /// Read for every proof, so without a lock: what it says changes rarely, and is then another map.
    ahead: ArcSwap<BTreeMap<String, u32>>,
    changing: Mutex<()>,
}

impl PeerClocks {
    /// Compares the clock of a verified caller with ours. What is told falls with the difference, too: an alert ends when
    /// the clock was set right.
    pub(super) fn measure(&self, proof: &Sighting<'_>, now: UnixTime) {
        // Whole seconds are on the wire: what was made within this one is not ahead.
        let seconds = proof.issued_at.secs().saturating_sub(now.secs()).max(0);
        let (peer, seconds) = (proof.issuer, u32::try_from(seconds).unwrap_or(u32::MAX));
        let known = |ahead: &BTreeMap<String, u32>| ahead.get(peer).copied().unwrap_or_default();
        if seconds == known(&self.ahead.load()) {
            return;
        }
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ahead = BTreeMap::clone(&self.ahead.load());
        let before = known(&ahead);
        if seconds == before || (before == 0 && ahead.len() >= PEERS_MAX) {
            return;
        }
        match seconds {
            0 => drop(ahead.remove(peer)),
            _ => drop(ahead.insert(peer.to_owned(), seconds)),
        }
        self.ahead.store(Arc::new(ahead));
        metrics::gauge!("countersign_peer_clock_ahead_seconds", "peer" => peer.to_owned())
            .set(f64::from(seconds));
        if before < WARNED_FROM && seconds >= WARNED_FROM {
            tracing::warn!(peer, seconds, "the clock of a caller is ahead of ours: set one of them right");
        }
    }
}

/// Callers that are told of at one time; they are verified, so there are no more than there are services.
const PEERS_MAX: usize = 4096;
/// Seconds ahead that are worth a line in the log: well before a proof is refused for them.
const WARNED_FROM: u32 = 2;
