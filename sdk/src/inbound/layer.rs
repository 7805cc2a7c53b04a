//! One request through the door.

use std::{
    error::Error as StdError,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use countersign_ledger::{CheckRecord, CheckResult, Verdict};
use countersign_policy::{Ask, Explainer, Permit, decide};
use countersign_request::{CanonicalRequest, strip_identity_headers};
use countersign_token::TokenFacts;
use countersign_wire::codes::Code;
use http::{
    HeaderMap, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH, UPGRADE},
};
use http_body::Body;
use http_body_util::{Either, Full};
use tower_service::Service;
use tracing::Instrument;

use super::{
    Caller, Challenge, DecisionDraft, Denial, Door, Lasting, Tenure, bound_body, is_grpc,
    signed_answer::{self, Wanted},
};
use crate::{
    accept::{Connection, Progress},
    authenticate::{Claimed, Rules, UserTerm},
    clock,
    live::{Freshness, Live},
    trace::TraceContext,
};

/// The body of an answer: the service's own, for as long as its user is proven, or a refusal.
pub type GuardedBody<B> = Either<Lasting<B>, Full<Bytes>>;

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

    pub(super) const fn door(&self) -> &Arc<Door> {
        &self.door
    }
}

impl<S, B, R> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + From<Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Response = Response<GuardedBody<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let door = Arc::clone(&self.door);
        // The clone is not ready; the one that is goes into the future.
        let next = self.service.clone();
        let mut service = std::mem::replace(&mut self.service, next);
        Box::pin(async move {
            let trace = TraceContext::of_request(request.headers());
            let hop = trace.hop();
            let mut draft = DecisionDraft::begin(&door.target, hop);
            let (mut wanted, to_grpc) = (None, is_grpc(request.headers()));
            let (mut request, entry) = match door.enter(request, &mut draft, trace, &mut wanted).await {
                Ok(entered) => entered,
                Err(denial) => {
                    let refusal = door.refuse(draft, &denial, to_grpc).await.map(Either::Right);
                    return Ok(door.signed(refusal, wanted.as_ref()).await);
                }
            };
            let span = tracing::info_span!(
                "countersign.request",
                decision = %draft.id(),
                trace = %hop.trace(),
                route = draft.record().route
            );
            let progress = request.extensions().get::<Progress>().cloned();
            let term = entry.user_term();
            if let (Some(progress), Some(term)) = (&progress, &term) {
                progress.is_for(term.clone());
            }
            let mut call = PermittedCall { door: &door, draft: Some(draft), bytes: None };
            match entry {
                Entry::Permitted(caller) => drop(request.extensions_mut().insert(*caller)),
                Entry::Skipped => drop(call.draft.take()),
            }
            let answering = pin!(service.call(request).instrument(span));
            let within = Progress::of(progress.as_ref(), door.limits.answer, answering);
            let Ok(answer) = within.await else {
                let late = late(progress.as_ref());
                let draft = call.draft.take().unwrap_or_else(|| DecisionDraft::begin(&door.target, hop));
                let refusal = door.refuse(draft, &late, to_grpc).await.map(Either::Right);
                return Ok(door.signed(refusal, wanted.as_ref()).await);
            };
            let mut answer = answer?;
            let word = answer.extensions_mut().remove::<Afterword>();
            // Signed before it is recorded: an answer that breaks off meanwhile has another status.
            let term = term.and_then(|term| term.of_answer(answer.body().size_hint().exact()));
            let lasting = |body| Either::Left(Lasting::new(body, term));
            let answer = door.signed(answer.map(lasting), wanted.as_ref()).await;
            call.bytes = answer.body().size_hint().exact();
            if let Some(word) = word {
                call.heard(word, answer.status()).await;
            }
            call.answered(answer.status());
            Ok(answer)
        })
    }
}

