//! Open connections to upstreams: each worker has its own, and takes the one that was used last.

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use countersign_identity::UnixTime;
use tokio::io::AsyncRead as _;
use tokio::time::Instant;

use crate::engine::wire::{Outbox, Scratch, Wire, give_back};
use crate::sidecar::SocketId;
use crate::upstream::{Dialed, Endpoint, Proof, Seat, Wire as Bytes};

/// One connection on which no request is in progress, or the one that is.
pub(crate) struct Line {
    pub(crate) wire: Wire<Bytes>,
    pub(crate) input: BytesMut,
    pub(crate) out: Outbox,
    /// Shared with whoever watches the connection that the answer goes to.
    proof: Option<Rc<Proof>>,
    #[expect(dead_code, reason = "held for its drop")]
    seat: Option<Seat>,
    idle_since: Instant,
    /// Was it used before? Then its other end may have closed it meanwhile.
    pub(crate) is_pooled: bool,
}

/// The idle connections of one worker, by endpoint.
#[derive(Default)]
pub(crate) struct Pools(RefCell<HashMap<PoolKey, Idle>>);

/// Whom connections lead to, and whose requests they carry.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PoolKey {
    Endpoint(u32),
    /// The one service behind, at this socket, for one caller.
    App(SocketId, [u8; 16]),
}

/// Those of one key.
struct Idle {
    /// Of an upstream.
    endpoint: Option<Arc<Endpoint>>,
    /// How long each may wait.
    limit: Duration,
    lines: Vec<Line>,
}

impl Line {
    /// To an endpoint of an upstream.
    pub(super) fn of_upstream(dialed: Dialed, scratch: Scratch) -> Self {
        Self::over(dialed.wire, dialed.proof, dialed.seat, scratch)
    }

    /// To the service behind a sidecar.
    pub(super) fn of_app(bytes: Bytes, scratch: Scratch) -> Self {
        Self::over(bytes, None, None, scratch)
    }

    fn over(bytes: Bytes, proof: Option<Proof>, seat: Option<Seat>, scratch: Scratch) -> Self {
        Self {
            wire: Wire::new(bytes, scratch),
            input: BytesMut::new(),
            out: Outbox::default(),
            proof: proof.map(Rc::new),
            seat,
            idle_since: Instant::now(),
            is_pooled: false,
        }
    }

    /// Who is at the other end, if that was proven.
    pub(crate) fn proof(&self) -> Option<&Rc<Proof>> {
        self.proof.as_ref()
    }

    /// Nothing came while it waited, its ends are who they were, and it did not wait for too long.
    fn is_usable(&mut self, now: UnixTime, idle: Duration) -> bool {
        self.input.is_empty()
            && self.idle_since.elapsed() < idle
            && self.proof.as_ref().is_none_or(|proof| proof.still_holds(now))
            && self.wire.with(is_silent)
    }
}

impl Pools {
    /// The connection that was used last, if it can still be used.
    pub(crate) fn take(&self, key: PoolKey, now: UnixTime, idle: Duration) -> Option<Line> {
        let mut pools = self.0.borrow_mut();
        let lines = &mut pools.get_mut(&key)?.lines;
        while let Some(mut line) = lines.pop() {
            if line.is_usable(now, idle) {
                line.is_pooled = true;
                return Some(line);
            }
        }
        None
    }

    /// Keeps a connection for the next request, for at most `limit`.
    pub(crate) fn keep(
        &self,
        key: PoolKey,
        endpoint: Option<&Arc<Endpoint>>,
        limit: Duration,
        mut line: Line,
    ) {
        if !is_worth_keeping(endpoint) {
            return;
        }
        line.idle_since = Instant::now();
        give_back(&mut line.input, LINE_BYTES_KEPT);
        let mut pools = self.0.borrow_mut();
        let new = || Idle { endpoint: endpoint.cloned(), limit, lines: Vec::new() };
        let idle = pools.entry(key).or_insert_with(new);
        if idle.lines.len() < IDLE_LINES_MAX {
            idle.lines.push(line);
        }
    }

    /// Closes all that wait for this one.
    pub(crate) fn forget(&self, key: PoolKey) {
        self.0.borrow_mut().remove(&key);
    }

    /// Closes connections that nobody used for too long, and forgets endpoints without any.
    pub(crate) fn prune(&self) {
        self.0.borrow_mut().retain(|_, idle| {
            let keep = is_worth_keeping(idle.endpoint.as_ref());
            idle.lines.retain(|line| keep && line.idle_since.elapsed() < idle.limit);
            !idle.lines.is_empty()
        });
    }
}

/// Not when its endpoint is gone, and not when somebody else waits for the right to make one.
fn is_worth_keeping(endpoint: Option<&Arc<Endpoint>>) -> bool {
    endpoint.is_none_or(|endpoint| !endpoint.is_gone() && !endpoint.is_awaited())
}

/// A look without a system call: whoever closed the connection, or spoke unasked, made it readable.
fn is_silent(bytes: &mut Bytes) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    match bytes {
        Bytes::Tcp(stream) => stream.poll_read_ready(&mut cx).is_pending(),
        Bytes::Unix(stream) => stream.poll_read_ready(&mut cx).is_pending(),
        // TLS has messages of its own that are no answers: reading takes them in.
        Bytes::Tls(stream) => {
            let mut byte = [0];
            let mut read = tokio::io::ReadBuf::new(&mut byte);
            if stream.get_ref().0.poll_read_ready(&mut cx).is_pending() {
                return true;
            }
            matches!(Pin::new(&mut **stream).poll_read(&mut cx, &mut read), Poll::Pending)
        }
    }
}

/// What a connection that waits keeps to read into.
const LINE_BYTES_KEPT: usize = 32 * 1024;
/// For each endpoint and worker.
const IDLE_LINES_MAX: usize = 256;
