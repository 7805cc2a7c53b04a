//! A body that the caller's evidence names: held and compared before the handler sees any of it.

use std::error::Error as StdError;

use bytes::Bytes;
use countersign_identity::Caller;
use countersign_wire::codes::Code;
use http::Request;
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::{Denial, DoorLimits};
use crate::authenticate::Claimed;

/// The caller, once the body is what its evidence says; the request goes on with the same bytes. A body of which the
/// evidence says nothing is not touched.
pub(super) async fn confirm<B>(
    claimed: Claimed,
    request: Request<B>,
    limits: &DoorLimits,
) -> Result<(Caller, Request<B>), Denial>
where
    B: Body<Data = Bytes> + From<Bytes>,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    if !claimed.is_bound_to_the_body() || request.body().is_end_stream() {
        return Ok((claimed.confirm(&[])?, request));
    }
    let (head, body) = request.into_parts();
    let reading = Limited::new(body, limits.bound_body_bytes_max).collect();
    let read = tokio::time::timeout(limits.answer, reading).await;
    let late = |_| Denial::new(Code::RequestTimeout, "the body did not arrive in time");
    let bytes = read.map_err(late)?.map_err(|error| unread(error.as_ref(), limits))?.to_bytes();
    let caller = claimed.confirm(&bytes)?;
    Ok((caller, Request::from_parts(head, B::from(bytes))))
}

fn unread(error: &(dyn StdError + Send + Sync + 'static), limits: &DoorLimits) -> Denial {
    if error.is::<LengthLimitError>() {
        let bytes = limits.bound_body_bytes_max;
        return Denial::new(
            Code::BodyTooLarge,
            format!("the body to which the caller's proof is bound has more than {bytes} bytes"),
        );
    }
    Denial::new(Code::BodyMalformed, format!("the body broke off: {error}"))
}
