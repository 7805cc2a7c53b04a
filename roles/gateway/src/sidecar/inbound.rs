//! From the door to the service behind: what was let in goes on, with who is calling.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use countersign_http1::RequestHeadError;
use countersign_keys::SystemRandom;
use countersign_request::{CanonicalRequest, strip_hop_by_hop, strip_identity_headers};
use countersign_sdk::accept::{Connection, RequestBody};
use countersign_sdk::clock;
use countersign_sdk::context::{CONTEXT, ContextKey};
use countersign_sdk::inbound::{Caller, DecisionDraft, Denial, DoorLimits, Guarded, InboundError, TraceId};
use countersign_sdk::workload::Workload;
use countersign_wire::codes::Code;
use http::{HeaderValue, Request, Response, Uri, Version, header};
use http_body_util::BodyExt as _;
use tower::{Layer as _, Service as _};

use super::app::App;
use super::headers;
use super::quick::InboundQuick;
use super::settings::Settings;
use crate::body::{BodyError, BodyFault, BodyLimits, BoundedBody, state_framing};
use crate::engine::quick::{AnswerLimits, Quick};
use crate::engine::{Answering, Answers};
use crate::forward::EdgeBody;
use crate::refusal::Refusal;

/// What other services meet: the SDK's layer, and the service behind it.
pub(super) struct Inbound {
    guarded: Guarded<ToApp>,
    app: App,
    contexts: Arc<ContextKey>,
    limits: AnswerLimits,
    workload: Workload,
}

impl Inbound {
    /// # Errors
    /// The routes in the settings are none, or two are the same.
    pub(super) fn new(
        workload: &Workload,
        app: App,
        contexts: Arc<ContextKey>,
        settings: &Settings,
    ) -> Result<Self, InboundError> {
        let limits = DoorLimits {
            body_bytes_max: settings.body_bytes_max,
            answer: settings.request_timeout(),
            ..DoorLimits::default()
        };
        let mut layer = workload.require().routes_of_policies().limits(limits);
        if !settings.routes.is_empty() {
            layer = layer.routes(settings.routes.iter().map(String::as_str))?;
        }
        let limits = AnswerLimits {
            head_within: settings.request_timeout(),
            http1: settings.answer_head.http1(),
            bytes_max: u64::MAX,
            pause_max: settings.body_idle_timeout(),
        };
        let guarded = layer.layer(ToApp::new(app.clone(), Arc::clone(&contexts), settings));
        Ok(Self { guarded, app, contexts, limits, workload: workload.clone() })
    }
}

impl Answers for Inbound {
    fn answer(&self, request: Request<RequestBody>) -> Answering {
        let answering = self.guarded.clone().call(request);
        Box::pin(async move {
            let answer = answering.await.unwrap_or_else(|never| match never {});
            answer.map(|body| body.map_err(of_body).boxed_unsync())
        })
    }

    fn quick(&self) -> Option<Rc<dyn Quick>> {
        let (door, app) = (self.guarded.quick(), self.app.clone());
        Some(Rc::new(InboundQuick::new(door, app, Arc::clone(&self.contexts), self.limits)))
    }

    fn refuse(&self, error: &RequestHeadError, connection: &Connection) -> Answering {
        refuse_unread(&self.workload, error, connection)
    }
}

/// Answers, and records, what could not be read in one way.
pub(super) fn refuse_unread(
    workload: &Workload,
    error: &RequestHeadError,
    connection: &Connection,
) -> Answering {
    let denial = Refusal::from(error).denial();
    let mut draft = DecisionDraft::begin(workload.target(), TraceId::random());
    draft.came_over(connection);
    draft.denied(&denial);
    draft.answered(denial.status());
    let address = connection.address().map(|address| address.ip());
    workload.spool().record_refused_stranger(address, draft.record().clone(), denial.code);
    let answer = denial.response(draft.id()).map(|body| body.map_err(|never| match never {}).boxed_unsync());
    Box::pin(std::future::ready(answer))
}

/// The innermost service of a sidecar: behind the SDK's layer, which put a [`Caller`] into each request.
#[derive(Clone)]
pub(super) struct ToApp(Arc<Inner>);

struct Inner {
    app: App,
    contexts: Arc<ContextKey>,
    body: BodyLimits,
}

impl ToApp {
    pub(super) fn new(app: App, contexts: Arc<ContextKey>, settings: &Settings) -> Self {
        let body =
            BodyLimits { bytes_max: settings.body_bytes_max, idle_timeout: settings.body_idle_timeout() };
        Self(Arc::new(Inner { app, contexts, body }))
    }
}

