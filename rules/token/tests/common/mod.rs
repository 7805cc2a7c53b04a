//! What the tests of all token kinds share: a key, and forgeries of any form.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::UnixTime;
use countersign_keys::{KeyPair, SystemRandom};
use serde_json::{Value, json};

pub(crate) const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

pub(crate) fn key() -> KeyPair {
    KeyPair::generate(&SystemRandom::new()).unwrap()
}

/// One key of each algorithm, in the order of `Algorithm::ALL`. Made once: RSA takes its time.
pub(crate) fn keys_of_every_algorithm() -> [KeyPair; 3] {
    static KEYS: LazyLock<[KeyPair; 3]> = LazyLock::new(|| {
        let ed25519 = KeyPair::generate_ed25519(&SystemRandom::new()).unwrap();
        [key(), ed25519, KeyPair::generate_rsa().unwrap()]
    });
    KEYS.clone()
}

pub(crate) fn at(seconds: i64) -> UnixTime {
    UnixTime::from_secs(NOW.secs() + seconds)
}

/// A token with any header and any payload, properly signed.
pub(crate) fn forge(key: &KeyPair, header: &str, payload: &str) -> String {
    let input = format!("{}.{}", encode(header), encode(payload));
    let signature = key.sign_raw(input.as_bytes()).unwrap();
    format!("{input}.{}", encode(signature))
}

/// A properly signed token of type `typ`, with the claims of `token` after `change`.
pub(crate) fn reissue(key: &KeyPair, typ: &str, token: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut claims = payload(token);
    change(&mut claims);
    forge(key, &header(key, typ), &claims.to_string())
}

pub(crate) fn header(key: &KeyPair, typ: &str) -> String {
    json!({ "alg": key.algorithm().jose_name(), "kid": key.public_key().thumbprint(), "typ": typ })
        .to_string()
}

pub(crate) fn payload(token: &str) -> Value {
    part(token, 1)
}

/// A part of a compact token: 0 is its header, 1 its payload.
pub(crate) fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
