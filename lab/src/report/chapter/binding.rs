//! What it costs to bind a proof to its request, and to sign it with one algorithm or another.

use countersign_identity::WimseProof;

use super::{
    super::{
        numbers::{Numbers, Way},
        page::{Block, Section, Table},
    },
    leveled, ratio_cell, unless_empty,
    verdicts::over,
};
use crate::experiment::data::{Arm, Connections, LabMode, Metric, Signing};

pub(super) fn section(numbers: Numbers<'_>) -> Option<Section> {
    let mut blocks = Vec::new();
    let bound = Way::wimse(WimseProof::HttpSignature);
    blocks.extend(held_against(
        numbers,
        "A workload proof token says which service is asked. An HTTP message signature (RFC 9421) covers method, path, query and \
         the digest of the body as well, so a captured request cannot be turned into another one, and the answer is signed too.",
        "HTTP message signature against proof token",
        &[bound],
        Way::wimse(WimseProof::Token),
    ));
    blocks.extend(held_against(
        numbers,
        "The thesis signs with RSA. An algorithm is paid for twice: the caller signs each request, the callee verifies it, and the \
         CPU time of a chain has both.",
        "Signature algorithms of mode jwt against ES256",
        &[Way::jwt(Signing::Rs256), Way::jwt(Signing::Ed25519)],
        Way::jwt(Signing::Es256),
    ));
    let both = Way { mode: LabMode::MtlsJwt, signing: Some(Signing::Es256), wimse: None };
    blocks.extend(held_against(
        numbers,
        "A token signed for each request can be kept as evidence of who asked for what; a handshake leaves nothing that could \
         be shown to a third party. Mutual TLS with such a token on top has both.",
        "A signed request on top of mutual TLS",
        &[both],
        Way::MTLS,
    ));
    unless_empty("binding", "Request binding and signatures", blocks)
}

fn held_against(numbers: Numbers<'_>, why: &str, caption: &str, ways: &[Way], base: Way) -> Vec<Block> {
    let pairs: Vec<(Connections, &Arm, &Arm)> = [Connections::Kept, Connections::Fresh]
        .into_iter()
        .flat_map(|connections| ways.iter().map(move |way| (connections, *way)))
        .filter_map(|(connections, way)| {
            Some((connections, numbers.plain(way, connections)?, numbers.plain(base, connections)?))
        })
        .collect();
    if pairs.is_empty() {
        return Vec::new();
    }
    let name = |arm: &Arm, connections| format!("{} {}", Way::of(&arm.factors).name(), over(connections));
    let table = Table::new(
        format!("{caption}; {}", numbers.confidence()),
        ["Way", "CPU µs", "CPU ratio", "p50 ratio", "Bytes ratio"],
        pairs.iter().map(|(connections, arm, base)| {
            let ratio = |metric| ratio_cell(numbers, arm, base, metric);
            [
                name(arm, *connections),
                leveled(numbers.level(&arm.name, Metric::CpuUsPerRequest)),
                ratio(Metric::CpuUsPerRequest),
                ratio(Metric::P50Us),
                ratio(Metric::BytesPerRequest),
            ]
        }),
    );
    let kept = pairs.iter().filter(|(connections, ..)| *connections == Connections::Kept);
    let sentences = kept.map(|(connections, arm, base)| {
        numbers.sentence(
            Metric::CpuUsPerRequest,
            (arm, &name(arm, *connections)),
            (base, &Way::of(&base.factors).name()),
        )
    });
    let sentences: Vec<String> = sentences.collect();
    [Block::text(why), Block::Table(table)].into_iter().chain(Block::findings(sentences)).collect()
}
