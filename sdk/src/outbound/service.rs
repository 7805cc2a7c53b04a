//! Calling a registered service by its name.

use std::{
    collections::BTreeMap,
    error::Error as StdError,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use countersign_request::{CanonicalRequest, strip_identity_headers};
use countersign_token::http_signature::{SIGNATURE, SIGNATURE_INPUT};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, Uri, Version,
    header::{AUTHORIZATION, CONTENT_TYPE},
    uri::PathAndQuery,
};
use http_body::Body;
use http_body_util::BodyExt;
use tower_service::Service;

use super::{
    Answer, CallError, InternalToken, Outgoing, Pool,
    answer::{self, Asked},
    channel::{empty, moving},
    full,
    pool::Call,
    proof::Proof,
};
use crate::{accept::Progress, inbound::Caller, sealed, trace::TraceContext};

/// A client of one service. Cheap to clone; all clones share one connection.
#[derive(Clone, Debug)]
pub struct ServiceClient {
    pool: Pool,
    service: String,
    token: Option<InternalToken>,
    trace: Option<Arc<TraceContext>>,
    forwarded: HeaderMap,
    claims: BTreeMap<String, String>,
    anew: bool,
}

impl ServiceClient {
    pub(super) fn new(pool: Pool, service: String) -> Self {
        Self {
            pool,
            service,
            token: None,
            trace: None,
            forwarded: HeaderMap::new(),
            claims: BTreeMap::new(),
            anew: false,
        }
    }

    /// Passes on whom the inbound request came for: its internal token, and its trace.
    #[must_use]
    pub fn on_behalf_of(mut self, caller: &Caller) -> Self {
        self.token = caller.token().cloned();
        self.trace = Some(Arc::new(caller.trace().clone()));
        self
    }

    /// Passes on whom a request came for that a service behind this process was handed: sidecars only.
    #[must_use]
    pub fn in_context(mut self, context: &crate::context::Context) -> Self {
        self.token = context.token().cloned();
        self.trace = Some(Arc::new(context.trace().clone()));
        self
    }

    /// Passes on a token that this process minted: gateways only.
    #[must_use]
    pub fn with_token(mut self, token: InternalToken) -> Self {
        self.token = Some(token);
        self
    }

    /// Goes on with a trace that this process knows.
    #[must_use]
    pub fn in_trace(mut self, trace: TraceContext) -> Self {
        self.trace = Some(Arc::new(trace));
        self
    }

    /// Tells the callee where the request came in, by headers such as `X-Forwarded-For`: gateways only,
    /// which know the client's connection. What a request itself says about that is removed.
    #[must_use]
    pub fn with_forwarded(mut self, headers: HeaderMap) -> Self {
        self.forwarded = headers;
        self
    }

