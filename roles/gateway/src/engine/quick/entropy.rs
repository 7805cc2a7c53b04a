//! Random bytes of one worker, drawn many at a time.

use std::cell::RefCell;

use countersign_keys::{SystemRandom, random_bytes};

/// What the system's generator gave and nobody has used.
pub(crate) struct Entropy(RefCell<Drawn>);

struct Drawn {
    bytes: [u8; DRAWN_BYTES],
    used: usize,
}

impl Default for Entropy {
    fn default() -> Self {
        Self(RefCell::new(Drawn { bytes: [0; DRAWN_BYTES], used: DRAWN_BYTES }))
    }
}

impl Entropy {
    /// `N` random bytes, each given once. `None`: the generator fails.
    pub(crate) fn draw<const N: usize>(&self) -> Option<[u8; N]> {
        let mut drawn = self.0.borrow_mut();
        if drawn.bytes.len() - drawn.used < N {
            drawn.bytes = random_bytes(&SystemRandom::new()).ok()?;
            drawn.used = 0;
        }
        let used = drawn.used;
        let bytes = drawn.bytes.get_mut(used..used + N)?;
        let given = <[u8; N]>::try_from(&*bytes).ok()?;
        bytes.fill(0);
        drawn.used = used + N;
        Some(given)
    }
}

const DRAWN_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_bytes_are_given_twice() {
        let entropy = Entropy::default();
        let given: std::collections::HashSet<[u8; 16]> =
            (0..1000).map(|_| entropy.draw::<16>().unwrap()).collect();
        assert_eq!(given.len(), 1000);
        assert!(!given.contains(&[0; 16]));
    }
}