impl tower::Service<Request<RequestBody>> for ToApp {
    type Response = Response<EdgeBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<EdgeBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { Ok(inner.forward(request).await) })
    }
}

impl Inner {
    async fn forward(&self, request: Request<RequestBody>) -> Response<EdgeBody> {
        // Without a caller nobody was let in: this service is never reached past the layer.
        let Some(caller) = request.extensions().get::<Caller>().cloned() else {
            return refused(&Denial::new(Code::Internal, "no caller in front of the service"), None);
        };
        match self.pass_on(request, &caller).await {
            Ok(answer) => answer,
            Err(denial) => {
                tracing::warn!(decision = %caller.decision(), code = %denial.code, why = denial.reason, "the service behind was not reached");
                refused(&denial, Some(&caller))
            }
        }
    }

    async fn pass_on(
        &self,
        request: Request<RequestBody>,
        caller: &Caller,
    ) -> Result<Response<EdgeBody>, Denial> {
        let (head, body) = request.into_parts();
        let canonical = CanonicalRequest::parse(&head.method, &head.uri, &head.headers, head.version)
            .map_err(|error| Denial::from(&error))?;
        if canonical.headers().contains_key(header::UPGRADE) {
            return Err(Denial::new(Code::UpgradeRefused, "the request asks to leave HTTP"));
        }
        let fault = BodyFault::default();
        let mut outbound = Request::new(BoundedBody::new(body, self.body, fault.clone()));
        *outbound.method_mut() = canonical.method().clone();
        *outbound.uri_mut() = path(&canonical)?;
        *outbound.version_mut() = Version::HTTP_11;
        let mut headers = self.headers(&canonical, caller)?;
        state_framing(&mut headers, outbound.body());
        *outbound.headers_mut() = headers;
        let workload = caller.workload().map(|workload| workload.id.clone());
        let answer = self.app.send(outbound, workload.as_ref()).await.map_err(|error| {
            match fault.seen(&self.body) {
                Some(fault) => Denial::new(code_of(fault), fault.to_string()),
                None => Denial::new(Code::UpstreamUnreachable, with_causes(&error)),
            }
        })?;
        let (mut head, body) = answer.into_parts();
        strip_hop_by_hop(&mut head.headers);
        strip_identity_headers(&mut head.headers);
        head.extensions.clear();
        let body =
            BoundedBody::new(body, BodyLimits { bytes_max: u64::MAX, ..self.body }, BodyFault::default());
        Ok(Response::from_parts(head, body.boxed_unsync()))
    }

    fn headers(&self, request: &CanonicalRequest, caller: &Caller) -> Result<http::HeaderMap, Denial> {
        let mut headers = request.headers().clone();
        strip_hop_by_hop(&mut headers);
        strip_identity_headers(&mut headers);
        headers.remove(header::EXPECT);
        let host = HeaderValue::from_str(&request.authority().to_string());
        headers.insert(header::HOST, host.map_err(|_| Denial::new(Code::AuthorityAmbiguous, "host"))?);
        headers::tell(&mut headers, caller);
        caller.trace().set(&mut headers);
        let sealed = self.contexts.seal(caller, clock::now(), &SystemRandom::new());
        let sealed = sealed.map_err(|error| Denial::new(Code::Internal, error.to_string()))?;
        let mut sealed = HeaderValue::from_str(&sealed)
            .map_err(|_| Denial::new(Code::Internal, "a sealed context does not fit into a header"))?;
        sealed.set_sensitive(true);
        headers.insert(CONTEXT, sealed);
        Ok(headers)
    }
}

/// A body is the service's, with errors of ours, or a refusal, which has none.
fn of_body(error: Box<dyn std::error::Error + Send + Sync>) -> BodyError {
    error.downcast::<BodyError>().map_or(BodyError::BrokenOff, |error| *error)
}

fn path(request: &CanonicalRequest) -> Result<Uri, Denial> {
    let path = request.path_and_query().parse();
    path.map_err(|_| Denial::new(Code::PathAmbiguous, "the canonical path is no uri"))
}

fn code_of(fault: BodyError) -> Code {
    match fault {
        BodyError::TooLong { .. } => Code::BodyTooLarge,
        BodyError::Stalled { .. } => Code::RequestTimeout,
        BodyError::BrokenOff => Code::BodyMalformed,
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        said = format!("{said}: {cause}");
        next = cause.source();
    }
    said
}

/// Errors of the sidecar itself, in its own words.
pub(super) fn refused(denial: &Denial, caller: Option<&Caller>) -> Response<EdgeBody> {
    let decision = caller.map_or_else(countersign_sdk::inbound::new_decision_id, Caller::decision);
    denial.response(decision).map(|body| body.map_err(|never| match never {}).boxed_unsync())
}
