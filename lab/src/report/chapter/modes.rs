//! Every way to prove who is calling, beside each other.

use super::{
    super::{
        figure::{Figure, Intervals, Plot, Row},
        format::number,
        numbers::{Numbers, Way},
        page::{Block, Section, Table},
    },
    NOT_COMPARED, cpu, leveled, ratio_cell, unless_empty,
    verdicts::over,
};
use crate::experiment::data::{Arm, Connections, Interval, LabMode, Metric};

pub(super) fn section(numbers: Numbers<'_>) -> Option<Section> {
    let services = numbers.services();
    let mut blocks = Vec::new();
    for (place, service) in services.iter().enumerate() {
        blocks.extend(service.map(|name| Block::Heading(format!("Service {name}"))));
        blocks.extend(of_service(numbers, *service, place));
    }
    unless_empty("ways", "What each way costs", blocks)
}

fn of_service(numbers: Numbers<'_>, service: Option<&str>, place: usize) -> Vec<Block> {
    let mut blocks = Vec::new();
    for connections in [Connections::Kept, Connections::Fresh] {
        let arms: Vec<&Arm> = numbers.plains(service, connections).collect();
        if !arms.is_empty() {
            blocks.push(Block::Table(table(numbers, &arms, connections)));
        }
    }
    // A figure has a name of its own, so there is one for the first few services.
    let figures = FIGURES.get(place).filter(|_| !blocks.is_empty());
    blocks.extend(figures.into_iter().flat_map(|(costs, waits)| {
        [Block::Figure(costs_of(numbers, service, costs)), Block::Figure(waits_of(numbers, service, waits))]
    }));
    blocks.extend(Block::findings(findings(numbers, service)));
    blocks
}

fn table(numbers: Numbers<'_>, arms: &[&Arm], connections: Connections) -> Table {
    let none = arms.iter().find(|arm| arm.factors.mode == LabMode::None);
    let level = |arm: &Arm, metric, per: f64| {
        numbers
            .told(&arm.name, metric)
            .map_or_else(|| NOT_COMPARED.to_owned(), |level| number(level.mean / per))
    };
    // Sidecars count none.
    let bytes = |arm: &Arm| match numbers.level(&arm.name, Metric::BytesPerRequest).mean {
        bytes if bytes > 0.0 => number(bytes),
        _ => NOT_COMPARED.to_owned(),
    };
    Table::new(
        format!(
            "Ways {}: means over all blocks; CPU time and its ratio to none with their {}{}",
            over(connections),
            numbers.confidence(),
            if are_there(numbers, arms) { "" } else { TOO_FEW }
        ),
        [
            "Way",
            "CPU µs",
            "CPU ÷ none",
            "Requests/s",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "p99.9 ms",
            "Bytes",
            "Memory MiB",
        ],
        arms.iter().map(|arm| {
            [
                Way::of(&arm.factors).name(),
                leveled(numbers.level(&arm.name, Metric::CpuUsPerRequest)),
                match none {
                    Some(none) if none.name == arm.name => "1".to_owned(),
                    Some(none) => ratio_cell(numbers, arm, none, Metric::CpuUsPerRequest),
                    None => NOT_COMPARED.to_owned(),
                },
                level(arm, Metric::RequestsPerSecond, 1.0),
                level(arm, Metric::P50Us, 1000.0),
                level(arm, Metric::P95Us, 1000.0),
                level(arm, Metric::P99Us, 1000.0),
                level(arm, Metric::P999Us, 1000.0),
                bytes(arm),
                level(arm, Metric::PssKib, 1024.0),
            ]
        }),
    )
}

/// Had all of them enough answers for every percentile?
fn are_there(numbers: Numbers<'_>, arms: &[&Arm]) -> bool {
    arms.iter().all(|arm| numbers.has_answers_for(&arm.name, Metric::P999Us))
}

fn costs_of(numbers: Numbers<'_>, service: Option<&str>, name: &'static str) -> Figure {
    let kinds = [Connections::Kept, Connections::Fresh];
    let has = |connections: &Connections| numbers.plains(service, *connections).next().is_some();
    let kinds: Vec<Connections> = kinds.into_iter().filter(has).collect();
    let rows = ways(numbers, service).into_iter().map(|way| {
        let of = |connections: &Connections| {
            numbers.plain_of(service, way, *connections).map(|arm| cpu(numbers, arm))
        };
        Row { name: way.name(), values: kinds.iter().map(of).collect() }
    });
    let rows: Vec<Row> = rows.collect();
    Figure {
        name,
        title: "CPU time for each request".to_owned(),
        description: format!(
            "Of all processes of the chain, in microseconds, with the {}. {}",
            numbers.confidence(),
            cheapest_and_dearest(&rows, &kinds)
        ),
        plot: Plot::Intervals(Intervals {
            axis: "CPU time for each request, µs (logarithmic)".to_owned(),
            reference: None,
            logarithmic: true,
            series: kinds.iter().map(|connections| over(*connections).to_owned()).collect(),
            rows,
        }),
    }
}

