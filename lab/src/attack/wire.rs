//! The attacker's own TLS and HTTP: it sends what no honest client would, and reads every way to be refused.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use countersign_wire::problem::Problem;
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme,
    SupportedProtocolVersion,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// How to connect.
#[derive(Clone)]
pub struct Dial {
    /// Where.
    pub address: SocketAddr,
    /// What is shown to a server that asks for a certificate. Nothing about it need be true.
    pub shows: Option<Arc<CertifiedKey>>,
    /// Which versions of TLS are spoken.
    pub versions: &'static [&'static SupportedProtocolVersion],
    /// Which host is named in the handshake.
    pub server_name: Option<String>,
    /// From which address of this machine; the system's choice where none is said.
    pub from: Option<IpAddr>,
    /// What is to be spoken (ALPN): `http/1.1` or `h2`.
    pub speaks: &'static [u8],
}

/// A connection on which anything may be sent.
pub struct Connection {
    io: Box<dyn Stream>,
    /// Our end, by which a refused handshake is found in the ledger.
    pub local: Option<SocketAddr>,
    /// RFC 9266: what a proof for this connection names.
    pub exporter: Option<[u8; 32]>,
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for T {}

/// A request, to be written as it is said: nothing is corrected.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`
    pub method: String,
    /// Path and query.
    pub target: String,
    /// In their order. `Host` and `Content-Length` are added where they are missing.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// As much of its body as is read.
    pub body: Vec<u8>,
}

/// How a connection ended that gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The alert of TLS, if there was one.
    pub alert: Option<AlertDescription>,
    /// What the system or the library says.
    pub how: String,
    /// Our end.
    pub local: Option<SocketAddr>,
}

/// An answer, or how the connection ended instead.
pub type Exchanged = Result<Reply, Broken>;

impl Dial {
    /// TLS 1.3 to `address`, showing nothing.
    #[must_use]
    pub fn to(address: SocketAddr) -> Self {
        Self { address, shows: None, versions: TLS_1_3, server_name: None, from: None, speaks: HTTP_1 }
    }

    /// Shows this.
    #[must_use]
    pub fn showing(self, shown: Arc<CertifiedKey>) -> Self {
        Self { shows: Some(shown), ..self }
    }

    /// Connects. That this works does not mean that the server took the certificate: in TLS 1.3 the client finishes
    /// first, and reads the refusal with the first answer.
    ///
    /// # Errors
    /// How it ended.
    pub async fn connect(&self) -> Result<Connection, Broken> {
        let broken = |how: String| Broken { alert: None, how, local: None };
        let tcp = within(self.reach()).await.map_err(|error| broken(error.to_string()))?;
        let local = tcp.local_addr().ok();
        let _ = tcp.set_nodelay(true);
        let config = self.config().map_err(|error| broken(error.to_string()))?;
        let name = match &self.server_name {
            Some(name) => ServerName::try_from(name.clone()).map_err(|error| broken(error.to_string()))?,
            None => ServerName::IpAddress(self.address.ip().into()),
        };
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp);
        let tls = within(tls).await.map_err(|error| ended(&error, local))?;
        let exporter = tls.get_ref().1.export_keying_material([0; 32], EXPORTER, Some(&[])).ok();
        Ok(Connection { io: Box::new(tls), local, exporter })
    }

    async fn reach(&self) -> io::Result<TcpStream> {
        let Some(from) = self.from else { return TcpStream::connect(self.address).await };
        let socket = match from {
            IpAddr::V4(_) => TcpSocket::new_v4()?,
            IpAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.bind(SocketAddr::new(from, 0))?;
        socket.connect(self.address).await
    }

    /// Connects without TLS.
    ///
    /// # Errors
    /// How it ended.
    pub async fn connect_in_the_clear(&self) -> Result<Connection, Broken> {
        let tcp = within(self.reach()).await.map_err(|error| ended(&error, None))?;
        let local = tcp.local_addr().ok();
        Ok(Connection { io: Box::new(tcp), local, exporter: None })
    }

    fn config(&self) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let anybody = Arc::new(AnyServer(Arc::clone(&provider)));
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)?
            .dangerous()
            .with_custom_certificate_verifier(anybody);
        let mut config = match &self.shows {
            Some(shown) => builder.with_client_cert_resolver(Arc::new(Always(Arc::clone(shown)))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![self.speaks.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

impl Connection {
    /// Over a Unix socket.
    ///
    /// # Errors
    /// How it ended.
    pub async fn unix(path: &std::path::Path) -> Result<Self, Broken> {
        let stream = within(UnixStream::connect(path)).await.map_err(|error| ended(&error, None))?;
        Ok(Self { io: Box::new(stream), local: None, exporter: None })
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// How the connection ended instead.
    pub async fn send(&mut self, request: &Request) -> Exchanged {
        self.send_bytes(&request.to_bytes()).await
    }

    /// Sends these very bytes and reads one answer.
    ///
    /// # Errors
    /// How the connection ended instead.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> Exchanged {
        // Whoever refuses may have closed already: what it said first is still to be read.
        let written = within(async {
            self.io.write_all(bytes).await?;
            self.io.flush().await
        });
        let written = written.await;
        match (self.read().await, written) {
            (Err(read), Err(error)) if read.alert.is_none() => Err(ended(&error, self.local)),
            (read, _) => read,
        }
    }

    /// Reads one answer.
    ///
    /// # Errors
    /// How the connection ended instead.
    pub async fn read(&mut self) -> Exchanged {
        let local = self.local;
        within(self.read_reply()).await.map_err(|error| ended(&error, local))
    }

    /// Sends these very bytes and waits for nothing.
    ///
    /// # Errors
    /// How the connection ended instead.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let written = within(async {
            self.io.write_all(bytes).await?;
            self.io.flush().await
        });
        written.await.map_err(|error| ended(&error, self.local))
    }

    /// Whatever comes next; nothing where the other side has ended the connection.
    ///
    /// # Errors
    /// How the connection ended instead.
    pub async fn read_some(&mut self) -> Result<Vec<u8>, Broken> {
        let mut chunk = vec![0; 16 * 1024];
        let read = within(self.io.read(&mut chunk)).await.map_err(|error| ended(&error, self.local))?;
        chunk.truncate(read);
        Ok(chunk)
    }

    /// What lies below, for whoever speaks something else.
    pub(super) fn into_io(self) -> Box<dyn Stream> {
        self.io
    }

    async fn read_reply(&mut self) -> io::Result<Reply> {
        let mut bytes = Vec::new();
        loop {
            if let Some(reply) = parse(&bytes)? {
                return Ok(reply);
            }
            if bytes.len() > ANSWER_BYTES_MAX {
                return Err(io::Error::other("the answer is too long to be one"));
            }
            let mut chunk = [0; 4096];
            let read = self.io.read(&mut chunk).await?;
            if read == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer"));
            }
            bytes.extend(chunk.iter().take(read));
        }
    }
}

