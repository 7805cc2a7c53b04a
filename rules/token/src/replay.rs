//! Single use: remembers each proof until it expires, and so accepts it once.
//!
//! A pure state machine over what the caller saw; it reads no clock and takes no lock. Keep several behind a lock each and
//! send every proof to the one that [`shard_of`] names, so that one caller's proofs always meet.
//!
//! **What it promises.** Within this process no proof is accepted twice, whatever the clock does. A proof that names the TLS
//! connection it travels on dies with that connection. One that does not could have been accepted by the process before this
//! one, or by another replica: the former is refused by its time of issue (below), the latter is what "per instance" means.
//!
//! **After a start.** A clock that runs ahead issues proofs dated ahead, so "issued before we started" is not `iat < start`.
//! Without a channel a proof may be dated at most [`UNBOUND_AHEAD_MAX`] ahead of our clock. Then whatever the process before
//! us accepted is dated earlier than its end plus that span, and refusing what is dated earlier than our start plus the same
//! span refuses all of it. The price: proofs without a channel are refused for so long after a start, and for as long as their
//! issuer's clock runs ahead by more. [`CLOCK_SKEW`](countersign_identity::CLOCK_SKEW) would be a whole minute of it.
//!
//! **Full is full.** A live entry is never dropped to make room: whoever fills its quota is refused until its own proofs
//! expire, and fills nobody else's.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use countersign_identity::UnixTime;
use countersign_keys::Sha256;

/// What a verified proof says about itself. Ask only after its signature and its audience were checked, so that strangers
/// fill nothing.
#[derive(Clone, Copy, Debug)]
pub struct Sighting<'a> {
    /// Whose proof it is, as verified: a SPIFFE ID, or the thumbprint of a key. It owns the quota.
    pub issuer: &'a str,
    /// What makes the proof unique among its issuer's: `jti`, `nonce`, or a hash of its signature.
    pub jti: &'a str,
    /// When it was issued, by its issuer's clock.
    pub issued_at: UnixTime,
    /// From when on its verifier refuses it.
    pub expires: UnixTime,
    /// Whether it names the TLS connection on which it came, and that was checked.
    pub channel_bound: bool,
}

/// Every proof that was accepted and could still be presented.
#[derive(Debug)]
pub struct ReplayCache {
    limits: ReplayLimits,
    started: UnixTime,
    /// The latest moment it was ever told. Time goes forward here even when a clock steps back.
    latest: UnixTime,
    seen: HashSet<Key>,
    per_issuer: HashMap<Arc<str>, usize>,
    /// What expires in which second, the first being `first_second`.
    buckets: VecDeque<Vec<(Key, Arc<str>)>>,
    first_second: i64,
}

/// How much is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayLimits {
    /// Live proofs of one issuer.
    pub per_issuer: usize,
    /// Live proofs altogether; each takes about 100 bytes.
    pub total: usize,
}

impl Default for ReplayLimits {
    fn default() -> Self {
        Self { per_issuer: 100_000, total: 400_000 }
    }
}

impl ReplayCache {
    /// Nothing seen yet, in a process that started at `started`.
    #[must_use]
    pub fn new(started: UnixTime, limits: ReplayLimits) -> Self {
        Self {
            limits,
            started,
            latest: started,
            seen: HashSet::new(),
            per_issuer: HashMap::new(),
            buckets: VecDeque::new(),
            first_second: started.secs(),
        }
    }

    /// Accepts a proof for the first and only time. Amortised, it takes the same time however many are remembered.
    ///
    /// # Errors
    /// See [`ReplayError`]; whatever is refused leaves no trace.
    pub fn admit(&mut self, proof: &Sighting<'_>, now: UnixTime) -> Result<(), ReplayError> {
        self.advance(now);
        self.judge_times(proof, now)?;
        let key = key_of(proof);
        if self.seen.contains(&key) {
            return Err(ReplayError::Replayed);
        }
        let live = self.per_issuer.get(proof.issuer).copied().unwrap_or(0);
        if live >= self.limits.per_issuer {
            return Err(ReplayError::IssuerQuota { live });
        }
        if self.seen.len() >= self.limits.total {
            return Err(ReplayError::Full { live: self.seen.len() });
        }
        self.remember(key, proof);
        Ok(())
    }

