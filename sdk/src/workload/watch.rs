//! Taking every newer snapshot.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use countersign_identity::TrustDomain;
use countersign_wire::{agent::SignedSnapshot, snapshot::Snapshot};
use tokio::time::Instant;

use super::{ConnectError, Health};
use crate::{
    agent::{AgentApi, AgentError},
    live::{Live, LiveCell, Staleness},
    snapshot::{Progress, SnapshotKeys},
    tls::TrustState,
};

/// The keys that may sign snapshots now; renewal brings newer ones.
#[derive(Clone, Debug)]
pub(super) struct Keys(Arc<Mutex<SnapshotKeys>>);

impl Keys {
    pub(super) fn new(keys: SnapshotKeys) -> Self {
        Self(Arc::new(Mutex::new(keys)))
    }

    pub(super) fn replace(&self, keys: SnapshotKeys) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    fn load(&self) -> SnapshotKeys {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Reads snapshots for one workload.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    pub(super) trust_domain: TrustDomain,
    pub(super) target: String,
    pub(super) keys: Keys,
    pub(super) staleness: Staleness,
}

impl Reader {
    /// The first snapshot. Waits for an agent that has none yet; one that must not be taken ends it at once.
    pub(super) async fn first(
        &self,
        agent: &AgentApi,
        progress: &mut Progress,
        deadline: Instant,
        wait: Duration,
    ) -> Result<Live, ConnectError> {
        let mut last = "the agent has no snapshot yet".to_owned();
        loop {
            let attempt = async {
                let mut stream = agent.snapshots(progress.at()).await?;
                let message = stream.message().await.map_err(|status| agent.error(&status))?;
                let ended = || agent.unreachable("the stream of snapshots ended");
                self.read(&message.ok_or_else(ended)?, progress, None)
            };
            match tokio::time::timeout_at(deadline, attempt).await {
                Ok(Err(ConnectError::Agent(error))) if error.is_temporary() => last = error.to_string(),
                Ok(ended) => return ended,
                Err(_) => return Err(ConnectError::TimedOut { waited: wait, last }),
            }
            if Instant::now() + PAUSE_MIN > deadline {
                return Err(ConnectError::TimedOut { waited: wait, last });
            }
            tokio::time::sleep(PAUSE_MIN).await;
        }
    }

    fn read(
        &self,
        signed: &SignedSnapshot,
        progress: &mut Progress,
        previous: Option<&Live>,
    ) -> Result<Live, ConnectError> {
        let snapshot: Snapshot = self.keys.load().verify(signed, &self.trust_domain)?;
        let mut next = progress.clone();
        next.advance(&snapshot)?;
        let live =
            Live::compile_after(previous, snapshot, Some(&self.target))?.growing_old_by(self.staleness);
        *progress = next;
        Ok(live)
    }
}

/// The task that watches.
pub(super) struct Watching {
    pub(super) agent: AgentApi,
    pub(super) reader: Reader,
    pub(super) progress: Progress,
    pub(super) trust: Arc<TrustState>,
    pub(super) live: Arc<LiveCell>,
    pub(super) health: Arc<Health>,
}

impl Watching {
    /// Watches for ever; a stream that ends is opened again.
    pub(super) async fn run(mut self) {
        let mut pause = PAUSE_MIN;
        loop {
            let opened = self.agent.snapshots(self.progress.at()).await;
            let ended = match opened {
                Ok(stream) => {
                    pause = PAUSE_MIN;
                    self.follow(stream).await
                }
                Err(error) => error,
            };
            tracing::debug!(error = %ended, "the stream of snapshots is opened again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn follow(&mut self, mut stream: tonic::Streaming<SignedSnapshot>) -> AgentError {
        loop {
            match stream.message().await {
                Ok(Some(signed)) => self.take(&signed),
                Ok(None) => return self.agent.unreachable("the stream of snapshots ended"),
                Err(status) => return self.agent.error(&status),
            }
        }
    }

    fn take(&mut self, signed: &SignedSnapshot) {
        let held = self.live.load();
        match self.reader.read(signed, &mut self.progress, Some(&held)) {
            // The agent repeats what we hold when a stream is opened again.
            Err(ConnectError::Snapshot(crate::snapshot::SnapshotRefusal::Backwards { held, got }))
                if held == got => {}
            Err(error) => {
                tracing::error!(%error, "a snapshot is refused: the old one stays");
                self.health.set_refusal(Some(error.to_string()));
            }
            Ok(live) => {
                let same = held.snapshot().bundles == live.snapshot().bundles;
                if !same {
                    // Revocations first: whoever sees the new policies sees them too.
                    self.trust.set_bundles(live.bundles().clone());
                }
                self.live.store(live);
                self.health.set_refusal(None);
            }
        }
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
