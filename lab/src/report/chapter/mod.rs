//! The order of the chapter. What stands where is said here alone; each part is a file.

mod binding;
mod chain;
mod code;
mod connections;
mod key_exchange;
mod method;
mod modes;
mod payload;
mod raw;
mod set_up;
mod summary;
mod threats;
mod trust;
mod users;
mod verdicts;

use super::{
    format::{duration_with_interval, number, range, ratio_with_interval},
    numbers::{Level, Numbers, Way},
    page::{Block, Page, Section},
};
use crate::experiment::{
    Experiment,
    data::{Arm, Interval, Metric, Profile, Signing},
};

/// The whole chapter.
pub(super) fn of(experiment: &Experiment) -> Page {
    let numbers = Numbers { experiment };
    let before =
        [Some(summary::section(numbers)), Some(set_up::section(numbers)), Some(method::section(numbers))];
    let after = [Some(trust::section(numbers)), Some(threats::section(numbers)), Some(raw::section())];
    let sections = before.into_iter().chain(results(numbers)).chain(after).flatten().collect();
    Page {
        title: title(experiment.profile).to_owned(),
        subtitle: format!(
            "Measured {} with Countersign {}, {}",
            experiment.started, experiment.build.version, experiment.machine.cpu
        ),
        sections,
    }
}

/// What this run has numbers for.
fn results(numbers: Numbers<'_>) -> [Option<Section>; 9] {
    [
        modes::section(numbers),
        connections::section(numbers),
        binding::section(numbers),
        users::section(numbers),
        chain::section(numbers),
        payload::section(numbers),
        key_exchange::section(numbers),
        code::section(numbers),
        verdicts::section(numbers),
    ]
}

const fn title(profile: Profile) -> &'static str {
    match profile {
        Profile::Thesis | Profile::Quick => "What it costs to prove who is calling",
        Profile::SelfCheck => "Does the experiment find what is there, and nothing else?",
        Profile::Target => "What it costs your services to prove who is calling",
    }
}

/// The ways that longer chains and answers are compared in.
const fn compared() -> [Way; 3] {
    [Way::NONE, Way::jwt(Signing::Es256), Way::MTLS]
}

/// A section, unless there is nothing to say in it.
fn unless_empty(id: &'static str, title: &str, blocks: Vec<Block>) -> Option<Section> {
    (!blocks.is_empty()).then(|| Section::new(id, title, blocks))
}

/// `310 (298 to 322)`, or the mean alone.
fn leveled(level: Level) -> String {
    level.interval.map_or_else(
        || number(level.mean),
        |interval| unbroken(&format!("{} ({})", number(interval.estimate), range(&interval))),
    )
}

/// CPU time of an arm for each request, in microseconds.
fn cpu(numbers: Numbers<'_>, arm: &Arm) -> Interval {
    numbers.level(&arm.name, Metric::CpuUsPerRequest).as_interval()
}

/// An arm divided by another, in a cell.
fn ratio_cell(numbers: Numbers<'_>, arm: &Arm, base: &Arm, metric: Metric) -> String {
    let effect = numbers.compare(arm, base, metric);
    effect.map_or_else(|| NOT_COMPARED.to_owned(), |effect| unbroken(&ratio_with_interval(&effect.ratio)))
}

/// An arm minus another, in a cell: microseconds.
fn difference_cell(numbers: Numbers<'_>, arm: &Arm, base: &Arm, metric: Metric) -> String {
    let effect = numbers.compare(arm, base, metric);
    effect.map_or_else(
        || NOT_COMPARED.to_owned(),
        |effect| unbroken(&duration_with_interval(&effect.difference)),
    )
}

/// For a cell: a line may end before an interval and not in it.
fn unbroken(text: &str) -> String {
    text.replace(' ', "\u{a0}").replacen("\u{a0}(", " (", 1)
}

const NOT_COMPARED: &str = "–";
