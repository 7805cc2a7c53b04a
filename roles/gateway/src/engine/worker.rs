//! One worker: a thread, its runtime, its sockets, and the connections that it accepted.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use countersign_sdk::accept::{Origin, RequestBody, Transport, admit, drive};
use http::{Request, Response};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::listen::{Listener, Seated, Socket};
use super::quick::{Entropy, Journal, Pools, Quick};
use super::watch::{TICK, Watch};
use super::wire::Scratch;
use super::{Answering, Answers, Port, Shared, h1, places};
use crate::forward::EdgeBody;
use crate::guard::proxy_header::read_proxy_header;
use crate::throttle::Seat;

/// Starts the threads. Each answers when it has ended.
pub(super) fn start(ports: Vec<Port>, workers: NonZeroUsize, shared: &Shared) -> Vec<oneshot::Receiver<()>> {
    let mut shares: Vec<Vec<Share>> = (0..workers.get()).map(|_| Vec::new()).collect();
    for port in ports {
        let places = places(&shared.serving.limits);
        let sockets = match port.sockets.split(workers.get()) {
            Ok(sockets) => sockets,
            Err(error) => {
                tracing::error!(%error, "a listener cannot be shared by the workers");
                continue;
            }
        };
        for (share, socket) in shares.iter_mut().zip(sockets) {
            share.push(Share {
                socket,
                transport: port.transport.clone(),
                answers: Arc::clone(&port.answers),
                places: Arc::clone(&places),
            });
        }
    }
    shares.into_iter().enumerate().filter_map(|(number, share)| spawn(number, share, shared)).collect()
}

/// What one worker has of a port.
struct Share {
    socket: Socket,
    transport: Transport,
    answers: Arc<dyn Answers>,
    places: Arc<Semaphore>,
}

fn spawn(number: usize, shares: Vec<Share>, shared: &Shared) -> Option<oneshot::Receiver<()>> {
    let (ended, end) = oneshot::channel();
    let shared = shared.clone();
    let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        if let Err(error) = work(shares, shared) {
            tracing::error!(%error, number, "a worker could not start");
        }
        // Nobody waits any more if the gateway was dropped.
        let _ = ended.send(());
    });
    match thread {
        Ok(_) => Some(end),
        Err(error) => {
            tracing::error!(%error, number, "the thread of a worker could not start");
            None
        }
    }
}

fn work(shares: Vec<Share>, shared: Shared) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let worker = Rc::new(Worker {
            watch: Watch::new(),
            scratch: Scratch::default(),
            entropy: Entropy::default(),
            journal: Journal::new(shared.spool.ring()),
            pools: Pools::default(),
            shared,
        });
        tokio::task::spawn_local(keep_house(Rc::clone(&worker)));
        tokio::task::spawn_local(Rc::clone(&worker.watch).run(worker.shared.serving.clone()));
        for share in shares {
            let listener = share.socket.into_listener()?;
            let door = Rc::new(Door {
                transport: share.transport,
                quick: share.answers.quick(),
                answers: share.answers,
                places: share.places,
            });
            tokio::task::spawn_local(accept_all(Rc::clone(&worker), listener, door));
        }
        worker.shared.over.cancelled().await;
        Ok(())
    })
}

/// What the connections of one worker share.
pub(super) struct Worker {
    pub(super) shared: Shared,
    pub(super) watch: Rc<Watch>,
    pub(super) scratch: Scratch,
    pub(super) entropy: Entropy,
    pub(super) journal: Journal,
    pub(super) pools: Pools,
}

/// Tells the metrics what was counted, and closes what nobody uses.
async fn keep_house(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        worker.journal.measure();
        worker.pools.prune();
    }
}

/// One port, as one worker serves it.
pub(super) struct Door {
    transport: Transport,
    pub(super) answers: Arc<dyn Answers>,
    pub(super) quick: Option<Rc<dyn Quick>>,
    places: Arc<Semaphore>,
}

