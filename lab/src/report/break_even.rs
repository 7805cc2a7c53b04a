//! From how many requests on a connection one way is cheaper than another.
//!
//! A connection costs a handshake once and each request its own price. Fresh connections were measured, and kept ones, so
//! with n requests on each the cost is `kept + (fresh − kept) / n`, and the difference between two ways is a straight
//! line in 1/n. Where its interval, over blocks, leaves zero is where one of them is cheaper; in between no difference
//! was found. (Reading the interval off at each n is Fieller's construction: a ratio of two means has no other interval
//! when its denominator may be zero.)

use super::{
    numbers::{Numbers, Way},
    sentence::{Verdict, what_it_is},
};
use crate::experiment::{
    data::{Arm, Connections, Interval, Metric, exact},
    statistics,
};

/// One way against another, by requests on a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct BreakEven {
    /// With a new connection for each request.
    pub(super) fresh: Verdict,
    /// With connections that are kept for good.
    pub(super) kept: Verdict,
    /// Where the straight line crosses zero, if it does beyond one request.
    pub(super) estimate: Option<f64>,
    /// Up to so many requests it surely is as it is with one.
    pub(super) surely_until: Option<u32>,
    /// From so many requests on it surely is as it is with kept connections.
    pub(super) surely_from: Option<u32>,
}

/// The two arms of one way.
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    pub(super) kept: &'a Arm,
    pub(super) fresh: &'a Arm,
}

impl<'a> Pair<'a> {
    pub(super) fn of(numbers: Numbers<'a>, way: Way) -> Option<Self> {
        let arm = |connections| numbers.plain(way, connections);
        Some(Self { kept: arm(Connections::Kept)?, fresh: arm(Connections::Fresh)? })
    }
}

/// `way` against `base` in a metric that adds up over requests and handshakes. Nothing with too few blocks.
pub(super) fn of(numbers: Numbers<'_>, way: Pair<'_>, base: Pair<'_>, metric: Metric) -> Option<BreakEven> {
    let differences = differences(numbers, way, base, metric);
    let at = |requests: Option<u32>| {
        let samples: Vec<f64> = differences.iter().map(|block| block.with(requests)).collect();
        let interval = statistics::mean_interval(&samples, &numbers.experiment.design)?;
        Some(Verdict::of_difference(&interval))
    };
    let (fresh, kept) = (at(Some(1))?, at(None)?);
    let verdicts: Vec<(u32, Verdict)> = grid().filter_map(|n| Some((n, at(Some(n))?))).collect();
    let surely = |wanted: Verdict| wanted != Verdict::NoDifference;
    let until = verdicts.iter().take_while(|(_, verdict)| surely(fresh) && *verdict == fresh).last();
    let from = verdicts.iter().rev().take_while(|(_, verdict)| surely(kept) && *verdict == kept).last();
    Some(BreakEven {
        fresh,
        kept,
        estimate: crossing(&differences),
        surely_until: until.map(|(n, _)| *n),
        surely_from: from.map(|(n, _)| *n),
    })
}

impl BreakEven {
    /// In one sentence, with the metric, `way` and `base` by the names that the reader knows.
    pub(super) fn sentence(&self, metric: Metric, way: &str, base: &str, confidence: &str) -> String {
        format!("By {}: {}", what_it_is(metric), self.compared(way, base, confidence))
    }

    fn compared(&self, way: &str, base: &str, confidence: &str) -> String {
        use Verdict::{Less, More, NoDifference};
        let until = self.surely_until.unwrap_or(1);
        let from = self.surely_from.map_or_else(|| format!("more than {REQUESTS_MAX}"), |n| n.to_string());
        let about = |n: fn(f64) -> f64| {
            self.estimate.map_or_else(|| "some".to_owned(), |estimate| format!("about {}", n(estimate)))
        };
        let between = format!("{confidence}: between {until} and {from}");
        match (self.fresh, self.kept) {
            (Less, Less) => {
                format!(
                    "{way} is cheaper than {base} with a new connection for each request and with kept ones ({confidence}), so however many requests share one."
                )
            }
            (More, More) => {
                format!(
                    "{way} is dearer than {base} with a new connection for each request and with kept ones ({confidence}), so there is no number of requests on a connection from which it is cheaper."
                )
            }
            (More, Less) => format!(
                "{way} is cheaper than {base} from {} requests on a connection on, and dearer with fewer ({between}).",
                about(f64::ceil)
            ),
            (Less, More) => format!(
                "{way} is cheaper than {base} up to {} requests on a connection, and dearer with more ({between}).",
                about(f64::floor)
            ),
            (NoDifference, Less) => format!(
                "{way} is surely cheaper than {base} from {from} requests on a connection on ({confidence}); with fewer no difference was found."
            ),
            (NoDifference, More) => format!(
                "{way} is surely dearer than {base} from {from} requests on a connection on ({confidence}); with fewer no difference was found, so there is no number from which it is cheaper."
            ),
            (Less, NoDifference) => format!(
                "{way} is surely cheaper than {base} up to {until} requests on a connection ({confidence}); with more no difference was found."
            ),
            (More, NoDifference) => format!(
                "{way} is surely dearer than {base} up to {until} requests on a connection ({confidence}); with more no difference was found, so no number can be named from which it is cheaper."
            ),
            (NoDifference, NoDifference) => format!(
                "No difference was found between {way} and {base}, neither with a new connection for each request nor with kept ones, so there is nothing to break even ({confidence})."
            ),
        }
    }

