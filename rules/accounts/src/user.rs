//! Accounts, and the one form of a name by which they are found.

use std::fmt;

use countersign_identity::UnixTime;
use countersign_keys::hash::hex;
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

/// A person who may log in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Opaque and immutable, never used again for somebody else.
    pub id: UserId,
    /// What they type.
    pub name: AccountName,
    /// What their tokens say they are.
    pub roles: Vec<Role>,
    /// When the account was made.
    pub created: UnixTime,
}

/// The opaque id of a user: `u_` and 32 hex digits of randomness.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserId(String);

impl UserId {
    /// From random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(format!("{USER_ID_PREFIX}{}", hex(&bytes)))
    }

    /// Reads one back.
    pub fn parse(text: &str) -> Result<Self, UserIdError> {
        let digits = text.strip_prefix(USER_ID_PREFIX).ok_or(UserIdError)?;
        let canonical =
            digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if canonical { Ok(Self(text.to_owned())) } else { Err(UserIdError) }
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of an account in its one canonical form (PW-2): whatever case, Unicode spelling or surrounding
/// space somebody types, it is the same account and the same counter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccountName(String);

impl AccountName {
    /// Letters and digits of any script, and `. _ - @ +` after the first; 1 to 64 code points after NFKC and
    /// lower-casing. Space around it is dropped.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() > NAME_INPUT_BYTES_MAX {
            return Err(NameError::TooLong);
        }
        let name = canonical(text.trim());
        match name.chars().next() {
            None => return Err(NameError::Empty),
            Some(first) if !first.is_alphanumeric() => return Err(NameError::BadStart { found: first }),
            Some(_) => {}
        }
        if let Some(found) = name.chars().find(|c| !c.is_alphanumeric() && !NAME_PUNCTUATION.contains(c)) {
            return Err(NameError::BadCharacter { found });
        }
        if name.chars().count() > NAME_CHARS_MAX {
            return Err(NameError::TooLong);
        }
        // Some letters change again when their lower case is composed: a name must be at rest.
        if canonical(&name) != name {
            return Err(NameError::Unstable);
        }
        Ok(Self(name))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The canonical form of `text` as an account name, or why it cannot be one.
pub fn canonical_name(text: &str) -> Result<AccountName, NameError> {
    AccountName::parse(text)
}

fn canonical(text: &str) -> String {
    text.nfkc().flat_map(char::to_lowercase).nfkc().collect()
}

/// What a user is allowed to be called by policies: `[a-z0-9-]{1,32}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Role(String);

impl Role {
    /// Reads a role.
    pub fn parse(text: &str) -> Result<Self, RoleError> {
        let fits = (1..=ROLE_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits { Ok(Self(text.to_owned())) } else { Err(RoleError) }
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! is_text {
    ($($type:ident: $error:ty),+) => { $(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.0
            }
        }
        impl TryFrom<String> for $type {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, $error> {
                Self::parse(&text)
            }
        }
    )+ };
}
is_text!(UserId: UserIdError, AccountName: NameError, Role: RoleError);

/// Not a user id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a user id is u_ and 32 lower-case hex digits")]
pub struct UserIdError;

/// Not a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a role has 1 to {ROLE_BYTES_MAX} characters out of a-z, 0-9 and -")]
pub struct RoleError;

/// Why a text cannot be an account name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing but space.
    #[error("the account name is empty")]
    Empty,
    /// Too long.
    #[error("the account name is longer than {NAME_CHARS_MAX} characters")]
    TooLong,
    /// Begins with punctuation or worse.
    #[error("the account name must begin with a letter or a digit, not with {found:?}")]
    BadStart {
        /// The character.
        found: char,
    },
    /// White space inside, control characters, combining marks, invisible characters.
    #[error("the account name must not contain {found:?}; use letters, digits and . _ - @ +")]
    BadCharacter {
        /// The character.
        found: char,
    },
    /// Has no canonical form.
    #[error("the account name has no single spelling; use simpler letters")]
    Unstable,
}

/// Longest account name, in code points of its canonical form.
pub const NAME_CHARS_MAX: usize = 64;
/// Longest role.
pub const ROLE_BYTES_MAX: usize = 32;
const NAME_INPUT_BYTES_MAX: usize = 1024;
const NAME_PUNCTUATION: [char; 5] = ['.', '_', '-', '@', '+'];
const USER_ID_PREFIX: &str = "u_";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling_of_a_name_is_the_same_account() {
        // CVE-2025-6004: case, trailing space or another Unicode form must not open a second counter.
        for spelling in [
            "alice",
            "Alice",
            "ALICE",
            " alice",
            "alice  ",
            "alice\u{a0}",
            "\u{3000}alice\u{2003}",
            "\u{ff41}\u{ff4c}ice",
            "\u{24d0}lice",
            "al\u{2170}ce",
        ] {
            assert_eq!(canonical_name(spelling).unwrap().as_str(), "alice", "{spelling:?}");
        }
        assert_eq!(canonical_name("Jos\u{e9}"), canonical_name("jose\u{301}"));
        assert_eq!(canonical_name("\u{212a}urt").unwrap().as_str(), "kurt", "the Kelvin sign is a k");
    }

    #[test]
    fn different_names_stay_different_accounts() {
        assert_ne!(canonical_name("alice"), canonical_name("alice1"));
        assert_ne!(
            canonical_name("alice"),
            canonical_name("\u{430}lice"),
            "a Cyrillic letter is another letter"
        );
    }

    #[test]
    fn rejects_an_empty_name() {
        for name in ["", "   ", "\u{a0}\u{3000}"] {
            assert_eq!(canonical_name(name), Err(NameError::Empty), "{name:?}");
        }
    }

    #[test]
    fn accepts_a_name_at_the_limit_and_rejects_one_character_more() {
        assert!(canonical_name(&"\u{e9}".repeat(NAME_CHARS_MAX)).is_ok());
        assert_eq!(canonical_name(&"a".repeat(NAME_CHARS_MAX + 1)), Err(NameError::TooLong));
        assert_eq!(canonical_name(&" ".repeat(NAME_INPUT_BYTES_MAX + 1)), Err(NameError::TooLong));
    }

    #[test]
    fn rejects_a_name_that_begins_with_punctuation() {
        for (name, found) in
            [("-alice", '-'), (".alice", '.'), ("$alice", '$'), ("\u{200b}alice", '\u{200b}')]
        {
            assert_eq!(canonical_name(name), Err(NameError::BadStart { found }), "{name:?}");
        }
    }

    #[test]
    fn rejects_characters_that_nobody_sees_or_that_end_a_line() {
        for found in
            [' ', '\n', '\0', '\u{200b}', '\u{202e}', '\u{200d}', '/', '\'', '"', '\u{fe0f}', '\u{30a}']
        {
            let name = format!("alx{found}ice");
            assert_eq!(canonical_name(&name), Err(NameError::BadCharacter { found }), "{name:?}");
        }
    }

    #[test]
    fn rejects_a_letter_whose_lower_case_is_no_letter_alone() {
        // I with a dot above becomes i and a combining dot.
        assert!(matches!(canonical_name("\u{130}stanbul"), Err(NameError::BadCharacter { .. })));
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for error in
            [NameError::Empty, NameError::TooLong, NameError::Unstable, NameError::BadStart { found: '-' }]
        {
            assert!(error.to_string().starts_with("the account name"), "{error}");
        }
    }

    #[test]
    fn a_user_id_is_opaque_and_read_back_exactly() {
        let id = UserId::from_random([0xab; 16]);
        assert_eq!(id.as_str(), "u_abababababababababababababababab");
        assert_eq!(UserId::parse(id.as_str()), Ok(id));
        for text in [
            "",
            "u_",
            "abababababababababababababababab",
            "u_ABABABABABABABABABABABABABABABAB",
            "u_ababababababababababababababababab",
        ] {
            assert_eq!(UserId::parse(text), Err(UserIdError), "{text}");
        }
    }

    #[test]
    fn a_role_is_a_short_lower_case_word() {
        assert_eq!(Role::parse("buyer").unwrap().as_str(), "buyer");
        assert!(Role::parse(&"r".repeat(ROLE_BYTES_MAX)).is_ok());
        for text in ["", "Buyer", "a b", "a\n", "ä", &"r".repeat(ROLE_BYTES_MAX + 1)] {
            assert_eq!(Role::parse(text), Err(RoleError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_canonical_name_is_at_rest(text in "\\PC{0,40}") {
            if let Ok(name) = AccountName::parse(&text) {
                prop_assert_eq!(AccountName::parse(name.as_str()), Ok(name.clone()));
                prop_assert_eq!(AccountName::parse(&format!(" {text} ")), Ok(name));
            }
        }
    }
}
