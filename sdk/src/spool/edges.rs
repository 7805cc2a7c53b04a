//! Who called whom, how often and how fast: counted where it happened, summed up elsewhere.

use std::{collections::HashMap, time::Duration};

use countersign_wire::agent::EdgeCount;

use crate::shard::Sharded;

/// One decided call.
#[derive(Clone, Copy, Debug)]
pub struct EdgeCall<'a> {
    /// SPIFFE ID of the caller, `user` or `stranger`.
    pub source: &'a str,
    /// Short name of the callee.
    pub target: &'a str,
    /// What was verified: `mtls`, `none`.
    pub mode: &'a str,
    /// How the user was proven, see `UserProof`.
    pub user: &'a str,
    /// The policy that decided.
    pub policy: &'a str,
    /// Was it allowed?
    pub allowed: bool,
    /// From the request's head to the answer's head.
    pub latency: Duration,
}

/// Counters of this process.
#[derive(Debug, Default)]
pub struct Edges(Sharded<HashMap<Key, Counts>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    source: String,
    target: String,
    mode: String,
    user: String,
    policy: String,
}

/// Calls over one edge.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    requests: u64,
    denied: u64,
    latency_log2_us: [u64; BUCKETS],
}

impl Edges {
    /// Counts a call. Callers beyond [`EDGES_MAX`] are counted together as `others`.
    pub fn count(&self, call: EdgeCall<'_>) {
        let mut counts = Counts::default();
        counts.add(call.allowed, u64::try_from(call.latency.as_micros()).unwrap_or(u64::MAX));
        self.add(&call, &counts);
    }

    /// Adds calls over the edge of `like` that were counted elsewhere.
    pub(super) fn add(&self, like: &EdgeCall<'_>, counts: &Counts) {
        let key = Key {
            source: like.source.to_owned(),
            target: like.target.to_owned(),
            mode: like.mode.to_owned(),
            user: like.user.to_owned(),
            policy: like.policy.to_owned(),
        };
        self.0.with(|all| place(all, key).merge(counts));
    }

    /// Takes everything that was counted since the last time.
    #[must_use]
    pub fn take(&self) -> Vec<EdgeCount> {
        let mut sum: HashMap<Key, Counts> = HashMap::new();
        for (key, counts) in self.0.take_all().flatten() {
            sum.entry(key).or_default().merge(&counts);
        }
        sum.into_iter().map(|(key, counts)| counts.message(key)).collect()
    }

    /// Puts counts back that could not be shipped. The limit holds for them as well.
    pub fn put_back(&self, counts: Vec<EdgeCount>) {
        self.0.with(|all| {
            for count in counts {
                let (key, counts) = read(count);
                place(all, key).merge(&counts);
            }
        });
    }
}

/// The counts of an edge, or of all others if there are too many.
fn place(all: &mut HashMap<Key, Counts>, mut key: Key) -> &mut Counts {
    if all.len() >= EDGES_MAX && !all.contains_key(&key) {
        key.source = "others".to_owned();
        key.policy = String::new();
    }
    all.entry(key).or_default()
}

impl Counts {
    /// Counts one that took so many microseconds.
    pub(super) fn add(&mut self, allowed: bool, micros: u64) {
        self.requests += 1;
        self.denied += u64::from(!allowed);
        // Bucket i counts calls that took less than 2^i microseconds.
        let bucket = usize::try_from(u64::BITS - micros.leading_zeros()).unwrap_or(0).min(BUCKETS - 1);
        if let Some(count) = self.latency_log2_us.get_mut(bucket) {
            *count += 1;
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.requests == 0
    }

    fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.denied += other.denied;
        for (mine, theirs) in self.latency_log2_us.iter_mut().zip(other.latency_log2_us) {
            *mine += theirs;
        }
    }

    fn message(self, key: Key) -> EdgeCount {
        EdgeCount {
            source: key.source,
            target: key.target,
            mode: key.mode,
            user: key.user,
            policy: key.policy,
            requests: self.requests,
            denied: self.denied,
            latency_log2_us: self.latency_log2_us.to_vec(),
        }
    }
}

fn read(count: EdgeCount) -> (Key, Counts) {
    let mut counts = Counts { requests: count.requests, denied: count.denied, ..Counts::default() };
    for (mine, theirs) in counts.latency_log2_us.iter_mut().zip(count.latency_log2_us) {
        *mine = theirs;
    }
    let key = Key {
        source: count.source,
        target: count.target,
        mode: count.mode,
        user: count.user,
        policy: count.policy,
    };
    (key, counts)
}

/// Different edges of one shard between two shipments.
pub const EDGES_MAX: usize = 1024;

/// The last one counts everything above a minute.
const BUCKETS: usize = 27;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    const CALL: EdgeCall<'_> = EdgeCall {
        source: "spiffe://td/svc/ads",
        target: "users",
        mode: "mtls",
        user: "internal_token",
        policy: "ads-may-preview",
        allowed: true,
        latency: Duration::from_micros(700),
    };

    #[test]
    fn a_bucket_holds_the_calls_that_took_less_than_its_power_of_two() {
        let edges = Edges::default();
        edges.count(CALL);
        edges.count(EdgeCall { latency: Duration::from_micros(1024), ..CALL });
        edges.count(EdgeCall { latency: Duration::ZERO, ..CALL });
        edges.count(EdgeCall { latency: Duration::from_secs(3600), ..CALL });
        let counts = edges.take();
        assert_eq!(counts.len(), 1);
        let buckets = &counts[0].latency_log2_us;
        assert_eq!((buckets[10], buckets[11], buckets[0], buckets[26]), (1, 1, 1, 1));
    }

    #[test]
    fn denied_calls_count_and_what_was_put_back_counts_once() {
        let edges = Edges::default();
        edges.count(CALL);
        edges.put_back(edges.take());
        edges.count(EdgeCall { allowed: false, ..CALL });
        let counts = edges.take();
        assert_eq!((counts[0].requests, counts[0].denied), (2, 1));
        assert!(edges.take().is_empty());
    }

    #[test]
    fn edges_beyond_the_limit_are_counted_together() {
        let edges = Edges::default();
        for n in 0..EDGES_MAX + 10 {
            edges.count(EdgeCall { source: &format!("spiffe://td/svc/s{n}"), ..CALL });
        }
        let counts = edges.take();
        assert_eq!(counts.len(), EDGES_MAX + 1);
        let others = counts.iter().find(|count| count.source == "others").unwrap();
        assert_eq!(others.requests, 10);
    }
}
