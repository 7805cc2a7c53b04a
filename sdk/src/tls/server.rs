//! The accepting side: a client certificate is demanded, judged and reported before HTTP begins.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use countersign_ledger::{CheckRecord, CheckResult};
use countersign_pki::verify::{CheckName, Usage};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error as TlsError, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime as TlsTime},
    server::{
        NoServerSessionStorage, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::SingleCertAndKey,
};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    H2, HTTP_1_1, alpn,
    challenge::ACME_TLS_1,
    client::{Expected, certificate_error},
    judging::{self, Finding, Judging},
    names::{ByName, UnknownName},
    observer::{
        ConnectionId, HandshakeObserver, HandshakeOutcome, HandshakeRefusal, HandshakeReport, Negotiated,
        Unobserved,
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
    /// It validated a host of ours (RFC 8737), and such a connection carries nothing.
    #[error("the handshake answered the validation of a host; its connection carries nothing")]
    Validation,
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
    protocols: &'static [&'static [u8]],
    /// How a certificate is chosen where there are several; without it, the first is shown to everybody.
    by_name: Option<UnknownName>,
    /// Names for which the first certificate is never shown.
    awaited: Arc<[String]>,
    tls_1_2: bool,
    observer: Arc<dyn HandshakeObserver>,
    /// Shared by all clones that were not changed since.
    configs: Arc<Configs>,
}

/// One configuration for each [`ClientAuth`], made again when either side of it changed.
#[derive(Default)]
struct Configs {
    required: ArcSwapOption<Made>,
    optional: ArcSwapOption<Made>,
    never: ArcSwapOption<Made>,
}

/// A configuration, and the generations that it is made of.
struct Made {
    shown: u64,
    judged: u64,
    config: Arc<ServerConfig>,
}

impl Acceptor {
    /// Shows the identity of `trust` and judges clients by its bundles.
    #[must_use]
    pub fn new(trust: Arc<TrustState>, auth: ClientAuth) -> Self {
        Self {
            trust,
            shown: None,
            auth,
            expected: Expected::AnyInBundle,
            protocols: &[H2, HTTP_1_1],
            by_name: None,
            awaited: Arc::default(),
            tls_1_2: false,
            observer: Arc::new(Unobserved),
            configs: Arc::default(),
        }
    }

    /// Shows the identity of another state, such as an edge certificate, and judges clients as before.
    #[must_use]
    pub fn showing(mut self, shown: Arc<TrustState>) -> Self {
        self.shown = Some(shown);
        self.changed()
    }

