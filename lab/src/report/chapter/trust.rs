//! Why one may believe the figures, or not.

use std::collections::BTreeMap;

use super::super::{
    numbers::Numbers,
    page::{Block, Section, Table},
};
use crate::experiment::data::{Metric, Role};

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
    blocks.extend(Block::findings(twins(numbers)));
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
fn twins(numbers: Numbers<'_>) -> Vec<String> {
    let arms = numbers.experiment.arms.iter().filter(|arm| arm.role == Role::Twin);
    let pairs = arms.filter_map(|arm| Some((arm, numbers.base_of(arm)?)));
    pairs
        .flat_map(|(twin, base)| {
            [Metric::CpuUsPerRequest, Metric::P50Us].map(|metric| {
                let sentence = numbers.sentence(
                    metric,
                    (twin, &format!("“{}”", twin.name)),
                    (base, &format!("“{}”", base.name)),
                );
                format!("The same arm under two names, run by the same processes: {sentence}")
            })
        })
        .collect()
}

const BROKEN_SHOWN: usize = 20;
