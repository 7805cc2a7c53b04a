//! What a header's name alone says, found in one step by its length: does it carry an identity, count once, end at this hop?

use crate::headers::{END_TO_END, HOP_BY_HOP, IDENTITY_HEADER_PREFIXES, IDENTITY_HEADERS, SINGLE_VALUED};

/// What is known of a name, in whatever case, and with `_` and `.` read as `-`: a bit for each thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traits(u32);

impl Traits {
    /// Somebody, somewhere, believes an identity, a method or a path in it.
    pub(crate) const IDENTITY: Self = Self(1 << 31);
    /// About one connection.
    pub(crate) const HOP_BY_HOP: Self = Self(1 << 30);
    /// `Connection` may not delete it.
    pub(crate) const END_TO_END: Self = Self(1 << 29);
    /// It counts once. Each such name has a bit of its own.
    pub(crate) const SINGLE_VALUED: Self = Self((1 << SINGLE_VALUED.len()) - 1);
    /// Another spelling of such a name would be an attack.
    pub(crate) const PROTECTED: Self = Self::IDENTITY.and(Self::HOP_BY_HOP).and(Self::SINGLE_VALUED);

    /// The bit of a name that counts once.
    #[allow(
        clippy::indexing_slicing,
        reason = "evaluated by the compiler: an index out of range does not compile"
    )]
    pub(crate) const fn single_valued(name: &str) -> Self {
        let mut place = 0;
        while !SINGLE_VALUED[place].eq_ignore_ascii_case(name) {
            place += 1;
        }
        Self(1 << place)
    }

    /// Both together.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Is any of these among them?
    pub(crate) const fn any(self, of: Self) -> bool {
        self.0 & of.0 != 0
    }

    /// Those that count once.
    pub(crate) const fn singles(self) -> Self {
        Self(self.0 & Self::SINGLE_VALUED.0)
    }

    /// These without those.
    pub(crate) const fn without(self, those: Self) -> Self {
        Self(self.0 & !those.0)
    }

    /// What two headers have in common.
    pub(crate) const fn shared(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Is there nothing to say?
    pub(crate) const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// Reads a name.
pub(crate) fn traits(name: &[u8]) -> Traits {
    let letter = name.first().map_or(0, |first| fold(*first)).wrapping_sub(b'a');
    let Some(of_length) = BY_LENGTH.get(name.len()) else { return by_prefix(name, letter) };
    if letter >= 26 || (of_length.letters >> letter) & 1 == 0 {
        return by_prefix(name, letter);
    }
    let mut found = by_prefix(name, letter);
    for place in &of_length.places {
        let Some(known) = KNOWN.get(usize::from(*place)) else { break };
        if same(name, known.name) {
            found = found.and(known.traits);
        }
    }
    found
}

/// Does the name have a character that some readers take for a `-`?
pub(crate) fn has_alias(name: &[u8]) -> bool {
    name.iter().fold(false, |alias, b| alias | matches!(b, b'_' | b'.'))
}

/// All prefixes begin with "x-" or "cou", which few names do.
fn by_prefix(name: &[u8], letter: u8) -> Traits {
    let next = |place: usize| name.get(place).map(|b| fold(*b));
    let likely = match letter {
        LETTER_X => next(1) == Some(b'-'),
        LETTER_C => next(1) == Some(b'o') && next(2) == Some(b'u'),
        _ => false,
    };
    if !likely {
        return Traits::default();
    }
    let begins = |prefix: &&str| name.get(..prefix.len()).is_some_and(|start| same(start, prefix.as_bytes()));
    if IDENTITY_HEADER_PREFIXES.iter().any(begins) { Traits::IDENTITY } else { Traits::default() }
}

/// Compares a name with a known one of the same length.
fn same(name: &[u8], known: &[u8]) -> bool {
    // The third letter tells names of one length apart: the first two are "x-" too often.
    name.get(2).map(|b| fold(*b)) == known.get(2).copied()
        && name.iter().zip(known).all(|(a, b)| fold(*a) == *b)
}

fn fold(byte: u8) -> u8 {
    FOLDED.get(usize::from(byte)).copied().unwrap_or_default()
}

struct Known {
    name: &'static [u8],
    traits: Traits,
}

/// The names of one length.
#[derive(Clone, Copy)]
struct OfLength {
    /// One bit for each letter that one of them begins with.
    letters: u32,
    /// Places in `KNOWN`; what is no place ends the list.
    places: [u8; NAMES_OF_ONE_LENGTH],
}

const LETTER_C: u8 = b'c' - b'a';
const LETTER_X: u8 = b'x' - b'a';
const NAMES: usize = IDENTITY_HEADERS.len() + SINGLE_VALUED.len() + HOP_BY_HOP.len() + END_TO_END.len();
const NAME_BYTES: usize = 33;
const NAMES_OF_ONE_LENGTH: usize = 12;

/// Lower case, and `-` for what some readers take for it.
static FOLDED: [u8; 256] = folded();
/// The four lists in one. A name that is in two of them stands here twice.
static KNOWN: [Known; NAMES] = known();
static BY_LENGTH: [OfLength; NAME_BYTES] = by_length();

#[allow(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler: an index out of range does not compile"
)]
const fn folded() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = u8::MAX;
    loop {
        table[byte as usize] = match byte {
            b'_' | b'.' => b'-',
            other => other.to_ascii_lowercase(),
        };
        let Some(next) = byte.checked_sub(1) else { return table };
        byte = next;
    }
}