    /// Accepts these application protocols (ALPN), the preferred one first. Without this, HTTP/2 and HTTP/1.1.
    #[must_use]
    pub fn speaking(mut self, protocols: &'static [&'static [u8]]) -> Self {
        self.protocols = protocols;
        self.changed()
    }

    /// Shows the identity that has the name for which the client asks (SNI, RFC 6066 section 3): for edges with several
    /// certificates. `unknown` says what becomes of a client that asks for another name or for none.
    #[must_use]
    pub fn by_name(mut self, unknown: UnknownName) -> Self {
        self.by_name = Some(unknown);
        self.changed()
    }

    /// Names whose certificates may come later: until then their clients are shown none, rather than the first one.
    #[must_use]
    pub fn awaiting(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.awaited = names.into_iter().collect();
        self.changed()
    }

    /// Speaks TLS 1.2 (RFC 5246) as well, with the extended master secret (RFC 7627), without tickets, sessions or
    /// renegotiation. For edges with old clients: where client certificates are asked for, only TLS 1.3 is spoken.
    #[must_use]
    pub fn allowing_tls_1_2(mut self) -> Self {
        self.tls_1_2 = true;
        self.changed()
    }

    /// Ends the handshake of everybody else: for listeners with few, known clients. Without this, everybody
    /// whom a bundle vouches for gets as far as the policy.
    #[must_use]
    pub fn expecting(mut self, expected: Expected) -> Self {
        self.expected = expected;
        self.changed()
    }

    fn changed(mut self) -> Self {
        self.configs = Arc::default();
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
        let config = self.config()?;
        let (result, finding) = Judging::new(TlsAcceptor::from(config).accept(io)).await;
        let outcome = match (&result, &finding.peer) {
            (Ok(_), Some(_)) => HandshakeOutcome::Admitted,
            (Ok(_), None) => HandshakeOutcome::Anonymous,
            (Err(error), _) => HandshakeOutcome::Refused(refusal(error, &finding)),
        };
        let peer = finding.peer;
        let negotiated = result.as_ref().ok().and_then(|stream| Negotiated::of(stream.get_ref().1));
        let place = (connection, address);
        self.report(place, peer.as_deref(), outcome.clone(), negotiated, started.elapsed());
        match (result, outcome) {
            (_, HandshakeOutcome::Refused(refusal)) => Err(refusal.into()),
            (Ok(mut stream), _) if stream.get_ref().1.alpn_protocol() == Some(ACME_TLS_1) => {
                // Whoever validates has seen what it wanted; it may be gone.
                let _ = stream.shutdown().await;
                Err(HandshakeError::Validation)
            }
            (Ok(stream), _) => Ok((stream, peer)),
            (Err(error), _) => Err(HandshakeRefusal::Protocol { why: error.to_string() }.into()),
        }
    }

    /// Reports a handshake that was given up.
    pub fn timed_out(&self, connection: ConnectionId, address: Option<SocketAddr>, took: Duration) {
        let outcome = HandshakeOutcome::Refused(HandshakeRefusal::TimedOut);
        self.report((connection, address), None, outcome, None, took);
    }

    /// Reports a client that speaks plain HTTP where only TLS is served.
    pub(crate) fn plain(&self, connection: ConnectionId, address: Option<SocketAddr>) {
        let outcome = HandshakeOutcome::Refused(HandshakeRefusal::Plain);
        self.report((connection, address), None, outcome, None, Duration::ZERO);
    }

    fn report(
        &self,
        (connection, address): (ConnectionId, Option<SocketAddr>),
        peer: Option<&Peer>,
        outcome: HandshakeOutcome,
        negotiated: Option<Negotiated>,
        took: Duration,
    ) {
        let checks = match (peer, &outcome) {
            (Some(peer), _) => peer.checks(),
            (None, HandshakeOutcome::Refused(refusal)) => no_certificate(refusal),
            (None, _) => Vec::new(),
        };
        let claimed = peer.and_then(Peer::claimed);
        let report = HandshakeReport { connection, address, claimed, checks, outcome, negotiated, took };
        self.observer.handshake(&report);
    }

    /// The configuration of the newest generations: made once, then shared.
    fn config(&self) -> Result<Arc<ServerConfig>, HandshakeError> {
        let slot = match self.auth {
            ClientAuth::Required => &self.configs.required,
            ClientAuth::Optional => &self.configs.optional,
            ClientAuth::Never => &self.configs.never,
        };
        let shown = self.shown.as_ref().unwrap_or(&self.trust).generation();
        let judged = self.trust.generation();
        if let Some(made) = slot.load().as_ref().filter(|made| (made.shown, made.judged) == (shown, judged)) {
            return Ok(Arc::clone(&made.config));
        }
        let made = self.make()?;
        let config = Arc::clone(&made.config);
        slot.store(Some(Arc::new(made)));
        Ok(config)
    }

    fn make(&self) -> Result<Made, HandshakeError> {
        let judged = self.trust.load();
        let shown = self.shown.as_ref().map_or_else(|| Arc::clone(&judged), |shown| shown.load());
        let builder = ServerConfig::builder_with_provider(Arc::clone(shown.provider()))
            .with_protocol_versions(self.versions())
            .map_err(|error| HandshakeError::Configuration { why: error.to_string() })?;
        let generations = (shown.generation(), judged.generation());
        let builder = match self.auth {
            ClientAuth::Never => builder.with_no_client_auth(),
            auth => builder.with_client_cert_verifier(Arc::new(ClientJudge {
                state: Arc::clone(&self.trust),
                trust: judged,
                auth,
                expected: self.expected.clone(),
            })),
        };
        let resolver: Arc<dyn ResolvesServerCert> = match self.by_name {
            // Without any, the handshake says so in its alert.
            Some(unknown) => Arc::new(
                ByName::of(shown.identities(), unknown)
                    .awaiting(Arc::clone(&self.awaited))
                    .answering(shown.challenges()),
            ),
            None => {
                let identity = shown.identity().ok_or(HandshakeError::NoIdentity)?;
                Arc::new(SingleCertAndKey::from(Arc::clone(identity.certified())))
            }
        };
        let mut config = builder.with_cert_resolver(resolver);
        config.alpn_protocols = alpn(self.protocols);
        if self.by_name.is_some() && !shown.challenges().is_empty() {
            config.alpn_protocols.push(ACME_TLS_1.to_vec());
        }
        // A resumed session would skip the client's certificate, and with it every revocation.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.max_early_data_size = 0;
        config.require_ems = true;
        Ok(Made { shown: generations.0, judged: generations.1, config: Arc::new(config) })
    }

    /// Nobody's certificate is judged by what TLS 1.2 proves.
    fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        match (self.tls_1_2, self.auth) {
            (true, ClientAuth::Never) => &TLS_1_3_AND_1_2,
            _ => &TLS_1_3,
        }
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Acceptor({:?}, {:?})", self.auth, self.trust)
    }
}

/// Judges the clients of one generation; each finding goes to its own connection.
struct ClientJudge {
    state: Arc<TrustState>,
    trust: Arc<Trust>,
    auth: ClientAuth,
    expected: Expected,
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
        let outcome = judged.outcome();
        judging::found(Arc::new(judged));
        outcome.map_err(|error| certificate_error(&error))?;
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
        let signature = rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms);
        judging::possession(&signature);
        signature
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

fn refusal(error: &io::Error, finding: &Finding) -> HandshakeRefusal {
    if let Some(Err(error)) = finding.peer.as_deref().map(Peer::outcome) {
        return HandshakeRefusal::Peer(error);
    }
    if finding.possession_failed {
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

static TLS_1_3: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
static TLS_1_3_AND_1_2: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
