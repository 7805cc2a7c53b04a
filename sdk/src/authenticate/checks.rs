//! What was checked of the evidence, in the words of a decision record.

use countersign_ledger::{CheckRecord, CheckResult};

use super::EvidenceError;
use crate::accept::Connection;

/// The checks so far, in their order.
pub(super) struct Trail(Vec<CheckRecord>);

impl Trail {
    /// Begins with what was checked in the handshake.
    pub(super) fn of_connection(connection: Option<&Connection>) -> Self {
        let peer = connection.and_then(|connection| connection.peer.as_ref());
        Self(peer.map_or_else(Vec::new, |peer| peer.checks()))
    }

    /// Notes how a check went, unless there was nothing to check.
    pub(super) fn note<T>(
        &mut self,
        name: &str,
        is_there: bool,
        outcome: Result<T, EvidenceError>,
    ) -> Result<T, EvidenceError> {
        if is_there {
            let failed = outcome.as_ref().err();
            let (result, detail) = match failed {
                None => (CheckResult::Pass, String::new()),
                Some(error) => (CheckResult::Fail, error.to_string()),
            };
            let name = failed.and_then(EvidenceError::check).unwrap_or(name).to_owned();
            self.0.push(CheckRecord { name, result, detail });
        }
        outcome
    }

    /// All of them. A refusal that no check names yet is the last one.
    pub(super) fn into_records(
        self,
        connection: Option<&Connection>,
        refusal: Option<&EvidenceError>,
    ) -> Vec<CheckRecord> {
        let Self(mut records) = self;
        let peer = connection.and_then(|connection| connection.peer.as_ref());
        match (refusal, peer) {
            // The peer was judged anew: so were its checks.
            (Some(EvidenceError::Peer(_)), Some(peer)) => peer.checks(),
            (Some(error), _) if records.iter().all(|check| check.result != CheckResult::Fail) => {
                let name = error.check().unwrap_or("evidence").to_owned();
                records.push(CheckRecord { name, result: CheckResult::Fail, detail: error.to_string() });
                records
            }
            _ => records,
        }
    }
}
