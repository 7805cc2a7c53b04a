//! The page on which the figures stand, with the legend of every arrow, and each as a picture beside it.

use std::fmt::Write as _;
use std::path::Path;

use countersign_lab::sequence::{Sequence, mermaid, svg};

use crate::error::CliError;

/// Writes `figures.md` and one SVG for each figure into `out`.
pub(super) fn write(figures: &[Sequence], out: &Path) -> Result<(), CliError> {
    let failed = |e: std::io::Error| {
        CliError::usage(format!("cannot write into {}", out.display()), e, "choose another --out")
    };
    std::fs::create_dir_all(out).map_err(failed)?;
    for figure in figures {
        std::fs::write(out.join(name(figure)), svg(figure)).map_err(failed)?;
    }
    std::fs::write(out.join("figures.md"), markdown(figures)).map_err(failed)
}

fn name(figure: &Sequence) -> String {
    let kept = figure.number.chars().filter_map(|c| match c {
        'a'..='z' | '0'..='9' | '.' => Some(c),
        'A'..='Z' => Some(c.to_ascii_lowercase()),
        ' ' => Some('-'),
        _ => None,
    });
    format!("figure-{}.svg", kept.collect::<String>())
}

fn markdown(figures: &[Sequence]) -> String {
    let mut out = String::from(
        "# The thesis's figures, from a running deployment\n\n\
         Made by `countersign demo figures`. Each arrow happened, except in the figure of TLS 1.2, which is drawn from the \
         text of section 4.1.1 for comparison. Names and times are those of the run that they were drawn from: decisions are told by `countersign explain ID`, numbers of the ledger by \
         `countersign audit search`. ★ marks what only mutual TLS has.\n",
    );
    for figure in figures {
        let title = format!("Figure {}: {}", figure.number, figure.title);
        let _ = write!(out, "\n## {title}\n\n![{title}]({})\n", name(figure));
        let _ = write!(
            out,
            "\n<details><summary>As Mermaid</summary>\n\n```mermaid\n{}```\n\n</details>\n",
            mermaid(figure)
        );
        out.push_str("\n| | arrow | what it is | from where |\n|---|---|---|---|\n");
        for (number, message) in (1..).zip(figure.messages()) {
            let name = |at: usize| figure.participants().get(at).map_or("", String::as_str);
            let star = if message.marked { "★ " } else { "" };
            let _ = writeln!(
                out,
                "| {number} | {} → {} | {star}{} | {} |",
                name(message.from),
                name(message.to),
                cell(&message.label),
                cell(&message.source),
            );
        }
    }
    out
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
