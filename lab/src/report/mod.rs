//! The chapter: what an experiment found, for people. A pure function of [`Experiment`].
//!
//! Every sentence that says who wins is written by the numbers ([`sentence`]): where the interval of a ratio contains 1
//! it says that no difference was found, whatever one would have liked to read. What a run has no arms for, the chapter
//! does not speak of.

mod break_even;
mod chapter;
mod figure;
mod format;
mod html;
mod markdown;
mod numbers;
mod page;
#[cfg(test)]
mod sample;
mod sentence;
#[cfg(test)]
mod tests;

use std::{io, path::Path};

use crate::experiment::Experiment;
use page::{Block, Page};

/// The chapter as one self-contained page: no script, nothing fetched, light and dark.
#[must_use]
pub fn html(experiment: &Experiment) -> String {
    html::html(&chapter::of(experiment))
}

/// The same in Markdown, with figures in `figures/`: see [`write`].
#[must_use]
pub fn markdown(experiment: &Experiment) -> String {
    markdown::markdown(&chapter::of(experiment))
}

/// Writes `report.html`, `report.md` and `figures/` into `directory`, which is made where it does not exist. The raw data
/// that they link to is [`crate::experiment::write`]'s.
///
/// # Errors
/// It cannot be written.
pub fn write(experiment: &Experiment, directory: &Path) -> io::Result<()> {
    let (page, figures) = (chapter::of(experiment), directory.join("figures"));
    std::fs::create_dir_all(&figures)?;
    for figure in figures_of(&page) {
        std::fs::write(figures.join(format!("{}.svg", figure.name)), figure.file())?;
    }
    std::fs::write(directory.join("report.md"), markdown::markdown(&page))?;
    std::fs::write(directory.join("report.html"), html::html(&page))
}

fn figures_of(page: &Page) -> impl Iterator<Item = &figure::Figure> {
    page.sections.iter().flat_map(|section| &section.blocks).filter_map(|block| match block {
        Block::Figure(figure) => Some(figure),
        _ => None,
    })
}
