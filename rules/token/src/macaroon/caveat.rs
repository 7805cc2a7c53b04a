//! The language of our caveats: one predicate each, `name = value`, and whatever is not in this file denies.
//!
//! | caveat | holds when |
//! |---|---|
//! | `aud = <SPIFFE ID>` | the callee is exactly this |
//! | `method = GET` | the method is exactly this |
//! | `path = /ads/7` | the canonical path is exactly this |
//! | `path-under = /ads/` | the canonical path begins with this, which ends in a slash |
//! | `query-sha256 = <base64url>` | the query without its `?` has this SHA-256; no query is the empty one |
//! | `body-sha256 = <base64url>` | the body was read whole and has this SHA-256 |
//! | `before = <seconds since 1970>` | it is earlier than that, without leniency |
//! | `caller = <SPIFFE ID>` | another, stronger proof showed that this workload calls |
//! | `user = <user id>` | the request carries this verified user |
//!
//! Each can only take away: a predicate sees the request and never the other caveats, all of them have to hold, and none says "or".

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{SpiffeId, UnixTime};
use countersign_keys::sha256;

use crate::jws::printable;

/// What a caveat demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predicate<'a> {
    /// `aud`: SPIFFE ID of the callee.
    Audience(&'a str),
    /// `method`
    Method(&'a str),
    /// `path`: the whole canonical path, without the query.
    Path(&'a str),
    /// `path-under`: how the canonical path begins, up to a slash.
    PathUnder(&'a str),
    /// `query-sha256`
    Query([u8; 32]),
    /// `body-sha256`
    Body([u8; 32]),
    /// `before`: the first second that is too late.
    Before(UnixTime),
    /// `caller`: SPIFFE ID of the workload that shows the macaroon.
    Caller(&'a str),
    /// `user`: opaque id.
    User(&'a str),
}

/// The request that a macaroon came with: facts, each of them verified elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    /// Who judges.
    pub callee: &'a SpiffeId,
    /// The method, as in the canonical request.
    pub method: &'a str,
    /// The canonical path.
    pub path: &'a str,
    /// The canonical query without its `?`.
    pub query: Option<&'a str>,
    /// SHA-256 of the body; `None` when it was not read whole.
    pub body: Option<[u8; 32]>,
    /// The workload that proved itself by something other than this macaroon.
    pub caller: Option<&'a SpiffeId>,
    /// Id of the verified user.
    pub user: Option<&'a str>,
    /// The time.
    pub now: UnixTime,
}

impl<'a> Predicate<'a> {
    /// Reads a caveat. Its one form is `name = value`, with a single space on either side.
    ///
    /// # Errors
    /// A name that is not in the table above, or a value that such a caveat cannot have.
    pub fn parse(caveat: &'a [u8]) -> Result<Self, PredicateError> {
        let unknown = || PredicateError::Unknown { caveat: printable(&String::from_utf8_lossy(caveat)) };
        // No name has a space in it, so the first one stands before the equals sign.
        let space = caveat.iter().position(|byte| *byte == b' ').ok_or_else(unknown)?;
        let (name, rest) = caveat.split_at(space);
        let value = rest.strip_prefix(b" = ").ok_or_else(unknown)?;
        let read: fn(&'a str) -> Option<Self> = match name {
            b"aud" => |id| Some(Self::Audience(id)),
            b"method" => |method| Some(Self::Method(method)),
            b"path" => |path| path.starts_with('/').then_some(Self::Path(path)),
            b"path-under" => {
                |path| (path.starts_with('/') && path.ends_with('/')).then_some(Self::PathUnder(path))
            }
            b"query-sha256" => |text| digest(text).map(Self::Query),
            b"body-sha256" => |text| digest(text).map(Self::Body),
            b"before" => |text| seconds(text).map(Self::Before),
            b"caller" => |id| Some(Self::Caller(id)),
            b"user" => |id| Some(Self::User(id)),
            _ => return Err(unknown()),
        };
        let bad = || PredicateError::BadValue { name: printable(&String::from_utf8_lossy(name)) };
        // Looks at every byte, which is quicker than stopping at the first bad one.
        let plain =
            value.iter().fold(!value.is_empty(), |plain, byte| plain & (*byte > b' ') & (*byte != 0x7f));
        let value = std::str::from_utf8(value).map_err(|_| PredicateError::NotText)?;
        read(value).filter(|_| plain).ok_or_else(bad)
    }

    /// Does it hold for this request?
    ///
    /// # Errors
    /// It does not, or what it asks about is not known.
    pub fn judge(&self, facts: &RequestFacts<'_>) -> Result<(), PredicateError> {
        let refuse = |name, want: &str| Err(PredicateError::Unmet { name, want: printable(want) });
        match *self {
            Self::Audience(want) if want == facts.callee.as_str() => Ok(()),
            Self::Audience(want) => refuse("aud", want),
            Self::Method(want) if want == facts.method => Ok(()),
            Self::Method(want) => refuse("method", want),
            Self::Path(want) if want == facts.path => Ok(()),
            Self::Path(want) => refuse("path", want),
            Self::PathUnder(want) if facts.path.starts_with(want) => Ok(()),
            Self::PathUnder(want) => refuse("path-under", want),
            Self::Query(want) if want == query_digest(facts.query) => Ok(()),
            Self::Query(_) => Err(PredicateError::OtherQuery),
            Self::Body(want) => match facts.body {
                Some(body) if body == want => Ok(()),
                Some(_) => Err(PredicateError::OtherBody),
                None => Err(PredicateError::BodyNotRead),
            },
            Self::Before(end) if facts.now < end => Ok(()),
            Self::Before(end) => Err(PredicateError::TooLate { by_seconds: facts.now.since(end).as_secs() }),
            Self::Caller(want) if facts.caller.is_some_and(|caller| caller.as_str() == want) => Ok(()),
            Self::Caller(want) => refuse("caller", want),
            Self::User(want) if facts.user == Some(want) => Ok(()),
            Self::User(want) => refuse("user", want),
        }
    }
}

/// What `query-sha256` covers. A query that is absent and one that is empty ask the same.
#[must_use]
pub fn query_digest(query: Option<&str>) -> [u8; 32] {
    sha256(query.unwrap_or_default().as_bytes())
}

/// As the caveat is written.
impl fmt::Display for Predicate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Audience(id) => write!(f, "aud = {id}"),
            Self::Method(method) => write!(f, "method = {method}"),
            Self::Path(path) => write!(f, "path = {path}"),
            Self::PathUnder(path) => write!(f, "path-under = {path}"),
            Self::Query(digest) => write!(f, "query-sha256 = {}", URL_SAFE_NO_PAD.encode(digest)),
            Self::Body(digest) => write!(f, "body-sha256 = {}", URL_SAFE_NO_PAD.encode(digest)),
            Self::Before(end) => write!(f, "before = {}", end.secs()),
            Self::Caller(id) => write!(f, "caller = {id}"),
            Self::User(id) => write!(f, "user = {id}"),
        }
    }
}

fn digest(text: &str) -> Option<[u8; 32]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

/// Digits alone, without a sign or a leading zero.
fn seconds(text: &str) -> Option<UnixTime> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    let seconds = text.parse().ok().filter(|seconds| digits && *seconds <= SECONDS_MAX)?;
    Some(UnixTime::from_secs(seconds))
}

