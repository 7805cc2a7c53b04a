//! Section 5.2.2, step 5: the caller's side. A factory puts a token into every request; where the callee does not
//! know the certificate behind it, the request is repeated over a connection that shows it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use countersign_keys::SignError;
use countersign_pki::CertificateDer;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{ServiceIdentity, TokenCreatorService};

/// The thesis's `HttpClientFactory` of one service.
pub struct HttpClientFactory {
    me: ServiceIdentity,
    creator: Arc<dyn TokenCreatorService>,
    root: CertificateDer<'static>,
}

/// One try of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Whether the connection showed the caller's certificate.
    pub with_certificate: bool,
    /// How it was answered.
    pub status: StatusCode,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No connection, or not to whom it should be.
    #[error("no connection to {callee}: {why}")]
    Connect {
        /// To whom.
        callee: String,
        /// What the library says.
        why: String,
    },
    /// The connection was lost.
    #[error("the connection was lost before the answer came: {why}")]
    Lost {
        /// What the library says.
        why: String,
    },
    /// No token.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// Too slow.
    #[error("no answer within {} seconds", CALL_MAX.as_secs())]
    TimedOut,
}

impl HttpClientFactory {
    /// Calls as `me`, with tokens by `creator`, whom `root` vouches for.
    #[must_use]
    pub fn new(
        me: ServiceIdentity,
        creator: Arc<dyn TokenCreatorService>,
        root: CertificateDer<'static>,
    ) -> Self {
        Self { me, creator, root }
    }

    /// Asks `callee` at `address` for `path`: without certificate, and once more with it if the callee asks.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn get(
        &self,
        address: SocketAddr,
        callee: &str,
        path: &str,
    ) -> Result<Vec<Attempt>, CallError> {
        let mut attempts = Vec::new();
        for with_certificate in [false, true] {
            let token = self.creator.create_token(callee)?;
            let shown = with_certificate.then_some(&self.me);
            let mut connection = Connection::open(address, callee, &self.root, shown).await?;
            let authorization = format!("Bearer {token}");
            let reply = connection.send(Method::GET, path, Some(&authorization), Bytes::new()).await?;
            attempts.push(Attempt { with_certificate, status: reply.status });
            if reply.status != StatusCode::UNAUTHORIZED {
                break;
            }
        }
        Ok(attempts)
    }
}

/// One connection over TLS 1.3 and HTTP/2, with one certificate or none until it ends.
#[derive(Debug)]
pub struct Connection {
    callee: String,
    requests: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects to `callee`, which must hold a certificate of that name below `root`.
    ///
    /// # Errors
    /// [`CallError::Connect`], [`CallError::TimedOut`]
    pub async fn open(
        address: SocketAddr,
        callee: &str,
        root: &CertificateDer<'static>,
        shown: Option<&ServiceIdentity>,
    ) -> Result<Self, CallError> {
        let refused = |why: String| CallError::Connect { callee: callee.to_owned(), why };
        let config = client_config(root, shown).map_err(refused)?;
        let name = ServerName::try_from(callee.to_owned()).map_err(|error| refused(error.to_string()))?;
        let connecting = async {
            let tcp = TcpStream::connect(address).await.map_err(|error| refused(error.to_string()))?;
            let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
            let tls = tls.map_err(|error| refused(error.to_string()))?;
            handshake(TokioExecutor::new(), TokioIo::new(tls)).await.map_err(|e| refused(e.to_string()))
        };
        let (requests, driver) = timeout(CALL_MAX, connecting).await.map_err(|_| CallError::TimedOut)??;
        tokio::spawn(driver);
        Ok(Self { callee: callee.to_owned(), requests })
    }

    /// Sends a request and reads the answer, of at most [`ANSWER_BYTES_MAX`].
    ///
    /// # Errors
    /// [`CallError::Lost`], [`CallError::TimedOut`]
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        authorization: Option<&str>,
        body: Bytes,
    ) -> Result<Reply, CallError> {
        let lost = |why: String| CallError::Lost { why };
        let uri = Uri::builder().scheme("https").authority(self.callee.as_str()).path_and_query(path);
        let uri = uri.build().map_err(|error| lost(error.to_string()))?;
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Full::from(body)).map_err(|error| lost(error.to_string()))?;
        let sending = async {
            let response = self.requests.send_request(request).await.map_err(|e| lost(e.to_string()))?;
            let (status, headers) = (response.status(), response.headers().clone());
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| lost(error.to_string()))?.to_bytes();
            Ok(Reply { status, headers, body })
        };
        timeout(CALL_MAX, sending).await.map_err(|_| CallError::TimedOut)?
    }
}

fn client_config(
    root: &CertificateDer<'static>,
    shown: Option<&ServiceIdentity>,
) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).map_err(|error| error.to_string())?;
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let pkcs8 = identity.key.to_pkcs8().map_err(|error| error.to_string())?;
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.expose().clone()));
            builder.with_client_auth_cert(identity.chain.clone(), key).map_err(|error| error.to_string())?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Longest answer that is read.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;
const CALL_MAX: Duration = Duration::from_secs(10);
