//! The query of a request. Policies never read it and the ledger never keeps it, yet upstream
//! parses it, so it has to be one string for everybody.

use std::borrow::Cow;

use thiserror::Error;

use crate::bytes::{QUERY, split_once};
use crate::path::decode_hex;

/// Longest query, in bytes.
pub const QUERY_BYTES_MAX: usize = 4096;

/// Parameters that would put a credential into access logs, histories and `Referer` headers
/// (RFC 9700 section 4.3.2).
const TOKEN_PARAMETERS: [&str; 4] = ["access_token", "id_token", "refresh_token", "txn_token"];

/// Why a query is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QueryError {
    /// Over [`QUERY_BYTES_MAX`].
    #[error("query has {bytes} bytes: at most {QUERY_BYTES_MAX} are allowed")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Outside what RFC 3986 allows; also `;`, which some readers take for `&`.
    #[error("query holds {0:?}, which readers understand differently: encode it")]
    BadCharacter(char),
    /// A `%` without two hexadecimal digits.
    #[error("query has a '%' without two hexadecimal digits")]
    BadEncoding,
    /// The encoded bytes are not UTF-8.
    #[error("query encodes bytes that are not UTF-8")]
    NotText,
    /// An encoded NUL.
    #[error("query encodes a NUL byte")]
    EncodedNul,
    /// A parameter whose value would be a credential, or is one under another name.
    #[error("query carries a token: send it in the Authorization header")]
    Token,
}

/// Checks a query and returns it with hexadecimal digits in upper case.
pub(crate) fn canonical(raw: &str) -> Result<Cow<'_, str>, QueryError> {
    if raw.len() > QUERY_BYTES_MAX {
        return Err(QueryError::TooLong { bytes: raw.len() });
    }
    if QUERY.has_all(raw.as_bytes()) {
        // Nothing is encoded: each name and value decodes to itself.
        return if pairs(raw).any(carries_token) { Err(QueryError::Token) } else { Ok(Cow::Borrowed(raw)) };
    }
    let mut query = String::with_capacity(raw.len());
    for (position, (name, value)) in pairs(raw).enumerate() {
        if position > 0 {
            query.push('&');
        }
        let name = write_canonical(name, &mut query)?;
        let mut decoded = None;
        if let Some(value) = value {
            query.push('=');
            decoded = Some(write_canonical(value, &mut query)?);
        }
        if carries_token((&name, decoded.as_deref())) {
            return Err(QueryError::Token);
        }
    }
    Ok(Cow::Owned(query))
}

/// Names and values, still encoded. A name may stand alone.
fn pairs(query: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let mut rest = Some(query);
    std::iter::from_fn(move || {
        let text = rest?;
        let (pair, others) =
            split_once(text, b'&').map_or((text, None), |(pair, others)| (pair, Some(others)));
        rest = others;
        Some(split_once(pair, b'=').map_or((pair, None), |(name, value)| (name, Some(value))))
    })
}

/// Would this parameter, decoded, put a credential into logs?
fn carries_token((name, value): (&str, Option<&str>)) -> bool {
    TOKEN_PARAMETERS.iter().any(|token| name.eq_ignore_ascii_case(token)) || value.is_some_and(is_token)
}

/// Does it look like a token of any kind of ours? A compact JWS (RFC 7515 section 7.1) or JWE (RFC 7516 section 7.1)
/// begins with an encoded `{"`; a bearer token with its prefix for scanners.
fn is_token(value: &str) -> bool {
    let parts = || value.split('.').count();
    let encoded = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let compact = || matches!(parts(), 3 | 5) && value.chars().all(encoded);
    value.starts_with("csb_") || (value.starts_with("eyJ") && compact())
}

/// Writes a name or a value, and returns what it decodes to.
fn write_canonical(text: &str, query: &mut String) -> Result<String, QueryError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
        if c == '%' {
            let (digits, after) = rest.split_at_checked(2).ok_or(QueryError::BadEncoding)?;
            decoded.push(decode_hex(digits).ok_or(QueryError::BadEncoding)?);
            query.push('%');
            query.push_str(&digits.to_ascii_uppercase());
            rest = after;
        } else if let Some(byte) = u8::try_from(c).ok().filter(|byte| QUERY.has(*byte)) {
            decoded.push(byte);
            query.push(c);
        } else {
            return Err(QueryError::BadCharacter(c));
        }
    }
    if decoded.contains(&0) {
        return Err(QueryError::EncodedNul);
    }
    String::from_utf8(decoded).map_err(|_| QueryError::NotText)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn accepts_ordinary_queries_as_they_are() {
        for query in ["", "near=48.37,14.51", "q=a%20b&q=c+d", "a&b=&=c", "next=/ads?x=1", "a==b"] {
            assert_eq!(canonical(query).unwrap(), query);
        }
        assert_eq!(canonical("q=%c3%a9").unwrap(), "q=%C3%A9");
    }

    #[test]
    fn rejects_a_token_in_whatever_spelling() {
        for query in ["access_token=x", "a=1&ACCESS_TOKEN=x", "access%5Ftoken=x", "id_token"] {
            assert_eq!(canonical(query), Err(QueryError::Token), "{query}");
        }
        assert!(canonical("access_tokens=x&q=access_token").is_ok());
    }

    #[test]
    fn rejects_a_token_under_whatever_name() {
        for value in
            ["eyJhbGciOiJFUzI1NiJ9.e30.c2ln", "eyJ%68bGciOiJub25lIn0.e30.", "eyJh.a.b.c.d", "csb_0123"]
        {
            assert_eq!(canonical(&format!("q=1&x={value}")), Err(QueryError::Token), "{value}");
        }
        for value in
            ["eyJ", "eyJ.a", "a.b.c", "eyJ.a b.c".replace(' ', "%20").as_str(), "eyJa.b.c.d", "CSB_1"]
        {
            assert!(canonical(&format!("x={value}")).is_ok(), "{value}");
        }
    }

    #[test]
    fn rejects_each_way_to_be_wrong_with_its_own_error() {
        for c in [';', '#', '\\', '\0', '\n', ' ', '"', '<', '|', 'é'] {
            assert_eq!(canonical(&format!("a{c}b")), Err(QueryError::BadCharacter(c)));
        }
        for query in ["%", "a=%4", "a=%zz", "%é="] {
            assert_eq!(canonical(query), Err(QueryError::BadEncoding), "{query}");
        }
        assert_eq!(canonical("a=%00"), Err(QueryError::EncodedNul));
        assert_eq!(canonical("a=%FF"), Err(QueryError::NotText));
    }

    #[test]
    fn accepts_a_query_at_the_limit_and_rejects_one_past_it() {
        let longest = "a".repeat(QUERY_BYTES_MAX);
        assert!(canonical(&longest).is_ok());
        assert_eq!(canonical(&format!("{longest}a")), Err(QueryError::TooLong { bytes: 4097 }));
    }
}