/// What stands between the door and the service and has a say of its own: a filter, a proxy. It puts this into the extensions of
/// the answer, and the record of the call has it. It can only narrow: nobody reaches it who was not let in.
#[derive(Clone, Debug)]
pub struct Afterword {
    /// What was checked, in this order.
    pub checks: Vec<CheckRecord>,
    /// Why the service was not asked, or its answer not given.
    pub denial: Option<Denial>,
}

/// A call that was let in, recorded when it ends. A caller that hangs up and a handler that panics end it too:
/// what the handler did until then is done, and the ledger must know of it.
struct PermittedCall<'a> {
    door: &'a Door,
    draft: Option<DecisionDraft>,
    /// Of the answer, where its length is known before it is sent.
    bytes: Option<u64>,
}

impl PermittedCall<'_> {
    /// Notes what was checked after the door; a refusal is recorded as one.
    async fn heard(&mut self, word: Afterword, status: StatusCode) {
        let Some(mut draft) = self.draft.take() else { return };
        for check in word.checks {
            draft.check(check);
        }
        match word.denial {
            Some(denial) => {
                // A refusal in gRPC's form travels as a success.
                let status = if status.is_success() { denial.status() } else { status };
                self.door.record_refusal(draft, &denial, status, self.bytes).await;
            }
            None => self.draft = Some(draft),
        }
    }

    fn answered(mut self, status: StatusCode) {
        if let Some(draft) = &mut self.draft {
            draft.answered(status);
        }
    }
}

impl Drop for PermittedCall<'_> {
    fn drop(&mut self) {
        let Some(mut draft) = self.draft.take() else { return };
        if draft.record().status == 0 {
            draft.unanswered();
        }
        measure(&draft);
        if let Some(exchange) = draft.exchange("") {
            exchange.ended(self.bytes);
        }
        draft.record_allowed(&self.door.spool);
    }
}

/// How a request may go on.
enum Entry {
    /// A route that everybody may use.
    Skipped,
    /// With a caller whom the policy permits.
    Permitted(Box<Caller>),
}

impl Entry {
    /// For how long it may stream.
    fn user_term(&self) -> Option<UserTerm> {
        match self {
            Entry::Skipped => None,
            Entry::Permitted(caller) => caller.user_term().cloned(),
        }
    }
}

/// No answer in time: because its request never came whole, or because of the handler.
fn late(progress: Option<&Progress>) -> Denial {
    match progress.is_some_and(Progress::awaits_sender) {
        true => Denial::new(Code::RequestTimeout, "the body of the request paused for too long"),
        false => Denial::new(Code::UpstreamTimeout, "the handler took too long"),
    }
}

/// What is asked for, read once.
struct Asked {
    canonical: CanonicalRequest,
    route: String,
}

