//! One connection, from its handshake to its end.

use std::{
    convert::Infallible,
    error::Error as StdError,
    fmt,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use countersign_identity::{SpiffeId, Verified, Workload};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::request_body::{Aside, Linger, RequestBody};
use super::{Limits, Origin, UnixPeer, first_byte::Peeked, worded::Worded};
use crate::{
    clock,
    live::Floor,
    tls::{Acceptor, ClientAuth, ConnectionId, Peer},
};

/// How bytes become requests.
#[derive(Clone, Debug)]
pub enum Transport {
    /// TLS, whose handshake judges the peer.
    Tls(Acceptor),
    /// No TLS: Unix sockets, and loopback where the settings name it insecure.
    Plain,
    /// What the floor of a service says at the moment: whether a client certificate is demanded, and whether plain
    /// HTTP is served on the same port.
    ByFloor(Acceptor, Floor),
}

/// Who is at the other end: in the extensions of every request that [`super::serve`] passes on.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Name of the connection in the ledger.
    pub id: ConnectionId,
    /// Where it came from.
    pub origin: Origin,
    /// The workload that proved itself in the handshake. `None` is a stranger, and stays one.
    pub peer: Option<Arc<Peer>>,
    /// The host that the client named in the TLS handshake (RFC 6066 section 3), lower case. Workloads
    /// name none, and neither does who connects to an address.
    pub server_name: Option<Arc<str>>,
    /// Could the peer have shown a certificate?
    pub asks_for_certificate: bool,
    /// What only the two ends of a TLS connection know of it (RFC 9266): a proof that names it is good on this
    /// connection and no other. `None` without TLS.
    pub exporter: Option<Exporter>,
}

/// The channel binding `tls-exporter` of one connection. A secret of its two ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Exporter([u8; EXPORTER_BYTES]);

impl Exporter {
    /// What the TLS library exported.
    #[must_use]
    pub const fn new(exported: [u8; EXPORTER_BYTES]) -> Self {
        Self(exported)
    }

    /// The exported bytes.
    #[must_use]
    pub const fn expose(&self) -> &[u8; EXPORTER_BYTES] {
        &self.0
    }

    /// Of the server's end. Here, once for each connection and not with its first proof: what exports it goes into the
    /// HTTP stream, and it costs a thousandth of the handshake.
    fn of(session: &rustls::ServerConnection) -> Option<Self> {
        session.export_keying_material([0; EXPORTER_BYTES], EXPORTER_LABEL, Some(&[])).ok().map(Self)
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporter(..)")
    }
}

impl Connection {
    /// The proven workload, if it is still believed at this moment.
    #[must_use]
    pub fn workload(&self) -> Option<Verified<Workload>> {
        self.peer.as_ref()?.workload(clock::now()).ok()
    }

    /// The SPIFFE ID of [`Connection::workload`].
    #[must_use]
    pub fn spiffe_id(&self) -> Option<SpiffeId> {
        self.workload().map(|workload| workload.id.clone())
    }

    /// Its address; a Unix socket has none.
    #[must_use]
    pub const fn address(&self) -> Option<SocketAddr> {
        match self.origin {
            Origin::Tcp(address) => Some(address),
            Origin::Unix(_) => None,
        }
    }

    /// The process behind a Unix socket.
    #[must_use]
    pub const fn unix(&self) -> Option<UnixPeer> {
        match self.origin {
            Origin::Unix(peer) => Some(peer),
            Origin::Tcp(_) => None,
        }
    }
}

/// What all connections of a listener share.
pub(super) struct Serving {
    pub(super) transport: Transport,
    pub(super) limits: Limits,
    /// Finish politely.
    pub(super) draining: CancellationToken,
    /// End now.
    pub(super) cut: CancellationToken,
}

pub(super) async fn run<IO, S, B>(io: IO, origin: Origin, service: S, serving: Serving)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let id = ConnectionId::random();
    let connection =
        Connection { id, origin, peer: None, server_name: None, asks_for_certificate: false, exporter: None };
    match serving.transport.clone() {
        Transport::Plain => drive(io, None, connection, service, &serving).await,
        Transport::Tls(acceptor) => {
            let ends = Instant::now() + serving.limits.handshake;
            shake_hands(io, &acceptor, ends, connection, service, &serving).await;
        }
        Transport::ByFloor(acceptor, floor) => {
            let ends = Instant::now() + serving.limits.handshake;
            let Some(io) = first_byte(io, ends, &acceptor, &connection, &serving).await else { return };
            match (io.is_plain(), floor.serves_plain()) {
                (true, true) => {
                    warn_of_plain(&connection);
                    drive(io, None, connection, service, &serving).await;
                }
                (true, false) => acceptor.plain(connection.id, connection.address()),
                (false, _) => {
                    let acceptor = acceptor.asking(floor.client_auth());
                    shake_hands(io, &acceptor, ends, connection, service, &serving).await;
                }
            }
        }
    }
}

