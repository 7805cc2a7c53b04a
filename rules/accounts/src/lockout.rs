//! How a guess is punished: a stop after too many failures on one account, and a throttle per address.
//! Both are pure: time is an argument, memory is bounded.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use countersign_identity::UnixTime;

/// Is this attempt, counted since the last success, one too many? (SP 800-63B-4 section 3.2.2: at most 100
/// consecutive failures per account.)
pub fn is_locked(attempt: u64) -> bool {
    attempt > FAILURES_MAX
}

/// How often somebody may try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// So many at once.
    pub burst: u32,
    /// Then one more each such time. Never zero.
    pub every: Duration,
}

/// A token bucket per address. IPv6 addresses count by their /64, which one customer owns.
///
/// At most `addresses_max` buckets. When the table is full of live ones, new addresses share one bucket: a
/// flood of addresses never makes room by forgetting somebody who is being throttled.
#[derive(Debug)]
pub struct Throttle {
    limit: Limit,
    addresses_max: usize,
    buckets: HashMap<IpAddr, Bucket>,
    others: Option<Bucket>,
    swept: UnixTime,
}

/// A bucket as the moment at which it will be full again (the virtual scheduling form of a token bucket).
#[derive(Clone, Copy, Debug)]
struct Bucket {
    full_at: UnixTime,
}

impl Throttle {
    /// A throttle without history.
    pub fn new(limit: Limit, addresses_max: usize) -> Self {
        let swept = UnixTime::from_millis(i64::MIN);
        Self { limit, addresses_max, buckets: HashMap::new(), others: None, swept }
    }

    /// Takes one attempt of `address`, or says after which time to try again.
    pub fn take(&mut self, address: IpAddr, now: UnixTime) -> Result<(), Throttled> {
        let network = network_of(address);
        if !self.buckets.contains_key(&network) && self.buckets.len() >= self.addresses_max {
            self.sweep(now);
        }
        let fresh = Bucket { full_at: now };
        let bucket = if self.buckets.contains_key(&network) || self.buckets.len() < self.addresses_max {
            self.buckets.entry(network).or_insert(fresh)
        } else {
            self.others.get_or_insert(fresh)
        };
        bucket.take(&self.limit, now)
    }

    /// How many addresses are remembered.
    pub fn addresses(&self) -> usize {
        self.buckets.len()
    }

    /// Forgets those who may do everything again. At most once per `every`, because it looks at all.
    fn sweep(&mut self, now: UnixTime) {
        if now < self.swept.saturating_add(self.limit.every) && now >= self.swept {
            return;
        }
        self.swept = now;
        self.buckets.retain(|_, bucket| bucket.full_at > now);
    }
}

impl Bucket {
    fn take(&mut self, limit: &Limit, now: UnixTime) -> Result<(), Throttled> {
        let capacity = limit.every.saturating_mul(limit.burst);
        // A clock that stepped back must not lock anybody out for longer than a full bucket takes.
        let full_at = self.full_at.max(now).min(now.saturating_add(capacity));
        let after = full_at.saturating_add(limit.every);
        let excess = after.since(now.saturating_add(capacity));
        if excess.is_zero() {
            self.full_at = after;
            Ok(())
        } else {
            self.full_at = full_at;
            Err(Throttled { retry_after: excess })
        }
    }
}

fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

/// Too many attempts from one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many attempts from this address, try again in {} s", .retry_after.as_secs().saturating_add(1))]
pub struct Throttled {
    /// When the next attempt will be taken.
    pub retry_after: Duration,
}

/// Consecutive failures after which an account is closed until an administrator sets a new password.
pub const FAILURES_MAX: u64 = 100;
/// What one address may do at the login: ten at once, then one every three seconds.
pub const LOGIN_LIMIT: Limit = Limit { burst: 10, every: Duration::from_secs(3) };
/// How many addresses are told apart.
pub const ADDRESSES_MAX: usize = 16 * 1024;
