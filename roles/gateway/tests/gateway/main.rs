//! The gateway through real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod acme;
mod ask;
mod dpop;
mod edge;
mod edge_tls;
mod filter;
mod framing;
mod grpc;
mod guard;
mod http1;
mod http2_conformance;
mod http2_floods;
mod issuers;
mod large;
mod limits;
mod llhttp;
mod login;
mod observe;
mod quick;
mod refused_tokens;
mod reload;
mod rig;
mod sidecar;
mod sidecar_http1;
mod smuggling;
mod stale;
mod streams;
mod structured_fields;
mod tokens;
mod upstream_modes;
mod upstreams;
mod websocket;
mod workers;
