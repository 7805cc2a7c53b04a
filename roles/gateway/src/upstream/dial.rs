//! A new connection to an endpoint, with whoever answers there judged before a byte of HTTP.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use countersign_identity::{SpiffeId, UnixTime};
use countersign_sdk::outbound::no_longer_believed;
use countersign_sdk::tls::{
    Connector, Expected, H2, HTTP_1_1, HandshakeError, HandshakeRefusal, Identity, Peer, TrustState,
    edge_client_config,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::endpoint::{Endpoint, Place, Seat};
use super::error::{Met, UpstreamError};
use super::settings::UpstreamTls;

/// Connects to the endpoints of one upstream.
pub(crate) struct Dialer {
    upstream: String,
    security: Security,
    http2: bool,
    connect: Duration,
}

/// Who has to be at the other end.
enum Security {
    /// Whoever is.
    Plain,
    /// This workload, to which we show ourselves.
    Workload { connector: Connector, expected: SpiffeId },
    /// A server with this name, below the configured roots.
    Named { connector: TlsConnector, name: ServerName<'static> },
}

/// Why a table `tls` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamTlsError {
    /// Neither or both of the ways to know the other end.
    #[error("tls needs either expect = \"spiffe://…\", or server_name and ca")]
    Choice,
    /// Not a SPIFFE ID.
    #[error("tls.expect: {0}")]
    Expect(#[from] countersign_identity::IdError),
    /// Not a name that a certificate can have.
    #[error("tls.server_name: `{name}` is neither a name in DNS nor an address")]
    ServerName {
        /// As configured.
        name: String,
    },
    /// The roots cannot be used.
    #[error("tls.ca {path}: {why}")]
    Ca {
        /// As configured.
        path: String,
        /// What is wrong.
        why: String,
    },
}

/// A connection on which nothing was said yet.
pub(crate) struct Dialed {
    pub(crate) wire: Wire,
    pub(crate) proof: Option<Proof>,
    /// Checks need none: they must get through where requests no longer do.
    pub(crate) seat: Option<Seat>,
}

/// What an open connection owes to the identities at its ends.
#[derive(Debug, Clone)]
pub(crate) struct Proof {
    peer: Arc<Peer>,
    own: Option<Arc<Identity>>,
    trust: Arc<TrustState>,
}

/// The bytes of a connection.
#[derive(Debug)]
pub(crate) enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Dialer {
    /// `trust`: who we are, and whom we recognise.
    pub(super) fn new(
        upstream: &str,
        tls: Option<&UpstreamTls>,
        http2: bool,
        connect: Duration,
        trust: &Arc<TrustState>,
    ) -> Result<Self, UpstreamTlsError> {
        let security = match tls {
            None => Security::Plain,
            Some(tls) => Security::new(tls, http2, trust)?,
        };
        Ok(Dialer { upstream: upstream.to_owned(), security, http2, connect })
    }

    /// Is nobody proven at the other end?
    pub(crate) const fn is_plain(&self) -> bool {
        matches!(self.security, Security::Plain)
    }

    /// Is a workload of our own trust expected at the other end?
    pub(crate) const fn is_mesh(&self) -> bool {
        matches!(self.security, Security::Workload { .. })
    }

    /// HTTP/2; otherwise HTTP/1.1.
    pub(crate) const fn speaks_http2(&self) -> bool {
        self.http2
    }

    /// What it speaks, for people.
    pub(crate) const fn protocol(&self) -> &'static str {
        if self.http2 { "HTTP/2" } else { "HTTP/1.1" }
    }

    /// Connects and judges the other end, within `connect_ms`.
    ///
    /// # Errors
    /// Nobody is there in time, or not whom we expect.
    pub(crate) async fn dial(
        &self,
        endpoint: &Endpoint,
        seat: Option<Seat>,
    ) -> Result<Dialed, UpstreamError> {
        match tokio::time::timeout(self.connect, self.connect(endpoint)).await {
            Ok(connected) => connected.map(|(wire, proof)| Dialed { wire, proof, seat }),
            Err(_) => Err(self.timed_out(endpoint)),
        }
    }

    /// The refusal of a connection that takes too long.
    pub(super) fn timed_out(&self, endpoint: &Endpoint) -> UpstreamError {
        let after_ms = u64::try_from(self.connect.as_millis()).unwrap_or(u64::MAX);
        let endpoint = endpoint.place().to_string();
        UpstreamError::ConnectTimedOut { upstream: self.upstream.clone(), endpoint, after_ms }
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<(Wire, Option<Proof>), UpstreamError> {
        let unreachable = |error: io::Error| UpstreamError::Unreachable {
            upstream: self.upstream.clone(),
            endpoint: endpoint.place().to_string(),
            why: error.to_string(),
        };
        let tcp = match endpoint.place() {
            // A file may name a socket later on: it does not get around the TLS that is asked for.
            Place::Unix(_) if !self.is_plain() => {
                return Err(unreachable(io::Error::other("tls is for addresses, and this is a unix socket")));
            }
            Place::Unix(path) => {
                return Ok((Wire::Unix(UnixStream::connect(path).await.map_err(unreachable)?), None));
            }
            Place::Tcp { host, port } => {
                let tcp = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
                tcp.set_nodelay(true).map_err(unreachable)?;
                tcp
            }
        };
        match &self.security {
            Security::Plain => Ok((Wire::Tcp(tcp), None)),
            Security::Workload { connector, .. } => {
                let own = connector.shown();
                let met = connector.meet(tcp).await;
                let (stream, peer) =
                    met.map_err(|(error, claimed)| self.refused(endpoint, error, claimed.as_ref()))?;
                let trust = Arc::clone(connector.trust());
                Ok((self.agreed(endpoint, stream)?, Some(Proof { peer, own, trust })))
            }
            Security::Named { connector, name } => {
                let stream = connector.connect(name.clone(), tcp).await.map_err(|error| {
                    let why = error.to_string();
                    self.refused(endpoint, HandshakeRefusal::Protocol { why }.into(), None)
                })?;
                Ok((self.agreed(endpoint, stream)?, None))
            }
        }
    }

    /// HTTP/2 has to be agreed on; HTTP/1.1 is what is spoken without an agreement.
    fn agreed(&self, endpoint: &Endpoint, stream: TlsStream<TcpStream>) -> Result<Wire, UpstreamError> {
        if self.http2 && stream.get_ref().1.alpn_protocol() != Some(H2) {
            return Err(UpstreamError::NotHttp {
                upstream: self.upstream.clone(),
                endpoint: endpoint.place().to_string(),
                protocol: "HTTP/2",
                why: "the TLS handshake did not agree on h2".to_owned(),
            });
        }
        Ok(Wire::Tls(Box::new(stream)))
    }

    fn refused(
        &self,
        endpoint: &Endpoint,
        source: HandshakeError,
        claimed: Option<&SpiffeId>,
    ) -> UpstreamError {
        let expected = match &self.security {
            Security::Plain => String::new(),
            Security::Workload { expected, .. } => expected.to_string(),
            Security::Named { name, .. } => name.to_str().into_owned(),
        };
        UpstreamError::Identity {
            upstream: self.upstream.clone(),
            endpoint: endpoint.place().to_string(),
            met: Box::new(Met {
                expected,
                presented: claimed.map_or_else(|| "no SPIFFE ID".to_owned(), ToString::to_string),
                hint: hint(&source, self.is_mesh()),
                source,
            }),
        }
    }
}

impl Security {
    fn new(tls: &UpstreamTls, http2: bool, trust: &Arc<TrustState>) -> Result<Self, UpstreamTlsError> {
        let protocols: &'static [&'static [u8]] = if http2 { &[H2] } else { &[HTTP_1_1] };
        match (&tls.expect, &tls.server_name, &tls.ca) {
            (Some(expect), None, None) => {
                let expected = SpiffeId::parse(expect)?;
                let connector = Connector::new(Arc::clone(trust), Expected::exactly(expected.clone()));
                Ok(Self::Workload { connector: connector.speaking(protocols), expected })
            }
            (None, Some(name), Some(ca)) => {
                let refused = || UpstreamTlsError::ServerName { name: name.clone() };
                let parsed = ServerName::try_from(name.clone()).map_err(|_| refused())?;
                let wrong = |why: String| UpstreamTlsError::Ca { path: ca.display().to_string(), why };
                let roots = roots(ca).map_err(wrong)?;
                let mut config = edge_client_config(&roots).map_err(|error| wrong(error.to_string()))?;
                config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
                Ok(Self::Named { connector: TlsConnector::from(Arc::new(config)), name: parsed })
            }
            _ => Err(UpstreamTlsError::Choice),
        }
    }
}

impl Proof {
    /// May another request go out on the connection? Not when we are somebody else by now, and not to a peer that is no
    /// longer believed.
    pub(crate) fn still_holds(&self, now: UnixTime) -> bool {
        let trust = self.trust.load();
        let same = match (&self.own, trust.identity()) {
            (Some(shown), Some(current)) => Arc::ptr_eq(shown, current),
            (None, None) => true,
            _ => false,
        };
        same && self.peer.is_believed(now)
    }

    /// May what runs on the connection go on? As long as its peer is believed, whoever we are by now.
    pub(crate) fn is_believed(&self, now: UnixTime) -> bool {
        self.peer.is_believed(now)
    }

    /// Returns when what runs on the connection has to be cut, because its peer is no longer believed.
    pub(super) async fn lost(proof: Option<Self>) {
        no_longer_believed(proof.map(|proof| (proof.peer, proof.trust))).await;
    }
}

fn roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = std::fs::read(path).map_err(|error| error.to_string())?;
    let roots: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    if roots.is_empty() { Err("no PEM certificate in it".to_owned()) } else { Ok(roots) }
}

/// What to try, by what went wrong.
const fn hint(error: &HandshakeError, is_mesh: bool) -> &'static str {
    match error {
        HandshakeError::NoIdentity => "wait for our own certificate: countersign check",
        HandshakeError::Refused(HandshakeRefusal::Peer(_)) => {
            "correct tls.expect if the name is meant, else find out who listens there"
        }
        HandshakeError::Refused(_) if is_mesh => {
            "does it serve TLS 1.3, and this protocol? try openssl s_client against it"
        }
        HandshakeError::Refused(_) => {
            "compare tls.server_name and tls.ca with its certificate; it must serve TLS 1.3"
        }
        HandshakeError::Configuration { .. } | HandshakeError::Validation => "see what the TLS library says",
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Self::Unix(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Self::Unix(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Unix(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_flush(cx),
            Self::Unix(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Self::Unix(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
