//! From the door to the service behind: what was let in goes on, with who is calling.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use countersign_http1::RequestHeadError;
use countersign_identity::DecisionId;
use countersign_ledger::{CheckRecord, CheckResult};
use countersign_request::{CanonicalRequest, strip_hop_by_hop, strip_identity_headers};
use countersign_sdk::accept::{Connection, RequestBody};
use countersign_sdk::clock;
use countersign_sdk::context::{CONTEXT, ContextKey};
use countersign_sdk::inbound::{
    Afterword, Caller, DecisionDraft, Denial, DoorLimits, Guarded, InboundError, is_grpc, new_decision_id,
};
use countersign_sdk::trace::Hop;
use countersign_sdk::workload::Workload;
use countersign_wire::codes::Code;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use http_body_util::BodyExt as _;
use tower::{Layer as _, Service as _};

use super::app::App;
use super::headers;
use super::quick::InboundQuick;
use super::settings::Settings;
use super::upgrade::{Said, Upgrades};
use crate::body::{BodyError, BodyFault, BodyLimits, BoundedBody, Pace, state_framing};
use crate::engine::quick::{AnswerLimits, Quick};
use crate::engine::{Answering, Answers};
use crate::filter::{Asked, Changes, Consulted, FilterError, Filters};
use crate::forward::EdgeBody;
use crate::headers::take_trailers;
use crate::refusal::Refusal;
use crate::upgrade::{asks_to_leave, dress_request};

/// What other services meet: the SDK's layer, and the service behind it.
pub(super) struct Inbound {
    guarded: Guarded<ToApp>,
    to_app: ToApp,
    limits: AnswerLimits,
    workload: Workload,
}

impl Inbound {
    /// # Errors
    /// The routes in the settings are none, or two are the same.
    pub(super) fn new(workload: &Workload, to_app: ToApp, settings: &Settings) -> Result<Self, InboundError> {
        let limits = DoorLimits {
            body_bytes_max: settings.body_bytes_max,
            answer: settings.request_timeout(),
            streams_may_outlive_their_users_token_insecure: settings
                .streams_may_outlive_their_users_token_insecure,
            ..DoorLimits::default()
        };
        let mut layer = workload.require().routes_of_policies().limits(limits);
        if !settings.routes.is_empty() {
            layer = layer.routes(settings.routes.iter().map(String::as_str))?;
        }
        let limits = AnswerLimits {
            ends: None,
            user: None,
            head_within: settings.request_timeout(),
            http1: settings.answer_head.http1(),
            bytes_max: u64::MAX,
            pause_max: settings.own_bodies().idle_timeout,
        };
        let guarded = layer.layer(to_app.clone());
        Ok(Self { guarded, to_app, limits, workload: workload.clone() })
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
        let Inner { app, contexts, filters, total, .. } = &*self.to_app.0;
        // Filters are asked, and HTTP/2 is spoken, by the full carrier alone.
        let quick = || {
            let contexts = ContextKey::clone(contexts);
            InboundQuick::new(self.guarded.quick(), app.clone(), contexts, (self.limits.clone(), *total))
        };
        (filters.is_empty() && !app.speaks_http2()).then(|| Rc::new(quick()) as Rc<dyn Quick>)
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
    let mut draft = DecisionDraft::begin(workload.target(), Hop::first());
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
    filters: Filters,
    /// The service, as policies call it.
    target: String,
    body: BodyLimits,
    total: Option<Duration>,
    upgrades: Upgrades,
}

impl ToApp {
    pub(super) fn new(app: App, contexts: Arc<ContextKey>, filters: Filters, settings: &Settings) -> Self {
        let (body, total) = (settings.callers_bodies(), settings.total_timeout());
        let (target, upgrades) = (settings.service.to_string(), Upgrades::of(settings));
        Self(Arc::new(Inner { app, contexts, filters, target, body, total, upgrades }))
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
            let denial = Denial::new(Code::Internal, "no caller in front of the service");
            return refused(&denial, new_decision_id(), false);
        };
        let to_grpc = is_grpc(request.headers());
        let pace = Pace::of(&request, self.total).with_user(caller.user_term().cloned());
        let mut checks = Vec::new();
        let passing = pace.in_all(self.pass_on(request, &caller, &pace, &mut checks)).await;
        let passed = passing.unwrap_or_else(|_| Err(pace.late(Duration::MAX).into()));
        let (mut answer, denial) = match passed {
            Ok(answer) => (answer, None),
            Err(NotPassed::Filtered(error)) => {
                let denial = Denial::new(error.code(), error.to_string());
                checks.push(checked(FILTER, CheckResult::Fail, denial.reason.clone()));
                (stopped(&error, &denial, caller.decision(), to_grpc), Some(denial))
            }
            Err(NotPassed::Denied(denial)) => {
                tracing::warn!(decision = %caller.decision(), code = %denial.code, why = denial.reason, "the service behind was not reached");
                checks.push(checked(UPSTREAM, CheckResult::Fail, denial.reason.clone()));
                (refused(&denial, caller.decision(), to_grpc), Some(denial))
            }
        };
        if !checks.is_empty() {
            answer.extensions_mut().insert(Afterword { checks, denial });
        }
        answer
    }

