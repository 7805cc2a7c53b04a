//! The name of one decision, shown to whoever was refused.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

const PREFIX: &str = "d_";
const DIGITS: usize = 16;
const TEXT_BYTES: usize = PREFIX.len() + DIGITS;
const CROCKFORD: [u8; 32] = *b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// 80 random bits, written as `d_` and 16 characters of Crockford's base 32. Random, so that a
/// caller can neither count decisions nor guess the id of somebody else's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DecisionId([u8; 10]);

/// Why something is not a decision id.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecisionIdError {
    /// Does not begin with `d_`.
    #[error("decision id does not begin with d_")]
    NoPrefix,
    /// Not 16 characters after the prefix.
    #[error("decision id does not have {DIGITS} characters after d_")]
    WrongLength,
    /// Outside Crockford's alphabet.
    #[error("decision id holds {0:?}: only digits and letters without I, L, O and U are used")]
    BadCharacter(char),
}

impl DecisionId {
    /// Makes an id of 80 random bits, which the caller draws.
    #[must_use]
    pub const fn from_random(bits: [u8; 10]) -> Self {
        Self(bits)
    }

    /// Its 80 bits.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 10] {
        &self.0
    }

    /// As it is displayed: ASCII throughout.
    #[must_use]
    pub fn to_text(&self) -> [u8; TEXT_BYTES] {
        let number = self.0.iter().fold(0_u128, |sum, byte| (sum << 8) | u128::from(*byte));
        let mut text = [b'0'; TEXT_BYTES];
        let (prefix, digits) = text.split_at_mut(PREFIX.len());
        prefix.copy_from_slice(PREFIX.as_bytes());
        for (place, digit) in digits.iter_mut().rev().enumerate() {
            let value = usize::try_from((number >> (5 * place)) & 31).unwrap_or(0);
            *digit = CROCKFORD.get(value).copied().unwrap_or(b'0');
        }
        text
    }

    /// Reads an id as it is displayed; case does not count, because people type these.
    ///
    /// # Errors
    /// Anything but `d_` and 16 characters of Crockford's base 32.
    pub fn parse(text: &str) -> Result<Self, DecisionIdError> {
        let digits = text.strip_prefix(PREFIX).ok_or(DecisionIdError::NoPrefix)?;
        if digits.chars().count() != DIGITS {
            return Err(DecisionIdError::WrongLength);
        }
        let mut number: u128 = 0;
        for c in digits.chars() {
            let value = digit(c).ok_or(DecisionIdError::BadCharacter(c))?;
            number = (number << 5) | value;
        }
        let [_, _, _, _, _, _, bits @ ..] = number.to_be_bytes();
        Ok(Self(bits))
    }
}

fn digit(c: char) -> Option<u128> {
    let position = CROCKFORD.iter().position(|d| char::from(*d) == c.to_ascii_uppercase())?;
    u128::try_from(position).ok()
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_text()).unwrap_or_default())
    }
}

impl fmt::Debug for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for DecisionId {
    type Err = DecisionIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for DecisionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DecisionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn is_written_as_prefix_and_sixteen_characters() {
        assert_eq!(DecisionId::from_random([0; 10]).to_string(), "d_0000000000000000");
        assert_eq!(DecisionId::from_random([255; 10]).to_string(), "d_ZZZZZZZZZZZZZZZZ");
        let one = DecisionId::from_random([0, 0, 0, 0, 0, 0, 0, 0, 0, 33]);
        assert_eq!(one.to_string(), "d_0000000000000011");
    }

    #[test]
    fn reads_what_people_type() {
        let id = DecisionId::parse("d_zzzzzzzzzzzzzzzz").unwrap();
        assert_eq!(id, DecisionId::from_random([255; 10]));
    }

    #[test]
    fn rejects_each_way_to_be_wrong_with_its_own_error() {
        let error = |text: &str| DecisionId::parse(text).unwrap_err();
        assert_eq!(error("0000000000000000"), DecisionIdError::NoPrefix);
        assert_eq!(error("d_000000000000000"), DecisionIdError::WrongLength);
        assert_eq!(error("d_00000000000000000"), DecisionIdError::WrongLength);
        assert_eq!(error("d_000000000000000U"), DecisionIdError::BadCharacter('U'));
        assert_eq!(error("d_000000000000000é"), DecisionIdError::BadCharacter('é'));
    }
}
