//! How many per second: one bucket for each key, and never more keys than stated.
//!
//! The buckets are governor's (GCRA); the clock and the table are ours. Time is an argument and
//! only moves forward, so a clock that steps back revives nothing. A full table refuses new keys
//! and never forgets one that still counts: forgetting would hand out a fresh bucket.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use countersign_identity::UnixTime;
use governor::{
    RateLimiter, clock::Clock, middleware::StateInformationMiddleware, nanos::Nanos, state::StateStore,
};
use thiserror::Error;

const SHARDS: usize = 16;
/// Deepest bucket: its depth in nanoseconds has to fit into 64 bits.
const BURST_MAX: NonZeroU32 = match NonZeroU32::new(1_000_000) {
    Some(burst) => burst,
    None => NonZeroU32::MIN,
};

/// A bucket for each key: so many per second or minute, and some at once.
pub struct Quota<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, Buckets<K>, GivenTime, StateInformationMiddleware>,
    buckets: Buckets<K>,
    time: GivenTime,
}

/// Why a request is over its quota.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QuotaError {
    /// The bucket of this key is empty.
    #[error("quota is used up: try again in {} s", retry_after.as_secs_f32().ceil())]
    Exceeded {
        /// How long until it may try again.
        retry_after: Duration,
    },
    /// There is no room for another key.
    #[error("quota table is full: try again in {} s", retry_after.as_secs_f32().ceil())]
    Full {
        /// When the first of the keys may have been forgotten.
        retry_after: Duration,
    },
}

impl QuotaError {
    /// How long to wait, as in `Retry-After`.
    #[must_use]
    pub const fn retry_after(&self) -> Duration {
        match self {
            Self::Exceeded { retry_after } | Self::Full { retry_after } => *retry_after,
        }
    }
}

impl<K: Hash + Eq + Clone> Quota<K> {
    /// So many per second, `burst` of them at once, for at most `keys_max` keys at the same time.
    #[must_use]
    pub fn per_second(count: NonZeroU32, burst: NonZeroU32, keys_max: usize) -> Self {
        Self::new(governor::Quota::per_second(count), burst, keys_max)
    }

    /// So many per minute, `burst` of them at once, for at most `keys_max` keys at the same time.
    #[must_use]
    pub fn per_minute(count: NonZeroU32, burst: NonZeroU32, keys_max: usize) -> Self {
        Self::new(governor::Quota::per_minute(count), burst, keys_max)
    }

    /// One more after each `every`, `burst` at once, for at most `keys_max` keys at the same time. Nothing, if there
    /// would be more than one in a nanosecond.
    #[must_use]
    pub fn one_every(every: Duration, burst: NonZeroU32, keys_max: usize) -> Option<Self> {
        governor::Quota::with_period(every).map(|rate| Self::new(rate, burst, keys_max))
    }

    fn new(rate: governor::Quota, burst: NonZeroU32, keys_max: usize) -> Self {
        let buckets = Buckets::new(keys_max);
        let time = GivenTime::default();
        let rate = rate.allow_burst(burst.min(BURST_MAX));
        let limiter = RateLimiter::new(rate, buckets.clone(), time.clone());
        Self { limiter, buckets, time }
    }

    /// Takes one from the bucket of `key`.
    ///
    /// # Errors
    /// The bucket is empty, or there is no room for another key.
    pub fn check(&self, key: &K, now: UnixTime) -> Result<(), QuotaError> {
        self.take(key, now).map(drop)
    }

    /// Takes one from the bucket of `key`, and says how many are left in it.
    ///
    /// # Errors
    /// As of [`Quota::check`].
    pub fn take(&self, key: &K, now: UnixTime) -> Result<u32, QuotaError> {
        let now = self.time.advance(now);
        if !self.buckets.reserve(key, now) {
            return Err(QuotaError::Full { retry_after: SWEEP_EVERY });
        }
        self.limiter
            .check_key(key)
            .map(|state| state.remaining_burst_capacity())
            .map_err(|not_until| QuotaError::Exceeded { retry_after: not_until.wait_time_from(now) })
    }

