//! The connecting side: exactly the expected peer, or nobody.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwapOption;
use countersign_identity::SpiffeId;
use countersign_pki::verify::{CheckName, PeerError, Usage};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert, Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime as TlsTime},
    sign::CertifiedKey,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    H2, HTTP_1_1, alpn,
    judging::{self, Judging},
    observer::HandshakeRefusal,
    peer::Peer,
    provider,
    server::{HandshakeError, owned},
    state::{Identity, Trust, TrustState},
};
use crate::clock;

/// Whom the other end may be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expected {
    /// Whoever a trusted bundle vouches for: what a server says, whose policy decides afterwards.
    AnyInBundle,
    /// One of these and nobody else. An empty list is nobody.
    OneOf(Vec<SpiffeId>),
    /// The holder of the one certificate with this SHA-256 thumbprint: a pin dies with each renewal.
    Thumbprint([u8; 32]),
}

impl Expected {
    /// Exactly this peer.
    #[must_use]
    pub fn exactly(id: SpiffeId) -> Self {
        Self::OneOf(vec![id])
    }
}

/// Turns connected byte streams into TLS streams to one expected workload. Cheap to clone, and cheap to use: what rustls
/// needs is made once for each generation of trust.
#[derive(Clone)]
pub struct Connector {
    trust: Arc<TrustState>,
    expected: Expected,
    shows: bool,
    protocols: &'static [&'static [u8]],
    /// Shared by all clones that were not changed since.
    made: Arc<ArcSwapOption<Made>>,
}

/// A configuration, and the generation that it is made of.
struct Made {
    generation: u64,
    config: Arc<ClientConfig>,
}

impl Connector {
    /// Shows an identity of `trust`, if it has one, to a server that must be `expected`.
    #[must_use]
    pub fn new(trust: Arc<TrustState>, expected: Expected) -> Self {
        Self { trust, expected, shows: true, protocols: &[H2], made: Arc::default() }
    }

    /// Shows no certificate: whoever we are is proven by each request, or not at all. The server is judged as before.
    #[must_use]
    pub fn showing_none(mut self) -> Self {
        self.shows = false;
        self.changed()
    }

    /// Offers these application protocols (ALPN), the preferred one first. Without this, HTTP/2 alone.
    #[must_use]
    pub fn speaking(mut self, protocols: &'static [&'static [u8]]) -> Self {
        self.protocols = protocols;
        self.changed()
    }

    fn changed(mut self) -> Self {
        self.made = Arc::default();
        self
    }

    /// Which identity it would show now. A pooled connection that was made under another one takes no more requests.
    #[must_use]
    pub fn shown(&self) -> Option<Arc<Identity>> {
        self.trust.peek().identity().filter(|_| self.shows).cloned()
    }

    /// Who we are and whom we recognise.
    #[must_use]
    pub const fn trust(&self) -> &Arc<TrustState> {
        &self.trust
    }

    /// Does the handshake. The caller sets the time limit.
    ///
    /// In TLS 1.3 the client finishes first: that this returns does not mean that the server accepted
    /// *our* certificate. A refusal shows on the first read.
    ///
    /// # Errors
    /// The server is not the expected one, or TLS failed.
    pub async fn connect<IO>(&self, io: IO) -> Result<(TlsStream<IO>, Arc<Peer>), HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.meet(io).await.map_err(|(error, _)| error)
    }

    /// As [`Connector::connect`]; with the error comes the name that the server's certificate claims, for whoever has to
    /// tell an operator whom it met instead.
    ///
    /// # Errors
    /// The server is not the expected one, or TLS failed.
    pub async fn meet<IO>(
        &self,
        io: IO,
    ) -> Result<(TlsStream<IO>, Arc<Peer>), (HandshakeError, Option<SpiffeId>)>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.config().map_err(|error| (error, None))?;
        // Names come from the certificate's URI, never from DNS: nothing is sent as server name.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        let (result, finding) = Judging::new(TlsConnector::from(config).connect(name, io)).await;
        let claimed = finding.peer.as_deref().and_then(Peer::claimed);
        let refusal = match (finding.peer.as_deref().map(Peer::outcome), result, finding.peer) {
            (Some(Err(error)), ..) => HandshakeRefusal::Peer(error),
            (_, Ok(stream), Some(peer)) => return Ok((stream, peer)),
            (_, Ok(_), None) => HandshakeRefusal::NoCertificate,
            (_, Err(_), _) if finding.possession_failed => HandshakeRefusal::NoPossession,
            (_, Err(error), _) => HandshakeRefusal::Protocol { why: error.to_string() },
        };
        Err((refusal.into(), claimed))
    }

    /// The configuration of the newest generation: made once, then shared.
    fn config(&self) -> Result<Arc<ClientConfig>, HandshakeError> {
        let generation = self.trust.generation();
        if let Some(made) = self.made.load().as_ref().filter(|made| made.generation == generation) {
            return Ok(Arc::clone(&made.config));
        }
        let made = self.make()?;
        let config = Arc::clone(&made.config);
        self.made.store(Some(Arc::new(made)));
        Ok(config)
    }

    fn make(&self) -> Result<Made, HandshakeError> {
        let trust = self.trust.load();
        let judge = ServerJudge { trust: Arc::clone(&self.trust), expected: self.expected.clone() };
        let builder = ClientConfig::builder_with_provider(Arc::clone(trust.provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| HandshakeError::Configuration { why: error.to_string() })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(judge));
        let generation = trust.generation();
        let mut config = if self.shows {
            builder.with_client_cert_resolver(Arc::new(Wardrobe(trust)))
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = alpn(self.protocols);
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.enable_sni = false;
        Ok(Made { generation, config: Arc::new(config) })
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connector({:?}, {:?})", self.expected, self.trust)
    }
}

