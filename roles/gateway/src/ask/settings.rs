//! One `[[gateway.ask]]`: where other proxies ask whether a request may go on.

use std::net::SocketAddr;

use countersign_identity::SpiffeId;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::edge_tls::CertificateSettings;

/// A listener for other proxies. Unknown keys are refused.
///
/// ```toml
/// [[gateway.ask]]
/// listen = "127.0.0.1:9443"
/// askers = ["spiffe://fleamarket.test/svc/envoy"]
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AskSettings {
    /// Where it listens, over mTLS alone.
    pub listen: SocketAddr,
    /// Who may ask, each by its full SPIFFE ID; nobody else gets through the handshake.
    #[schemars(with = "Vec<String>")]
    pub askers: Vec<SpiffeId>,
    /// PEM chain of a certificate with a DNS name, for askers that know no SPIFFE ID (NGINX, Caddy, Traefik). Without
    /// one it is the gateway's own SVID.
    #[serde(default)]
    pub tls: Option<CertificateSettings>,
}