    /// Takes several at once from the bucket of `key`, or none.
    ///
    /// # Errors
    /// There are not so many in it, or never will be; or there is no room for another key.
    pub fn check_many(&self, key: &K, count: NonZeroU32, now: UnixTime) -> Result<(), QuotaError> {
        let now = self.time.advance(now);
        if !self.buckets.reserve(key, now) {
            return Err(QuotaError::Full { retry_after: SWEEP_EVERY });
        }
        match self.limiter.check_key_n(key, count) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(not_until)) => Err(QuotaError::Exceeded { retry_after: not_until.wait_time_from(now) }),
            Err(_) => Err(QuotaError::Exceeded { retry_after: Duration::MAX }),
        }
    }

    /// How many keys are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buckets.0.len.load(Ordering::Relaxed)
    }

    /// Whether no key is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The address that a quota counts by: an IPv6 network of 64 bits, since one subscriber has that
/// many addresses, and an IPv4 address as itself, also when it is written as IPv6.
#[must_use]
pub fn address_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

/// The latest time that anybody told, in nanoseconds since 1970.
#[derive(Clone, Default, Debug)]
struct GivenTime(Arc<AtomicU64>);

impl GivenTime {
    fn advance(&self, now: UnixTime) -> Nanos {
        let told = u64::try_from(now.millis()).unwrap_or(0).saturating_mul(1_000_000);
        // Far enough from the end that adding a bucket's depth cannot overflow.
        let told = told.min(u64::MAX / 2);
        Nanos::new(self.0.fetch_max(told, Ordering::Relaxed).max(told))
    }
}

impl Clock for GivenTime {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.0.load(Ordering::Relaxed))
    }
}

/// When the table is full, buckets that are full again are forgotten at most this often.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The state of a key that is about to be checked for the first time. To governor it is a bucket
/// that was full in 1970; a sweep leaves it alone.
const RESERVED: Nanos = Nanos::new(0);

/// The state of each key, in shards so that cores rarely wait for each other.
struct Buckets<K>(Arc<Table<K>>);

struct Table<K> {
    shards: [Mutex<HashMap<K, Nanos>>; SHARDS],
    hasher: RandomState,
    len: AtomicUsize,
    keys_max: usize,
    swept: AtomicU64,
}

