//! Fields after a body (RFC 9110 section 6.5): bounded, and never mistaken for headers.

use countersign_request::{counts_once, is_hop_by_hop, is_identity_header};
use http::{HeaderMap, HeaderName, HeaderValue};
use thiserror::Error;

use crate::limits::Limits;

/// Why a trailer section is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TrailerError {
    /// A line with a bad name, space before the colon or at its beginning, or a control byte.
    #[error("trailer line is not a name, a colon and a value")]
    Line,
    /// More lines than the limit.
    #[error("body has more than {limit} trailers")]
    TooMany {
        /// Limit.
        limit: usize,
    },
    /// A field that must stand before the body, because it frames, routes or authenticates (RFC 9110 section 6.5.1).
    #[error("trailer {0} means something before the body only: send it as a header")]
    Forbidden(HeaderName),
}

/// What becomes of a field that means something before the body only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forbidden {
    /// It came from a client: whoever sends it wants to fool somebody.
    Refused,
    /// It came from a service.
    Dropped,
}

/// Reads a whole trailer section, its empty line included.
pub(crate) fn read(section: &[u8], forbidden: Forbidden, limits: Limits) -> Result<HeaderMap, TrailerError> {
    let mut trailers = HeaderMap::new();
    let mut slots = [httparse::EMPTY_HEADER; SLOTS];
    let limit = limits.trailer_count_max.min(SLOTS);
    let slots = slots.get_mut(..limit).unwrap_or_default();
    let fields = match httparse::parse_headers(section, slots) {
        Ok(httparse::Status::Complete((length, fields))) if length == section.len() => fields,
        Err(httparse::Error::TooManyHeaders) => return Err(TrailerError::TooMany { limit }),
        _ => return Err(TrailerError::Line),
    };
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| TrailerError::Line)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| TrailerError::Line)?;
        match (is_forbidden_trailer(field.name), forbidden) {
            (false, _) => drop(trailers.append(name, value)),
            (true, Forbidden::Refused) => return Err(TrailerError::Forbidden(name)),
            (true, Forbidden::Dropped) => {}
        }
    }
    Ok(trailers)
}

/// May no trailer have this name, because it would mean something in the head (RFC 9110 section 6.5.1)? In whatever
/// version of HTTP it came.
#[must_use]
pub fn is_forbidden_trailer(name: &str) -> bool {
    is_identity_header(name)
        || is_hop_by_hop(name)
        || counts_once(name)
        || BEFORE_THE_BODY.iter().any(|other| name.eq_ignore_ascii_case(other))
}

/// Besides identity headers, those about one connection and those that count once.
const BEFORE_THE_BODY: [&str; 15] = [
    "age",
    "cache-control",
    "cookie",
    "expires",
    "if-match",
    "if-none-match",
    "location",
    "pragma",
    "retry-after",
    "set-cookie",
    "strict-transport-security",
    "vary",
    "via",
    "warning",
    "www-authenticate",
];

/// Room for trailers; more are never read.
const SLOTS: usize = 64;