    async fn pass_on(
        &self,
        request: Request<RequestBody>,
        caller: &Caller,
        pace: &Pace,
        checks: &mut Vec<CheckRecord>,
    ) -> Result<Response<EdgeBody>, NotPassed> {
        let (head, mut body) = request.into_parts();
        let canonical = CanonicalRequest::parse(&head.method, &head.uri, &head.headers, head.version)
            .map_err(|error| Denial::from(&error))?;
        let leaving = asks_to_leave(&head.headers).then(|| self.upgrades.admit_caller(&head)).transpose()?;
        let connection = head.extensions.get::<Connection>();
        let limits = self.body_limits(&head);
        let consulted = self.filter(&canonical, caller, connection, (&mut body, limits)).await?;
        if let Some(consulted) = &consulted {
            checks.push(checked(FILTER, CheckResult::Pass, consulted.told.clone()));
        }
        let fault = BodyFault::default();
        let body = BoundedBody::new(body, limits, fault.clone());
        let mut outbound = Request::new(body.paced(pace.clone()));
        *outbound.method_mut() = canonical.method().clone();
        *outbound.uri_mut() = path(&canonical)?;
        *outbound.version_mut() = Version::HTTP_11;
        let changes = consulted.as_ref().map(|consulted| &consulted.changes);
        let mut headers = self.headers(&canonical, caller, changes)?;
        state_framing(&mut headers, outbound.body());
        if self.app.speaks_http2() {
            take_trailers(&mut headers);
        }
        *outbound.headers_mut() = headers;
        if leaving.is_some() {
            dress_request(outbound.headers_mut());
        }
        let workload = caller.workload().map(|workload| workload.id.clone());
        let sending = self.app.send(outbound, workload.as_ref(), connection, leaving.is_some());
        let answer = sending.await.map_err(|error| match fault.seen() {
            Some(fault) => fault.denial(),
            None => Denial::new(Code::UpstreamUnreachable, with_causes(&error)),
        })?;
        let answer = match leaving {
            None => answer,
            Some(tenure) => match self.upgrades.answer_of_app(answer, tenure).await? {
                Said::Yes(answer) => return Ok(answer),
                Said::No(answer) => answer,
            },
        };
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let why = "the service leaves HTTP, and nobody asked";
            return Err(Denial::new(Code::UpstreamProtocol, why).into());
        }
        let (mut head, body) = answer.into_parts();
        strip_hop_by_hop(&mut head.headers);
        strip_identity_headers(&mut head.headers);
        head.extensions.clear();
        let limits = BodyLimits { bytes_max: u64::MAX, slowest: None, ..self.body };
        let pace = pace.of_answer(&body);
        let body = BoundedBody::new(body, limits, BodyFault::default()).paced(pace);
        Ok(Response::from_parts(head, body.boxed_unsync()))
    }

    /// A stream of gRPC may have little to say, where it is one from end to end: over HTTP/1.1 anybody could call a body
    /// so, and the service would wait for it.
    fn body_limits(&self, head: &Parts) -> BodyLimits {
        let streams = is_grpc(&head.headers) && head.version == Version::HTTP_2 && self.app.speaks_http2();
        BodyLimits { slowest: self.body.slowest.filter(|_| !streams), ..self.body }
    }

    /// The operator's own filters, about a call that the door let in.
    async fn filter(
        &self,
        request: &CanonicalRequest,
        caller: &Caller,
        connection: Option<&Connection>,
        body: (&mut RequestBody, BodyLimits),
    ) -> Result<Option<Consulted>, FilterError> {
        if self.filters.is_empty() {
            return Ok(None);
        }
        let asked = Asked {
            request,
            decision: caller.decision(),
            route: caller.route(),
            target: &self.target,
            client: connection.and_then(Connection::address).map(|address| address.ip()),
            scheme: if connection.is_some_and(|connection| connection.exporter.is_some()) {
                "https"
            } else {
                "http"
            },
            workload: caller.workload().map(|workload| &workload.id),
            user: caller.user().map(|user| user.get()),
        };
        self.filters.consult(caller.permit(), None, &asked, Some(body)).await.map(Some)
    }

    fn headers(
        &self,
        request: &CanonicalRequest,
        caller: &Caller,
        changes: Option<&Changes>,
    ) -> Result<http::HeaderMap, Denial> {
        let mut headers = request.headers().clone();
        strip_hop_by_hop(&mut headers);
        strip_identity_headers(&mut headers);
        headers.remove(header::EXPECT);
        if let Some(changes) = changes {
            changes.apply(&mut headers);
        }
        let host = HeaderValue::from_str(&request.authority().to_string());
        headers.insert(header::HOST, host.map_err(|_| Denial::new(Code::AuthorityAmbiguous, "host"))?);
        headers::tell(&mut headers, caller);
        caller.trace().set(&mut headers);
        let sealed = self.contexts.seal(caller, clock::now());
        let sealed = sealed.map_err(|error| Denial::new(Code::Internal, error.to_string()))?;
        let mut sealed = HeaderValue::from_str(&sealed)
            .map_err(|_| Denial::new(Code::Internal, "a sealed context does not fit into a header"))?;
        sealed.set_sensitive(true);
        headers.insert(CONTEXT, sealed);
        Ok(headers)
    }
}

