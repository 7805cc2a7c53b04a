//! When a connection must end: its peer is no longer believed, it is old, or nothing happens on it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use countersign_identity::UnixTime;
use tokio::{sync::watch, time::Instant};

use super::Limits;
use crate::{
    clock,
    live::Floor,
    tls::{Peer, TrustState},
};

/// By what a connection was admitted: its peer's certificate, or a floor that lets in who proves nothing.
#[derive(Clone, Debug, Default)]
pub struct Belief {
    peer: Option<(Arc<Peer>, Arc<TrustState>)>,
    /// Of a connection without TLS, where that depends on a floor.
    floor: Option<Floor>,
}

/// Why a connection may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Its peer is no longer believed: it ends within [`Limits::cut`].
    Peer,
    /// Nobody may come without proof any more: it ends within [`Limits::drain`].
    Floor,
}

impl Belief {
    pub(super) fn of_peer(peer: Option<Arc<Peer>>, trust: Arc<TrustState>) -> Self {
        Self { peer: peer.map(|peer| (peer, trust)), floor: None }
    }

    pub(super) const fn of_plain(floor: Option<Floor>) -> Self {
        Self { peer: None, floor }
    }

    /// Does it still hold? To be asked whenever trust or the snapshot changes, and when time may have ended it.
    ///
    /// # Errors
    /// See [`Doubt`].
    pub fn judge(&self, now: UnixTime) -> Result<(), Doubt> {
        if let Some((peer, _)) = &self.peer
            && let Err(error) = peer.workload(now)
        {
            tracing::info!(%error, "an open connection is cut: its peer is no longer believed");
            return Err(Doubt::Peer);
        }
        if self.floor.as_ref().is_some_and(|floor| !floor.serves_plain()) {
            return Err(Doubt::Floor);
        }
        Ok(())
    }

    /// Word of whatever may end it, besides time.
    pub(super) fn changes(&self) -> [Option<watch::Receiver<u64>>; 2] {
        let trust = self.peer.as_ref().map(|(_, trust)| trust.subscribe());
        [trust, self.floor.as_ref().map(Floor::changes)]
    }

    fn good_until(&self) -> Option<UnixTime> {
        self.peer.as_ref().and_then(|(peer, _)| peer.good_until())
    }
}

/// When a connection must end, and why.
pub(super) struct Life<'a> {
    limits: &'a Limits,
    activity: &'a Activity,
    belief: &'a Belief,
    born: Instant,
    pub(super) end: Option<Instant>,
    pub(super) told: bool,
}

impl<'a> Life<'a> {
    pub(super) fn new(limits: &'a Limits, activity: &'a Activity, belief: &'a Belief) -> Self {
        Self { limits, activity, belief, born: Instant::now(), end: None, told: false }
    }

    pub(super) fn end_within(&mut self, span: Duration) {
        let then = Instant::now() + span;
        self.end = Some(self.end.map_or(then, |end| end.min(then)));
    }

    /// Is the peer still believed, is there still something to do?
    pub(super) fn judge(&mut self) {
        match self.belief.judge(clock::now()) {
            Ok(()) => {}
            Err(Doubt::Peer) => self.end_within(self.limits.cut),
            Err(Doubt::Floor) => self.end_within(self.limits.drain),
        }
        let now = Instant::now();
        if now >= self.born + self.limits.connection_age
            || now >= self.activity.idle_since() + self.limits.idle
        {
            self.end_within(self.limits.drain);
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.end.is_some_and(|end| Instant::now() >= end)
    }

    /// When to look next.
    pub(super) fn wake(&self) -> Instant {
        if let Some(end) = self.end {
            return end;
        }
        let now = Instant::now();
        let mut wake = self.born + self.limits.connection_age;
        wake = wake.min(self.activity.idle_since() + self.limits.idle);
        if let Some(then) = self.belief.good_until() {
            wake = wake.min(now + clock::until(then));
        }
        // Past any of these moments but still alive (the rules allow for skewed clocks): look each second.
        if wake <= now { now + LOOK_AGAIN } else { wake }
    }
}

/// Requests in progress on one connection, and when the last one ended.
#[derive(Debug)]
pub(super) struct Activity {
    start: Instant,
    running: AtomicUsize,
    begun: AtomicU64,
    last_ended_ms: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            running: AtomicUsize::new(0),
            begun: AtomicU64::new(0),
            last_ended_ms: AtomicU64::new(0),
        }
    }

    /// Now, if something is running.
    fn idle_since(&self) -> Instant {
        if self.is_running() {
            return Instant::now();
        }
        self.start + Duration::from_millis(self.last_ended_ms.load(Ordering::Relaxed))
    }

    /// Is a request in progress?
    pub(super) fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed) > 0
    }

    /// How many requests have reached the service.
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    pub(super) fn begin(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        Running(Arc::clone(self))
    }
}

/// Held as long as a request is in progress.
pub(super) struct Running(Arc<Activity>);

impl Drop for Running {
    fn drop(&mut self) {
        let ended = u64::try_from(self.0.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last_ended_ms.store(ended, Ordering::Relaxed);
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

const LOOK_AGAIN: Duration = Duration::from_secs(1);
