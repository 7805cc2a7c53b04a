//! Why one may believe the figures, or not.

use std::collections::BTreeMap;

use super::super::{
    numbers::Numbers,
    page::{Block, Section, Table},
};
use crate::experiment::data::{Arm, Metric, Role};

pub(super) fn section(numbers: Numbers<'_>) -> Section {
    let mut blocks = vec![
        Block::text(
            "An arm says of itself what its callees must have seen: the mode in which they verified the caller, the user, how many \
             connections and handshakes there were and of which kind, the group in which keys were agreed on, and no bad \
             answer. The callees counted it in every trial.",
        ),
        Block::Table(claims(numbers)),
    ];
    blocks.extend(broken(numbers));
    if !numbers.experiment.checks.is_empty() {
        let rows = numbers.experiment.checks.iter().map(|check| {
            [check.name.clone(), if check.holds { "held" } else { "failed" }.to_owned(), check.found.clone()]
        });
        blocks.push(Block::Table(Table::new(
            "The experiment's own checks",
            ["Check", "Result", "Found"],
            rows,
        )));
    }
    blocks.extend(Block::findings(twins(numbers).chain(planted(numbers))));
    Section::new("trust", "May one believe it?", blocks)
}

fn claims(numbers: Numbers<'_>) -> Table {
    let mut kept: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for claim in numbers.experiment.trials.iter().flat_map(|trial| &trial.claims) {
        let (held, all) = kept.entry(claim.claim.as_str()).or_default();
        *held += u32::from(claim.holds);
        *all += 1;
    }
    Table::new(
        "Claims of all trials",
        ["Claim", "Held", "Of"],
        kept.into_iter().map(|(claim, (held, all))| [claim.to_owned(), held.to_string(), all.to_string()]),
    )
}

fn broken(numbers: Numbers<'_>) -> Option<Block> {
    let rows: Vec<[String; 4]> = numbers
        .experiment
        .broken_claims()
        .take(BROKEN_SHOWN)
        .map(|(trial, claim)| {
            [
                trial.arm.clone(),
                trial.block.to_string(),
                claim.claim.as_str().to_owned(),
                claim.counted.clone(),
            ]
        })
        .collect();
    let caption = format!("Claims that do not hold, the first {BROKEN_SHOWN} of them");
    (!rows.is_empty()).then(|| Block::Table(Table::new(caption, ["Arm", "Block", "Claim", "Counted"], rows)))
}

/// Arms that differ from their base in nothing but their name.
fn twins(numbers: Numbers<'_>) -> impl Iterator<Item = String> {
    let twins = beside(numbers, |role| role == Role::Twin);
    twins.flat_map(move |(twin, base)| {
        [Metric::CpuUsPerRequest, Metric::P50Us].map(|metric| {
            let sentence = against(numbers, metric, twin, base);
            format!("The same arm under two names, run by the same processes: {sentence}")
        })
    })
}

/// Arms in which somebody wanted a delay to be found.
fn planted(numbers: Numbers<'_>) -> impl Iterator<Item = String> {
    let planted = beside(numbers, |role| matches!(role, Role::Planted { .. }));
    planted.map(move |(delayed, base)| {
        let sentence = against(numbers, Metric::P50Us, delayed, base);
        format!("A delay that was planted: {sentence}")
    })
}

/// Arms of such a role, each with what it is held against.
fn beside<'a>(numbers: Numbers<'a>, is_it: fn(Role) -> bool) -> impl Iterator<Item = (&'a Arm, &'a Arm)> {
    let arms = numbers.experiment.arms.iter().filter(move |arm| is_it(arm.role));
    arms.filter_map(move |arm| Some((arm, numbers.base_of(arm)?)))
}

fn against(numbers: Numbers<'_>, metric: Metric, arm: &Arm, base: &Arm) -> String {
    let [name, base_name] = [arm, base].map(|arm| format!("“{}”", arm.name));
    numbers.sentence(metric, (arm, &name), (base, &base_name))
}

const BROKEN_SHOWN: usize = 20;
