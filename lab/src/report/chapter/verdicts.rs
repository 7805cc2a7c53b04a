//! What the thesis concludes, held against the numbers (sections 4.1.3, 4.2.3 and 6.1).

use super::{
    super::{
        break_even::{self, Pair},
        numbers::{Numbers, Way},
        page::{Block, Section},
        sentence::Verdict,
    },
    unless_empty, users,
};
use crate::experiment::data::{CodeKind, Connections, LabMode, Metric, Signing};

pub(super) fn section(numbers: Numbers<'_>) -> Option<Section> {
    let mut blocks = pure_authentication(numbers).unwrap_or_default();
    blocks.extend(evidence_and_users(numbers));
    if blocks.is_empty() {
        return None;
    }
    blocks.extend(key_management(numbers));
    unless_empty("verdicts", "Interpretation: what the thesis concludes", blocks)
}

/// “If a developer aims to implement only service-to-service authentication, mTLS is the superior mechanism.”
fn pure_authentication(numbers: Numbers<'_>) -> Option<Vec<Block>> {
    let (mtls, jwt) = (Pair::of(numbers, Way::MTLS)?, Pair::of(numbers, Way::jwt(Signing::Es256))?);
    let cheaper = |arm, base| {
        let effect = numbers.compare(arm, base, Metric::CpuUsPerRequest)?;
        Some(Verdict::of_ratio(&effect.ratio))
    };
    let answer = match (cheaper(mtls.fresh, jwt.fresh), cheaper(mtls.kept, jwt.kept)) {
        (Some(Verdict::Less), Some(Verdict::Less)) => {
            "By these numbers, yes: mtls needs less CPU time with either kind of connection."
        }
        (Some(Verdict::More), Some(Verdict::More)) => {
            "By these numbers, no: mtls needs more CPU time with either kind of connection."
        }
        (_, Some(Verdict::Less)) => {
            "By these numbers, yes where connections are kept: mtls then needs less CPU time. With a new connection for each request that was not found."
        }
        (Some(Verdict::Less), _) => {
            "By these numbers, only where every request has a connection of its own: mtls then needs less CPU time. Over kept connections that was not found."
        }
        (Some(_), Some(_)) => {
            "By these numbers it is not: with neither kind of connection was mtls found to need less CPU time."
        }
        _ => "This run has too few blocks to say.",
    };
    let mut sentences = vec![answer.to_owned()];
    let (mtls_name, jwt_name) = (Way::MTLS.name(), Way::jwt(Signing::Es256).name());
    for (connections, mtls, jwt) in
        [(Connections::Kept, mtls.kept, jwt.kept), (Connections::Fresh, mtls.fresh, jwt.fresh)]
    {
        for metric in [
            Metric::CpuUsPerRequest,
            Metric::RequestsPerSecond,
            Metric::P50Us,
            Metric::P99Us,
            Metric::BytesPerRequest,
        ] {
            let name = format!("{mtls_name} {}", over(connections));
            sentences.push(numbers.sentence(metric, (mtls, &name), (jwt, &jwt_name)));
        }
    }
    let even = break_even::of(numbers, mtls, jwt, Metric::CpuUsPerRequest);
    sentences.extend(
        even.map(|even| even.sentence(Metric::CpuUsPerRequest, &mtls_name, &jwt_name, &numbers.confidence())),
    );
    let mut blocks =
        vec![Block::Heading("Is mutual TLS the better choice for authentication alone?".to_owned())];
    blocks.extend(Block::findings(sentences));
    Some(blocks)
}

/// “As soon as non-repudiation is a requirement self-signed JWTs are the superior mechanism”, and where users go along.
fn evidence_and_users(numbers: Numbers<'_>) -> Vec<Block> {
    let mut sentences = Vec::new();
    let both = Way { mode: LabMode::MtlsJwt, signing: Some(Signing::Es256), wimse: None };
    for base in [Way::MTLS, Way::jwt(Signing::Es256)] {
        let arms = numbers.plain(both, Connections::Kept).zip(numbers.plain(base, Connections::Kept));
        sentences.extend(arms.map(|(both, base_arm)| {
            numbers.sentence(
                Metric::CpuUsPerRequest,
                (both, "mtls with a signed request on top"),
                (base_arm, &base.name()),
            )
        }));
    }
    sentences.extend(users::nested_against_beside(numbers));
    if sentences.is_empty() {
        return Vec::new();
    }
    let why = "A handshake convinces the callee and nobody else: whatever it costs, no third party can be shown it. So for \
               non-repudiation the question is not whether mutual TLS is cheaper, but what a signature for each request costs \
               on top of it, or instead of it; and for users, whether a token inside a token costs less than one beside a certificate.";
    let heading =
        Block::Heading("Are signed tokens the better choice for evidence and for users?".to_owned());
    [heading, Block::text(why)].into_iter().chain(Block::findings(sentences)).collect()
}

/// “The biggest challenge of both authentication mechanisms is the key management.”
fn key_management(numbers: Numbers<'_>) -> Vec<Block> {
    let lines = |mode| -> u32 {
        let counts = numbers.experiment.code.iter().filter(|count| count.mode == mode);
        counts.filter(|count| count.kind == CodeKind::Configuration).map(|count| count.lines).sum()
    };
    let counted = if numbers.experiment.code.is_empty() {
        "nothing was counted in this run".to_owned()
    } else {
        let [mtls, jwt] = [LabMode::Mtls, LabMode::Jwt].map(lines);
        format!("commands and settings that an operator types to get there: {mtls} for mtls, {jwt} for jwt")
    };
    let text = format!(
        "An experiment under load cannot decide this. What it can say is that both ways were run here with keys that an agent \
         fetched, renewed and replaced without anybody's doing, and what that took of a person ({counted}). The work \
         that the thesis means has gone into the authority and the agent, which every mode but none needs alike."
    );
    vec![
        Block::Heading("Is key management the biggest challenge of both?".to_owned()),
        Block::Paragraph(text),
    ]
}

/// `over kept connections`
pub(super) const fn over(connections: Connections) -> &'static str {
    match connections {
        Connections::Kept => "over kept connections",
        Connections::Fresh => "over fresh connections",
    }
}
