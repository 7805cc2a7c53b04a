//! essay

pub mod accept;
pub mod agent;
pub mod authenticate;
pub mod clock;
pub mod inbound;
pub mod launch;
pub mod live;
pub mod outbound;
mod shard;
pub mod snapshot;
pub mod spool;
pub mod tls;
pub mod workload;

pub use inbound::{Caller, EndUser};
pub use outbound::{CallError, ServiceClient};
pub use workload::Workload;
