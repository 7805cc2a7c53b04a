//! How it was measured.

use std::collections::BTreeSet;

use super::super::{
    format::{bytes, counted, duration, percent},
    numbers::{Numbers, Way},
    page::{Block, Section, Table},
};
use crate::experiment::data::{Arm, Connections, Factors, exact};

pub(super) fn section(numbers: Numbers<'_>) -> Section {
    let design = &numbers.experiment.design;
    let trials = format!(
        "The design is one of randomised complete blocks: each of {} blocks has every arm once, in an order of its own (seed {}). A \
         trial lasted {}, after a warm-up of {} that nobody counted. So whatever the machine did meanwhile, it did to all arms \
         alike.",
        design.blocks,
        design.seed,
        duration(exact(design.trial_ms) * 1000.0),
        duration(exact(design.warm_up_ms) * 1000.0)
    );
    let compared = format!(
        "An arm is divided by its base within each block, and subtracted from it. Ratios are averaged on a logarithmic scale. \
         The {} is a percentile bootstrap over blocks with {} resamples, widened for how few blocks there are. Where the \
         interval of a ratio contains 1, the text says that no difference was found; that is not proof that there is none.",
        numbers.confidence(),
        counted(design.resamples)
    );
    let counted = "Requests in a second are what the load generator saw at the head of the chain. Latencies are what it saw and then \
                   corrected for coordinated omission, as it always does (see the threats to validity). CPU time is that \
                   of all threads of all processes of the chain, from the scheduler, divided by requests; the load generator \
                   is not in it, and the authority only where users are carried along hop by hop, because there it is the token \
                   service that each hop asks. Memory is the proportional set size of those processes at the end of a \
                   trial. Bytes are counted at the sockets of the callees, so TLS, HTTP/2 and their handshakes are among them, and \
                   the headers of TCP and IP are not.";
    let paragraphs = [trials, extent(numbers).to_owned(), compared, counted.to_owned()];
    let mut blocks: Vec<Block> = paragraphs.into_iter().map(Block::Paragraph).collect();
    blocks.push(Block::Table(factors(numbers)));
    blocks.extend(absent(numbers));
    Section::new("method", "Method", blocks)
}

/// How much of what could be varied was.
fn extent(numbers: Numbers<'_>) -> &'static str {
    let kinds = [Connections::Kept, Connections::Fresh];
    let plain = |arm: &Arm| {
        let of_service = |connections| numbers.plains(arm.service.as_deref(), connections);
        kinds.into_iter().flat_map(of_service).any(|plain| plain.name == arm.name)
    };
    if numbers.measured().all(plain) {
        "Ways to prove who is calling and kinds of connection are all that was varied: of users, longer chains, other answers \
         and other key exchanges this run says nothing."
    } else {
        "It is fractional: every way to prove who is calling with both kinds of connection, then one factor at a time around a \
         base, not the full product of all levels. How two factors act together it does not see."
    }
}

fn factors(numbers: Numbers<'_>) -> Table {
    let levels = |of: &dyn Fn(&Factors) -> String| {
        let mut seen = BTreeSet::new();
        let levels =
            numbers.measured().map(|arm| of(&arm.factors)).filter(|level| seen.insert(level.clone()));
        levels.collect::<Vec<_>>().join(", ")
    };
    let in_order = |of: &dyn Fn(&Factors) -> u32, name: &dyn Fn(u32) -> String| {
        let levels: BTreeSet<u32> = numbers.measured().map(|arm| of(&arm.factors)).collect();
        levels.into_iter().map(name).collect::<Vec<_>>().join(", ")
    };
    let row = |what: &str, of: &dyn Fn(&Factors) -> String| [what.to_owned(), levels(of)];
    Table::new(
        format!(
            "Factors and the levels that they have in this run; every statement at {} confidence",
            percent(numbers.experiment.design.confidence)
        ),
        ["Factor", "Levels"],
        [
            row("Way to prove who is calling", &|f| Way::of(f).name()),
            row("Connections between services", &|f| f.connections.as_str().to_owned()),
            row("User", &|f| f.user.as_str().to_owned()),
            ["Authenticated edges".to_owned(), in_order(&|f| f.edges.into(), &|edges| edges.to_string())],
            ["Answer".to_owned(), in_order(&|f| f.payload_bytes, &answer)],
            row("Key exchange", &|f| {
                if f.post_quantum { "X25519MLKEM768".to_owned() } else { "X25519 alone".to_owned() }
            }),
        ],
    )
}

fn answer(bytes_of_it: u32) -> String {
    if bytes_of_it == 0 { "as the service has it".to_owned() } else { bytes(bytes_of_it) }
}

fn absent(numbers: Numbers<'_>) -> Vec<Block> {
    let absent = &numbers.experiment.absent;
    if absent.is_empty() {
        return Vec::new();
    }
    let items = absent.iter().map(|absent| format!("{}: {}", absent.what, absent.why)).collect();
    vec![Block::text("What one would look for among the arms and does not find:"), Block::List(items)]
}
