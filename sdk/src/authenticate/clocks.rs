//! Whose clocks run ahead of ours. Behind cannot be told from slow; ahead can, and is to be seen long before it is
//! refused.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use countersign_identity::UnixTime;
use countersign_token::Sighting;

/// Callers that were ahead when they last proved themselves, each with its seconds.
#[derive(Default)]
pub(super) struct PeerClocks {
    ahead: Mutex<BTreeMap<String, u32>>,
    /// Nobody takes the lock for as long as all clocks agree.
    any: AtomicBool,
}

impl PeerClocks {
    /// Compares the clock of a verified caller with ours. What is told falls with the difference, too: an alert ends when
    /// the clock was set right.
    pub(super) fn measure(&self, proof: &Sighting<'_>, now: UnixTime) {
        // Whole seconds are on the wire: what was made within this one is not ahead.
        let seconds = proof.issued_at.secs().saturating_sub(now.secs()).max(0);
        if seconds == 0 && !self.any.load(Ordering::Relaxed) {
            return;
        }
        let (peer, seconds) = (proof.issuer, u32::try_from(seconds).unwrap_or(u32::MAX));
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let before = ahead.get(peer).copied().unwrap_or_default();
        if seconds == before || (before == 0 && ahead.len() >= PEERS_MAX) {
            return;
        }
        match seconds {
            0 => drop(ahead.remove(peer)),
            _ => drop(ahead.insert(peer.to_owned(), seconds)),
        }
        self.any.store(!ahead.is_empty(), Ordering::Relaxed);
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
