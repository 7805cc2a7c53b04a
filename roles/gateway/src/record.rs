//! What remains of a request: one ledger event, one count for each metric. No token, path or query.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use countersign_identity::{Caller, DecisionId};
use countersign_ledger::{CheckRecord, CheckResult, Event, Pseudonym, Verdict};
use countersign_policy::Permit;
use countersign_sdk::inbound::{DecisionDraft, Denial};
use countersign_sdk::live::Live;
use countersign_sdk::spool::Spool;
use countersign_sdk::tls::ConnectionId;
use countersign_sdk::trace::{Exchange, Hop};
use http::{Method, StatusCode};

use crate::engine::quick::Latencies;
use crate::guard::Told;
use crate::guard::cors::Cors;
use crate::refusal::Refusal;

/// The gateway's checks in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// One canonical request, for this host.
    Request,
    /// Requests per address.
    Quota,
    /// Which service, and may it be called so.
    Route,
    /// The user's access token.
    Token,
    /// The coarse rule.
    Policy,
    /// The operator's own filters, where there are any.
    Filter,
    /// The service behind.
    Upstream,
}

impl Check {
    const ALL: [Check; 7] = [
        Check::Request,
        Check::Quota,
        Check::Route,
        Check::Token,
        Check::Policy,
        Check::Filter,
        Check::Upstream,
    ];

    fn name(self) -> &'static str {
        match self {
            Check::Request => "request",
            Check::Quota => "quota",
            Check::Route => "route",
            Check::Token => "token",
            Check::Policy => "policy",
            Check::Filter => "filter",
            Check::Upstream => "upstream",
        }
    }
}

/// What the stages say while they go on. A carrier that repeats what was said before listens to nothing.
pub(crate) trait Notes {
    /// Is it worth finding out what an operator could change?
    const EXPLAINS: bool;

    /// By which method, which route.
    fn asks_for(&mut self, method: &Method, route: &str);
    /// What pages of other origins may read.
    fn tells(&mut self, cors: Option<&Arc<Cors>>);
    /// To which service or upstream.
    fn leads_to(&mut self, callee: &str);
    /// Who is calling.
    fn comes_from(&mut self, caller: &Caller, live: &Live);
    /// By which rules.
    fn permitted(&mut self, permit: &Permit);
    /// The next check held.
    fn passed(&mut self, check: Check, detail: fmt::Arguments<'_>);
}

/// Nobody listens.
pub(crate) struct Unheard;

impl Notes for Unheard {
    const EXPLAINS: bool = false;

    fn asks_for(&mut self, _method: &Method, _route: &str) {}
    fn tells(&mut self, _cors: Option<&Arc<Cors>>) {}
    fn leads_to(&mut self, _callee: &str) {}
    fn comes_from(&mut self, _caller: &Caller, _live: &Live) {}
    fn permitted(&mut self, _permit: &Permit) {}
    fn passed(&mut self, _check: Check, _detail: fmt::Arguments<'_>) {}
}

impl Notes for Trace {
    const EXPLAINS: bool = true;

    fn asks_for(&mut self, method: &Method, route: &str) {
        self.draft.asks_for(method, route);
    }

    fn tells(&mut self, cors: Option<&Arc<Cors>>) {
        self.told.by(cors);
    }

    fn leads_to(&mut self, callee: &str) {
        callee.clone_into(&mut self.callee);
    }

    fn comes_from(&mut self, caller: &Caller, live: &Live) {
        self.draft.comes_from(caller, live.pseudonyms());
    }

    fn permitted(&mut self, permit: &Permit) {
        self.draft.permitted(permit);
    }

    fn passed(&mut self, check: Check, detail: fmt::Arguments<'_>) {
        // Who is judged again, by newer keys, passes the first checks again.
        if Check::ALL.iter().position(|known| *known == check) >= Some(self.passed) {
            self.pass(check, detail.to_string());
        }
    }
}

/// What is known of a request so far.
#[derive(Clone)]
pub(crate) struct Trace {
    pub(crate) draft: DecisionDraft,
    /// Short name of the service behind; empty until a route is found.
    pub(crate) callee: String,
    /// What the answer tells the client beside what it answers.
    pub(crate) told: Told,
    /// Does the client read gRPC, and no problem documents?
    pub(crate) is_grpc: bool,
    address: IpAddr,
    passed: usize,
}

impl Trace {
    pub(crate) fn new(draft: DecisionDraft, address: IpAddr) -> Self {
        Trace { draft, callee: String::new(), told: Told::default(), is_grpc: false, address, passed: 0 }
    }

