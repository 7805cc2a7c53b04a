//! What it costs to carry a user along (thesis, sections 4.1.2 and 4.2.2).

use super::{
    super::{
        figure::{Figure, Intervals, Plot, Row},
        numbers::{Numbers, Way},
        page::{Block, Section, Table},
    },
    difference_cell, leveled, ratio_cell, unless_empty,
};
use crate::experiment::data::{Arm, CarriedUser, Connections, Factors, Metric, Signing};

pub(super) fn section(numbers: Numbers<'_>) -> Option<Section> {
    let arms: Vec<(Way, &Arm, &Arm)> = ways().into_iter().flat_map(|way| with_user(numbers, way)).collect();
    if arms.is_empty() {
        return None;
    }
    let mut blocks = vec![
        Block::text(
            "The thesis names three ways for services to know on whose behalf they are called: the gateway's token passed on \
             unchanged (“same”, figure 4.2), a new one from the token service for each hop of each request (“per-hop”, \
             figure 4.3), and the user's token inside the caller's own signed one (“nested”, section 4.2.2). It expects \
             overhead of all, and most of the second. Each is held against the same chain without a user. What the token service itself \
             spends is counted with “per-hop”.",
        ),
        Block::Table(table(numbers, &arms)),
        Block::Figure(figure(numbers, &arms)),
    ];
    let against_none = arms.iter().flat_map(|(way, arm, base)| {
        [Metric::CpuUsPerRequest, Metric::P50Us].map(|metric| {
            numbers.sentence(
                metric,
                (arm, &name(*way, arm)),
                (base, &format!("{} without a user", way.name())),
            )
        })
    });
    let sentences: Vec<String> =
        against_none.chain(per_hop_against_same(numbers)).chain(nested_against_beside(numbers)).collect();
    blocks.extend(Block::findings(sentences));
    unless_empty("users", "The user's context", blocks)
}

/// Is a token in a token cheaper than one beside a certificate? Section 4.2.2 says so.
pub(super) fn nested_against_beside(numbers: Numbers<'_>) -> Option<String> {
    let (jwt, mtls) = (Way::jwt(Signing::Es256), Way::MTLS);
    let nested = carrying(numbers, jwt, CarriedUser::Nested)?;
    let beside = carrying(numbers, mtls, CarriedUser::Same)?;
    Some(numbers.sentence(
        Metric::CpuUsPerRequest,
        (nested, &name(jwt, nested)),
        (beside, &name(mtls, beside)),
    ))
}

/// The arm of a way over kept connections that carries a user so.
fn carrying<'a>(numbers: Numbers<'a>, way: Way, user: CarriedUser) -> Option<&'a Arm> {
    with_user(numbers, way).map(|(_, arm, _)| arm).find(|arm| arm.factors.user == user)
}

fn per_hop_against_same(numbers: Numbers<'_>) -> Vec<String> {
    let of = |way| {
        let [per_hop, same] =
            [CarriedUser::PerHop, CarriedUser::Same].map(|user| carrying(numbers, way, user));
        let (per_hop, same) = (per_hop?, same?);
        Some(numbers.sentence(
            Metric::CpuUsPerRequest,
            (per_hop, &name(way, per_hop)),
            (same, &name(way, same)),
        ))
    };
    ways().into_iter().filter_map(of).collect()
}

fn with_user<'a>(numbers: Numbers<'a>, way: Way) -> impl Iterator<Item = (Way, &'a Arm, &'a Arm)> {
    let plain = numbers.plain(way, Connections::Kept);
    let only_user = |factors: &Factors, base: &Factors| {
        factors.user != base.user && *factors == Factors { user: factors.user, ..base.clone() }
    };
    numbers.around(way, only_user).filter_map(move |arm| Some((way, arm, plain?)))
}

fn name(way: Way, arm: &Arm) -> String {
    format!("{} with user {}", way.name(), arm.factors.user.as_str())
}

fn table(numbers: Numbers<'_>, arms: &[(Way, &Arm, &Arm)]) -> Table {
    Table::new(
        format!("Users over kept connections, against none; {}", numbers.confidence()),
        ["Way", "CPU µs", "More CPU", "CPU ratio", "More latency (p50)", "Bytes ratio"],
        arms.iter().map(|(way, arm, base)| {
            [
                name(*way, arm),
                leveled(numbers.level(&arm.name, Metric::CpuUsPerRequest)),
                difference_cell(numbers, arm, base, Metric::CpuUsPerRequest),
                ratio_cell(numbers, arm, base, Metric::CpuUsPerRequest),
                difference_cell(numbers, arm, base, Metric::P50Us),
                ratio_cell(numbers, arm, base, Metric::BytesPerRequest),
            ]
        }),
    )
}

fn figure(numbers: Numbers<'_>, arms: &[(Way, &Arm, &Arm)]) -> Figure {
    let metrics = [(Metric::CpuUsPerRequest, "CPU time"), (Metric::P50Us, "median latency")];
    let row = |(way, arm, base): &(Way, &Arm, &Arm)| {
        let of = |metric| numbers.compare(arm, base, metric).map(|effect| effect.ratio);
        Row { name: name(*way, arm), values: metrics.iter().map(|(metric, _)| of(*metric)).collect() }
    };
    Figure {
        name: "users",
        title: "What a user costs".to_owned(),
        description: format!(
            "Each design divided by the same chain without a user, with the {}. An interval that touches the line at 1 shows no difference.",
            numbers.confidence()
        ),
        plot: Plot::Intervals(Intervals {
            axis: "ratio to the same way without a user".to_owned(),
            reference: Some(1.0),
            logarithmic: true,
            series: metrics.iter().map(|(_, name)| (*name).to_owned()).collect(),
            rows: arms.iter().map(row).collect(),
        }),
    }
}

const fn ways() -> [Way; 2] {
    [Way::jwt(Signing::Es256), Way::MTLS]
}
