//! TLS between workloads: the peer is judged inside the handshake, by the rules of `pki` alone.
//!
//! Three decisions are taken here once for every connection of a deployment. TLS 1.3 only (an edge may be told to speak
//! 1.2 to clients whose certificates nobody asks for), with the
//! hybrid X25519MLKEM768 first (it protects confidentiality; authentication stays classical). No
//! resumption on either side, because a resumed session skips the certificate and so would outlive
//! a revocation. And no configuration that outlives a generation of trust: each handshake goes by the
//! newest credentials and bundles, so rotating them interrupts nobody. Within a generation everything that
//! does not change is made once: the configuration, and the verdict on a chain that was presented before,
//! byte for byte. What is proven every time is that the peer holds its key.

mod challenge;
mod client;
mod groups;
mod judging;
mod leaf;
mod names;
mod observer;
mod peer;
pub mod pem;
mod server;
mod state;
mod verified;

use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use challenge::Challenge;
pub(crate) use client::showing;
pub use client::{Connector, Expected, edge_client_config};
pub use groups::{Group, Groups, GroupsError};
pub use names::UnknownName;
pub use observer::{
    ConnectionId, HandshakeObserver, HandshakeOutcome, HandshakeRefusal, HandshakeReport, Negotiated,
    Unobserved, new_connection_id,
};
pub use peer::{Peer, check_records};
pub use server::{Acceptor, ClientAuth, HandshakeError};
pub use state::{Identity, IdentityError, Trust, TrustState};

/// The one cryptography provider of the SDK: aws-lc-rs, with the groups of [`Groups::default`].
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(Groups::default().with(aws_lc_rs::default_provider()))))
}

/// Makes [`provider`] the default of the process, for libraries that ask rustls for one. Doing it
/// twice is harmless.
pub fn install_provider() {
    // An error means that another provider was installed before; ours never asks for the default.
    let _ = CryptoProvider::install_default((*provider()).clone());
}

fn alpn(protocols: &[&[u8]]) -> Vec<Vec<u8>> {
    protocols.iter().map(|protocol| protocol.to_vec()).collect()
}

/// HTTP/2, in ALPN.
pub const H2: &[u8] = b"h2";
/// HTTP/1.1, in ALPN.
pub const HTTP_1_1: &[u8] = b"http/1.1";
