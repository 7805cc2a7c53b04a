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
//! `registry` and `entries` (what is that process), `serve`, `workload_api` and `agent_api` (what it may ask),
//! `svid` and `attestation` (its certificate, and what the ledger is told with it), `jwt_svid`, `wit_svid`,
//! `token_bundles` and `secrets` (its tokens, and what it verifies those of others by); towards the authority
//! `enroll`, `pinned`, `credential`, `renew`, `node`, `relay`, `snapshot`, `heads`; `state` (what survives a restart),
//! `limits`, `admin` (probes), and `agent`, which runs them all.

mod admin;
mod agent;
mod agent_api;
mod attest;
mod attestation;
mod credential;
mod enroll;
mod entries;
mod error;
mod heads;
mod jwt_svid;
mod limits;
mod node;
mod pinned;
mod registry;
mod relay;
mod renew;
mod secrets;
mod serve;
mod settings;
mod snapshot;
mod socket;
mod state;
mod svid;
mod token_bundles;
mod wit_svid;
mod workload_api;

pub use agent::run;
pub use attest::{ExecutableError, PinError};
pub use error::AgentError;
pub use settings::{Deployment, Settings, SocketMode};
