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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    const LIMIT: Limit = Limit { burst: 3, every: Duration::from_secs(10) };

    #[test]
    fn an_account_is_closed_after_a_hundred_failures_in_a_row() {
        assert!(!is_locked(0));
        assert!(!is_locked(FAILURES_MAX));
        assert!(is_locked(FAILURES_MAX + 1));
    }

    #[test]
    fn an_address_may_try_a_burst_and_then_one_by_one() {
        let mut throttle = Throttle::new(LIMIT, 10);
        for _ in 0..3 {
            throttle.take(v4(1), at(0)).unwrap();
        }
        assert_eq!(throttle.take(v4(1), at(0)), Err(Throttled { retry_after: Duration::from_secs(10) }));
        assert_eq!(throttle.take(v4(1), at(4)), Err(Throttled { retry_after: Duration::from_secs(6) }));
        throttle.take(v4(1), at(10)).unwrap();
        assert!(throttle.take(v4(1), at(10)).is_err());
        throttle.take(v4(2), at(10)).expect("another address has its own bucket");
    }

    #[test]
    fn who_waits_long_enough_has_a_full_burst_again_and_no_more() {
        let mut throttle = Throttle::new(LIMIT, 10);
        for _ in 0..3 {
            throttle.take(v4(1), at(0)).unwrap();
        }
        let accepted = (0..10).filter(|_| throttle.take(v4(1), at(1000)).is_ok()).count();
        assert_eq!(accepted, 3);
    }

    #[test]
    fn a_refused_attempt_costs_nothing() {
        let mut throttle = Throttle::new(LIMIT, 10);
        for _ in 0..100 {
            let _ = throttle.take(v4(1), at(0));
        }
        throttle.take(v4(1), at(10)).unwrap();
    }

    #[test]
    fn one_customers_ipv6_network_shares_a_bucket() {
        let mut throttle = Throttle::new(LIMIT, 10);
        let host = |host: u128| IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8_0000_0001 << 64 | host));
        for last in 0..3 {
            throttle.take(host(last), at(0)).unwrap();
        }
        assert!(throttle.take(host(77), at(0)).is_err());
        let mapped = IpAddr::V6(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
        for _ in 0..3 {
            throttle.take(mapped, at(0)).unwrap();
        }
        assert!(throttle.take(v4(1), at(0)).is_err(), "a mapped address is that IPv4 address");
    }

    #[test]
    fn a_flood_of_addresses_takes_bounded_memory_and_frees_nobody() {
        let mut throttle = Throttle::new(LIMIT, 100);
        let guesser = v4(1);
        for _ in 0..3 {
            throttle.take(guesser, at(0)).unwrap();
        }
        let mut accepted = 0;
        for stranger in 0..100_000_u32 {
            accepted += usize::from(
                throttle.take(IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + stranger)), at(1)).is_ok(),
            );
        }
        assert_eq!(throttle.addresses(), 100);
        assert_eq!(accepted, 99 + 3, "those without a place share one bucket");
        assert!(throttle.take(guesser, at(1)).is_err(), "the flood did not make us forget");
    }

    #[test]
    fn places_of_those_who_went_away_are_used_again() {
        let mut throttle = Throttle::new(LIMIT, 2);
        throttle.take(v4(1), at(0)).unwrap();
        throttle.take(v4(2), at(0)).unwrap();
        for _ in 0..3 {
            throttle.take(v4(3), at(100)).unwrap();
        }
        assert!(throttle.take(v4(3), at(100)).is_err());
        assert!(throttle.addresses() <= 2);
    }

    #[test]
    fn a_clock_that_steps_back_locks_nobody_out_for_long() {
        let mut throttle = Throttle::new(LIMIT, 10);
        for _ in 0..3 {
            throttle.take(v4(1), at(1_000_000)).unwrap();
        }
        let Err(Throttled { retry_after }) = throttle.take(v4(1), at(0)) else {
            panic!("the bucket was empty")
        };
        assert!(retry_after <= LIMIT.every, "{retry_after:?}");
    }

    #[test]
    fn the_message_gives_whole_seconds_and_never_zero() {
        let error = Throttled { retry_after: Duration::from_millis(200) };
        assert_eq!(error.to_string(), "too many attempts from this address, try again in 1 s");
    }

    proptest! {
        #[test]
        fn never_more_than_burst_plus_rate_in_any_run(mut pauses in prop::collection::vec(0_i64..20_000, 1..200)) {
            let mut throttle = Throttle::new(LIMIT, 1);
            let (mut now, mut accepted) = (0, 0_i64);
            for pause in pauses.drain(..) {
                now += pause;
                accepted += i64::from(throttle.take(v4(1), UnixTime::from_millis(now)).is_ok());
            }
            prop_assert!(accepted <= i64::from(LIMIT.burst) + now / 10_000);
        }
    }

    fn v4(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
    }

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_secs(seconds)
    }
}
