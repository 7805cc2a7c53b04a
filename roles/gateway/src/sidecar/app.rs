//! The service behind a sidecar: a Unix socket that nobody else can open.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use countersign_identity::SpiffeId;
use countersign_keys::hash::hex;
use countersign_keys::sha256;
use countersign_sdk::accept::{Connection, RequestBody};
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection as Connecting};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::{TcpStream, UnixStream};

use super::app_http2::Http2Lines;
use super::settings::Settings;
use crate::body::BoundedBody;
use crate::upstream::{UpstreamError, Wire};

/// The service, and connections to it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App {
    place: Place,
    client: Client<Connector, BoundedBody<RequestBody>>,
    /// Where the service speaks HTTP/2.
    http2: Option<Arc<Http2Lines>>,
}

/// Tells a socket from another that took its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct SocketId {
    device: u64,
    inode: u64,
    /// When owner, mode or name were changed last: numbers of inodes are given again.
    changed: (i64, i64),
}

/// Where it listens.
#[derive(Clone)]
enum Place {
    Unix(Arc<PathBuf>),
    Tcp(SocketAddr),
}

/// Why there is no answer of the service.
#[derive(Debug, Error)]
pub(super) enum SendError {
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Http(#[from] Error),
    #[error(transparent)]
    Http2(#[from] hyper::Error),
    #[error("{0}")]
    Request(String),
}

/// Why nothing is sent to the service.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AppError {
    /// No file, or one that is no socket.
    #[error("{path} is no socket: its program does not listen there")]
    NoSocket {
        /// Where it should be.
        path: String,
    },
    /// Others could open it, and get there past this proxy.
    #[error("{path} has mode {mode:o}: make it 600, or others get there past this proxy")]
    OpenToOthers {
        /// Where it is.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else listens there.
    #[error("{path} belongs to uid {uid}, and this proxy runs as uid {own}: run both as one user")]
    OtherOwner {
        /// Where it is.
        path: String,
        /// Whose it is.
        uid: u32,
        /// Who we are.
        own: u32,
    },
}

impl App {
    /// The one that the settings name, if they name exactly one.
    pub(super) fn of(settings: &Settings) -> Option<Self> {
        let place = match (&settings.app, settings.app_on_loopback_port_insecure) {
            (Some(socket), None) => Place::Unix(Arc::new(socket.path().to_owned())),
            (None, Some(address)) => {
                tracing::warn!(%address, "the service behind this sidecar listens on a port: every process of this machine reaches it past the door; use app = \"unix:/path\"");
                Place::Tcp(address)
            }
            _ => return None,
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            // Without it nobody closes the connections of a caller that does not come again.
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .http1_max_buf_size(settings.answer_head.bytes_max().max(HYPER_BYTES_MIN))
            .build(Connector { place: place.clone() });
        let http2 = settings.app_http2.then(|| Arc::new(Http2Lines::new(settings.answer_head.bytes_max())));
        Some(Self { place, client, http2 })
    }

    /// Does the service speak HTTP/2?
    pub(super) const fn speaks_http2(&self) -> bool {
        self.http2.is_some()
    }

    /// How long a connection waits for its next request.
    pub(crate) const IDLE_TIMEOUT: Duration = IDLE_TIMEOUT;

    /// A new connection, for a carrier that keeps its own.
    pub(crate) async fn dial(&self) -> io::Result<Wire> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.place.clone().connect()).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// The connection ended before an answer.
    pub(crate) fn broke(&self, why: &str) -> UpstreamError {
        let (upstream, endpoint) = (APP.to_owned(), self.place.to_string());
        UpstreamError::Broken { upstream, endpoint, why: why.to_owned() }
    }

    /// What came back is not HTTP/1.1.
    pub(crate) fn unreadable(&self, why: &str) -> UpstreamError {
        let (upstream, endpoint) = (APP.to_owned(), self.place.to_string());
        UpstreamError::NotHttp { upstream, endpoint, protocol: "HTTP/1.1", why: why.to_owned() }
    }

    /// It did not answer in time.
    pub(crate) fn late(&self, after: Duration) -> UpstreamError {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        UpstreamError::AnswerTimedOut { upstream: APP.to_owned(), endpoint: self.place.to_string(), after_ms }
    }

    /// Is the socket there, and is it the service's alone? If it is, which one.
    pub(super) fn check(&self) -> Result<SocketId, AppError> {
        self.place.check()
    }

    /// Sends a request; one that `leaves_http` in HTTP/1.1, where alone it can. Connections are kept apart by who is calling: what one caller does to the framing of a
    /// connection never meets the request of another.
    ///
    /// Who proved nothing is as many callers as connections: nobody knows whether two of them are the same.
    pub(super) async fn send(
        &self,
        mut request: Request<BoundedBody<RequestBody>>,
        caller: Option<&SpiffeId>,
        connection: Option<&Connection>,
        leaves_http: bool,
    ) -> Result<Response<Incoming>, SendError> {
        // A connection that is kept was made while this socket was there, and the service's alone; it must be so still.
        let socket = self.check()?;
        let pool = match (caller, connection) {
            (Some(caller), _) => pool_of(caller, socket),
            (None, Some(connection)) => pool_of(&connection.id, socket),
            // Nobody knows whose it is, so nobody else's follows on it.
            (None, None) => {
                request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                "nobody".to_owned()
            }
        };
        if let Some(lines) = self.http2.as_ref().filter(|_| !leaves_http) {
            return self.send_http2(lines, request, &pool).await;
        }
        let path = request.uri().path_and_query().cloned();
        let uri = Uri::builder().scheme("http").authority(format!("{pool}.app"));
        if let (Some(path), Ok(uri)) = (path, uri.path_and_query("/").build()) {
            let mut parts = uri.into_parts();
            parts.path_and_query = Some(path);
            if let Ok(uri) = Uri::from_parts(parts) {
                *request.uri_mut() = uri;
            }
        }
        Ok(self.client.request(request).await?)
    }
}

/// Is it a socket that our own user alone opens? If it is, which one.
pub(crate) fn check_socket(path: &Path) -> Result<SocketId, AppError> {
    let said = || path.display().to_string();
    let found = std::fs::symlink_metadata(path).map_err(|_| AppError::NoSocket { path: said() })?;
    if !found.file_type().is_socket() {
        return Err(AppError::NoSocket { path: said() });
    }
    let (mode, uid, own) = (found.mode() & 0o777, found.uid(), nix::unistd::geteuid().as_raw());
    if mode & 0o077 != 0 {
        return Err(AppError::OpenToOthers { path: said(), mode });
    }
    if uid != own {
        return Err(AppError::OtherOwner { path: said(), uid, own });
    }
    let changed = (found.ctime(), found.ctime_nsec());
    Ok(SocketId { device: found.dev(), inode: found.ino(), changed })
}

/// A name for a caller's connections to a socket that fits into a URI.
fn pool_of(id: &dyn fmt::Display, socket: SocketId) -> String {
    let digest = sha256(format!("{id} {socket:?}").as_bytes());
    hex(digest.first_chunk::<16>().unwrap_or(&[0; 16]))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

impl Place {
    fn check(&self) -> Result<SocketId, AppError> {
        match self {
            Self::Unix(path) => check_socket(path),
            Self::Tcp(_) => Ok(SocketId::default()),
        }
    }

    async fn connect(self) -> io::Result<Wire> {
        match &self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Wire::Tcp(stream))
            }
            Self::Unix(path) => {
                self.check().map_err(io::Error::other)?;
                let stream = UnixStream::connect(&**path).await?;
                let (uid, own) = (stream.peer_cred()?.uid(), nix::unistd::geteuid().as_raw());
                if uid != own {
                    let path = path.display().to_string();
                    return Err(io::Error::other(AppError::OtherOwner { path, uid, own }));
                }
                Ok(Wire::Unix(stream))
            }
        }
    }
}

/// Opens connections, whatever the URI says.
#[derive(Clone)]
struct Connector {
    place: Place,
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let place = self.place.clone();
        Box::pin(async move {
            match tokio::time::timeout(CONNECT_TIMEOUT, place.connect()).await {
                Ok(connected) => connected.map(|wire| Stream(TokioIo::new(wire))),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }
}

/// A connection to the service.
struct Stream(TokioIo<Wire>);

impl Connecting for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// As failures call it.
const APP: &str = "the service behind";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// What hyper reads at once in any case.
const HYPER_BYTES_MIN: usize = 8192;
/// For each caller.
const IDLE_CONNECTIONS_MAX: usize = 64;
