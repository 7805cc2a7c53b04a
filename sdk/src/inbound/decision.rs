//! The record of one decision, filled in as a request goes along.

use std::{
    mem::take,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use countersign_identity::{Caller, DecisionId, Mode, SpiffeId};
use countersign_ledger::{
    CallEdge, CheckRecord, CheckResult, ConnectionId, Decision, Event, Pseudonym, PseudonymKey, Stage,
    Verdict,
};
use countersign_policy::Permit;

use super::{Denial, refusal::new_decision_id};
use crate::{
    accept::Connection,
    clock,
    spool::{CallRow, EdgeCall, EdgeFacts, Spool},
    trace::{self, Exchange, Hop},
};

/// What is known about a decision so far. Every door of the system makes its records with it.
#[derive(Clone, Debug)]
pub struct DecisionDraft {
    started: Instant,
    record: Decision,
    user_proof: &'static str,
    /// As in `record`, where they are text.
    hop: Hop,
    user: Option<Pseudonym>,
    /// Without a key for pseudonyms a user has none, and is no stranger.
    has_user: bool,
    connection: Option<(ConnectionId, Option<SocketAddr>)>,
}

impl DecisionDraft {
    /// Begins when a request's head has arrived.
    #[must_use]
    pub fn begin(target: &str, hop: Hop) -> Self {
        let record = Decision {
            id: new_decision_id(),
            verdict: Verdict::Deny,
            stage: Stage::Request,
            source: None,
            target: target.to_owned(),
            method: String::new(),
            route: String::new(),
            user: None,
            mode: Mode::None.as_str().to_owned(),
            checks: Vec::new(),
            policy: None,
            code: None,
            reason: None,
            fix: None,
            status: 0,
            latency_us: 0,
            connection: None,
            peer: None,
            trace: Some(hop.trace().to_string()),
        };
        let started = Instant::now();
        Self { started, record, user_proof: "none", hop, user: None, has_user: false, connection: None }
    }

    /// The id that the caller is told with a refusal.
    #[must_use]
    pub const fn id(&self) -> DecisionId {
        self.record.id
    }

    /// On which connection, from where.
    pub fn came_over(&mut self, connection: &Connection) {
        self.record.connection = Some(connection.id.to_string());
        self.record.peer = connection.address().map(|address: SocketAddr| address.to_string());
        self.connection = Some((connection.id, connection.address()));
    }

    /// Whom it is for, where that was not known when it began.
    pub fn leads_to(&mut self, target: &str) {
        target.clone_into(&mut self.record.target);
    }

    /// Which route, as a template, and by which method.
    pub fn asks_for(&mut self, method: &http::Method, route: &str) {
        method.as_str().clone_into(&mut self.record.method);
        route.clone_into(&mut self.record.route);
    }

    /// What was checked of the evidence.
    pub fn checked(&mut self, checks: Vec<CheckRecord>) {
        self.record.checks = checks;
    }

    /// Adds one check.
    pub fn check(&mut self, check: CheckRecord) {
        self.record.checks.push(check);
    }

    /// What did not hold, after the checks so far.
    pub fn failed(&mut self, name: &str, detail: &str) {
        let (name, detail) = (name.to_owned(), detail.to_owned());
        self.record.checks.push(CheckRecord { name, result: CheckResult::Fail, detail });
    }

    /// The workload that proved itself, whatever is said of its request afterwards.
    pub fn proven(&mut self, source: Option<&SpiffeId>, mode: Mode) {
        self.record.source = source.map(ToString::to_string);
        mode.as_str().clone_into(&mut self.record.mode);
    }

    /// Who is calling. Users appear under their pseudonym, or not at all.
    pub fn comes_from(&mut self, caller: &Caller, pseudonyms: Option<&PseudonymKey>) {
        self.record.source = caller.workload().map(|workload| workload.id.to_string());
        self.has_user = caller.user().is_some();
        self.user = caller.user().zip(pseudonyms).map(|(user, key)| Pseudonym::of(key, &user.id));
        self.record.user = self.user.map(|user| user.to_string());
        self.user_proof = caller.proof().user.as_str();
        caller.mode().as_str().clone_into(&mut self.record.mode);
    }

    /// The policy allowed it.
    pub fn permitted(&mut self, permit: &Permit) {
        self.record.verdict = Verdict::Allow;
        self.record.stage = Stage::Policy;
        self.record.policy = permit.policies().first().cloned();
    }

    /// It was refused.
    pub fn denied(&mut self, denial: &Denial) {
        self.record.verdict = Verdict::Deny;
        self.record.stage = denial.stage();
        self.record.policy = denial.policy.clone();
        self.record.code = Some(denial.code.to_string());
        self.record.reason = Some(denial.reason.clone());
        self.record.fix = Some(denial.fix.clone().unwrap_or_else(|| denial.code.entry().fix.to_owned()));
        self.record.status = denial.status().as_u16();
    }

    /// The answer's head is there.
    pub fn answered(&mut self, status: http::StatusCode) {
        self.record.status = status.as_u16();
        self.record.latency_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
    }

    /// The answer's head was there after so long.
    pub fn answered_after(&mut self, status: http::StatusCode, latency: Duration) {
        self.record.status = status.as_u16();
        self.record.latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    }

    /// It began earlier than it is told.
    #[must_use]
    pub const fn began_at(mut self, then: Instant) -> Self {
        self.started = then;
        self
    }

    /// What was decided, for another request about which nothing else was said, of the same user or another one.
    #[must_use]
    pub fn repeated(
        &self,
        id: DecisionId,
        hop: Hop,
        user: Option<Pseudonym>,
        connection: ConnectionId,
        peer: Option<SocketAddr>,
    ) -> Self {
        let mut record = self.record.clone();
        record.id = id;
        record.trace = Some(hop.trace().to_string());
        record.connection = Some(connection.to_string());
        record.peer = peer.map(|address| address.to_string());
        record.user = user.map(|user| user.to_string());
        Self {
            started: Instant::now(),
            record,
            user_proof: self.user_proof,
            hop,
            user,
            has_user: self.has_user,
            connection: Some((connection, peer)),
        }
    }

    /// Is it about somebody who proved nothing: no workload, no user?
    pub(super) const fn is_of_a_stranger(&self) -> bool {
        self.record.source.is_none() && !self.has_user
    }

    /// Where it came from; a Unix socket has no address.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.connection.and_then(|(_, address)| address).map(|address| address.ip())
    }

    /// What was decided, as a record with an id of its own.
    pub(super) fn anew(&self) -> Self {
        let mut same = self.clone();
        same.record.id = new_decision_id();
        same
    }

    /// It ended without an answer: the caller hung up, or the handler failed. The status stays 0.
    pub fn unanswered(&mut self) {
        self.unanswered_after(self.started.elapsed());
    }

    /// The same, after so long.
    pub fn unanswered_after(&mut self, latency: Duration) {
        self.record.reason = Some("the call ended before it was answered".to_owned());
        self.record.latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    }

    /// What an observer is told of it, if there is one who wants to know; `to` is where it was handed on.
    #[must_use]
    pub fn exchange(&self, to: &str) -> Option<Exchange> {
        let record = &self.record;
        if !trace::wants(record.status, self.hop.is_sampled()) {
            return None;
        }
        let took = Duration::from_micros(record.latency_us);
        Some(Exchange {
            began: clock::now().saturating_sub(took),
            took,
            hop: self.hop,
            decision: record.id,
            service: record.target.clone(),
            to: to.to_owned(),
            method: record.method.clone(),
            route: record.route.clone(),
            status: record.status,
            caller: record.source.clone(),
            user: record.user.clone(),
            mode: record.mode.clone(),
            code: record.code.clone(),
            peer: record.peer.clone(),
            bytes: None,
        })
    }

    /// Counts it for the edge that it went over.
    #[must_use]
    pub fn edge(&self) -> EdgeCall<'_> {
        let stranger = if self.has_user { "user" } else { "stranger" };
        EdgeCall {
            source: self.record.source.as_deref().unwrap_or(stranger),
            target: &self.record.target,
            mode: &self.record.mode,
            user: self.user_proof,
            policy: self.record.policy.as_deref().unwrap_or(""),
            allowed: self.record.verdict == Verdict::Allow,
            latency: Duration::from_micros(self.record.latency_us),
        }
    }

    /// Records a call that was let in, with the next batch, and counts it for the edge that it went over.
    pub fn record_allowed(mut self, spool: &Spool) {
        let latency = u32::try_from(self.record.latency_us).ok();
        let status = http::StatusCode::from_u16(self.record.status).ok();
        // A call with something to say of itself is told by itself.
        let (Some(latency_us), Some(status), None) = (latency, status, &self.record.reason) else {
            return self.record_alone(spool);
        };
        let facts = self.take_facts();
        let Self { hop, user, connection, .. } = self;
        let (id, at) = (self.record.id, clock::now());
        let packed = spool.record_call(&facts, |edge| CallRow {
            edge,
            id,
            at,
            latency_us,
            status,
            trace: hop.trace(),
            user,
            connection,
        });
        if packed.is_err() {
            self.put_back(facts);
            self.record_alone(spool);
        }
    }

    fn record_alone(self, spool: &Spool) {
        spool.edges().count(self.edge());
        spool.record(self.into_event());
    }

    fn take_facts(&mut self) -> EdgeFacts {
        let Decision { source, target, method, route, mode, stage, checks, policy, .. } = &mut self.record;
        let edge = CallEdge {
            source: source.take(),
            target: take(target),
            method: take(method),
            route: take(route),
            mode: take(mode),
            stage: *stage,
            checks: take(checks),
            policy: policy.take(),
        };
        EdgeFacts { edge, user_proof: self.user_proof, has_user: self.has_user }
    }

    fn put_back(&mut self, facts: EdgeFacts) {
        let CallEdge { source, target, method, route, mode, stage, checks, policy } = facts.edge;
        let record = &mut self.record;
        (record.source, record.target, record.method, record.route) = (source, target, method, route);
        (record.mode, record.stage, record.checks, record.policy) = (mode, stage, checks, policy);
    }

    /// What it has in common with other calls of the same caller to the same route, as the ledger's batches tell it.
    #[must_use]
    pub fn edge_facts(&self) -> EdgeFacts {
        self.clone().take_facts()
    }

    /// The user, as the ledger knows users.
    #[must_use]
    pub const fn user(&self) -> Option<Pseudonym> {
        self.user
    }

    /// The event for the ledger.
    #[must_use]
    pub fn into_event(self) -> Event {
        Event::Decision(Box::new(self.record))
    }

    /// The record itself.
    #[must_use]
    pub const fn record(&self) -> &Decision {
        &self.record
    }
}