/// Why the service is not asked, or its answer not given.
#[derive(Debug)]
enum NotPassed {
    Filtered(FilterError),
    Denied(Denial),
}

impl From<FilterError> for NotPassed {
    fn from(error: FilterError) -> Self {
        Self::Filtered(error)
    }
}

impl From<Denial> for NotPassed {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

/// What the caller gets where a filter says no: the filter's own page, where the caller could read one.
fn stopped(error: &FilterError, denial: &Denial, decision: DecisionId, to_grpc: bool) -> Response<EdgeBody> {
    match error {
        FilterError::Refused { stopped, .. } if !to_grpc => {
            stopped.response(denial.response(decision), decision)
        }
        _ => refused(denial, decision, to_grpc),
    }
}

fn checked(name: &str, result: CheckResult, detail: String) -> CheckRecord {
    CheckRecord { name: name.to_owned(), result, detail }
}

/// A body is the service's, with errors of ours, or a refusal, which has none.
fn of_body(error: Box<dyn std::error::Error + Send + Sync>) -> BodyError {
    error.downcast::<BodyError>().map_or(BodyError::BrokenOff, |error| *error)
}

fn path(request: &CanonicalRequest) -> Result<Uri, Denial> {
    let path = request.path_and_query().parse();
    path.map_err(|_| Denial::new(Code::PathAmbiguous, "the canonical path is no uri"))
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

/// Errors of the sidecar itself, in its own words, under the id that they have in the ledger.
pub(super) fn refused(denial: &Denial, decision: DecisionId, to_grpc: bool) -> Response<EdgeBody> {
    denial.answer(decision, to_grpc).map(|body| body.map_err(|never| match never {}).boxed_unsync())
}

/// Names of checks behind the door, as in the records of a gateway.
const FILTER: &str = "filter";
const UPSTREAM: &str = "upstream";