impl Door {
    /// Canonical request, strip, authenticate, body, decide: in this order, once.
    async fn enter<B>(
        self: &Arc<Self>,
        mut request: Request<B>,
        draft: &mut DecisionDraft,
        trace: TraceContext,
        wanted: &mut Option<Wanted>,
    ) -> Result<(Request<B>, Entry), Denial>
    where
        B: Body<Data = Bytes> + From<Bytes>,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let connection = request.extensions().get::<Connection>().cloned();
        // One for the whole request: what names its route also says who may use it.
        let live = self.live.load();
        let asked = self.read(&mut request, connection.as_ref(), &live, draft)?;
        if self.is_skipped(&asked.canonical) {
            return Ok((request, Entry::Skipped));
        }
        let mut claimed = self.authenticate(&asked, connection.as_ref(), &live, draft)?;
        strip_credential(request.headers_mut());
        let (token, facts) = (claimed.take_token(), claimed.take_user_facts());
        let term = facts.map(|facts| self.user_term(facts));
        *wanted = claimed.take_answer().map(|nonce| Wanted::by(&asked.canonical, nonce));
        let (caller, request) = bound_body::confirm(claimed, request, &self.limits)
            .await
            .inspect_err(|denial| draft.failed("body", &denial.reason))?;
        let permit = self.decide(&asked, &caller, connection.as_ref(), &live, draft)?;
        let mut request = request;
        let route = asked.route.clone();
        if asked.canonical.headers().contains_key(UPGRADE) {
            let what = (asked.canonical, asked.route);
            request.extensions_mut().insert(Tenure::new(self, what, connection, &caller, draft.clone()));
        }
        let caller = Caller::new(caller, permit, (draft.id(), route), (token, term), trace);
        Ok((request, Entry::Permitted(Box::new(caller))))
    }

    fn user_term(&self, facts: Arc<TokenFacts>) -> UserTerm {
        let term = UserTerm::of(facts, Arc::clone(&self.live));
        if self.limits.streams_may_outlive_their_users_token_insecure {
            term.outliving_the_token()
        } else {
            term
        }
    }

    fn read<B>(
        &self,
        request: &mut Request<B>,
        connection: Option<&Connection>,
        live: &Live,
        draft: &mut DecisionDraft,
    ) -> Result<Asked, Denial> {
        if let Some(connection) = connection {
            draft.came_over(connection);
        }
        let canonical = canonical(request)?;
        self.check_length(&canonical)?;
        let route = self.route(&canonical, request.extensions(), live);
        draft.asks_for(canonical.method(), &route);
        // Only what we put there ourselves may reach the handler. A caller of an outer layer counts for nothing.
        strip_identity_headers(request.headers_mut());
        request.extensions_mut().remove::<Caller>();
        Ok(Asked { canonical, route })
    }

    fn authenticate(
        &self,
        asked: &Asked,
        connection: Option<&Connection>,
        live: &Live,
        draft: &mut DecisionDraft,
    ) -> Result<Claimed, Denial> {
        let now = clock::now();
        if live.freshness(now) == Freshness::Stale {
            return Err(Denial::new(Code::SnapshotStale, "the snapshot is past its grace period"));
        }
        let required = self.demanded(&asked.canonical);
        let accepts = live.accepts(&self.target);
        let rules = Rules { keys: live.tokens(), accepts, required: &required, now };
        let judged = self.authenticator.judge(&asked.canonical, connection, &rules);
        draft.checked(judged.checks);
        draft.proven(judged.source.as_ref(), judged.mode);
        let claimed = judged.claimed.map_err(|error| Denial::from(error).heard_by(connection))?;
        draft.comes_from(claimed.caller(), live.pseudonyms());
        Ok(claimed)
    }

    fn decide(
        &self,
        asked: &Asked,
        caller: &countersign_identity::Caller,
        connection: Option<&Connection>,
        live: &Live,
        draft: &mut DecisionDraft,
    ) -> Result<Permit, Denial> {
        let (method, path) = (asked.canonical.method(), asked.canonical.path());
        let ask = Ask { caller, target: &self.target, method, route: &asked.route, path };
        let could_help = connection.is_some_and(|connection| connection.asks_for_certificate);
        let better = could_help.then(|| Challenge::of_floor(live.accepts(&self.target)));
        let permit = judge(live, &ask, better, &self.explainer, draft)?;
        draft.permitted(&permit);
        Ok(permit)
    }

    async fn signed<R>(
        &self,
        answer: Response<GuardedBody<R>>,
        wanted: Option<&Wanted>,
    ) -> Response<GuardedBody<R>>
    where
        R: Body<Data = Bytes>,
        R::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        match wanted {
            Some(wanted) => {
                signed_answer::sign(answer, wanted, self.credentials.as_ref(), self.limits.answer).await
            }
            None => answer,
        }
    }

    fn check_length(&self, request: &CanonicalRequest) -> Result<(), Denial> {
        let length: Option<u64> =
            request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        match length {
            Some(bytes) if bytes > self.limits.body_bytes_max => {
                Err(Denial::new(Code::BodyTooLarge, format!("the body has {bytes} bytes")))
            }
            _ => Ok(()),
        }
    }

    /// Records a refusal, then answers. A disk that says no does not let anybody in.
    async fn refuse(&self, draft: DecisionDraft, denial: &Denial, to_grpc: bool) -> Response<Full<Bytes>> {
        let response = denial.answer(draft.id(), to_grpc);
        let bytes = response.body().size_hint().exact();
        self.record_refusal(draft, denial, denial.status(), bytes).await;
        response
    }

    /// On disk before the caller hears of it. Strangers whom nothing let in are counted per address and minute beyond the
    /// first few, so that they cannot fill the disk.
    pub(super) async fn record_refusal(
        &self,
        mut draft: DecisionDraft,
        denial: &Denial,
        status: StatusCode,
        bytes: Option<u64>,
    ) {
        let was_let_in = draft.record().verdict == Verdict::Allow;
        draft.denied(denial);
        draft.answered(status);
        tracing::info!(decision = %draft.id(), code = %denial.code, route = draft.record().route, "request refused");
        measure(&draft);
        self.spool.edges().count(draft.edge());
        if let Some(exchange) = draft.exchange("") {
            exchange.ended(bytes);
        }
        if draft.is_of_a_stranger() && !was_let_in {
            let decision = draft.record().clone();
            return self.spool.record_refused_stranger(draft.address(), decision, denial.code);
        }
        if let Err(error) = self.spool.record_durably(draft.into_event()).await {
            tracing::error!(%error, "a refusal could not be recorded");
        }
    }
}

