//! The replay cache: accepts a proof once, forgets nothing that lives, and survives clocks and restarts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use countersign_identity::UnixTime;
use countersign_token::replay::{REPLAY_WINDOW_MAX, UNBOUND_AHEAD_MAX, shard_of};
use countersign_token::{ReplayCache, ReplayError, ReplayLimits, Sighting};
use proptest::prelude::*;

const START: UnixTime = UnixTime::from_secs(1_800_000_000);
const ADS: &str = "spiffe://td/svc/ads";
const USERS: &str = "spiffe://td/svc/users";
const SMALL: ReplayLimits = ReplayLimits { per_issuer: 2, total: 3 };

#[test]
fn accepts_a_proof_once_and_never_again() {
    let mut cache = cache(ReplayLimits::default());
    assert_eq!(cache.admit(&proof(ADS, "1"), at(10_000)), Ok(()));
    for millis in [10_000, 10_001, 39_999] {
        assert_eq!(cache.admit(&proof(ADS, "1"), at(millis)), Err(ReplayError::Replayed));
    }
}

#[test]
fn accepts_the_same_jti_of_another_issuer() {
    let mut cache = cache(ReplayLimits::default());
    for (issuer, jti) in [(ADS, "1"), (USERS, "1"), (ADS, "2"), ("spiffe://td/svc/ad", "s1")] {
        assert_eq!(cache.admit(&proof(issuer, jti), at(10_000)), Ok(()), "{issuer} {jti}");
    }
}

#[test]
fn forgets_a_proof_only_when_nobody_would_accept_it_any_more() {
    let mut cache = cache(ReplayLimits::default());
    let proof = Sighting { expires: at(40_500), ..proof(ADS, "1") };
    cache.admit(&proof, at(10_000)).unwrap();
    assert_eq!(cache.admit(&proof, at(40_499)), Err(ReplayError::Replayed));
    assert_eq!(cache.admit(&proof, at(40_500)), Err(ReplayError::Expired { by_seconds: 0 }));
    assert_eq!(cache.len(), 1, "it goes with its second");
    assert_eq!(cache.admit(&proof, at(43_000)), Err(ReplayError::Expired { by_seconds: 2 }));
    assert!(cache.is_empty());
}

#[test]
fn a_clock_that_steps_back_revives_nothing() {
    let mut cache = cache(ReplayLimits::default());
    cache.admit(&proof(ADS, "1"), at(10_000)).unwrap();
    // The clock jumps ahead, the proof is forgotten, the clock comes back.
    cache.admit(&Sighting { expires: at(130_000), ..proof(ADS, "2") }, at(100_000)).unwrap();
    assert_eq!(cache.admit(&proof(ADS, "1"), at(11_000)), Err(ReplayError::Expired { by_seconds: 60 }));
}

#[test]
fn rejects_one_proof_more_than_an_issuer_may_have_and_spares_the_others() {
    let mut cache = cache(SMALL);
    cache.admit(&proof(ADS, "1"), at(10_000)).unwrap();
    cache.admit(&proof(ADS, "2"), at(10_000)).unwrap();
    assert_eq!(cache.admit(&proof(ADS, "3"), at(10_000)), Err(ReplayError::IssuerQuota { live: 2 }));
    assert_eq!(cache.admit(&proof(USERS, "1"), at(10_000)), Ok(()));
    assert_eq!(cache.admit(&proof(ADS, "1"), at(10_000)), Err(ReplayError::Replayed), "nothing was evicted");
    let later = Sighting { expires: at(70_000), ..proof(ADS, "3") };
    assert_eq!(cache.admit(&later, at(41_000)), Ok(()), "room comes with expiry");
}

#[test]
fn rejects_one_proof_more_than_it_can_remember_and_evicts_none() {
    let mut cache = cache(SMALL);
    for (issuer, jti) in [(ADS, "1"), (ADS, "2"), (USERS, "1")] {
        cache.admit(&proof(issuer, jti), at(10_000)).unwrap();
    }
    assert_eq!(
        cache.admit(&proof("spiffe://td/svc/chat", "1"), at(10_000)),
        Err(ReplayError::Full { live: 3 })
    );
    for (issuer, jti) in [(ADS, "1"), (ADS, "2"), (USERS, "1")] {
        assert_eq!(cache.admit(&proof(issuer, jti), at(10_000)), Err(ReplayError::Replayed));
    }
}

#[test]
fn rejects_a_proof_that_would_have_to_be_remembered_too_long() {
    let mut cache = cache(ReplayLimits::default());
    let until = |expires| Sighting { expires, ..proof(ADS, "1") };
    let limit = at(10_000).saturating_add(REPLAY_WINDOW_MAX);
    let beyond = UnixTime::from_millis(limit.millis() + 1000);
    assert_eq!(cache.admit(&until(beyond), at(10_000)), Err(ReplayError::LivesTooLong { seconds: 601 }));
    assert_eq!(cache.admit(&until(limit), at(10_000)), Ok(()));
}

#[test]
fn rejects_an_unbound_proof_that_the_process_before_this_one_may_have_accepted() {
    let mut cache = cache(ReplayLimits::default());
    let issued = |issued_at, jti| Sighting { issued_at, ..proof(ADS, jti) };
    let from = START.saturating_add(UNBOUND_AHEAD_MAX);
    let too_early = UnixTime::from_millis(from.millis() - 1);
    let refused = cache.admit(&issued(too_early, "1"), at(10_000));
    assert_eq!(refused, Err(ReplayError::IssuedBeforeStart { by_seconds: 0 }));
    let long_ago = UnixTime::from_millis(START.millis() - 20_000);
    let refused = cache.admit(&issued(long_ago, "1"), at(10_000));
    assert_eq!(refused, Err(ReplayError::IssuedBeforeStart { by_seconds: 25 }));
    assert_eq!(cache.admit(&issued(from, "1"), at(10_000)), Ok(()));
}

