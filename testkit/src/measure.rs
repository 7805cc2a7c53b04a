//! What benchmarks count: calls per second, the CPU time behind them, memory. Figures only: no test waits for one.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Calls that several workers share, and how long each took.
///
/// ```
/// # use countersign_testkit::measure::Tally;
/// let tally = Tally::of(1000);
/// while let Some(started) = tally.next() {
///     // the call
///     tally.ended(started);
/// }
/// println!("{:.0} a second", tally.finish().per_second());
/// ```
#[derive(Debug)]
pub struct Tally {
    left: AtomicUsize,
    took: Mutex<Vec<Duration>>,
    started: Instant,
}

impl Tally {
    /// So many calls from now on.
    #[must_use]
    pub fn of(calls: usize) -> Self {
        Self {
            left: AtomicUsize::new(calls),
            took: Mutex::new(Vec::with_capacity(calls)),
            started: Instant::now(),
        }
    }

    /// The moment at which the next call starts; `None` when none is left.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        let one_less = |left: usize| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).ok().map(|_| Instant::now())
    }

    /// A call that started then has its answer now.
    pub fn ended(&self, started: Instant) {
        self.took.lock().unwrap_or_else(PoisonError::into_inner).push(started.elapsed());
    }

    /// The sum of it. What CPU time it cost, only the benchmark knows: [`Figures::costing`].
    #[must_use]
    pub fn finish(&self) -> Figures {
        let mut took = self.took.lock().unwrap_or_else(PoisonError::into_inner).clone();
        took.sort_unstable();
        Figures { took, wall: self.started.elapsed(), cpu: Duration::ZERO }
    }
}

/// What a number of calls cost.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    took: Vec<Duration>,
    wall: Duration,
    cpu: Duration,
}

impl Figures {
    /// With the CPU time that was spent on them, in whichever processes.
    #[must_use]
    pub fn costing(self, cpu: Duration) -> Self {
        Self { cpu, ..self }
    }

    /// Calls per second of wall time.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.count() / self.wall.as_secs_f64()
    }

    /// Seconds of CPU for ten thousand calls.
    #[must_use]
    pub fn cpu_for_ten_thousand(&self) -> f64 {
        self.cpu.as_secs_f64() / self.count() * 10_000.0
    }

    /// Calls per second of CPU time.
    #[must_use]
    pub fn per_cpu_second(&self) -> f64 {
        self.count() / self.cpu.as_secs_f64()
    }

    /// The latency that `share` (0.5, 0.99) of the calls did not exceed, in milliseconds.
    #[must_use]
    pub fn latency_ms(&self, share: f64) -> f64 {
        // Exact for any number of calls that a benchmark makes.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to the count")]
        let place = (self.count() * share) as usize;
        let at = self.took.get(place.min(self.took.len().saturating_sub(1)));
        at.copied().unwrap_or_default().as_secs_f64() * 1000.0
    }

    /// Together with other calls of the same kind, made at another time.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.took.extend(other.took);
        self.took.sort_unstable();
        Self { took: self.took, wall: self.wall + other.wall, cpu: self.cpu + other.cpu }
    }

    #[expect(clippy::cast_precision_loss, reason = "no benchmark makes 2^52 calls")]
    fn count(&self) -> f64 {
        self.took.len() as f64
    }
}

/// How often a second of this thread's CPU time does `work`.
#[must_use]
pub fn per_cpu_second<T>(mut work: impl FnMut() -> T) -> f64 {
    black_box(work());
    let (start, mut rounds) = (thread_cpu(), 0_u32);
    loop {
        for _ in 0..50 {
            black_box(work());
        }
        rounds += 50;
        let spent = thread_cpu() - start;
        if spent >= LONG_ENOUGH {
            return f64::from(rounds) / spent.as_secs_f64();
        }
    }
}

/// CPU time of a process so far, user and system, all threads; zero where there is no `/proc`.
#[must_use]
pub fn process_cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program comes first, in brackets, and may hold anything.
    let numbers = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    let ticks: u64 = numbers.skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * (1000 / TICKS_PER_SECOND))
}

/// Memory of a process in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Pages in memory, shared ones counted in full.
    pub rss: u64,
    /// Pages in memory, shared ones divided by the number of processes that share them.
    pub pss: u64,
}

/// Memory of a process now; zero where there is no `/proc`.
#[must_use]
pub fn memory(pid: u32) -> Memory {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).unwrap_or_default()
    };
    Memory { rss: field("Rss:"), pss: field("Pss:") }
}

/// Time that this thread had a core, so that a busy machine does not change the figures; wall time elsewhere.
fn thread_cpu() -> Duration {
    thread_local!(static START: Instant = Instant::now());
    let scheduled = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = scheduled.and_then(|text| text.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| START.with(Instant::elapsed), Duration::from_nanos)
}

/// Unit of the times in `/proc/PID/stat`: the same on every Linux that we run on.
const TICKS_PER_SECOND: u64 = 100;
/// Long enough for the kernel's accounting, which moves in ticks.
const LONG_ENOUGH: Duration = Duration::from_millis(if cfg!(debug_assertions) { 100 } else { 1500 });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_a_tally_is_made_once_and_counted() {
        let tally = Tally::of(100);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(started) = tally.next() {
                        tally.ended(started);
                    }
                });
            }
        });
        let figures = tally.finish().costing(Duration::from_secs(1));
        assert_eq!(figures.took.len(), 100);
        assert!((figures.cpu_for_ten_thousand() - 100.0).abs() < 1e-9);
        assert!((figures.clone().and(figures).per_cpu_second() - 100.0).abs() < 1e-9);
    }

    #[test]
    fn latencies_are_those_of_the_slowest_call_of_each_share() {
        let took = (1..=100).map(Duration::from_millis).collect();
        let figures = Figures { took, wall: Duration::from_secs(1), cpu: Duration::ZERO };
        assert!((figures.latency_ms(0.5) - 51.0).abs() < 1e-9);
        assert!((figures.latency_ms(1.0) - 100.0).abs() < 1e-9);
    }

    #[test]
    fn this_process_has_memory_and_a_process_that_is_not_there_has_none() {
        let ours = memory(std::process::id());
        assert!(ours.pss > 0 && ours.rss >= ours.pss, "{ours:?}");
        assert_eq!((memory(u32::MAX), process_cpu(u32::MAX)), (Memory::default(), Duration::ZERO));
    }
}
