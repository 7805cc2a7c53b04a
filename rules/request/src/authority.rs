//! Whom a request is addressed to: `Host`, `:authority`, or the target in absolute form.

use std::borrow::Cow;
use std::fmt;

use thiserror::Error;

use crate::bytes::split_once;

/// Longest authority, in bytes: a DNS name of 255 and a port.
pub const AUTHORITY_BYTES_MAX: usize = 261;

/// Host and port. The host is lower case and has no trailing dot, so that `Host.` and `host` meet
/// the same rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    host: String,
    port: Option<u16>,
}

/// The same, borrowed from where it was read if that is its canonical form already.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AuthorityRef<'a> {
    host: Cow<'a, str>,
    port: Option<u16>,
}

/// Why it is not certain whom a request is addressed to.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AuthorityError {
    /// Neither `Host` nor `:authority`.
    #[error("request names no host: send a Host header")]
    Missing,
    /// `Host` more than once.
    #[error("request has more than one Host header: send one")]
    Duplicate,
    /// `Host` and the target name different hosts.
    #[error("request has a Host header that differs from its target: send the same one")]
    Conflict,
    /// Over [`AUTHORITY_BYTES_MAX`].
    #[error("host has {bytes} bytes: at most {AUTHORITY_BYTES_MAX} are allowed")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// User information before an `@`.
    #[error("host holds user information: leave everything up to the '@' out")]
    UserInfo,
    /// Not a name, an IPv4 address or an IPv6 address in brackets.
    #[error("host is neither a name nor an address")]
    BadHost,
    /// Not a number from 1 to 65535 in its shortest form.
    #[error("port is not a number from 1 to 65535")]
    BadPort,
}

impl Authority {
    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        AuthorityRef::parse(text).map(AuthorityRef::into_owned)
    }

    /// The same, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> AuthorityRef<'_> {
        AuthorityRef { host: Cow::Borrowed(&self.host), port: self.port }
    }

    /// The host: lower case, no trailing dot; an IPv6 address keeps its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, if one was written.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }
}

impl<'a> AuthorityRef<'a> {
    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub fn parse(text: &'a str) -> Result<Self, AuthorityError> {
        if text.len() > AUTHORITY_BYTES_MAX {
            return Err(AuthorityError::TooLong { bytes: text.len() });
        }
        Self::parse_host_and_port(text).map_err(|why| {
            // No host and no port can hold one, so that only what is refused anyway is searched for it.
            if text.contains('@') { AuthorityError::UserInfo } else { why }
        })
    }

    fn parse_host_and_port(text: &'a str) -> Result<Self, AuthorityError> {
        let (host, port) = split_port(text)?;
        let port = port.map(parse_port).transpose()?;
        Ok(Self { host: canonical_host(host)?, port })
    }

    /// The host: lower case, no trailing dot; an IPv6 address keeps its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, if one was written.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// The same, without a copy.
    #[must_use]
    pub fn reborrow(&self) -> AuthorityRef<'_> {
        AuthorityRef { host: Cow::Borrowed(&self.host), port: self.port }
    }

    /// The same, to keep.
    #[must_use]
    pub fn into_owned(self) -> Authority {
        Authority { host: self.host.into_owned(), port: self.port }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

impl fmt::Display for AuthorityRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

/// Reads the authority of a request from both places where it can stand; where it stands in both,
/// they must agree. `hosts`: the value of each `Host` header.
pub(crate) fn of_request<'a>(
    target: Option<&'a str>,
    mut hosts: impl Iterator<Item = &'a [u8]>,
) -> Result<AuthorityRef<'a>, AuthorityError> {
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(AuthorityError::Duplicate);
    }
    let parse_host = |value: &'a [u8]| {
        AuthorityRef::parse(std::str::from_utf8(value).map_err(|_| AuthorityError::BadHost)?)
    };
    let host = host.map(parse_host).transpose()?;
    let target = target.map(AuthorityRef::parse).transpose()?;
    match (target, host) {
        (Some(target), Some(host)) if target != host => Err(AuthorityError::Conflict),
        (Some(one), _) | (None, Some(one)) => Ok(one),
        (None, None) => Err(AuthorityError::Missing),
    }
}