/// Why a caveat does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PredicateError {
    /// Not in the language. What we do not understand might forbid anything.
    #[error("the caveat {caveat:?} is not known here, and so it denies")]
    Unknown {
        /// What it says, as far as it can be printed.
        caveat: String,
    },
    /// The value is not UTF-8.
    #[error("a caveat is not text, and so it denies")]
    NotText,
    /// A known name, a value that it cannot have.
    #[error("the value of {name} in the macaroon is malformed, and so it denies")]
    BadValue {
        /// Which caveat.
        name: String,
    },
    /// The request is another one than the caveat allows.
    #[error("the macaroon is only good for {name} = {want:?}")]
    Unmet {
        /// Which caveat.
        name: &'static str,
        /// What it allows.
        want: String,
    },
    /// The query has another hash.
    #[error("the macaroon is only good for another query")]
    OtherQuery,
    /// The body has another hash.
    #[error("the macaroon is only good for another body")]
    OtherBody,
    /// The body is a stream or too long to be read first.
    #[error("the macaroon is bound to a body, and this one was not read whole; send a shorter one")]
    BodyNotRead,
    /// Over.
    #[error("the macaroon was good until {by_seconds} s ago; narrow a fresh one for each request")]
    TooLate {
        /// How long ago.
        by_seconds: u64,
    },
}

/// The end of the year 9999: beyond it a time is a mistake.
const SECONDS_MAX: i64 = 253_402_300_799;
