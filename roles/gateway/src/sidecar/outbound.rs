//! From the service to its callees: `Host` names one of them, and the sidecar proves who is calling.

use std::sync::Arc;
use std::time::Duration;

use countersign_http1::RequestHeadError;
use countersign_identity::{Mode, ServiceName};
use countersign_request::{CanonicalRequest, strip_hop_by_hop, strip_identity_headers};
use countersign_sdk::accept::{Connection, RequestBody};
use countersign_sdk::clock;
use countersign_sdk::context::{CONTEXT, Context, ContextError, ContextKey};
use countersign_sdk::inbound::{DecisionDraft, Denial, is_grpc};
use countersign_sdk::outbound::{Answer, CallError, Outgoing};
use countersign_sdk::trace::{Hop, TraceContext};
use countersign_sdk::workload::Workload;
use countersign_wire::codes::Code;
use http::{HeaderMap, Request, Response, Uri, Version, header};
use http_body_util::BodyExt as _;

use super::inbound::{refuse_unread, refused};
use super::settings::Settings;
use super::upgrade::{Said, Upgrades};
use crate::body::{BodyFault, BodyLimits, BoundedBody, Pace};
use crate::engine::{Answering, Answers};
use crate::forward::EdgeBody;
use crate::headers::take_trailers;
use crate::upgrade::asks_to_leave;

/// Takes the calls of the one service in whose name they are made.
#[derive(Clone)]
pub(super) struct FromApp(Arc<Inner>);

struct Inner {
    workload: Workload,
    contexts: Arc<ContextKey>,
    body: BodyLimits,
    total: Option<Duration>,
    upgrades: Upgrades,
}

impl FromApp {
    pub(super) fn new(workload: Workload, contexts: Arc<ContextKey>, settings: &Settings) -> Self {
        let (body, total) = (settings.own_bodies(), settings.total_timeout());
        let upgrades = Upgrades::of(settings);
        Self(Arc::new(Inner { workload, contexts, body, total, upgrades }))
    }
}

impl Answers for FromApp {
    fn answer(&self, request: Request<RequestBody>) -> Answering {
        let inner = Arc::clone(&self.0);
        let to_grpc = is_grpc(request.headers());
        Box::pin(async move {
            let mut draft = inner.draft(&request);
            match inner.pass_on(request, &mut draft).await {
                Ok(answer) => answer,
                Err(denial) => inner.refuse(draft, &denial, to_grpc).await,
            }
        })
    }

    fn refuse(&self, error: &RequestHeadError, connection: &Connection) -> Answering {
        refuse_unread(&self.0.workload, error, connection)
    }
}

impl Inner {
    /// What is known of a call before anything was looked at: whose it is.
    fn draft(&self, request: &Request<RequestBody>) -> DecisionDraft {
        let mut draft = DecisionDraft::begin(UNKNOWN, Hop::of_request(request.headers()));
        draft.proven(Some(self.workload.id()), Mode::None);
        // Which template of the callee it is, the callee knows.
        draft.asks_for(request.method(), "");
        if let Some(connection) = request.extensions().get::<Connection>() {
            draft.came_over(connection);
        }
        draft
    }

    /// A call that was not made, or has no answer: on disk before the service hears of it.
    async fn refuse(&self, mut draft: DecisionDraft, denial: &Denial, to_grpc: bool) -> Response<EdgeBody> {
        let id = draft.id();
        tracing::warn!(decision = %id, code = %denial.code, why = denial.reason, "a call of the service was not made");
        draft.denied(denial);
        draft.answered(denial.status());
        if let Err(error) = self.workload.spool().record_durably(draft.into_event()).await {
            tracing::error!(%error, "a refusal could not be recorded");
        }
        refused(denial, id, to_grpc)
    }

