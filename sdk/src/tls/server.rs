//! The accepting side: a client certificate is demanded, judged and reported before HTTP begins.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use countersign_ledger::{CheckRecord, CheckResult};
use countersign_pki::verify::{CheckName, Usage};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error as TlsError, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime as TlsTime},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::SingleCertAndKey,
};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    H2, HTTP_1_1,
    client::{Expected, certificate_error},
    observer::{
        ConnectionId, HandshakeObserver, HandshakeOutcome, HandshakeRefusal, HandshakeReport, Unobserved,
    },
    peer::Peer,
    provider,
    state::{Trust, TrustState},
};
use crate::clock;

/// What an empty client Certificate message means (Kestrel calls it ClientCertificateMode).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// The handshake fails.
    Required,
    /// The connection has no workload; a certificate that is presented must be valid all the same.
    Optional,
    /// None is asked for: browsers would put up a dialogue.
    Never,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// This process has no certificate yet.
    #[error("this process has no certificate to show yet")]
    NoIdentity,
    /// The TLS library did not take our configuration.
    #[error("tls configuration was refused: {why}")]
    Configuration {
        /// What it says.
        why: String,
    },
    /// The peer was refused.
    #[error(transparent)]
    Refused(#[from] HandshakeRefusal),
}

/// Turns an accepted byte stream into a TLS stream with a judged peer.
#[derive(Clone)]
pub struct Acceptor {
    trust: Arc<TrustState>,
    /// Edge listeners show another certificate than the one that their trust names.
    shown: Option<Arc<TrustState>>,
    auth: ClientAuth,
    expected: Expected,
    observer: Arc<dyn HandshakeObserver>,
}

impl Acceptor {
    /// Shows the identity of `trust` and judges clients by its bundles.
    #[must_use]
    pub fn new(trust: Arc<TrustState>, auth: ClientAuth) -> Self {
        Self { trust, shown: None, auth, expected: Expected::AnyInBundle, observer: Arc::new(Unobserved) }
    }

    /// Shows the identity of another state, such as an edge certificate, and judges clients as before.
    #[must_use]
    pub fn showing(mut self, shown: Arc<TrustState>) -> Self {
        self.shown = Some(shown);
        self
    }

    /// Ends the handshake of everybody else: for listeners with few, known clients. Without this, everybody
    /// whom a bundle vouches for gets as far as the policy.
    #[must_use]
    pub fn expecting(mut self, expected: Expected) -> Self {
        self.expected = expected;
        self
    }

    /// Reports every handshake to `observer`.
    #[must_use]
    pub fn observed_by(mut self, observer: Arc<dyn HandshakeObserver>) -> Self {
        self.observer = observer;
        self
    }

    /// The same, but a missing client certificate means this.
    #[must_use]
    pub const fn asking(mut self, auth: ClientAuth) -> Self {
        self.auth = auth;
        self
    }

    /// What a missing client certificate means.
    #[must_use]
    pub const fn auth(&self) -> ClientAuth {
        self.auth
    }

    /// By what it judges clients.
    #[must_use]
    pub const fn trust(&self) -> &Arc<TrustState> {
        &self.trust
    }