#[test]
fn rejects_an_unbound_proof_that_is_dated_further_ahead_than_a_restart_could_tell() {
    let mut cache = cache(ReplayLimits::default());
    let ahead = |millis: i64, jti| Sighting { issued_at: at(10_000 + millis), ..proof(ADS, jti) };
    assert_eq!(cache.admit(&ahead(5_001, "1"), at(10_000)), Err(ReplayError::DatedAhead { by_seconds: 5 }));
    assert_eq!(cache.admit(&ahead(5_000, "1"), at(10_000)), Ok(()));
}

#[test]
fn accepts_a_proof_bound_to_its_connection_from_the_first_moment() {
    let mut cache = cache(ReplayLimits::default());
    let before = UnixTime::from_millis(START.millis() - 3_000);
    let bound = Sighting { issued_at: before, channel_bound: true, ..proof(ADS, "1") };
    assert_eq!(cache.admit(&bound, START), Ok(()));
    assert_eq!(cache.admit(&bound, START), Err(ReplayError::Replayed));
}

#[test]
fn what_is_refused_leaves_no_trace() {
    let mut cache = cache(ReplayLimits::default());
    let early = Sighting { issued_at: START, ..proof(ADS, "1") };
    cache.admit(&early, at(10_000)).unwrap_err();
    assert!(cache.is_empty());
    assert_eq!(cache.admit(&proof(ADS, "1"), at(10_000)), Ok(()));
}

#[test]
fn one_issuer_always_meets_the_same_shard() {
    let shards: HashSet<_> = (0..1000).map(|n| shard_of(&format!("spiffe://td/svc/s{n}"), 8)).collect();
    assert_eq!(shards, (0..8).collect());
    assert_eq!(shard_of(ADS, 8), shard_of(ADS, 8));
    assert_eq!(shard_of(ADS, 0), 0, "no shards are one");
}

/// Everything a stranger decides: who, what, how long, and how far our clock jumps in between.
fn presentations() -> impl Strategy<Value = Vec<(usize, u8, i64, i64)>> {
    prop::collection::vec((0..4_usize, 0..12_u8, 1..90_000_i64, -20_000..20_000_i64), 1..300)
}

proptest! {
    #[test]
    fn no_proof_is_ever_accepted_twice_and_memory_stays_within_its_limits(steps in presentations()) {
        let limits = ReplayLimits { per_issuer: 5, total: 12 };
        let mut cache = ReplayCache::new(START, limits);
        let mut accepted: HashMap<(usize, u8), UnixTime> = HashMap::new();
        let mut now = START.millis() + 10_000;
        for (issuer, jti, life, jump) in steps {
            now += jump;
            let (name, jti_text) = (format!("spiffe://td/svc/{issuer}"), jti.to_string());
            // A proof is signed once, so whoever replays it cannot change when it expires.
            let expires = accepted.get(&(issuer, jti)).copied().unwrap_or(UnixTime::from_millis(now + life));
            let proof = Sighting {
                issuer: &name, jti: &jti_text, issued_at: START, expires, channel_bound: true,
            };
            if cache.admit(&proof, UnixTime::from_millis(now)).is_ok() {
                prop_assert!(accepted.insert((issuer, jti), expires).is_none(), "accepted twice");
            }
            prop_assert!(cache.len() <= limits.total);
        }
    }

    #[test]
    fn no_proof_without_a_channel_is_accepted_before_and_after_a_restart(
        issued in -8_000..8_000_i64, first_look in -8_000..0_i64, second_look in 0..20_000_i64,
    ) {
        let started_before = UnixTime::from_millis(START.millis() - 3_600_000);
        let (mut before, mut after) =
            (ReplayCache::new(started_before, SMALL), ReplayCache::new(START, SMALL));
        let proof = Sighting { issued_at: at(issued), expires: at(issued + 60_000), ..proof(ADS, "1") };
        let accepted = [
            before.admit(&proof, at(first_look)).is_ok(),
            after.admit(&proof, at(second_look)).is_ok(),
        ];
        prop_assert!(accepted != [true, true]);
    }
}

#[test]
fn a_hundred_thousand_expired_proofs_leave_nothing_behind() {
    let mut cache = cache(ReplayLimits { per_issuer: 1000, total: 1000 });
    for n in 0..100_000_i64 {
        // 1000 a second, each alive for less than one.
        let now = at(10_000 + n);
        let expires = now.saturating_add(Duration::from_millis(500));
        let jti = n.to_string();
        let proof = Sighting { issuer: ADS, jti: &jti, issued_at: now, expires, channel_bound: false };
        let admitted = cache.admit(&proof, now);
        assert!(admitted.is_ok() || matches!(admitted, Err(ReplayError::IssuerQuota { live: 1000 })), "{n}");
    }
    cache.admit(&Sighting { expires: at(300_000), ..proof(ADS, "last") }, at(200_000)).unwrap();
    assert_eq!(cache.len(), 1);
}

fn cache(limits: ReplayLimits) -> ReplayCache {
    ReplayCache::new(START, limits)
}

/// Issued well after the start, good until 40 s after it.
fn proof<'a>(issuer: &'a str, jti: &'a str) -> Sighting<'a> {
    Sighting { issuer, jti, issued_at: at(10_000), expires: at(40_000), channel_bound: false }
}

fn at(millis_after_start: i64) -> UnixTime {
    UnixTime::from_millis(START.millis() + millis_after_start)
}
