//! The order of the stages, once. Each stage takes what the one before proved; none asks an earlier one.
//!
//! | stage | takes | yields |
//! |---|---|---|
//! | read | the request's head | [`CanonicalRequest`], for a host that this connection serves |
//! | throttle | address | – |
//! | route | canonical request | [`Route`] |
//! | authenticate | route, access token | [`Caller`] |
//! | decide | caller, route | [`Permit`] |
//! | filter | permit, request | what the operator's own filters change |
//! | countersign | permit, session | the internal token |
//! | forward | permit, request | the answer |
//! | record | everything above | one ledger event |

mod filter;
mod login;
mod onward;
mod preflight;
mod upgrade;
mod upkeep;

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;

use countersign_identity::{Caller, Possession};
use countersign_keys::SystemRandom;
use countersign_ledger::{Event, Pseudonym, pseudonym};
use countersign_policy::{Ask, Explainer, Permit, PolicySet, decide};
use countersign_request::{CanonicalRequest, DPOP, Head};
use countersign_sdk::accept::RequestBody;
use countersign_sdk::authenticate::{
    AccessCredential, Evidence, EvidenceError, UserTerm, access_credential, authenticate,
};
use countersign_sdk::clock;
use countersign_sdk::inbound::{DecisionDraft, is_grpc};
use countersign_sdk::live::{Freshness, Live};
use countersign_sdk::outbound::InternalToken;
use countersign_sdk::trace::{Hop, TraceContext};
use countersign_sdk::workload::Workload;
use countersign_token::ForeignTokenError;
use http::{HeaderName, HeaderValue, Request, Response, header, request::Parts};

use self::onward::Outgoing;
use crate::body::Pace;
use crate::filter::{Changes, Filters};
use crate::forward::EdgeBody;
use crate::guard::Guard;
use crate::guard::limits::Known;
use crate::headers::Rules;
use crate::issuer::{Issuers, Refetched};
use crate::listener::Arrival;
use crate::login::LoginDesk;
use crate::observed::observed;
use crate::proof::{DPOP_NONCE, Proofs};
use crate::record::{Check, Notes, Recorder, Trace, Underway};
use crate::refusal::Refusal;
use crate::route::{NoRoute, Route, RouteTable, Target};
use crate::settings::{Limits, Settings, UserNeed};
use crate::throttle::Throttle;
use crate::token::{AccessRules, Internal, Session, Tokens};
use crate::upgrade::{Newest, asks_to_leave, is_handshake};
use crate::upstream::Upstreams;

/// Everything that a request meets between the listener and the service behind.
pub(crate) struct Pipeline {
    pub(crate) routes: RouteTable,
    pub(crate) upstreams: Arc<Upstreams>,
    pub(crate) rules: Rules,
    pub(crate) throttle: Arc<Throttle>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) guard: Arc<Guard>,
    pub(crate) filters: Filters,
    pub(crate) issuers: Arc<Issuers>,
    pub(crate) proofs: Arc<Proofs>,
    pub(crate) login: Option<LoginDesk>,
    pub(crate) workload: Workload,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) limits: Limits,
    /// What it was made of.
    pub(crate) settings: Settings,
    /// No two pipelines of a process have the same, whatever became of them.
    pub(crate) number: u64,
    pub(crate) explainer: Explainer,
}

