//! Where the body of a message ends (RFC 9112 section 6): the question that smuggling is about.

use countersign_request::{Field, content_length};
use http::Version;
use thiserror::Error;

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none, and nothing said so.
    None,
    /// This many bytes; `Content-Length` said so.
    Exact(u64),
    /// Chunk by chunk until the empty one (RFC 9112 section 7.1).
    Chunked,
    /// Until the connection ends: responses only.
    UntilClose,
}

/// Why it is not certain where a message ends.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FramingError {
    /// More than one `Content-Length`, even if they are equal.
    #[error("message has more than one content-length: send one")]
    SecondLength,
    /// `Content-Length` is not a plain number.
    #[error("content-length is not a plain number")]
    BadLength,
    /// Both `Content-Length` and `Transfer-Encoding` (RFC 9112 section 6.3).
    #[error("message has both content-length and transfer-encoding: send one")]
    TwoKinds,
    /// `Transfer-Encoding` that is not `chunked`, once, and nothing else.
    #[error("transfer-encoding is not exactly chunked: no other is understood")]
    TransferEncoding,
    /// `Transfer-Encoding` in HTTP/1.0, which does not have it.
    #[error("transfer-encoding in a message of HTTP/1.0: use HTTP/1.1")]
    TransferEncodingTooEarly,
    /// A length where there can be no body: 1xx and 204.
    #[error("response states a body that its status does not have")]
    BodyOfNothing,
}

/// What the fields say about length: `None` where they say nothing.
pub(crate) fn stated_length(fields: &[Field<'_>], version: Version) -> Result<BodyLength, FramingError> {
    let mut length = BodyLength::None;
    for field in fields {
        // Names of other lengths, nearly all, are not even compared.
        let stated = match field.name.len() {
            14 if field.name.eq_ignore_ascii_case("content-length") => {
                BodyLength::Exact(content_length(field.value).ok_or(FramingError::BadLength)?)
            }
            17 if field.name.eq_ignore_ascii_case("transfer-encoding") => transfer_encoding(field, version)?,
            _ => continue,
        };
        length = match (length, stated) {
            (BodyLength::None, stated) => stated,
            (BodyLength::Exact(_), BodyLength::Exact(_)) => return Err(FramingError::SecondLength),
            (BodyLength::Chunked, BodyLength::Chunked) => return Err(FramingError::TransferEncoding),
            _ => return Err(FramingError::TwoKinds),
        };
    }
    Ok(length)
}

fn transfer_encoding(field: &Field<'_>, version: Version) -> Result<BodyLength, FramingError> {
    if version != Version::HTTP_11 {
        return Err(FramingError::TransferEncodingTooEarly);
    }
    let is_chunked = field.value.eq_ignore_ascii_case(b"chunked");
    is_chunked.then_some(BodyLength::Chunked).ok_or(FramingError::TransferEncoding)
}
