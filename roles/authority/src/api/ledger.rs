//! The column `ledger`: events with all that is needed to verify them, decisions explained, calls counted.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use countersign_identity::{DecisionId, SpiffeId, UnixTime};
use countersign_ledger::{CheckResult, Decision, Entry, Event, Verdict};
use countersign_sdk::clock;
use countersign_store::ledger::{EVENTS_BYTES_MAX, LedgerQuery, StoredRecord};
use countersign_wire::{
    Base64,
    api::{
        PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX, Page,
        audit::{AuditEvent, AuditQuery},
        edges::Edge,
        explain::{Check, CheckOutcome, Explanation},
    },
    codes::Code,
    problem::Problem,
    snapshot::LedgerHead,
};

use super::{ApiError, Params, PathParam, metadata::KeySet};
use crate::{snapshot, state::Authority};

/// Who calls whom, how, and with what success.
#[utoipa::path(get, path = "/api/v1/edges", tag = "ledger", responses((status = 200, body = Vec<Edge>)))]
pub(crate) async fn edges(State(authority): State<Arc<Authority>>) -> Result<Json<Vec<Edge>>, ApiError> {
    let stored = authority.db.edges().await?;
    let millis = |latency: Option<Duration>| latency.map(|latency| latency.as_secs_f64() * 1e3);
    let edge = |edge: countersign_store::edges::Edge| Edge {
        p50_ms: millis(edge.latency.quantile(0.50)),
        p99_ms: millis(edge.latency.quantile(0.99)),
        source: edge.key.source,
        target: edge.key.target,
        mode: edge.key.mode,
        user: edge.key.user,
        requests: edge.requests,
        denied: edge.denied,
        policy: Some(edge.policy).filter(|policy| !policy.is_empty()),
    };
    Ok(Json(stored.into_iter().map(edge).collect()))
}

/// Why a call was allowed or refused: one by its id, or `last` for the newest refusal.
#[utoipa::path(get, path = "/api/v1/decisions/{id}", tag = "ledger", params(("id" = String, Path)),
    responses((status = 200, body = Explanation), (status = 404, body = Problem)))]
pub(crate) async fn decision(
    State(authority): State<Arc<Authority>>,
    PathParam(id): PathParam,
) -> Result<Json<Explanation>, ApiError> {
    let id = if id == "last" { None } else { Some(decision_id(&id)?) };
    let stored = match id {
        None => authority.db.last_decision(Some(Verdict::Deny)).await?,
        Some(id) => authority.db.decision(id).await?,
    };
    let stored = stored.ok_or(Code::ObjectUnknown)?;
    let entry =
        stored.record.entry().map_err(|error| ApiError::internal("an event cannot be read", &error))?;
    explain(entry, id).map(Json).ok_or_else(|| Code::ObjectUnknown.into())
}

fn decision_id(text: &str) -> Result<DecisionId, ApiError> {
    DecisionId::parse(text).map_err(|error| ApiError::because(Code::ParameterInvalid, error.to_string()))
}

/// What an event tells of a decision, or of its only one.
fn explain(entry: Entry, id: Option<DecisionId>) -> Option<Explanation> {
    match entry.event.clone() {
        Event::Decision(decision) => Some(explain_decision(&entry.writer, entry.at, *decision)),
        Event::AllowedCalls(batch) => {
            let call = batch.find(id?)?;
            Some(explain_decision(&entry.writer, call.at, call.decision()))
        }
        Event::AdminCall { route, actor, verdict, decision } => {
            let (method, route) = route.split_once(' ').map(|(m, r)| (m.to_owned(), r.to_owned())).unzip();
            Some(Explanation {
                decision,
                verdict: verdict.as_str().to_owned(),
                stage: "policy".to_owned(),
                checks: Vec::new(),
                fix: None,
                code: None,
                reason: None,
                at: entry.at,
                writer: entry.writer.to_string(),
                source: None,
                target: "authority".to_owned(),
                method,
                route,
                user: Some(actor),
                mode: "none".to_owned(),
                policy: None,
                status: None,
                latency_us: None,
                connection: None,
                peer: None,
            })
        }
        _ => None,
    }
}

