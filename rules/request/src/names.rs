//! What a header's name alone says, found in one step by its length: does it carry an identity, count once, end at this hop?

use crate::headers::{END_TO_END, HOP_BY_HOP, IDENTITY_HEADER_PREFIXES, IDENTITY_HEADERS, SINGLE_VALUED};
use crate::path;

/// What is known of a name, in whatever case, and with `_` and `.` read as `-`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traits {
    /// Somebody, somewhere, believes an identity, a method or a path in it.
    pub(crate) identity: bool,
    /// About one connection.
    pub(crate) hop_by_hop: bool,
    /// `Connection` may not delete it.
    pub(crate) end_to_end: bool,
    /// The bit of its own that a name has which counts once.
    pub(crate) single: u32,
}

impl Traits {
    /// Would another spelling of this name be an attack?
    pub(crate) const fn protected(self) -> bool {
        self.identity || self.hop_by_hop || self.single != 0
    }
}

/// Reads a name.
pub(crate) fn traits(name: &[u8]) -> Traits {
    let mut found = Traits::default();
    for place in BY_LENGTH.get(name.len()).into_iter().flatten() {
        let Some(known) = KNOWN.get(usize::from(*place)) else { break };
        if same(name, known.name) {
            found.identity |= known.traits.identity;
            found.hop_by_hop |= known.traits.hop_by_hop;
            found.end_to_end |= known.traits.end_to_end;
            found.single |= known.traits.single;
        }
    }
    found.identity |= has_identity_prefix(name);
    found
}

/// Does the name have a character that some readers take for a `-`?
pub(crate) fn has_alias(name: &[u8]) -> bool {
    name.iter().any(|b| matches!(b, b'_' | b'.'))
}

/// Is it made of the characters of a token alone (RFC 9110 section 5.6.2)?
pub(crate) fn is_token(name: &[u8]) -> bool {
    name.iter().fold(true, |token, byte| token & path::is_among(TOKEN, *byte))
}

fn has_identity_prefix(name: &[u8]) -> bool {
    // All of them begin with "x-" or "cou", which few names do.
    let [first, second, third, ..] = name else { return false };
    match [fold(*first), fold(*second), fold(*third)] {
        [b'x', b'-', _] | [b'c', b'o', b'u'] => {}
        _ => return false,
    }
    IDENTITY_HEADER_PREFIXES
        .iter()
        .any(|prefix| name.get(..prefix.len()).is_some_and(|start| same(start, prefix.as_bytes())))
}

/// Compares a name with a known one of the same length.
fn same(name: &[u8], known: &[u8]) -> bool {
    name.iter().zip(known).all(|(a, b)| fold(*a) == *b)
}

const fn fold(byte: u8) -> u8 {
    match byte {
        b'A'..=b'Z' => byte | 0x20,
        b'_' | b'.' => b'-',
        _ => byte,
    }
}

struct Known {
    name: &'static [u8],
    traits: Traits,
}

const TOKEN: u128 =
    path::bits(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~");
const NAMES: usize = IDENTITY_HEADERS.len() + SINGLE_VALUED.len() + HOP_BY_HOP.len() + END_TO_END.len();
const NAME_BYTES: usize = 33;
const NAMES_OF_ONE_LENGTH: usize = 12;
const NOTHING: Traits = Traits { identity: false, hop_by_hop: false, end_to_end: false, single: 0 };

/// The four lists in one. A name that is in two of them stands here twice.
static KNOWN: [Known; NAMES] = known();
/// Places in `KNOWN` of the names of each length; what is no place ends the list.
static BY_LENGTH: [[u8; NAMES_OF_ONE_LENGTH]; NAME_BYTES] = by_length();

#[allow(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler: an index out of range does not compile"
)]
const fn known() -> [Known; NAMES] {
    let mut all = [const { Known { name: b"", traits: NOTHING } }; NAMES];
    let (mut at, mut i) = (0, 0);
    while i < IDENTITY_HEADERS.len() {
        all[at] =
            Known { name: IDENTITY_HEADERS[i].as_bytes(), traits: Traits { identity: true, ..NOTHING } };
        (at, i) = (at + 1, i + 1);
    }
    i = 0;
    while i < SINGLE_VALUED.len() {
        all[at] = Known { name: SINGLE_VALUED[i].as_bytes(), traits: Traits { single: 1 << i, ..NOTHING } };
        (at, i) = (at + 1, i + 1);
    }
    i = 0;
    while i < HOP_BY_HOP.len() {
        all[at] = Known { name: HOP_BY_HOP[i].as_bytes(), traits: Traits { hop_by_hop: true, ..NOTHING } };
        (at, i) = (at + 1, i + 1);
    }
    i = 0;
    while i < END_TO_END.len() {
        all[at] = Known { name: END_TO_END[i].as_bytes(), traits: Traits { end_to_end: true, ..NOTHING } };
        (at, i) = (at + 1, i + 1);
    }
    all
}

#[allow(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler: an index out of range does not compile"
)]
const fn by_length() -> [[u8; NAMES_OF_ONE_LENGTH]; NAME_BYTES] {
    let mut table = [[u8::MAX; NAMES_OF_ONE_LENGTH]; NAME_BYTES];
    let mut lengths = [0; NAME_BYTES];
    let mut place: u8 = 0;
    while (place as usize) < NAMES {
        let length = KNOWN[place as usize].name.len();
        table[length][lengths[length]] = place;
        lengths[length] += 1;
        place += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_lists_is_found_in_whatever_spelling() {
        let spellings = |name: &str| {
            [name.to_owned(), name.to_uppercase(), name.replace('-', "_"), name.replace('-', ".")]
        };
        for name in IDENTITY_HEADERS {
            assert!(spellings(name).iter().all(|name| traits(name.as_bytes()).identity), "{name}");
        }
        for (place, name) in SINGLE_VALUED.iter().enumerate() {
            assert!(
                spellings(name).iter().all(|name| traits(name.as_bytes()).single == 1 << place),
                "{name}"
            );
        }
        for name in HOP_BY_HOP {
            assert!(spellings(name).iter().all(|name| traits(name.as_bytes()).hop_by_hop), "{name}");
        }
        for name in END_TO_END {
            assert!(spellings(name).iter().all(|name| traits(name.as_bytes()).end_to_end), "{name}");
        }
        for prefix in IDENTITY_HEADER_PREFIXES {
            assert!(
                spellings(&format!("{prefix}a")).iter().all(|name| traits(name.as_bytes()).identity),
                "{prefix}"
            );
        }
    }

    #[test]
    fn nothing_is_known_of_other_names() {
        for name in ["", "x", "accept", "x-", "x-custom", "hos", "hostt", "h0st", &"a".repeat(200)] {
            assert_eq!(traits(name.as_bytes()), NOTHING, "{name}");
        }
    }
}
