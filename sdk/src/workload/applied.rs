//! Telling the authority by which generations we work, so that a change can wait for everybody.
//!
//! A change took effect here when nothing goes by the old one any more: what the new mode takes is at hand, and every
//! request that was begun in the old mode has its answer. Only then may callees stop accepting the old mode.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use countersign_identity::SpiffeId;
use countersign_wire::agent::AppliedRequest;

use tokio::sync::watch;

use super::Inner;
use crate::{
    agent::AgentApi,
    credentials::Credentials,
    live::{Live, LiveCell},
    outbound::Sending,
};

/// The task that tells.
pub(super) struct Acknowledging {
    agent: AgentApi,
    id: SpiffeId,
    live: Arc<LiveCell>,
    credentials: Credentials,
    secrets: watch::Receiver<u64>,
}

impl Inner {
    pub(super) fn acknowledging(&self, secrets: watch::Receiver<u64>) -> Acknowledging {
        Acknowledging {
            secrets,
            agent: self.agent.clone(),
            id: self.id.clone(),
            live: Arc::clone(&self.live),
            credentials: self.credentials.clone(),
        }
    }
}

impl Acknowledging {
    /// Tells of each change for ever; of several at once, of the last.
    pub(super) async fn run(mut self) {
        let mut changes = self.live.subscribe();
        let mut before: Vec<Weak<Live>> = Vec::new();
        let mut sent = None;
        loop {
            let live = self.live.load();
            changes.mark_unchanged();
            let sending = Sending::of(&self.id, &live);
            if sent != Some(sending) {
                self.took_effect(&live, &before).await;
                sent = Some(sending);
            }
            self.tell(&live).await;
            before.retain(|old| old.strong_count() > 0);
            before.truncate(GENERATIONS_MAX);
            before.push(Arc::downgrade(&live));
            drop(live);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                changed = self.secrets.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Waits until what is sent now is at hand and nothing goes by the old generation, but not for ever: a callee that
    /// never answers must not hold up the change of everybody.
    async fn took_effect(&self, live: &Live, before: &[Weak<Live>]) {
        let ready = async {
            while let Err(error) = self.credentials.ready_for(live).await {
                tracing::warn!(%error, "what we are to send is not there yet");
                tokio::time::sleep(READY_LOOK).await;
            }
            while before.iter().any(|old| old.strong_count() > 0) {
                tokio::time::sleep(DRAIN_LOOK).await;
            }
        };
        if tokio::time::timeout(EFFECT_MAX, ready).await.is_err() {
            tracing::warn!(
                "a change of modes has not taken effect everywhere in this process after {EFFECT_MAX:?}"
            );
        }
    }

    /// Until it is known, or there is something newer to tell.
    async fn tell(&self, live: &Live) {
        let snapshot = live.snapshot();
        let generations = AppliedRequest {
            epoch: snapshot.epoch.clone(),
            sequence: snapshot.sequence,
            secrets_generation: *self.secrets.borrow(),
        };
        let mut pause = PAUSE_MIN;
        while let Err(error) = self.agent.applied(generations.clone()).await {
            tracing::debug!(%error, "the authority does not know yet by which generation we work");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            if self.live.load().snapshot().sequence != snapshot.sequence
                || self.secrets.has_changed().unwrap_or(true)
            {
                return;
            }
        }
    }
}

/// Old generations by which requests still go.
const GENERATIONS_MAX: usize = 64;
const DRAIN_LOOK: Duration = Duration::from_millis(10);
const READY_LOOK: Duration = Duration::from_millis(500);
const EFFECT_MAX: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
