//! Headers: which may occur once, which carry identity, which end at each hop.

use http::{
    HeaderMap, HeaderName,
    header::{self, CONNECTION},
};
use thiserror::Error;

/// Most header lines of a request.
pub const HEADER_COUNT_MAX: usize = 100;
/// Longest header name, in bytes.
pub const HEADER_NAME_BYTES_MAX: usize = 128;
/// Longest header value, in bytes: a token of 8 KiB and its scheme fit twice.
pub const HEADER_VALUE_BYTES_MAX: usize = 16 * 1024;
/// Names and values together, in bytes.
pub const HEADERS_BYTES_MAX: usize = 32 * 1024;

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
pub const IDENTITY_HEADER_PREFIXES: [&str; 8] = [
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
const SINGLE_VALUED: [&str; 24] = [
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
    "traceparent",
    "txn-token",
    "user-agent",
    "user-token",
    "workload-identity-token",
    "workload-proof-token",
];

/// Headers about one connection (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Headers that a `Connection` header may not delete, besides identity headers.
const END_TO_END: [HeaderName; 6] = [
    header::AUTHORIZATION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::HOST,
    HeaderName::from_static("traceparent"),
];

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
    /// A NUL or another control byte in a value.
    #[error("header {0} holds a control byte")]
    ControlByte(HeaderName),
    /// A value that is not UTF-8.
    #[error("header {0} is not UTF-8")]
    NotText(HeaderName),
    /// Twice, where one counts.
    #[error("header {0} occurs more than once: send it once")]
    Duplicate(HeaderName),
    /// `X_Forwarded_User` and the like: some readers take `_` or `.` for `-`.
    #[error("header {0} is another spelling of a protected header: leave it out")]
    Alias(String),
    /// Not a plain number.
    #[error("content-length is not a plain number")]
    BadContentLength,
    /// `Content-Length` beside `Transfer-Encoding` (RFC 9112 section 6.1).
    #[error("request has both content-length and transfer-encoding: send one")]
    TwoLengths,
}

/// Checks every limit and everything that readers of headers disagree on.
pub(crate) fn check(headers: &HeaderMap) -> Result<(), HeaderError> {
    if headers.len() > HEADER_COUNT_MAX {
        return Err(HeaderError::TooMany { count: headers.len() });
    }
    let mut bytes: usize = 0;
    for (name, value) in headers {
        check_name(name.as_str())?;
        check_value(name, value.as_bytes())?;
        bytes = bytes.saturating_add(name.as_str().len()).saturating_add(value.len());
    }
    if bytes > HEADERS_BYTES_MAX {
        return Err(HeaderError::TooLong { bytes });
    }
    check_duplicates(headers)?;
    check_lengths(headers)
}

/// Whether this header may carry an identity, in whatever spelling.
#[must_use]
pub fn is_identity_header(name: &HeaderName) -> bool {
    is_identity(&dashed(name.as_str()))
}

/// Removes every header that may carry an identity, in whatever spelling. What is proven is in the
/// caller; what we tell the next hop is set after this.
pub fn strip_identity_headers(headers: &mut HeaderMap) {
    remove_all(headers, is_identity_header);
}

/// Removes the headers that are about one connection, and those that `Connection` lists
/// (RFC 9110 section 7.6.1). Whatever `Connection` lists, it never deletes an identity header or
/// one that tells the message's meaning: a caller must not take away what we set.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    remove_all(headers, |name| {
        let is_ours = is_identity_header(name) || END_TO_END.contains(name);
        HOP_BY_HOP.contains(name) || (listed.contains(name) && !is_ours)
    });
}

fn remove_all(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn check_name(name: &str) -> Result<(), HeaderError> {
    if name.is_empty() {
        return Err(HeaderError::EmptyName);
    }
    if name.len() > HEADER_NAME_BYTES_MAX {
        return Err(HeaderError::NameTooLong { bytes: name.len() });
    }
    let dashed = dashed(name);
    if dashed != name && (is_identity(&dashed) || is_single_valued(&dashed)) {
        return Err(HeaderError::Alias(name.to_owned()));
    }
    Ok(())
}

/// Takes bytes and not a `HeaderValue`, whose safe constructors refuse NUL already: that somebody
/// else checks is no reason not to.
fn check_value(name: &HeaderName, bytes: &[u8]) -> Result<(), HeaderError> {
    if bytes.len() > HEADER_VALUE_BYTES_MAX {
        return Err(HeaderError::ValueTooLong { name: name.clone(), bytes: bytes.len() });
    }
    if bytes.iter().any(|b| b.is_ascii_control() && *b != b'\t') {
        return Err(HeaderError::ControlByte(name.clone()));
    }
    if std::str::from_utf8(bytes).is_err() {
        return Err(HeaderError::NotText(name.clone()));
    }
    Ok(())
}

fn check_duplicates(headers: &HeaderMap) -> Result<(), HeaderError> {
    for name in headers.keys() {
        let counts_once = is_single_valued(name.as_str()) || *name == TXN_TOKEN;
        // Host is judged with the authority, where a second one has its own error.
        if counts_once && name != header::HOST && headers.get_all(name).iter().nth(1).is_some() {
            return Err(HeaderError::Duplicate(name.clone()));
        }
    }
    Ok(())
}

fn check_lengths(headers: &HeaderMap) -> Result<(), HeaderError> {
    let Some(length) = headers.get(header::CONTENT_LENGTH) else {
        return Ok(());
    };
    let is_number = !length.is_empty()
        && length.as_bytes().iter().all(u8::is_ascii_digit)
        && length.to_str().is_ok_and(|text| text.parse::<u64>().is_ok());
    if !is_number {
        return Err(HeaderError::BadContentLength);
    }
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(HeaderError::TwoLengths);
    }
    Ok(())
}

