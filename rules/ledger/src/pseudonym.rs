//! Users in the ledger: the same person is recognised, nobody is named.

use std::fmt;

use countersign_keys::{Secret, domain, hash::hex, hmac_sha256};

/// The deployment's key for pseudonyms. Who holds it can find the events of a user whose id they know;
/// destroying it makes the ledger forget who everybody was, without breaking a hash.
#[derive(Clone, Debug)]
pub struct PseudonymKey(Secret<[u8; 32]>);

impl PseudonymKey {
    /// From 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Secret::new(bytes))
    }
}

/// A user as the ledger knows them; `p_` and 20 hex digits as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pseudonym([u8; PSEUDONYM_BYTES]);

impl Pseudonym {
    /// The beginning of HMAC-SHA-256 over the opaque user id.
    pub fn of(key: &PseudonymKey, user_id: &str) -> Self {
        let mac = hmac_sha256(key.0.expose(), &domain("pseudonym", user_id.as_bytes()));
        let mut short = [0; PSEUDONYM_BYTES];
        short.iter_mut().zip(mac).for_each(|(byte, of_mac)| *byte = of_mac);
        Self(short)
    }
}

impl fmt::Display for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p_{}", hex(&self.0))
    }
}

/// The text of a [`Pseudonym`].
pub fn pseudonym(key: &PseudonymKey, user_id: &str) -> String {
    Pseudonym::of(key, user_id).to_string()
}

/// 80 bits: no two users of a deployment meet by accident.
const PSEUDONYM_BYTES: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_user_has_the_same_pseudonym_under_one_key_only() {
        let (ours, theirs) = (PseudonymKey::new([1; 32]), PseudonymKey::new([2; 32]));
        assert_eq!(pseudonym(&ours, "u_alice"), pseudonym(&ours, "u_alice"));
        assert_ne!(pseudonym(&ours, "u_alice"), pseudonym(&ours, "u_bob"));
        assert_ne!(pseudonym(&ours, "u_alice"), pseudonym(&theirs, "u_alice"));
    }

    #[test]
    fn a_pseudonym_names_nobody_and_its_key_is_never_printed() {
        let key = PseudonymKey::new([1; 32]);
        let name = pseudonym(&key, "u_alice");
        assert!(name.starts_with("p_") && name.len() == 22 && !name.contains("alice"));
        assert_eq!(format!("{key:?}"), "PseudonymKey(Secret(..))");
    }
}
