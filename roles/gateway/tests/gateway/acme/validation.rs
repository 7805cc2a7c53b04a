//! The validating side of tls-alpn-01 (RFC 8737 section 3), over a real connection.

use std::net::SocketAddr;
use std::sync::Arc;

use countersign_keys::PublicKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::extensions::GeneralName;

/// Does whoever is at `address` hold `host`, by the word of a key authorization with this digest?
pub(super) async fn validate(address: SocketAddr, host: &str, digest: [u8; 32]) -> Result<(), String> {
    let stream = shake_hands(address, host, &[b"acme-tls/1"]).await?;
    let session = stream.get_ref().1;
    if session.alpn_protocol() != Some(b"acme-tls/1") {
        return Err("acme-tls/1 was not negotiated".into());
    }
    let shown = session.peer_certificates().unwrap_or_default();
    let [certificate] = shown else { return Err(format!("{} certificates", shown.len())) };
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).map_err(|_| "no certificate")?;
    certificate.verify_signature(None).map_err(|_| "not self-signed")?;
    let names = certificate.subject_alternative_name().ok().flatten().ok_or("no names")?;
    if names.value.general_names != [GeneralName::DNSName(host)] {
        return Err("other names".into());
    }
    let oid = x509_parser::der_parser::oid!(1.3.6.1.5.5.7.1.31);
    let extension = certificate.get_extension_unique(&oid).ok().flatten().ok_or("no acmeIdentifier")?;
    let expected = [&[0x04, 0x20][..], &digest].concat();
    if !extension.critical || extension.value != expected {
        return Err("another acmeIdentifier".into());
    }
    Ok(())
}

/// A handshake that believes any certificate whose key is held.
pub(super) async fn shake_hands(
    address: SocketAddr,
    host: &str,
    protocols: &[&[u8]],
) -> Result<TlsStream<TcpStream>, String> {
    let mut config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate))
            .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let tcp = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let name = ServerName::try_from(host.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|error| error.to_string())
}

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // The library's own way does not read certificates with a critical extension that it does not know.
        let (_, certificate) = x509_parser::parse_x509_certificate(cert).unwrap();
        let key = PublicKey::from_spki_der(certificate.public_key().raw).unwrap();
        let held = key.verify_asn1(message, dss.signature());
        held.map(|()| HandshakeSignatureValid::assertion()).map_err(|_| Error::General("possession".into()))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
