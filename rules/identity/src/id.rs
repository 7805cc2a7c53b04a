//! SPIFFE IDs, parsed once and never normalised (SPIFFE-ID section 2).
//!
//! A URL library would drop ports, resolve `..` and decode `%2F`; each of those has been somebody's
//! CVE. So this parser knows nothing of URLs: it accepts the SPIFFE alphabet and refuses the rest.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

use crate::{
    ServiceNameError, TrustDomain, TrustDomainError,
    service_name::{self, ServiceName},
};

/// Longest SPIFFE ID, in bytes (SPIFFE-ID section 2.3).
pub const SPIFFE_ID_BYTES_MAX: usize = 2048;

const SCHEME: &str = "spiffe://";
const RESERVED: &str = "/countersign";

/// A SPIFFE ID: trust domain, and a path that may be empty. Cheap to clone.
///
/// Scheme and trust domain are lower case whatever was read; the path keeps its case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

/// What an id names, read from its path alone. Says nothing about *whose* trust domain it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind<'a> {
    /// No path: the trust domain itself, never a workload.
    TrustDomain,
    /// `/countersign/authority`
    Authority,
    /// `/countersign/agent/NAME`
    Agent(&'a str),
    /// `/countersign/gateway/NAME`
    Gateway(&'a str),
    /// `/svc/NAME`
    Service(&'a str),
    /// Any other path, such as one that a foreign trust domain chose.
    Other,
}

/// Why something is not a SPIFFE ID.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdError {
    /// Nothing there.
    #[error("spiffe id is empty: it looks like spiffe://example.org/svc/ads")]
    Empty,
    /// Over [`SPIFFE_ID_BYTES_MAX`].
    #[error("spiffe id has {bytes} bytes: at most {SPIFFE_ID_BYTES_MAX} are allowed")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Does not begin with `spiffe://`.
    #[error("spiffe id does not begin with spiffe://")]
    WrongScheme,
    /// The part between `spiffe://` and the path.
    #[error("spiffe id has a bad trust domain")]
    TrustDomain(#[from] TrustDomainError),
    /// Two slashes in a row.
    #[error("spiffe id has an empty path segment: write each segment once")]
    EmptySegment,
    /// The path ends in `/`.
    #[error("spiffe id ends in '/': leave the slash out")]
    TrailingSlash,
    /// A segment is `.` or `..`.
    #[error("spiffe id has a dot segment: relative paths are not resolved")]
    DotSegment,
    /// Outside `[a-zA-Z0-9._-]` in the path.
    #[error("spiffe id holds {0:?} in its path: only letters, digits, '.', '-' and '_' are allowed")]
    BadPathCharacter(char),
    /// A constructor was given something that is not a short name.
    #[error("spiffe id cannot be made from this name")]
    Name(#[from] ServiceNameError),
}

impl SpiffeId {
    /// Reads an id.
    ///
    /// # Errors
    /// Whatever SPIFFE-ID section 2 does not allow: userinfo, port, query, fragment, percent
    /// encoding, empty or dot segments, a trailing slash, more than 2048 bytes.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        if text.len() > SPIFFE_ID_BYTES_MAX {
            return Err(IdError::TooLong { bytes: text.len() });
        }
        let rest = after_scheme(text).ok_or(IdError::WrongScheme)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let trust_domain = TrustDomain::parse(authority)?;
        check_path(path)?;
        Ok(Self::assemble(trust_domain, path))
    }

    /// `spiffe://TD/svc/NAME`
    ///
    /// # Errors
    /// `name` is not a [`ServiceName`].
    pub fn service(trust_domain: &TrustDomain, name: &str) -> Result<Self, IdError> {
        service_name::check(name)?;
        Ok(Self::assemble(trust_domain.clone(), &format!("/svc/{name}")))
    }

    /// `spiffe://TD/countersign/agent/NAME`
    ///
    /// # Errors
    /// `name` is not a [`ServiceName`].
    pub fn agent(trust_domain: &TrustDomain, name: &str) -> Result<Self, IdError> {
        service_name::check(name)?;
        Ok(Self::assemble(trust_domain.clone(), &format!("{RESERVED}/agent/{name}")))
    }

    /// `spiffe://TD/countersign/gateway/NAME`
    ///
    /// # Errors
    /// `name` is not a [`ServiceName`].
    pub fn gateway(trust_domain: &TrustDomain, name: &str) -> Result<Self, IdError> {
        service_name::check(name)?;
        Ok(Self::assemble(trust_domain.clone(), &format!("{RESERVED}/gateway/{name}")))
    }

    /// `spiffe://TD/countersign/authority`
    #[must_use]
    pub fn authority(trust_domain: &TrustDomain) -> Self {
        Self::assemble(trust_domain.clone(), &format!("{RESERVED}/authority"))
    }

    /// The id as text; scheme and trust domain in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whose name this is.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading slash; empty for a trust domain's own id.
    #[must_use]
    pub fn path(&self) -> &str {
        let start = SCHEME.len().saturating_add(self.trust_domain.as_str().len());
        self.text.get(start..).unwrap_or_default()
    }

    /// What the path says that this names.
    #[must_use]
    pub fn kind(&self) -> IdKind<'_> {
        let path = self.path();
        if path.is_empty() {
            return IdKind::TrustDomain;
        }
        let name = |prefix: &str| path.strip_prefix(prefix).filter(|name| service_name::check(name).is_ok());
        if path == "/countersign/authority" {
            IdKind::Authority
        } else if let Some(name) = name("/countersign/agent/") {
            IdKind::Agent(name)
        } else if let Some(name) = name("/countersign/gateway/") {
            IdKind::Gateway(name)
        } else if let Some(name) = name("/svc/") {
            IdKind::Service(name)
        } else {
            IdKind::Other
        }
    }

    /// Whether the path is `/countersign` or below it: names that no registration may hand out.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.path().strip_prefix(RESERVED).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The short name of one of our own services: an alias inside `home` only, so a stranger's
    /// `svc/ads` never passes as ours.
    #[must_use]
    pub fn short_name(&self, home: &TrustDomain) -> Option<ServiceName> {
        match self.kind() {
            IdKind::Service(name) if self.trust_domain == *home => ServiceName::parse(name).ok(),
            _ => None,
        }
    }

    fn assemble(trust_domain: TrustDomain, path: &str) -> Self {
        let text = format!("{SCHEME}{trust_domain}{path}").into();
        Self { text, trust_domain }
    }
}

