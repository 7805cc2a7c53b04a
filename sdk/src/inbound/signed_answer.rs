//! Answers that the caller wants signed (draft-ietf-wimse-http-signature): refusals as well as what the service says.

use std::{error::Error as StdError, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use countersign_identity::UnixTime;
use countersign_keys::{SystemRandom, random_bytes};
use countersign_request::{CanonicalRequest, WORKLOAD_IDENTITY_TOKEN};
use countersign_token::http_signature::{self, Answered, SIGNATURE_LIFETIME, Stamp};
use http::{
    HeaderName, HeaderValue, Response, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body::Body;
use http_body_util::{BodyExt, Either, Full, Limited};

use super::layer::GuardedBody;
use crate::{
    clock,
    credentials::{Credentials, WitIdentity},
};

/// What a signed answer has to repeat of the request.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    method: String,
    target: String,
    nonce: String,
}

impl Wanted {
    pub(super) fn by(request: &CanonicalRequest, nonce: String) -> Self {
        Self { method: request.method().to_string(), target: request.path_and_query(), nonce }
    }
}

/// The same answer, signed with our own key, if its body ends within `limit`. One that cannot be signed goes out as it
/// is: the caller refuses it, and we say why in our log.
pub(super) async fn sign<R>(
    answer: Response<GuardedBody<R>>,
    wanted: &Wanted,
    credentials: Option<&Credentials>,
    limit: Duration,
) -> Response<GuardedBody<R>>
where
    R: Body<Data = Bytes>,
    R::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let bytes_min = answer.body().size_hint().lower();
    let Some(credentials) = credentials.filter(|_| bytes_min <= SIGNED_BYTES_MAX as u64) else {
        tracing::warn!(bytes_min, "an answer was to be signed, and goes out unsigned");
        return answer;
    };
    let wit = match tokio::time::timeout(WIT_WAIT, credentials.wit()).await {
        Ok(Ok(wit)) => wit,
        Ok(Err(error)) => return unsigned(answer, &error),
        Err(late) => return unsigned(answer, &late),
    };
    let (mut head, body) = answer.into_parts();
    let body = match hold(body, limit).await {
        Ok(body) => body,
        Err(error) => {
            tracing::warn!(%error, "an answer that was to be signed broke off, is too long, or took too long");
            head.status = StatusCode::INTERNAL_SERVER_ERROR;
            // What they say is of the body that is not there.
            for name in [CONTENT_LENGTH, CONTENT_TYPE, CONTENT_ENCODING] {
                head.headers.remove(name);
            }
            Bytes::new()
        }
    };
    if let Err(error) = put(&mut head, &body, wanted, &wit, clock::now()) {
        tracing::warn!(%error, "an answer could not be signed");
    }
    Response::from_parts(head, Either::Right(Full::new(body)))
}

/// All of a body: a signature is over what is known, so whoever asked for one gets no stream.
async fn hold<R>(body: R, limit: Duration) -> Result<Bytes, Box<dyn StdError + Send + Sync>>
where
    R: Body<Data = Bytes>,
    R::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let held = Limited::new(body, SIGNED_BYTES_MAX).collect();
    Ok(tokio::time::timeout(limit, held).await??.to_bytes())
}

fn unsigned<R>(answer: Response<R>, why: &dyn StdError) -> Response<R> {
    tracing::warn!(error = %why, "an answer was to be signed, and there is no workload identity token for it");
    answer
}

fn put(
    head: &mut http::response::Parts,
    body: &[u8],
    wanted: &Wanted,
    wit: &WitIdentity,
    now: UnixTime,
) -> Result<(), Box<dyn StdError + Send + Sync>> {
    head.headers.insert(WORKLOAD_IDENTITY_TOKEN, wit.token().clone());
    if !body.is_empty() {
        let digest = http_signature::content_digest(body);
        set(head, http_signature::CONTENT_DIGEST, &digest)?;
    }
    let nonce = URL_SAFE_NO_PAD.encode(random_bytes::<16>(&SystemRandom::new())?);
    let stamp = Stamp { nonce: &nonce, created: now, expires: now.saturating_add(SIGNATURE_LIFETIME) };
    let response = http_signature::Response { status: head.status.as_u16(), headers: &head.headers, body };
    let answered = Answered { method: &wanted.method, target: &wanted.target, nonce: &wanted.nonce };
    let fields = http_signature::sign_response(wit.key(), &response, &answered, &stamp)?;
    set(head, http_signature::SIGNATURE_INPUT, &fields.signature_input)?;
    set(head, http_signature::SIGNATURE, &fields.signature)
}

fn set(
    head: &mut http::response::Parts,
    name: &'static str,
    value: &str,
) -> Result<(), Box<dyn StdError + Send + Sync>> {
    head.headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value)?);
    Ok(())
}

/// What the callers of the SDK hold of a signed answer.
const SIGNED_BYTES_MAX: usize = 256 << 10;
/// For the first token that is ever needed; later ones are at hand.
const WIT_WAIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::pending};

    use super::*;

    #[tokio::test]
    async fn an_answer_that_never_ends_is_not_waited_for_and_a_long_one_not_held() {
        let limit = Duration::from_millis(20);
        let endless = http_body_util::StreamBody::new(futures::stream::once(pending::<
            Result<http_body::Frame<Bytes>, Infallible>,
        >()));
        assert!(hold(endless, limit).await.is_err_and(|error| error.is::<tokio::time::error::Elapsed>()));
        let long = Full::new(Bytes::from(vec![0; SIGNED_BYTES_MAX + 1]));
        assert!(hold(long, limit).await.is_err());
        let whole = hold(Full::new(Bytes::from_static(b"hello")), limit).await;
        assert!(whole.is_ok_and(|whole| whole == "hello"));
    }
}
