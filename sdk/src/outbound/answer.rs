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
    http_signature::{self, Answered, SIGNATURE, SIGNATURE_INPUT, SignatureError},
};
use http::{Method, Response, StatusCode, response::Parts};
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
    let (mut head, body) = answer.into_parts();
    let body = Limited::new(body, SIGNED_BYTES_MAX).collect().await.map_err(|_| AnswerError::Body)?;
    let body = body.to_bytes();
    judge(&head, &body, asked, &nonce, keys, clock::now())?;
    // They have done their work, and are nobody else's business.
    for name in [WORKLOAD_IDENTITY_TOKEN.as_str(), SIGNATURE, SIGNATURE_INPUT] {
        head.headers.remove(name);
    }
    Ok(Response::from_parts(head, Answer(Inner::Held(Full::new(body)))))
}

fn judge(
    head: &Parts,
    body: &[u8],
    asked: &Asked<'_>,
    nonce: &SentNonce,
    keys: &TokenKeys,
    now: UnixTime,
) -> Result<(), AnswerError> {
    let token = head.headers.get(WORKLOAD_IDENTITY_TOKEN).and_then(|value| value.to_str().ok());
    let wit = signer(token.ok_or(AnswerError::Unsigned)?, asked.callee, keys, now)?;
    let response = http_signature::Response { status: head.status.as_u16(), headers: &head.headers, body };
    let answered = Answered { method: asked.method.as_str(), target: asked.target, nonce: &nonce.0 };
    http_signature::verify_response(&response, &answered, &wit, now)?;
    Ok(())
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    use countersign_identity::TrustDomain;
    use countersign_keys::{KeyPair, SystemRandom};
    use countersign_token::{ConfirmationKey, http_signature::Stamp};
    use http::{HeaderMap, HeaderValue};

    use crate::live::AuthorityKeys;

    const BODY: &[u8] = b"hello";

    struct Callee {
        id: SpiffeId,
        issuer: KeyPair,
        key: KeyPair,
        keys: TokenKeys,
    }

    impl Callee {
        fn new() -> Self {
            let td = TrustDomain::parse("fleamarket.test").unwrap();
            let generate = || KeyPair::generate(&SystemRandom::new()).unwrap();
            let (issuer, key) = (generate(), generate());
            let mut keys = TokenKeys::for_access_tokens(td.clone(), "i".into(), "a".into(), []);
            let wit = [(issuer.public_key().thumbprint().to_string(), issuer.public_key().clone())].into();
            let authority = AuthorityKeys {
                issuer: "https://sts.test".into(),
                jwt_svid: Default::default(),
                wit,
                exchange: Default::default(),
            };
            keys.authorities.insert(td.clone(), authority);
            Self { id: SpiffeId::service(&td, "users").unwrap(), issuer, key, keys }
        }

        fn wit(&self, subject: &SpiffeId) -> String {
            let wit = Wit {
                subject: subject.clone(),
                confirmation: ConfirmationKey::new(self.key.public_key().clone()),
                token_id: Some("w-1".into()),
                issuer: Some("https://sts.test".into()),
                expires: clock::now().saturating_add(Duration::from_mins(5)),
            };
            wit.mint(&self.issuer, clock::now()).unwrap()
        }

        /// An answer of `subject` to a request with this nonce.
        fn answer(&self, subject: &SpiffeId, nonce: &str) -> Parts {
            let now = clock::now();
            let mut headers = HeaderMap::new();
            let mut set = |name: &'static str, value: String| {
                headers.insert(name, HeaderValue::try_from(value).unwrap());
            };
            set("workload-identity-token", self.wit(subject));
            set(http_signature::CONTENT_DIGEST, http_signature::content_digest(BODY));
            let response = http_signature::Response { status: 200, headers: &headers, body: BODY };
            let answered = Answered { method: "GET", target: "/users/7", nonce };
            let expires = now.saturating_add(Duration::from_secs(30));
            let stamp = Stamp { nonce: "a-nonce-of-the-answer", created: now, expires };
            let signed = http_signature::sign_response(&self.key, &response, &answered, &stamp).unwrap();
            headers.insert(SIGNATURE_INPUT, HeaderValue::try_from(signed.signature_input).unwrap());
            headers.insert(SIGNATURE, HeaderValue::try_from(signed.signature).unwrap());
            let (mut head, ()) = Response::new(()).into_parts();
            head.headers = headers;
            head
        }

        fn judge(&self, head: &Parts, body: &[u8]) -> Result<(), AnswerError> {
            let asked = Asked { method: &Method::GET, target: "/users/7", callee: &self.id };
            judge(head, body, &asked, &SentNonce("our-nonce".into()), &self.keys, clock::now())
        }
    }

    #[test]
    fn accepts_what_the_callee_signed_for_this_request() {
        let callee = Callee::new();
        assert_eq!(callee.judge(&callee.answer(&callee.id, "our-nonce"), BODY), Ok(()));
    }

    #[test]
    fn rejects_a_changed_body_a_changed_status_and_the_answer_to_another_request() {
        let callee = Callee::new();
        let answer = callee.answer(&callee.id, "our-nonce");
        let changed = callee.judge(&answer, b"hullo");
        assert_eq!(changed, Err(AnswerError::Signature(SignatureError::WrongDigest)));
        let mut teapot = callee.answer(&callee.id, "our-nonce");
        teapot.status = StatusCode::IM_A_TEAPOT;
        assert_eq!(callee.judge(&teapot, BODY), Err(AnswerError::Signature(SignatureError::BadSignature)));
        let other = callee.judge(&callee.answer(&callee.id, "the-nonce-of-another"), BODY);
        assert_eq!(other, Err(AnswerError::Signature(SignatureError::WrongRequest)));
    }

    #[test]
    fn rejects_an_answer_that_another_workload_signed() {
        let callee = Callee::new();
        let chat = SpiffeId::service(callee.id.trust_domain(), "chat").unwrap();
        let refused = callee.judge(&callee.answer(&chat, "our-nonce"), BODY);
        assert_eq!(refused, Err(AnswerError::OtherCallee { got: chat }));
    }

    #[test]
    fn rejects_an_answer_whose_token_or_key_was_taken_back() {
        let mut callee = Callee::new();
        let answer = callee.answer(&callee.id, "our-nonce");
        callee.keys.revoked.key(callee.key.public_key().thumbprint());
        let refused = callee.judge(&answer, BODY);
        assert!(matches!(refused, Err(AnswerError::Revoked(_))), "{refused:?}");
    }

    #[test]
    fn rejects_a_token_of_an_unknown_issuer_and_an_answer_without_one() {
        let mut callee = Callee::new();
        let mut answer = callee.answer(&callee.id, "our-nonce");
        answer.headers.remove("workload-identity-token");
        assert_eq!(callee.judge(&answer, BODY), Err(AnswerError::Unsigned));
        let answer = callee.answer(&callee.id, "our-nonce");
        callee.keys.authorities.clear();
        let refused = callee.judge(&answer, BODY);
        assert!(matches!(refused, Err(AnswerError::Wit(WitError::UnknownKey { .. }))), "{refused:?}");
    }
}
