//! Headers: which may occur once, which carry identity, which end at each hop.

use http::{HeaderMap, HeaderName, header::CONNECTION};
use thiserror::Error;

use crate::bytes::{TOKEN, is_printable};
use crate::names::{self, Traits};

/// Most header lines of a request.
pub const HEADER_COUNT_MAX: usize = 100;
/// Longest header name, in bytes.
pub const HEADER_NAME_BYTES_MAX: usize = 128;
/// Longest header value, in bytes: a token of 8 KiB and its scheme fit twice.
pub const HEADER_VALUE_BYTES_MAX: usize = 16 * 1024;
/// Names and values together, in bytes.
pub const HEADERS_BYTES_MAX: usize = 32 * 1024;

/// Most names that the `Connection` headers of a request list: each is looked for among all headers.
pub const CONNECTION_NAMES_MAX: usize = 32;

/// Carries the internal token of the user, from the gateway to every hop
/// (draft-ietf-oauth-transaction-tokens section 7).
pub const TXN_TOKEN: HeaderName = HeaderName::from_static("txn-token");

/// Carries an internal token of the user that was issued for this hop alone.
pub const USER_TOKEN: HeaderName = HeaderName::from_static("user-token");
/// Carries a workload identity token (draft-ietf-wimse-workload-creds).
pub const WORKLOAD_IDENTITY_TOKEN: HeaderName = HeaderName::from_static("workload-identity-token");
/// Carries a workload proof token (draft-ietf-wimse-wpt).
pub const WORKLOAD_PROOF_TOKEN: HeaderName = HeaderName::from_static("workload-proof-token");
/// Carries the certificate chain of the key that signed a service token, leaf first, as an RFC 9651 list of byte
/// sequences: untrusted path material.
pub const SIGNING_CHAIN: HeaderName = HeaderName::from_static("countersign-signing-chain");
/// Proves possession of the key that an access token is bound to (RFC 9449).
pub const DPOP: HeaderName = HeaderName::from_static("dpop");

/// Headers in which somebody, somewhere, believes an identity, a method or a path. They never
/// pass inwards; what we set ourselves is set after they are stripped.
pub const IDENTITY_HEADERS: [&str; 34] = [
    "client-cert",
    "client-cert-chain",
    "countersign-signing-chain",
    "dpop",
    "forwarded",
    "impersonate-group",
    "impersonate-user",
    "remote-groups",
    "remote-user",
    "ssl-client-cert",
    "txn-token",
    "user-token",
    "workload-identity-token",
    "workload-proof-token",
    "x-authenticated-user",
    "x-client-cert",
    "x-client-verify",
    "x-email",
    "x-goog-iap-jwt-assertion",
    "x-http-method",
    "x-http-method-override",
    "x-identity",
    "x-jwt-assertion",
    "x-method-override",
    "x-original-uri",
    "x-original-url",
    "x-real-ip",
    "x-remote-user",
    "x-rewrite-url",
    "x-roles",
    "x-user",
    "x-user-id",
    "x-user-roles",
    "x-webauth-user",
];

/// Beginnings of more such names.
pub const IDENTITY_HEADER_PREFIXES: [&str; 9] = [
    "countersign-",
    "x-amzn-oidc-",
    "x-auth-request-",
    "x-countersign-",
    "x-envoy-",
    "x-forwarded-",
    "x-ms-client-principal",
    "x-spiffe-",
    "x-ssl-client-",
];

/// Headers that lose their meaning when they come twice.
pub(crate) const SINGLE_VALUED: [&str; 23] = [
    "authorization",
    "content-encoding",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "countersign-signing-chain",
    "date",
    "dpop",
    "expect",
    "from",
    "host",
    "if-modified-since",
    "if-range",
    "if-unmodified-since",
    "max-forwards",
    "proxy-authorization",
    "range",
    "txn-token",
    "user-agent",
    "user-token",
    "workload-identity-token",
    "workload-proof-token",
];

/// Headers about one connection (RFC 9110 section 7.6.1).
pub(crate) const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers that a `Connection` header may not delete, besides identity headers.
pub(crate) const END_TO_END: [&str; 6] =
    ["authorization", "content-length", "content-type", "cookie", "host", "traceparent"];