    /// Does the handshake. The caller sets the time limit, and calls [`Acceptor::timed_out`] past it.
    ///
    /// # Errors
    /// The peer was refused, and the observer knows; or this process cannot serve TLS yet.
    pub async fn accept<IO>(
        &self,
        io: IO,
        connection: ConnectionId,
        address: Option<SocketAddr>,
    ) -> Result<(TlsStream<IO>, Option<Arc<Peer>>), HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let started = Instant::now();
        let judge = Arc::new(ClientJudge::new(Arc::clone(&self.trust), self.auth, self.expected.clone()));
        let config = self.config(&judge)?;
        let result = TlsAcceptor::from(Arc::new(config)).accept(io).await;
        let peer = judge.peer();
        let outcome = match (&result, &peer) {
            (Ok(_), Some(_)) => HandshakeOutcome::Admitted,
            (Ok(_), None) => HandshakeOutcome::Anonymous,
            (Err(error), peer) => HandshakeOutcome::Refused(refusal(error, peer.as_deref(), &judge)),
        };
        self.report(connection, address, peer.as_deref(), outcome.clone(), started.elapsed());
        match (result, outcome) {
            (_, HandshakeOutcome::Refused(refusal)) => Err(refusal.into()),
            (Ok(stream), _) => Ok((stream, peer)),
            (Err(error), _) => Err(HandshakeRefusal::Protocol { why: error.to_string() }.into()),
        }
    }

    /// Reports a handshake that was given up.
    pub fn timed_out(&self, connection: ConnectionId, address: Option<SocketAddr>, took: Duration) {
        let outcome = HandshakeOutcome::Refused(HandshakeRefusal::TimedOut);
        self.report(connection, address, None, outcome, took);
    }

    /// Reports a client that speaks plain HTTP where only TLS is served.
    pub(crate) fn plain(&self, connection: ConnectionId, address: Option<SocketAddr>) {
        let outcome = HandshakeOutcome::Refused(HandshakeRefusal::Plain);
        self.report(connection, address, None, outcome, Duration::ZERO);
    }

    fn report(
        &self,
        connection: ConnectionId,
        address: Option<SocketAddr>,
        peer: Option<&Peer>,
        outcome: HandshakeOutcome,
        took: Duration,
    ) {
        let checks = match (peer, &outcome) {
            (Some(peer), _) => peer.checks(),
            (None, HandshakeOutcome::Refused(refusal)) => no_certificate(refusal),
            (None, _) => Vec::new(),
        };
        let claimed = peer.and_then(Peer::claimed);
        self.observer.handshake(&HandshakeReport { connection, address, claimed, checks, outcome, took });
    }

    fn config(&self, judge: &Arc<ClientJudge>) -> Result<ServerConfig, HandshakeError> {
        let shown = self.shown.as_ref().unwrap_or(&self.trust).load();
        let identity = shown.identity().ok_or(HandshakeError::NoIdentity)?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| HandshakeError::Configuration { why: error.to_string() })?;
        let builder = match self.auth {
            ClientAuth::Never => builder.with_no_client_auth(),
            _ => builder.with_client_cert_verifier(Arc::clone(judge) as Arc<dyn ClientCertVerifier>),
        };
        let shown = SingleCertAndKey::from(Arc::clone(identity.certified()));
        let mut config = builder.with_cert_resolver(Arc::new(shown));
        config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
        // A resumed session would skip the client's certificate, and with it every revocation.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.max_early_data_size = 0;
        Ok(config)
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Acceptor({:?}, {:?})", self.auth, self.trust)
    }
}

/// Judges the one client of one connection, and remembers how it went.
struct ClientJudge {
    state: Arc<TrustState>,
    trust: Arc<Trust>,
    auth: ClientAuth,
    expected: Expected,
    peer: OnceLock<Arc<Peer>>,
    possession_failed: AtomicBool,
}

impl ClientJudge {
    fn new(state: Arc<TrustState>, auth: ClientAuth, expected: Expected) -> Self {
        let trust = state.load();
        Self {
            state,
            trust,
            auth,
            expected,
            peer: OnceLock::new(),
            possession_failed: AtomicBool::new(false),
        }
    }

    fn peer(&self) -> Option<Arc<Peer>> {
        self.peer.get().cloned()
    }

    fn possession_failed(&self) -> bool {
        self.possession_failed.load(Ordering::Relaxed)
    }
}

impl ClientCertVerifier for ClientJudge {
    fn client_auth_mandatory(&self) -> bool {
        self.auth == ClientAuth::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.trust.authorities()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        // Time comes from the one clock of the SDK, which setting the machine's back does not deceive.
        _now: TlsTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let chain = owned(end_entity, intermediates);
        let state = Arc::clone(&self.state);
        let judged = Peer::judge(chain, Usage::Client, self.expected.clone(), state, clock::now());
        let peer = self.peer.get_or_init(|| Arc::new(judged));
        peer.outcome().map_err(|error| certificate_error(&error))?;
        Ok(ClientCertVerified::assertion())
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
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms).inspect_err(|_| {
            self.possession_failed.store(true, Ordering::Relaxed);
        })
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for ClientJudge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientJudge({:?})", self.auth)
    }
}

pub(super) fn owned(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Vec<CertificateDer<'static>> {
    let owned = |der: &CertificateDer<'_>| der.clone().into_owned();
    std::iter::once(end_entity).chain(intermediates).map(owned).collect()
}

fn refusal(error: &io::Error, peer: Option<&Peer>, judge: &ClientJudge) -> HandshakeRefusal {
    if let Some(Err(error)) = peer.map(Peer::outcome) {
        return HandshakeRefusal::Peer(error);
    }
    if judge.possession_failed() {
        return HandshakeRefusal::NoPossession;
    }
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    match tls {
        Some(TlsError::NoCertificatesPresented) => HandshakeRefusal::NoCertificate,
        _ => HandshakeRefusal::Protocol { why: error.to_string() },
    }
}

/// With no certificate there was nothing to check, and the first check says so.
fn no_certificate(refusal: &HandshakeRefusal) -> Vec<CheckRecord> {
    let record = |(place, name): (usize, &CheckName)| {
        let first = place == 0;
        let result = if first { CheckResult::Fail } else { CheckResult::NotReached };
        let detail = if first { refusal.to_string() } else { String::new() };
        CheckRecord { name: name.as_str().to_owned(), result, detail }
    };
    CheckName::ALL.iter().enumerate().map(record).collect()
}