impl Request {
    /// `GET target`
    #[must_use]
    pub fn get(target: &str) -> Self {
        Self { method: "GET".into(), target: target.into(), headers: Vec::new(), body: Vec::new() }
    }

    /// One more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// By another method.
    #[must_use]
    pub fn by(mut self, method: &str) -> Self {
        self.method = method.into();
        self
    }

    /// With a body of this type.
    #[must_use]
    pub fn carrying(mut self, media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.with("Content-Type", media_type)
    }

    /// As it goes over the wire.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let has = |wanted: &str| self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !has("host") {
            head.push_str("Host: localhost\r\n");
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() && !has("content-length") && !has("transfer-encoding") {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        [head.as_bytes(), &self.body].concat()
    }
}

impl Reply {
    /// The first header of this name.
    #[must_use]
    pub fn header(&self, wanted: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.as_str())
    }

    /// The body, if it is a problem (RFC 9457).
    #[must_use]
    pub fn problem(&self) -> Option<Problem> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The public code of the problem.
    #[must_use]
    pub fn public_code(&self) -> Option<String> {
        self.problem().map(|problem| problem.code)
    }
}

/// One whole answer, once it is there.
fn parse(bytes: &[u8]) -> io::Result<Option<Reply>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let malformed = |error: httparse::Error| io::Error::other(format!("no answer of http: {error}"));
    let httparse::Status::Complete(length) = head.parse(bytes).map_err(malformed)? else { return Ok(None) };
    let status = head.code.unwrap_or_default();
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    let mut reply = Reply { status, headers, body: bytes.get(length..).unwrap_or_default().to_vec() };
    let is_whole = match (reply.header("content-length"), reply.header("transfer-encoding")) {
        (Some(length), _) => reply.body.len() >= length.parse().unwrap_or(usize::MAX),
        (None, Some(_)) => reply.body.ends_with(b"0\r\n\r\n"),
        (None, None) => true,
    };
    if reply.header("transfer-encoding").is_some() && is_whole {
        reply.body = without_chunks(&reply.body);
    }
    Ok(is_whole.then_some(reply))
}

fn without_chunks(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let size = rest.get(..end).and_then(|size| std::str::from_utf8(size).ok());
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok()).unwrap_or_default();
        let Some(chunk) = rest.get(end + 2..end + 2 + size).filter(|chunk| !chunk.is_empty()) else { break };
        body.extend(chunk);
        rest = rest.get(end + 4 + size..).unwrap_or_default();
    }
    body
}

async fn within<T>(doing: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(ANSWER_WAIT, doing).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn ended(error: &io::Error, local: Option<SocketAddr>) -> Broken {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    let alert = match tls {
        Some(TlsError::AlertReceived(alert)) => Some(*alert),
        _ => None,
    };
    Broken { alert, how: error.to_string(), local }
}

/// Whoever answers: an attacker does not mind.
#[derive(Debug)]
struct AnyServer(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Shows one certificate to everybody, whether or not anybody would believe it.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

const TLS_1_3: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
const HTTP_1: &[u8] = b"http/1.1";
/// RFC 9266 section 2.
const EXPORTER: &[u8] = b"EXPORTER-Channel-Binding";
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(20);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_answer_is_read_when_it_is_whole_and_not_before() {
        let whole = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(parse(&whole[..30]).unwrap(), None);
        assert_eq!(parse(&whole[..whole.len() - 1]).unwrap(), None);
        let reply = parse(whole).unwrap().unwrap();
        assert_eq!((reply.status, &reply.body[..]), (403, &b"abc"[..]));
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap().unwrap().body, b"abcde");
    }

    #[test]
    fn a_request_goes_out_as_it_was_said() {
        let request = Request::get("/ads").by("POST").with("X", "1").carrying("text/plain", "hi");
        let text = String::from_utf8(request.to_bytes()).unwrap();
        assert_eq!(
            text,
            "POST /ads HTTP/1.1\r\nHost: localhost\r\nX: 1\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi"
        );
        let twice = Request::get("/").with("Host", "a").with("Host", "b");
        assert_eq!(twice.to_bytes(), b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    }
}
