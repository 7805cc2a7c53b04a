//! Answers that the caller wants signed (draft-ietf-wimse-http-signature): refusals as well as what the service says.

use std::{error::Error as StdError, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use countersign_identity::UnixTime;
use countersign_keys::{SystemRandom, random_bytes};
use countersign_request::{CanonicalRequest, WORKLOAD_IDENTITY_TOKEN};
use countersign_token::http_signature::{self, Answered, SIGNATURE_LIFETIME, Stamp};
use http::{HeaderName, HeaderValue, Response};
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

/// The same answer, signed with our own key. One that cannot be signed goes out as it is: the caller refuses it, and we
/// say why in our log.
pub(super) async fn sign<R>(
    answer: Response<GuardedBody<R>>,
    wanted: &Wanted,
    credentials: Option<&Credentials>,
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
    let body = match Limited::new(body, SIGNED_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            tracing::warn!(%error, "an answer that was to be signed broke off, or is too long");
            head.status = http::StatusCode::INTERNAL_SERVER_ERROR;
            Bytes::new()
        }
    };
    if let Err(error) = put(&mut head, &body, wanted, &wit, clock::now()) {
        tracing::warn!(%error, "an answer could not be signed");
    }
    Response::from_parts(head, Either::Right(Full::new(body)))
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
