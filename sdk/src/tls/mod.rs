//! TLS between workloads: the peer is judged inside the handshake, by the rules of `pki` alone.
//!
//! Three decisions are taken here once for every connection of a deployment. TLS 1.3 only, with the
//! hybrid X25519MLKEM768 first (it protects confidentiality; authentication stays classical). No
//! resumption on either side, because a resumed session skips the certificate and so would outlive
//! a revocation. And no configuration that lives longer than one connection: each handshake reads
//! the newest credentials and bundles, so rotating them interrupts nobody.

mod client;
mod leaf;
mod observer;
mod peer;
pub mod pem;
mod server;
mod state;

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;

pub(crate) use client::showing;
pub use client::{Connector, Expected, edge_client_config};
pub use observer::{
    ConnectionId, HandshakeObserver, HandshakeOutcome, HandshakeRefusal, HandshakeReport, Unobserved,
};
pub use peer::{Peer, check_records};
pub use server::{Acceptor, ClientAuth, HandshakeError};
pub use state::{Identity, IdentityError, Trust, TrustState};

/// The one cryptography provider of the SDK: aws-lc-rs, hybrid key exchange first.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}

/// Makes [`provider`] the default of the process, for libraries that ask rustls for one. Doing it
/// twice is harmless.
pub fn install_provider() {
    // An error means that another provider was installed before; ours never asks for the default.
    let _ = CryptoProvider::install_default((*provider()).clone());
}

/// HTTP/2, in ALPN.
pub const H2: &[u8] = b"h2";
/// HTTP/1.1, in ALPN.
pub const HTTP_1_1: &[u8] = b"http/1.1";