fn split_port(text: &str) -> Result<(&str, Option<&str>), AuthorityError> {
    if text.starts_with('[') {
        let end = text.find(']').ok_or(AuthorityError::BadHost)?.saturating_add(1);
        let (host, rest) = text.split_at_checked(end).ok_or(AuthorityError::BadHost)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(AuthorityError::BadHost),
        };
    }
    match split_once(text, b':') {
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

fn parse_port(text: &str) -> Result<u16, AuthorityError> {
    let digits_only = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if !digits_only {
        return Err(AuthorityError::BadPort);
    }
    text.parse().map_err(|_| AuthorityError::BadPort)
}

fn canonical_host(host: &str) -> Result<Cow<'_, str>, AuthorityError> {
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or(AuthorityError::BadHost)?;
        let address: std::net::Ipv6Addr = inner.parse().map_err(|_| AuthorityError::BadHost)?;
        return Ok(Cow::Owned(format!("[{address}]")));
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let (mut label_is_empty, mut has_upper) = (true, false);
    for byte in host.bytes() {
        match byte {
            b'.' if label_is_empty => return Err(AuthorityError::BadHost),
            b'.' => label_is_empty = true,
            b'A'..=b'Z' => (label_is_empty, has_upper) = (false, true),
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => label_is_empty = false,
            _ => return Err(AuthorityError::BadHost),
        }
    }
    match (label_is_empty, has_upper) {
        (true, _) => Err(AuthorityError::BadHost),
        (false, true) => Ok(Cow::Owned(host.to_ascii_lowercase())),
        (false, false) => Ok(Cow::Borrowed(host)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn host(values: &[&'static str]) -> impl Iterator<Item = &'static [u8]> {
        values.iter().map(|value| value.as_bytes()).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn case_and_trailing_dot_of_the_host_cannot_skip_a_rule() {
        let plain = Authority::parse("flea.test:8443").unwrap();
        assert_eq!(Authority::parse("FLEA.test.:8443").unwrap(), plain);
        assert_eq!((plain.host(), plain.port()), ("flea.test", Some(8443)));
        assert_eq!(Authority::parse("[0::1]:80").unwrap(), Authority::parse("[::1]:80").unwrap());
    }

    #[test]
    fn rejects_each_way_to_be_wrong_with_its_own_error() {
        let error = |text: &str| Authority::parse(text).unwrap_err();
        assert_eq!(error("user@flea.test"), AuthorityError::UserInfo);
        for bad in ["", ".", "a..b", "a/b", "a b", "a%2eb", "é", "[::1", "[::g]", "[::1]x", "a\0"] {
            assert_eq!(error(bad), AuthorityError::BadHost, "{bad:?}");
        }
        for bad in ["a:", "a:0", "a:080", "a:65536", "a:+80", "a:80:80", "::1"] {
            let refused = error(bad);
            assert!(matches!(refused, AuthorityError::BadPort | AuthorityError::BadHost), "{bad:?}");
        }
        assert_eq!(error("a:65536"), AuthorityError::BadPort);
    }

    #[test]
    fn accepts_an_authority_at_the_limit_and_rejects_one_past_it() {
        assert!(Authority::parse(&"a".repeat(AUTHORITY_BYTES_MAX)).is_ok());
        let refused = Authority::parse(&"a".repeat(AUTHORITY_BYTES_MAX + 1));
        assert_eq!(refused, Err(AuthorityError::TooLong { bytes: 262 }));
    }

    #[test]
    fn host_and_target_must_agree() {
        let both = of_request(Some("flea.test:80"), host(&["FLEA.test:80"])).unwrap();
        assert_eq!(both.to_string(), "flea.test:80");
        let conflict = of_request(Some("flea.test"), host(&["admin.test"]));
        assert_eq!(conflict, Err(AuthorityError::Conflict));
    }

    #[test]
    fn rejects_two_hosts_even_when_they_are_equal() {
        let twice = of_request(None, host(&["flea.test", "flea.test"]));
        assert_eq!(twice, Err(AuthorityError::Duplicate));
    }

    #[test]
    fn rejects_a_request_that_names_no_host() {
        assert_eq!(of_request(None, host(&[])), Err(AuthorityError::Missing));
    }
}
