//! The door of the API: evidence becomes a `Caller`, the table turns it into a permit, the ledger records.
//!
//! One router serves two listeners. Over HTTPS a caller proves itself by an SVID in the handshake or by an access
//! token, over the admin socket by its uid; nothing that a header says about a caller counts anywhere else.

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::Body,
    extract::{MatchedPath, Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
};
use countersign_identity::{
    Binding, Caller, DecisionId, Freshness, Possession, Proof, UnixTime, User, UserProof, Verified,
    WorkloadProof,
};
use countersign_ledger::{CheckRecord, CheckResult, Event, Verdict};
use countersign_policy::{Refusal, address_key};
use countersign_request::CanonicalRequest;
use countersign_sdk::{
    accept::{Connection, Origin},
    authenticate::{Authenticated, Evidence, authenticate, bearer_token},
    clock,
    inbound::{Challenge, DecisionDraft, Denial, new_decision_id},
    live::TokenKeys,
    tls::{HandshakeObserver, HandshakeOutcome, HandshakeReport},
    trace::Hop,
};
use countersign_wire::codes::Code;
use http::Method;

use crate::{
    api::{self, ApiError},
    journal::{Journal, Told},
    state::Authority,
};

/// What the ledger calls us where somebody called us.
pub(crate) const TARGET: &str = "authority";

/// Who calls, as handlers and the ledger name it: `uid:0`, a SPIFFE ID, a pseudonym, or `stranger`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Actor(pub(crate) String);

/// The API for both listeners.
pub(crate) fn router(authority: &Arc<Authority>) -> Router {
    let guarded = api::routes().route_layer(from_fn_with_state(Arc::clone(authority), guard));
    guarded
        .merge(api::metadata::routes())
        .fallback(async || ApiError::from(Code::RouteUnknown))
        .method_not_allowed_fallback(async || ApiError::from(Code::MethodNotAllowed))
        .layer(from_fn(read_in_one_way))
        .with_state(Arc::clone(authority))
}

/// Refuses whatever two programs could read differently, before anything else looks at it.
async fn read_in_one_way(mut request: Request, next: Next) -> Response {
    let parsed =
        CanonicalRequest::parse(request.method(), request.uri(), request.headers(), request.version());
    match parsed {
        Ok(canonical) => {
            request.extensions_mut().insert(Path(canonical.path().to_owned()));
            next.run(request).await
        }
        Err(error) => {
            // What is wrong is in the request itself, so its sender may know.
            let denial = Denial::from(&error);
            ApiError::because(denial.code, denial.reason).into_response()
        }
    }
}

/// The canonical path.
#[derive(Clone)]
struct Path(String);

/// authenticate → decide → act → record.
async fn guard(
    State(authority): State<Arc<Authority>>,
    Extension(connection): Extension<Connection>,
    Extension(Path(path)): Extension<Path>,
    matched: MatchedPath,
    mut request: Request,
    next: Next,
) -> Response {
    if let Err(error) = within_quota(&authority, &connection) {
        return error.into_response();
    }
    let action = format!("{} {}", request.method(), matched.as_str());
    let mut draft = DecisionDraft::begin(TARGET, Hop::of_request(request.headers()));
    draft.came_over(&connection);
    draft.asks_for(request.method(), matched.as_str());
    let form = ErrorForm::of(matched.as_str());
    let proven = prove(&authority, &connection, &request, form);
    draft.checked(proven.checks);
    let caller = match proven.caller {
        Ok(caller) => caller,
        Err(denial) => return refuse(&authority, &connection, draft, &denial, None, form),
    };
    draft.comes_from(&caller, Some(&authority.keys.load().pseudonym));
    // The permit is proof for this function alone: the handler behind is exactly the route that was asked for.
    let _permit = match authority.table.decide(&caller, &action, &path) {
        Ok(permit) => permit,
        Err(refusal) => {
            let denial = not_permitted(&refusal, &caller, authority.table.fix(&caller, &action, &path));
            draft.check(policy_check(&denial));
            return refuse(&authority, &connection, draft, &denial, Some(&caller), form);
        }
    };
    let actor = actor(&authority, &caller);
    // Reading changes nothing, and an `audit tail` that recorded itself would never come to an end. A login has an
    // event of its own.
    let tell = request.method() != Method::GET && caller.proof().user == UserProof::LocalUid;
    request.extensions_mut().insert(actor.clone());
    request.extensions_mut().insert(Arc::new(caller));
    let response = next.run(request).await;
    if tell {
        let (route, actor, decision) = (action, actor.0, draft.id());
        authority.journal.note(Event::AdminCall { route, actor, verdict: Verdict::Allow, decision });
    }
    response
}