/// What the eye would see first.
fn cheapest_and_dearest(rows: &[Row], kinds: &[Connections]) -> String {
    let of_kind = |(series, connections): (usize, &Connections)| {
        let mut seen: Vec<(&str, f64)> = rows
            .iter()
            .filter_map(|row| Some((row.name.as_str(), row.values.get(series).copied().flatten()?.estimate)))
            .collect();
        seen.sort_by(|(_, a), (_, b)| a.total_cmp(b));
        let ((low, least), (high, most)) = (seen.first()?, seen.last()?);
        Some(format!(
            "The least {} is {low} at {} µs, the most {high} at {} µs.",
            over(*connections),
            number(*least),
            number(*most)
        ))
    };
    kinds.iter().enumerate().filter_map(of_kind).collect::<Vec<_>>().join(" ")
}

fn waits_of(numbers: Numbers<'_>, service: Option<&str>, name: &'static str) -> Figure {
    let metrics = [(Metric::P50Us, "half are not slower"), (Metric::P99Us, "99 of 100 are not slower")];
    let rows = numbers.plains(service, Connections::Kept).map(|arm| {
        let in_ms = |metric| {
            let Interval { estimate, low, high } = numbers.told(&arm.name, metric)?.as_interval();
            Some(Interval { estimate: estimate / 1000.0, low: low / 1000.0, high: high / 1000.0 })
        };
        Row {
            name: Way::of(&arm.factors).name(),
            values: metrics.iter().map(|(metric, _)| in_ms(*metric)).collect(),
        }
    });
    Figure {
        name,
        title: "How long answers took over kept connections".to_owned(),
        description: format!(
            "Median and 99th percentile in milliseconds, with the {}. Under this load part of it is waiting for a core.",
            numbers.confidence()
        ),
        plot: Plot::Intervals(Intervals {
            axis: "latency, ms (logarithmic)".to_owned(),
            reference: None,
            logarithmic: true,
            series: metrics.iter().map(|(_, name)| (*name).to_owned()).collect(),
            rows: rows.collect(),
        }),
    }
}

fn ways(numbers: Numbers<'_>, service: Option<&str>) -> Vec<Way> {
    let mut ways = Vec::new();
    for connections in [Connections::Kept, Connections::Fresh] {
        for way in numbers.plains(service, connections).map(|arm| Way::of(&arm.factors)) {
            if !ways.contains(&way) {
                ways.push(way);
            }
        }
    }
    ways
}

/// Each way against no proof at all, and the proofs that are copied against the one that is not.
fn findings(numbers: Numbers<'_>, service: Option<&str>) -> Vec<String> {
    let arm = |way, connections| numbers.plain_of(service, way, connections);
    let mut findings = Vec::new();
    let mut say = |metric, way: Way, base: Way, connections| {
        let arms = arm(way, connections).zip(arm(base, connections));
        findings.extend(arms.map(|(arm, base_arm)| {
            let over = over(connections);
            numbers.sentence(metric, (arm, &format!("{} {over}", way.name())), (base_arm, &base.name()))
        }));
    };
    for metric in [Metric::CpuUsPerRequest, Metric::RequestsPerSecond, Metric::P99Us] {
        say(metric, Way::MTLS, Way::NONE, Connections::Kept);
    }
    say(Metric::CpuUsPerRequest, Way::MTLS, Way::TLS, Connections::Kept);
    say(Metric::CpuUsPerRequest, Way::MTLS, Way::TLS, Connections::Fresh);
    for mode in [LabMode::Bearer, LabMode::Macaroon] {
        let copied = Way { mode, signing: None, wimse: None };
        say(Metric::CpuUsPerRequest, copied, Way::MTLS, Connections::Kept);
    }
    findings
}

const TOO_FEW: &str = "; – where a trial had too few answers for a percentile to have one beyond it";
const FIGURES: [(&str, &str); 4] =
    [("cpu", "latency"), ("cpu-2", "latency-2"), ("cpu-3", "latency-3"), ("cpu-4", "latency-4")];