const fn known() -> [Known; NAMES] {
    let all = [const { Known { name: b"", traits: Traits(0) } }; NAMES];
    let all = with(all, 0, &IDENTITY_HEADERS, Some(Traits::IDENTITY));
    let mut at = IDENTITY_HEADERS.len();
    let all = with(all, at, &SINGLE_VALUED, None);
    at += SINGLE_VALUED.len();
    let all = with(all, at, &HOP_BY_HOP, Some(Traits::HOP_BY_HOP));
    at += HOP_BY_HOP.len();
    with(all, at, &END_TO_END, Some(Traits::END_TO_END))
}

/// Puts one list into the table. Without traits, each name gets a bit of its own.
#[allow(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler: an index out of range does not compile"
)]
const fn with(
    mut all: [Known; NAMES],
    at: usize,
    names: &[&'static str],
    traits: Option<Traits>,
) -> [Known; NAMES] {
    let mut i = 0;
    while i < names.len() {
        let traits = match traits {
            Some(traits) => traits,
            None => Traits::single_valued(names[i]),
        };
        all[at + i] = Known { name: names[i].as_bytes(), traits };
        i += 1;
    }
    all
}

#[allow(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler: an index out of range does not compile"
)]
const fn by_length() -> [OfLength; NAME_BYTES] {
    let mut table = [OfLength { letters: 0, places: [u8::MAX; NAMES_OF_ONE_LENGTH] }; NAME_BYTES];
    let mut lengths = [0; NAME_BYTES];
    let mut place: u8 = 0;
    while (place as usize) < NAMES {
        let name = KNOWN[place as usize].name;
        let length = name.len();
        table[length].letters |= 1 << (name[0] - b'a');
        table[length].places[lengths[length]] = place;
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
            assert!(
                spellings(name).iter().all(|name| traits(name.as_bytes()).any(Traits::IDENTITY)),
                "{name}"
            );
        }
        for (place, name) in SINGLE_VALUED.iter().enumerate() {
            assert!(
                spellings(name).iter().all(|name| traits(name.as_bytes()).singles() == Traits(1 << place)),
                "{name}"
            );
        }
        for name in HOP_BY_HOP {
            assert!(
                spellings(name).iter().all(|name| traits(name.as_bytes()).any(Traits::HOP_BY_HOP)),
                "{name}"
            );
        }
        for name in END_TO_END {
            assert!(
                spellings(name).iter().all(|name| traits(name.as_bytes()).any(Traits::END_TO_END)),
                "{name}"
            );
        }
        for prefix in IDENTITY_HEADER_PREFIXES {
            assert!(
                spellings(&format!("{prefix}a"))
                    .iter()
                    .all(|name| traits(name.as_bytes()).any(Traits::IDENTITY)),
                "{prefix}"
            );
        }
    }

    #[test]
    fn nothing_is_known_of_other_names() {
        for name in ["", "x", "accept", "x-", "x-custom", "hos", "hostt", "h0st", &"a".repeat(200)] {
            assert_eq!(traits(name.as_bytes()), Traits::default(), "{name}");
        }
    }
}
