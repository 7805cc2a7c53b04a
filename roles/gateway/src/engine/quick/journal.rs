//! What the quick carrier leaves behind. A call is one row of numbers in this worker's ring of the spool and one more in a
//! tally; what many calls have in common is said once, as a [`Standing`]. Nothing is formatted or locked on the path of a
//! request.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_identity::{DecisionId, UnixTime};
use countersign_ledger::Pseudonym;
use countersign_sdk::inbound::{DecisionDraft, Denial, DoorRecorder};
use countersign_sdk::spool::{CallRing, CallRow, EdgeFacts, EdgeIndex, RingError};
use countersign_sdk::tls::ConnectionId;
use countersign_sdk::trace::{self, Exchange, Hop};
use http::{Method, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;

use super::tally::Tally;
use crate::engine::Answering;
use crate::listener::Arrival;
use crate::pipeline::Pipeline;
use crate::record::Trace;
use crate::refusal::Refusal;
use crate::upstream::UpstreamError;

/// One call, as far as it differs from others of its [`Standing`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) decision: DecisionId,
    pub(crate) hop: Hop,
    /// On whose behalf.
    pub(crate) user: Option<Pseudonym>,
    pub(crate) connection: ConnectionId,
    pub(crate) peer: Option<SocketAddr>,
    /// When its head was there.
    pub(crate) began: Instant,
}

/// A permitted call that is not recorded yet. Whatever becomes of it, it is recorded once: should its connection be cut
/// before there is an answer, then because this is dropped.
pub(crate) struct Unrecorded {
    standing: Rc<Standing>,
    call: Call,
    is_open: bool,
}

/// What the stages said of a request, for whoever records it.
pub(crate) enum Said {
    /// By the edge.
    Edge(Box<Trace>, Arc<Pipeline>),
    /// By the door of a service.
    Door(Box<DecisionDraft>, DoorRecorder),
}

/// What many calls have in common: which workload calls, what, how it was decided, and every check that was passed; of
/// users, how they were proven.
pub(crate) struct Standing {
    said: Said,
    policies: Vec<String>,
    facts: EdgeFacts,
    /// Of the facts, in this worker's ring.
    index: Cell<Option<EdgeIndex>>,
    tally: RefCell<Tally>,
    /// What the key points to lives at least as long as this.
    _keeps: Option<Arc<dyn Any + Send + Sync>>,
}

/// By what a [`Standing`] is found again: addresses of what lives as long as the configuration or the standing, or
/// numbers that are rarely the same for two; route and rules are compared besides.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct StandingKey {
    pub(crate) route: usize,
    pub(crate) target: usize,
    pub(crate) method: u8,
    /// 0 is nobody. Users who were proven in the same way are one.
    pub(crate) caller: usize,
}

/// What a [`Standing`] is made of.
pub(crate) struct Made {
    pub(crate) said: Said,
    pub(crate) keeps: Option<Arc<dyn Any + Send + Sync>>,
}

/// The records of one worker.
pub(crate) struct Journal {
    ring: RefCell<CallRing>,
    known: RefCell<HashMap<StandingKey, Rc<Standing>>>,
}

impl Said {
    pub(crate) fn draft(&self) -> &DecisionDraft {
        match self {
            Said::Edge(trace, _) => &trace.draft,
            Said::Door(draft, _) => draft,
        }
    }

    /// Records one call with all of its words.
    fn record(&self, call: &Call, status: StatusCode, latency: Duration) {
        match self {
            Said::Edge(trace, pipeline) => pipeline.recorder.allowed_after(call.of(trace), status, latency),
            Said::Door(draft, recorder) => {
                let Call { decision, hop, user, connection, peer, .. } = *call;
                let mut draft = draft.repeated(decision, hop, user, connection, peer);
                draft.answered_after(status, latency);
                recorder.record(draft);
            }
        }
    }

    /// Records what was permitted and never answered, with all of its words.
    fn unanswered(&self, call: &Call) {
        let took = call.began.elapsed();
        match self {
            Said::Edge(trace, pipeline) => pipeline.recorder.unanswered_after(call.of(trace), took),
            Said::Door(draft, recorder) => {
                let mut draft =
                    draft.repeated(call.decision, call.hop, call.user, call.connection, call.peer);
                draft.unanswered_after(took);
                if let Some(exchange) = draft.exchange("") {
                    exchange.ended(None);
                }
                recorder.record(draft);
            }
        }
    }

    /// Answers, and records, that the upstream gave no answer.
    fn failed(&self, call: &Call, error: UpstreamError, arrival: &Arrival) -> Answering {
        match self {
            Said::Edge(trace, pipeline) => {
                let (trace, pipeline, arrival) = (call.of(trace), Arc::clone(pipeline), arrival.clone());
                Box::pin(async move { pipeline.refused(trace, &Refusal::Cluster(error), &arrival).await })
            }
            Said::Door(draft, recorder) => {
                let denial = Denial::new(error.code(), error.to_string());
                let Call { decision, hop, user, connection, peer, began } = *call;
                let mut draft = draft.repeated(decision, hop, user, connection, peer).began_at(began);
                draft.failed(UPSTREAM, &denial.reason);
                tracing::warn!(%decision, code = %denial.code, why = denial.reason, "the service behind was not reached");
                let recorder = recorder.clone();
                Box::pin(async move {
                    let answer = denial.response(decision);
                    let bytes = answer.body().size_hint().exact();
                    recorder.refused(draft, &denial, answer.status(), bytes).await;
                    answer.map(|body| body.map_err(|never| match never {}).boxed_unsync())
                })
            }
        }
    }

