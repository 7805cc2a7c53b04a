//! Where a channel leads, and whom it expects there.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, ServerName},
};
use thiserror::Error;

use crate::tls::{Connector, HandshakeError, Identity, TrustState, edge_client_config, showing};

/// The other end of a channel.
#[derive(Clone, Debug)]
pub enum Target {
    /// A workload over TLS: `address` is `host:port`, and the connector knows whom to expect and what to show.
    Workload {
        /// `host:port`.
        address: String,
        /// Value of `:authority`: the callee's short name.
        authority: String,
        /// Who we are and whom we expect.
        connector: Connector,
    },
    /// Whoever listens there, over plain HTTP/2: nobody is proven on either side (mode `none`).
    Plain {
        /// `host:port`.
        address: String,
        /// Value of `:authority`: the callee's short name.
        authority: String,
    },
    /// An HTTPS server with a name in DNS or an IP address.
    Edge(EdgeTarget),
    /// HTTP/2 over a Unix socket; the file's permissions say who may listen there.
    Unix(PathBuf),
}

/// An HTTPS server below a private root.
#[derive(Clone, Debug)]
pub struct EdgeTarget {
    pub(super) address: String,
    pub(super) authority: String,
    pub(super) name: ServerName<'static>,
    pub(super) config: Arc<ClientConfig>,
    shown: Option<Arc<TrustState>>,
}

/// Why a URL cannot be called.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EdgeUrlError {
    /// Not `https://host[:port]`.
    #[error("{url:?} is not an https url: write https://host:port")]
    NotHttps {
        /// What it is.
        url: String,
    },
    /// The roots cannot be used.
    #[error(transparent)]
    Tls(#[from] HandshakeError),
}

impl EdgeTarget {
    /// The server of `url` (scheme, host and port count), which must have a certificate below `roots`.
    ///
    /// # Errors
    /// Not an `https` URL, or the roots cannot be read.
    pub fn new(url: &str, roots: &[CertificateDer<'static>]) -> Result<Self, EdgeUrlError> {
        let refused = || EdgeUrlError::NotHttps { url: url.to_owned() };
        let uri: http::Uri = url.parse().map_err(|_| refused())?;
        if uri.scheme_str() != Some("https") {
            return Err(refused());
        }
        let host = uri.host().ok_or_else(refused)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| refused())?;
        let port = uri.port_u16().unwrap_or(443);
        let authority = uri.authority().ok_or_else(refused)?.to_string();
        let config = Arc::new(edge_client_config(roots)?);
        Ok(Self { address: format!("{host}:{port}"), authority, name, config, shown: None })
    }

    /// Shows the newest identity of `trust` to the server, if it asks for one.
    #[must_use]
    pub fn showing(mut self, trust: Arc<TrustState>) -> Self {
        self.config = Arc::new(showing(&self.config, Arc::clone(&trust)));
        self.shown = Some(trust);
        self
    }
}

impl Target {
    /// How messages name it.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Workload { address, authority, .. } | Self::Plain { address, authority } => {
                format!("{authority} at {address}")
            }
            Self::Edge(edge) => edge.address.clone(),
            Self::Unix(path) => path.display().to_string(),
        }
    }

    /// As whom a connection made now would show us.
    pub(super) fn shown(&self) -> Option<Arc<Identity>> {
        match self {
            Self::Workload { connector, .. } => connector.shown(),
            Self::Edge(edge) => edge.shown.as_ref()?.load().identity().cloned(),
            Self::Plain { .. } | Self::Unix(_) => None,
        }
    }

    pub(super) fn scheme_and_authority(&self) -> (&'static str, &str) {
        match self {
            Self::Workload { authority, .. } => ("https", authority),
            Self::Plain { authority, .. } => ("http", authority),
            Self::Edge(edge) => ("https", &edge.authority),
            Self::Unix(_) => ("http", "localhost"),
        }
    }
}
