//! The body of a request on its way out: held in memory where a proof is to be bound to it.

use bytes::Bytes;
use http::Request;
use http_body::Body as _;
use http_body_util::BodyExt as _;

use super::{CallError, Outgoing, full};

/// What a proof can say of a body.
#[derive(Clone, Debug)]
pub(super) enum Held {
    /// These bytes.
    Whole(Bytes),
    /// A stream, or longer than [`BOUND_BYTES_MAX`]: nothing, and the proof says so.
    Unbound,
}

/// Takes a body of known and moderate size into memory, so that what was hashed is what is sent.
pub(super) async fn hold(request: Request<Outgoing>) -> Result<(Request<Outgoing>, Held), CallError> {
    let known = request.body().size_hint().exact();
    if known.is_none_or(|bytes| bytes > BOUND_BYTES_MAX) {
        return Ok((request, Held::Unbound));
    }
    let (head, body) = request.into_parts();
    let bytes = body.collect().await.map_err(|error| CallError::Body { why: error.to_string() })?.to_bytes();
    Ok((Request::from_parts(head, full(bytes.clone())), Held::Whole(bytes)))
}

/// The longest body that a proof is bound to.
pub(super) const BOUND_BYTES_MAX: u64 = 256 * 1024;
