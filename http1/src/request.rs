//! Heads of requests, as a server reads them.

use countersign_request::{CanonicalHead, Field, RequestError};
use http::Version;
use thiserror::Error;

use crate::framing::{BodyLength, FramingError, stated_length};
use crate::head_end::{HeadBytesError, HeadEnd};
use crate::limits::{Limits, Slots};

/// Reads the heads of requests, one after the other, from the beginning of a buffer.
#[derive(Clone, Debug)]
pub struct RequestDecoder {
    limits: Limits,
    end: HeadEnd,
}

/// A head that can be read in exactly one way.
#[derive(Clone, Debug)]
pub struct RequestHead<'a> {
    /// Method, authority, path, query and fields.
    pub canonical: CanonicalHead<'a>,
    /// The target as it was sent.
    pub target: &'a str,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// Where its body ends: never `UntilClose`.
    pub body: BodyLength,
    /// How many bytes of the buffer it took; the body follows.
    pub bytes: usize,
    /// Does the client offer the connection for another request?
    pub keep_alive: bool,
    /// Does it wait for `100 Continue` before it sends the body?
    pub expects_continue: bool,
    /// What it asks to change to, such as `websocket` (RFC 9110 section 7.8).
    pub upgrade: Option<&'a [u8]>,
}

/// Why a head is refused. The answer is 400, and the connection ends with it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestHeadError {
    /// See [`HeadBytesError`].
    #[error(transparent)]
    Bytes(#[from] HeadBytesError),
    /// More than one empty line before the request line.
    #[error("empty lines before the request")]
    EmptyLines,
    /// Not a method, a target and a version with one space between them.
    #[error("request line is not a method, a target and a version")]
    RequestLine,
    /// Not HTTP/1.0 or HTTP/1.1.
    #[error("version of HTTP is neither 1.0 nor 1.1")]
    Version,
    /// A header line with a bad name, space before the colon or at its beginning, or a control byte.
    #[error("header line is not a name, a colon and a value")]
    HeaderLine,
    /// More header lines than the limit.
    #[error("request has more than {limit} headers")]
    TooManyHeaders {
        /// Limit.
        limit: usize,
    },
    /// HTTP/1.1 demands a `Host` header, even beside a target in absolute form (RFC 9112 section 3.2).
    #[error("request has no Host header: send one")]
    NoHost,
    /// `Expect` with anything but `100-continue`.
    #[error("request expects something other than 100-continue")]
    Expectation,
    /// See [`FramingError`].
    #[error(transparent)]
    Framing(#[from] FramingError),
    /// See [`RequestError`].
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl RequestDecoder {
    /// For one connection.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, end: HeadEnd::default() }
    }

    /// The head that `buffer` begins with, or `None` as long as it is not all there: then call again with the same bytes
    /// and more.
    ///
    /// # Errors
    /// See [`RequestHeadError`].
    pub fn decode<'a, 'b: 'a>(
        &mut self,
        buffer: &'b [u8],
        slots: &'a mut Slots<'b>,
    ) -> Result<Option<RequestHead<'a>>, RequestHeadError> {
        // Half of the empty line that may come first: where the head begins is not known yet.
        if buffer == b"\r" {
            return Ok(None);
        }
        let (skipped, bytes) = without_empty_line(buffer);
        let Some(length) = self.end.find(bytes, self.limits.head_bytes_max)? else { return Ok(None) };
        let bytes = bytes.get(..length).unwrap_or(bytes);
        read(bytes, skipped, slots, self.limits.header_count_max).map(Some)
    }
}

/// One empty line before a request is ignored (RFC 9112 section 2.2): some clients end a body with it.
fn without_empty_line(buffer: &[u8]) -> (usize, &[u8]) {
    buffer.strip_prefix(b"\r\n").map_or((0, buffer), |rest| (2, rest))
}