/// Names of OpenTelemetry's semantic conventions, as Prometheus writes them. Routes are templates, so the number
/// of series is bounded.
pub(super) fn measure(draft: &DecisionDraft) {
    let record = draft.record();
    let seconds = Duration::from_micros(record.latency_us).as_secs_f64();
    measure_many(draft, record.status, std::iter::once((seconds, 1)));
}

/// The same for many calls with this status.
pub(super) fn measure_many(draft: &DecisionDraft, status: u16, samples: impl Iterator<Item = (f64, usize)>) {
    let record = draft.record();
    let labels = [
        ("http_route", record.route.clone()),
        ("http_request_method", record.method.clone()),
        ("http_response_status_code", status.to_string()),
        ("countersign_target", record.target.clone()),
        ("countersign_auth_mode", record.mode.clone()),
        ("error_type", record.code.clone().unwrap_or_default()),
    ];
    let durations = metrics::histogram!("http_server_request_duration_seconds", &labels);
    samples.for_each(|(seconds, count)| durations.record_many(seconds, count));
}

fn judge(
    live: &Live,
    ask: &Ask<'_>,
    better: Option<Challenge>,
    explainer: &Explainer,
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
            let reason = explainer.reason(policies, ask, clock::now());
            let nearest = reason.nearest.map_or_else(String::new, |rule| format!("; nearest rule: {rule}"));
            draft.check(check(CheckResult::Fail, format!("{refusal}{nearest}")));
            let stranger = ask.caller.workload().is_none();
            let denial = Denial::of_policy(&refusal, reason.fix, stranger, better.is_some());
            // Who came with nothing is told what the service would like best.
            Err(match better.filter(|_| denial.challenge != Challenge::None) {
                Some(better) => denial.with_challenge(better),
                None => denial,
            })
        }
    }
}

/// A credential that proved the caller is no business of the handler. Other schemes are the application's.
fn strip_credential(headers: &mut HeaderMap) {
    let scheme =
        headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().split(|byte| *byte == b' ').next());
    let ours = [b"bearer".as_slice(), b"macaroon"];
    if scheme.is_some_and(|scheme| ours.iter().any(|known| scheme.eq_ignore_ascii_case(known))) {
        headers.remove(AUTHORIZATION);
    }
}

fn canonical<B>(request: &Request<B>) -> Result<CanonicalRequest, Denial> {
    CanonicalRequest::parse(request.method(), request.uri(), request.headers(), request.version())
        .map_err(|error| Denial::from(&error))
}
