//! Tokens per CPU second: verifying each kind, and signing one, against nothing but the signatures and MACs that it takes, in
//! one run. The ratio is what our own code costs beside the cryptography. Then single use, and how verifying grows with cores.
//!
//! `cargo bench -p countersign-token`, and with `-- macaroon` after it that kind alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops when it cannot go on"
)]

use std::time::{Duration, Instant};

use countersign_testkit::measure::per_cpu_second as per_second;
use countersign_token::{ReplayCache, ReplayLimits, Sighting};

#[path = "../tests/common/samples.rs"]
mod samples;

use samples::{NOW, Sample};

fn main() {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let mut samples = samples::all();
    if let Some(wanted) = &wanted {
        samples.retain(|sample| sample.kind == wanted);
    }
    println!("{:<18} {:>12} {:>12} {:>6}", "verify per CPU s", "ours", "bare", "ratio");
    for sample in &samples {
        assert!((sample.accepts)(&sample.text), "{}", sample.kind);
        let ours = || assert!((sample.accepts)(&sample.text));
        compare(sample.kind, ours, || (sample.bare)());
    }
    if wanted.is_some() {
        return;
    }
    println!("{:<18} {:>12} {:>12} {:>6}", "sign per CPU s", "ours", "bare", "ratio");
    let (key, token) = (samples::key(), samples::service_claims());
    let signed = token.mint(&key, Some(&[3; 32])).unwrap();
    let input = signed.rsplit_once('.').unwrap().0.as_bytes().to_vec();
    compare(
        "service-token",
        || drop(token.mint(&key, Some(&[3; 32])).unwrap()),
        || drop(key.sign_raw(&input).unwrap()),
    );
    single_use();
    cores(&samples);
}

/// Short turns by turns, so that whatever else the machine does falls on both alike.
fn compare(name: &str, ours: impl Fn(), bare: impl Fn()) {
    let turns: Vec<(f64, f64)> = (0..TURNS).map(|_| (per_second(&ours), per_second(&bare))).collect();
    let best = |pick: fn(&(f64, f64)) -> f64| turns.iter().map(pick).fold(0.0, f64::max);
    let (ours, bare) = (best(|turn| turn.0), best(|turn| turn.1));
    println!("{name:<18} {ours:>12.0} {bare:>12.0} {:>6.2}", bare / ours);
}

/// Proofs of 100 callers, 30 s alive each, as many as come.
fn single_use() {
    let issuers: Vec<String> = (0..100).map(|n| format!("spiffe://fleamarket.test/svc/s{n}")).collect();
    let limits = ReplayLimits { per_issuer: 10_000, total: 1_000_000 };
    let (mut cache, mut count) = (ReplayCache::new(NOW, limits), 0_usize);
    let admitted = per_second(|| {
        count += 1;
        let jti = format!("{count:022}");
        let now = NOW.saturating_add(Duration::from_micros(u64::try_from(count).unwrap() * 50));
        let expires = now.saturating_add(Duration::from_secs(30));
        let issuer = &issuers[count % issuers.len()];
        let proof = Sighting { issuer, jti: &jti, issued_at: now, expires, channel_bound: true };
        cache.admit(&proof, now).unwrap();
    });
    println!("single use: {admitted:.0} proofs admitted per CPU second, {} remembered", cache.len());
}

/// All cores at once verify service tokens, which share nothing.
fn cores(samples: &[Sample]) {
    let sample = samples.iter().find(|sample| sample.kind == "service-token").unwrap();
    let cores = std::thread::available_parallelism().unwrap().get();
    let mut alone = 0.0;
    for threads in [1, cores] {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..ROUNDS).for_each(|_| assert!((sample.accepts)(&sample.text))));
            }
        });
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let rate = (threads * ROUNDS) as f64 / started.elapsed().as_secs_f64();
        if threads == 1 {
            alone = rate;
        }
        println!(
            "service tokens verified per second by {threads} threads: {rate:.0} ({:.2} times one)",
            rate / alone
        );
    }
}

const TURNS: usize = 3;
const ROUNDS: usize = if cfg!(debug_assertions) { 200 } else { 20_000 };
