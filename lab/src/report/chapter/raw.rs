//! For whoever would rather compute than read.

use super::super::page::{Block, Section};

pub(super) fn section() -> Section {
    let blocks = vec![
        Block::text("Beside this page lie the data that it is made from, and nothing else went into it:"),
        Block::Files(vec![
            (
                "experiment.json",
                "everything that was counted: each trial, process, edge, claim, and each comparison",
            ),
            ("trials.csv", "one line for each trial: the factors of its arm and every metric"),
        ]),
    ];
    Section::new("data", "Raw data", blocks)
}