    /// Says more of each request than who makes it, such as `tenant`, in the token that we sign for it. In other modes
    /// than `jwt` and `mtls+jwt` nothing is signed that could say it, and a callee that demands it refuses.
    ///
    /// A registered name, such as `sub`, is refused when a request is sent.
    #[must_use]
    pub fn with_claim(mut self, name: &str, value: &str) -> Self {
        self.claims.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Makes a connection for each request and closes it after the answer. Proves neither more nor less, and costs a
    /// handshake each time: for measuring what kept connections save.
    #[must_use]
    pub fn connecting_anew_for_every_request(mut self) -> Self {
        self.anew = true;
        self
    }

    /// `GET` of a path.
    pub fn get(&self, path: &str) -> OutboundRequest {
        self.ask(Method::GET, path)
    }

    /// `POST` to a path.
    pub fn post(&self, path: &str) -> OutboundRequest {
        self.ask(Method::POST, path)
    }

    /// `DELETE` of a path.
    pub fn delete(&self, path: &str) -> OutboundRequest {
        self.ask(Method::DELETE, path)
    }

    /// A request of any method.
    pub fn ask(&self, method: Method, path: &str) -> OutboundRequest {
        let request = Request::builder().method(method).uri(path).body(empty());
        OutboundRequest { client: self.clone(), request: request.map_err(|_| CallError::BadRequest) }
    }

    /// Sends a request whose body may be a stream; so may the answer's.
    ///
    /// Identity headers of `request` are removed: what goes out is what this client was given and what proves who we are,
    /// never what a header says.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn send(&self, request: Request<Outgoing>) -> Result<Response<Answer>, CallError> {
        let call = self.pool.call(&self.service)?;
        let (request, progress) = moving(request);
        let sending = pin!(self.prove_and_send(&call, request));
        match Progress::of(progress.as_ref(), self.pool.limits().answer, sending).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::TimedOut { place: self.service.clone() }),
        }
    }

    async fn prove_and_send(
        &self,
        call: &Call,
        mut request: Request<Outgoing>,
    ) -> Result<Response<Answer>, CallError> {
        let target = canonical(&request, &self.service)?;
        *request.uri_mut() = target.clone().into();
        let method = request.method().clone();
        self.dress(request.headers_mut());
        let (request, proof) = self.gather(call, request).await?;
        let channel = if self.anew { call.channel().anew() } else { call.channel().clone() };
        let answer = channel.send_proven(request, &proof).await?;
        if !proof.wants_signed_answer() {
            return Ok(answer.map(Answer::from));
        }
        let asked = Asked { method: &method, target: target.as_str(), callee: call.callee() };
        let verified = answer::verify(answer, &asked, call.live.tokens()).await;
        verified.map_err(|source| CallError::Answer { service: self.service.clone(), source })
    }

    /// What proves who we are, and for whom.
    pub(super) async fn gather(
        &self,
        call: &Call,
        request: Request<Outgoing>,
    ) -> Result<(Request<Outgoing>, Proof), CallError> {
        let (credentials, exchanger) = (self.pool.credentials(), self.pool.exchanger());
        let gathering = Proof::gather(call, request, self.token.as_ref(), credentials, exchanger);
        let (request, proof) = gathering.await?;
        Ok((request, proof.saying(&self.claims)))
    }

    pub(super) const fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) fn service(&self) -> &str {
        &self.service
    }

    pub(super) fn dress(&self, headers: &mut HeaderMap) {
        strip_identity_headers(headers);
        for name in [AUTHORIZATION.as_str(), SIGNATURE, SIGNATURE_INPUT] {
            headers.remove(name);
        }
        for (name, value) in &self.forwarded {
            headers.insert(name, value.clone());
        }
        if let Some(trace) = &self.trace {
            trace.set(headers);
        }
    }

    /// Connections made to this service so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.pool.connections(&self.service)
    }
}

/// Path and query exactly as the callee will read them, which is what a proof is bound to. What it would refuse to read,
/// a token in the query among it, never leaves.
pub(super) fn canonical(request: &Request<Outgoing>, service: &str) -> Result<PathAndQuery, CallError> {
    let path = request.uri().path_and_query().cloned().ok_or(CallError::BadRequest)?;
    let uri = Uri::builder().scheme("https").authority(service).path_and_query(path).build();
    let uri = uri.map_err(|_| CallError::BadRequest)?;
    let read = CanonicalRequest::parse(request.method(), &uri, &HeaderMap::new(), Version::HTTP_2);
    let read = read.map_err(|source| CallError::Ambiguous { source })?;
    PathAndQuery::try_from(read.path_and_query()).map_err(|_| CallError::BadRequest)
}

/// gRPC clients take a [`ServiceClient`] as their transport.
impl<B> Service<Request<B>> for ServiceClient
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Response = Response<Answer>;
    type Error = CallError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, CallError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let client = self.clone();
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(async move { client.send(request).await })
    }
}

/// A request about to be sent.
#[must_use = "nothing is sent until `send`"]
#[derive(Debug)]
pub struct OutboundRequest {
    client: ServiceClient,
    request: Result<Request<Outgoing>, CallError>,
}

impl OutboundRequest {
    /// With a JSON body.
    pub fn json(self, body: &impl serde::Serialize) -> Self {
        let Ok(mut request) = self.request else { return self };
        let Ok(bytes) = serde_json::to_vec(body) else {
            return Self { request: Err(CallError::BadRequest), ..self };
        };
        *request.body_mut() = full(bytes);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self { request: Ok(request), ..self }
    }

    /// With a JSON body that only the callee can read, whoever ends its TLS: see [`crate::sealed`].
    pub fn sealed_json(self, body: &impl serde::Serialize) -> Self {
        if self.request.is_err() {
            return self;
        }
        let sealed = self.client.pool.call(&self.client.service).and_then(|call| {
            let service = self.client.service.clone();
            sealed::seal(body, call.callee(), &call.live)
                .map_err(|source| CallError::Sealed { service, source })
        });
        match sealed {
            Ok(sealed) => self.body(sealed::SEALED_MEDIA_TYPE, sealed),
            Err(error) => Self { request: Err(error), ..self },
        }
    }

    /// With a body of bytes.
    pub fn body(self, media_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        let Ok(mut request) = self.request else { return self };
        *request.body_mut() = full(bytes);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        Self { request: Ok(request), ..self }
    }

    /// Sends it.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn send(self) -> Result<Response<Answer>, CallError> {
        self.client.send(self.request?).await
    }
}