/// Why the headers of a request cannot be read in exactly one way.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// Over [`HEADER_COUNT_MAX`].
    #[error("request has {count} headers: at most {HEADER_COUNT_MAX} are allowed")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// Over [`HEADER_NAME_BYTES_MAX`].
    #[error("header name has {bytes} bytes: at most {HEADER_NAME_BYTES_MAX} are allowed")]
    NameTooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Over [`HEADER_VALUE_BYTES_MAX`].
    #[error("header {name} has {bytes} bytes: at most {HEADER_VALUE_BYTES_MAX} are allowed")]
    ValueTooLong {
        /// Which one.
        name: HeaderName,
        /// How long its value is.
        bytes: usize,
    },
    /// Over [`HEADERS_BYTES_MAX`].
    #[error("headers have {bytes} bytes: at most {HEADERS_BYTES_MAX} are allowed")]
    TooLong {
        /// How long they are together.
        bytes: usize,
    },
    /// The name of a header is empty.
    #[error("header without a name")]
    EmptyName,
    /// The name of a header is no token (RFC 9110 section 5.1).
    #[error("header with a name that is no token")]
    BadName,
    /// A NUL or another control byte in a value.
    #[error("header {0} holds a control byte")]
    ControlByte(HeaderName),
    /// A value that is not UTF-8.
    #[error("header {0} is not UTF-8")]
    NotText(HeaderName),
    /// Spaces or tabs around a value (RFC 9113 section 8.2.1): HTTP/1 takes them off, and so its readers see another.
    #[error("header {0} begins or ends with a space or tab: send its value alone")]
    Padded(HeaderName),
    /// Twice, where one counts.
    #[error("header {0} occurs more than once: send it once")]
    Duplicate(HeaderName),
    /// `X_Forwarded_User` and the like: some readers take `_` or `.` for `-`.
    #[error("header {0} is another spelling of a protected header: leave it out")]
    Alias(String),
    /// Over [`CONNECTION_NAMES_MAX`].
    #[error("connection lists {names} names: at most {CONNECTION_NAMES_MAX} are allowed")]
    TooManyListed {
        /// How many there are.
        names: usize,
    },
    /// Not a plain number.
    #[error("content-length is not a plain number")]
    BadContentLength,
    /// `Content-Length` beside `Transfer-Encoding` (RFC 9112 section 6.1).
    #[error("request has both content-length and transfer-encoding: send one")]
    TwoLengths,
}

/// What the check of all headers found out on its way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    /// All traits of all headers.
    traits: Traits,
    transfer_encoding: bool,
    /// Is there a `Connection` header?
    pub(crate) connection: bool,
    /// One bit for each header that ends here whatever `Connection` says: those that may carry an identity, those about
    /// one connection, and those that whoever writes the next request states himself.
    pub(crate) ends_here: u128,
}

/// Checks every limit and everything that readers of headers disagree on. Names may have any case.
pub(crate) fn check<'a>(
    headers: impl ExactSizeIterator<Item = (&'a str, &'a [u8])>,
) -> Result<Found, HeaderError> {
    const { assert!(HEADER_COUNT_MAX <= 128) };
    if headers.len() > HEADER_COUNT_MAX {
        return Err(HeaderError::TooMany { count: headers.len() });
    }
    let mut found = Found::default();
    let (mut bytes, mut listed): (usize, usize) = (0, 0);
    for (place, (name, value)) in headers.enumerate() {
        let traits = check_name(name)?;
        check_value(name, value)?;
        bytes = bytes.saturating_add(name.len()).saturating_add(value.len());
        if traits.is_none() {
            continue;
        }
        // Host is judged with the authority, where a second one has its own error.
        if !traits.singles().shared(found.traits).without(HOST).is_none() {
            return Err(named(name, HeaderError::Duplicate));
        }
        if traits.any(Traits::HOP_BY_HOP) {
            if name.eq_ignore_ascii_case("connection") {
                found.connection = true;
                listed = listed.saturating_add(listed_names(value).count());
            }
            found.transfer_encoding |= name.eq_ignore_ascii_case("transfer-encoding");
        }
        if traits.any(CONTENT_LENGTH) && content_length(value).is_none() {
            return Err(HeaderError::BadContentLength);
        }
        found.traits = found.traits.and(traits);
        found.ends_here |= u128::from(traits.any(ENDS_HERE)) << place;
    }
    if bytes > HEADERS_BYTES_MAX {
        return Err(HeaderError::TooLong { bytes });
    }
    if listed > CONNECTION_NAMES_MAX {
        return Err(HeaderError::TooManyListed { names: listed });
    }
    if found.transfer_encoding && found.traits.any(CONTENT_LENGTH) {
        return Err(HeaderError::TwoLengths);
    }
    Ok(found)
}