/// Waits for the first byte no longer than for a whole handshake.
async fn first_byte<IO: AsyncRead + Unpin>(
    io: IO,
    ends: Instant,
    acceptor: &Acceptor,
    connection: &Connection,
    serving: &Serving,
) -> Option<Peeked<IO>> {
    let peeked = tokio::select! {
        peeked = tokio::time::timeout_at(ends, Peeked::new(io)) => peeked,
        () = serving.draining.cancelled() => return None,
    };
    if peeked.is_err() {
        acceptor.timed_out(connection.id, connection.address(), serving.limits.handshake);
    }
    peeked.ok()?.ok()
}

/// Loud, since whoever comes so proves nothing; once for each connection, since traffic of a baseline must not drown
/// everything else.
fn warn_of_plain(connection: &Connection) {
    metrics::counter!("countersign_plain_connections_total").increment(1);
    let (id, address) = (connection.id, connection.address());
    tracing::warn!(connection = %id, ?address, "plain http is served: mode none proves nobody and hides nothing");
}

async fn shake_hands<IO, S, B>(
    io: IO,
    acceptor: &Acceptor,
    ends: Instant,
    mut connection: Connection,
    service: S,
    serving: &Serving,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let address = connection.address();
    connection.asks_for_certificate = acceptor.auth() != ClientAuth::Never;
    let shaken = tokio::select! {
        shaken = tokio::time::timeout_at(ends, acceptor.accept(io, connection.id, address)) => shaken,
        () = serving.draining.cancelled() => return,
    };
    match shaken {
        Ok(Ok((stream, peer))) => {
            let session = stream.get_ref().1;
            let h2 = session.alpn_protocol() == Some(crate::tls::H2);
            connection.server_name = session.server_name().map(|name| name.to_ascii_lowercase().into());
            connection.exporter = Exporter::of(session);
            connection.peer = peer;
            drive(stream, Some(h2), connection, service, serving).await;
        }
        Ok(Err(error)) => tracing::debug!(connection = %connection.id, %error, "handshake refused"),
        Err(_) => acceptor.timed_out(connection.id, address, serving.limits.handshake),
    }
}

/// `h2`: what ALPN settled; without TLS the first bytes tell.
async fn drive<IO, S, B>(io: IO, h2: Option<bool>, connection: Connection, service: S, serving: &Serving)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let limits = &serving.limits;
    let activity = Arc::new(Activity::new());
    let builder = builder(limits, h2);
    let peer = connection.peer.clone();
    let is_plain = connection.exporter.is_none();
    let service = Attended { service, connection, activity: Arc::clone(&activity) };
    let mut http =
        pin!(builder.serve_connection(TokioIo::new(Worded::new(io)), TowerToHyperService::new(service)));

    let acceptor = match &serving.transport {
        Transport::Tls(acceptor) | Transport::ByFloor(acceptor, _) => Some(acceptor),
        Transport::Plain => None,
    };
    let mut trust = acceptor.filter(|_| peer.is_some()).map(|acceptor| acceptor.trust().subscribe());
    // A plain connection ends, politely, when nobody may come without proof any more.
    let floor = match &serving.transport {
        Transport::ByFloor(_, floor) if is_plain => Some(floor.clone()),
        _ => None,
    };
    let mut floors = floor.as_ref().map(Floor::changes);
    let mut life = Life::new(limits, &activity, peer, floor);
    // Trust may have changed after the handshake was judged and before anybody listened for changes.
    life.judge();
    loop {
        tokio::select! {
            ended = http.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended with an error");
                }
                return;
            }
            () = serving.cut.cancelled() => return,
            () = serving.draining.cancelled(), if life.end.is_none() => life.end_within(limits.drain),
            () = changed(&mut trust) => life.judge(),
            () = changed(&mut floors) => life.judge(),
            () = tokio::time::sleep_until(life.wake()) => {
                if life.is_over() {
                    return;
                }
                life.judge();
            }
        }
        if life.end.is_some() && !life.told {
            life.told = true;
            http.as_mut().graceful_shutdown();
        }
    }
}

fn builder(limits: &Limits, h2: Option<bool>) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .max_headers(limits.headers_max)
        .max_buf_size(
            usize::try_from(limits.header_bytes_max).unwrap_or(usize::MAX).max(HTTP1_BUFFER_BYTES_MIN),
        );
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(limits.header_bytes_max)
        .keep_alive_interval(Some(limits.idle.min(PING_INTERVAL_MAX)))
        .keep_alive_timeout(limits.header_read);
    match h2 {
        Some(true) => builder.http2_only(),
        Some(false) => builder.http1_only(),
        None => builder,
    }
}

