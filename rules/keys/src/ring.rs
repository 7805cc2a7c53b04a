//! A ring of keys: which version signs now, and which still verify.
//!
//! A key is announced before it signs (so that verifiers have it first), then promoted, then retired until
//! the last thing it signed has expired. At any time exactly one key signs.

use countersign_identity::UnixTime;

/// Keys of one purpose, found by their `kid`. Bounded by [`RING_KEYS_MAX`].
#[derive(Debug, Clone)]
pub struct Ring<K> {
    signing: Entry<K>,
    others: Vec<(Entry<K>, Standing)>,
}

/// Why a ring was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// A key with this `kid` is there already.
    #[error("a key with this kid is in the ring already")]
    Duplicate,
    /// No announced key has this `kid`.
    #[error("no announced key has this kid; announce it before promoting it")]
    NotAnnounced,
    /// There is no room.
    #[error("the ring holds {RING_KEYS_MAX} keys; wait until one of them retires")]
    Full,
}

#[derive(Debug, Clone)]
struct Entry<K> {
    kid: String,
    key: K,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Announced,
    Retired { until: UnixTime },
}

impl<K> Ring<K> {
    /// A ring with one key, which signs.
    pub fn new(kid: impl Into<String>, key: K) -> Self {
        Self { signing: Entry { kid: kid.into(), key }, others: Vec::new() }
    }

    /// The key that signs now, with its `kid`.
    pub fn signing(&self) -> (&str, &K) {
        (&self.signing.kid, &self.signing.key)
    }

    /// The key with this `kid`, if what it signed still counts at `now`.
    pub fn verifying(&self, kid: &str, now: UnixTime) -> Option<&K> {
        self.all(now).find(|(candidate, _)| *candidate == kid).map(|(_, key)| key)
    }

    /// Every key that verifies at `now`, the signing one first: what is published.
    pub fn all(&self, now: UnixTime) -> impl Iterator<Item = (&str, &K)> {
        let others = self.others.iter().filter(move |(_, standing)| standing.verifies(now));
        std::iter::once(&self.signing)
            .chain(others.map(|(entry, _)| entry))
            .map(|entry| (entry.kid.as_str(), &entry.key))
    }

    /// Adds a key that verifies but does not sign yet.
    pub fn announce(&mut self, kid: impl Into<String>, key: K) -> Result<(), RingError> {
        let kid = kid.into();
        if self.signing.kid == kid || self.others.iter().any(|(entry, _)| entry.kid == kid) {
            return Err(RingError::Duplicate);
        }
        if self.others.len() + 1 >= RING_KEYS_MAX {
            return Err(RingError::Full);
        }
        self.others.push((Entry { kid, key }, Standing::Announced));
        Ok(())
    }

    /// Makes an announced key the signing one. The one before still verifies until `old_until`.
    pub fn promote(&mut self, kid: &str, old_until: UnixTime) -> Result<(), RingError> {
        let position = self
            .others
            .iter()
            .position(|(entry, standing)| entry.kid == kid && *standing == Standing::Announced)
            .ok_or(RingError::NotAnnounced)?;
        let (next, _) = self.others.remove(position);
        let old = std::mem::replace(&mut self.signing, next);
        self.others.push((old, Standing::Retired { until: old_until }));
        Ok(())
    }

    /// Forgets keys whose time is over.
    pub fn prune(&mut self, now: UnixTime) {
        self.others.retain(|(_, standing)| standing.verifies(now));
    }
}

impl Standing {
    fn verifies(self, now: UnixTime) -> bool {
        match self {
            Self::Announced => true,
            Self::Retired { until } => now < until,
        }
    }
}

/// The most keys a ring holds.
pub const RING_KEYS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(secs: i64) -> UnixTime {
        UnixTime::from_secs(secs)
    }

    #[test]
    fn a_key_is_announced_then_signs_then_verifies_until_its_time_is_over() {
        let mut ring = Ring::new("old", 1);
        ring.announce("new", 2).unwrap();
        assert_eq!(ring.signing(), ("old", &1));
        assert_eq!(ring.verifying("new", at(0)), Some(&2));

        ring.promote("new", at(300)).unwrap();
        assert_eq!(ring.signing(), ("new", &2));
        assert_eq!(ring.verifying("old", at(299)), Some(&1));
        assert_eq!(ring.verifying("old", at(300)), None);
        assert_eq!(ring.all(at(0)).map(|(kid, _)| kid).collect::<Vec<_>>(), ["new", "old"]);
        assert_eq!(ring.all(at(300)).count(), 1);
    }

    #[test]
    fn rejects_a_key_twice_and_a_promotion_out_of_turn() {
        let mut ring = Ring::new("a", 1);
        assert_eq!(ring.announce("a", 9), Err(RingError::Duplicate));
        assert_eq!(ring.promote("b", at(0)), Err(RingError::NotAnnounced));
        ring.announce("b", 2).unwrap();
        assert_eq!(ring.announce("b", 9), Err(RingError::Duplicate));
        ring.promote("b", at(10)).unwrap();
        assert_eq!(ring.promote("a", at(0)), Err(RingError::NotAnnounced), "a retired key never signs again");
    }

    #[test]
    fn a_ring_is_full_at_its_limit_and_has_room_again_after_pruning() {
        let mut ring = Ring::new("0", 0);
        for n in 1..RING_KEYS_MAX {
            ring.announce(n.to_string(), n).unwrap();
        }
        assert_eq!(ring.announce("one more", 0), Err(RingError::Full));
        ring.promote("1", at(5)).unwrap();
        ring.prune(at(4));
        assert_eq!(ring.announce("one more", 0), Err(RingError::Full));
        ring.prune(at(5));
        assert_eq!(ring.announce("one more", 0), Ok(()));
    }
}
