//! The flea market of the thesis: six services that know nothing of certificates.
//!
//! People sell, rent out and swap things near them. Each service is a process with its own identity
//! and its own database, calls the others only through the SDK, and is called only by whom its policy
//! names. What a service needs for that is one layer, or a sidecar in front of it and not even that:
//!
//! ```no_run
//! # use axum::{Router, routing::get};
//! # use countersign_sdk::workload::Workload;
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let workload = Workload::connect().await?;
//! let service = Router::new().route("/ads", get(|| async { "a bicycle" })).layer(workload.require());
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:7091").await?;
//! workload.serve(listener, service).await;
//! # Ok(())
//! # }
//! ```

mod asking;
mod fault;
mod input;
mod neighbour;
pub mod patience;
mod place;
mod policies;
mod run;
mod seed;
pub mod services;
mod sidecar;
pub mod store;

pub use asking::{Caller, EndUser};
pub use fault::Fault;
pub use input::JSON_BYTES_MAX;
pub use neighbour::{Neighbour, NeighbourError};
pub use place::{Degrees, Place};
pub use policies::{EDGE_ROUTES, POLICIES, TRUST_DOMAIN, policies_for};
pub use run::{BehindSidecar, Opened, RunError, Settings, open, router, run_behind_sidecar};
pub use sidecar::Sidecar;
