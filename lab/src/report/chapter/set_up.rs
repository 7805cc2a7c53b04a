//! On what it ran.

use super::super::{
    format::{number, whole},
    numbers::Numbers,
    page::{Block, Section, Table},
};
use crate::experiment::data::{Profile, exact};

pub(super) fn section(numbers: Numbers<'_>) -> Section {
    let experiment = numbers.experiment;
    let (machine, load) = (&experiment.machine, &experiment.load);
    let row = |what: &str, value: String| [what.to_owned(), value];
    let table = Table::new(
        "Machine, program and load",
        ["What", "Which"],
        [
            row("Processor", format!("{}, {} cores for this run", machine.cpu, machine.cores)),
            row("Memory", format!("{} GiB", whole(exact(machine.memory_mib) / 1024.0))),
            row("System", machine.system.clone()),
            row("Load average before the first trial", number(machine.load_before)),
            row(
                "Program",
                format!(
                    "Countersign {}{}",
                    experiment.build.version,
                    if experiment.build.debug { ", debug build" } else { "" }
                ),
            ),
            row(
                "Load generator",
                format!("{}; connections: {}; threads: {}", load.tool, load.connections, load.threads),
            ),
            row("Began", experiment.started.clone()),
            row("Took", format!("{} minutes, set-up included", number(experiment.took_s / 60.0))),
        ],
    );
    let what = Block::text(what_ran(experiment.profile));
    Section::new("set-up", "Set-up", vec![what, Block::Table(table)])
}

const fn what_ran(profile: Profile) -> &'static str {
    match profile {
        Profile::Target => {
            "The run started a deployment of its own, put a sidecar in front of each service, and another one before it that \
             calls. The load generator asked the second; what went between the two was authenticated in the mode of the \
             arm. The services themselves knew nothing of it."
        }
        Profile::Thesis | Profile::Quick | Profile::SelfCheck => {
            "The run started a deployment of its own, with an authority, an agent, and a chain of relay services for each way \
             to prove who is calling, all alive side by side. A relay is a process that links the SDK exactly as a service of \
             the flea market does: it takes a request, is told who calls and whether that is allowed, calls the next relay, and \
             hands its answer back; each call is written to the ledger. The load generator asked the first relay over plain \
             HTTP on loopback; that relay made the first authenticated call. The length of a chain is the number of its \
             authenticated edges."
        }
    }
}
