//! Sentences that the numbers write. None of them knows beforehand which side wins.

use super::{
    format::{in_one_unit, number, ratio, ratio_range},
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
        let the = if matches!(metric, Metric::P95Us | Metric::P99Us | Metric::P999Us) { "the " } else { "" };
        if ![arm, base].iter().all(|arm| self.has_answers_for(&arm.name, metric)) {
            return format!(
                "{arm_name} and {base_name} were not compared in {the}{what}: a trial had fewer than {} answers, of which not one is slower.",
                metric.answers_min()
            );
        }
        let Some(effect) = self.compare(arm, base, metric) else {
            return format!(
                "{arm_name} and {base_name} were not compared in {the}{what}: this run has too few blocks for an interval."
            );
        };
        let evidence = self.evidence(&effect);
        match Verdict::of_ratio(&effect.ratio) {
            Verdict::NoDifference => {
                format!(
                    "No difference was found in {the}{what} between {arm_name} and {base_name} ({evidence})."
                )
            }
            verdict => format!(
                "{arm_name} {} {base_name} ({evidence}).",
                than(metric, verdict, effect.ratio.estimate)
            ),
        }
    }

    /// `ratio 0.77, 95 % interval 0.74 to 0.80; difference −38 µs, −45 to −31`
    fn evidence(self, effect: &Effect) -> String {
        let (unit, [estimate, low, high]) = in_its_unit(effect.metric, &effect.difference);
        format!(
            "ratio {}, {} {}; difference {estimate}\u{a0}{unit}, {low} to {high}",
            ratio(effect.ratio.estimate),
            self.confidence(),
            ratio_range(&effect.ratio)
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
    let share = share((ratio - 1.0).abs());
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

/// The unit, and what estimate, low and high are in it.
fn in_its_unit(metric: Metric, difference: &Interval) -> (&'static str, [String; 3]) {
    let by =
        |per: f64| [difference.estimate, difference.low, difference.high].map(|value| number(value / per));
    match metric {
        Metric::RequestsPerSecond => ("a second", by(1.0)),
        Metric::P50Us | Metric::P95Us | Metric::P99Us | Metric::P999Us | Metric::CpuUsPerRequest => {
            in_one_unit(difference)
        }
        Metric::BytesPerRequest => ("B", by(1.0)),
        Metric::PssKib => ("MiB", by(1024.0)),
    }
}

/// Per cent, as exactly as anybody could mean it: `40`, `3.4`.
fn share(of_one: f64) -> String {
    let percent = of_one * 100.0;
    if percent >= 9.95 { format!("{percent:.0}") } else { format!("{percent:.1}") }
}