async fn changed(trust: &mut Option<tokio::sync::watch::Receiver<u64>>) {
    if let Some(receiver) = trust
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// When a connection must end, and why.
struct Life<'a> {
    limits: &'a Limits,
    activity: &'a Activity,
    peer: Option<Arc<Peer>>,
    /// Of a connection without TLS, where that depends on a floor.
    floor: Option<Floor>,
    born: Instant,
    end: Option<Instant>,
    told: bool,
}

impl<'a> Life<'a> {
    fn new(
        limits: &'a Limits,
        activity: &'a Activity,
        peer: Option<Arc<Peer>>,
        floor: Option<Floor>,
    ) -> Self {
        Self { limits, activity, peer, floor, born: Instant::now(), end: None, told: false }
    }

    fn end_within(&mut self, span: Duration) {
        let then = Instant::now() + span;
        self.end = Some(self.end.map_or(then, |end| end.min(then)));
    }

    /// Is the peer still believed, is there still something to do?
    fn judge(&mut self) {
        if let Some(peer) = &self.peer
            && let Err(error) = peer.workload(clock::now())
        {
            tracing::info!(%error, "an open connection is cut: its peer is no longer believed");
            self.end_within(self.limits.cut);
        }
        if self.floor.as_ref().is_some_and(|floor| !floor.serves_plain()) {
            self.end_within(self.limits.drain);
        }
        let now = Instant::now();
        if now >= self.born + self.limits.connection_age
            || now >= self.activity.idle_since() + self.limits.idle
        {
            self.end_within(self.limits.drain);
        }
    }

    fn is_over(&self) -> bool {
        self.end.is_some_and(|end| Instant::now() >= end)
    }

    /// When to look next.
    fn wake(&self) -> Instant {
        if let Some(end) = self.end {
            return end;
        }
        let now = Instant::now();
        let mut wake = self.born + self.limits.connection_age;
        wake = wake.min(self.activity.idle_since() + self.limits.idle);
        if let Some(then) = self.peer.as_ref().and_then(|peer| peer.good_until()) {
            wake = wake.min(now + clock::until(then));
        }
        // Past any of these moments but still alive (the rules allow for skewed clocks): look each second.
        if wake <= now { now + LOOK_AGAIN } else { wake }
    }
}

/// Requests in progress on one connection, and when the last one ended.
#[derive(Debug)]
struct Activity {
    start: Instant,
    running: AtomicUsize,
    last_ended_ms: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self { start: Instant::now(), running: AtomicUsize::new(0), last_ended_ms: AtomicU64::new(0) }
    }

    /// Now, if something is running.
    fn idle_since(&self) -> Instant {
        if self.running.load(Ordering::Relaxed) > 0 {
            return Instant::now();
        }
        self.start + Duration::from_millis(self.last_ended_ms.load(Ordering::Relaxed))
    }

    fn begin(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(Arc::clone(self))
    }
}

/// Held as long as a request is in progress.
struct Running(Arc<Activity>);

impl Drop for Running {
    fn drop(&mut self) {
        let ended = u64::try_from(self.0.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last_ended_ms.store(ended, Ordering::Relaxed);
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Puts the [`Connection`] into every request, and counts the request until its answer is sent.
#[derive(Clone)]
struct Attended<S> {
    service: S,
    connection: Connection,
    activity: Arc<Activity>,
}

impl<S, B> Service<Request<Incoming>> for Attended<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<AttendedBody<B>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let aside = Aside::default();
        let mut request = request.map(|body| RequestBody::new(body, aside.clone()));
        request.extensions_mut().insert(self.connection.clone());
        let running = self.activity.begin();
        let answer = self.service.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            Ok(answer.map(|body| AttendedBody { body: Box::pin(body), running, rest: Linger(aside) }))
        })
    }
}

/// A response body during which its connection is not idle.
struct AttendedBody<B> {
    body: Pin<Box<B>>,
    #[expect(dead_code, reason = "held for its drop")]
    running: Running,
    #[expect(dead_code, reason = "held for its drop, after the last frame")]
    rest: Linger,
}

impl<B: Body> Body for AttendedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.body.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Label and length of the channel binding (RFC 9266 section 2).
const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";
const EXPORTER_BYTES: usize = 32;
/// What hyper demands.
const HTTP1_BUFFER_BYTES_MIN: usize = 8 * 1024;
const PING_INTERVAL_MAX: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