    /// The same for another request, about which the stages said the same.
    pub(crate) fn repeated(
        &self,
        decision: DecisionId,
        hop: Hop,
        user: Option<Pseudonym>,
        connection: ConnectionId,
        peer: Option<SocketAddr>,
    ) -> Self {
        let draft = self.draft.repeated(decision, hop, user, connection, peer);
        let address = peer.map_or(self.address, |peer| peer.ip());
        Trace { draft, address, ..self.clone() }
    }

    /// What an observer is told of it, if there is one who wants to know.
    pub(crate) fn exchange(&self) -> Option<Exchange> {
        self.draft.exchange(&self.callee)
    }

    /// Notes that the next check held. They run in one order, so it is the next one.
    pub(crate) fn pass(&mut self, check: Check, detail: impl Into<String>) {
        debug_assert_eq!(Check::ALL.get(self.passed), Some(&check));
        self.draft.check(record(check, CheckResult::Pass, detail.into()));
        self.passed += 1;
    }

    /// There is nothing to check next.
    pub(crate) fn without(&mut self, check: Check) {
        debug_assert_eq!(Check::ALL.get(self.passed), Some(&check));
        self.passed += 1;
    }

    /// The first check that did not pass failed; those after it were not reached.
    fn fail(&mut self, why: &str) {
        for (position, check) in Check::ALL.into_iter().enumerate().skip(self.passed) {
            let failed = position == self.passed;
            if check == Check::Filter && !failed {
                continue;
            }
            let result = if failed { CheckResult::Fail } else { CheckResult::NotReached };
            self.draft.check(record(check, result, if failed { why.to_owned() } else { String::new() }));
        }
    }
}

fn record(check: Check, result: CheckResult, detail: String) -> CheckRecord {
    CheckRecord { name: check.name().to_owned(), result, detail }
}

/// A request on its way to its answer. Should its client go away meanwhile, it is recorded all the same once it was
/// permitted.
pub(crate) struct Underway<'a> {
    recorder: &'a Recorder,
    pub(crate) trace: Trace,
    has_ended: bool,
}

impl<'a> Underway<'a> {
    pub(crate) fn new(recorder: &'a Recorder, trace: Trace) -> Self {
        Self { recorder, trace, has_ended: false }
    }

    /// It is answered: whoever answers records it.
    pub(crate) fn ended(mut self) -> Trace {
        self.has_ended = true;
        self.trace.clone()
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        if !self.has_ended && self.trace.draft.record().verdict == Verdict::Allow {
            self.recorder.unanswered(self.trace.clone());
        }
    }
}

/// Where everything is recorded.
pub(crate) struct Recorder {
    spool: Arc<Spool>,
}

impl Recorder {
    pub(crate) fn new(spool: Arc<Spool>) -> Self {
        Recorder { spool }
    }

    /// An answer of the service behind. Follows with the next batch. Who observes is told when the answer has ended.
    pub(crate) fn allowed(&self, mut trace: Trace, status: StatusCode) -> Option<Exchange> {
        trace.draft.answered(status);
        self.measure(&trace);
        let exchange = trace.exchange();
        trace.draft.record_allowed(&self.spool);
        exchange
    }

    /// The same, where the head of the answer took so long.
    pub(crate) fn allowed_after(&self, mut trace: Trace, status: StatusCode, latency: Duration) {
        trace.pass(Check::Upstream, status.as_u16().to_string());
        trace.draft.answered_after(status, latency);
        self.measure(&trace);
        trace.draft.record_allowed(&self.spool);
    }

    /// What was permitted and is no longer waited for: what was done until then is done.
    fn unanswered(&self, mut trace: Trace) {
        trace.draft.unanswered();
        self.over(trace);
    }

    /// The same, where it was waited for so long.
    pub(crate) fn unanswered_after(&self, mut trace: Trace, latency: Duration) {
        trace.draft.unanswered_after(latency);
        self.over(trace);
    }

    fn over(&self, trace: Trace) {
        self.measure(&trace);
        if let Some(exchange) = trace.exchange() {
            exchange.ended(None);
        }
        trace.draft.record_allowed(&self.spool);
    }

