//! What remains of a request: one ledger event, one access line, one count for each metric. No token, path or query.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign_ledger::{CheckRecord, CheckResult, Event, Verdict};
use countersign_sdk::inbound::{DecisionDraft, Denial};
use countersign_sdk::spool::Spool;
use http::StatusCode;

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
    /// The service behind.
    Upstream,
}

impl Check {
    const ALL: [Check; 6] =
        [Check::Request, Check::Quota, Check::Route, Check::Token, Check::Policy, Check::Upstream];

    fn name(self) -> &'static str {
        match self {
            Check::Request => "request",
            Check::Quota => "quota",
            Check::Route => "route",
            Check::Token => "token",
            Check::Policy => "policy",
            Check::Upstream => "upstream",
        }
    }
}

/// What is known of a request so far.
pub(crate) struct Trace {
    pub(crate) draft: DecisionDraft,
    /// Short name of the service behind; empty until a route is found.
    pub(crate) callee: String,
    address: IpAddr,
    passed: usize,
}

impl Trace {
    pub(crate) fn new(draft: DecisionDraft, address: IpAddr) -> Self {
        Trace { draft, callee: String::new(), address, passed: 0 }
    }

    /// Notes that the next check held. They run in one order, so it is the next one.
    pub(crate) fn pass(&mut self, check: Check, detail: impl Into<String>) {
        debug_assert_eq!(Check::ALL.get(self.passed), Some(&check));
        self.draft.check(record(check, CheckResult::Pass, detail.into()));
        self.passed += 1;
    }

    /// The first check that did not pass failed; those after it were not reached.
    fn fail(&mut self, why: &str) {
        for (position, check) in Check::ALL.into_iter().enumerate().skip(self.passed) {
            let failed = position == self.passed;
            let result = if failed { CheckResult::Fail } else { CheckResult::NotReached };
            self.draft.check(record(check, result, if failed { why.to_owned() } else { String::new() }));
        }
    }
}

fn record(check: Check, result: CheckResult, detail: String) -> CheckRecord {
    CheckRecord { name: check.name().to_owned(), result, detail }
}

/// Where everything is recorded.
pub(crate) struct Recorder {
    spool: Arc<Spool>,
}

impl Recorder {
    pub(crate) fn new(spool: Arc<Spool>) -> Self {
        Recorder { spool }
    }

    /// An answer of the service behind. Follows with the next batch.
    pub(crate) fn allowed(&self, mut trace: Trace, status: StatusCode) {
        trace.draft.answered(status);
        self.count(&trace);
        self.spool.record(trace.draft.into_event());
    }

    /// A refusal: on disk before the client hears of it. Those of strangers are counted per address and minute beyond
    /// the first few, so that strangers cannot fill the disk.
    pub(crate) async fn refused(&self, mut trace: Trace, refusal: &Refusal, denial: &Denial) {
        trace.fail(&denial.reason);
        let policy = denial.policy.clone().or_else(|| trace.draft.record().policy.clone());
        trace.draft.denied(&Denial { policy, ..denial.clone() });
        trace.draft.answered(denial.status());
        self.count(&trace);
        if refusal.is_before_authentication() {
            let decision = trace.draft.record().clone();
            return self.spool.record_refused_stranger(Some(trace.address), decision, denial.code);
        }
        if let Err(error) = self.spool.record_durably(trace.draft.into_event()).await {
            tracing::error!(%error, "a refusal could not be recorded");
        }
    }

    pub(crate) fn event(&self, event: Event) {
        self.spool.record_soon(event);
    }

    /// Metrics, edge counters and the access line.
    fn count(&self, trace: &Trace) {
        let record = trace.draft.record();
        let edge = trace.draft.edge();
        self.spool.edges().count(edge);
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
        tracing::info!(
            target: "countersign::access",
            decision = %record.id,
            connection = record.connection.as_deref().unwrap_or_default(),
            peer = %trace.address,
            method = record.method,
            route = record.route,
            to = trace.callee,
            user = record.user.as_deref().unwrap_or_default(),
            policy = edge.policy,
            verdict = decision,
            code = record.code.as_deref().unwrap_or_default(),
            reason = record.reason.as_deref().filter(|_| record.verdict == Verdict::Deny).unwrap_or_default(),
            status = record.status,
            latency_us = record.latency_us,
            "request"
        );
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