impl Pipeline {
    /// Answers one request, whatever happens.
    pub(crate) async fn handle(
        &self,
        request: Request<RequestBody>,
        arrival: &Arrival,
    ) -> Response<EdgeBody> {
        let arrival = &*self.guard.arrival(arrival, request.headers());
        let mut context = TraceContext::of_request(request.headers());
        if !arrival.is_known() {
            context = context.decided_here();
        }
        let proves_a_key = request.headers().contains_key(DPOP);
        let mut draft = DecisionDraft::begin(GATEWAY, context.hop());
        draft.asks_for(request.method(), "");
        if let Some(connection) = &arrival.connection {
            draft.came_over(connection);
        }
        let mut underway = Underway::new(&self.recorder, Trace::new(draft, arrival.address()));
        let trace = &mut underway.trace;
        trace.told = self.guard.told(request.headers());
        trace.is_grpc = is_grpc(request.headers());
        let (limit, pace) = (self.limits.request_timeout(), Pace::of(&request, self.limits.total_timeout()));
        let after_ms = self.limits.total_timeout_ms.unwrap_or(u64::MAX).min(self.limits.request_timeout_ms);
        let outcome = {
            let running = pin!(self.run(request, arrival, (context, &pace), trace));
            let late = |_| pace.late_body(limit).map_or(Refusal::TimedOut { after_ms }, Refusal::Body);
            pace.within(limit, running).await.map_err(late).flatten()
        };
        let mut trace = underway.ended();
        let told = std::mem::take(&mut trace.told);
        let mut answer = match outcome {
            Ok(answer) => {
                let exchange = self.recorder.allowed(trace, answer.status());
                observed(answer, exchange)
            }
            Err(refusal) => self.refused(trace, &refusal, arrival).await,
        };
        told.put(&mut answer);
        // Whoever proves a key needs a nonce for the next time, and has it before the last one is too old.
        if proves_a_key && let Ok(nonce) = HeaderValue::from_str(&self.proofs.nonce(clock::now())) {
            answer.headers_mut().insert(DPOP_NONCE, nonce);
        }
        answer
    }

    /// Answers what never became a request.
    pub(crate) async fn refuse(&self, refusal: &Refusal, arrival: &Arrival) -> Response<EdgeBody> {
        let mut draft = DecisionDraft::begin(GATEWAY, Hop::first());
        if let Some(connection) = &arrival.connection {
            draft.came_over(connection);
        }
        self.refused(Trace::new(draft, arrival.address()), refusal, arrival).await
    }

    /// Answers and records a refusal.
    pub(crate) async fn refused(
        &self,
        trace: Trace,
        refusal: &Refusal,
        arrival: &Arrival,
    ) -> Response<EdgeBody> {
        let denial = refusal.denial();
        let answer = refusal.response(&denial, &trace, arrival.is_http_1);
        let status = if trace.is_grpc { denial.status() } else { answer.status() };
        let exchange = self.recorder.refused(trace, refusal, &denial, status).await;
        observed(answer, exchange)
    }

    /// The stages, in their order.
    async fn run(
        &self,
        request: Request<RequestBody>,
        arrival: &Arrival,
        (context, pace): (TraceContext, &Pace),
        trace: &mut Trace,
    ) -> Result<Response<EdgeBody>, Refusal> {
        let (mut head, mut body) = request.into_parts();
        let newest = head.extensions.remove::<Newest>();
        let request = self.admit(&head, arrival, trace)?;
        if let Some(answer) = self.preflight(&request, arrival, trace)? {
            return Ok(answer);
        }
        if let Some(desk) = self.login.as_ref().filter(|_| request.path() == LOGIN_PATH) {
            return self.log_in(desk, &request, body, arrival, trace).await;
        }
        let judged = self.judge_patiently(&request, Some(&mut body), arrival, trace).await?;
        let pace = &pace.clone().with_user(judged.session.as_deref().map(|session| self.user_term(session)));
        if let Some(newest) = newest {
            // Rare, and as large as all the rest.
            return Box::pin(self.leave(judged, (&request, newest), (arrival, context, pace), trace)).await;
        }
        let Judged { permit, route, target, session, changes } = judged;
        let token = session.map(|session| self.countersign(&permit, &session)).transpose()?;
        let outgoing = Outgoing { request: &request, target, body, changes, token, context, pace };
        self.forward(permit, route, outgoing, arrival, trace).await
    }

    /// Read and throttled: what anybody may ask.
    pub(crate) fn admit(
        &self,
        head: &Parts,
        arrival: &Arrival,
        trace: &mut Trace,
    ) -> Result<CanonicalRequest, Refusal> {
        let request = read(head, arrival)?;
        trace.pass(Check::Request, arrival.note());
        self.guard.admit(arrival.address())?;
        self.throttle.request(arrival.address(), clock::now())?;
        trace.pass(Check::Quota, "");
        Ok(request)
    }

