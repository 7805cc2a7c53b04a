//! A small HTTPS client for the commands that speak to the gateway as a browser or an app would: TLS 1.3, the
//! edge root of this deployment and no other.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::CliError;

const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// One kept connection to one HTTPS server.
pub struct Https {
    authority: String,
    sender: SendRequest<Full<Bytes>>,
}

/// A certificate to show in the handshake: chain and key, PEM.
pub struct ClientFiles {
    /// Leaf first.
    pub cert: PathBuf,
    /// PKCS#8.
    pub key: PathBuf,
}

impl Https {
    /// Connects to `url` (`https://host:port`), trusting the roots in `ca_file` alone.
    pub async fn connect(url: &str, ca_file: &Path) -> Result<Self, CliError> {
        Self::connect_as(url, ca_file, None).await
    }

    /// As [`Https::connect`], with a certificate for a server that asks for one.
    pub async fn connect_as(
        url: &str,
        ca_file: &Path,
        client: Option<&ClientFiles>,
    ) -> Result<Self, CliError> {
        let broken = |why: &dyn std::fmt::Display| {
            CliError::unreachable(format!("{url} does not answer"), why, "countersign status")
        };
        let authority = url.strip_prefix("https://").unwrap_or(url).trim_end_matches('/').to_owned();
        let host = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host).to_owned();
        let name = ServerName::try_from(host).map_err(|e| broken(&e))?;
        let connector = TlsConnector::from(Arc::new(client_config(ca_file, client)?));
        let stream = TcpStream::connect(&authority).await.map_err(|e| broken(&e))?;
        let _ = stream.set_nodelay(true);
        let tls = connector.connect(name, stream).await.map_err(|e| broken(&e))?;
        let (sender, connection) = handshake(TokioIo::new(tls)).await.map_err(|e| broken(&e))?;
        tokio::spawn(connection);
        Ok(Self { authority, sender })
    }

    /// Sends one request and reads the whole answer.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Bytes>, CliError> {
        let broken = |why: &dyn std::fmt::Display| {
            CliError::unreachable(
                format!("https://{} does not answer", self.authority),
                why,
                "countersign status",
            )
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.authority)
            .body(Full::new(body))
            .map_err(|e| CliError::usage(format!("{path} is not a request path"), e, ""))?;
        request.headers_mut().extend(headers);
        let exchange = async {
            self.sender.ready().await.map_err(|e| broken(&e))?;
            let (head, body) = self.sender.send_request(request).await.map_err(|e| broken(&e))?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|e| broken(&e))?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        tokio::time::timeout(ANSWER_TIMEOUT, exchange)
            .await
            .map_err(|_| broken(&"no answer within 30 seconds"))?
    }
}

fn client_config(ca_file: &Path, client: Option<&ClientFiles>) -> Result<rustls::ClientConfig, CliError> {
    let unusable = |why: &dyn std::fmt::Display| {
        CliError::usage(format!("{} holds no usable root", ca_file.display()), why, "countersign up")
    };
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(ca_file).map_err(|e| unusable(&e))? {
        roots.add(root.map_err(|e| unusable(&e))?).map_err(|e| unusable(&e))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| unusable(&e))?
        .with_root_certificates(roots);
    let Some(ClientFiles { cert, key }) = client else { return Ok(config.with_no_client_auth()) };
    let unusable = |file: &Path, why: &dyn std::fmt::Display| {
        let what = format!("{} cannot be shown to the server", file.display());
        CliError::usage(what, why, "countersign cert issue --service NAME writes both files")
    };
    let chain = CertificateDer::pem_file_iter(cert).map_err(|e| unusable(cert, &e))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|e| unusable(cert, &e))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| unusable(key, &e))?;
    config.with_client_auth_cert(chain, private).map_err(|e| unusable(cert, &e))
}
