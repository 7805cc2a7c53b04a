//! Bodies: which bytes of the buffer they are.

use http::HeaderMap;
use thiserror::Error;

use crate::framing::BodyLength;
use crate::head_end::{HeadBytesError, HeadEnd};
use crate::limits::Limits;
use crate::trailers::{self, Forbidden, TrailerError};

/// Reads one body.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    state: State,
    limits: Limits,
    forbidden: Forbidden,
    extension_bytes: usize,
    trailers: HeaderMap,
}

/// What a call of [`BodyDecoder::decode`] made of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyStep<'b> {
    /// How many bytes of the buffer are done with; the next call begins after them.
    pub consumed: usize,
    /// What they were.
    pub event: BodyEvent<'b>,
}

/// What comes next in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEvent<'b> {
    /// Bytes of the body, at least one.
    Data(&'b [u8]),
    /// What is left of the buffer says nothing yet: read more.
    More,
    /// It has ended; what is left of the buffer is the next message.
    End,
}

/// Why a body is refused. The connection is of no use afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BodyError {
    /// The size of a chunk is not one to sixteen hexadecimal digits, or something other than extensions follows it.
    #[error("chunk size is not hexadecimal digits and nothing else")]
    ChunkSize,
    /// A line with a chunk size that is longer than the limit.
    #[error("line with a chunk size has more than {limit} bytes")]
    ChunkLineTooLong {
        /// Limit in bytes.
        limit: usize,
    },
    /// Chunk extensions over the limit.
    #[error("chunk extensions have more than {limit} bytes together: leave them out")]
    ExtensionsTooLong {
        /// Limit in bytes.
        limit: usize,
    },
    /// Not `;name`, `;name=value` or `;name="value"` (RFC 9112 section 7.1.1).
    #[error("chunk extension is not a name, or a name and a value")]
    Extension,
    /// A chunk is longer than its size.
    #[error("chunk does not end where its size says")]
    ChunkEnd,
    /// A line with a chunk size or a trailer ends with LF alone, or there are too many bytes of trailers.
    #[error("lines around chunks: {0}")]
    Lines(#[from] HeadBytesError),
    /// See [`TrailerError`].
    #[error(transparent)]
    Trailer(#[from] TrailerError),
    /// The connection ended first.
    #[error("connection ended before the body")]
    Truncated,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Exact { left: u64 },
    ChunkSize,
    ChunkData { left: u64 },
    ChunkEnd,
    Trailers(HeadEnd),
    UntilClose,
    Done,
}

impl BodyDecoder {
    /// Of a request.
    #[must_use]
    pub fn of_request(length: BodyLength, limits: Limits) -> Self {
        Self::new(length, limits, Forbidden::Refused)
    }

    /// Of a response.
    #[must_use]
    pub fn of_response(length: BodyLength, limits: Limits) -> Self {
        Self::new(length, limits, Forbidden::Dropped)
    }

    fn new(length: BodyLength, limits: Limits, forbidden: Forbidden) -> Self {
        let state = match length {
            BodyLength::None | BodyLength::Exact(0) => State::Done,
            BodyLength::Exact(left) => State::Exact { left },
            BodyLength::Chunked => State::ChunkSize,
            BodyLength::UntilClose => State::UntilClose,
        };
        Self { state, limits, forbidden, extension_bytes: 0, trailers: HeaderMap::new() }
    }

    /// The next event of a buffer that begins where the last step ended.
    ///
    /// # Errors
    /// See [`BodyError`].
    pub fn decode<'b>(&mut self, buffer: &'b [u8]) -> Result<BodyStep<'b>, BodyError> {
        let mut consumed: usize = 0;
        loop {
            let rest = buffer.get(consumed..).unwrap_or_default();
            let (done, event) = self.step(rest)?;
            consumed = consumed.saturating_add(done);
            if let Some(event) = event {
                return Ok(BodyStep { consumed, event });
            }
        }
    }

    /// Has it ended?
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// The connection ended: was that the end of the body?
    ///
    /// # Errors
    /// [`BodyError::Truncated`].
    pub const fn end_of_input(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::UntilClose | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BodyError::Truncated),
        }
    }

    /// The fields after the body that may go on, once it has ended. They are no headers, and never become some.
    #[must_use]
    pub const fn trailers(&self) -> &HeaderMap {
        &self.trailers
    }

    /// How much of `rest` is done with, and what it was, unless it was only structure.
    fn step<'b>(&mut self, rest: &'b [u8]) -> Result<(usize, Option<BodyEvent<'b>>), BodyError> {
        let more = (0, Some(BodyEvent::More));
        match &mut self.state {
            State::Done => Ok((0, Some(BodyEvent::End))),
            _ if rest.is_empty() => Ok(more),
            State::UntilClose => Ok((rest.len(), Some(BodyEvent::Data(rest)))),
            State::Exact { left } => {
                let data = at_most(rest, *left);
                *left = left.saturating_sub(data.len() as u64);
                if *left == 0 {
                    self.state = State::Done;
                }
                Ok((data.len(), Some(BodyEvent::Data(data))))
            }
            State::ChunkData { left } => {
                let data = at_most(rest, *left);
                *left = left.saturating_sub(data.len() as u64);
                if *left == 0 {
                    self.state = State::ChunkEnd;
                }
                Ok((data.len(), Some(BodyEvent::Data(data))))
            }
            State::ChunkSize => Ok(self.chunk_size(rest)?.map_or(more, |done| (done, None))),
            State::ChunkEnd => match rest {
                [b'\r', b'\n', ..] => {
                    self.state = State::ChunkSize;
                    Ok((2, None))
                }
                [b'\r'] => Ok(more),
                _ => Err(BodyError::ChunkEnd),
            },
            State::Trailers(end) => {
                let Some(length) = end.find(rest, self.limits.trailer_bytes_max)? else { return Ok(more) };
                // Nearly always only the empty line.
                if length > 2 {
                    let section = rest.get(..length).unwrap_or(rest);
                    self.trailers = trailers::read(section, self.forbidden, self.limits)?;
                }
                self.state = State::Done;
                Ok((length, None))
            }
        }
    }

    /// Reads the line before a chunk, if it is all there, and says how long it is.
    fn chunk_size(&mut self, rest: &[u8]) -> Result<Option<usize>, BodyError> {
        let limit = self.limits.chunk_line_bytes_max;
        let looked_at = rest.get(..limit).unwrap_or(rest);
        let Some(end) = memchr::memchr(b'\n', looked_at) else {
            let is_too_long = rest.len() >= limit;
            return if is_too_long { Err(BodyError::ChunkLineTooLong { limit }) } else { Ok(None) };
        };
        let line = looked_at.get(..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").ok_or(HeadBytesError::BareLineFeed)?;
        let size = self.read_chunk_line(line)?;
        self.state =
            if size == 0 { State::Trailers(HeadEnd::default()) } else { State::ChunkData { left: size } };
        Ok(Some(end.saturating_add(1)))
    }

    fn read_chunk_line(&mut self, line: &[u8]) -> Result<u64, BodyError> {
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let (digits, extensions) = line.split_at_checked(digits).ok_or(BodyError::ChunkSize)?;
        if !extensions.is_empty() {
            self.check_extensions(extensions)?;
        }
        if digits.is_empty() || digits.len() > CHUNK_SIZE_DIGITS_MAX {
            return Err(BodyError::ChunkSize);
        }
        let value = |digit: &u8| char::from(*digit).to_digit(16).map_or(0, u64::from);
        Ok(digits.iter().fold(0, |size, digit| (size << 4) | value(digit)))
    }

    /// Extensions mean nothing to us and are not passed on; what they hold must still be one line for everybody.
    fn check_extensions(&mut self, extensions: &[u8]) -> Result<(), BodyError> {
        if !extensions.starts_with(b";") {
            return Err(BodyError::ChunkSize);
        }
        if !are_extensions(extensions) {
            return Err(BodyError::Extension);
        }
        self.extension_bytes = self.extension_bytes.saturating_add(extensions.len());
        let limit = self.limits.chunk_extension_bytes_max;
        if self.extension_bytes > limit {
            return Err(BodyError::ExtensionsTooLong { limit });
        }
        Ok(())
    }
}

