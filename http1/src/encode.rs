//! Heads and chunks into a buffer that is used again and again; nothing here allocates but the buffer.

use countersign_request::{AuthorityRef, CanonicalHead, Field, Head as _};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use thiserror::Error;

use crate::framing::BodyLength;

/// Why a head is not written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// A path or a query with a byte that would end it, such as a space: nothing was written.
    #[error("path or query holds a byte that a request line cannot carry")]
    Target,
}

/// Writes the field lines of a head whose first line stands already.
#[derive(Debug)]
pub struct HeadWriter<'o> {
    out: &'o mut Vec<u8>,
}

/// Begins the head of a request with the method, path, query and authority of `head`.
///
/// # Errors
/// See [`EncodeError`].
pub fn request_head<'o>(
    out: &'o mut Vec<u8>,
    head: &CanonicalHead<'_>,
) -> Result<HeadWriter<'o>, EncodeError> {
    request(out, head.method(), head.path(), head.query(), &head.authority())
}

/// Begins the head of a request: its request line and `Host`.
///
/// # Errors
/// See [`EncodeError`].
pub fn request<'o>(
    out: &'o mut Vec<u8>,
    method: &Method,
    path: &str,
    query: Option<&str>,
    host: &AuthorityRef<'_>,
) -> Result<HeadWriter<'o>, EncodeError> {
    let fits = |text: &str| text.bytes().fold(true, |fits, byte| fits & byte.is_ascii_graphic());
    if !path.starts_with('/') || !fits(path) || !query.is_none_or(fits) {
        return Err(EncodeError::Target);
    }
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(path.as_bytes());
    if let Some(query) = query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(host.host().as_bytes());
    if let Some(port) = host.port() {
        out.push(b':');
        decimal(out, u64::from(port));
    }
    out.extend_from_slice(b"\r\n");
    Ok(HeadWriter { out })
}

/// Begins the head of a response: its status line.
pub fn response(out: &mut Vec<u8>, status: StatusCode) -> HeadWriter<'_> {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    HeadWriter { out }
}

impl HeadWriter<'_> {
    /// Passes on a field that a decoder of this crate gave.
    pub fn copied(&mut self, field: &Field<'_>) {
        self.line(field.name.as_bytes(), field.value);
    }

    /// Adds a field of ours.
    pub fn field(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.line(name.as_str().as_bytes(), value.as_bytes());
    }

    /// Adds every field of a map.
    pub fn fields(&mut self, fields: &HeaderMap) {
        fields.iter().for_each(|(name, value)| self.field(name, value));
    }

    /// Adds field lines that were written once, for use with every message.
    pub fn prepared(&mut self, lines: &FieldLines) {
        self.out.extend_from_slice(&lines.0);
    }

    /// States the length of the body and ends the head. `None` and `UntilClose` need no words.
    pub fn finish(self, body: BodyLength) {
        match body {
            BodyLength::None | BodyLength::UntilClose => {}
            BodyLength::Exact(bytes) => {
                self.out.extend_from_slice(b"content-length: ");
                decimal(self.out, bytes);
                self.out.extend_from_slice(b"\r\n");
            }
            BodyLength::Chunked => self.out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        }
        self.out.extend_from_slice(b"\r\n");
    }

    fn line(&mut self, name: &[u8], value: &[u8]) {
        self.out.reserve(name.len().saturating_add(value.len()).saturating_add(4));
        self.out.extend_from_slice(name);
        self.out.extend_from_slice(b": ");
        self.out.extend_from_slice(value);
        self.out.extend_from_slice(b"\r\n");
    }
}

/// Field lines that are the same in many messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldLines(Vec<u8>);

impl FieldLines {
    /// Writes them once.
    #[must_use]
    pub fn new(fields: &HeaderMap) -> Self {
        let mut lines = Vec::new();
        HeadWriter { out: &mut lines }.fields(fields);
        Self(lines)
    }
}

/// Writes one chunk. Data of no bytes writes nothing, because an empty chunk would end the body.
pub fn chunk(out: &mut Vec<u8>, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    chunk_start(out, data.len());
    out.extend_from_slice(data);
    out.extend_from_slice(CHUNK_END);
}

/// Writes the line before a chunk of so many bytes, at least one; [`CHUNK_END`] follows the data.
pub fn chunk_start(out: &mut Vec<u8>, bytes: usize) {
    let digits = usize::BITS.saturating_sub(bytes.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        let digit = u32::try_from((bytes >> (place * 4)) & 0xf).unwrap_or_default();
        out.extend(char::from_digit(digit, 16).map(|digit| digit as u8));
    }
    out.extend_from_slice(b"\r\n");
}

/// Ends a chunked body, with these trailers.
pub fn last_chunk(out: &mut Vec<u8>, trailers: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    HeadWriter { out }.fields(trailers);
    out.extend_from_slice(b"\r\n");
}

/// What follows the data of a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";
/// The whole answer to a client that waits before it sends a body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

fn decimal(out: &mut Vec<u8>, number: u64) {
    let mut digits = [b'0'; 20];
    let (mut left, mut written) = (number, 0);
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(left % 10).unwrap_or_default();
        written += 1;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - written..).unwrap_or_default());
}
