//! Which endpoints there are, and which of them a request may go to: made anew when something changes, read by everybody.

use std::sync::Arc;

use super::endpoint::Endpoint;

/// One endpoint with its place among its siblings.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) weight: u32,
    pub(super) priority: u16,
}

/// All endpoints of a cluster at one time.
#[derive(Debug, Default)]
pub(super) struct Roster {
    pub(super) all: Vec<Member>,
    /// Those that requests go to.
    usable: Vec<Member>,
    /// Sums of the weights up to each usable one; empty while all weigh the same.
    sums: Vec<u64>,
    /// So few are well that all are used.
    pub(super) panicking: bool,
}

impl Roster {
    /// Those that are well and come first; all of them if fewer than `panic_percent` are well.
    pub(super) fn new(all: Vec<Member>, panic_percent: u8) -> Self {
        let well: Vec<&Member> = all.iter().filter(|member| member.endpoint.is_well()).collect();
        let panicking = well.len() * 100 < all.len() * usize::from(panic_percent);
        let first = well.iter().map(|member| member.priority).min();
        let usable: Vec<Member> = if panicking {
            all.clone()
        } else {
            well.into_iter().filter(|member| Some(member.priority) == first).cloned().collect()
        };
        let sums = sums(&usable);
        Roster { all, usable, sums, panicking }
    }

    pub(super) fn usable(&self) -> &[Member] {
        &self.usable
    }

    /// The less loaded of two that chance names, by weight; `chance` is 64 random bits. Of one, that one.
    pub(super) fn choose(&self, chance: u64) -> Option<&Member> {
        let (one, other) = match self.usable.as_slice() {
            [] => return None,
            [only] => return Some(only),
            _ => (self.index(chance >> 32), self.index(chance & u64::from(u32::MAX))),
        };
        let other = if one == other { (one + 1) % self.usable.len() } else { other };
        let (one, other) = (self.usable.get(one)?, self.usable.get(other)?);
        Some(if load_is_less(other, one) { other } else { one })
    }

    /// The least loaded that still takes a request by `begin`, those in `avoid` last.
    pub(super) fn least(&self, avoid: &[u32], begin: impl Fn(&Endpoint) -> bool) -> Option<&Member> {
        let mut order: Vec<&Member> = self.usable.iter().collect();
        order.sort_by_key(|member| {
            let load = u64::from(member.endpoint.active()) * LOAD_SCALE / u64::from(member.weight);
            (avoid.contains(&member.endpoint.id()), load)
        });
        order.into_iter().find(|member| begin(&member.endpoint))
    }

    /// 32 random bits as an index, in proportion to the weights.
    fn index(&self, bits: u64) -> usize {
        match self.sums.last() {
            None => scaled(bits, self.usable.len() as u64),
            Some(total) => {
                let point = scaled(bits, *total) as u64;
                self.sums.partition_point(|sum| *sum <= point)
            }
        }
    }
}

/// `bits` of 32 as a number below `limit`.
fn scaled(bits: u64, limit: u64) -> usize {
    usize::try_from((bits * limit) >> 32).unwrap_or(0)
}

/// Compares (active + 1) / weight without dividing.
fn load_is_less(one: &Member, other: &Member) -> bool {
    let load =
        |member: &Member, scale: &Member| (u64::from(member.endpoint.active()) + 1) * u64::from(scale.weight);
    load(one, other) < load(other, one)
}

fn sums(usable: &[Member]) -> Vec<u64> {
    let first = usable.first().map(|member| member.weight);
    if usable.iter().all(|member| Some(member.weight) == first) {
        return Vec::new();
    }
    let mut sum = 0;
    usable
        .iter()
        .map(|member| {
            sum += u64::from(member.weight);
            sum
        })
        .collect()
}

