//! TLS to somebody of whom only the hash of the root's public key is known.
//!
//! Inside the handshake, before anything is sent, the root is taken from the chain that the server shows: it is
//! the certificate whose key has that hash. Then the chain is judged by this root alone: the five checks, and
//! exactly the authority's name.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_identity::{SpiffeId, TrustDomain};
use countersign_keys::{constant_time_eq, sha256};
use countersign_pki::{Bundle, BundleSet, CertificateDer, CrlPolicy, Expectation, Usage, verify_peer};
use countersign_sdk::clock;
use countersign_sdk::tls::provider;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{ServerName, UnixTime as TlsTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

/// For TCP and the handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For each call.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum PinnedError {
    /// Somebody answers, and it is not the authority below the pinned root.
    #[error("it is not the authority that the pin names")]
    Stranger,
    /// Nobody answers, or not in TLS.
    #[error("{0}")]
    Unreachable(String),
}

/// Accepts the authority below the root whose hash the token carries, and nobody else.
#[derive(Debug)]
pub(crate) struct Pinned {
    pin: [u8; 32],
    trust_domain: TrustDomain,
    authority: SpiffeId,
    /// Whether somebody else answered.
    stranger: AtomicBool,
}

impl Pinned {
    /// The authority of `trust_domain` below the root whose SubjectPublicKeyInfo has this SHA-256 hash.
    pub(crate) fn new(pin: [u8; 32], trust_domain: &TrustDomain) -> Self {
        let authority = SpiffeId::authority(trust_domain);
        Self { pin, trust_domain: trust_domain.clone(), authority, stranger: AtomicBool::new(false) }
    }

    /// One connection, for one call: it does not make itself anew.
    pub(crate) async fn connect(self: &Arc<Self>, address: &str) -> Result<Channel, PinnedError> {
        let tls = tokio::time::timeout(CONNECT_TIMEOUT, self.handshake(address)).await;
        let tls = tls.map_err(|_| PinnedError::Unreachable("it does not answer in time".to_owned()))?;
        let tls = tls.map_err(|e| match self.stranger.load(Ordering::Relaxed) {
            true => PinnedError::Stranger,
            false => PinnedError::Unreachable(e.to_string()),
        })?;
        let once = Mutex::new(Some(TokioIo::new(tls)));
        let connector = tower::service_fn(move |_: Uri| {
            let connection = once.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move { connection.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)) }
        });
        Endpoint::from_static("http://authority")
            .timeout(CALL_TIMEOUT)
            .connect_with_connector(connector)
            .await
            .map_err(|e| PinnedError::Unreachable(e.to_string()))
    }

    async fn handshake(self: &Arc<Self>, address: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(std::io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(self) as Arc<dyn ServerCertVerifier>)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        let tcp = TcpStream::connect(address).await?;
        // The name is in the certificate's URI: this one is never sent.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    }

    /// Whether this certificate's key is the pinned one.
    pub(crate) fn is(&self, certificate: &CertificateDer<'_>) -> bool {
        ParsedCertificate::try_from(certificate)
            .is_ok_and(|parsed| constant_time_eq(&sha256(&parsed.subject_public_key_info()), &self.pin))
    }

    fn judge(&self, chain: &[CertificateDer<'static>]) -> Option<()> {
        let root = chain.iter().find(|certificate| self.is(certificate))?;
        let bundle = Bundle::new(self.trust_domain.clone(), vec![root.clone()], Vec::new()).ok()?;
        let bundles = BundleSet::from_iter([bundle]);
        let expected = Expectation::Exactly(&self.authority);
        // The CRL comes with the first snapshot, after the join.
        let policy = CrlPolicy::AcceptMissing;
        verify_peer(chain, &bundles, clock::now(), Usage::Server, expected, policy).outcome.ok().map(drop)
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: TlsTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain: Vec<_> =
            std::iter::once(end_entity).chain(intermediates).map(|c| c.clone().into_owned()).collect();
        if self.judge(&chain).is_none() {
            self.stranger.store(true, Ordering::Relaxed);
            return Err(rustls::CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("tls 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn an_address_where_nobody_answers_is_out_of_reach_and_not_a_stranger() {
        let pinned = Arc::new(Pinned::new([7; 32], &TrustDomain::parse("flea.test").unwrap()));
        let address = format!("127.0.0.1:{}", countersign_testkit::free_port());
        assert!(matches!(pinned.connect(&address).await, Err(PinnedError::Unreachable(_))));
    }

    #[tokio::test]
    async fn whoever_shows_another_root_is_a_stranger() {
        use countersign_keys::{KeyPair, SystemRandom};
        use countersign_pki::issue::{Root, make_root};
        let trust_domain = TrustDomain::parse("flea.test").unwrap();
        let key = KeyPair::generate(&SystemRandom::new()).unwrap();
        let root = make_root(Root::Workload, &trust_domain, key, clock::now(), [1; 16]).unwrap();
        let chain = vec![root.certificate().clone()];
        let stranger = Pinned::new([7; 32], &trust_domain);
        assert!(!stranger.is(root.certificate()) && stranger.judge(&chain).is_none());
        // Even the pinned root itself is not the authority.
        let holder = Pinned::new(sha256(&root.key().public_key().spki_der()), &trust_domain);
        assert!(holder.is(root.certificate()) && holder.judge(&chain).is_none());
        assert_eq!(PinnedError::Stranger.to_string(), "it is not the authority that the pin names");
    }
}
