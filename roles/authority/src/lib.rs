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

mod admin;
mod admin_table;
mod api;
mod applied;
mod bearer_desk;
mod boot;
mod credentials;
mod entries;
mod error;
mod federation;
mod http;
mod ingest;
mod issuance;
mod journal;
mod keys;
mod macaroon_desk;
mod master;
mod modes;
mod node;
mod password_desk;
mod policies;
mod proof_keys;
mod revocations;
mod secrets;
mod serve;
mod settings;
mod snapshot;
mod state;
mod token_desk;
mod upkeep;

pub use error::AuthorityError;
pub use master::make_master_key;
pub use serve::run;
pub use settings::{Deployment, LOCAL_NODE, ServiceEntry, Settings, parse_duration};
