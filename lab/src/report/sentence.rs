//! Sentences that the numbers write. None of them knows beforehand which side wins.

use super::{
    format::{duration, number, ratio_with_interval},
    numbers::Numbers,
};
use crate::experiment::data::{Arm, Effect, Interval, Metric};

/// Which way a comparison goes. Where the interval of a ratio contains 1 it goes no way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Less than the base, beyond what blocks vary by.
    Less,
    /// More, likewise.
    More,
    /// The interval contains "the same".
    NoDifference,
}

impl Verdict {
    /// By a ratio: the same is 1.
    pub(super) fn of_ratio(ratio: &Interval) -> Self {
        Self::around(ratio, 1.0)
    }

    /// By a difference: the same is 0.
    pub(super) fn of_difference(difference: &Interval) -> Self {
        Self::around(difference, 0.0)
    }

    fn around(interval: &Interval, same: f64) -> Self {
        match interval {
            interval if interval.high < same => Self::Less,
            interval if interval.low > same => Self::More,
            _ => Self::NoDifference,
        }
    }
}

impl Numbers<'_> {
    /// One sentence on `arm` against `base` in `metric`, by the names that the reader knows them by.
    pub(super) fn sentence(
        self,
        metric: Metric,
        (arm, arm_name): (&Arm, &str),
        (base, base_name): (&Arm, &str),
    ) -> String {
        let what = what_it_is(metric);
        let Some(effect) = self.compare(arm, base, metric) else {
            return format!(
                "{arm_name} and {base_name} were not compared in {what}: this run has too few blocks for an interval."
            );
        };
        let evidence = self.evidence(&effect);
        match Verdict::of_ratio(&effect.ratio) {
            Verdict::NoDifference => {
                format!("No difference was found in {what} between {arm_name} and {base_name} ({evidence}).")
            }
            verdict => format!(
                "{arm_name} {} {base_name} ({evidence}).",
                than(metric, verdict, effect.ratio.estimate)
            ),
        }
    }

    /// `ratio 0.77, 95 % interval 0.74 to 0.80; 38 µs less …`
    fn evidence(self, effect: &Effect) -> String {
        let Interval { low, high, .. } = effect.difference;
        let ratio = ratio_with_interval(&effect.ratio);
        let unit = |value: f64| in_its_unit(effect.metric, value);
        format!(
            "ratio {ratio}, difference {} ({} to {}); {}",
            unit(effect.difference.estimate),
            unit(low),
            unit(high),
            self.confidence()
        )
    }
}

/// `needs 23 % less CPU time for each request than`
fn than(metric: Metric, verdict: Verdict, ratio: f64) -> String {
    let verb = match metric {
        Metric::RequestsPerSecond => "answers",
        Metric::P50Us | Metric::P95Us | Metric::P99Us | Metric::P999Us => "has",
        Metric::CpuUsPerRequest | Metric::PssKib => "needs",
        Metric::BytesPerRequest => "sends",
    };
    let what = what_it_is(metric);
    if ratio >= 2.0 {
        return format!("{verb} {} times the {what} of", number(ratio));
    }
    let share = number((ratio - 1.0).abs() * 100.0);
    let (more, less) = match metric {
        Metric::P50Us | Metric::P95Us | Metric::P99Us | Metric::P999Us => {
            return format!(
                "has a {what} that is {share}\u{a0}% {} than that of",
                if verdict == Verdict::More { "longer" } else { "shorter" }
            );
        }
        Metric::RequestsPerSecond | Metric::BytesPerRequest => ("more", "fewer"),
        Metric::CpuUsPerRequest | Metric::PssKib => ("more", "less"),
    };
    format!("{verb} {share}\u{a0}% {} {what} than", if verdict == Verdict::More { more } else { less })
}

/// What a metric is, in the middle of a sentence.
pub(super) const fn what_it_is(metric: Metric) -> &'static str {
    match metric {
        Metric::RequestsPerSecond => "requests in a second",
        Metric::P50Us => "median latency",
        Metric::P95Us => "95th percentile of latency",
        Metric::P99Us => "99th percentile of latency",
        Metric::P999Us => "99.9th percentile of latency",
        Metric::CpuUsPerRequest => "CPU time for each request",
        Metric::BytesPerRequest => "bytes for each request",
        Metric::PssKib => "memory",
    }
}

fn in_its_unit(metric: Metric, value: f64) -> String {
    match metric {
        Metric::RequestsPerSecond => format!("{} a second", number(value)),
        Metric::P50Us | Metric::P95Us | Metric::P99Us | Metric::P999Us | Metric::CpuUsPerRequest => {
            duration(value)
        }
        Metric::BytesPerRequest => format!("{} B", number(value)),
        Metric::PssKib => format!("{} MiB", number(value / 1024.0)),
    }
}
