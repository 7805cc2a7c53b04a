//! What a key exchange costs that tomorrow's computers do not break either.

use super::{
    super::{
        numbers::{Numbers, Way},
        page::{Block, Section, Table},
    },
    difference_cell, ratio_cell, unless_empty,
};
use crate::experiment::data::{Arm, Connections, Metric};

pub(super) fn section(numbers: Numbers<'_>) -> Option<Section> {
    let pairs: Vec<(Way, &Arm, &Arm)> = [Way::TLS, Way::MTLS]
        .into_iter()
        .filter_map(|way| {
            let classical =
                numbers.measured().find(|arm| Way::of(&arm.factors) == way && !arm.factors.post_quantum)?;
            Some((way, numbers.plain(way, Connections::Fresh)?, classical))
        })
        .collect();
    if pairs.is_empty() {
        return None;
    }
    let table = Table::new(
        format!(
            "X25519MLKEM768 against X25519 alone, a handshake for each request; {}",
            numbers.confidence()
        ),
        ["Way", "More CPU", "CPU ratio", "p50 ratio", "Bytes ratio"],
        pairs.iter().map(|(way, hybrid, classical)| {
            let ratio = |metric| ratio_cell(numbers, hybrid, classical, metric);
            [
                way.name(),
                difference_cell(numbers, hybrid, classical, Metric::CpuUsPerRequest),
                ratio(Metric::CpuUsPerRequest),
                ratio(Metric::P50Us),
                ratio(Metric::BytesPerRequest),
            ]
        }),
    );
    let why = "Keys are agreed on in the hybrid group X25519MLKEM768, so that what is recorded today cannot be read when X25519 \
               falls. Over kept connections it is not paid for; here every request pays.";
    let sentences = pairs.iter().flat_map(|(way, hybrid, classical)| {
        [Metric::CpuUsPerRequest, Metric::BytesPerRequest].map(|metric| {
            let named = |group: &str| format!("{} with {group}", way.name());
            numbers.sentence(metric, (hybrid, &named("X25519MLKEM768")), (classical, &named("X25519 alone")))
        })
    });
    let sentences: Vec<String> = sentences.collect();
    let blocks =
        [Block::text(why), Block::Table(table)].into_iter().chain(Block::findings(sentences)).collect();
    unless_empty("key-exchange", "Post-quantum key exchange", blocks)
}