    /// How many proofs are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    fn judge_times(&self, proof: &Sighting<'_>, now: UnixTime) -> Result<(), ReplayError> {
        // Judged by the latest moment, not by `now`: what was forgotten must stay refused when a clock steps back.
        if proof.expires <= self.latest {
            return Err(ReplayError::Expired { by_seconds: self.latest.since(proof.expires).as_secs() });
        }
        let life = proof.expires.since(self.latest);
        if life > REPLAY_WINDOW_MAX {
            return Err(ReplayError::LivesTooLong { seconds: life.as_secs() });
        }
        if proof.channel_bound {
            return Ok(());
        }
        if proof.issued_at > now.saturating_add(UNBOUND_AHEAD_MAX) {
            return Err(ReplayError::DatedAhead { by_seconds: proof.issued_at.since(now).as_secs() });
        }
        let known_from = self.started.saturating_add(UNBOUND_AHEAD_MAX);
        if proof.issued_at < known_from {
            return Err(ReplayError::IssuedBeforeStart {
                by_seconds: known_from.since(proof.issued_at).as_secs(),
            });
        }
        Ok(())
    }

    /// Forgets what has expired.
    fn advance(&mut self, now: UnixTime) {
        self.latest = self.latest.max(now);
        let second = self.latest.secs();
        while self.first_second <= second {
            let Some(bucket) = self.buckets.pop_front() else {
                self.first_second = second.saturating_add(1);
                return;
            };
            self.first_second = self.first_second.saturating_add(1);
            for (key, issuer) in bucket {
                self.seen.remove(&key);
                if let Some(live) = self.per_issuer.get_mut(&issuer) {
                    *live -= 1;
                    if *live == 0 {
                        self.per_issuer.remove(&issuer);
                    }
                }
            }
        }
    }

    fn remember(&mut self, key: Key, proof: &Sighting<'_>) {
        // Rounded up: a bucket goes when its second has come, and nothing in it may outlive it.
        let second = proof.expires.millis().div_euclid(1000) + i64::from(proof.expires.millis() % 1000 != 0);
        let place = usize::try_from(second.saturating_sub(self.first_second)).unwrap_or(0);
        if self.buckets.len() <= place {
            self.buckets.resize_with(place + 1, Vec::new);
        }
        let issuer = match self.per_issuer.get_key_value(proof.issuer) {
            Some((issuer, _)) => issuer.clone(),
            None => Arc::from(proof.issuer),
        };
        if let Some(bucket) = self.buckets.get_mut(place) {
            bucket.push((key, issuer.clone()));
            self.seen.insert(key);
            *self.per_issuer.entry(issuer).or_insert(0) += 1;
        }
    }
}

/// Which of `shards` caches keeps the proofs of this issuer.
#[must_use]
pub fn shard_of(issuer: &str, shards: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    issuer.hash(&mut hasher);
    let shards = u64::try_from(shards.max(1)).unwrap_or(1);
    usize::try_from(hasher.finish() % shards).unwrap_or(0)
}

/// Half a SHA-256 is enough: whoever finds two proofs with the same key has only used up its own second one.
type Key = [u8; 16];

fn key_of(proof: &Sighting<'_>) -> Key {
    let mut hash = Sha256::new();
    // The length keeps issuer and jti from being shifted into each other.
    hash.update(&u64::try_from(proof.issuer.len()).unwrap_or(u64::MAX).to_be_bytes());
    hash.update(proof.issuer.as_bytes());
    hash.update(proof.jti.as_bytes());
    let [key, _] = halves(hash.finish());
    key
}

fn halves(hash: [u8; 32]) -> [Key; 2] {
    let (first, second) = hash.split_at(16);
    [first.try_into().unwrap_or_default(), second.try_into().unwrap_or_default()]
}

/// Why a proof that verifies is refused all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// It was accepted before.
    #[error("this proof was used before; make a new one for each request")]
    Replayed,
    /// It names no connection, and the process before this one may have accepted it.
    #[error(
        "the proof was issued {by_seconds} s before this process can know that it is new; make a new one and try again"
    )]
    IssuedBeforeStart {
        /// How much too early.
        by_seconds: u64,
    },
    /// It names no connection, and its time of issue lies ahead.
    #[error(
        "the proof was issued {by_seconds} s ahead of this machine's clock, more than {}; compare the clocks of the machines",
        UNBOUND_AHEAD_MAX.as_secs()
    )]
    DatedAhead {
        /// How far ahead.
        by_seconds: u64,
    },
    /// It has expired by the latest time that this process saw, even if a clock has stepped back since.
    #[error("the proof expired {by_seconds} s ago; make a new one for each request")]
    Expired {
        /// How long ago.
        by_seconds: u64,
    },
    /// It would have to be remembered for longer than [`REPLAY_WINDOW_MAX`].
    #[error("the proof is good for another {seconds} s, more than {}; give it a shorter life", REPLAY_WINDOW_MAX.as_secs())]
    LivesTooLong {
        /// How long.
        seconds: u64,
    },
    /// Its issuer has as many live proofs as one may have.
    #[error("{live} proofs of this issuer are live, which is its quota; send less, or shorten their life")]
    IssuerQuota {
        /// How many.
        live: usize,
    },
    /// As many proofs are live as are remembered.
    #[error("{live} proofs are live, which is all that is remembered; none is forgotten to make room")]
    Full {
        /// How many.
        live: usize,
    },
}

/// How long a proof can be remembered: longer than any single-use proof may live, clocks that differ included.
pub const REPLAY_WINDOW_MAX: Duration = Duration::from_secs(600);
/// How far ahead of our clock a proof without a channel may be dated, and so for how long after a start none is accepted.
pub const UNBOUND_AHEAD_MAX: Duration = Duration::from_secs(5);