fn after_scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(rest)
}

fn check_path(path: &str) -> Result<(), IdError> {
    let Some(segments) = path.strip_prefix('/') else {
        return Ok(());
    };
    if let Some(bad) = segments.chars().find(|c| *c != '/' && !is_segment_char(*c)) {
        return Err(IdError::BadPathCharacter(bad));
    }
    if segments.split('/').rev().skip(1).any(str::is_empty) {
        return Err(IdError::EmptySegment);
    }
    if path.ends_with('/') {
        return Err(IdError::TrailingSlash);
    }
    if segments.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(IdError::DotSegment);
    }
    Ok(())
}

fn is_segment_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.text)
    }
}

impl FromStr for SpiffeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn home() -> TrustDomain {
        TrustDomain::parse("fleamarket.test").unwrap()
    }

    #[test]
    fn accepts_an_id_and_gives_its_parts() {
        let id = SpiffeId::parse("SPIFFE://Fleamarket.TEST/svc/ads").unwrap();
        assert_eq!(id.as_str(), "spiffe://fleamarket.test/svc/ads");
        assert_eq!(id.trust_domain(), &home());
        assert_eq!(id.path(), "/svc/ads");
        assert_eq!(id, SpiffeId::service(&home(), "ads").unwrap());
    }

    #[test]
    fn path_keeps_its_case_and_so_names_somebody_else() {
        let lower = SpiffeId::parse("spiffe://td/svc/ads").unwrap();
        let upper = SpiffeId::parse("spiffe://td/svc/ADS").unwrap();
        assert_ne!(lower, upper);
        assert_eq!(upper.kind(), IdKind::Other);
    }

    #[test]
    fn every_kind_is_read_from_what_its_constructor_makes() {
        let td = home();
        assert_eq!(SpiffeId::authority(&td).kind(), IdKind::Authority);
        assert_eq!(SpiffeId::agent(&td, "n1").unwrap().kind(), IdKind::Agent("n1"));
        assert_eq!(SpiffeId::gateway(&td, "edge").unwrap().kind(), IdKind::Gateway("edge"));
        assert_eq!(SpiffeId::service(&td, "ads").unwrap().kind(), IdKind::Service("ads"));
        assert_eq!(SpiffeId::parse("spiffe://td").unwrap().kind(), IdKind::TrustDomain);
        assert_eq!(SpiffeId::parse("spiffe://td/svc/a/b").unwrap().kind(), IdKind::Other);
        assert_eq!(SpiffeId::parse("spiffe://td/countersign").unwrap().kind(), IdKind::Other);
    }

    #[test]
    fn names_below_countersign_are_reserved_and_lookalikes_are_not() {
        let reserved = |text: &str| SpiffeId::parse(text).unwrap().is_reserved();
        assert!(reserved("spiffe://td/countersign"));
        assert!(reserved("spiffe://td/countersign/anything"));
        assert!(!reserved("spiffe://td/countersigned"));
        assert!(!reserved("spiffe://td/svc/countersign"));
        assert!(!reserved("spiffe://td"));
    }

    #[test]
    fn a_short_name_is_an_alias_in_our_own_trust_domain_only() {
        let ours = SpiffeId::parse("spiffe://fleamarket.test/svc/ads").unwrap();
        assert_eq!(ours.short_name(&home()).unwrap().as_str(), "ads");
        let theirs = SpiffeId::parse("spiffe://other.test/svc/ads").unwrap();
        assert_eq!(theirs.short_name(&home()), None);
        assert_eq!(SpiffeId::authority(&home()).short_name(&home()), None);
    }

    #[test]
    fn rejects_each_way_to_be_wrong_with_its_own_error() {
        let error = |text: &str| SpiffeId::parse(text).unwrap_err();
        assert_eq!(error(""), IdError::Empty);
        assert_eq!(error("https://td/x"), IdError::WrongScheme);
        assert_eq!(error(" spiffe://td/x"), IdError::WrongScheme);
        assert_eq!(error("spiffe:///x"), IdError::TrustDomain(TrustDomainError::Empty));
        for (text, bad) in [
            ("spiffe://user@td/x", '@'),
            ("spiffe://td:443/x", ':'),
            ("spiffe://td?q", '?'),
            ("spiffe://td\\x", '\\'),
        ] {
            assert_eq!(error(text), IdError::TrustDomain(TrustDomainError::BadCharacter(bad)));
        }
        assert_eq!(error("spiffe://td//x"), IdError::EmptySegment);
        assert_eq!(error("spiffe://td//"), IdError::EmptySegment);
        assert_eq!(error("spiffe://td/"), IdError::TrailingSlash);
        assert_eq!(error("spiffe://td/x/"), IdError::TrailingSlash);
        assert_eq!(error("spiffe://td/x/./y"), IdError::DotSegment);
    }

    #[test]
    fn refuses_traversal_and_encoded_paths_and_never_normalises_them() {
        let error = |text: &str| SpiffeId::parse(text).unwrap_err();
        assert_eq!(error("spiffe://td/svc/../countersign/authority"), IdError::DotSegment);
        assert_eq!(error("spiffe://td/svc/.."), IdError::DotSegment);
        assert_eq!(error("spiffe://td/svc%2Fads"), IdError::BadPathCharacter('%'));
        assert_eq!(error("spiffe://td/%2e%2e/ads"), IdError::BadPathCharacter('%'));
    }

    #[test]
    fn accepts_2048_bytes_and_rejects_2049() {
        let fill = "a".repeat(SPIFFE_ID_BYTES_MAX - "spiffe://td/".len());
        assert!(SpiffeId::parse(&format!("spiffe://td/{fill}")).is_ok());
        let refused = SpiffeId::parse(&format!("spiffe://td/{fill}a"));
        assert_eq!(refused, Err(IdError::TooLong { bytes: 2049 }));
    }

    #[test]
    fn constructors_refuse_names_that_would_add_a_segment() {
        let refused = IdError::Name(ServiceNameError::BadCharacter('/'));
        assert_eq!(SpiffeId::service(&home(), "a/b"), Err(refused.clone()));
        assert_eq!(SpiffeId::agent(&home(), "a/b"), Err(refused.clone()));
        assert_eq!(SpiffeId::gateway(&home(), "a/b"), Err(refused));
    }

    #[test]
    fn json_goes_through_the_parser() {
        let id: SpiffeId = serde_json::from_str("\"spiffe://TD/svc/ads\"").unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"spiffe://td/svc/ads\"");
        assert!(serde_json::from_str::<SpiffeId>("\"spiffe://td/..\"").is_err());
    }
}