/// A configuration for HTTPS servers with DNS or IP names below `roots`, such as the authority's API
/// and the gateway; shows no certificate.
///
/// # Errors
/// A root cannot be read.
pub fn edge_client_config(roots: &[CertificateDer<'static>]) -> Result<ClientConfig, HandshakeError> {
    let refused = |why: String| HandshakeError::Configuration { why };
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|error| refused(error.to_string()))?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider())
        .build()
        .map_err(|error| refused(error.to_string()))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| refused(error.to_string()))?
        .with_webpki_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = alpn(&[H2, HTTP_1_1]);
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The same, but shows the newest identity of `trust` to a server that asks for a certificate.
pub(crate) fn showing(config: &ClientConfig, trust: Arc<TrustState>) -> ClientConfig {
    let mut config = config.clone();
    config.client_auth_cert_resolver = Arc::new(Newest(trust));
    config
}

/// The identities of one generation, of which one fits the server's CertificateRequest.
#[derive(Clone)]
struct Wardrobe(Arc<Trust>);

impl ResolvesClientCert for Wardrobe {
    fn resolve(&self, authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let fitting = self.0.identities().iter().find(|identity| identity.is_wanted_by(authorities));
        // None fits: the preferred one is shown all the same, so that the server's record names us.
        let shown = fitting.or_else(|| self.0.identity())?;
        Some(Arc::clone(shown.certified()))
    }

    fn has_certs(&self) -> bool {
        self.0.identity().is_some()
    }
}

impl fmt::Debug for Wardrobe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wardrobe({:?})", self.0.identities())
    }
}

/// The identities of the newest generation, for configurations that live longer than one connection.
struct Newest(Arc<TrustState>);

impl ResolvesClientCert for Newest {
    fn resolve(&self, authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Wardrobe(self.0.load()).resolve(authorities, schemes)
    }

    fn has_certs(&self) -> bool {
        self.0.load().identity().is_some()
    }
}

impl fmt::Debug for Newest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Newest({:?})", self.0)
    }
}

/// Judges servers; each finding goes to its own connection.
struct ServerJudge {
    trust: Arc<TrustState>,
    expected: Expected,
}

impl ServerCertVerifier for ServerJudge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: TlsTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let chain = owned(end_entity, intermediates);
        let trust = Arc::clone(&self.trust);
        let judged = Peer::judge(chain, Usage::Server, self.expected.clone(), trust, clock::now());
        let outcome = judged.outcome();
        judging::found(Arc::new(judged));
        outcome.map_err(|error| certificate_error(&error))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("tls 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = provider().signature_verification_algorithms;
        let signature = rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms);
        judging::possession(&signature);
        signature
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for ServerJudge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerJudge({:?})", self.expected)
    }
}

/// The alert that the peer sees (RFC 8446 section 6.2): enough to repair an honest mistake.
pub(super) fn certificate_error(error: &PeerError) -> TlsError {
    let certificate = match error.check() {
        CheckName::Usage => CertificateError::InvalidPurpose,
        CheckName::Validity => CertificateError::Expired,
        CheckName::Chain => CertificateError::UnknownIssuer,
        CheckName::Revocation => CertificateError::Revoked,
        CheckName::Identity => CertificateError::ApplicationVerificationFailure,
    };
    TlsError::InvalidCertificate(certificate)
}
