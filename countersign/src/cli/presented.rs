//! What a server presents in a TLS handshake, for commands that look at it. Nothing else is ever sent to it.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What a server presented.
pub(super) struct Presented {
    /// Its certificate first; never empty.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// Why the handshake ended after that: without an end, the server has the key of its certificate.
    pub(super) broke: Option<String>,
}

/// Why a server presents nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Silent {
    /// No connection.
    Unreachable(String),
    /// A connection, and not a word on it.
    Mute,
    /// Something that is no TLS, or TLS without a certificate.
    Other(String),
}

/// Begins a handshake with the server at `host:port`, and shows no certificate.
pub(super) async fn presented(address: &str) -> Result<Presented, Silent> {
    let other = |why: &dyn fmt::Display| Silent::Other(why.to_string());
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(|error| other(&error))?;
    let seen = Arc::new(AcceptAnyCertificateForInspectionOnly::default());
    let config = rustls::ClientConfig::builder_with_provider(seen.provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| other(&error))?
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    let connected = tokio::time::timeout(TIMEOUT, TcpStream::connect(address)).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(Silent::Unreachable(error.to_string())),
        Err(_) => return Err(Silent::Unreachable(format!("no connection within {} s", TIMEOUT.as_secs()))),
    };
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let broke = match tokio::time::timeout(TIMEOUT, handshake).await {
        Ok(outcome) => outcome.err().map(|error| error.to_string()),
        Err(_) => return Err(Silent::Mute),
    };
    let chain = seen.chain.lock().map(|chain| chain.clone()).unwrap_or_default();
    match broke {
        Some(why) if chain.is_empty() => Err(Silent::Other(why)),
        None if chain.is_empty() => Err(Silent::Other("it presented none".to_owned())),
        broke => Ok(Presented { chain, broke }),
    }
}

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) | Self::Other(why) => f.write_str(why),
            Self::Mute => write!(f, "nothing was said within {} s", TIMEOUT.as_secs()),
        }
    }
}

/// Looks at what a server presents and believes nothing: no request is ever sent over such a connection.
#[derive(Debug)]
struct AcceptAnyCertificateForInspectionOnly {
    provider: Arc<CryptoProvider>,
    chain: Mutex<Vec<CertificateDer<'static>>>,
}

impl Default for AcceptAnyCertificateForInspectionOnly {
    fn default() -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Self { provider, chain: Mutex::default() }
    }
}

impl ServerCertVerifier for AcceptAnyCertificateForInspectionOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Ok(mut chain) = self.chain.lock() {
            let all = std::iter::once(end_entity).chain(intermediates);
            *chain = all.map(|certificate| certificate.clone().into_owned()).collect();
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

const TIMEOUT: Duration = Duration::from_secs(10);
