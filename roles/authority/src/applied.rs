//! What each workload works by: which snapshot and which secrets took effect there, as its agent tells us.
//!
//! Kept in memory alone. A change that must not overtake another one waits until everybody who lately said something
//! has said that it holds the first.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use countersign_identity::{SpiffeId, UnixTime};
use countersign_wire::agent::AppliedRequest;
use tokio::sync::watch;

/// Workloads that are remembered at one time.
const WORKLOADS_MAX: usize = 10_000;
/// A workload that said nothing for so long is not waited for: it tells at least once a minute.
const SILENT_AFTER: Duration = Duration::from_secs(150);

/// What one workload said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) epoch: String,
    pub(crate) sequence: u64,
    pub(crate) secrets: u64,
    pub(crate) at: UnixTime,
}

/// What everybody said last.
#[derive(Debug)]
pub(crate) struct Applied {
    acks: Mutex<HashMap<SpiffeId, Ack>>,
    news: watch::Sender<()>,
}

impl Default for Applied {
    fn default() -> Self {
        Self { acks: Mutex::default(), news: watch::Sender::new(()) }
    }
}

impl Applied {
    /// Takes a workload's word, as an attesting agent passed it on.
    pub(crate) fn note(&self, workload: SpiffeId, told: AppliedRequest, now: UnixTime) {
        let AppliedRequest { epoch, sequence, secrets_generation } = told;
        {
            let mut acks = self.acks.lock().unwrap_or_else(PoisonError::into_inner);
            if acks.len() >= WORKLOADS_MAX && !acks.contains_key(&workload) {
                acks.retain(|_, ack| now.since(ack.at) < SILENT_AFTER);
                if acks.len() >= WORKLOADS_MAX {
                    return;
                }
            }
            acks.insert(workload, Ack { epoch, sequence, secrets: secrets_generation, at: now });
        }
        self.news.send_replace(());
    }

    /// What a workload said last, if it is not silent.
    pub(crate) fn of(&self, workload: &SpiffeId, now: UnixTime) -> Option<Ack> {
        let acks = self.acks.lock().unwrap_or_else(PoisonError::into_inner);
        acks.get(workload).filter(|ack| now.since(ack.at) < SILENT_AFTER).cloned()
    }

    /// Those who are not silent and do not hold snapshot `sequence` of `epoch` yet, by name.
    pub(crate) fn behind(&self, epoch: &str, sequence: u64, now: UnixTime) -> Vec<SpiffeId> {
        let acks = self.acks.lock().unwrap_or_else(PoisonError::into_inner);
        let lags = |ack: &Ack| ack.epoch != epoch || ack.sequence < sequence;
        let speaks = |ack: &Ack| now.since(ack.at) < SILENT_AFTER;
        let mut behind: Vec<SpiffeId> = acks
            .iter()
            .filter(|(_, ack)| speaks(ack) && lags(ack))
            .map(|(workload, _)| workload.clone())
            .collect();
        behind.sort();
        behind
    }

    /// Did anybody say anything at `moment` or later?
    pub(crate) fn anybody_since(&self, moment: UnixTime) -> bool {
        let acks = self.acks.lock().unwrap_or_else(PoisonError::into_inner);
        acks.values().any(|ack| ack.at >= moment)
    }

    /// Word of every acknowledgement.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn told(epoch: &str, sequence: u64) -> AppliedRequest {
        AppliedRequest { epoch: epoch.to_owned(), sequence, secrets_generation: 3 }
    }

    fn id(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://fleamarket.test/svc/{name}")).unwrap()
    }

    #[test]
    fn whoever_holds_an_older_snapshot_or_one_of_another_epoch_is_behind() {
        let applied = Applied::default();
        applied.note(id("ads"), told("e", 7), NOW);
        applied.note(id("users"), told("e", 6), NOW);
        applied.note(id("chat"), told("old", 9), NOW);
        assert_eq!(applied.behind("e", 7, NOW), [id("chat"), id("users")]);
        applied.note(id("users"), told("e", 7), NOW);
        assert_eq!(applied.behind("e", 7, NOW), [id("chat")]);
        assert_eq!(applied.of(&id("ads"), NOW).unwrap().secrets, 3);
    }

    #[test]
    fn whoever_is_silent_is_not_waited_for() {
        let applied = Applied::default();
        applied.note(id("ads"), told("e", 1), NOW);
        let later = NOW.saturating_add(SILENT_AFTER);
        assert!(applied.behind("e", 7, later).is_empty());
        assert_eq!(applied.of(&id("ads"), later), None);
    }

    #[test]
    fn more_workloads_than_the_limit_are_not_remembered() {
        let applied = Applied::default();
        for number in 0..=WORKLOADS_MAX {
            applied.note(id(&format!("s{number}")), told("e", 1), NOW);
        }
        assert_eq!(applied.behind("e", 2, NOW).len(), WORKLOADS_MAX);
        // Those who fell silent make room.
        let later = NOW.saturating_add(SILENT_AFTER);
        applied.note(id("late"), told("e", 1), later);
        assert_eq!(applied.behind("e", 2, later), [id("late")]);
    }
}
