//! SHA-256, HMAC-SHA-256 and comparison in constant time.

use aws_lc_rs::{digest, hmac};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::domain;

/// SHA-256 (FIPS 180-4) of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; SHA256_BYTES] {
    fixed(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// SHA-256 of `bytes` in 64 lower-case hexadecimal digits: the form of a certificate's thumbprint.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&sha256(bytes))
}

/// SHA-256 (FIPS 180-4) of what comes in pieces, such as a large file.
#[derive(Clone)]
pub struct Sha256(digest::Context);

impl Sha256 {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// The next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all pieces.
    pub fn finish(self) -> [u8; SHA256_BYTES] {
        fixed(self.0.finish().as_ref())
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sha256(..)")
    }
}

/// HMAC-SHA-256 (RFC 2104) of `message` under `key`.
pub fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; SHA256_BYTES] {
    fixed(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref())
}

/// HMAC-SHA-256 (RFC 2104) of `message` under a key that authenticates this one message: a link of a macaroon's chain, where
/// each MAC is the key of the next. The same as [`hmac_sha256`] gives, in half the time: the library prepares and copies
/// a context for messages to come, and here none come.
pub fn hmac_sha256_once(key: &[u8; SHA256_BYTES], message: &[u8]) -> [u8; SHA256_BYTES] {
    let mut text = [0; SHA256_BLOCK_BYTES + SHORT_MESSAGE_BYTES_MAX];
    let end = SHA256_BLOCK_BYTES + message.len();
    let Some(text) = text.get_mut(..end.max(SHA256_BLOCK_BYTES + SHA256_BYTES)) else {
        return hmac_sha256(key, message);
    };
    let (pad, content) = text.split_at_mut(SHA256_BLOCK_BYTES);
    fill(content, message);
    // RFC 2104 section 2: H(K XOR opad, H(K XOR ipad, text)), the key padded with zeros to a block.
    fill(pad, key);
    pad.iter_mut().for_each(|byte| *byte ^= 0x36);
    let inner = sha256(text.get(..end).unwrap_or_default());
    let (pad, content) = text.split_at_mut(SHA256_BLOCK_BYTES);
    pad.iter_mut().for_each(|byte| *byte ^= 0x36 ^ 0x5c);
    fill(content, &inner);
    let outer = sha256(text.get(..SHA256_BLOCK_BYTES + SHA256_BYTES).unwrap_or_default());
    text.get_mut(..SHA256_BYTES).unwrap_or_default().zeroize();
    outer
}

/// A key for HMAC-SHA-256 (RFC 2104) that is prepared once and used often. Wiped when dropped, and never printed.
#[derive(Clone)]
pub struct MacKey(hmac::Key);

impl MacKey {
    /// Prepares `key`, of any length.
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The MAC of `message`: what [`hmac_sha256`] gives.
    pub fn mac(&self, message: &[u8]) -> [u8; SHA256_BYTES] {
        fixed(hmac::sign(&self.0, message).as_ref())
    }

    /// The MAC of [`domain`](crate::domain())`(purpose, message)`, without a copy of the message.
    pub fn mac_for(&self, purpose: &str, message: &[u8]) -> [u8; SHA256_BYTES] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&domain(purpose, b""));
        context.update(message);
        fixed(context.sign().as_ref())
    }
}

impl std::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MacKey(..)")
    }
}

/// Whether two byte strings are equal, in a time that depends on their lengths only.
pub fn constant_time_eq(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

/// Lower-case hexadecimal, two digits per byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for nibble in [byte >> 4, byte & 0x0f] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
        text
    })
}

/// Length of a hash and of a MAC.
pub const SHA256_BYTES: usize = 32;
const SHA256_BLOCK_BYTES: usize = 64;
/// Longer ones are left to the library, which then costs hardly more.
const SHORT_MESSAGE_BYTES_MAX: usize = 192;

fn fill(to: &mut [u8], from: &[u8]) {
    if let Some(to) = to.get_mut(..from.len()) {
        to.copy_from_slice(from);
    }
}

fn fixed(bytes: &[u8]) -> [u8; SHA256_BYTES] {
    let mut out = [0; SHA256_BYTES];
    for (to, from) in out.iter_mut().zip(bytes) {
        *to = *from;
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn a_hash_in_pieces_is_the_hash_of_the_whole() {
        let mut pieces = Sha256::new();
        pieces.update(b"count");
        pieces.update(b"");
        pieces.update(b"ersign");
        assert_eq!(pieces.finish(), sha256(b"countersign"));
        assert_eq!(
            hex(&Sha256::default().finish()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn hashes_the_empty_string_as_fips_180_says() {
        assert_eq!(sha256_hex(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn equality_is_of_all_bytes() {
        assert!(constant_time_eq(b"abc", b"abc"));
        assert!(!constant_time_eq(b"abc", b"abd"));
        assert!(!constant_time_eq(b"abc", b"ab"));
    }

    #[test]
    fn a_key_for_one_message_gives_the_same_at_every_length() {
        let message: Vec<u8> = (0..=255).chain(0..=255).collect();
        for length in 0..message.len() {
            let key = sha256(&message[..length]);
            let (once, library) =
                (hmac_sha256_once(&key, &message[..length]), hmac_sha256(&key, &message[..length]));
            assert_eq!(once, library, "{length} bytes");
        }
    }

    #[test]
    fn a_prepared_key_gives_the_same_and_prints_nothing() {
        let key = MacKey::new(b"a key");
        assert_eq!(key.mac(b"message"), hmac_sha256(b"a key", b"message"));
        assert_eq!(key.mac_for("purpose", b"message"), hmac_sha256(b"a key", &domain("purpose", b"message")));
        assert_eq!(key.mac(b"message"), key.clone().mac(b"message"));
        assert_eq!(format!("{key:?}"), "MacKey(..)");
    }

    #[test]
    fn hmac_agrees_with_every_wycheproof_vector() {
        let Some(file) = countersign_testkit::vectors("wycheproof/hmac_sha256_test.json") else { return };
        let vectors: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        for test in
            vectors["testGroups"].as_array().unwrap().iter().flat_map(|g| g["tests"].as_array().unwrap())
        {
            let bytes = |field: &str| -> Vec<u8> {
                let text = test[field].as_str().unwrap();
                (0..text.len())
                    .step_by(2)
                    .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
                    .collect()
            };
            // Some vectors hold a truncated tag: what is given must be the start of ours.
            let (mac, tag) = (hmac_sha256(&bytes("key"), &bytes("msg")), bytes("tag"));
            assert_eq!(mac[..tag.len()] == tag[..], test["result"] == "valid", "{}", test["tcId"]);
            if let Ok(key) = <[u8; SHA256_BYTES]>::try_from(bytes("key")) {
                assert_eq!(hmac_sha256_once(&key, &bytes("msg")), mac, "{}", test["tcId"]);
            }
        }
    }
}