    /// What an observer is told of a call, if there is one who wants to know.
    fn exchange(&self, call: &Call, status: StatusCode, latency: Duration) -> Option<Exchange> {
        if !trace::wants(status.as_u16(), call.hop.is_sampled()) {
            return None;
        }
        let mut draft = self.draft().repeated(call.decision, call.hop, call.user, call.connection, call.peer);
        draft.answered_after(status, latency);
        draft.exchange(match self {
            Said::Edge(trace, _) => &trace.callee,
            Said::Door(..) => "",
        })
    }

    /// Tells the metrics what was counted.
    fn measure(&self, tally: &mut Tally) {
        tally.take(|status, latencies| match self {
            Said::Edge(trace, pipeline) => pipeline.recorder.measure_many(trace, status, latencies),
            Said::Door(draft, recorder) => recorder.measure(draft, status, latencies.samples()),
        });
    }
}

impl Call {
    /// All that is known of this call, which an edge judged.
    pub(crate) fn of(&self, trace: &Trace) -> Trace {
        let mut trace = trace.repeated(self.decision, self.hop, self.user, self.connection, self.peer);
        trace.draft = trace.draft.began_at(self.began);
        trace
    }
}

impl Unrecorded {
    pub(crate) fn new(standing: Rc<Standing>, call: Call) -> Self {
        Self { standing, call, is_open: true }
    }

    /// The head of its answer is there. Who observes is told when the answer has ended.
    pub(crate) fn answered(
        mut self,
        journal: &Journal,
        status: StatusCode,
        at: UnixTime,
    ) -> Option<Exchange> {
        self.is_open = false;
        let took = self.call.began.elapsed();
        journal.record(&self.standing, &self.call, status, took, at);
        self.standing.said.exchange(&self.call, status, took)
    }

    /// Nobody answers it but we.
    pub(super) fn failed(mut self, error: UpstreamError, arrival: &Arrival) -> Answering {
        self.is_open = false;
        self.standing.said.failed(&self.call, error, arrival)
    }

    /// Somebody else judges it anew, and records that.
    pub(super) fn given_over(mut self) {
        self.is_open = false;
    }
}

impl Drop for Unrecorded {
    fn drop(&mut self) {
        if self.is_open {
            self.standing.said.unanswered(&self.call);
        }
    }
}

impl Standing {
    fn new(made: Made, policies: &[String]) -> Self {
        Standing {
            facts: made.said.draft().edge_facts(),
            said: made.said,
            policies: policies.to_vec(),
            index: Cell::new(None),
            tally: RefCell::default(),
            _keeps: made.keeps,
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.said.measure(self.tally.get_mut());
    }
}

impl Journal {
    pub(crate) fn new(ring: CallRing) -> Self {
        Self { ring: RefCell::new(ring), known: RefCell::default() }
    }

    /// What `key` stands for under these rules; `make` says it when nobody asked before.
    pub(crate) fn standing(
        &self,
        key: StandingKey,
        route: &str,
        policies: &[String],
        make: impl FnOnce() -> Option<Made>,
    ) -> Option<Rc<Standing>> {
        if let Some(known) = self.known.borrow().get(&key)
            && known.policies == policies
            && known.facts.edge.route == route
        {
            return Some(Rc::clone(known));
        }
        let standing = Rc::new(Standing::new(make()?, policies));
        let mut known = self.known.borrow_mut();
        if known.len() >= STANDINGS_MAX {
            known.clear();
        }
        known.insert(key, Rc::clone(&standing));
        Some(standing)
    }

    /// Forgets what keys stand for: the addresses in them may soon be those of something else.
    pub(crate) fn forget(&self) {
        self.measure();
        self.known.borrow_mut().clear();
    }

    /// Records an answered call.
    fn record(&self, standing: &Standing, call: &Call, status: StatusCode, latency: Duration, at: UnixTime) {
        let latency_us = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        let row = |edge| CallRow {
            edge,
            id: call.decision,
            at,
            latency_us,
            status,
            trace: call.hop.trace(),
            user: call.user,
            connection: Some((call.connection, call.peer)),
        };
        // The ring has no room, or the edge is too long for it.
        if self.push(standing, row).is_none() {
            return standing.said.record(call, status, latency);
        }
        standing.tally.borrow_mut().add(status.as_u16(), latency_us);
    }

    fn push(&self, standing: &Standing, row: impl Fn(EdgeIndex) -> CallRow) -> Option<()> {
        let mut ring = self.ring.borrow_mut();
        if let Some(index) = standing.index.get() {
            match ring.push(row(index)) {
                Ok(()) => return Some(()),
                Err(RingError::Full) => return None,
                Err(RingError::UnknownEdge) => {}
            }
        }
        let index = ring.edge_index(&standing.facts)?;
        standing.index.set(Some(index));
        ring.push(row(index)).ok()
    }

    /// Tells the metrics what was counted since the last time.
    pub(crate) fn measure(&self) {
        for standing in self.known.borrow().values() {
            standing.said.measure(&mut standing.tally.borrow_mut());
        }
    }
}

/// A number for each of the seven methods, so that a key holds no text.
pub(crate) fn number_of(method: &Method) -> u8 {
    match *method {
        Method::GET => 1,
        Method::HEAD => 2,
        Method::POST => 3,
        Method::PUT => 4,
        Method::PATCH => 5,
        Method::DELETE => 6,
        _ => 7,
    }
}

const STANDINGS_MAX: usize = 4096;
/// The check of whether the service behind answers, as the full carrier of a sidecar calls it.
const UPSTREAM: &str = "upstream";
