//! A memory of what was verified: bounded, and without a lock that all cores share.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// At most so many values, each found by 32 bytes that nobody can choose freely: a SHA-256 hash.
#[derive(Debug)]
pub(crate) struct Bounded<V> {
    shards: [Shard<V>; SHARDS],
    each_max: usize,
}

/// On a cache line of its own.
#[repr(align(128))]
#[derive(Debug)]
struct Shard<V>(Mutex<HashMap<[u8; 32], V>>);

impl<V: Clone> Bounded<V> {
    /// Holds about `entries_max` values, and never more than twice as many.
    pub(crate) fn new(entries_max: usize) -> Self {
        let shards = std::array::from_fn(|_| Shard(Mutex::default()));
        Self { shards, each_max: entries_max.div_ceil(SHARDS).max(1) }
    }

    pub(crate) fn find(&self, key: &[u8; 32]) -> Option<V> {
        self.shard(key).get(key).cloned()
    }

    /// Keeps `value`. Where there is no room, what is dead goes first, then anything: whoever is forgotten is only
    /// verified again.
    pub(crate) fn keep(&self, key: [u8; 32], value: V, is_dead: impl Fn(&V) -> bool) {
        let mut shard = self.shard(&key);
        if shard.len() >= self.each_max && !shard.contains_key(&key) {
            shard.retain(|_, held| !is_dead(held));
            if shard.len() >= self.each_max
                && let Some(any) = shard.keys().next().copied()
            {
                shard.remove(&any);
            }
        }
        shard.insert(key, value);
    }

    pub(crate) fn forget(&self, key: &[u8; 32]) {
        self.shard(key).remove(key);
    }

    fn shard(&self, key: &[u8; 32]) -> MutexGuard<'_, HashMap<[u8; 32], V>> {
        let [first, ..] = &self.shards;
        // The map itself hashes with a key of its own, so shards are all that somebody could aim at.
        let place = usize::from(key[0] ^ key[31]) % SHARDS;
        self.shards.get(place).unwrap_or(first).0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const SHARDS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_keys::sha256;

    #[test]
    fn a_full_memory_forgets_the_dead_first_and_never_grows() {
        let memory = Bounded::new(SHARDS * 2);
        let keys: Vec<_> = (0..10_000_u32).map(|n| (sha256(&n.to_be_bytes()), n)).collect();
        for (key, n) in &keys {
            memory.keep(*key, *n, |_| false);
            assert_eq!(memory.find(key), Some(*n));
        }
        let held = keys.iter().filter(|(key, _)| memory.find(key).is_some()).count();
        assert_eq!(held, SHARDS * 2);
        // A key that lives, in a shard whose other value is dead.
        let (alive, n) =
            keys.iter().rev().find(|(key, _)| memory.find(key).is_some()).copied().unwrap_or_default();
        let newer = keys.iter().find(|(key, _)| {
            memory.find(key).is_none() && (key[0] ^ key[31]) % 32 == (alive[0] ^ alive[31]) % 32
        });
        let (key, m) = newer.copied().unwrap_or_default();
        memory.keep(key, m, |held| *held != n);
        assert_eq!((memory.find(&alive), memory.find(&key)), (Some(n), Some(m)));
        memory.forget(&key);
        assert_eq!(memory.find(&key), None);
    }
}