    /// Metrics of many allowed calls, whose edge counters and records go their own way.
    pub(crate) fn measure_many(&self, trace: &Trace, status: u16, latencies: &Latencies) {
        let (edge, count) = (trace.draft.edge(), latencies.count());
        let allow = Verdict::Allow.as_str();
        metrics::counter!("countersign_requests_total", "source" => edge.source.to_owned(),
            "target" => trace.callee.clone(), "auth" => edge.user.to_owned(), "decision" => allow,
            "code_class" => code_class(status))
        .increment(count);
        metrics::counter!("countersign_decisions_total", "mode" => edge.mode.to_owned(), "effect" => allow,
            "policy" => edge.policy.to_owned())
        .increment(count);
        let durations =
            metrics::histogram!("countersign_request_duration_seconds", "target" => trace.callee.clone());
        latencies.samples().for_each(|(seconds, count)| durations.record_many(seconds, count));
    }

    /// A refusal: on disk before the client hears of it. Those of strangers are counted per address and minute beyond
    /// the first few, so that strangers cannot fill the disk.
    pub(crate) async fn refused(
        &self,
        mut trace: Trace,
        refusal: &Refusal,
        denial: &Denial,
        status: StatusCode,
    ) -> Option<Exchange> {
        trace.fail(&denial.reason);
        let policy = denial.policy.clone().or_else(|| trace.draft.record().policy.clone());
        trace.draft.denied(&Denial { policy, ..denial.clone() });
        trace.draft.answered(status);
        self.measure(&trace);
        self.spool.edges().count(trace.draft.edge());
        let exchange = trace.exchange();
        if refusal.is_before_authentication() {
            let decision = trace.draft.record().clone();
            self.spool.record_refused_stranger(Some(trace.address), decision, denial.code);
            return exchange;
        }
        if let Err(error) = self.spool.record_durably(trace.draft.into_event()).await {
            tracing::error!(%error, "a refusal could not be recorded");
        }
        exchange
    }

    /// The end of what left HTTP; where it was ended because it is no longer permitted, on disk at once.
    pub(crate) async fn ended(&self, draft: DecisionDraft, was_denied: bool) {
        let event = draft.into_event();
        if !was_denied {
            return self.spool.record(event);
        }
        if let Err(error) = self.spool.record_durably(event).await {
            tracing::error!(%error, "the end of a connection outside http could not be recorded");
        }
    }

    pub(crate) fn event(&self, event: Event) {
        self.spool.record_soon(event);
    }

    /// Metrics.
    fn measure(&self, trace: &Trace) {
        let record = trace.draft.record();
        let edge = trace.draft.edge();
        let decision = record.verdict.as_str();
        let target = if trace.callee.is_empty() { "unknown".to_owned() } else { trace.callee.clone() };
        metrics::counter!("countersign_requests_total", "source" => edge.source.to_owned(),
            "target" => target.clone(), "auth" => edge.user.to_owned(), "decision" => decision,
            "code_class" => code_class(record.status))
        .increment(1);
        metrics::histogram!("countersign_request_duration_seconds", "target" => target)
            .record(Duration::from_micros(record.latency_us).as_secs_f64());
        metrics::counter!("countersign_decisions_total", "mode" => record.mode.clone(), "effect" => decision,
            "policy" => edge.policy.to_owned())
        .increment(1);
    }
}

fn code_class(status: u16) -> &'static str {
    match status {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: &str = include_str!("../../../docs/request.md");

    /// The first cells of a Markdown table that begins with `head`.
    fn rows<'a>(text: &'a str, head: &str) -> Vec<&'a str> {
        let lines = text.lines().map(|line| line.trim_start_matches("//! "));
        let table = lines.skip_while(|line| !line.starts_with(head)).skip(2);
        let rows = table.map_while(|line| line.strip_prefix("| "));
        rows.filter_map(|row| row.split_once(" |")).map(|(first, _)| first).collect()
    }

    #[test]
    fn the_request_is_told_in_the_stages_and_checks_that_it_goes_through() {
        let stages = rows(include_str!("pipeline.rs"), "| stage |");
        assert_eq!(stages.len(), 9, "{stages:?}");
        assert_eq!(rows(TOLD, "| stage |"), stages);
        let line: Vec<&str> =
            TOLD.lines().find_map(|line| line.split_once("listener →")).unwrap().1.split('→').collect();
        assert_eq!(line.iter().map(|stage| stage.trim()).collect::<Vec<_>>(), stages);
        assert_eq!(rows(TOLD, "| check |"), Check::ALL.map(Check::name));
    }
}
