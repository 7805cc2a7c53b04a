//! The last head of the ledger that this agent saw. It is the outside witness: an authority whose ledger was
//! cut, restored or rewritten shows a head that contradicts the one kept here (DESIGN 5.10).

use countersign_ledger::Head;
use countersign_ledger::head::{HeadMismatch, compare};
use countersign_wire::snapshot::LedgerHead;

use crate::error::AgentError;
use crate::state::StateDir;

const FILE: &str = "ledger-head.json";

/// Compares each head with the last good one.
#[derive(Debug)]
pub(crate) struct Witness {
    kept: Option<(LedgerHead, Head)>,
    /// The last finding, so that it is told once and not with every snapshot.
    told: Option<HeadMismatch>,
}

/// What a head says about the ledger.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It goes on from the one that was kept, or is the first.
    Continues,
    /// It contradicts the one that was kept, which stays. Told once.
    Alarm(HeadMismatch),
    /// As before: the contradiction has been told.
    StillWrong,
    /// It cannot be read.
    Unreadable,
}

impl Witness {
    /// With what the last start kept.
    pub(crate) fn restore(state: &StateDir) -> Result<Self, AgentError> {
        let kept = state.load::<LedgerHead>(FILE)?;
        Ok(Self { kept: kept.and_then(|signed| read(&signed).map(|head| (signed, head))), told: None })
    }

    /// Judges a head, and keeps it if it continues the last. An alarm never ends by itself: the kept head
    /// stays, as evidence, until an operator has looked at it.
    pub(crate) fn look_at(&mut self, signed: &LedgerHead, state: &StateDir) -> Result<Finding, AgentError> {
        let Some(head) = read(signed) else { return Ok(Finding::Unreadable) };
        if let Some((_, kept)) = &self.kept
            && let Err(mismatch) = compare(kept, &head)
        {
            if self.told.as_ref() == Some(&mismatch) {
                return Ok(Finding::StillWrong);
            }
            self.told = Some(mismatch.clone());
            return Ok(Finding::Alarm(mismatch));
        }
        self.told = None;
        if self.kept.as_ref().is_none_or(|(_, kept)| kept.size != head.size) {
            state.save(FILE, signed)?;
        }
        self.kept = Some((signed.clone(), head));
        Ok(Finding::Continues)
    }

    /// Whether an alarm stands.
    pub(crate) fn alarm(&self) -> Option<&HeadMismatch> {
        self.told.as_ref()
    }
}

/// The signature of the snapshot covers the head; its own is for readers outside.
fn read(signed: &LedgerHead) -> Option<Head> {
    serde_json::from_str(&signed.payload).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn head(size: u64, digit: &str) -> LedgerHead {
        let payload = serde_json::json!({
            "v": 1, "trust_domain": "flea.test", "epoch": "e", "size": size, "hash": digit.repeat(64), "at": 0,
        });
        LedgerHead { payload: payload.to_string(), kid: "k".into(), signature: "s".into() }
    }

    fn witness() -> (tempfile::TempDir, StateDir, Witness) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path().join("agent")).unwrap();
        let witness = Witness::restore(&state).unwrap();
        (dir, state, witness)
    }

    #[test]
    fn a_growing_ledger_raises_no_alarm() {
        let (_dir, state, mut witness) = witness();
        for head in [head(1, "a"), head(1, "a"), head(7, "b")] {
            assert_eq!(witness.look_at(&head, &state).unwrap(), Finding::Continues);
        }
    }

    #[test]
    fn a_rolled_back_ledger_raises_one_alarm_that_survives_a_restart() {
        let (_dir, state, mut witness) = witness();
        witness.look_at(&head(7, "a"), &state).unwrap();
        let mismatch = HeadMismatch::RolledBack { saved: 7, current: 6 };
        assert_eq!(witness.look_at(&head(6, "b"), &state).unwrap(), Finding::Alarm(mismatch.clone()));
        assert_eq!(witness.look_at(&head(6, "b"), &state).unwrap(), Finding::StillWrong);
        assert_eq!(witness.alarm(), Some(&mismatch));
        let mut restarted = Witness::restore(&state).unwrap();
        assert_eq!(restarted.look_at(&head(6, "b"), &state).unwrap(), Finding::Alarm(mismatch));
    }

    #[test]
    fn a_forked_ledger_raises_an_alarm() {
        let (_dir, state, mut witness) = witness();
        witness.look_at(&head(7, "a"), &state).unwrap();
        let mismatch = HeadMismatch::Forked { size: 7 };
        assert_eq!(witness.look_at(&head(7, "b"), &state).unwrap(), Finding::Alarm(mismatch));
    }

    #[test]
    fn a_head_that_cannot_be_read_is_no_head() {
        let (_dir, state, mut witness) = witness();
        let broken = LedgerHead { payload: "{".into(), ..head(1, "a") };
        assert_eq!(witness.look_at(&broken, &state).unwrap(), Finding::Unreadable);
    }
}
