//! The answer of a callee: as it comes, or held and verified where we asked for a signed one.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use countersign_identity::{SpiffeId, UnixTime};
use countersign_request::WORKLOAD_IDENTITY_TOKEN;
use countersign_token::{
    RevokedError, Unproven, Wit, WitError, WitIssuer,
    http_signature::{self, Answered, SignatureError},
};
use http::{Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use thiserror::Error;

use super::proof::SentNonce;
use crate::{clock, live::TokenKeys};

/// What was asked, of whom.
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    /// Path and query, as they were sent.
    pub(super) target: &'a str,
    pub(super) callee: &'a SpiffeId,
}

/// Why an answer that was to be signed is not used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AnswerError {
    /// Nobody signed it.
    #[error("it is not signed, and a signed one was asked for")]
    Unsigned,
    /// Too long to be held, and so to be verified.
    #[error("it has more than {SIGNED_BYTES_MAX} bytes, or broke off")]
    Body,
    /// The workload identity token that came with it.
    #[error("its workload identity token does not count: {0}")]
    Wit(#[from] WitError),
    /// It is signed by somebody else.
    #[error("it is signed by {got}")]
    OtherCallee {
        /// Who signed it.
        got: SpiffeId,
    },
    /// The token or its key was taken back.
    #[error(transparent)]
    Revoked(#[from] RevokedError),
    /// The signature.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

/// Verifies that `asked.callee` signed this answer to this request, and nothing has changed since.
///
/// A 401 need not be signed: whoever does not know us cannot know what we asked for. It carries no data.
pub(super) async fn verify(
    answer: Response<Incoming>,
    asked: &Asked<'_>,
    keys: &TokenKeys,
) -> Result<Response<Answer>, AnswerError> {
    if !http_signature::is_signed(answer.headers()) {
        let refused = answer.status() == StatusCode::UNAUTHORIZED;
        return if refused { Ok(answer.map(Answer::from)) } else { Err(AnswerError::Unsigned) };
    }
    let nonce = answer.extensions().get::<SentNonce>().cloned().ok_or(AnswerError::Unsigned)?;
    let (head, body) = answer.into_parts();
    let body =
        Limited::new(body, SIGNED_BYTES_MAX).collect().await.map_err(|_| AnswerError::Body)?.to_bytes();
    let now = clock::now();
    let token = head.headers.get(WORKLOAD_IDENTITY_TOKEN).and_then(|value| value.to_str().ok());
    let wit = signer(token.ok_or(AnswerError::Unsigned)?, asked.callee, keys, now)?;
    let response =
        http_signature::Response { status: head.status.as_u16(), headers: &head.headers, body: &body };
    let answered = Answered { method: asked.method.as_str(), target: asked.target, nonce: &nonce.0 };
    http_signature::verify_response(&response, &answered, &wit, now)?;
    Ok(Response::from_parts(head, Answer(Inner::Held(Full::new(body)))))
}

fn signer(token: &str, callee: &SpiffeId, keys: &TokenKeys, now: UnixTime) -> Result<Unproven, AnswerError> {
    let authority = keys.authority_of(callee);
    let issuer_of = |kid: &str| {
        let authority = authority?;
        let key = authority.wit.get(kid)?.clone();
        let trust_domain = callee.trust_domain().clone();
        Some(WitIssuer { kid: kid.to_owned(), key, trust_domain, issuer: Some(authority.issuer.clone()) })
    };
    let wit: Unproven = Wit::verify(token, now, issuer_of)?;
    if wit.claimed_subject() != callee {
        return Err(AnswerError::OtherCallee { got: wit.claimed_subject().clone() });
    }
    keys.judge_wit(&wit, now)?;
    Ok(wit)
}

/// The body of an answer.
pub struct Answer(Inner);

enum Inner {
    Coming(Incoming),
    Held(Full<Bytes>),
}

impl From<Incoming> for Answer {
    fn from(body: Incoming) -> Self {
        Self(Inner::Coming(body))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Inner::Coming(body) => Pin::new(body).poll_frame(cx),
            Inner::Held(body) => {
                let frame = Pin::new(body).poll_frame(cx);
                frame.map(|frame| frame.map(|frame| frame.map_err(|never| match never {})))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Coming(body) => body.is_end_stream(),
            Inner::Held(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Coming(body) => body.size_hint(),
            Inner::Held(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer(..)")
    }
}

/// The longest signed answer: it is held until it is verified.
const SIGNED_BYTES_MAX: usize = 256 * 1024;
