//! What a connection costs, and how many requests it takes to pay for it.

use super::{
    super::{
        break_even::{self, Pair},
        figure::{Figure, Line, Lines, Plot},
        format::number,
        numbers::{Numbers, Way},
        page::{Block, Section, Table},
    },
    difference_cell, unless_empty,
};
use crate::experiment::data::{Connections, LabMode, Metric, Signing};

pub(super) fn section(numbers: Numbers<'_>) -> Option<Section> {
    let pairs: Vec<(Way, Pair<'_>)> = numbers
        .plains(None, Connections::Kept)
        .map(|arm| Way::of(&arm.factors))
        .filter_map(|way| Some((way, Pair::of(numbers, way)?)))
        .collect();
    if pairs.is_empty() {
        return None;
    }
    let mut blocks = vec![
        Block::text(
            "A handshake is paid for once for each connection, a token once for each request. So which of two ways is \
             cheaper depends on how many requests share a connection. A fresh connection minus a kept one is what the \
             connection costs: TCP, the TLS handshake where there is one, and the preface of HTTP/2, on every edge of the chain.",
        ),
        Block::Table(prices(numbers, &pairs)),
    ];
    blocks.extend(against_mtls(numbers, &pairs));
    blocks.extend(curves(numbers));
    unless_empty("connections", "Connections: from how many requests on", blocks)
}

fn prices(numbers: Numbers<'_>, pairs: &[(Way, Pair<'_>)]) -> Table {
    Table::new(
        format!(
            "What new connections on all edges cost for each request: fresh minus kept, with the {}",
            numbers.confidence()
        ),
        ["Way", "CPU", "Median latency", "Bytes"],
        pairs.iter().map(|(way, Pair { kept, fresh })| {
            let bytes = numbers.compare(fresh, kept, Metric::BytesPerRequest);
            [
                way.name(),
                difference_cell(numbers, fresh, kept, Metric::CpuUsPerRequest),
                difference_cell(numbers, fresh, kept, Metric::P50Us),
                bytes.map_or_else(|| "–".to_owned(), |effect| number(effect.difference.estimate)),
            ]
        }),
    )
}

/// The break-even of mutual TLS with each way that proves the caller in every request.
fn against_mtls(numbers: Numbers<'_>, pairs: &[(Way, Pair<'_>)]) -> Vec<Block> {
    let Some((_, mtls)) = pairs.iter().find(|(way, _)| *way == Way::MTLS) else { return Vec::new() };
    let in_requests = |mode| !matches!(mode, LabMode::None | LabMode::Tls | LabMode::Mtls | LabMode::MtlsJwt);
    let others = pairs.iter().filter(|(way, _)| in_requests(way.mode));
    let evens: Vec<_> = others
        .filter_map(|(way, pair)| {
            let even = |metric| break_even::of(numbers, *mtls, *pair, metric);
            Some((way.name(), even(Metric::CpuUsPerRequest)?, even(Metric::BytesPerRequest)?))
        })
        .collect();
    if evens.is_empty() {
        return vec![Block::text("This run has too few blocks for a break-even with its interval.")];
    }
    let table = Table::new(
        format!(
            "From how many requests on a connection mtls is cheaper than the way of the row, with the {}",
            numbers.confidence()
        ),
        ["Way", "In CPU time", "In bytes"],
        evens.iter().map(|(name, cpu, bytes)| [name.clone(), cpu.cell(), bytes.cell()]),
    );
    let sentences = evens.iter().filter(|(name, ..)| name.starts_with("jwt"));
    let sentences = sentences
        .map(|(name, cpu, _)| cpu.sentence(Metric::CpuUsPerRequest, "mtls", name, &numbers.confidence()));
    [Block::Table(table)].into_iter().chain(Block::findings(sentences)).collect()
}

fn curves(numbers: Numbers<'_>) -> Option<Block> {
    let ways = [Way::TLS, Way::MTLS, Way::jwt(Signing::Es256), Way::jwt(Signing::Rs256)];
    let line = |way: Way| {
        let pair = Pair::of(numbers, way)?;
        let points = break_even::curve(numbers, pair, Metric::CpuUsPerRequest);
        (!points.is_empty()).then(|| Line { name: way.name(), points })
    };
    let series: Vec<Line> = ways.into_iter().filter_map(line).collect();
    (series.len() > 1).then(|| {
        Block::Figure(Figure {
            name: "break-even",
            title: "CPU time for each request, by requests on a connection".to_owned(),
            description: format!(
                "Kept plus handshake divided by requests, with the {}: {}. Where two lines cross, the ways that they stand for break even.",
                numbers.confidence(),
                ends(&series)
            ),
            plot: Plot::Lines(Lines {
                horizontal: "requests on a connection (logarithmic)".to_owned(),
                vertical: "CPU time for each request, µs (logarithmic)".to_owned(),
                horizontal_logarithmic: true,
                vertical_logarithmic: true,
                series,
            }),
        })
    })
}

fn ends(series: &[Line]) -> String {
    let of = |line: &Line| {
        let ((_, first), (_, last)) = (line.points.first()?, line.points.last()?);
        Some(format!("{} goes from {} to {} µs", line.name, number(first.estimate), number(last.estimate)))
    };
    series.iter().filter_map(of).collect::<Vec<_>>().join(", ")
}
