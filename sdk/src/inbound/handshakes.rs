//! Handshakes, counted; refused ones, brought into the ledger: no handler ever sees them.

use std::sync::Arc;

use countersign_identity::Mode;
use countersign_ledger::CheckResult;

use super::{DecisionDraft, Denial};
use crate::{
    spool::Spool,
    tls::{HandshakeObserver, HandshakeOutcome, HandshakeReport},
    trace::Hop,
};

/// Counts a handshake by what it proved of the client, and by how its keys were agreed on.
fn count(report: &HandshakeReport) {
    let client = match report.outcome {
        HandshakeOutcome::Admitted => "proven",
        HandshakeOutcome::Anonymous => "anonymous",
        HandshakeOutcome::Refused(_) => "refused",
    };
    let resumed = if report.negotiated.is_some_and(|keys| keys.resumed) { "true" } else { "false" };
    let group = report.negotiated.map_or("none", |keys| keys.group);
    metrics::counter!("countersign_handshakes_total", "client" => client, "resumed" => resumed, "group" => group)
        .increment(1);
}

/// Records refused handshakes of one target; admitted ones are recorded with their requests.
#[derive(Debug)]
pub struct HandshakeRecorder {
    target: String,
    spool: Arc<Spool>,
}

impl HandshakeRecorder {
    /// Records in `spool` as decisions about calls of `target`.
    #[must_use]
    pub const fn new(target: String, spool: Arc<Spool>) -> Self {
        Self { target, spool }
    }
}

impl HandshakeObserver for HandshakeRecorder {
    fn handshake(&self, report: &HandshakeReport) {
        count(report);
        let HandshakeOutcome::Refused(refusal) = &report.outcome else { return };
        let denial = Denial::from(refusal);
        let mut draft = DecisionDraft::begin(&self.target, Hop::first());
        draft.checked(report.checks.clone());
        draft.denied(&denial);
        let mut record = draft.record().clone();
        record.connection = Some(report.connection.to_string());
        record.peer = report.address.map(|address| address.to_string());
        // Whose name a certificate bears is known once its chain holds; until then it is what a stranger says.
        let chain_holds =
            report.checks.iter().any(|check| check.name == "chain" && check.result == CheckResult::Pass);
        match &report.claimed {
            Some(name) if chain_holds => record.source = Some(name.to_string()),
            Some(name) => record.reason = Some(format!("{} (the certificate claims {name})", denial.reason)),
            None => {}
        }
        // There is no answer on a connection that does not exist.
        record.status = 0;
        record.latency_us = u64::try_from(report.took.as_micros()).unwrap_or(u64::MAX);
        // A name that was not proven is a claim: the mode says what was verified.
        Mode::None.as_str().clone_into(&mut record.mode);
        tracing::info!(
            connection = %report.connection,
            code = %denial.code,
            decision = %record.id,
            "handshake refused: {}",
            denial.reason,
        );
        self.spool.record_refused_stranger(report.address.map(|address| address.ip()), record, denial.code);
    }
}