/// In which form a route tells that it refuses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ErrorForm {
    /// RFC 9457.
    Problem,
    /// RFC 6749 section 5.2. Clients of such a route authenticate to the route itself, or by their connection.
    OAuth,
}

impl ErrorForm {
    fn of(route: &str) -> Self {
        if route.starts_with("/oauth2/") { Self::OAuth } else { Self::Problem }
    }
}

/// An address that proved nothing in its handshake can ask so often and not more.
fn within_quota(authority: &Authority, connection: &Connection) -> Result<(), ApiError> {
    let Some(address) = connection.address().filter(|_| connection.peer.is_none()) else { return Ok(()) };
    let checked = authority.quota.check(&address_key(address.ip()), clock::now());
    checked.map_err(|error| ApiError::from(Code::TooManyRequests).retry_after(error.retry_after()))
}

/// A caller, or why what it presented does not count.
struct Proven {
    caller: Result<Caller, Denial>,
    checks: Vec<CheckRecord>,
}

fn prove(authority: &Authority, connection: &Connection, request: &Request, form: ErrorForm) -> Proven {
    match connection.origin {
        Origin::Unix(peer) => {
            let caller = local(authority, peer.uid);
            let (result, detail) = match &caller {
                Ok(_) => (CheckResult::Pass, format!("uid {}", peer.uid)),
                Err(denial) => (CheckResult::Fail, denial.reason.clone()),
            };
            Proven { caller, checks: vec![CheckRecord { name: "uid".to_owned(), result, detail }] }
        }
        Origin::Tcp(_) => {
            let token = match form {
                ErrorForm::Problem => bearer_token(request.headers()),
                ErrorForm::OAuth => Ok(None),
            };
            let evidence = token.map(|access_token| {
                let evidence = Evidence { connection: Some(connection), access_token, proof: None };
                authenticate(&evidence, &token_keys(authority), clock::now())
            });
            match evidence {
                Ok(Authenticated { caller, checks, .. }) => {
                    Proven { caller: caller.map_err(|error| Denial::from(&error)), checks }
                }
                Err(error) => Proven { caller: Err(Denial::from(&error)), checks: Vec::new() },
            }
        }
    }
}

/// An administrator: the operating system says who is at the other end.
fn local(authority: &Authority, uid: u32) -> Result<Caller, Denial> {
    if !authority.admins.contains(&uid) {
        let reason = format!("uid {uid} is neither the owner of the process nor in authority.admin_uids");
        return Err(Denial::new(Code::AdminNotPermitted, reason));
    }
    let name = format!("uid:{uid}");
    let user = Verified::vouch(User {
        id: name.clone(),
        name,
        roles: Vec::new(),
        txn: String::new(),
        requested_by: None,
        actors: Vec::new(),
        possession: Possession::None,
        not_after: UnixTime::from_millis(i64::MAX),
    });
    let proof = Proof {
        workload: WorkloadProof::None,
        binding: Binding::CHANNEL,
        user: UserProof::LocalUid,
        user_possession: Possession::None,
        freshness: Freshness::Connection,
    };
    Ok(Caller::new(None, Some(user), Vec::new(), proof))
}

