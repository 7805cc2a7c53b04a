//! What every further service in a row costs.

use super::{
    super::{
        figure::{Figure, Line, Lines, Plot},
        format::in_one_unit,
        numbers::{Numbers, Way},
        page::{Block, Section, Table},
        sentence::Verdict,
    },
    cpu, leveled, unless_empty,
};
use crate::experiment::data::{Arm, Factors, Interval, Metric};

pub(super) fn section(numbers: Numbers<'_>) -> Option<Section> {
    let chains: Vec<(Way, Vec<&Arm>)> = super::compared()
        .into_iter()
        .map(|way| (way, of_way(numbers, way)))
        .filter(|(_, arms)| arms.len() > 1)
        .collect();
    if chains.is_empty() {
        return None;
    }
    let mut blocks = vec![
        Block::text(
            "A request of a user rarely ends at the first service, and every edge behind it is authenticated again.",
        ),
        Block::Figure(figure(numbers, &chains)),
        Block::Table(table(numbers, &chains)),
    ];
    let sentences: Vec<String> =
        chains.iter().filter_map(|(way, arms)| each_edge(numbers, *way, arms)).collect();
    blocks.extend(Block::findings(sentences));
    unless_empty("chain", "Length of the chain", blocks)
}

fn of_way<'a>(numbers: Numbers<'a>, way: Way) -> Vec<&'a Arm> {
    let only_edges =
        |factors: &Factors, base: &Factors| *factors == Factors { edges: factors.edges, ..base.clone() };
    let mut arms: Vec<&Arm> = numbers.around(way, only_edges).collect();
    arms.sort_by_key(|arm| arm.factors.edges);
    arms
}

fn table(numbers: Numbers<'_>, chains: &[(Way, Vec<&Arm>)]) -> Table {
    let rows = chains.iter().flat_map(|(way, arms)| arms.iter().map(move |arm| (way, *arm)));
    Table::new(
        format!("Chains over kept connections; {}", numbers.confidence()),
        ["Way and edges", "CPU µs", "p50 µs", "p99 µs", "Requests/s"],
        rows.map(|(way, arm)| {
            let level = |metric| leveled(numbers.level(&arm.name, metric));
            [
                format!("{}, {}", way.name(), arm.factors.edges),
                level(Metric::CpuUsPerRequest),
                level(Metric::P50Us),
                level(Metric::P99Us),
                level(Metric::RequestsPerSecond),
            ]
        }),
    )
}

/// The longest chain minus the shortest, by the edges between them.
fn each_edge(numbers: Numbers<'_>, way: Way, arms: &[&Arm]) -> Option<String> {
    let (shortest, longest) = (arms.first()?, arms.last()?);
    let difference = numbers.compare(longest, shortest, Metric::CpuUsPerRequest)?.difference;
    let edges = f64::from(longest.factors.edges.checked_sub(shortest.factors.edges)?);
    let each = |value: f64| value / edges;
    let Interval { estimate, low, high } = difference;
    let each = Interval { estimate: each(estimate), low: each(low), high: each(high) };
    let (unit, [estimate, low, high]) = in_one_unit(&each);
    let evidence = format!("{} {low} to {high}", numbers.confidence());
    let (way, of) = (way.name(), format!("{estimate}\u{a0}{unit}"));
    Some(match Verdict::of_difference(&difference) {
        Verdict::More => format!("Each further edge costs {of} of CPU time with {way} ({evidence})."),
        Verdict::Less => {
            format!("Longer chains needed less CPU time with {way}: {of} for each edge ({evidence}).")
        }
        Verdict::NoDifference => {
            format!("No cost of a further edge was found with {way} ({of} of CPU time; {evidence}).")
        }
    })
}

fn figure(numbers: Numbers<'_>, chains: &[(Way, Vec<&Arm>)]) -> Figure {
    let line = |(way, arms): &(Way, Vec<&Arm>)| Line {
        name: way.name(),
        points: arms.iter().map(|arm| (f64::from(arm.factors.edges), cpu(numbers, arm))).collect(),
    };
    Figure {
        name: "chain",
        title: "CPU time for each request, by the length of the chain".to_owned(),
        description: format!(
            "Of all processes together, with the {}; the table below has the numbers.",
            numbers.confidence()
        ),
        plot: Plot::Lines(Lines {
            horizontal: "authenticated edges".to_owned(),
            vertical: "CPU time for each request, µs".to_owned(),
            horizontal_logarithmic: false,
            vertical_logarithmic: false,
            series: chains.iter().map(line).collect(),
        }),
    }
}