/// Name and value of every line of a map, as [`check`] takes them.
pub(crate) fn lines(headers: &HeaderMap) -> impl ExactSizeIterator<Item = (&str, &[u8])> {
    Lines {
        left: headers.len(),
        lines: headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())),
    }
}

/// Whether this header may carry an identity, in whatever case and spelling.
#[must_use]
pub fn is_identity_header(name: impl AsRef<[u8]>) -> bool {
    names::traits(name.as_ref()).any(Traits::IDENTITY)
}

/// Whether this header is about one connection (RFC 9110 section 7.6.1), in whatever case and spelling.
#[must_use]
pub fn is_hop_by_hop(name: impl AsRef<[u8]>) -> bool {
    names::traits(name.as_ref()).any(Traits::HOP_BY_HOP)
}

/// Whether this header loses its meaning when it comes twice, in whatever case and spelling.
#[must_use]
pub fn counts_once(name: impl AsRef<[u8]>) -> bool {
    names::traits(name.as_ref()).any(Traits::SINGLE_VALUED)
}

/// Removes every header that may carry an identity, in whatever spelling. What is proven is in the
/// caller; what we tell the next hop is set after this.
pub fn strip_identity_headers(headers: &mut HeaderMap) {
    remove_all(headers, |name| is_identity_header(name));
}

/// Removes the headers that are about one connection, and those that `Connection` lists
/// (RFC 9110 section 7.6.1). Whatever `Connection` lists, it never deletes an identity header or
/// one that tells the message's meaning: a caller must not take away what we set.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| listed_names(value.as_bytes()))
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .collect();
    remove_all(headers, |name| {
        let traits = names::traits(name.as_ref());
        HOP_BY_HOP.contains(&name.as_str()) || (listed.contains(name) && ends_when_listed(traits))
    });
}

/// The names that a `Connection` header lists, `close` and `keep-alive` among them.
pub(crate) fn listed_names(connection: &[u8]) -> impl Iterator<Item = &[u8]> {
    connection.split(|b| *b == b',').map(<[u8]>::trim_ascii)
}

/// May a `Connection` header that lists this name delete it?
pub(crate) const fn ends_when_listed(traits: Traits) -> bool {
    !traits.any(Traits::IDENTITY.and(Traits::END_TO_END))
}

