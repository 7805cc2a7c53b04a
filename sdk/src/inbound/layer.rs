//! One request through the door.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use countersign_ledger::{CheckRecord, CheckResult};
use countersign_policy::{Ask, Permit, decide, explain};
use countersign_request::{CanonicalRequest, TXN_TOKEN, strip_identity_headers};
use countersign_wire::codes::Code;
use http::{Request, Response};
use http_body_util::{Either, Full};
use tower_service::Service;

use super::{Caller, DecisionDraft, Denial, Door, TraceId};
use crate::{
    accept::Connection,
    authenticate::{Evidence, authenticate},
    clock,
    live::{Freshness, Live},
    outbound::InternalToken,
};

/// The body of an answer: the service's own, or a refusal.
pub type GuardedBody<B> = Either<B, Full<Bytes>>;

/// A service behind the door.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    service: S,
    door: Arc<Door>,
}

impl<S> Guarded<S> {
    pub(super) const fn new(service: S, door: Arc<Door>) -> Self {
        Self { service, door }
    }
}

impl<S, B, R> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: Send + 'static,
{
    type Response = Response<GuardedBody<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let door = Arc::clone(&self.door);
        // The clone is not ready; the one that is goes into the future.
        let next = self.service.clone();
        let mut service = std::mem::replace(&mut self.service, next);
        Box::pin(async move {
            let trace = TraceId::of_request(request.headers());
            let mut draft = DecisionDraft::begin(&door.target, trace);
            let entry = match door.enter(&mut request, &mut draft, trace) {
                Ok(entry) => entry,
                Err(denial) => return Ok(door.refuse(draft, &denial).await.map(Either::Right)),
            };
            let answer = match entry {
                Entry::Skipped => return Ok(service.call(request).await?.map(Either::Left)),
                Entry::Permitted(caller) => {
                    request.extensions_mut().insert(*caller);
                    service.call(request).await?
                }
            };
            draft.answered(answer.status());
            door.spool.edges().count(draft.edge());
            door.spool.record(draft.into_event());
            Ok(answer.map(Either::Left))
        })
    }
}

/// How a request may go on.
enum Entry {
    /// A route that everybody may use.
    Skipped,
    /// With a caller whom the policy permits.
    Permitted(Box<Caller>),
}

impl Door {
    /// Canonical request, strip, authenticate, decide: in this order, once.
    fn enter<B>(
        &self,
        request: &mut Request<B>,
        draft: &mut DecisionDraft,
        trace: TraceId,
    ) -> Result<Entry, Denial> {
        let connection = request.extensions().get::<Connection>().cloned();
        if let Some(connection) = &connection {
            draft.came_over(connection);
        }
        let canonical = canonical(request)?;
        let route = self.route(&canonical, request.extensions());
        draft.asks_for(canonical.method(), &route);
        // Only what we put there ourselves may reach the handler. A caller of an outer layer counts for nothing.
        strip_identity_headers(request.headers_mut());
        request.extensions_mut().remove::<Caller>();
        if self.is_skipped(&canonical) {
            return Ok(Entry::Skipped);
        }

        let (live, now) = (self.live.load(), clock::now());
        if live.freshness(now) == Freshness::Stale {
            return Err(Denial::new(Code::SnapshotStale, "the snapshot is past its grace period"));
        }
        let token = canonical.headers().get(TXN_TOKEN).and_then(|value| value.to_str().ok());
        let evidence = Evidence { connection: connection.as_ref(), txn_token: token, access_token: None };
        let authenticated = authenticate(&evidence, live.tokens(), now);
        draft.checked(authenticated.checks);
        let caller = authenticated.caller.map_err(|error| Denial::from(&error))?;
        draft.comes_from(&caller, live.pseudonyms());

        let ask = Ask {
            caller: &caller,
            target: &self.target,
            method: canonical.method(),
            route: &route,
            path: canonical.path(),
        };
        let could_help = connection.as_ref().is_some_and(|connection| connection.asks_for_certificate);
        let permit = judge(&live, &ask, could_help, draft)?;
        draft.permitted(&permit);
        let token = token.filter(|_| caller.user().is_some()).map(InternalToken::verified);
        let caller = Caller::new(caller, permit, draft.id(), token, trace);
        Ok(Entry::Permitted(Box::new(caller)))
    }

    /// Records a refusal durably, then answers. A disk that says no does not let anybody in.
    async fn refuse(&self, mut draft: DecisionDraft, denial: &Denial) -> Response<Full<Bytes>> {
        draft.denied(denial);
        let response = denial.response(draft.id());
        draft.answered(response.status());
        tracing::info!(decision = %draft.id(), code = %denial.code, route = draft.record().route, "request refused");
        self.spool.edges().count(draft.edge());
        if let Err(error) = self.spool.record_durably(draft.into_event()).await {
            tracing::error!(%error, "a refusal could not be recorded");
        }
        response
    }
}

fn judge(
    live: &Live,
    ask: &Ask<'_>,
    certificate_could_help: bool,
    draft: &mut DecisionDraft,
) -> Result<Permit, Denial> {
    let check = |result, detail: String| CheckRecord { name: "policy".to_owned(), result, detail };
    let policies = live.policy().map_err(|error| {
        draft.check(check(CheckResult::Fail, error.to_string()));
        Denial::new(Code::PolicyError, error.to_string())
    })?;
    match decide(policies, ask) {
        Ok(permit) => {
            draft.check(check(CheckResult::Pass, permit.policies().join(", ")));
            Ok(permit)
        }
        Err(refusal) => {
            let explanation = explain(policies, ask);
            let nearest =
                explanation.nearest.map_or_else(String::new, |rule| format!("; nearest rule: {rule}"));
            draft.check(check(CheckResult::Fail, format!("{refusal}{nearest}")));
            let stranger = ask.caller.workload().is_none();
            Err(Denial::of_policy(&refusal, explanation.fix, stranger, certificate_could_help))
        }
    }
}

fn canonical<B>(request: &Request<B>) -> Result<CanonicalRequest, Denial> {
    CanonicalRequest::parse(request.method(), request.uri(), request.headers(), request.version())
        .map_err(|error| Denial::from(&error))
}