impl<K> Clone for Buckets<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn new(keys_max: usize) -> Self {
        Self(Arc::new(Table {
            shards: std::array::from_fn(|_| Mutex::new(HashMap::new())),
            hasher: RandomState::new(),
            len: AtomicUsize::new(0),
            keys_max,
            swept: AtomicU64::new(0),
        }))
    }

    /// Makes sure that there is an entry for `key`; says whether there was room.
    fn reserve(&self, key: &K, now: Nanos) -> bool {
        if self.try_reserve(key) {
            return true;
        }
        self.sweep(now);
        self.try_reserve(key)
    }

    fn try_reserve(&self, key: &K) -> bool {
        let table = &*self.0;
        let mut shard = self.shard(key);
        if shard.contains_key(key) {
            return true;
        }
        let grow = |len: usize| (len < table.keys_max).then(|| len.saturating_add(1));
        let grown = table.len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow).is_ok();
        if grown {
            shard.insert(key.clone(), RESERVED);
        }
        grown
    }

    /// Forgets the keys whose bucket is full again: they are like keys that never came.
    fn sweep(&self, now: Nanos) {
        let table = &*self.0;
        let last = table.swept.load(Ordering::Relaxed);
        let due = last.saturating_add(Nanos::from(SWEEP_EVERY).as_u64());
        let is_mine = now.as_u64() >= due
            && table.swept.compare_exchange(last, now.as_u64(), Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if !is_mine {
            return;
        }
        for shard in &table.shards {
            let mut shard = lock(shard);
            let before = shard.len();
            shard.retain(|_, due| *due > now || *due == RESERVED);
            table.len.fetch_sub(before.saturating_sub(shard.len()), Ordering::Relaxed);
        }
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, HashMap<K, Nanos>> {
        let table = &*self.0;
        let hash = table.hasher.hash_one(key);
        let [first, ..] = &table.shards;
        let position = usize::try_from(hash).unwrap_or(0) % SHARDS;
        lock(table.shards.get(position).unwrap_or(first))
    }
}

fn lock<K>(shard: &Mutex<HashMap<K, Nanos>>) -> MutexGuard<'_, HashMap<K, Nanos>> {
    // No code that could panic runs under this lock, so a poisoned one is whole.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Hash + Eq + Clone> StateStore for Buckets<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.shard(key);
        let (outcome, due) = f(shard.get(key).copied())?;
        if let Some(entry) = shard.get_mut(key) {
            *entry = due;
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn number(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    fn at(millis: i64) -> UnixTime {
        UnixTime::from_millis(1_700_000_000_000 + millis)
    }

    #[test]
    fn accepts_the_burst_and_refuses_one_past_it() {
        let quota = Quota::per_second(number(10), number(3), 8);
        for _ in 0..3 {
            assert_eq!(quota.check(&"alice", at(0)), Ok(()));
        }
        let retry_after = Duration::from_millis(100);
        assert_eq!(quota.check(&"alice", at(0)), Err(QuotaError::Exceeded { retry_after }));
        assert_eq!(quota.check(&"bob", at(0)), Ok(()), "buckets are per key");
        assert_eq!(quota.check(&"alice", at(100)), Ok(()));
        assert_eq!(quota.check(&"alice", at(100)).unwrap_err().retry_after(), retry_after);
    }

    #[test]
    fn several_are_taken_at_once_or_none() {
        let quota = Quota::per_second(number(10), number(5), 8);
        assert_eq!(quota.check_many(&"alice", number(3), at(0)), Ok(()));
        assert!(quota.check_many(&"alice", number(3), at(0)).is_err());
        assert_eq!(quota.check_many(&"alice", number(2), at(0)), Ok(()));
        assert!(quota.check(&"alice", at(0)).is_err());
        let never = QuotaError::Exceeded { retry_after: Duration::MAX };
        assert_eq!(quota.check_many(&"bob", number(6), at(0)), Err(never));
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing() {
        let quota = Quota::per_minute(number(1), number(1), 8);
        assert_eq!(quota.check(&"alice", at(0)), Ok(()));
        assert!(quota.check(&"alice", at(-3_600_000)).is_err());
        assert!(quota.check(&"alice", UnixTime::from_millis(i64::MIN)).is_err());
        assert!(quota.check(&"alice", at(59_999)).is_err());
        assert_eq!(quota.check(&"alice", at(60_000)), Ok(()));
    }

    #[test]
    fn a_full_table_refuses_new_keys_and_never_forgets_one_that_counts() {
        let quota = Quota::per_second(number(1), number(1), 2);
        assert_eq!(quota.check(&1, at(0)), Ok(()));
        assert_eq!(quota.check(&2, at(500)), Ok(()));
        let full = Err(QuotaError::Full { retry_after: SWEEP_EVERY });
        assert_eq!(quota.check(&3, at(500)), full);
        assert!(quota.check(&1, at(500)).is_err(), "the first bucket is still empty");
        assert_eq!(quota.len(), 2);
        assert_eq!(quota.check(&3, at(1_499)), full, "the table was swept less than a second ago");
        assert_eq!(quota.check(&3, at(1_500)), Ok(()), "both buckets are full again");
        assert_eq!(quota.len(), 1);
    }

    #[test]
    fn a_million_strangers_take_no_more_memory_than_stated() {
        let quota = Quota::per_second(number(1), number(1), 1000);
        for stranger in 0..20_000_u32 {
            let _refused = quota.check(&stranger, at(0));
        }
        assert_eq!(quota.len(), 1000);
    }

    #[test]
    fn extreme_arguments_do_not_overflow() {
        let quota = Quota::per_minute(number(1), NonZeroU32::MAX, 1);
        assert_eq!(quota.check(&(), UnixTime::from_millis(i64::MAX)), Ok(()));
        assert_eq!(quota.check(&(), UnixTime::from_millis(i64::MAX)), Ok(()));
    }

    #[test]
    fn one_subscriber_has_one_bucket_however_many_addresses_it_has() {
        let key = |text: &str| address_key(text.parse().unwrap());
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    #[test]
    fn what_is_left_is_told_and_fills_again_at_the_stated_pace() {
        let quota = Quota::one_every(Duration::from_secs(10), number(3), 10).unwrap();
        let left = |millis| quota.take(&"alice", at(millis));
        assert_eq!([left(0), left(0), left(0)], [Ok(2), Ok(1), Ok(0)]);
        let retry_after = Duration::from_secs(10);
        assert_eq!(left(0), Err(QuotaError::Exceeded { retry_after }));
        assert_eq!(left(10_000), Ok(0));
        assert_eq!(left(40_000), Ok(2));
        assert!(Quota::<&str>::one_every(Duration::ZERO, number(1), 1).is_none());
    }
}
