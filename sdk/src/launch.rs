//! Becoming a service: what a launcher asks of the agent before the service starts.

use std::path::Path;

use countersign_identity::SpiffeId;
use thiserror::Error;

use crate::agent::{AgentApi, AgentError};

/// Why this process did not become the service.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LaunchError {
    /// The agent refused, or is not there.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The agent answered with something that is not a SPIFFE ID.
    #[error("agent gave {0:?} as identity, which is not a spiffe id")]
    BadId(String),
}

impl LaunchError {
    /// Did the agent say no, as opposed to not being there?
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Agent(AgentError::Denied { .. }))
    }
}

/// Makes the calling process (and what it becomes by `exec`) the service `entry`, a short name or a full
/// SPIFFE ID. The entry must list this process's uid in `launch_by`.
///
/// # Errors
/// See [`LaunchError`].
pub async fn register(socket: &Path, entry: &str) -> Result<SpiffeId, LaunchError> {
    let answer = AgentApi::new(socket.to_owned()).register(entry).await?;
    answer.spiffe_id.parse().map_err(|_| LaunchError::BadId(answer.spiffe_id))
}