/// Accepts until the gateway drains.
async fn accept_all(worker: Rc<Worker>, listener: Listener, door: Rc<Door>) {
    let draining = worker.shared.serving.draining.clone();
    loop {
        let accepted = tokio::select! {
            () = draining.cancelled() => return,
            accepted = next(&worker, &listener, &door) => accepted,
        };
        let Some((io, origin, place)) = accepted else { continue };
        let (worker, door) = (Rc::clone(&worker), Rc::clone(&door));
        let connections = worker.shared.connections.clone();
        tokio::task::spawn_local(connections.track_future(async move {
            serve(&worker, &door, io, origin).await;
            drop(place);
        }));
    }
}

/// The next connection that may be served. One past the limit waits here, the others in the kernel's queue, which is
/// bounded.
async fn next(
    worker: &Worker,
    listener: &Listener,
    door: &Door,
) -> Option<(Seated, Origin, OwnedSemaphorePermit)> {
    let (bytes, origin) = match listener.accept().await {
        Ok(accepted) => accepted,
        Err(error) => {
            // Out of file descriptors, or a peer that was gone already: neither ends the listener.
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            return None;
        }
    };
    let seat = match origin {
        // It holds connections of many, and says whose each is before anything else.
        Origin::Tcp(peer) if door.answers.is_balancer(peer.ip()) => None,
        Origin::Tcp(peer) => Some(seat(worker, peer.ip())?),
        Origin::Unix(_) => None,
    };
    let place = Arc::clone(&door.places).acquire_owned().await.ok()?;
    Some((Seated { bytes, _seat: seat }, origin, place))
}

/// A seat for this address, if it may have one more.
fn seat(worker: &Worker, address: IpAddr) -> Option<Seat> {
    let seat = worker.shared.seats.enter(address);
    if seat.is_none() {
        tracing::debug!(peer = %address, "connection closed: too many from one address");
        metrics::counter!("countersign_connections_refused_total", "reason" => "per_address").increment(1);
    }
    seat
}

/// The connection with the address of whom it belongs to, by the word of a listed balancer.
async fn introduced(
    worker: &Worker,
    door: &Door,
    mut io: Seated,
    origin: Origin,
) -> Option<(Seated, Origin)> {
    let Origin::Tcp(peer) = origin else { return Some((io, origin)) };
    if !door.answers.is_balancer(peer.ip()) {
        return Some((io, origin));
    }
    let limit = worker.shared.serving.limits.handshake;
    let why = match tokio::time::timeout(limit, read_proxy_header(&mut io)).await {
        Ok(Ok(Some(source))) => {
            io._seat = Some(seat(worker, source.ip())?);
            return Some((io, Origin::Tcp(source)));
        }
        Ok(Ok(None)) => return Some((io, origin)),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the balancer did not say in time whose connection it is".to_owned(),
    };
    tracing::warn!(%peer, why, "connection of a balancer closed");
    metrics::counter!("countersign_connections_refused_total", "reason" => "proxy_header").increment(1);
    None
}

async fn serve(worker: &Rc<Worker>, door: &Door, io: Seated, origin: Origin) {
    let serving = &worker.shared.serving;
    let Some((io, origin)) = introduced(worker, door, io, origin).await else { return };
    let admitted = admit(io, origin, &door.transport, &serving.limits, &serving.draining).await;
    let Some(admitted) = admitted else { return };
    if admitted.http2 == Some(true) {
        return drive(admitted, Bytes::new(), ByHyper(Arc::clone(&door.answers)), serving).await;
    }
    if let Some((admitted, read)) = h1::serve(worker, door, admitted, worker.shared.http1).await {
        drive(admitted, read.freeze(), ByHyper(Arc::clone(&door.answers)), serving).await;
    }
}

/// Who answers, in the form in which hyper asks.
#[derive(Clone)]
struct ByHyper(Arc<dyn Answers>);

impl tower::Service<Request<RequestBody>> for ByHyper {
    type Response = Response<EdgeBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<EdgeBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let answering: Answering = self.0.answer(request);
        Box::pin(async move { Ok(answering.await) })
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