/// Loads of heavy endpoints differ by less than one request.
const LOAD_SCALE: u64 = 65_536;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::collections::BTreeMap;
    use std::sync::Weak;
    use std::sync::atomic::Ordering;

    use super::super::endpoint::Found;
    use super::super::settings::Breaker;
    use super::*;

    fn member(port: u16, weight: u32, priority: u16) -> Member {
        let place = Found::parse(&format!("10.0.0.1:{port}")).unwrap().place;
        Member { endpoint: Endpoint::new(place, Weak::new(), &Breaker::default()), weight, priority }
    }

    fn unwell(member: &Member) {
        member.endpoint.health.unwell.store(true, Ordering::Relaxed);
    }

    fn chosen(roster: &Roster, times: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..times {
            let member = roster.choose(rand::random()).unwrap();
            *counts.entry(member.endpoint.place().to_string()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn of_two_the_one_with_less_to_do_is_taken() {
        let roster = Roster::new(vec![member(1, 1, 0), member(2, 1, 0)], 25);
        for _ in 0..3 {
            assert!(roster.all[0].endpoint.begin());
        }
        assert_eq!(chosen(&roster, 500), BTreeMap::from([("10.0.0.1:2".to_owned(), 500)]));
        for _ in 0..9 {
            assert!(roster.all[1].endpoint.begin());
        }
        assert_eq!(chosen(&roster, 500), BTreeMap::from([("10.0.0.1:1".to_owned(), 500)]));
    }

    #[test]
    fn equal_endpoints_get_equal_shares_and_the_most_loaded_of_many_gets_none() {
        let roster = Roster::new((1..=4).map(|port| member(port, 1, 0)).collect(), 25);
        let counts = chosen(&roster, 8_000);
        // 2,000 each, with a standard deviation of 39.
        assert!(counts.values().all(|count| (1_700..2_300).contains(count)), "{counts:?}");
        assert!(roster.all[2].endpoint.begin());
        assert_eq!(chosen(&roster, 2_000).get("10.0.0.1:3"), None);
    }

    #[test]
    fn a_heavier_endpoint_gets_more_in_the_long_run() {
        let roster = Roster::new(vec![member(1, 1, 0), member(2, 3, 0)], 25);
        let mut counts = [0_u32; 2];
        // Requests stay, as those of a busy hour do: what counts is load by weight.
        for _ in 0..400 {
            let endpoint = &roster.choose(rand::random()).unwrap().endpoint;
            assert!(endpoint.begin());
            counts[usize::from(endpoint.place().to_string().ends_with(":2"))] += 1;
        }
        assert!((280..320).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn who_is_not_well_gets_nothing_until_so_few_are_well_that_all_are_used() {
        let all: Vec<Member> = (1..=4).map(|port| member(port, 1, 0)).collect();
        unwell(&all[0]);
        unwell(&all[1]);
        unwell(&all[2]);
        let one = Roster::new(all.clone(), 25);
        assert!(!one.panicking, "a quarter is not less than a quarter");
        assert_eq!(chosen(&one, 200).len(), 1);
        assert!(Roster::new(all.clone(), 26).panicking);
        assert_eq!(chosen(&Roster::new(all.clone(), 26), 2_000).len(), 4);
        unwell(&all[3]);
        assert_eq!(chosen(&Roster::new(all.clone(), 25), 2_000).len(), 4);
        assert!(Roster::new(all, 0).choose(7).is_none(), "without a threshold nobody is asked");
    }

    #[test]
    fn what_comes_second_is_used_only_when_nothing_that_comes_first_is_well() {
        let all = vec![member(1, 1, 10), member(2, 1, 20), member(3, 1, 20)];
        assert_eq!(chosen(&Roster::new(all.clone(), 25), 100).len(), 1);
        unwell(&all[0]);
        let second = chosen(&Roster::new(all, 25), 1_000);
        assert_eq!(second.keys().collect::<Vec<_>>(), ["10.0.0.1:2", "10.0.0.1:3"]);
    }

    #[test]
    fn a_second_try_goes_elsewhere_as_long_as_there_is_another() {
        let roster = Roster::new(vec![member(1, 1, 0), member(2, 1, 0)], 25);
        let ids: Vec<u32> = roster.all.iter().map(|member| member.endpoint.id()).collect();
        let least = |avoid: &[u32]| roster.least(avoid, |_| true).unwrap().endpoint.id();
        assert!(roster.all[1].endpoint.begin());
        assert_eq!(least(&ids[..1]), ids[1]);
        assert_eq!(least(&ids), ids[0]);
    }
}