    async fn pass_on(
        &self,
        request: Request<RequestBody>,
        draft: &mut DecisionDraft,
    ) -> Result<Response<EdgeBody>, Denial> {
        check_uid(request.extensions().get::<Connection>())?;
        let pace = Pace::of(&request, self.total);
        let (head, body) = request.into_parts();
        let request = CanonicalRequest::parse(&head.method, &head.uri, &head.headers, head.version)
            .map_err(|error| Denial::from(&error))?;
        let callee = callee(&request)?;
        draft.leads_to(callee.as_str());
        let context = self.context(request.headers()).map_err(|error| of_context(&error))?;
        let client = self.workload.client(callee.as_str());
        let said = TraceContext::relayed(request.headers());
        let client = match &context {
            Some(context) => {
                let client = client.in_context(context);
                // A service that makes spans of its own says which one the call belongs to; of another trace it cannot be.
                if said.hop().trace() == context.trace().hop().trace() {
                    client.in_trace(said)
                } else {
                    client
                }
            }
            None => client.in_trace(said),
        };
        if asks_to_leave(&head.headers) {
            return match Box::pin(self.upgrades.call(&client, &head, &request)).await? {
                Said::Yes(answer) => Ok(answer),
                Said::No(answer) => Ok(self.answer(answer, pace)),
            };
        }
        let fault = BodyFault::default();
        let outbound = self.outbound(&request, body, (&fault, &pace))?;
        let answer = pace.in_all(client.send(outbound)).await.map_err(|_| pace.late(Duration::MAX))?;
        let answer = answer.map_err(|error| match fault.seen() {
            Some(fault) => fault.denial(),
            None => Denial::from(&error),
        })?;
        Ok(self.answer(answer, pace))
    }

    /// On whose behalf. A context that is there and does not hold is final: a call without the user is another call.
    fn context(&self, headers: &HeaderMap) -> Result<Option<Context>, ContextError> {
        let mut sent = headers.get_all(CONTEXT).iter();
        match (sent.next(), sent.next()) {
            (None, _) => Ok(None),
            (Some(sealed), None) => self.contexts.open(sealed.as_bytes(), clock::now()).map(Some),
            (Some(_), Some(_)) => Err(ContextError::NotOurs),
        }
    }

    fn outbound(
        &self,
        request: &CanonicalRequest,
        body: RequestBody,
        (fault, pace): (&BodyFault, &Pace),
    ) -> Result<Request<Outgoing>, Denial> {
        let uri: Uri = request.path_and_query().parse().map_err(|_| Denial::from(&CallError::BadRequest))?;
        let mut headers = request.headers().clone();
        strip_hop_by_hop(&mut headers);
        strip_identity_headers(&mut headers);
        for name in [header::HOST, header::EXPECT] {
            headers.remove(name);
        }
        take_trailers(&mut headers);
        let body = BoundedBody::new(body, self.body, fault.clone()).paced(pace.clone());
        let mut outbound = Request::new(body.map_err(Into::into).boxed_unsync());
        *outbound.method_mut() = request.method().clone();
        *outbound.uri_mut() = uri;
        *outbound.version_mut() = Version::HTTP_2;
        *outbound.headers_mut() = headers;
        Ok(outbound)
    }

    fn answer(&self, answer: Response<Answer>, pace: Pace) -> Response<EdgeBody> {
        let (mut head, body) = answer.into_parts();
        head.version = Version::HTTP_11;
        head.extensions.clear();
        strip_hop_by_hop(&mut head.headers);
        let limits = BodyLimits { bytes_max: u64::MAX, ..self.body };
        let body = BoundedBody::new(body, limits, BodyFault::default()).paced(pace);
        Response::from_parts(head, body.boxed_unsync())
    }
}

/// The socket's mode keeps other users out; what the kernel says of the peer is asked all the same, because a mode can be
/// changed while we run. On the insecure loopback port nobody can say.
fn check_uid(connection: Option<&Connection>) -> Result<(), Denial> {
    let Some(peer) = connection.and_then(Connection::unix) else { return Ok(()) };
    let own = nix::unistd::geteuid().as_raw();
    if peer.uid == own {
        return Ok(());
    }
    let why = format!("uid {} speaks to the sidecar of uid {own}", peer.uid);
    Err(Denial::new(Code::NotPermitted, why))
}

/// The registered service that the request is for: its short name, without a port or with any.
fn callee(request: &CanonicalRequest) -> Result<ServiceName, Denial> {
    let host = request.authority().host();
    ServiceName::parse(host).map_err(|error| {
        let why = format!("host {host:?} names no service ({error}); call http://NAME/…");
        Denial::new(Code::UpstreamUnknown, why)
    })
}

fn of_context(error: &ContextError) -> Denial {
    let code = match error {
        ContextError::Expired => Code::TokenExpired,
        ContextError::NotOurs => Code::TokenSignature,
        ContextError::TooLong { .. } => Code::TokenMalformed,
    };
    Denial::new(code, error.to_string())
}

/// As the ledger calls a callee that was not found out.
const UNKNOWN: &str = "unknown";
