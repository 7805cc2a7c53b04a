//! The MAC of a macaroon, as libmacaroons computes it.
//!
//! ```text
//! key      = HMAC("macaroons-key-generator", secret)             the text padded with zeros to 32 bytes
//! start    = HMAC(key, identifier)
//! first    = HMAC(tag, caveat id)
//! third    = H2(tag, verification id, caveat id)                 H2(k, a, b) = HMAC(k, HMAC(k, a) ‖ HMAC(k, b))
//! bound    = H2(0^32, tag of the root macaroon, tag of the discharge)
//! ```

use std::fmt;

use countersign_keys::{MacKey, Secret, constant_time_eq, hash::hmac_sha256_once, hmac_sha256};

/// The key at the root of a macaroon: of a callee, or of one third-party caveat. Whoever has it can mint.
#[derive(Clone, Debug)]
pub struct RootKey {
    derived: Secret<[u8; TAG_BYTES]>,
    /// The same, prepared: a callee's root key begins every chain that it judges.
    start: MacKey,
}

impl RootKey {
    /// From a secret of any length, as every implementation derives it.
    #[must_use]
    pub fn derive(secret: &[u8]) -> Self {
        Self::of_derived(hmac_sha256(KEY_GENERATOR, secret))
    }

    /// The key as it stands in a verification id: derived already.
    pub(crate) fn of_derived(key: [u8; TAG_BYTES]) -> Self {
        Self { start: MacKey::new(&key), derived: Secret::new(key) }
    }

    pub(crate) fn derived(&self) -> &[u8; TAG_BYTES] {
        self.derived.expose()
    }
}

/// A macaroon's MAC, which makes it valid: compared in constant time and never printed.
#[derive(Clone, Copy)]
pub struct Tag([u8; TAG_BYTES]);

impl Tag {
    pub(crate) fn of(bytes: [u8; TAG_BYTES]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8; TAG_BYTES] {
        &self.0
    }
}

impl PartialEq for Tag {
    fn eq(&self, other: &Self) -> bool {
        constant_time_eq(&self.0, &other.0)
    }
}

impl Eq for Tag {}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tag(..)")
    }
}

pub(crate) fn start(key: &RootKey, identifier: &[u8]) -> Tag {
    Tag(key.start.mac(identifier))
}

pub(crate) fn first_party(tag: &Tag, id: &[u8]) -> Tag {
    Tag(hmac_sha256_once(&tag.0, id))
}

pub(crate) fn third_party(tag: &Tag, verification_id: &[u8], id: &[u8]) -> Tag {
    Tag(of_two(&tag.0, verification_id, id))
}

pub(crate) fn bind(root: &Tag, discharge: &Tag) -> Tag {
    Tag(of_two(&[0; TAG_BYTES], &root.0, &discharge.0))
}

fn of_two(key: &[u8; TAG_BYTES], first: &[u8], second: &[u8]) -> [u8; TAG_BYTES] {
    let (first, second) = (hmac_sha256_once(key, first), hmac_sha256_once(key, second));
    hmac_sha256_once(key, [first, second].as_flattened())
}

/// Length of a MAC and of a root key.
pub const TAG_BYTES: usize = 32;
/// HMAC pads a short key with zeros, so these 23 bytes and the same padded to 32 are one key.
const KEY_GENERATOR: &[u8] = b"macaroons-key-generator";