fn explain_decision(writer: &SpiffeId, at: UnixTime, decision: Decision) -> Explanation {
    let denied = decision.verdict == Verdict::Deny;
    Explanation {
        decision: decision.id,
        verdict: decision.verdict.as_str().to_owned(),
        stage: decision.stage.as_str().to_owned(),
        checks: decision.checks.into_iter().map(check).collect(),
        fix: decision.fix,
        code: decision.code,
        reason: decision.reason.filter(|_| denied),
        at,
        writer: writer.to_string(),
        source: decision.source,
        target: decision.target,
        method: Some(decision.method).filter(|method| !method.is_empty()),
        route: Some(decision.route).filter(|route| !route.is_empty()),
        user: decision.user,
        mode: decision.mode,
        policy: decision.policy,
        status: Some(decision.status).filter(|status| *status != 0),
        latency_us: Some(decision.latency_us),
        connection: decision.connection,
        peer: decision.peer,
    }
}

fn check(check: countersign_ledger::CheckRecord) -> Check {
    Check {
        name: check.name,
        result: match check.result {
            CheckResult::Pass => CheckOutcome::Pass,
            CheckResult::Fail => CheckOutcome::Fail,
            CheckResult::NotReached => CheckOutcome::NotReached,
        },
        detail: Some(check.detail).filter(|detail| !detail.is_empty()),
    }
}

/// Events by their place in the ledger.
#[utoipa::path(get, path = "/api/v1/audit/events", tag = "ledger",
    params(("after" = Option<u64>, Query), ("newest" = Option<bool>, Query), ("limit" = Option<u32>, Query),
        ("kind" = Option<String>, Query), ("writer" = Option<String>, Query), ("decision" = Option<String>, Query),
        ("verdict" = Option<String>, Query), ("since" = Option<i64>, Query), ("until" = Option<i64>, Query)),
    responses((status = 200, body = Page<AuditEvent>), (status = 422, body = Problem)))]
pub(crate) async fn events(
    State(authority): State<Arc<Authority>>,
    Params(query): Params<AuditQuery>,
) -> Result<Json<Page<AuditEvent>>, ApiError> {
    let verdict = match query.verdict.as_deref() {
        None => None,
        Some("allow") => Some(Verdict::Allow),
        Some("deny") => Some(Verdict::Deny),
        Some(_) => return Err(ApiError::because(Code::ParameterInvalid, "`verdict` is allow or deny")),
    };
    let limit = query.limit.unwrap_or(PAGE_ITEMS_DEFAULT).clamp(1, PAGE_ITEMS_MAX);
    let newest = query.newest;
    let query = LedgerQuery {
        after: query.after.unwrap_or(0),
        newest,
        limit,
        kind: query.kind,
        writer: query.writer,
        decision: query.decision.as_deref().map(decision_id).transpose()?,
        verdict,
        since: query.since,
        until: query.until,
    };
    let stored = authority.db.events(&query).await?;
    let bytes: usize = stored.iter().map(|event| event.record.bytes.len()).sum();
    let full = stored.len() == usize::try_from(limit).unwrap_or(usize::MAX) || bytes >= EVENTS_BYTES_MAX;
    let next = stored.last().filter(|_| full && !newest).map(|last| last.index.to_string());
    Ok(Json(Page { items: stored.into_iter().map(event).collect(), next }))
}

fn event(stored: StoredRecord) -> AuditEvent {
    AuditEvent {
        index: stored.index,
        writer: stored.record.writer.to_string(),
        boot: stored.record.boot.to_string(),
        sequence: stored.record.sequence,
        stored_at: stored.stored_at,
        kind: stored.kind,
        event: Base64(stored.record.bytes),
        chain: Base64(stored.record.chain.as_bytes().to_vec()),
        log: Base64(stored.log.as_bytes().to_vec()),
    }
}

/// The head of the ledger, signed now: keep it elsewhere, and nothing before it can be taken back.
#[utoipa::path(get, path = "/api/v1/audit/head", tag = "ledger", responses((status = 200, body = LedgerHead)))]
pub(crate) async fn head(State(authority): State<Arc<Authority>>) -> Result<Json<LedgerHead>, ApiError> {
    let head = snapshot::sign_head(&authority, clock::now()).await;
    let head = head.map_err(|error| ApiError::internal("the head could not be signed", &error))?;
    Ok(Json(snapshot::head_on_the_wire(head)))
}

/// The public keys that sign heads of the ledger, a JWK set.
#[utoipa::path(get, path = "/api/v1/audit/keys", tag = "ledger", responses((status = 200)))]
pub(crate) async fn keys(State(authority): State<Arc<Authority>>) -> Result<Json<KeySet>, ApiError> {
    KeySet::of(authority.keys.load().ledger.all()).map(Json)
}
