//! Short names of services, agents and gateways.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

/// Longest short name, in characters (all of them one byte).
pub const SERVICE_NAME_CHARS_MAX: usize = 63;

/// A short name, `[a-z0-9-]{1,63}`; an alias inside our own trust domain only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

/// Why something is not a short name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ServiceNameError {
    /// Nothing there.
    #[error("service name is empty: use lower-case letters, digits and '-'")]
    Empty,
    /// Over [`SERVICE_NAME_CHARS_MAX`].
    #[error("service name has {chars} characters: at most {SERVICE_NAME_CHARS_MAX} are allowed")]
    TooLong {
        /// How long it is.
        chars: usize,
    },
    /// Outside `[a-z0-9-]`.
    #[error("service name holds {0:?}: use lower-case letters, digits and '-'")]
    BadCharacter(char),
}

impl ServiceName {
    /// Reads a short name; nothing is folded or trimmed.
    ///
    /// # Errors
    /// Any name outside `[a-z0-9-]{1,63}`.
    pub fn parse(name: &str) -> Result<Self, ServiceNameError> {
        check(name)?;
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

pub(crate) fn check(name: &str) -> Result<(), ServiceNameError> {
    if name.is_empty() {
        return Err(ServiceNameError::Empty);
    }
    if let Some(bad) = name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        return Err(ServiceNameError::BadCharacter(bad));
    }
    if name.len() > SERVICE_NAME_CHARS_MAX {
        return Err(ServiceNameError::TooLong { chars: name.len() });
    }
    Ok(())
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ServiceName {
    type Err = ServiceNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for ServiceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ServiceName {
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
    fn accepts_a_name_at_the_limit_and_rejects_one_past_it() {
        assert!(ServiceName::parse(&"a".repeat(63)).is_ok());
        let refused = ServiceName::parse(&"a".repeat(64));
        assert_eq!(refused, Err(ServiceNameError::TooLong { chars: 64 }));
    }

    #[test]
    fn rejects_an_empty_name() {
        assert_eq!(ServiceName::parse(""), Err(ServiceNameError::Empty));
    }

    #[test]
    fn rejects_upper_case_and_everything_that_a_path_could_misread() {
        for bad in ['A', '_', '.', '/', '%', ' ', '\0', 'é'] {
            let name = format!("a{bad}");
            assert_eq!(ServiceName::parse(&name), Err(ServiceNameError::BadCharacter(bad)));
        }
    }

    #[test]
    fn json_goes_through_the_parser() {
        assert_eq!(serde_json::from_str::<ServiceName>("\"ads\"").unwrap().as_str(), "ads");
        assert!(serde_json::from_str::<ServiceName>("\"Ads\"").is_err());
    }
}
