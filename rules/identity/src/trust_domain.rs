//! Trust domain names (SPIFFE-ID section 2.1).

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

/// Longest trust domain name, in bytes (SPIFFE-ID section 2.3).
pub const TRUST_DOMAIN_BYTES_MAX: usize = 255;

/// The name of a trust domain, always lower case; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

/// Why something is not the name of a trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TrustDomainError {
    /// Nothing there.
    #[error("trust domain is empty: name one, such as example.org")]
    Empty,
    /// Over [`TRUST_DOMAIN_BYTES_MAX`].
    #[error("trust domain has {bytes} bytes: at most {TRUST_DOMAIN_BYTES_MAX} are allowed")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Outside `[a-z0-9._-]`, the case of input aside.
    #[error("trust domain holds {0:?}: only letters, digits, '.', '-' and '_' are allowed")]
    BadCharacter(char),
}

impl TrustDomain {
    /// Reads a name, without `spiffe://`. Case does not count on input and is folded (SPIFFE-ID
    /// section 2.1), so that two spellings never become two identities.
    ///
    /// # Errors
    /// Any name outside `[a-zA-Z0-9._-]{1,255}`.
    pub fn parse(name: &str) -> Result<Self, TrustDomainError> {
        if name.is_empty() {
            return Err(TrustDomainError::Empty);
        }
        if let Some(bad) = name.chars().find(|c| !is_trust_domain_char(*c)) {
            return Err(TrustDomainError::BadCharacter(bad));
        }
        if name.len() > TRUST_DOMAIN_BYTES_MAX {
            return Err(TrustDomainError::TooLong { bytes: name.len() });
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }

    /// The name, lower case, without `spiffe://`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_trust_domain_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = TrustDomainError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
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
    fn accepts_a_name_at_the_limit_and_folds_its_case() {
        let longest = "A".repeat(TRUST_DOMAIN_BYTES_MAX);
        assert_eq!(TrustDomain::parse(&longest).unwrap().as_str(), "a".repeat(255));
    }

    #[test]
    fn rejects_a_name_one_past_the_limit() {
        let too_long = "a".repeat(TRUST_DOMAIN_BYTES_MAX + 1);
        assert_eq!(TrustDomain::parse(&too_long), Err(TrustDomainError::TooLong { bytes: 256 }));
    }

    #[test]
    fn rejects_an_empty_name() {
        assert_eq!(TrustDomain::parse(""), Err(TrustDomainError::Empty));
    }

    #[test]
    fn rejects_characters_that_merely_look_like_letters() {
        for bad in ['/', ':', '@', '%', ' ', 'é', 'а', '\0', '*'] {
            let name = format!("a{bad}b");
            assert_eq!(TrustDomain::parse(&name), Err(TrustDomainError::BadCharacter(bad)));
        }
    }

    #[test]
    fn json_goes_through_the_parser() {
        let td: TrustDomain = serde_json::from_str("\"Example.org\"").unwrap();
        assert_eq!(serde_json::to_string(&td).unwrap(), "\"example.org\"");
        assert!(serde_json::from_str::<TrustDomain>("\"a/b\"").is_err());
    }
}
