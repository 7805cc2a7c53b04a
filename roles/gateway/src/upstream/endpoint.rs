//! One address of an upstream: how to get there, how it fares, and what it may be given at one time.
//!
//! Everything that a request touches is an atomic of this one endpoint; nothing here is shared by all endpoints.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use countersign_request::Authority;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::cluster::Cluster;
use super::pool::Pool;
use super::settings::Breaker;

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Place {
    /// `host:port`; a host name is looked up by the system for each connection.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        port: u16,
    },
    /// A socket in the file system: whoever may write there may listen.
    Unix(PathBuf),
}

/// A place with what discovery says of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Found {
    pub(crate) place: Place,
    /// Its share of the requests, compared with its siblings.
    pub(crate) weight: NonZeroU32,
    /// The smaller comes first (RFC 2782); the others are for when none of it is usable.
    pub(crate) priority: u16,
}

/// Why a text is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Neither of the two forms.
    #[error("`{text}` is no endpoint; write host:port, [::1]:port or unix:/path")]
    Address {
        /// As written.
        text: String,
    },
    /// Not `weight=N`.
    #[error("`{text}` has no usable weight; write host:port weight=3, with a weight from 1 to {WEIGHT_MAX}")]
    Weight {
        /// As written.
        text: String,
    },
}

impl Found {
    /// `host:port`, `[::1]:port` or `unix:/path`, and a weight if there is one.
    pub(crate) fn parse(text: &str) -> Result<Self, EndpointError> {
        let mut words = text.split_ascii_whitespace();
        let place = Place::parse(words.next().unwrap_or_default())?;
        let weight = match (words.next(), words.next()) {
            (None, _) => NonZeroU32::MIN,
            (Some(word), None) => {
                let weight = word.strip_prefix("weight=").and_then(|number| number.parse().ok());
                weight
                    .filter(|weight: &NonZeroU32| weight.get() <= WEIGHT_MAX)
                    .ok_or_else(|| EndpointError::Weight { text: text.to_owned() })?
            }
            _ => return Err(EndpointError::Weight { text: text.to_owned() }),
        };
        Ok(Found { place, weight, priority: 0 })
    }
}

impl Place {
    pub(super) fn parse(text: &str) -> Result<Self, EndpointError> {
        let refused = || EndpointError::Address { text: text.to_owned() };
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(refused()) };
        }
        let authority = Authority::parse(text).map_err(|_| refused())?;
        let port = authority.port().filter(|port| *port != 0).ok_or_else(refused)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self::Tcp { host, port })
    }

    pub(super) fn of_address(address: IpAddr, port: u16) -> Self {
        Self::Tcp { host: address.to_string(), port }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One endpoint in use. It lives as long as requests hold it, whether discovery still names it or not.
pub(crate) struct Endpoint {
    /// Unique in this process: what per-core pools are keyed by.
    id: u32,
    place: Place,
    /// Asked only when something changes.
    cluster: Weak<Cluster>,
    active: AtomicU32,
    pending: AtomicU32,
    seats: Arc<Semaphore>,
    breaker: Breaker,
    gone: AtomicBool,
    /// Requests that ever began.
    begun: AtomicU64,
    pub(super) health: Health,
    /// Made with the first connection: endpoints that are never used cost little.
    pool: OnceLock<Box<Pool>>,
}

/// What is known of how an endpoint fares.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// By active checks; without any it is never set.
    pub(super) unwell: AtomicBool,
    /// By what happens to requests: left alone until this moment, in milliseconds of the cluster; 0 is not.
    pub(super) ejected_until: AtomicU64,
    /// Failures in a row.
    pub(super) failures: AtomicU32,
    /// Ejections in a row, which make the next one longer.
    pub(super) ejections: AtomicU32,
}

impl Endpoint {
    pub(super) fn new(place: Place, cluster: Weak<Cluster>, breaker: &Breaker) -> Arc<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let seats = usize::try_from(breaker.connections_max.get()).unwrap_or(Semaphore::MAX_PERMITS);
        Arc::new(Endpoint {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            place,
            cluster,
            active: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            seats: Arc::new(Semaphore::new(seats.min(Semaphore::MAX_PERMITS))),
            breaker: breaker.clone(),
            gone: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            health: Health::default(),
            pool: OnceLock::new(),
        })
    }

    /// Unique in this process, never used again.
    pub(crate) const fn id(&self) -> u32 {
        self.id
    }

    pub(crate) const fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn cluster(&self) -> Option<Arc<Cluster>> {
        self.cluster.upgrade()
    }

    /// Requests in progress.
    pub(crate) fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Discovery no longer names it: idle connections to it are to be closed.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub(super) fn retire(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Neither found unwell nor left alone.
    pub(crate) fn is_well(&self) -> bool {
        !self.health.unwell.load(Ordering::Relaxed) && self.health.ejected_until.load(Ordering::Relaxed) == 0
    }

    /// One more request, unless `requests_max` are in progress.
    pub(super) fn begin(&self) -> bool {
        // Counted first, so that two that come together do not both take the last place.
        if self.active.fetch_add(1, Ordering::Relaxed) >= self.breaker.requests_max.get() {
            self.active.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        self.begun.fetch_add(1, Ordering::Relaxed);
        true
    }

    pub(super) fn end(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// The right to one more connection, if there is one now.
    pub(crate) fn seat(&self) -> Option<Seat> {
        Arc::clone(&self.seats).try_acquire_owned().ok().map(Seat)
    }

    /// The same, once there is one.
    pub(super) async fn wait_for_seat(&self) -> Option<Seat> {
        Arc::clone(&self.seats).acquire_owned().await.ok().map(Seat)
    }

    /// A place among those that wait for a connection, unless `pending_max` wait already.
    pub(super) fn queue(&self) -> Option<Waiting<'_>> {
        let waiting = Waiting(&self.pending);
        let before = self.pending.fetch_add(1, Ordering::Relaxed);
        (before < self.breaker.pending_max).then_some(waiting)
    }

    /// Does somebody wait for a connection to be free?
    pub(crate) fn is_awaited(&self) -> bool {
        self.pending.load(Ordering::Relaxed) != 0
    }

    /// Its open connections.
    pub(super) fn pool(&self) -> &Pool {
        self.pool.get_or_init(Box::default)
    }

    /// The same, if it ever had one.
    pub(super) fn pool_if_used(&self) -> Option<&Pool> {
        self.pool.get().map(|pool| &**pool)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({} #{})", self.place, self.id)
    }
}

/// The right to one connection to an endpoint; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Seat(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// Somebody who waits for a connection.
pub(super) struct Waiting<'a>(&'a AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The largest weight: sums of ten thousand of them still fit.
const WEIGHT_MAX: u32 = 65_535;
