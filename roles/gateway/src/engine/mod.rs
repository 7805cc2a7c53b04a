//! The engine: one thread for each core, each with a runtime, listening sockets and state of its own.
//!
//! The kernel spreads new connections over the workers (`SO_REUSEPORT`), and a connection stays where it was accepted.
//! So nothing on the path of a request is shared between cores: no queue that work is stolen from, no lock, no cache
//! line. What all must share (the number of connections, how many of them an address holds) is asked once for each
//! connection.
//!
//! A worker ends only when the connections of all of them have ended: an upstream connection belongs to the worker
//! that made it, and others may be using it.

mod h1;
mod listen;
pub(crate) mod quick;
mod watch;
mod wire;
mod worker;

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use countersign_http1::RequestHeadError;
use countersign_sdk::accept::{Connection, Limits, RequestBody, Serving, Transport};
use countersign_sdk::spool::Spool;
use http::{Request, Response};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use listen::{Sockets, bind};

use self::quick::Quick;
use self::worker::Worker;
use crate::forward::EdgeBody;
use crate::throttle::AddressCount;

/// Who answers what comes in at a port.
pub(crate) trait Answers: Send + Sync + 'static {
    /// Answers a request, whatever happens. It carries its [`Connection`] among its extensions.
    fn answer(&self, request: Request<RequestBody>) -> Answering;

    /// Answers, and records, what is no request that can be read in one way. The connection ends with it.
    fn refuse(&self, error: &RequestHeadError, connection: &Connection) -> Answering;

    /// Does whoever connects from there say first whose connection it is (PROXY protocol)?
    fn is_balancer(&self, _peer: IpAddr) -> bool {
        false
    }

    /// Who judges for the quick carrier, for one worker; `None` where everything goes the full way.
    fn quick(&self) -> Option<Rc<dyn Quick>> {
        None
    }
}

/// An answer that is being made.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Response<EdgeBody>> + Send>>;

/// One address that every worker serves.
pub(crate) struct Port {
    pub(crate) sockets: Sockets,
    pub(crate) transport: Transport,
    pub(crate) answers: Arc<dyn Answers>,
}

/// What all workers share.
#[derive(Clone)]
pub(crate) struct Shared {
    /// Where calls are recorded.
    pub(crate) spool: Arc<Spool>,
    /// What HTTP/1.x may cost.
    pub(crate) http1: countersign_http1::Limits,
    /// How many connections one address holds, on all ports.
    pub(crate) seats: Arc<AddressCount>,
    pub(crate) serving: Serving,
    /// Connections that are open.
    pub(crate) connections: TaskTracker,
    /// No connection is left: the runtimes may go.
    pub(crate) over: CancellationToken,
}

/// As many workers as settings say, or one for each core.
pub(crate) fn workers(setting: Option<NonZeroUsize>) -> NonZeroUsize {
    let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    setting.unwrap_or_else(cores).min(WORKERS_MAX)
}

/// Serves `ports` with `workers` threads until `shutdown`, then lets requests in progress finish.
///
/// Returns how many connections had to be cut because they did not finish in time.
pub(crate) async fn run(
    ports: Vec<Port>,
    workers: NonZeroUsize,
    limits: Limits,
    seats: Arc<AddressCount>,
    spool: Arc<Spool>,
    shutdown: CancellationToken,
) -> usize {
    let draining = shutdown.child_token();
    let serving = Serving { limits, draining: draining.clone(), cut: CancellationToken::new() };
    let over = CancellationToken::new();
    let http1 = http1_limits(&limits);
    let shared = Shared { spool, http1, seats, serving, connections: TaskTracker::new(), over: over.clone() };
    // Who drops this future ends the threads too.
    let _guards = [draining.clone().drop_guard(), shared.serving.cut.clone().drop_guard(), over.drop_guard()];
    let threads = worker::start(ports, workers, &shared);
    draining.cancelled().await;
    shared.connections.close();
    let late = drain(&shared, limits.drain).await;
    shared.over.cancel();
    for ended in threads {
        // A thread that panicked sends nothing, and has said so itself.
        let _ = ended.await;
    }
    late
}

async fn drain(shared: &Shared, within: Duration) -> usize {
    let drained = tokio::time::timeout(within, shared.connections.wait()).await.is_ok();
    let late = if drained { 0 } else { shared.connections.len() };
    shared.serving.cut.cancel();
    shared.connections.wait().await;
    late
}

fn http1_limits(limits: &Limits) -> countersign_http1::Limits {
    countersign_http1::Limits {
        head_bytes_max: usize::try_from(limits.header_bytes_max).unwrap_or(usize::MAX),
        header_count_max: limits.headers_max,
        ..countersign_http1::Limits::default()
    }
}

/// One place for each connection of a port; more wait in the kernel's queue.
fn places(limits: &Limits) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(limits.connections_max.clamp(1, Semaphore::MAX_PERMITS)))
}

const WORKERS_MAX: NonZeroUsize = match NonZeroUsize::new(256) {
    Some(most) => most,
    None => NonZeroUsize::MIN,
};