/// The spelling that a lenient reader would see.
fn dashed(name: &str) -> String {
    name.replace(['_', '.'], "-")
}

fn is_identity(dashed: &str) -> bool {
    IDENTITY_HEADERS.contains(&dashed)
        || IDENTITY_HEADER_PREFIXES.iter().any(|prefix| dashed.starts_with(prefix))
}

fn is_single_valued(name: &str) -> bool {
    SINGLE_VALUED.contains(&name)
}

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
        assert_eq!(check(&ordinary), Ok(()));
    }

    #[test]
    fn rejects_headers_that_count_once_and_come_twice() {
        for single in ["authorization", "content-type", "txn-token", "content-length"] {
            let twice = headers(&[(single, "1"), (single, "1")]);
            assert_eq!(check(&twice), Err(HeaderError::Duplicate(name(single))));
        }
    }

    #[test]
    fn rejects_aliases_of_identity_headers_and_of_single_valued_ones() {
        for alias in ["x_forwarded_user", "x-forwarded_user", "txn_token", "content_length", "x.user"] {
            let refused = check(&headers(&[(alias, "mallory")]));
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
        let refused = check_value(&name("x-thing"), b"admin\0.example");
        assert_eq!(refused, Err(HeaderError::ControlByte(name("x-thing"))));
        assert!(check_value(&name("x-thing"), b"fine\tso far").is_ok());
        for byte in (0..32).chain([127]).filter(|byte| *byte != b'\t') {
            assert!(check_value(&name("x-thing"), &[b'a', byte]).is_err(), "{byte}");
        }
    }

    #[test]
    fn rejects_a_header_without_a_name() {
        assert_eq!(check_name(""), Err(HeaderError::EmptyName));
    }

    #[test]
    fn rejects_a_value_that_is_not_text() {
        let mut map = HeaderMap::new();
        map.insert("x-thing", HeaderValue::from_bytes(b"a\xFFb").unwrap());
        assert_eq!(check(&map), Err(HeaderError::NotText(name("x-thing"))));
    }

    #[test]
    fn rejects_lengths_that_readers_disagree_on() {
        for bad in ["", "+5", "5,5", "0x5", "-1", "5 ", "99999999999999999999"] {
            let refused = check(&headers(&[("content-length", bad)]));
            assert_eq!(refused, Err(HeaderError::BadContentLength), "{bad:?}");
        }
        let both = headers(&[("content-length", "5"), ("transfer-encoding", "chunked")]);
        assert_eq!(check(&both), Err(HeaderError::TwoLengths));
    }

    #[test]
    fn accepts_limits_and_rejects_one_past_them() {
        let many = |count: usize| {
            let mut map = HeaderMap::new();
            (0..count).for_each(|i| drop(map.insert(name(&format!("h{i}")), "v".parse().unwrap())));
            map
        };
        assert_eq!(check(&many(HEADER_COUNT_MAX)), Ok(()));
        let refused = check(&many(HEADER_COUNT_MAX + 1));
        assert_eq!(refused, Err(HeaderError::TooMany { count: 101 }));

        let named = |bytes: usize| headers(&[(&"n".repeat(bytes), "v")]);
        assert_eq!(check(&named(HEADER_NAME_BYTES_MAX)), Ok(()));
        let refused = check(&named(HEADER_NAME_BYTES_MAX + 1));
        assert_eq!(refused, Err(HeaderError::NameTooLong { bytes: 129 }));

        let valued = |bytes: usize| headers(&[("n", &"v".repeat(bytes))]);
        assert_eq!(check(&valued(HEADER_VALUE_BYTES_MAX)), Ok(()));
        let refused = check(&valued(HEADER_VALUE_BYTES_MAX + 1));
        let too_long = HeaderError::ValueTooLong { name: name("n"), bytes: 16385 };
        assert_eq!(refused, Err(too_long));

        let half = "v".repeat(HEADERS_BYTES_MAX / 2 - 1);
        let mut full = headers(&[("a", &half), ("b", &half)]);
        assert_eq!(check(&full), Ok(()));
        full.insert("c", HeaderValue::from_static(""));
        assert_eq!(check(&full), Err(HeaderError::TooLong { bytes: 32769 }));
    }
}
