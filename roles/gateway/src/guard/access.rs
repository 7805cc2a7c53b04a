//! Who may knock at all: networks, and countries by a file that the operator brings.
//!
//! A list is no identity: it keeps noise away from what proves identities, and never lets anybody past it.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Deserialize;

use super::countries::{Countries, Country};
use super::networks::Networks;

/// `[gateway.access]`, and `access` of a route. Both must agree.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccessSettings {
    /// Only these networks; none named means all.
    #[schemars(with = "Vec<String>")]
    pub allow: Networks,
    /// Not these, whatever else allows them.
    #[schemars(with = "Vec<String>")]
    pub deny: Networks,
    /// Only these countries (ISO 3166-1 alpha-2), and nobody whose country is not known; none named means all.
    #[schemars(with = "Vec<String>")]
    pub allow_countries: Vec<Country>,
    /// Not these; whose country is not known is none of them.
    #[schemars(with = "Vec<String>")]
    pub deny_countries: Vec<Country>,
}

/// Why an address is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AccessError {
    #[error("{address} is in a network that is denied")]
    Denied { address: IpAddr },
    #[error("{address} is in no network that is allowed")]
    NotAllowed { address: IpAddr },
    #[error("{address} is in {}, which is not served", .country.map_or_else(|| "no known country".to_owned(), |country| country.to_string()))]
    Country { address: IpAddr, country: Option<Country> },
}

impl AccessSettings {
    /// Does it ask for countries?
    pub(crate) fn needs_countries(&self) -> bool {
        !self.allow_countries.is_empty() || !self.deny_countries.is_empty()
    }

    /// Does it list nothing?
    pub(crate) fn is_empty(&self) -> bool {
        *self == AccessSettings::default()
    }

    /// May this address knock?
    pub(crate) fn judge(&self, address: IpAddr, countries: Option<&Countries>) -> Result<(), AccessError> {
        if self.deny.contain(address) {
            return Err(AccessError::Denied { address });
        }
        if !self.allow.is_empty() && !self.allow.contain(address) {
            return Err(AccessError::NotAllowed { address });
        }
        if !self.needs_countries() {
            return Ok(());
        }
        let country = countries.and_then(|countries| countries.of(address));
        let is_in = |list: &[Country]| country.is_some_and(|country| list.contains(&country));
        let allowed = self.allow_countries.is_empty() || is_in(&self.allow_countries);
        match allowed && !is_in(&self.deny_countries) {
            true => Ok(()),
            false => Err(AccessError::Country { address, country }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn judge(toml: &str, address: &str) -> Result<(), AccessError> {
        toml::from_str::<AccessSettings>(toml).unwrap().judge(address.parse().unwrap(), None)
    }

    #[test]
    fn a_denied_network_stays_denied_within_an_allowed_one() {
        let lists = "allow = [\"10.0.0.0/8\"]\ndeny = [\"10.6.6.0/24\"]";
        assert_eq!(judge(lists, "10.1.2.3"), Ok(()));
        let address = [10, 6, 6, 6].into();
        assert_eq!(judge(lists, "10.6.6.6"), Err(AccessError::Denied { address }));
        let address = [192, 0, 2, 1].into();
        assert_eq!(judge(lists, "192.0.2.1"), Err(AccessError::NotAllowed { address }));
        assert_eq!(judge("", "192.0.2.1"), Ok(()));
    }

    #[test]
    fn nobody_of_an_unknown_country_passes_where_countries_are_listed() {
        let refused = judge("allow_countries = [\"AT\"]", "192.0.2.1");
        assert!(matches!(refused, Err(AccessError::Country { country: None, .. })), "{refused:?}");
        assert_eq!(judge("deny_countries = [\"AT\"]", "192.0.2.1"), Ok(()));
        for bad in ["at", "AUT", "A1", ""] {
            assert!(
                toml::from_str::<AccessSettings>(&format!("deny_countries = [{bad:?}]")).is_err(),
                "{bad}"
            );
        }
    }
}
