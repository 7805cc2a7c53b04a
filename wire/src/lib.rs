//! What crosses the wire, and nothing that does anything: types for gRPC, for the JSON API and for the
//! snapshot, with the one registry of error codes.
//!
//! - [`agent`], [`node`], [`workload`], [`ext_authz`]: protobuf messages, clients and servers (`proto/*.proto`).
//! - [`snapshot`]: what every data plane needs to decide without asking anybody.
//! - [`api`]: bodies of `/api/v1`.
//! - [`codes`]: CSnnnn ↔ public code ↔ HTTP ↔ OAuth ↔ gRPC ↔ exit code, with the text for humans.
//! - [`problem`]: every error body (RFC 9457).
//! - [`json`]: the only way in for JSON: bounded, and its errors never repeat a value that the sender wrote.
//!
//! Unknown members: a **request** of ours is refused with the name of the member (a typo must not be silently
//! ignored); a **response** and a **snapshot** ignore them, so that an older reader can follow a newer
//! writer, except those that a snapshot lists as critical.
//!
//! ```
//! use countersign_wire::{codes::Code, problem::Problem};
//! let problem = Problem::new(Code::NotPermitted, None);
//! assert_eq!((problem.status, problem.code.as_str()), (403, "access_denied"));
//! ```

pub mod api;
pub mod codes;
pub mod json;
pub mod problem;
pub mod snapshot;

mod bytes;
mod secret;

pub use bytes::Base64;
pub use secret::SecretText;

pub use proto::countersign::agent::v1 as agent;
pub use proto::countersign::node::v1 as node;
pub use proto::envoy::service::auth::v3 as ext_authz;

/// The SPIFFE Workload API (SPF-8, SPF-9). Its service has no package; every call carries the metadata
/// [`WORKLOAD_METADATA`].
pub mod workload {
    pub use crate::proto::workload::*;
}

/// Name and value of the metadata that every call of the Workload API must carry, exactly (SPF-8).
pub const WORKLOAD_METADATA: (&str, &str) = ("workload.spiffe.io", "true");

/// The largest gRPC message that any of our servers or clients reads, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Generated from `proto/*.proto`; the comments there are the documentation.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::indexing_slicing, clippy::too_many_lines)]
mod proto {
    pub mod countersign {
        pub mod agent {
            pub mod v1 {
                tonic::include_proto!("countersign.agent.v1");
            }
        }
        pub mod node {
            pub mod v1 {
                tonic::include_proto!("countersign.node.v1");
            }
        }
    }
    pub mod envoy {
        pub mod service {
            pub mod auth {
                pub mod v3 {
                    tonic::include_proto!("envoy.service.auth.v3");
                }
            }
        }
    }
    pub mod workload {
        tonic::include_proto!("_");
    }
}
