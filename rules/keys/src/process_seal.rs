//! Sealed data that one process hands out and takes back: AES-256-GCM under a key that is made at its start and dies with
//! it.
//!
//! A blob is `nonce ‖ ciphertext ‖ tag`. It may be made for every request, so nonces are counted instead of drawn (NIST
//! SP 800-38D section 8.2.1): random ones would have to stop after 2^32. Each clone has a number of its own in them, and
//! so clones share nothing that two cores would wait for.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::{RandomError, Secret, SecureRandom, domain, random_bytes};

/// Seals for one purpose, and opens what it or a clone of it sealed.
pub struct ProcessSeal {
    shared: Arc<Shared>,
    writer: u32,
    sealed: AtomicU64,
}

struct Shared {
    key: LessSafeKey,
    purpose: Vec<u8>,
    writers: AtomicU32,
}

/// Why there is no such seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProcessSealError {
    /// The generator failed.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The crypto library gave no reason.
    #[error("the crypto library could not make a key to seal with")]
    Key,
}

impl ProcessSeal {
    /// A new key for `purpose`.
    ///
    /// # Errors
    /// See [`ProcessSealError`].
    pub fn generate(purpose: &str, rng: &dyn SecureRandom) -> Result<Self, ProcessSealError> {
        let key: Secret<[u8; 32]> = Secret::new(random_bytes(rng)?);
        let key = UnboundKey::new(&AES_256_GCM, key.expose()).map_err(|_| ProcessSealError::Key)?;
        let (key, purpose) = (LessSafeKey::new(key), domain("process-seal", purpose.as_bytes()));
        let shared = Arc::new(Shared { key, purpose, writers: AtomicU32::new(1) });
        Ok(Self { shared, writer: 0, sealed: AtomicU64::new(0) })
    }

    /// Seals `plaintext`. `None`: no number is left, or the crypto library refused.
    #[must_use]
    pub fn seal(&self, plaintext: &[u8]) -> Option<Vec<u8>> {
        let number = self.sealed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_add(1));
        let mut nonce = [0; NONCE_LEN];
        let (writer, count) = nonce.split_first_chunk_mut::<4>()?;
        *writer = self.writer.to_be_bytes();
        count.copy_from_slice(&number.ok()?.to_be_bytes());
        let mut blob = Vec::with_capacity(OVERHEAD_BYTES + plaintext.len());
        blob.extend_from_slice(&nonce);
        blob.extend_from_slice(plaintext);
        let (_, text) = blob.split_at_mut(NONCE_LEN);
        let tag = self.shared.key.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(&self.shared.purpose),
            text,
        );
        blob.extend_from_slice(tag.ok()?.as_ref());
        Some(blob)
    }

    /// Opens a blob that this process sealed for the same purpose; `None` for anything else.
    #[must_use]
    pub fn open(&self, blob: &[u8]) -> Option<Secret<Vec<u8>>> {
        let (nonce, sealed) = blob.split_first_chunk::<NONCE_LEN>()?;
        let mut buffer = Secret::new(sealed.to_vec());
        let aad = Aad::from(&self.shared.purpose);
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.shared.key.open_in_place(nonce, aad, buffer.expose_mut()).ok()?.len();
        buffer.expose_mut().truncate(opened);
        Some(buffer)
    }
}

/// Of the same key, with nonces of its own. After 2^32 clones the newest seal nothing any more.
impl Clone for ProcessSeal {
    fn clone(&self) -> Self {
        let next = |n: u32| n.checked_add(1);
        let drawn = self.shared.writers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let (writer, sealed) = drawn.map_or((u32::MAX, u64::MAX), |writer| (writer, 0));
        Self { shared: Arc::clone(&self.shared), writer, sealed: AtomicU64::new(sealed) }
    }
}

impl fmt::Debug for ProcessSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProcessSeal({})", self.writer)
    }
}

const TAG_BYTES: usize = 16;
const OVERHEAD_BYTES: usize = NONCE_LEN + TAG_BYTES;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::collections::HashSet;

    use super::*;
    use crate::SystemRandom;

    fn seal() -> ProcessSeal {
        ProcessSeal::generate("test", &SystemRandom::new()).unwrap()
    }

    #[test]
    fn opens_what_it_or_a_clone_sealed_and_hides_it_meanwhile() {
        let one = seal();
        let other = one.clone();
        let blob = one.seal(b"alice's token").unwrap();
        assert_eq!(other.open(&blob).unwrap().expose(), b"alice's token");
        assert!(!blob.windows(5).any(|window| window == b"alice"));
        assert_eq!(one.open(&other.seal(b"").unwrap()).unwrap().expose(), b"");
        assert_eq!(format!("{other:?}"), "ProcessSeal(1)");
    }

    #[test]
    fn no_two_blobs_have_the_same_nonce_whichever_clone_made_them() {
        let one = seal();
        let all = [one.clone(), one.clone().clone(), one];
        let nonces: HashSet<[u8; NONCE_LEN]> =
            (0..300).map(|round| *all[round % 3].seal(b"same").unwrap().first_chunk().unwrap()).collect();
        assert_eq!(nonces.len(), 300);
    }

    #[test]
    fn says_why_there_is_no_key() {
        let why = ProcessSealError::from(RandomError::Unavailable);
        assert_eq!(why, ProcessSealError::Random(RandomError::Unavailable));
        assert_ne!(why.to_string(), ProcessSealError::Key.to_string());
    }

    #[test]
    fn seals_nothing_once_its_numbers_are_used_up() {
        let one = seal();
        one.sealed.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(one.seal(b"once more"), None);
        one.shared.writers.store(u32::MAX, Ordering::Relaxed);
        assert_eq!(one.clone().seal(b"once more"), None);
    }

    #[test]
    fn rejects_every_flipped_byte_and_what_another_process_or_purpose_sealed() {
        let (ours, theirs) = (seal(), seal());
        let blob = ours.seal(b"alice's token").unwrap();
        for at in 0..blob.len() {
            let mut changed = blob.clone();
            changed[at] ^= 1;
            assert!(ours.open(&changed).is_none(), "byte {at}");
        }
        assert!(ours.open(&theirs.seal(b"alice's token").unwrap()).is_none());
        for cut in [0, 1, NONCE_LEN, OVERHEAD_BYTES - 1, blob.len() - 1] {
            assert!(ours.open(&blob[..cut]).is_none(), "{cut} bytes");
        }
        let mut moved = ours;
        Arc::get_mut(&mut moved.shared).unwrap().purpose = domain("process-seal", b"something else");
        assert!(moved.open(&blob).is_none(), "made for something else");
    }
}
