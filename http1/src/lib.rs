//! HTTP/1.1 as a proxy needs it: bytes in, events out, no sockets (RFC 9112).
//!
//! The bytes of a connection stand in one buffer of the caller. [`RequestDecoder`] and [`ResponseDecoder`] read a head from
//! its beginning and borrow every part of it; [`BodyDecoder`] then says, piece by piece, which bytes of the buffer are body.
//! What follows a message stays in the buffer: it is the next one. [`encode`] writes heads and chunks into a buffer that is
//! used again and again.
//!
//! Two readers that disagree on where a message ends let one request hide in another. So whatever could be read in two ways
//! is refused, each with an error of its own; the connection it came from is of no use afterwards.
//!
//! ```
//! use countersign_http1::{BodyDecoder, BodyEvent, BodyLength, Limits, RequestDecoder, Slots, encode};
//! use countersign_request::Head as _;
//!
//! let limits = Limits::default();
//! let buffer = b"POST /ads HTTP/1.1\r\nHost: flea.test\r\nX-User: mallory\r\nContent-Length: 5\r\n\r\nhello";
//! let mut slots = Slots::new();
//! let head = RequestDecoder::new(limits).decode(buffer, &mut slots)?.ok_or("unfinished")?;
//! assert_eq!((head.canonical.path(), head.body), ("/ads", BodyLength::Exact(5)));
//!
//! let mut body = BodyDecoder::of_request(head.body, limits);
//! let step = body.decode(&buffer[head.bytes..])?;
//! assert_eq!(step.event, BodyEvent::Data(b"hello"));
//!
//! let mut upstream = Vec::new();
//! let mut writer = encode::request_head(&mut upstream, &head.canonical)?;
//! head.canonical.onward().for_each(|field| writer.copied(field));
//! writer.finish(head.body);
//! assert_eq!(upstream, b"POST /ads HTTP/1.1\r\nhost: flea.test\r\ncontent-length: 5\r\n\r\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod body;
pub mod encode;
mod framing;
mod head_end;
mod limits;
mod request;
mod response;
mod trailers;

pub use body::{BodyDecoder, BodyError, BodyEvent, BodyStep};
pub use framing::{BodyLength, FramingError};
pub use head_end::HeadBytesError;
pub use limits::{Limits, Slots};
pub use request::{RequestDecoder, RequestHead, RequestHeadError};
pub use response::{Asked, ResponseDecoder, ResponseHead, ResponseHeadError};
pub use trailers::{TrailerError, is_forbidden_trailer};
