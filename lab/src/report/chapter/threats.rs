//! What speaks against the figures, said by whoever made them.

use super::super::{
    format::number,
    numbers::Numbers,
    page::{Block, Section},
};
use crate::experiment::data::{Profile, exact};

pub(super) fn section(numbers: Numbers<'_>) -> Section {
    let mut items = vec![
        "One machine. Load generator, services, authority and agent share its cores and its loopback interface; there is no network, \
         no loss and no distance. On a real network a handshake costs round trips as well, which the latencies here do not show."
            .to_owned(),
        "A closed loop. A slow answer delays the next request of its connection, so the load never exceeds what is answered, and \
         the slowest requests are fewer than an open stream of users would have met (coordinated omission). Latencies \
         compare ways under the same load; they are not promises."
            .to_owned(),
        "Busy cores. Latency of a machine that is busy all the time is mostly waiting for a core. CPU time is the figure to trust."
            .to_owned(),
        "Idle services. Relays do nothing but authenticate, decide, record and pass on. Beside the work of real services the same \
         microseconds are a smaller share."
            .to_owned(),
        "One implementation. Another TLS library, token format or language has other costs; the ratios are those of this one."
            .to_owned(),
        "Short trials. Of a trial of a second or two only a handful of requests are slower than the 99.9th percentile, so that \
         percentile is the least certain of all figures."
            .to_owned(),
    ];
    items.extend(this_run(numbers));
    Section::new("threats", "Threats to validity", vec![Block::List(items)])
}

/// What speaks against this run in particular.
fn this_run(numbers: Numbers<'_>) -> Vec<String> {
    let experiment = numbers.experiment;
    let mut items = Vec::new();
    let compared = experiment.effects.len();
    let by_chance = exact(compared as u64) * (1.0 - experiment.design.confidence);
    if compared > 0 {
        items.push(format!(
            "Many comparisons. This run has {compared} of them; about {} of their intervals are expected to miss the truth by chance \
             alone, and none was corrected for it. A difference that barely clears its interval deserves another run.",
            number(by_chance.ceil())
        ));
    }
    if compared == 0 {
        items.push(
            "No intervals. This run has fewer than three blocks, so nothing can be said about what differs."
                .to_owned(),
        );
    } else if experiment.design.blocks < 6 {
        items.push(format!(
            "Few blocks. With {} of them intervals are wide, and small differences stay unseen.",
            experiment.design.blocks
        ));
    }
    if experiment.machine.load_before > exact(experiment.machine.cores as u64) {
        items.push(format!(
            "A busy machine. Its load average was {} before the first trial, more than its {} cores: somebody else was working too.",
            number(experiment.machine.load_before),
            experiment.machine.cores
        ));
    }
    let errors: u64 = experiment.trials.iter().map(|trial| trial.errors.sum()).sum();
    if errors > 0 {
        items.push(format!("Errors. {errors} requests of all trials went wrong; they are not among the good answers, and their time is."));
    }
    if experiment.profile == Profile::Target {
        items.push("Your service's own work is in the latencies and not in the CPU time, which is that of the two sidecars.".to_owned());
    }
    items
}
