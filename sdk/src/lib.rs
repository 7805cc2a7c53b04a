//! What a service links: an identity, a door, callees, and a record of what it decided.
//!
//! A service that uses this crate contains no line about certificates. It says who it is allowed to be by being
//! started (`countersign run --service users -- ./users`), who may call it in a policy file, and whom it calls by
//! name. Everything else happens here:
//!
//! ```no_run
//! use axum::{Router, extract::Path, routing::get};
//! use countersign_sdk::{CallError, Caller, EndUser, ServiceClient, Workload};
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let me = Workload::connect().await?;              // SPIFFE_ENDPOINT_SOCKET; waits, with a clear timeout error
//! let chat = me.client("chat");                     // one mTLS connection, kept; expects exactly that service
//! let app = Router::new()
//!     .route("/users/{id}", get(preview))
//!     .route("/healthz", get(|| async { "ok" }))
//!     .layer(me.require().skip("/healthz")?)        // deny by default: policy says who gets in
//!     .with_state(chat);
//!
//! /// Runs only for callers whom the policy permits.
//! async fn preview(
//!     caller: Caller,                               // proven: workload, user, and how
//!     user: Option<EndUser>,                        // on whose behalf, if anybody's
//!     axum::extract::State(chat): axum::extract::State<ServiceClient>,
//!     Path(id): Path<u64>,
//! ) -> String {
//!     // The user's context goes along because it came in with this caller; there is no other way to send it.
//!     let unread: Result<_, CallError> =
//!         chat.on_behalf_of(&caller).get(&format!("/unread/{id}")).send().await;
//!     format!("{id} for {:?}, {}", user.map(|user| user.name.clone()), unread.is_ok())
//! }
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:7443").await?;
//! me.serve(listener, app)                           // rotating certificate, peers judged in the handshake
//!     .with_graceful_shutdown(async { let _ = tokio::signal::ctrl_c().await; })
//!     .await;
//! me.close().await;                                 // what is left of the records goes to the authority
//! # Ok(()) }
//! ```
//!
//! # What holds, and where
//!
//! *Nobody is believed for long.* [`tls`] judges a peer inside the handshake by the rules of `pki`, so a refused
//! peer never sends a request. [`tls::Peer`] is asked again on every request and after every change of trust;
//! [`accept`] ends connections whose peer is no longer believed, with whatever still runs on them.
//!
//! *Nothing is inferred.* [`authenticate`] is the only place where evidence becomes a caller. What is absent is
//! nobody; what is present and wrong is final. [`inbound`] puts it in front of any `http` service: canonical
//! request, strip, authenticate, decide, record, in this order; and it is the only place where a refusal becomes
//! a status and a public code.
//!
//! *Nobody is asked on the way.* [`workload`] keeps the credentials and the signed [`snapshot`] fresh in the
//! background; a request only reads what was compiled by [`live`]. Without the authority everything goes on until
//! credentials expire; a snapshot past its grace refuses everybody.
//!
//! *How we prove ourselves is not ours to decide.* [`credentials`] has what each mode takes before it is needed;
//! [`outbound`] sends what the newest snapshot names for us, signs each request for the connection it goes out on,
//! and carries the user along unchanged, exchanged for one hop, or nested. A switch changes no line of a service.
//!
//! *Whatever was decided is recorded.* [`spool`] has a refusal on disk before its answer leaves.
//!
//! *A call can be followed.* [`trace`] goes on with the trace that a request belongs to, and tells an observer, if
//! there is one, of every request that has ended.
//!
//! *Time and randomness enter here.* [`clock::now`] is the only reading of a clock; below this crate both are
//! arguments.
//!
//! The parts are usable alone: a gateway takes [`outbound`] and [`authenticate`], the authority takes [`accept`] and
//! a [`tls::TrustState`] made of its own keys, an agent takes [`accept`] on a Unix socket and [`outbound::Channel`].

pub mod accept;
pub mod agent;
pub mod authenticate;
mod bounded;
pub mod clock;
pub mod context;
pub mod credentials;
pub mod inbound;
pub mod launch;
pub mod live;
pub mod outbound;
pub mod policy_dir;
mod renewal;
pub mod replay;
pub mod sealed;
pub mod secrets;
pub mod shard;
pub mod signing_chains;
pub mod snapshot;
pub mod spool;
pub mod tls;
pub mod trace;
pub mod workload;

pub use inbound::{Caller, EndUser};
pub use outbound::{CallError, ServiceClient};
pub use workload::Workload;
