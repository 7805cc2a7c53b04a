//! The quota of an address, taken from the shared table a few at a time: what one worker took, no other can use.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;

use countersign_identity::UnixTime;
use countersign_policy::address_key;

use crate::throttle::Throttle;

/// What this worker took and has not used.
#[derive(Default)]
pub(super) struct Taken(RefCell<HashMap<IpAddr, u32>>);

impl Taken {
    /// Counts one request. `false`: the quota is used up, or there is no room in the table.
    pub(super) fn one(&self, throttle: &Throttle, address: IpAddr, now: UnixTime) -> bool {
        let mut taken = self.0.borrow_mut();
        let key = address_key(address);
        if let Some(left) = taken.get_mut(&key)
            && *left > 0
        {
            *left -= 1;
            return true;
        }
        let some = throttle.requests_at_a_time();
        let more = match throttle.requests(address, some, now) {
            Ok(()) => some.get(),
            Err(_) if throttle.request(address, now).is_ok() => 1,
            Err(_) => return false,
        };
        if taken.len() >= ADDRESSES_MAX {
            // What they had left is lost to them: a quota is never exceeded, only used less.
            taken.clear();
        }
        taken.insert(key, more - 1);
        true
    }
}

const ADDRESSES_MAX: usize = 4096;
