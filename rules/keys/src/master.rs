//! The master key: 32 bytes that lie outside the state directory and open everything in it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::{RandomError, Secret, SecureRandom, domain, hmac_sha256, random_bytes};

/// The key under which an authority seals its private keys. Its text form is `csmk1_` and 43 characters
/// of base64url: a prefix that secret scanners can find, and a version.
#[derive(Clone)]
pub struct MasterKey(Secret<[u8; MASTER_KEY_BYTES]>);

/// Why a master key file is not usable. Never holds any of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MasterKeyError {
    /// The file has no content.
    #[error("the master key file is empty; restore it from where you keep it")]
    Empty,
    /// Longer than any master key.
    #[error("the master key file has {bytes} bytes, more than {FILE_BYTES_MAX}; it is some other file")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The prefix is missing or of another version.
    #[error("the master key file does not start with `csmk1_`; it is some other file")]
    WrongPrefix,
    /// After the prefix there are not 32 bytes in canonical base64url.
    #[error("the master key is damaged: after `csmk1_` there must be 43 characters of base64url")]
    Damaged,
}

impl MasterKey {
    /// Makes a new master key.
    pub fn generate(rng: &dyn SecureRandom) -> Result<Self, RandomError> {
        Ok(Self(Secret::new(random_bytes(rng)?)))
    }

    /// Reads the text form; one line end after it is allowed.
    pub fn from_file_bytes(bytes: &[u8]) -> Result<Self, MasterKeyError> {
        if bytes.is_empty() {
            return Err(MasterKeyError::Empty);
        }
        if bytes.len() > FILE_BYTES_MAX {
            return Err(MasterKeyError::TooLong { bytes: bytes.len() });
        }
        let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = line.strip_prefix(PREFIX.as_bytes()).ok_or(MasterKeyError::WrongPrefix)?;
        let decoded = Secret::new(URL_SAFE_NO_PAD.decode(text).map_err(|_| MasterKeyError::Damaged)?);
        let key = <[u8; MASTER_KEY_BYTES]>::try_from(decoded.expose().as_slice());
        Ok(Self(Secret::new(key.map_err(|_| MasterKeyError::Damaged)?)))
    }

    /// The text form, one line with its line end: what is written to the key file, mode 0600.
    pub fn to_file_text(&self) -> Secret<String> {
        let encoded = Secret::new(URL_SAFE_NO_PAD.encode(self.0.expose()));
        Secret::new(format!("{PREFIX}{}\n", encoded.expose()))
    }

    /// A key for one purpose. What is derived for one purpose tells nothing about another.
    pub fn derive(&self, purpose: &str) -> Secret<[u8; 32]> {
        Secret::new(hmac_sha256(self.0.expose(), &domain(purpose, b"derive")))
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// Length of a master key: AES-256.
pub const MASTER_KEY_BYTES: usize = 32;
/// The longest file that is read.
pub const FILE_BYTES_MAX: usize = 128;
const PREFIX: &str = "csmk1_";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::SystemRandom;

    #[test]
    fn reads_the_file_that_it_wrote_with_or_without_its_line_end() {
        let key = MasterKey::generate(&SystemRandom::new()).unwrap();
        let text = key.to_file_text().expose().clone();
        assert!(text.starts_with("csmk1_") && text.ends_with('\n') && text.len() == 6 + 43 + 1);
        for file in [text.clone(), text.trim().to_owned(), text.replace('\n', "\r\n")] {
            let read = MasterKey::from_file_bytes(file.as_bytes()).unwrap();
            assert_eq!(read.derive("a").expose(), key.derive("a").expose());
        }
    }

    #[test]
    fn keys_of_different_purposes_differ() {
        let key = MasterKey::generate(&SystemRandom::new()).unwrap();
        assert_ne!(key.derive("a").expose(), key.derive("b").expose());
    }

    #[test]
    fn rejects_an_empty_an_overlong_a_foreign_and_a_damaged_file() {
        let text = MasterKey::generate(&SystemRandom::new()).unwrap().to_file_text().expose().clone();
        let read = |bytes: &[u8]| MasterKey::from_file_bytes(bytes).map(|_| ()).unwrap_err();
        assert_eq!(read(b""), MasterKeyError::Empty);
        assert_eq!(read(&[b'a'; FILE_BYTES_MAX + 1]), MasterKeyError::TooLong { bytes: FILE_BYTES_MAX + 1 });
        assert_eq!(read(&[b'a'; FILE_BYTES_MAX]), MasterKeyError::WrongPrefix);
        assert_eq!(read(text.replace("csmk1_", "csmk2_").as_bytes()), MasterKeyError::WrongPrefix);
        assert_eq!(read(&text.as_bytes()[..40]), MasterKeyError::Damaged);
        assert_eq!(read(text.replace('\n', "A").as_bytes()), MasterKeyError::Damaged);
        assert_eq!(read(format!("csmk1_{}", "*".repeat(43)).as_bytes()), MasterKeyError::Damaged);
    }

    #[test]
    fn debug_of_a_master_key_prints_nothing_of_it() {
        let key = MasterKey::generate(&SystemRandom::new()).unwrap();
        assert_eq!(format!("{key:?}"), "MasterKey(..)");
    }
}
