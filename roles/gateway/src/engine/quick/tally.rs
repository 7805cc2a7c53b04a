//! Calls counted by status and latency, until the metrics ask for them.

/// The counts of one standing.
#[derive(Default)]
pub(super) struct Tally(Vec<(u16, Box<Latencies>)>);

/// How many calls took how long: four steps to each doubling, so that none is told by more than a ninth off.
pub(crate) struct Latencies([u32; STEPS]);

impl Tally {
    /// Counts a call.
    pub(super) fn add(&mut self, status: u16, latency_us: u32) {
        let step = step_of(latency_us);
        let known = self.0.iter_mut().find(|(known, _)| *known == status);
        let count = match known {
            Some((_, latencies)) => latencies.0.get_mut(step),
            None => {
                self.0.push((status, Box::new(Latencies([0; STEPS]))));
                self.0.last_mut().and_then(|(_, latencies)| latencies.0.get_mut(step))
            }
        };
        if let Some(count) = count {
            *count = count.saturating_add(1);
        }
    }

    /// Gives what was counted, and forgets it.
    pub(super) fn take(&mut self, mut told: impl FnMut(u16, &Latencies)) {
        for (status, latencies) in std::mem::take(&mut self.0) {
            told(status, &latencies);
        }
    }
}

impl Latencies {
    /// How many calls.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|count| u64::from(*count)).sum()
    }

    /// Seconds, and how many calls took about so long.
    pub(crate) fn samples(&self) -> impl Iterator<Item = (f64, usize)> {
        let counted = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        counted.map(|(step, count)| (middle_of(step), usize::try_from(*count).unwrap_or(usize::MAX)))
    }
}

/// The position of the highest bit, and the two bits after it.
fn step_of(latency_us: u32) -> usize {
    let number = latency_us.max(4);
    let doubling = 31 - number.leading_zeros();
    let quarter = (number >> (doubling - 2)) & 3;
    usize::try_from((doubling - 2) * 4 + quarter).unwrap_or(STEPS - 1).min(STEPS - 1)
}

fn middle_of(step: usize) -> f64 {
    let (doubling, quarter) = (step / 4, step % 4);
    let quarters = 4.0 + f64::from(u8::try_from(quarter).unwrap_or_default()) + 0.5;
    let doublings = 2_f64.powi(i32::try_from(doubling).unwrap_or_default());
    quarters * doublings / 1e6
}

/// Thirty doublings from four microseconds.
const STEPS: usize = 120;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_latency_is_told_within_a_ninth() {
        for latency in [4, 5, 7, 8, 100, 999, 1_000, 123_456, 30_000_000] {
            let told = middle_of(step_of(latency)) * 1e6;
            let off = (told - f64::from(latency)).abs() / f64::from(latency);
            assert!(off <= 0.13, "{latency} is told as {told}");
        }
        assert_eq!((step_of(0), step_of(u32::MAX)), (0, STEPS - 1));
    }

    #[test]
    fn what_was_counted_is_given_once() {
        let mut tally = Tally::default();
        for status in [200, 200, 404] {
            tally.add(status, 100);
        }
        let mut told = Vec::new();
        tally.take(|status, latencies| told.push((status, latencies.count())));
        assert_eq!(told, [(200, 2), (404, 1)]);
        tally.take(|_, _| panic!("it was taken"));
    }
}