fn read<'a, 'b: 'a>(
    bytes: &'b [u8],
    skipped: usize,
    slots: &'a mut Slots<'b>,
    header_count_max: usize,
) -> Result<RequestHead<'a>, RequestHeadError> {
    // The parser would skip any number of empty lines.
    if bytes.starts_with(b"\r") {
        return Err(RequestHeadError::EmptyLines);
    }
    let mut line = httparse::Request::new(&mut []);
    match line.parse_with_uninit_headers(bytes, slots.at_most(header_count_max)) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(RequestHeadError::HeaderLine),
        Err(why) => return Err(fault(why, header_count_max)),
    }
    let (Some(method), Some(target), Some(minor)) = (line.method, line.path, line.version) else {
        return Err(RequestHeadError::RequestLine);
    };
    let fields: &'a [Field<'a>] = line.headers;
    let version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let canonical = CanonicalHead::read(method, target, version, fields)?;
    let body = stated_length(fields, version)?;
    let connection = Connection::read(fields, version)?;
    Ok(RequestHead {
        canonical,
        target,
        version,
        body,
        bytes: bytes.len().saturating_add(skipped),
        keep_alive: connection.keep_alive,
        expects_continue: connection.expects_continue,
        upgrade: connection.upgrade,
    })
}

fn fault(why: httparse::Error, limit: usize) -> RequestHeadError {
    match why {
        httparse::Error::TooManyHeaders => RequestHeadError::TooManyHeaders { limit },
        httparse::Error::Version => RequestHeadError::Version,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => RequestHeadError::HeaderLine,
        _ => RequestHeadError::RequestLine,
    }
}

/// What a request says about its connection.
struct Connection<'a> {
    keep_alive: bool,
    expects_continue: bool,
    upgrade: Option<&'a [u8]>,
}

impl<'a> Connection<'a> {
    fn read(fields: &'a [Field<'a>], version: Version) -> Result<Self, RequestHeadError> {
        let is_new = version == Version::HTTP_11;
        let (mut host, mut close, mut keep, mut upgrades) = (false, false, false, false);
        let (mut expects_continue, mut upgrade) = (false, None);
        for field in fields {
            let is = |name| field.name.eq_ignore_ascii_case(name);
            match field.name.len() {
                4 if is("host") => host = true,
                6 if is("expect") => {
                    expects_continue = field.value.eq_ignore_ascii_case(b"100-continue");
                    if !expects_continue {
                        return Err(RequestHeadError::Expectation);
                    }
                }
                7 if is("upgrade") => upgrade = Some(field.value),
                10 if is("connection") => {
                    for option in field.value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                        close |= option.eq_ignore_ascii_case(b"close");
                        keep |= option.eq_ignore_ascii_case(b"keep-alive");
                        upgrades |= option.eq_ignore_ascii_case(b"upgrade");
                    }
                }
                _ => {}
            }
        }
        if is_new && !host {
            return Err(RequestHeadError::NoHost);
        }
        Ok(Self {
            keep_alive: !close && (is_new || keep),
            expects_continue: expects_continue && is_new,
            upgrade: upgrade.filter(|_| upgrades && is_new),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use countersign_request::Head as _;

    use super::*;

    /// What comes of a head that arrives in these pieces, and how many bytes it took.
    fn decoded(pieces: &[&[u8]]) -> Result<Option<(String, usize)>, RequestHeadError> {
        let whole = pieces.concat();
        let mut decoder = RequestDecoder::new(Limits { head_bytes_max: 48, ..Limits::default() });
        let mut there = 0;
        for piece in pieces {
            there += piece.len();
            let mut slots = Slots::default();
            if let Some(head) = decoder.decode(&whole[..there], &mut slots)? {
                return Ok(Some((format!("{} {}", head.canonical.method(), head.target), head.bytes)));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_head_means_the_same_wherever_its_bytes_are_cut() {
        let heads: [&[u8]; 12] = [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\nnext",
            b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\r\n\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\r\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\rGET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\n\n",
            b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nA: long enough to be beyond the limit\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
        ];
        for head in heads {
            let at_once = decoded(&[head]);
            for cut in 0..head.len() {
                let (first, second) = head.split_at(cut);
                assert_eq!(
                    decoded(&[first, second]),
                    at_once,
                    "{:?} cut at {cut}",
                    head.escape_ascii().to_string()
                );
            }
            let bytes: Vec<&[u8]> = head.chunks(1).collect();
            assert_eq!(decoded(&bytes), at_once, "{:?} byte by byte", head.escape_ascii().to_string());
        }
        assert_eq!(decoded(&[b"\r\n\nGET /"]), Err(HeadBytesError::BareLineFeed.into()));
    }
}
