//! Heads of responses, as a client reads them.

use countersign_request::{CONNECTION_NAMES_MAX, Field, HEADER_COUNT_MAX, is_hop_by_hop};
use http::{Method, StatusCode, Version};
use thiserror::Error;

use crate::framing::{BodyLength, FramingError, stated_length};
use crate::head_end::{HeadBytesError, HeadEnd};
use crate::limits::{Limits, Slots};

/// What the response is to, as far as its framing depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `HEAD`: the response has no body, whatever it states.
    pub head: bool,
    /// The request asked to change the protocol, so that `101` may come.
    pub upgrade: bool,
}

impl Asked {
    /// What a request with this method asked.
    #[must_use]
    pub fn by(method: &Method) -> Self {
        Self { head: method == Method::HEAD, upgrade: false }
    }
}

/// Reads the heads of responses, one after the other, from the beginning of a buffer.
#[derive(Clone, Debug)]
pub struct ResponseDecoder {
    limits: Limits,
    end: HeadEnd,
}

/// A head that can be read in exactly one way.
#[derive(Clone, Debug)]
pub struct ResponseHead<'a> {
    /// 100 to 599. After 1xx but 101 another head follows; after 101 the connection speaks something else.
    pub status: StatusCode,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// Every header line as it came.
    pub fields: &'a [Field<'a>],
    /// Where its body ends.
    pub body: BodyLength,
    /// What it states about length, also where no body follows: to `HEAD`, and in a 304.
    pub stated: BodyLength,
    /// How many bytes of the buffer it took; the body follows.
    pub bytes: usize,
    /// May the connection be used for another request once the body has ended?
    pub keep_alive: bool,
    /// One bit for each field that ends here.
    ends_here: u128,
}

/// Why a head is refused. The connection is of no use afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ResponseHeadError {
    /// See [`HeadBytesError`].
    #[error(transparent)]
    Bytes(#[from] HeadBytesError),
    /// Not a version, a status and a reason.
    #[error("status line is not a version, a status and a reason")]
    StatusLine,
    /// Not HTTP/1.0 or HTTP/1.1.
    #[error("version of HTTP is neither 1.0 nor 1.1")]
    Version,
    /// Not from 100 to 599.
    #[error("status {0} is not from 100 to 599")]
    Status(u16),
    /// The protocol changes, and nobody asked.
    #[error("response changes the protocol unasked")]
    UnaskedUpgrade,
    /// A header line with a bad name, space before the colon or at its beginning, or a control byte.
    #[error("header line is not a name, a colon and a value")]
    HeaderLine,
    /// More header lines than the limit.
    #[error("response has more than {limit} headers")]
    TooManyHeaders {
        /// Limit.
        limit: usize,
    },
    /// `Connection` lists more names than [`CONNECTION_NAMES_MAX`].
    #[error("connection lists {names} names: at most {CONNECTION_NAMES_MAX} are allowed")]
    TooManyListed {
        /// How many there are.
        names: usize,
    },
    /// See [`FramingError`].
    #[error(transparent)]
    Framing(#[from] FramingError),
}

impl ResponseDecoder {
    /// For one connection.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, end: HeadEnd::default() }
    }

    /// The head that `buffer` begins with, or `None` as long as it is not all there: then call again with the same bytes
    /// and more.
    ///
    /// # Errors
    /// See [`ResponseHeadError`].
    pub fn decode<'a, 'b: 'a>(
        &mut self,
        buffer: &'b [u8],
        slots: &'a mut Slots<'b>,
        asked: Asked,
    ) -> Result<Option<ResponseHead<'a>>, ResponseHeadError> {
        let Some(length) = self.end.find(buffer, self.limits.head_bytes_max)? else { return Ok(None) };
        let bytes = buffer.get(..length).unwrap_or(buffer);
        read(bytes, slots, self.limits.header_count_max, asked).map(Some)
    }
}

impl<'a> ResponseHead<'a> {
    /// Is this an answer before the answer, 1xx but 101?
    #[must_use]
    pub fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }

    /// The header lines that go on to the client: none about this connection (those that `Connection` lists included), and
    /// no `Content-Length`, which whoever writes the next response states himself.
    pub fn onward(&self) -> impl Iterator<Item = &'a Field<'a>> + use<'a> {
        let mut ends_here = self.ends_here;
        self.fields.iter().filter(move |_| {
            let goes_on = ends_here & 1 == 0;
            ends_here >>= 1;
            goes_on
        })
    }
}

