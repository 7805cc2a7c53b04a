//! One HTTP/2 connection to one place, made when needed and made again when it is gone.

use std::{
    error::Error as StdError,
    fmt,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::{Mutex, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::{CallError, CallLimits, Cuttable, Target, no_longer_believed, proof::Proof};
use crate::{
    accept::{Exporter, Moving, Progress},
    clock,
    tls::{H2, HandshakeError, HandshakeRefusal, Identity, Peer, TrustState},
};

/// Whom to judge again as long as a connection lasts, and by what.
pub(super) type Watched = (Arc<Peer>, Arc<TrustState>);

/// The body of a request on its way out.
pub type Outgoing = UnsyncBoxBody<Bytes, Box<dyn StdError + Send + Sync>>;

/// A body of known bytes.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Outgoing {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body of no bytes.
#[must_use]
pub fn empty() -> Outgoing {
    full(Bytes::new())
}

/// A connection to one place. Cheap to clone; all clones share the connection.
#[derive(Clone)]
pub struct Channel(Arc<Inner>);

struct Inner {
    target: Target,
    limits: CallLimits,
    open: ArcSwapOption<Open>,
    /// Held while connecting, so that a crowd of first callers makes one connection.
    connecting: Mutex<()>,
    in_flight: Arc<Semaphore>,
    connections: AtomicU64,
}

/// An open connection, and under which identity it was made.
struct Open {
    send: SendRequest<Outgoing>,
    peer: Option<Arc<Peer>>,
    own: Option<Arc<Identity>>,
    /// What proofs bind to, so that they die with the connection.
    exporter: Option<[u8; EXPORTER_BYTES]>,
}

impl Inner {
    fn new(target: Target, limits: CallLimits) -> Self {
        Self {
            target,
            limits,
            open: ArcSwapOption::empty(),
            connecting: Mutex::new(()),
            in_flight: Arc::new(Semaphore::new(limits.in_flight_max.min(Semaphore::MAX_PERMITS))),
            connections: AtomicU64::new(0),
        }
    }
}

impl Open {
    /// Without anybody proven.
    const fn bare(send: SendRequest<Outgoing>) -> Self {
        Self { send, peer: None, own: None, exporter: None }
    }
}

impl Channel {
    /// Leads to `target`; connects with the first request.
    #[must_use]
    pub fn new(target: Target, limits: CallLimits) -> Self {
        Self(Arc::new(Inner::new(target, limits)))
    }

    /// Another way to the same callee: both together have no more requests in progress than this one may.
    pub(super) fn beside(&self, target: Target) -> Self {
        let mut inner = Inner::new(target, self.0.limits);
        inner.in_flight = Arc::clone(&self.0.in_flight);
        Self(Arc::new(inner))
    }

    /// The same way with a connection of its own, which is closed once nobody holds this and its last answer was read.
    pub(super) fn anew(&self) -> Self {
        self.beside(self.0.target.clone())
    }

    /// Sends a request. Scheme and authority of its URI are replaced by those of the target.
    ///
    /// A request that was never sent, because the pooled connection was closing, is sent once more on a
    /// new one. Nothing else is ever repeated.
    ///
    /// # Errors
    /// See [`CallError`]; none of them means that the callee did nothing, except that it was never reached.
    pub async fn send(&self, request: Request<Outgoing>) -> Result<Response<Incoming>, CallError> {
        self.send_proven(request, &Proof::none()).await
    }

    /// As [`Channel::send`], with `proof` of who we are: made anew for each connection that the request is sent on.
    pub(super) async fn send_proven(
        &self,
        request: Request<Outgoing>,
        proof: &Proof,
    ) -> Result<Response<Incoming>, CallError> {
        let _turn = self.take_turn()?;
        let (request, progress) = moving(self.aimed(request)?);
        let exchange = pin!(self.exchange(request, proof));
        match Progress::of(progress.as_ref(), self.0.limits.answer, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::TimedOut { place: self.place() }),
        }
    }

    /// The right to one more request in progress.
    pub(super) fn take_turn(&self) -> Result<OwnedSemaphorePermit, CallError> {
        let turn = Arc::clone(&self.0.in_flight).try_acquire_owned();
        turn.map_err(|_| CallError::Overloaded { place: self.place() })
    }

    pub(super) fn target(&self) -> &Target {
        &self.0.target
    }

    pub(super) fn limits(&self) -> &CallLimits {
        &self.0.limits
    }

    /// What proofs bind to, so that they die with the connection.
    pub(super) fn exporter(session: &rustls::ClientConnection) -> Option<[u8; EXPORTER_BYTES]> {
        Exporter::of(session).map(|exporter| *exporter.expose())
    }

    /// Connections made so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.0.connections.load(Ordering::Relaxed)
    }

    /// Who was proven at the other end of the connection that is open now.
    #[must_use]
    pub fn peer(&self) -> Option<Arc<Peer>> {
        self.0.open.load().as_ref().and_then(|open| open.peer.clone())
    }

    pub(super) fn place(&self) -> String {
        self.0.target.place()
    }

    pub(super) fn aimed(&self, mut request: Request<Outgoing>) -> Result<Request<Outgoing>, CallError> {
        let (scheme, authority) = self.0.target.scheme_and_authority();
        let path = request.uri().path_and_query().cloned().ok_or(CallError::BadRequest)?;
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path);
        *request.uri_mut() = uri.build().map_err(|_| CallError::BadRequest)?;
        *request.version_mut() = http::Version::HTTP_2;
        // HTTP/2 has the authority in its URI; a second one could only disagree.
        request.headers_mut().remove(http::header::HOST);
        Ok(request)
    }

    async fn exchange(
        &self,
        request: Request<Outgoing>,
        proof: &Proof,
    ) -> Result<Response<Incoming>, CallError> {
        let mut request = request;
        let mut again = true;
        loop {
            let open = self.ready().await?;
            let nonce = proof.sign(&mut request, open.exporter.as_ref(), clock::now())?;
            let mut send = open.send.clone();
            match send.try_send_request(request).await {
                Ok(mut answer) => {
                    nonce.map(|nonce| answer.extensions_mut().insert(nonce));
                    return Ok(answer);
                }
                Err(mut error) => {
                    let unsent = error.take_message();
                    // A stream that was reset says nothing about the others on its connection.
                    if unsent.is_some() || open.send.is_closed() {
                        self.forget(&open);
                    }
                    match unsent {
                        Some(unsent) if again => request = unsent,
                        _ => return Err(self.broken(error.error())),
                    }
                    again = false;
                }
            }
        }
    }

    /// The open connection if it may still be used, else a new one.
    async fn ready(&self) -> Result<Arc<Open>, CallError> {
        if let Some(open) = self.usable() {
            return Ok(open);
        }
        let _turn = self.0.connecting.lock().await;
        if let Some(open) = self.usable() {
            return Ok(open);
        }
        let open = match timeout(self.0.limits.connect, self.connect()).await {
            Ok(open) => Arc::new(open?),
            Err(_) => return Err(CallError::TimedOut { place: self.place() }),
        };
        self.0.connections.fetch_add(1, Ordering::Relaxed);
        self.0.open.store(Some(Arc::clone(&open)));
        Ok(open)
    }

    /// A connection made with credentials that were rotated since is left to finish what runs on it;
    /// one whose peer is no longer believed is not used for another request.
    fn usable(&self) -> Option<Arc<Open>> {
        let open = self.0.open.load_full()?;
        if open.send.is_closed() {
            return None;
        }
        if !is_still_ours(open.own.as_ref(), self.0.target.shown().as_ref()) {
            return None;
        }
        if matches!(self.0.target, Target::Workload { .. }) {
            open.peer.as_ref().filter(|peer| peer.workload(clock::now()).is_ok())?;
        }
        Some(open)
    }

    fn forget(&self, gone: &Arc<Open>) {
        let current = self.0.open.load();
        if current.as_ref().is_some_and(|open| Arc::ptr_eq(open, gone)) {
            self.0.open.compare_and_swap(&*current, None);
        }
    }

    async fn connect(&self) -> Result<Open, CallError> {
        let own = self.0.target.shown();
        match &self.0.target {
            Target::Workload { address, connector, .. } => {
                let tcp = self.tcp(address).await?;
                let (stream, peer) = connector.connect(tcp).await.map_err(|source| self.refused(source))?;
                self.demand_h2(stream.get_ref().1.alpn_protocol())?;
                let exporter = Self::exporter(stream.get_ref().1);
                let trust = Arc::clone(connector.trust());
                let send = self.http2(stream, Some((Arc::clone(&peer), trust))).await?;
                Ok(Open { send, peer: Some(peer), own, exporter })
            }
            Target::Plain { address, .. } => {
                let tcp = self.tcp(address).await?;
                Ok(Open::bare(self.http2(tcp, None).await?))
            }
            Target::Edge(edge) => {
                let tcp = self.tcp(&edge.address).await?;
                let tls = TlsConnector::from(Arc::clone(&edge.config));
                let stream = tls.connect(edge.name.clone(), tcp).await.map_err(|error| {
                    self.refused(HandshakeRefusal::Protocol { why: error.to_string() }.into())
                })?;
                self.demand_h2(stream.get_ref().1.alpn_protocol())?;
                Ok(Open { own, ..Open::bare(self.http2(stream, None).await?) })
            }
            Target::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| self.unreachable(&error))?;
                Ok(Open::bare(self.http2(stream, None).await?))
            }
        }
    }

    pub(super) async fn tcp(&self, address: &str) -> Result<TcpStream, CallError> {
        let tcp = TcpStream::connect(address).await.map_err(|error| self.unreachable(&error))?;
        tcp.set_nodelay(true).map_err(|error| self.unreachable(&error))?;
        Ok(tcp)
    }

    fn demand_h2(&self, settled: Option<&[u8]>) -> Result<(), CallError> {
        if settled == Some(H2) {
            return Ok(());
        }
        let why = "the server does not speak http/2".to_owned();
        Err(self.refused(HandshakeRefusal::Protocol { why }.into()))
    }

    async fn http2<IO>(&self, io: IO, watched: Option<Watched>) -> Result<SendRequest<Outgoing>, CallError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let cut = CancellationToken::new();
        let (send, connection) = http2::Builder::new(Cuttable(cut.clone()))
            .timer(TokioTimer::new())
            .max_header_list_size(self.0.limits.header_bytes_max)
            .keep_alive_interval(Some(PING_INTERVAL))
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| self.broken(&error))?;
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "an outgoing connection ended with an error");
                    }
                }
                () = no_longer_believed(watched) => {
                    tracing::info!("an outgoing connection is cut: its peer is no longer believed");
                    cut.cancel();
                }
            }
        });
        Ok(send)
    }

    fn unreachable(&self, error: &std::io::Error) -> CallError {
        CallError::Unreachable { place: self.place(), why: error.to_string() }
    }

    pub(super) fn refused(&self, source: HandshakeError) -> CallError {
        CallError::Handshake { place: self.place(), source }
    }

    pub(super) fn broken(&self, error: &hyper::Error) -> CallError {
        // The outer message says "connection error"; the alert that explains it lies beneath.
        let mut why = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            why = format!("{why}: {inner}");
            cause = inner.source();
        }
        CallError::Broken { place: self.place(), why }
    }
}

