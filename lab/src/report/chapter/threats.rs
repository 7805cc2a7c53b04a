//! What speaks against the figures, said by whoever made them.

use super::super::{
    format::number,
    numbers::Numbers,
    page::{Block, Section},
};
use crate::experiment::{
    data::{Profile, exact},
    statistics::BLOCKS_MIN,
};

pub(super) fn section(numbers: Numbers<'_>) -> Section {
    let mut items = vec![
        "One machine. Load generator, services, authority and agent share its cores and its loopback interface; there is no network, \
         no loss and no distance. On a real network a handshake costs round trips as well, which the latencies here do not show."
            .to_owned(),
        "A closed loop. A slow answer delays the next request of its connection, so the load never exceeds what is answered, and \
         users who come by themselves would have met more slow answers (coordinated omission). wrk corrects for that: an answer \
         that took longer than a connection's average counts several times, as for the requests that would have waited behind \
         it. So the percentiles are estimates, and not what was seen; they compare ways under the same load and are no promises."
            .to_owned(),
        "Busy cores. On a machine that is busy all the time latency is mostly waiting for a core. CPU time is the figure to trust."
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
    let blocks = experiment.design.blocks;
    let has_intervals = usize::try_from(blocks).is_ok_and(|blocks| blocks >= BLOCKS_MIN);
    if compared > 0 && has_intervals {
        items.push(format!(
            "Many comparisons. This run holds arms against their bases in {compared} figures, and some against others besides; of those {compared} about {} of their intervals are expected to miss the truth by chance \
             alone, and none was corrected for it. A difference that barely clears its interval deserves another run.",
            number(by_chance.ceil())
        ));
    }
    if !has_intervals {
        items.push(format!(
            "No intervals. This run has fewer than {BLOCKS_MIN} blocks, so nothing can be said about what differs."
        ));
    } else if blocks < 6 {
        items.push(format!(
            "Few blocks. With {blocks} of them intervals are wide, and small differences stay unseen. In simulations intervals that \
             are said to hold the truth 95 times of 100 held it 92 times with four blocks, and with six as often as they say."
        ));
    }
    if experiment.machine.load_before > exact(experiment.machine.cores as u64) {
        items.push(format!(
            "A busy machine. Its load average was {} before the first trial, more than its {} cores: somebody else was working.",
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
