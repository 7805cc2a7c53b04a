//! Beside other proxies: they ask, over mTLS, whether a request of their client may go on, and get the verdict of the
//! same door and the same policy as if it had come here.
//!
//! | who | how | what it says of its client's request |
//! |---|---|---|
//! | Envoy | gRPC `envoy.service.auth.v3.Authorization/Check` | everything, with the certificate of its client |
//! | NGINX `auth_request` | `/auth/request` | `X-Original-Method`, `X-Original-URI`, `Host`, `X-Forwarded-For`, `-Proto` |
//! | Traefik, Caddy | `/auth/forward` | `X-Forwarded-Method`, `-Uri`, `-Host`, `-For`, `-Proto` |
//!
//! The address says which headers count, so that a client cannot choose by sending the others. Whatever goes wrong, the
//! answer is never yes. An asker without an SVID, or one that is not listed, does not get through the handshake, and the
//! ledger has it.

mod certificate;
mod edits;
mod envoy;
mod forward_auth;
pub(crate) mod front;
mod question;
pub(crate) mod settings;
mod verdict;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use countersign_identity::SpiffeId;
use countersign_sdk::accept::{Limits, Transport, serve};
use countersign_sdk::tls::{Acceptor, ClientAuth, Expected};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::front::{Front, FrontSettings};
pub(crate) use self::question::QuestionError;
use self::settings::AskSettings;
use crate::edge_tls::{CertificateSettings, EdgeCertificateError, EdgeTls, TlsSettings};
use crate::listener::HandshakeMeter;
use crate::reload::Current;

/// Why a listener for other proxies does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Nobody is listed.
    #[error("{listen} would answer nobody; list the proxies, as \"spiffe://…\"")]
    NoAskers {
        /// As configured.
        listen: SocketAddr,
    },
    /// It cannot listen.
    #[error("cannot listen on {listen}: {why}; choose a free port")]
    Listen {
        /// As configured.
        listen: SocketAddr,
        /// What the system said.
        why: String,
    },
    /// See [`EdgeCertificateError`].
    #[error(transparent)]
    Certificate(#[from] EdgeCertificateError),
}

/// An open listener that does not answer yet.
pub(crate) struct Desk {
    listener: TcpListener,
    askers: Vec<SpiffeId>,
    shown: Option<Arc<EdgeTls>>,
    /// They pass requests on, instead of asking about them.
    pass_on: bool,
}

impl Desk {
    pub(crate) async fn bind(settings: &AskSettings) -> Result<Self, AskError> {
        Self::open(settings.listen, &settings.askers, settings.tls.as_ref(), false).await
    }

    /// For proxies that pass requests on.
    pub(crate) async fn bind_front(settings: &FrontSettings) -> Result<Self, AskError> {
        Self::open(settings.listen, &settings.proxies, settings.tls.as_ref(), true).await
    }

    async fn open(
        listen: SocketAddr,
        askers: &[SpiffeId],
        tls: Option<&CertificateSettings>,
        pass_on: bool,
    ) -> Result<Self, AskError> {
        if askers.is_empty() {
            return Err(AskError::NoAskers { listen });
        }
        let shown = match tls {
            Some(files) => Some(Arc::new(EdgeTls::load(Some(files.clone()), &TlsSettings::default())?)),
            None => None,
        };
        let listener = TcpListener::bind(listen).await;
        let listener = listener.map_err(|error| AskError::Listen { listen, why: error.to_string() })?;
        Ok(Desk { listener, askers: askers.to_owned(), shown, pass_on })
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Answers until `shutdown`, then lets questions in progress finish.
    pub(crate) async fn serve(self, current: Arc<Current>, limits: Limits, shutdown: CancellationToken) {
        let workload = current.pipeline().workload.clone();
        let (trust, spool) = (workload.trust(), workload.spool());
        let mut acceptor = Acceptor::new(Arc::clone(trust), ClientAuth::Required)
            .expecting(Expected::OneOf(self.askers))
            .observed_by(Arc::new(HandshakeMeter::new(Arc::clone(spool))));
        let watching = self.shown.map(|edge| {
            acceptor = acceptor.clone().showing(edge.shown());
            tokio::spawn(edge.watch(shutdown.clone()))
        });
        let transport = Transport::Tls(acceptor);
        if self.pass_on {
            serve(self.listener, transport, Front(current), limits, shutdown).await;
        } else {
            serve(self.listener, transport, router(&current), limits, shutdown).await;
        }
        if let Some(watching) = watching {
            // It ends with the same order to stop.
            let _ = watching.await;
        }
    }
}

fn router(current: &Arc<Current>) -> Router {
    Router::new().merge(envoy::router(Arc::clone(current))).merge(forward_auth::router(Arc::clone(current)))
}
