//! The user's token for one hop alone: exchanged at the token service (RFC 8693), anew for each request. None is kept: the
//! token service knows of every request and may refuse any of them (thesis, 4.1.2), which is what this way is chosen for.
//!
//! This is the one call to the authority on the path of a request, so it has a time limit and a stated verdict: without an
//! answer, or with a refusal, the call is refused. It never goes out with the token of another hop instead.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use countersign_identity::{Mode, SpiffeId};
use countersign_keys::{KeyPair, Secret, SystemRandom};
use countersign_request::DPOP;
use countersign_token::{
    dpop::{self, DpopTarget, DpopUri},
    service_token,
};
use countersign_wire::{json, snapshot::Sts};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use thiserror::Error;

use super::{CallError, CallLimits, Channel, EdgeTarget, InternalToken, Target, full, user::Reach};
use crate::{clock, live::Live, tls::TrustState};

/// The token service as we reach it.
#[derive(Debug)]
pub(crate) struct Exchanger {
    trust: Arc<TrustState>,
    desk: ArcSwapOption<Desk>,
}

/// For whom a token is asked, and who will show it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Presenter<'a> {
    /// The callee: the token counts there alone.
    pub(crate) callee: &'a SpiffeId,
    /// What shows that we are the one to whom it was given.
    pub(crate) shown: Shown<'a>,
}

/// What a hop token is bound to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shown<'a> {
    /// The certificate that we show in the handshake, to the token service as well (RFC 8705).
    Certificate,
    /// The key that signs our proofs (RFC 9449).
    Key(&'a KeyPair),
    /// Nothing: in this mode no key is shown.
    Nothing,
}

/// A token that the token service issued for one hop.
#[derive(Clone)]
pub(crate) struct HopToken(Secret<String>);

/// Why the user cannot go along. The call is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExchangeError {
    /// The snapshot names no token service.
    #[error("the snapshot names no token service: users cannot be carried per hop")]
    NoTokenService,
    /// Its address cannot be used.
    #[error("token service {endpoint} cannot be called: {why}")]
    Endpoint {
        /// As the snapshot names it.
        endpoint: String,
        /// What is wrong with it.
        why: String,
    },
    /// It could not be reached, or did not answer in time.
    #[error("token service cannot be asked, so the call is refused: {0}")]
    Call(#[source] Box<CallError>),
    /// It said no.
    #[error("token service refused the exchange: {error}")]
    Refused {
        /// `error` of RFC 6749 section 5.2.
        error: String,
    },
    /// It said something that is no answer.
    #[error("token service gave no usable answer: {why}")]
    Answer {
        /// What is wrong with it.
        why: &'static str,
    },
    /// The proof of possession could not be made.
    #[error("proof for the token service could not be made: {why}")]
    Proof {
        /// Why.
        why: String,
    },
    /// The user was to travel inside our own signed token, and in this mode we sign none.
    #[error("in mode {mode} nothing is signed that a user's token could be nested in: send jwt or mtls+jwt")]
    NothingToNestIn {
        /// The mode that we send.
        mode: Mode,
    },
}

impl Exchanger {
    pub(crate) fn new(trust: Arc<TrustState>) -> Self {
        Self { trust, desk: ArcSwapOption::empty() }
    }

    /// The token with which the user of `token` goes to one callee.
    pub(crate) async fn exchange(
        &self,
        token: &InternalToken,
        live: &Live,
        presenter: Presenter<'_>,
    ) -> Result<HopToken, ExchangeError> {
        let desk = self.desk(live.snapshot().sts.as_ref().ok_or(ExchangeError::NoTokenService)?)?;
        desk.ask(token, presenter).await
    }

    /// The way to the token service; a new one when the snapshot names another.
    fn desk(&self, sts: &Sts) -> Result<Arc<Desk>, ExchangeError> {
        if let Some(desk) = self.desk.load_full().filter(|desk| desk.sts == *sts) {
            return Ok(desk);
        }
        let desk = Arc::new(Desk::new(sts, &self.trust)?);
        self.desk.store(Some(Arc::clone(&desk)));
        Ok(desk)
    }
}

/// One token service.
#[derive(Debug)]
struct Desk {
    sts: Sts,
    uri: DpopUri,
    path: String,
    channel: Channel,
}

impl Desk {
    fn new(sts: &Sts, trust: &Arc<TrustState>) -> Result<Self, ExchangeError> {
        let refused = |why: String| ExchangeError::Endpoint { endpoint: sts.token_endpoint.clone(), why };
        let roots: Vec<_> =
            sts.roots.iter().map(|der| CertificateDer::from(der.as_slice().to_vec())).collect();
        let target =
            EdgeTarget::new(&sts.token_endpoint, &roots).map_err(|error| refused(error.to_string()))?;
        let unreadable = || refused("it is not a url without a query".to_owned());
        let uri = DpopUri::parse(&sts.token_endpoint).ok_or_else(unreadable)?;
        let path = sts.token_endpoint.parse::<http::Uri>().map_err(|_| unreadable())?.path().to_owned();
        let limits = CallLimits { answer: ANSWER_TIMEOUT, connect: ANSWER_TIMEOUT, ..CallLimits::default() };
        let channel = Channel::new(Target::Edge(target.showing(Arc::clone(trust))), limits);
        Ok(Self { sts: sts.clone(), uri, path, channel })
    }