    /// As [`Pipeline::judge`], and once more where the issuer may have a new key since it was asked last; with the
    /// limits that are counted, and the filters. `body`: of the request, if it is here.
    pub(crate) async fn judge_patiently(
        &self,
        request: &CanonicalRequest,
        body: Option<&mut RequestBody>,
        arrival: &Arrival,
        trace: &mut Trace,
    ) -> Result<Judged<'_>, Refusal> {
        if let Ok(route) = self.routes.find(request) {
            let known = Known::Place { address: arrival.address(), route: route.template.as_str() };
            self.guard.take(&route.guard, known, &mut trace.told, clock::now()).await?;
        }
        let recognised = match self.recognise_now(request, arrival, trace) {
            Err(refusal) if self.has_newer_keys(&refusal).await? => {
                self.recognise_now(request, arrival, trace)
            }
            recognised => recognised,
        }?;
        // Before the decision: whoever asks for what nobody may is counted too.
        let known = Known::Caller { user: recognised.user(), service: recognised.target.as_str() };
        self.guard.take(&recognised.route.guard, known, &mut trace.told, clock::now()).await?;
        let mut judged = {
            let live = self.live()?;
            self.permit(request, arrival, recognised, &live, trace, decide)?
        };
        judged.changes = self.filter(request, &judged, body, arrival, trace).await?;
        Ok(judged)
    }

    /// From the canonical request to the permit. Nothing here waits, because all that it needs is in memory; the head
    /// may be borrowed, and `decide` may remember.
    pub(crate) fn judge(
        &self,
        request: &impl Head,
        arrival: &Arrival,
        notes: &mut impl Notes,
        decide: impl FnOnce(&PolicySet, &Ask<'_>) -> Result<Permit, countersign_policy::Refusal>,
    ) -> Result<Judged<'_>, Refusal> {
        let route = self.route(request, arrival, notes)?;
        let live = self.live()?;
        let recognised = self.recognise(request, arrival, route, &live, notes)?;
        self.permit(request, arrival, recognised, &live, notes, decide)
    }

    fn recognise_now(
        &self,
        request: &CanonicalRequest,
        arrival: &Arrival,
        trace: &mut Trace,
    ) -> Result<Recognised<'_>, Refusal> {
        let route = self.route(request, arrival, trace)?;
        let live = self.live()?;
        self.recognise(request, arrival, route, &live, trace)
    }

    fn route(
        &self,
        request: &impl Head,
        arrival: &Arrival,
        notes: &mut impl Notes,
    ) -> Result<&Route, Refusal> {
        let route = self.routes.find(request)?;
        notes.asks_for(request.method(), route.template.as_str());
        // Another proxy's client cannot leave HTTP here: nobody would end what it does then.
        let may_leave = route.upgrades && arrival.through.is_none();
        if !may_leave && request.header(&UPGRADE).is_some() {
            return Err(Refusal::Upgrade);
        }
        notes.tells(self.guard.cors(&route.guard));
        self.guard.admit_to(&route.guard, arrival.address())?;
        if let Some(target) = route.lead.only() {
            notes.leads_to(target.as_str());
        }
        notes.passed(Check::Route, format_args!("{} to {}", route.template, route.lead));
        Ok(route)
    }

    fn recognise<'p>(
        &'p self,
        request: &impl Head,
        arrival: &Arrival,
        route: &'p Route,
        live: &Live,
        notes: &mut impl Notes,
    ) -> Result<Recognised<'p>, Refusal> {
        let session = self.authenticate(route, request, arrival, live, notes)?;
        let user = session.as_deref().and_then(|session| session.caller.user()).map(|user| user.id.as_str());
        let target = route.lead.choose(request, user).ok_or(NoRoute::Unknown)?;
        notes.leads_to(target.as_str());
        Ok(Recognised { route, target, session })
    }

    fn permit<'p>(
        &'p self,
        request: &impl Head,
        arrival: &Arrival,
        Recognised { route, target, session }: Recognised<'p>,
        live: &Live,
        notes: &mut impl Notes,
        decide: impl FnOnce(&PolicySet, &Ask<'_>) -> Result<Permit, countersign_policy::Refusal>,
    ) -> Result<Judged<'p>, Refusal> {
        let asked = Asked {
            route: route.template.as_str(),
            session: session.as_deref(),
            arrival,
            token_counts: route.user != UserNeed::None,
        };
        let permit = self.decide(request, asked, live, notes, decide)?;
        Ok(Judged { permit, route, target, session, changes: Changes::default() })
    }

    /// The user of a session as the ledger knows users.
    pub(crate) fn pseudonym_of(&self, session: &Session) -> Option<Pseudonym> {
        session.pseudonym(self.workload.live_cell().peek().pseudonyms())
    }

    /// For how long what streams in the name of a session may go on.
    pub(crate) fn user_term(&self, session: &Session) -> UserTerm {
        let term = session.term(self.workload.live_cell());
        match self.limits.streams_may_outlive_their_users_token_insecure {
            true => term.outliving_the_token(),
            false => term,
        }
    }

    /// Is it answered here, by the login desk?
    pub(crate) fn is_login(&self, request: &impl Head) -> bool {
        self.login.is_some() && request.path() == LOGIN_PATH
    }

    /// The newest snapshot, as long as it counts.
    fn live(&self) -> Result<impl Deref<Target = Arc<Live>> + use<>, Refusal> {
        let live = self.workload.live_cell().peek();
        if live.freshness(clock::now()) == Freshness::Stale { Err(Refusal::Stale) } else { Ok(live) }
    }

    /// The user behind the access token. A token that is there and wrong is final on every route that looks at it, and
    /// so is a proof.
    fn authenticate(
        &self,
        route: &Route,
        request: &impl Head,
        arrival: &Arrival,
        live: &Live,
        notes: &mut impl Notes,
    ) -> Result<Option<Arc<Session>>, Refusal> {
        if route.user == UserNeed::None {
            notes.passed(Check::Token, format_args!("not asked for"));
            return Ok(None);
        }
        let Some(credential) = access_credential(request)? else {
            if route.user == UserNeed::Required {
                return Err(Refusal::NoToken);
            }
            notes.passed(Check::Token, format_args!("none, and none needed"));
            return Ok(None);
        };
        let rules = self.access_rules(live);
        let now = clock::now();
        let session = match credential {
            AccessCredential::Bearer(token) => self.tokens.verify(token, None, &rules, now)?,
            AccessCredential::Dpop { token, proof } => {
                let judged = self.proofs.judge(proof, arrival.scheme, request, Some(token), now)?;
                let session = self.tokens.verify(token, Some(&judged.proof), &rules, now);
                let session = session.map_err(Refusal::HeldEvidence)?;
                self.proofs.admit(&judged, now)?;
                session
            }
        };
        notes.comes_from(&session.caller, live);
        let bound = session.caller.proof().user_possession == Possession::Key;
        let and_its_key = if bound { ", and its key" } else { "" };
        notes.passed(Check::Token, format_args!("access token{and_its_key}"));
        Ok(Some(session))
    }

    fn access_rules<'a>(&'a self, live: &'a Live) -> AccessRules<'a> {
        let snapshot = live.snapshot();
        AccessRules {
            keys: live.tokens(),
            epoch: &snapshot.epoch,
            sequence: snapshot.sequence,
            issuers: &self.issuers,
        }
    }

    /// Could a token be refused only because its issuer was not asked for its keys lately? Asks, if it may.
    async fn has_newer_keys(&self, refusal: &Refusal) -> Result<bool, Refusal> {
        let (Refusal::Evidence(evidence) | Refusal::HeldEvidence(evidence)) = refusal else {
            return Ok(false);
        };
        let EvidenceError::ForeignToken(ForeignTokenError::UnknownKey { issuer, .. }) = evidence else {
            return Ok(false);
        };
        match self.issuers.refetch(issuer).await {
            Refetched::New => Ok(true),
            Refetched::Nothing => Ok(false),
            Refetched::NoKeys => Err(Refusal::IssuerUnreachable { issuer: issuer.clone() }),
        }
    }

    /// The coarse rule. The service behind has a finer one of its own; neither relies on the other.
    fn decide<N: Notes>(
        &self,
        request: &impl Head,
        asked: Asked<'_>,
        live: &Live,
        notes: &mut N,
        decide: impl FnOnce(&PolicySet, &Ask<'_>) -> Result<Permit, countersign_policy::Refusal>,
    ) -> Result<Permit, Refusal> {
        let stranger;
        let caller: &Caller = match asked.session {
            Some(session) => &session.caller,
            None => {
                stranger = authenticate(&Evidence::default(), live.tokens(), clock::now()).caller?;
                &stranger
            }
        };
        let caller = asked.arrival.caller(Cow::Borrowed(caller));
        if asked.arrival.through.is_some() {
            notes.comes_from(&caller, live);
        }
        let caller = &*caller;
        let (method, path) = (request.method(), request.path());
        let ask = Ask { caller, target: GATEWAY, method, route: asked.route, path };
        let policies = live.policy().map_err(|error| Refusal::PolicyBroken(error.clone()))?;
        let explain = || self.explainer.reason(policies, &ask, clock::now()).fix;
        let permit = decide(policies, &ask).map_err(|refusal| Refusal::Policy {
            refusal,
            fix: if N::EXPLAINS { explain() } else { String::new() },
            could_log_in: asked.session.is_none() && asked.token_counts,
        })?;
        notes.permitted(&permit);
        notes.passed(Check::Policy, format_args!("{}", Listed(permit.policies())));
        Ok(permit)
    }

    /// The internal token that goes on in place of the access token.
    pub(crate) fn countersign(&self, _permit: &Permit, session: &Session) -> Result<InternalToken, Refusal> {
        let now = clock::now();
        // It may have ended since it was looked at, while filters were asked or limits counted.
        session.still_lives(now).map_err(|ended| Refusal::Evidence(ended.into()))?;
        let token = match self.tokens.internal(session, &SystemRandom::new(), now)? {
            Internal::Known(token) => token,
            Internal::Minted(token) => {
                self.recorder.event(self.minted(&token, session)?);
                token
            }
        };
        Ok(InternalToken::minted(token.token.expose().clone()))
    }

    fn minted(&self, token: &crate::token::InternalToken, session: &Session) -> Result<Event, Refusal> {
        let live = self.live()?;
        let user = session.caller.user().zip(live.pseudonyms());
        Ok(Event::TokenMinted {
            typ: countersign_token::txn_token::TXN_TOKEN_TYP.to_owned(),
            id: token.txn.clone(),
            user: user.map(|(user, key)| pseudonym(key, &user.id)).unwrap_or_default(),
            expires: token.expires,
        })
    }
}

