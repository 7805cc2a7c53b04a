//! What the length of an answer changes.

use super::{
    super::{
        figure::{Figure, Line, Lines, Plot},
        format::bytes,
        numbers::{Numbers, Way},
        page::{Block, Section, Table},
    },
    cpu, leveled, ratio_cell, unless_empty,
};
use crate::experiment::data::{Arm, Factors, Metric};

pub(super) fn section(numbers: Numbers<'_>) -> Option<Section> {
    let payloads: Vec<(Way, Vec<&Arm>)> = super::compared()
        .into_iter()
        .map(|way| (way, of_way(numbers, way)))
        .filter(|(_, arms)| arms.len() > 1)
        .collect();
    let (_, none) = payloads.iter().find(|(way, _)| *way == Way::NONE)?;
    let against: Vec<(Way, &Arm, &Arm)> = payloads
        .iter()
        .filter(|(way, _)| *way != Way::NONE)
        .flat_map(|(way, arms)| arms.iter().map(move |arm| (*way, *arm)))
        .filter_map(|(way, arm)| Some((way, arm, same_payload(none, arm)?)))
        .collect();
    let mut blocks = vec![
        Block::text(
            "What proves the caller does not depend on how long the answer is; what encrypts the answer has all of it to do.",
        ),
        Block::Figure(figure(numbers, &payloads)),
        Block::Table(table(numbers, &against)),
    ];
    let sentences = against.iter().map(|(way, arm, none)| {
        let of = bytes(arm.factors.payload_bytes);
        numbers.sentence(
            Metric::CpuUsPerRequest,
            (arm, &format!("{} with answers of {of}", way.name())),
            (none, &Way::NONE.name()),
        )
    });
    let sentences: Vec<String> = sentences.collect();
    blocks.extend(Block::findings(sentences));
    unless_empty("payload", "Length of the answer", blocks)
}

fn of_way<'a>(numbers: Numbers<'a>, way: Way) -> Vec<&'a Arm> {
    let only_payload = |factors: &Factors, base: &Factors| {
        *factors == Factors { payload_bytes: factors.payload_bytes, ..base.clone() }
    };
    let mut arms: Vec<&Arm> = numbers.around(way, only_payload).collect();
    arms.sort_by_key(|arm| arm.factors.payload_bytes);
    arms
}

fn same_payload<'a>(none: &[&'a Arm], arm: &Arm) -> Option<&'a Arm> {
    none.iter().find(|none| none.factors.payload_bytes == arm.factors.payload_bytes).copied()
}

fn table(numbers: Numbers<'_>, against: &[(Way, &Arm, &Arm)]) -> Table {
    Table::new(
        format!("Answers over kept connections, against none with the same answer; {}", numbers.confidence()),
        ["Way and answer", "CPU µs", "CPU ÷ none", "p50 ÷ none", "Requests/s ÷ none"],
        against.iter().map(|(way, arm, none)| {
            let ratio = |metric| ratio_cell(numbers, arm, none, metric);
            [
                format!("{}, {}", way.name(), bytes(arm.factors.payload_bytes)),
                leveled(numbers.level(&arm.name, Metric::CpuUsPerRequest)),
                ratio(Metric::CpuUsPerRequest),
                ratio(Metric::P50Us),
                ratio(Metric::RequestsPerSecond),
            ]
        }),
    )
}

fn figure(numbers: Numbers<'_>, payloads: &[(Way, Vec<&Arm>)]) -> Figure {
    let line = |(way, arms): &(Way, Vec<&Arm>)| Line {
        name: way.name(),
        points: arms.iter().map(|arm| (f64::from(arm.factors.payload_bytes), cpu(numbers, arm))).collect(),
    };
    Figure {
        name: "payload",
        title: "CPU time for each request, by the length of the answer".to_owned(),
        description: format!(
            "Of all processes together, with the {}; the table below has the ratios.",
            numbers.confidence()
        ),
        plot: Plot::Lines(Lines {
            horizontal: "bytes of the answer (logarithmic)".to_owned(),
            vertical: "CPU time for each request, µs (logarithmic)".to_owned(),
            horizontal_logarithmic: true,
            vertical_logarithmic: true,
            series: payloads.iter().map(line).collect(),
        }),
    }
}
