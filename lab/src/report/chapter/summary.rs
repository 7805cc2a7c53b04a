//! The abstract that the thesis has left out, of an experiment that it has left out too.

use super::{
    super::{
        break_even::{self, Pair},
        numbers::{Numbers, Way},
        page::{Block, Section},
    },
    users, verdicts,
};
use crate::experiment::data::{Connections, Metric, Profile, Signing};

pub(super) fn section(numbers: Numbers<'_>) -> Section {
    let mut blocks = warnings(numbers);
    blocks.push(Block::text(why(numbers.experiment.profile)));
    blocks.push(Block::text(what_was_done(numbers)));
    blocks.extend(Block::findings(found(numbers)));
    Section::new("abstract", "Abstract", blocks)
}

/// What has to be known before any figure is looked at.
fn warnings(numbers: Numbers<'_>) -> Vec<Block> {
    let mut warnings = Vec::new();
    let (broken, experiment) = (numbers.experiment.broken_claims().count(), numbers.experiment);
    if broken > 0 {
        warnings.push(format!(
            "{broken} claims do not hold: callees counted something else than what the arms say, so the figures are figures of \
             something else. The section on trust lists them."
        ));
    }
    if experiment.checks.iter().any(|check| !check.holds) {
        warnings.push("The experiment failed its own checks: it found a difference where none is, or missed one that was planted.".to_owned());
    }
    if experiment.build.debug {
        warnings.push(
            "This was a debug build. Its figures say nothing about the program that users run.".to_owned(),
        );
    }
    warnings.into_iter().map(Block::Warning).collect()
}

const fn why(profile: Profile) -> &'static str {
    match profile {
        Profile::Thesis | Profile::Quick => {
            "Services that call each other have to prove who they are. “Service-to-Service Authentication in a Microservice \
             Deployment” (Ellmer, Hagenberg 2022) compares two ways, mutual TLS and self-signed JSON Web Tokens, announces an \
             experiment on what they cost, and ends without it. This is that experiment, on every way that Countersign has."
        }
        Profile::SelfCheck => {
            "An experiment that cannot find nothing cannot find anything. Here the same arm ran under two names, which must not \
             differ, and once more with a delay in its last service, which must be found."
        }
        Profile::Target => {
            "What a way to prove who is calling costs depends on who calls, and what for. Here it was measured on services of \
             your own: each behind a sidecar, called by another one, once in every mode that a sidecar speaks."
        }
    }
}

fn what_was_done(numbers: Numbers<'_>) -> String {
    let experiment = numbers.experiment;
    format!(
        "{} arms ran in {} randomised blocks, {} trials altogether, on {} with {} cores. Load came from {} in a closed loop \
         (connections: {}). An arm is held against its base within each block, and every statement below comes with its {}.",
        experiment.arms.len(),
        experiment.design.blocks,
        experiment.trials.len(),
        experiment.machine.cpu,
        experiment.machine.cores,
        experiment.load.tool,
        experiment.load.connections,
        numbers.confidence()
    )
}

/// The few sentences that one would tell somebody in a lift.
fn found(numbers: Numbers<'_>) -> Vec<String> {
    let mut found: Vec<String> = numbers
        .experiment
        .checks
        .iter()
        .map(|check| {
            format!("{}: {}: {}.", if check.holds { "Held" } else { "Failed" }, check.name, check.found)
        })
        .collect();
    let (mtls, jwt) = (Way::MTLS, Way::jwt(Signing::Es256));
    for connections in [Connections::Kept, Connections::Fresh] {
        let arms = numbers.plain(mtls, connections).zip(numbers.plain(jwt, connections));
        found.extend(arms.map(|(mtls, jwt)| {
            let over = verdicts::over(connections);
            numbers.sentence(
                Metric::CpuUsPerRequest,
                (mtls, &format!("mtls {over}")),
                (jwt, &format!("jwt ES256 {over}")),
            )
        }));
    }
    let pairs = Pair::of(numbers, mtls).zip(Pair::of(numbers, jwt));
    let even = pairs.and_then(|(mtls, jwt)| break_even::of(numbers, mtls, jwt, Metric::CpuUsPerRequest));
    found.extend(
        even.map(|even| even.sentence(Metric::CpuUsPerRequest, "mtls", "jwt ES256", &numbers.confidence())),
    );
    found.extend(users::nested_against_beside(numbers));
    found
}