/// Who makes a request, by which route, and where it would go: nothing is decided yet.
struct Recognised<'p> {
    route: &'p Route,
    target: &'p Target,
    session: Option<Arc<Session>>,
}

impl Recognised<'_> {
    fn user(&self) -> Option<&str> {
        self.session.as_deref()?.caller.user().map(|user| user.id.as_str())
    }
}

/// What a request is permitted, and where it goes.
pub(crate) struct Judged<'p> {
    pub(crate) permit: Permit,
    pub(crate) route: &'p Route,
    pub(crate) target: &'p Target,
    /// Of the user, if one is needed and came.
    pub(crate) session: Option<Arc<Session>>,
    /// What filters make of its headers.
    pub(crate) changes: Changes,
}

/// What the coarse rule is asked about.
struct Asked<'a> {
    route: &'a str,
    session: Option<&'a Session>,
    arrival: &'a Arrival,
    /// Would an access token have been looked at? Then a stranger is told to log in.
    token_counts: bool,
}

/// Names of rules, apart by commas.
struct Listed<'a>(&'a [String]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, name) in self.0.iter().enumerate() {
            write!(f, "{}{name}", if place == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// One canonical request, for a host that this connection serves, in HTTP and nothing else.
fn read(head: &Parts, arrival: &Arrival) -> Result<CanonicalRequest, Refusal> {
    let request = CanonicalRequest::parse(&head.method, &head.uri, &head.headers, head.version)?;
    if let Some(server_name) = arrival.server_name() {
        let host = request.authority().host();
        if server_name != host {
            return Err(Refusal::Misdirected { server_name: server_name.to_owned(), host: host.to_owned() });
        }
    }
    let leaves = asks_to_leave(&head.headers);
    if leaves && !is_handshake(&head.method, head.version, &head.headers) {
        return Err(Refusal::Upgrade);
    }
    match request.headers().get(header::EXPECT) {
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => Err(Refusal::Expectation),
        _ => Ok(request),
    }
}

/// Name of the gateway as a target of policies.
pub(crate) const GATEWAY: &str = "gateway";
const LOGIN_PATH: &str = "/login";
static UPGRADE: HeaderName = header::UPGRADE;