/// The request, and how its body moves if it is not there yet. What was asked before is not asked again.
pub(super) fn moving(mut request: Request<Outgoing>) -> (Request<Outgoing>, Option<Progress>) {
    if let Some(known) = request.extensions().get::<Sent>() {
        let known = known.0.clone();
        return (request, known);
    }
    let progress = (!request.body().is_end_stream()).then(Progress::begin);
    request.extensions_mut().insert(Sent(progress.clone()));
    let Some(progress) = progress else { return (request, None) };
    let request = request.map(|body| Moving::new(body, progress.clone()).boxed_unsync());
    (request, Some(progress))
}

/// How the body of a request moves on its way out.
#[derive(Clone)]
struct Sent(Option<Progress>);

/// Is what was shown what we would show now?
fn is_still_ours(own: Option<&Arc<Identity>>, now: Option<&Arc<Identity>>) -> bool {
    match (own, now) {
        (Some(shown), Some(now)) => Arc::ptr_eq(shown, now),
        (None, None) => true,
        _ => false,
    }
}

impl<B> Service<Request<B>> for Channel
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Response = Response<Incoming>;
    type Error = CallError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, CallError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let channel = self.clone();
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(async move { channel.send(request).await })
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({})", self.place())
    }
}

/// Of the channel binding `tls-exporter`; see [`Exporter`].
const EXPORTER_BYTES: usize = 32;
const PING_INTERVAL: std::time::Duration = std::time::Duration::from_secs(30);
const PING_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
