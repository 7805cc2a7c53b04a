//! How much one address may ask for, and how many connections it may hold. What one address is (an IPv6 /64, an IPv4
//! address in any notation) is said by `policy::address_key`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_identity::UnixTime;
use countersign_policy::{Quota, QuotaError, address_key};

use crate::settings;

/// The quotas of all addresses: one for every request, a stricter one for logins besides.
pub(crate) struct Throttle {
    requests: Quota<IpAddr>,
    logins: Quota<IpAddr>,
    at_a_time: NonZeroU32,
}

impl Throttle {
    pub(crate) fn new(settings: &settings::Throttle) -> Self {
        let keys_max = settings.addresses_max;
        Throttle {
            requests: Quota::per_second(settings.requests_per_second, settings.requests_burst, keys_max),
            logins: Quota::per_minute(settings.logins_per_minute, settings.logins_burst, keys_max),
            at_a_time: NonZeroU32::new((settings.requests_burst.get() / 128).min(64))
                .unwrap_or(NonZeroU32::MIN),
        }
    }

    /// Counts one request.
    pub(crate) fn request(&self, address: IpAddr, now: UnixTime) -> Result<(), QuotaError> {
        self.requests.check(&address_key(address), now)
    }

    /// Counts several requests, or none.
    pub(crate) fn requests(
        &self,
        address: IpAddr,
        count: NonZeroU32,
        now: UnixTime,
    ) -> Result<(), QuotaError> {
        self.requests.check_many(&address_key(address), count, now)
    }

    /// How many a worker takes at once: so few that all workers together never hold back much of the burst.
    pub(crate) fn requests_at_a_time(&self) -> NonZeroU32 {
        self.at_a_time
    }

    /// Counts one login, which was counted as a request before.
    pub(crate) fn login(&self, address: IpAddr, now: UnixTime) -> Result<(), QuotaError> {
        self.logins.check(&address_key(address), now)
    }
}

/// How many of something each address holds now. Bounded by what it counts: an address without any is forgotten.
pub(crate) struct AddressCount {
    each_max: usize,
    held: Mutex<HashMap<IpAddr, usize>>,
}

impl AddressCount {
    pub(crate) fn new(each_max: usize) -> Arc<Self> {
        Arc::new(AddressCount { each_max, held: Mutex::default() })
    }

    /// A seat, or nothing when the address holds as many as it may.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let key = address_key(address);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(key).or_default();
        if *count >= self.each_max {
            return None;
        }
        *count += 1;
        Some(Seat { count: Arc::clone(self), key })
    }
}

/// One of the things that an [`AddressCount`] counts.
pub(crate) struct Seat {
    count: Arc<AddressCount>,
    key: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut held = self.count.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_700_000_000);

    fn key(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn throttle(addresses_max: usize) -> Throttle {
        let n = |n| NonZeroU32::new(n).unwrap();
        Throttle::new(&settings::Throttle {
            requests_burst: n(3),
            requests_per_second: n(1),
            logins_burst: n(1),
            logins_per_minute: n(1),
            addresses_max,
        })
    }

    #[test]
    fn an_address_over_its_quota_is_refused_and_others_are_not() {
        let throttle = throttle(100);
        for _ in 0..3 {
            throttle.request(key("192.0.2.7"), NOW).unwrap();
        }
        let refused = throttle.request(key("192.0.2.7"), NOW).unwrap_err();
        assert!(matches!(refused, QuotaError::Exceeded { .. }), "{refused:?}");
        throttle.request(key("192.0.2.8"), NOW).unwrap();
    }

    #[test]
    fn logins_have_a_stricter_quota_of_their_own() {
        let throttle = throttle(100);
        throttle.login(key("192.0.2.7"), NOW).unwrap();
        assert!(throttle.login(key("192.0.2.7"), NOW).is_err());
        throttle.request(key("192.0.2.7"), NOW).unwrap();
    }

    #[test]
    fn all_addresses_of_one_ipv6_network_share_a_quota() {
        let throttle = throttle(100);
        throttle.login(key("2001:db8:1:2::1"), NOW).unwrap();
        assert!(throttle.login(key("2001:db8:1:2:ffff::9"), NOW).is_err());
        throttle.login(key("2001:db8:1:3::1"), NOW).unwrap();
    }

    #[test]
    fn a_full_table_of_addresses_refuses_newcomers_instead_of_growing() {
        let throttle = throttle(2);
        throttle.request(key("192.0.2.1"), NOW).unwrap();
        throttle.request(key("192.0.2.2"), NOW).unwrap();
        let refused = throttle.request(key("192.0.2.3"), NOW).unwrap_err();
        assert!(matches!(refused, QuotaError::Full { .. }), "{refused:?}");
    }

    #[test]
    fn an_address_gets_its_seats_and_not_one_more() {
        let count = AddressCount::new(2);
        let first = count.enter(key("192.0.2.7")).unwrap();
        let _second = count.enter(key("192.0.2.7")).unwrap();
        assert!(count.enter(key("192.0.2.7")).is_none());
        assert!(count.enter(key("192.0.2.8")).is_some());
        drop(first);
        assert!(count.enter(key("192.0.2.7")).is_some());
    }

    #[test]
    fn an_address_without_seats_is_forgotten() {
        let count = AddressCount::new(1);
        drop(count.enter(key("192.0.2.7")));
        assert!(count.held.lock().unwrap().is_empty());
    }
}