/// Any number of `;name`, `;name=value` and `;name="value"`, without the spaces that nobody may send any more.
fn are_extensions(mut rest: &[u8]) -> bool {
    while let [b';', after @ ..] = rest {
        let Some(after) = after_token(after) else { return false };
        rest = match after {
            [b'=', b'"', quoted @ ..] => match after_quoted(quoted) {
                Some(after) => after,
                None => return false,
            },
            [b'=', value @ ..] => match after_token(value) {
                Some(after) => after,
                None => return false,
            },
            after => after,
        };
    }
    rest.is_empty()
}

/// What follows a token of at least one character (RFC 9110 section 5.6.2).
fn after_token(text: &[u8]) -> Option<&[u8]> {
    let is_token = |b: &&u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let (token, rest) = text.split_at_checked(text.iter().take_while(is_token).count())?;
    (!token.is_empty()).then_some(rest)
}

/// What follows the quotation mark that ends a quoted string (RFC 9110 section 5.6.4).
fn after_quoted(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        text = match text {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', b'\t' | b' '..=b'~', rest @ ..] | [b'\t' | b' '..=b'[' | b']'..=b'~', rest @ ..] => rest,
            _ => return None,
        }
    }
}

fn at_most(bytes: &[u8], limit: u64) -> &[u8] {
    usize::try_from(limit).ok().and_then(|limit| bytes.get(..limit)).unwrap_or(bytes)
}

/// Sixteen digits are 64 bits.
const CHUNK_SIZE_DIGITS_MAX: usize = 16;
