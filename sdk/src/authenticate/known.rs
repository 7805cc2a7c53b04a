//! Tokens that may be shown again: verified once, and asked at every use whether they still count.

use std::{fmt, sync::Arc};

use countersign_keys::Sha256;
use countersign_token::TokenFacts;

use super::{EvidenceError, Rules};
use crate::bounded::Bounded;

/// What was verified and held. Successes alone are kept; what was refused is verified again.
pub(super) struct Known<T>(Bounded<Arc<Held<T>>>);

/// Something verified, and what ends it.
pub(super) struct Held<T> {
    pub(super) value: T,
    pub(super) facts: Arc<TokenFacts>,
}

impl<T> Known<T> {
    pub(super) fn new() -> Self {
        Self(Bounded::new(TOKENS_MAX))
    }

    /// What `verify` gave for these inputs, which must be all that it looks at besides the keys and the time.
    /// Expiry and revocation are asked now, whether it is known or not.
    pub(super) fn recall(
        &self,
        inputs: &[&[u8]],
        rules: &Rules<'_>,
        verify: impl FnOnce() -> Result<Held<T>, EvidenceError>,
    ) -> Result<Arc<Held<T>>, EvidenceError> {
        let key = hash(inputs, rules.keys.generation);
        let known = self.0.find(&key).filter(|held| rules.now < held.facts.expires);
        if let Some(held) = known {
            rules.keys.revoked.judge(&held.facts).inspect_err(|_| self.0.forget(&key))?;
            return Ok(held);
        }
        let held = Arc::new(verify()?);
        rules.keys.revoked.judge(&held.facts)?;
        let now = rules.now;
        self.0.keep(key, Arc::clone(&held), |old| old.facts.expires <= now);
        Ok(held)
    }
}

/// Lengths are part of it, so that no two lists of inputs run into each other.
fn hash(inputs: &[&[u8]], generation: u64) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(&generation.to_be_bytes());
    for input in inputs {
        hash.update(&(input.len() as u64).to_be_bytes());
        hash.update(input);
    }
    hash.finish()
}

impl<T> fmt::Debug for Known<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Known(..)")
    }
}

/// Each takes about a kilobyte.
const TOKENS_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_do_not_run_into_each_other_nor_generations() {
        let all = [
            hash(&[b"ab", b"c"], 1),
            hash(&[b"a", b"bc"], 1),
            hash(&[b"abc"], 1),
            hash(&[b"abc", b""], 1),
            hash(&[b"abc"], 2),
        ];
        for (place, one) in all.iter().enumerate() {
            assert!(!all.iter().skip(place + 1).any(|other| other == one));
        }
    }
}