    async fn ask(&self, token: &InternalToken, presenter: Presenter<'_>) -> Result<HopToken, ExchangeError> {
        let mut nonce = None;
        loop {
            let answer = self.channel.send(self.request(token, presenter, nonce.as_deref())?).await;
            let (head, body) = read(answer.map_err(|error| ExchangeError::Call(Box::new(error)))?).await?;
            if head.status == StatusCode::OK {
                return HopToken::read(&body);
            }
            let error = refusal(head.status, &body)?;
            // A fresh nonce is asked for once; a service that wants another and another wants none.
            match dpop_nonce(&head.headers) {
                Some(wanted) if error == USE_DPOP_NONCE && nonce.is_none() => nonce = Some(wanted),
                _ => return Err(ExchangeError::Refused { error }),
            }
        }
    }

    fn request(
        &self,
        token: &InternalToken,
        presenter: Presenter<'_>,
        nonce: Option<&str>,
    ) -> Result<Request<super::Outgoing>, ExchangeError> {
        let subject_type = match token.reach() {
            Reach::TrustDomain => TXN_TOKEN_TYPE,
            Reach::ThisHop => ACCESS_TOKEN_TYPE,
        };
        let form = form(&[
            ("grant_type", GRANT_TYPE),
            ("subject_token", token.expose()),
            ("subject_token_type", subject_type),
            ("requested_token_type", ACCESS_TOKEN_TYPE),
            ("audience", presenter.callee.as_str()),
        ]);
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&self.path)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .body(full(form))
            .map_err(|error| ExchangeError::Proof { why: error.to_string() })?;
        if let Shown::Key(key) = presenter.shown {
            request.headers_mut().insert(DPOP, self.dpop(key, nonce)?);
        }
        Ok(request)
    }

    /// That we hold the key which will show the token (RFC 9449 section 5).
    fn dpop(&self, key: &KeyPair, nonce: Option<&str>) -> Result<HeaderValue, ExchangeError> {
        let failed = |why: String| ExchangeError::Proof { why };
        let target = DpopTarget { method: &Method::POST, uri: self.uri.clone(), access_token: None };
        let jti = service_token::new_id(&SystemRandom::new()).map_err(|error| failed(error.to_string()))?;
        let proof = dpop::mint(key, &target, nonce, &jti, clock::now());
        let proof = proof.map_err(|error| failed(error.to_string()))?;
        HeaderValue::try_from(proof).map_err(|error| failed(error.to_string()))
    }
}

impl HopToken {
    fn read(body: &[u8]) -> Result<Self, ExchangeError> {
        let unusable = |why| ExchangeError::Answer { why };
        let answer: TokenAnswer = json::from_slice(body, ANSWER_BYTES_MAX)
            .map_err(|_| unusable("it is not the json of RFC 8693 section 2.2.1"))?;
        if answer.access_token.is_empty() || answer.access_token.bytes().any(|byte| !byte.is_ascii_graphic())
        {
            return Err(unusable("its token does not fit into a header"));
        }
        if answer.issued_token_type != ACCESS_TOKEN_TYPE {
            return Err(unusable("it issued a token of another type"));
        }
        Ok(Self(Secret::new(answer.access_token)))
    }

    pub(crate) fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl fmt::Debug for HopToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HopToken(..)")
    }
}

/// RFC 8693 section 2.2.1; members that we do not use are left alone.
#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    issued_token_type: String,
}

/// RFC 6749 section 5.2.
#[derive(Deserialize)]
struct ErrorAnswer {
    error: String,
}

async fn read(answer: Response<Incoming>) -> Result<(http::response::Parts, Vec<u8>), ExchangeError> {
    let unusable = |why| ExchangeError::Answer { why };
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect();
    let body =
        tokio::time::timeout(ANSWER_TIMEOUT, body).await.map_err(|_| unusable("it did not end in time"))?;
    let body = body.map_err(|_| unusable("it broke off, or is too long"))?.to_bytes();
    Ok((head, body.to_vec()))
}

/// Why it said no. A service that is down, or a proxy before it, has said nothing about the user.
fn refusal(status: StatusCode, body: &[u8]) -> Result<String, ExchangeError> {
    let unusable = |why| ExchangeError::Answer { why };
    if ![StatusCode::BAD_REQUEST, StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status) {
        return Err(unusable("its status is neither 200 nor that of a refusal"));
    }
    let answer: ErrorAnswer = serde_json::from_slice(body)
        .map_err(|_| unusable("its refusal is not the json of RFC 6749 section 5.2"))?;
    Ok(answer.error.chars().filter(char::is_ascii_graphic).take(64).collect())
}

fn dpop_nonce(headers: &HeaderMap) -> Option<String> {
    headers.get("dpop-nonce")?.to_str().ok().map(str::to_owned)
}

/// `application/x-www-form-urlencoded`: everything but what RFC 3986 calls unreserved is encoded.
fn form(parameters: &[(&str, &str)]) -> String {
    let mut form = String::new();
    for (name, value) in parameters {
        if !form.is_empty() {
            form.push('&');
        }
        form.push_str(name);
        form.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => form.push(byte.into()),
                _ => form.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    form
}

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const TXN_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:txn_token";
const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";
const USE_DPOP_NONCE: &str = "use_dpop_nonce";
/// For the token service; a user waits behind it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER_BYTES_MAX: usize = 32 * 1024;