fn remove_all(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn check_name(name: &str) -> Result<Traits, HeaderError> {
    if name.is_empty() {
        return Err(HeaderError::EmptyName);
    }
    if name.len() > HEADER_NAME_BYTES_MAX {
        return Err(HeaderError::NameTooLong { bytes: name.len() });
    }
    if !TOKEN.has_all(name.as_bytes()) {
        return Err(HeaderError::BadName);
    }
    let traits = names::traits(name.as_bytes());
    if traits.any(Traits::PROTECTED) && names::has_alias(name.as_bytes()) {
        return Err(HeaderError::Alias(name.to_ascii_lowercase()));
    }
    Ok(traits)
}

/// Takes bytes and not a `HeaderValue`, whose safe constructors refuse NUL already: that somebody
/// else checks is no reason not to.
fn check_value(name: &str, bytes: &[u8]) -> Result<(), HeaderError> {
    if bytes.len() > HEADER_VALUE_BYTES_MAX {
        return Err(named(name, |name| HeaderError::ValueTooLong { name, bytes: bytes.len() }));
    }
    if [bytes.first(), bytes.last()].into_iter().flatten().any(|byte| matches!(byte, b' ' | b'\t')) {
        return Err(named(name, HeaderError::Padded));
    }
    if is_printable(bytes) {
        return Ok(());
    }
    if bytes.iter().any(|b| b.is_ascii_control() && *b != b'\t') {
        return Err(named(name, HeaderError::ControlByte));
    }
    if std::str::from_utf8(bytes).is_err() {
        return Err(named(name, HeaderError::NotText));
    }
    Ok(())
}

/// The number that a `Content-Length` states: digits alone, and no more than fit (RFC 9110 section 8.6).
#[must_use]
pub fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// An error about a header of this name.
fn named(name: &str, error: impl FnOnce(HeaderName) -> HeaderError) -> HeaderError {
    HeaderName::from_bytes(name.as_bytes()).map_or(HeaderError::BadName, error)
}

/// A map counts its lines, yet its iterator does not say so.
struct Lines<I> {
    left: usize,
    lines: I,
}

impl<I: Iterator> Iterator for Lines<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        self.left = self.left.saturating_sub(1);
        self.lines.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<I: Iterator> ExactSizeIterator for Lines<I> {}

const CONTENT_LENGTH: Traits = Traits::single_valued("content-length");
const HOST: Traits = Traits::single_valued("host");
const ENDS_HERE: Traits = Traits::IDENTITY
    .and(Traits::HOP_BY_HOP)
    .and(HOST)
    .and(CONTENT_LENGTH)
    .and(Traits::single_valued("expect"));

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn check_map(headers: &HeaderMap) -> Result<(), HeaderError> {
        check(lines(headers)).map(drop)
    }

    fn name(text: &str) -> HeaderName {
        text.parse().unwrap()
    }

    #[test]
    fn accepts_ordinary_headers() {
        let ordinary = headers(&[
            ("host", "flea.test"),
            ("authorization", "Bearer abc"),
            ("accept", "text/html"),
            ("accept", "application/json"),
            ("x_custom_thing", "underscores of others are theirs"),
            ("content-length", "0"),
        ]);
        assert_eq!(check_map(&ordinary), Ok(()));
    }

    #[test]
    fn rejects_headers_that_count_once_and_come_twice() {
        for single in ["authorization", "content-type", "txn-token", "content-length"] {
            let twice = headers(&[(single, "1"), (single, "1")]);
            assert_eq!(check_map(&twice), Err(HeaderError::Duplicate(name(single))));
        }
    }

    #[test]
    fn rejects_aliases_of_identity_headers_and_of_single_valued_ones() {
        for alias in ["x_forwarded_user", "x-forwarded_user", "txn_token", "content_length", "x.user"] {
            let refused = check_map(&headers(&[(alias, "mallory")]));
            assert_eq!(refused, Err(HeaderError::Alias(alias.to_owned())));
        }
    }

    #[test]
    fn identity_headers_are_stripped_whatever_their_spelling() {
        let mut map = headers(&[
            ("X-Forwarded-User", "mallory"),
            ("x_forwarded_user", "mallory"),
            ("X-FORWARDED_User", "mallory"),
            ("x-forwarded-client-cert", "By=mallory"),
            ("x.auth.request.email", "mallory"),
            ("Txn-Token", "mallory"),
            ("Remote_User", "mallory"),
            ("X-HTTP-Method-Override", "DELETE"),
            ("accept", "text/html"),
        ]);
        strip_identity_headers(&mut map);
        assert_eq!(map, headers(&[("accept", "text/html")]));
    }

    #[test]
    fn every_listed_identity_header_is_stripped() {
        for listed in IDENTITY_HEADERS {
            let mut map = headers(&[(listed, "mallory"), (&listed.replace('-', "_"), "mallory")]);
            strip_identity_headers(&mut map);
            assert!(map.is_empty(), "{listed}");
        }
    }

    #[test]
    fn connection_cannot_delete_our_headers() {
        let mut map = headers(&[
            ("Connection", "close, X-Identity, txn-TOKEN, Authorization, x-mine"),
            ("X-Identity", "ours"),
            ("Txn-Token", "ours"),
            ("Authorization", "ours"),
            ("X-Mine", "about this connection"),
            ("Upgrade", "websocket"),
            ("Keep-Alive", "timeout=5"),
            ("Accept", "text/html"),
        ]);
        strip_hop_by_hop(&mut map);
        let left = headers(&[
            ("x-identity", "ours"),
            ("txn-token", "ours"),
            ("authorization", "ours"),
            ("accept", "text/html"),
        ]);
        assert_eq!(map, left);
    }

    #[test]
    fn rejects_nul_in_a_value_and_never_truncates_it() {
        let refused = check_value("x-thing", b"admin\0.example");
        assert_eq!(refused, Err(HeaderError::ControlByte(name("x-thing"))));
        assert!(check_value("x-thing", b"fine\tso far").is_ok());
        for byte in (0..32).chain([127]).filter(|byte| *byte != b'\t') {
            assert!(check_value("x-thing", &[b'a', byte]).is_err(), "{byte}");
        }
    }

    #[test]
    fn accepts_as_many_names_in_connection_as_the_limit_and_rejects_one_more() {
        let listing = |names: usize| headers(&[("connection", &vec!["a"; names].join(","))]);
        assert_eq!(check_map(&listing(CONNECTION_NAMES_MAX)), Ok(()));
        let refused = check_map(&listing(CONNECTION_NAMES_MAX + 1));
        assert_eq!(refused, Err(HeaderError::TooManyListed { names: 33 }));
    }

    #[test]
    fn rejects_a_header_without_a_name() {
        assert_eq!(check_name(""), Err(HeaderError::EmptyName));
    }

    #[test]
    fn rejects_a_value_that_is_not_text() {
        let mut map = HeaderMap::new();
        map.insert("x-thing", HeaderValue::from_bytes(b"a\xFFb").unwrap());
        assert_eq!(check_map(&map), Err(HeaderError::NotText(name("x-thing"))));
    }

    #[test]
    fn rejects_a_value_with_spaces_around_it() {
        for padded in [" a", "a ", "\ta", "a\t", " "] {
            assert_eq!(
                check_map(&headers(&[("x-thing", padded)])),
                Err(HeaderError::Padded(name("x-thing")))
            );
        }
        assert_eq!(check_map(&headers(&[("x-thing", "a \tb"), ("x-other", "")])), Ok(()));
    }

    #[test]
    fn rejects_lengths_that_readers_disagree_on() {
        for bad in ["", "+5", "5,5", "0x5", "-1", "5 5", "99999999999999999999"] {
            let refused = check_map(&headers(&[("content-length", bad)]));
            assert_eq!(refused, Err(HeaderError::BadContentLength), "{bad:?}");
        }
        let both = headers(&[("content-length", "5"), ("transfer-encoding", "chunked")]);
        assert_eq!(check_map(&both), Err(HeaderError::TwoLengths));
    }

    #[test]
    fn accepts_limits_and_rejects_one_past_them() {
        let many = |count: usize| {
            let mut map = HeaderMap::new();
            (0..count).for_each(|i| drop(map.insert(name(&format!("h{i}")), "v".parse().unwrap())));
            map
        };
        assert_eq!(check_map(&many(HEADER_COUNT_MAX)), Ok(()));
        let refused = check_map(&many(HEADER_COUNT_MAX + 1));
        assert_eq!(refused, Err(HeaderError::TooMany { count: 101 }));

        let named = |bytes: usize| headers(&[(&"n".repeat(bytes), "v")]);
        assert_eq!(check_map(&named(HEADER_NAME_BYTES_MAX)), Ok(()));
        let refused = check_map(&named(HEADER_NAME_BYTES_MAX + 1));
        assert_eq!(refused, Err(HeaderError::NameTooLong { bytes: 129 }));

        let valued = |bytes: usize| headers(&[("n", &"v".repeat(bytes))]);
        assert_eq!(check_map(&valued(HEADER_VALUE_BYTES_MAX)), Ok(()));
        let refused = check_map(&valued(HEADER_VALUE_BYTES_MAX + 1));
        let too_long = HeaderError::ValueTooLong { name: name("n"), bytes: 16385 };
        assert_eq!(refused, Err(too_long));

        let half = "v".repeat(HEADERS_BYTES_MAX / 2 - 1);
        let mut full = headers(&[("a", &half), ("b", &half)]);
        assert_eq!(check_map(&full), Ok(()));
        full.insert("c", HeaderValue::from_static(""));
        assert_eq!(check_map(&full), Err(HeaderError::TooLong { bytes: 32769 }));
    }
}
