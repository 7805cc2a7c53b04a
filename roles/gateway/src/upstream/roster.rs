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
