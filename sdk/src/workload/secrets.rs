//! Taking what we alone need in order to verify tokens that are addressed to us.

use std::{sync::Arc, time::Duration};

use countersign_wire::agent::SecretsResponse;
use tokio::sync::watch;

use crate::{
    agent::{AgentApi, AgentError},
    secrets::SecretsCell,
};

/// The task that watches.
pub(super) struct WatchingSecrets {
    pub(super) agent: AgentApi,
    pub(super) secrets: Arc<SecretsCell>,
    /// Says which generation counts here, to whoever tells the authority.
    pub(super) taken: watch::Sender<u64>,
}

impl WatchingSecrets {
    /// Watches for ever; a stream that ends is opened again. What is held stays until something newer comes.
    pub(super) async fn run(self) {
        let mut pause = PAUSE_MIN;
        loop {
            let ended = match self.agent.secrets().await {
                Ok(stream) => {
                    pause = PAUSE_MIN;
                    self.follow(stream).await
                }
                Err(error) => error,
            };
            tracing::debug!(error = %ended, "the stream of secrets is opened again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn follow(&self, mut stream: tonic::Streaming<SecretsResponse>) -> AgentError {
        loop {
            match stream.message().await {
                Ok(Some(secrets)) => self.take(secrets),
                Ok(None) => return self.agent.unreachable("the stream of secrets ended"),
                Err(status) => return self.agent.error(&status),
            }
        }
    }

    fn take(&self, secrets: SecretsResponse) {
        let generation = secrets.generation;
        match self.secrets.take(secrets) {
            Ok(()) => drop(self.taken.send_replace(generation)),
            Err(error) => tracing::error!(%error, "secrets are refused: the old ones stay"),
        }
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Until it is there, tokens that only we could verify are refused.
const PAUSE_MAX: Duration = Duration::from_secs(2);