/// Our own access tokens, and no internal ones: those are for services.
fn token_keys(authority: &Authority) -> TokenKeys {
    let keys = authority.keys.load();
    let access = keys.access_token.all().map(|key| key.public_key().clone());
    let (issuer, audience) = (authority.issuer.clone(), authority.audience.clone());
    TokenKeys::for_access_tokens(authority.trust_domain.clone(), issuer, audience, access)
}

/// How a caller is named in the ledger.
fn actor(authority: &Authority, caller: &Caller) -> Actor {
    Actor(match (caller.workload(), caller.user()) {
        (Some(workload), _) => workload.id.to_string(),
        (None, Some(user)) if caller.proof().user == UserProof::LocalUid => user.id.clone(),
        (None, Some(user)) => authority.pseudonym(&user.id),
        (None, None) => "stranger".to_owned(),
    })
}

fn is_stranger(caller: &Caller) -> bool {
    caller.workload().is_none() && caller.user().is_none()
}

/// A stranger could still prove something; whoever did prove something may not do this.
fn not_permitted(refusal: &Refusal, caller: &Caller, fix: String) -> Denial {
    let denial = match is_stranger(caller) {
        true => {
            Denial::new(Code::CertificateMissing, refusal.to_string()).with_challenge(Challenge::Certificate)
        }
        false => Denial::new(Code::AdminNotPermitted, refusal.to_string()),
    };
    Denial { policy: refusal.policies().first().cloned(), fix: Some(fix), ..denial }
}

fn policy_check(denial: &Denial) -> CheckRecord {
    CheckRecord { name: "policy".to_owned(), result: CheckResult::Fail, detail: denial.reason.clone() }
}

fn refuse(
    authority: &Authority,
    connection: &Connection,
    mut draft: DecisionDraft,
    denial: &Denial,
    caller: Option<&Caller>,
    form: ErrorForm,
) -> Response {
    draft.denied(denial);
    draft.answered(denial.status());
    metrics::counter!("countersign_admin_refusals_total", "code" => denial.code.to_string()).increment(1);
    let proven = caller.is_some_and(|caller| !is_stranger(caller));
    let id = record_refusal(&authority.journal, connection, proven, draft, denial);
    match form {
        ErrorForm::Problem => denial.response(id).map(Body::new),
        ErrorForm::OAuth => api::sts::answer(denial.code, None, Some(id)),
    }
}

/// Whoever proved nothing is counted by address and minute, and told in full once per kind.
pub(crate) fn record_refusal(
    journal: &Journal,
    connection: &Connection,
    proven: bool,
    draft: DecisionDraft,
    denial: &Denial,
) -> DecisionId {
    let id = draft.id();
    match connection.address() {
        Some(address) if !proven => {
            let code = denial.code.entry().public.as_str();
            match journal.refuse_stranger(address.ip(), denial.stage(), code, || draft.into_event()) {
                Told::InFull => id,
                // The id of a refusal that is only counted leads nowhere, and is none the less never reused.
                Told::Counted => new_decision_id(),
            }
        }
        _ => {
            journal.note(draft.into_event());
            id
        }
    }
}

/// Brings refused handshakes of our TLS listeners into the ledger: no handler ever sees them.
pub(crate) struct Handshakes(pub(crate) Journal);

impl HandshakeObserver for Handshakes {
    fn handshake(&self, report: &HandshakeReport) {
        let HandshakeOutcome::Refused(refusal) = &report.outcome else { return };
        let denial = Denial::from(refusal);
        let mut draft = DecisionDraft::begin(TARGET, Hop::first());
        draft.checked(report.checks.clone());
        draft.denied(&denial);
        let mut record = draft.record().clone();
        record.connection = Some(report.connection.to_string());
        record.peer = report.address.map(|address| address.to_string());
        record.source = report.claimed.as_ref().map(ToString::to_string);
        // There is no answer on a connection that does not exist.
        record.status = 0;
        let event = Event::Decision(Box::new(record));
        match report.address {
            Some(address) => {
                let code = denial.code.entry().public.as_str();
                self.0.refuse_stranger(address.ip(), denial.stage(), code, || event);
            }
            None => self.0.note(event),
        }
    }
}
