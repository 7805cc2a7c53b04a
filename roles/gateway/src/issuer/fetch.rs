//! One small document of an issuer, over HTTPS: bounded in time and size, no redirect, nothing kept open.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_keys::JwkSetError;
use countersign_keys::jwk_set::JWK_SET_BYTES_MAX;
use countersign_sdk::tls::edge_client_config;
use http::{Request, StatusCode, Uri, header, uri::Scheme};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Why there is no document. For the log alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("{url} is no url that keys are taken from; it must be https")]
    Url { url: String },
    #[error("{url} does not answer: {why}")]
    Call { url: String, why: String },
    #[error("{url} did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    TimedOut { url: String },
    #[error("{url} answered {status}")]
    Status { url: String, status: u16 },
    #[error("{url} is no OpenID provider metadata: {why}")]
    Metadata { url: String, why: String },
    #[error("{url} says that it is the metadata of {got}")]
    OtherIssuer { url: String, got: String },
    #[error("{url}: {source}")]
    Keys { url: String, source: JwkSetError },
}

/// Whom a fetch believes.
#[derive(Clone, Debug)]
pub(super) struct Fetcher {
    tls: Arc<ClientConfig>,
    /// Also plain HTTP, to this machine alone.
    insecure_on_loopback: bool,
}

impl Fetcher {
    /// Believes certificates below `roots`.
    pub(super) fn new(roots: &[CertificateDer<'static>], insecure_on_loopback: bool) -> Result<Self, String> {
        // What a system trusts holds a certificate or two that nobody can read.
        let readable = |root: &&CertificateDer<'static>| RootCertStore::empty().add((*root).clone()).is_ok();
        let roots: Vec<_> = roots.iter().filter(readable).cloned().collect();
        if roots.is_empty() && !insecure_on_loopback {
            return Err("no root certificate in it".to_owned());
        }
        let mut tls = match roots.is_empty() {
            true => return Ok(Fetcher { tls: Arc::new(trusts_nobody()?), insecure_on_loopback }),
            false => edge_client_config(&roots).map_err(|error| error.to_string())?,
        };
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Fetcher { tls: Arc::new(tls), insecure_on_loopback })
    }

    /// `GET` of `url`: at most [`JWK_SET_BYTES_MAX`] bytes.
    pub(super) async fn get(&self, url: &str) -> Result<Bytes, FetchError> {
        let fetched = tokio::time::timeout(ANSWER_TIMEOUT, self.call(url)).await;
        fetched.unwrap_or_else(|_| Err(FetchError::TimedOut { url: url.to_owned() }))
    }

    async fn call(&self, url: &str) -> Result<Bytes, FetchError> {
        let refused = || FetchError::Url { url: url.to_owned() };
        let failed = |why: String| FetchError::Call { url: url.to_owned(), why };
        let uri: Uri = url.parse().map_err(|_| refused())?;
        let host = uri.host().ok_or_else(refused)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let is_https = uri.scheme() == Some(&Scheme::HTTPS);
        let is_local = uri.scheme() == Some(&Scheme::HTTP) && self.insecure_on_loopback && is_loopback(bare);
        if !is_https && !is_local {
            return Err(refused());
        }
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let tcp = TcpStream::connect((bare, port)).await.map_err(|error| failed(error.to_string()))?;
        let answer = if is_https {
            let name = ServerName::try_from(bare.to_owned()).map_err(|_| refused())?;
            let connector = TlsConnector::from(Arc::clone(&self.tls));
            let tls = connector.connect(name, tcp).await.map_err(|error| failed(error.to_string()))?;
            exchange(tls, &uri).await
        } else {
            exchange(tcp, &uri).await
        };
        let (status, body) = answer.map_err(failed)?;
        match status {
            StatusCode::OK => Ok(body),
            other => Err(FetchError::Status { url: url.to_owned(), status: other.as_u16() }),
        }
    }
}

/// One request and its answer on a connection of their own.
async fn exchange<S>(stream: S, uri: &Uri) -> Result<(StatusCode, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error: hyper::Error| error.to_string())?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(header::HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(header::ACCEPT, "application/json")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let mut answered = pin!(async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), JWK_SET_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
    });
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        answer = &mut answered => answer,
        // It may end with the last byte, which is read by then.
        _ = &mut connection => answered.await,
    }
}

/// Where an issuer on this machine has no certificate, none is believed.
fn trusts_nobody() -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// From the connection to the last byte.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
