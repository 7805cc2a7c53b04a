//! Open connections to one endpoint. An HTTP/1.1 connection carries one request at a time and waits for the next one on
//! the core that opened it; an HTTP/2 connection is shared by all requests of its core.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use countersign_sdk::clock;
use countersign_sdk::outbound::Cuttable;
use countersign_sdk::shard::Sharded;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::body::Watched;
use super::dial::{Dialed, Proof, Wire};
use super::endpoint::Endpoint;
use super::settings::AnswerHead;

/// The open connections of one endpoint.
#[derive(Default)]
pub(super) struct Pool {
    http1: Sharded<Vec<Idle>>,
    http2: Sharded<Option<Http2>>,
    /// Held while an HTTP/2 connection is made, so that a crowd of first requests makes one.
    pub(super) connecting: Mutex<()>,
    /// Tells those who wait that a connection came back.
    pub(super) returned: Notify,
}

/// A connection without a request.
struct Idle {
    line: Http1,
    since: Instant,
}

/// An HTTP/1.1 connection.
pub(super) struct Http1 {
    pub(super) send: http1::SendRequest<Watched>,
    /// Bytes that ever came in on it.
    pub(super) read: Arc<AtomicU64>,
    proof: Option<Proof>,
}

/// An HTTP/2 connection; cheap to clone.
#[derive(Clone)]
pub(super) struct Http2 {
    pub(super) send: http2::SendRequest<Watched>,
    proof: Option<Proof>,
}

impl Pool {
    /// An idle HTTP/1.1 connection that may still be used, of this core.
    pub(super) fn take_http1(&self, idle_max: Duration) -> Option<Http1> {
        self.http1.with(|idle| pop_usable(idle, idle_max))
    }

    /// The same, of whatever core.
    pub(super) fn take_http1_anywhere(&self, idle_max: Duration) -> Option<Http1> {
        self.http1.find(|idle| pop_usable(idle, idle_max))
    }

    /// The HTTP/2 connection of this core, if it may still be used.
    pub(super) fn http2(&self) -> Option<Http2> {
        self.http2.with(|open| {
            let usable = |line: &Http2| !line.send.is_closed() && still_holds(line.proof.as_ref());
            *open = open.take().filter(usable);
            open.clone()
        })
    }

    pub(super) fn keep_http2(&self, line: Http2) {
        self.http2.with(|open| *open = Some(line));
    }

    /// Never again; what runs on it may finish.
    pub(super) fn forget_http2(&self) {
        self.http2.with(|open| *open = None);
    }

    /// Closes what waits for too long, or for nothing: `gone` closes all.
    pub(super) fn prune(&self, idle_max: Duration, gone: bool) {
        let mut close = |idle: &mut Vec<Idle>| {
            idle.retain(|idle| !gone && idle.is_usable(idle_max));
            None::<()>
        };
        let _: Option<()> = self.http1.find(&mut close);
        if gone {
            let _: Option<()> = self.http2.find(|open| {
                *open = None;
                None
            });
        }
    }
}

fn pop_usable(idle: &mut Vec<Idle>, idle_max: Duration) -> Option<Http1> {
    // The newest first: it is the least likely to have been closed at the other end.
    while let Some(newest) = idle.pop() {
        if newest.is_usable(idle_max) {
            return Some(newest.line);
        }
    }
    None
}

impl Idle {
    fn is_usable(&self, idle_max: Duration) -> bool {
        self.line.send.is_ready() && self.since.elapsed() < idle_max && still_holds(self.line.proof.as_ref())
    }
}

fn still_holds(proof: Option<&Proof>) -> bool {
    proof.is_none_or(|proof| proof.still_holds(clock::now()))
}

impl Http1 {
    /// Begins HTTP/1.1 on a new connection.
    pub(super) async fn open(dialed: Dialed, head: &AnswerHead) -> hyper::Result<Self> {
        let Dialed { wire, proof, seat } = dialed;
        let read = Arc::new(AtomicU64::new(0));
        let io = TokioIo::new(Counted { wire, read: Arc::clone(&read) });
        let mut builder = http1::Builder::new();
        // What is read ahead of an answer, and so the longest head of one.
        builder.max_buf_size(head.bytes_max());
        if *head != AnswerHead::default() {
            // Said only where it is another number: whatever is said costs an allocation for each answer.
            builder.max_headers(head.headers_max());
        }
        let (send, connection) = builder.handshake(io).await?;
        let watched = proof.clone();
        tokio::spawn(async move {
            tokio::select! {
                ended = connection.with_upgrades() => tell_end(ended),
                () = Proof::lost(watched) => tell_cut(),
            }
            drop(seat);
        });
        Ok(Http1 { send, read, proof })
    }

    /// Waits for the next request, unless its endpoint is gone.
    pub(super) fn give_back(mut self, endpoint: &Arc<Endpoint>) {
        if endpoint.is_gone() || self.send.is_closed() {
            return;
        }
        if self.send.is_ready() {
            return self.keep(endpoint);
        }
        // Its task has not noticed the end of the answer yet, or the request is still on its way out.
        let endpoint = Arc::clone(endpoint);
        tokio::spawn(async move {
            if let Ok(Ok(())) = tokio::time::timeout(SETTLE_MAX, self.send.ready()).await {
                self.keep(&endpoint);
            }
        });
    }

    fn keep(self, endpoint: &Endpoint) {
        let pool = endpoint.pool();
        pool.http1.with(|idle| idle.push(Idle { line: self, since: Instant::now() }));
        if endpoint.is_awaited() {
            pool.returned.notify_waiters();
        }
    }
}

impl Http2 {
    /// Begins HTTP/2 on a new connection.
    pub(super) async fn open(dialed: Dialed, head: &AnswerHead) -> hyper::Result<Self> {
        let Dialed { wire, proof, seat } = dialed;
        let cut = CancellationToken::new();
        let (send, connection) = http2::Builder::new(Cuttable(cut.clone()))
            .timer(TokioTimer::new())
            .max_header_list_size(head.bytes_max)
            .keep_alive_interval(Some(PING_INTERVAL))
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(wire))
            .await?;
        let watched = proof.clone();
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => tell_end(ended),
                () = Proof::lost(watched) => {
                    tell_cut();
                    cut.cancel();
                }
            }
            drop(seat);
        });
        Ok(Http2 { send, proof })
    }
}

fn tell_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to an upstream ended with an error");
    }
}

fn tell_cut() {
    tracing::info!("a connection to an upstream is cut: its peer is no longer believed");
}

/// Counts what comes in: whether an answer has begun decides whether a request may be repeated.
struct Counted {
    wire: Wire,
    read: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.wire).poll_read(cx, buf);
        let count = buf.filled().len().saturating_sub(before);
        self.read.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}

const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that is not ready for the next request by then is closed.
const SETTLE_MAX: Duration = Duration::from_secs(5);
