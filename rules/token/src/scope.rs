//! What a token may be used for (RFC 6749 section 3.3): a set of words, which an exchange may only make smaller.

use std::{collections::BTreeSet, fmt, str::FromStr};

use crate::{CLAIM_VALUES_MAX, jws::printable};

/// A set of scope words. Case counts, the order does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope(BTreeSet<String>);

/// A text is no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// A word is empty or holds a character that RFC 6749 does not allow.
    #[error(
        "{word:?} is not a scope; words of printable ASCII without quotes and backslashes, one space between"
    )]
    NotAWord {
        /// What stands there.
        word: String,
    },
    /// Too many words, or too long.
    #[error(
        "the scope has {chars} characters, more than {SCOPE_CHARS_MAX}, or more than {CLAIM_VALUES_MAX} words"
    )]
    TooLong {
        /// How many.
        chars: usize,
    },
}

impl Scope {
    /// Reads words with one space between them; an empty text is the empty scope.
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        if text.len() > SCOPE_CHARS_MAX || text.split(' ').count() > CLAIM_VALUES_MAX {
            return Err(ScopeError::TooLong { chars: text.len() });
        }
        if text.is_empty() {
            return Ok(Self::default());
        }
        let word = |word: &str| match !word.is_empty() && word.bytes().all(may_stand_in_a_word) {
            true => Ok(word.to_owned()),
            false => Err(ScopeError::NotAWord { word: printable(word) }),
        };
        text.split(' ').map(word).collect::<Result<_, _>>().map(Self)
    }

    /// Is every word of this also a word of `other`?
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// Is this word among them?
    #[must_use]
    pub fn contains(&self, word: &str) -> bool {
        self.0.contains(word)
    }

    /// Is there no word?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `NQCHAR` of RFC 6749 appendix A.
fn may_stand_in_a_word(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.0.iter().map(String::as_str).collect();
        f.write_str(&words.join(" "))
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        Self::parse(text)
    }
}

/// Longest scope.
pub const SCOPE_CHARS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn scope(text: &str) -> Scope {
        Scope::parse(text).unwrap()
    }

    #[test]
    fn words_are_a_set() {
        assert_eq!(scope("b a b"), scope("a b"));
        assert_eq!(scope("b a").to_string(), "a b");
        assert!(scope("").is_empty() && scope("").is_within(&scope("a")));
        assert!(scope("a").is_within(&scope("a b")) && !scope("a b").is_within(&scope("a")));
        assert!(!scope("A").is_within(&scope("a")), "case counts");
        assert!(scope("a b").contains("b") && !scope("ab").contains("b"));
    }

    #[test]
    fn rejects_what_is_no_word() {
        for text in [" ", "a  b", "a ", " a", "a\tb", "a\"", "a\\b", "é", "a\n"] {
            assert!(matches!(Scope::parse(text), Err(ScopeError::NotAWord { .. })), "{text:?}");
        }
    }

    #[test]
    fn rejects_one_character_or_one_word_too_many() {
        assert!(Scope::parse(&"a".repeat(SCOPE_CHARS_MAX)).is_ok());
        let chars = SCOPE_CHARS_MAX + 1;
        assert_eq!(Scope::parse(&"a".repeat(chars)), Err(ScopeError::TooLong { chars }));
        let words = |n: usize| vec!["a"; n].join(" ");
        assert!(Scope::parse(&words(CLAIM_VALUES_MAX)).is_ok());
        assert!(matches!(Scope::parse(&words(CLAIM_VALUES_MAX + 1)), Err(ScopeError::TooLong { .. })));
    }
}