    /// In a cell of a table.
    pub(super) fn cell(&self) -> String {
        use Verdict::{Less, More, NoDifference};
        let from = self.surely_from.map_or_else(|| format!("> {REQUESTS_MAX}"), |n| n.to_string());
        let until = self.surely_until.unwrap_or(1);
        let about =
            |n: fn(f64) -> f64| self.estimate.map_or_else(String::new, |estimate| n(estimate).to_string());
        match (self.fresh, self.kept) {
            (Less, Less) => "always".to_owned(),
            (More, More) => "never".to_owned(),
            (More, Less) => format!("from {} on ({until} to {from})", about(f64::ceil)),
            (Less, More) => format!("up to {} ({until} to {from})", about(f64::floor)),
            (NoDifference, Less) => format!("surely from {from} on"),
            (Less, NoDifference) => format!("surely up to {until}"),
            (NoDifference | More, NoDifference) | (NoDifference, More) => "not found".to_owned(),
        }
    }
}

/// What a request costs by how many share a connection, with its interval.
pub(super) fn curve(numbers: Numbers<'_>, pair: Pair<'_>, metric: Metric) -> Vec<(f64, Interval)> {
    let blocks = in_blocks(numbers, pair, metric);
    let at = |requests: u32| {
        let samples: Vec<f64> = blocks.iter().map(|block| block.with(Some(requests))).collect();
        Some((f64::from(requests), statistics::mean_interval(&samples, &numbers.experiment.design)?))
    };
    CURVE.into_iter().filter_map(at).collect()
}

/// What one block says.
struct InBlock {
    block: u32,
    kept: f64,
    fresh: f64,
}

impl InBlock {
    fn with(&self, requests: Option<u32>) -> f64 {
        requests.map_or(self.kept, |n| self.kept + (self.fresh - self.kept) / f64::from(n))
    }
}

/// `way` minus `base`.
fn differences(numbers: Numbers<'_>, way: Pair<'_>, base: Pair<'_>, metric: Metric) -> Vec<InBlock> {
    let [way, base] = [way, base].map(|pair| in_blocks(numbers, pair, metric));
    let of_base = |block: u32| base.iter().find(|in_block| in_block.block == block);
    let minus = |of_way: &InBlock| {
        let base = of_base(of_way.block)?;
        Some(InBlock { kept: of_way.kept - base.kept, fresh: of_way.fresh - base.fresh, ..*of_way })
    };
    way.iter().filter_map(minus).collect()
}

fn in_blocks(numbers: Numbers<'_>, pair: Pair<'_>, metric: Metric) -> Vec<InBlock> {
    let of = |arm: &Arm, block: u32| {
        let mut trials = numbers.experiment.trials_of(&arm.name);
        trials.find(|trial| trial.block == block).map(|trial| metric.of(trial))
    };
    let blocks = 1..=numbers.experiment.design.blocks;
    blocks
        .filter_map(|block| {
            Some(InBlock { block, kept: of(pair.kept, block)?, fresh: of(pair.fresh, block)? })
        })
        .collect()
}

/// Where `kept + (fresh − kept) / n` is zero on average.
fn crossing(differences: &[InBlock]) -> Option<f64> {
    let count = exact(differences.len().max(1) as u64);
    let kept = differences.iter().map(|block| block.kept).sum::<f64>() / count;
    let fresh = differences.iter().map(|block| block.fresh).sum::<f64>() / count;
    let requests = (kept - fresh) / kept;
    (requests.is_finite() && requests >= 1.0).then_some(requests)
}

/// Every number of requests up to ten, then a fifth more each time.
fn grid() -> impl Iterator<Item = u32> {
    let next = |n: &u32| Some(n + (n / 5).max(1));
    std::iter::successors(Some(1), next).take_while(|n| *n <= REQUESTS_MAX)
}

/// Connections that carry more than this are as good as kept for good.
const REQUESTS_MAX: u32 = 10_000;
/// Where a curve is drawn.
const CURVE: [u32; 10] = [1, 2, 3, 5, 10, 20, 50, 100, 300, 1000];
