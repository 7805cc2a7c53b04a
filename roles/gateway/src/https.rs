//! One exchange with a server of the outside, over a connection of its own: bounded in size, no redirect, nothing kept
//! open. How long it may take is the caller's to say.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use countersign_sdk::tls::edge_client_config;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Whom calls to the outside believe. TLS 1.3, HTTP/1.1.
#[derive(Clone, Debug)]
pub(crate) struct Https(Arc<ClientConfig>);

impl Https {
    /// Believes certificates below `roots`, of which one at least can be read.
    pub(crate) fn trusting(roots: &[CertificateDer<'static>]) -> Result<Self, String> {
        // What a system trusts holds a certificate or two that nobody can read.
        let readable = |root: &&CertificateDer<'static>| RootCertStore::empty().add((*root).clone()).is_ok();
        let roots: Vec<_> = roots.iter().filter(readable).cloned().collect();
        if roots.is_empty() {
            return Err("no root certificate in it".to_owned());
        }
        let mut tls = edge_client_config(&roots).map_err(|error| error.to_string())?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Https(Arc::new(tls)))
    }

    /// Sends `request`, whose target is an absolute `https` URL, and reads an answer of at most `bytes_max`.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        bytes_max: usize,
    ) -> Result<Response<Bytes>, String> {
        let host = bare_host(request.uri()).ok_or("the url names no host")?.to_owned();
        let tcp = connect(&host, request.uri().port_u16().unwrap_or(443)).await?;
        let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
        let tls = TlsConnector::from(Arc::clone(&self.0)).connect(name, tcp).await;
        exchange(tls.map_err(|error| error.to_string())?, request, bytes_max).await
    }
}

/// The roots in a PEM file; without one, those that this machine trusts.
pub(crate) fn roots(pem: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    let Some(path) = pem else { return Ok(rustls_native_certs::load_native_certs().certs) };
    let wrong = |why: String| format!("{}: {why}", path.display());
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| wrong(error.to_string()))
}

/// The host of a URL, an IPv6 address without its brackets.
pub(crate) fn bare_host(uri: &Uri) -> Option<&str> {
    Some(uri.host()?.trim_start_matches('[').trim_end_matches(']'))
}

pub(crate) async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port)).await.map_err(|error| error.to_string())
}

/// One request and its answer on `stream`, which ends with them.
pub(crate) async fn exchange<S>(
    stream: S,
    mut request: Request<Full<Bytes>>,
    bytes_max: usize,
) -> Result<Response<Bytes>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let authority = request.uri().authority().map_or("", |authority| authority.as_str());
    let host = HeaderValue::from_str(authority).map_err(|error| error.to_string())?;
    let path = request.uri().path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from);
    request.headers_mut().insert(header::HOST, host);
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    *request.uri_mut() = path;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error: hyper::Error| error.to_string())?;
    let mut answered = pin!(async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, bytes_max).collect().await.map_err(|error| error.to_string())?;
        Ok(Response::from_parts(head, body.to_bytes()))
    });
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        answer = &mut answered => answer,
        // It may end with the last byte, which is read by then.
        _ = &mut connection => answered.await,
    }
}