fn read<'a, 'b: 'a>(
    bytes: &'b [u8],
    slots: &'a mut Slots<'b>,
    header_count_max: usize,
    asked: Asked,
) -> Result<ResponseHead<'a>, ResponseHeadError> {
    // The parser would skip any number of empty lines.
    if bytes.starts_with(b"\r") {
        return Err(ResponseHeadError::StatusLine);
    }
    let mut line = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut line, bytes, slots.at_most(header_count_max)) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(ResponseHeadError::HeaderLine),
        Err(why) => return Err(fault(why, header_count_max)),
    }
    let (Some(code), Some(minor)) = (line.code, line.version) else {
        return Err(ResponseHeadError::StatusLine);
    };
    let fields: &'a [Field<'a>] = line.headers;
    let version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let status = StatusCode::from_u16(code).ok().filter(|status| status.as_u16() < 600);
    let status = status.ok_or(ResponseHeadError::Status(code))?;
    if status == StatusCode::SWITCHING_PROTOCOLS && !asked.upgrade {
        return Err(ResponseHeadError::UnaskedUpgrade);
    }
    let stated = stated_length(fields, version)?;
    let body = body_length(status, stated, asked)?;
    let connection = Connection::read(fields)?;
    let kept = !connection.close && (version == Version::HTTP_11 || connection.keep_alive);
    Ok(ResponseHead {
        status,
        version,
        fields,
        body,
        stated,
        bytes: bytes.len(),
        keep_alive: kept && body != BodyLength::UntilClose,
        ends_here: connection.ends_here,
    })
}

fn fault(why: httparse::Error, limit: usize) -> ResponseHeadError {
    match why {
        httparse::Error::TooManyHeaders => ResponseHeadError::TooManyHeaders { limit },
        httparse::Error::Version => ResponseHeadError::Version,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => ResponseHeadError::HeaderLine,
        _ => ResponseHeadError::StatusLine,
    }
}

/// RFC 9112 section 6.3.
fn body_length(status: StatusCode, stated: BodyLength, asked: Asked) -> Result<BodyLength, FramingError> {
    let has_none = status.is_informational() || status == StatusCode::NO_CONTENT;
    match stated {
        // Some servers state a length of nothing, which harms nobody.
        BodyLength::None | BodyLength::Exact(0) if has_none => Ok(BodyLength::None),
        _ if has_none => Err(FramingError::BodyOfNothing),
        _ if asked.head || status == StatusCode::NOT_MODIFIED => Ok(BodyLength::None),
        BodyLength::None => Ok(BodyLength::UntilClose),
        stated => Ok(stated),
    }
}

/// What a response says about its connection.
#[derive(Default)]
struct Connection {
    close: bool,
    keep_alive: bool,
    ends_here: u128,
}

impl Connection {
    fn read(fields: &[Field<'_>]) -> Result<Self, ResponseHeadError> {
        const { assert!(HEADER_COUNT_MAX <= 128) };
        let (mut connection, mut names) = (Self::default(), 0);
        for (place, field) in fields.iter().enumerate() {
            let ends = is_hop_by_hop(field.name) || field.name.eq_ignore_ascii_case("content-length");
            connection.ends_here |= u128::from(ends) << place;
            if ends && field.name.eq_ignore_ascii_case("connection") {
                for name in field.value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    names += 1;
                    if names <= CONNECTION_NAMES_MAX {
                        connection.list(name, fields);
                    }
                }
            }
        }
        if names > CONNECTION_NAMES_MAX {
            return Err(ResponseHeadError::TooManyListed { names });
        }
        Ok(connection)
    }

    /// An option, or the name of fields that end here.
    fn list(&mut self, name: &[u8], fields: &[Field<'_>]) {
        self.close |= name.eq_ignore_ascii_case(b"close");
        self.keep_alive |= name.eq_ignore_ascii_case(b"keep-alive");
        for (place, field) in fields.iter().enumerate() {
            self.ends_here |= u128::from(field.name.as_bytes().eq_ignore_ascii_case(name)) << place;
        }
    }
}
