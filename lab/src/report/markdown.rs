//! The chapter as Markdown, with its figures in files beside it.

use std::fmt::Write as _;

use super::page::{Block, Page, Table};

/// The page. What Markdown or HTML would take for its own is escaped.
pub(super) fn markdown(page: &Page) -> String {
    let mut text = format!("# {}\n\n{}\n", escaped(&page.title), escaped(&page.subtitle));
    for section in &page.sections {
        let _ = write!(text, "\n## {}\n\n", escaped(&section.title));
        for one in &section.blocks {
            text.push_str(&block(one));
        }
    }
    text
}

fn block(block: &Block) -> String {
    match block {
        Block::Heading(text) => format!("### {}\n\n", escaped(text)),
        Block::Paragraph(text) => format!("{}\n\n", escaped(text)),
        Block::Finding(text) => format!("> {}\n\n", escaped(text)),
        Block::Warning(text) => format!("> **Do not rely on this run.** {}\n\n", escaped(text)),
        Block::List(items) => list(items.iter().map(|item| escaped(item))),
        Block::Table(of) => table(of),
        Block::Figure(figure) => {
            let (title, description) = (escaped(&figure.title), escaped(&figure.description));
            format!("![{title}](figures/{}.svg)\n\n*{title}.* {description}\n\n", figure.name)
        }
        Block::Files(files) => {
            list(files.iter().map(|(name, what)| format!("[{name}]({name}): {}", escaped(what))))
        }
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.map(|item| format!("- {item}\n")).chain(["\n".to_owned()]).collect()
}

fn table(table: &Table) -> String {
    let row = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| escaped(cell)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut aligned = vec!["---"];
    aligned.resize(table.head.len(), "---:");
    let rows: String = table.rows.iter().map(|cells| row(cells)).collect();
    format!("{}\n\n{}|{}|\n{rows}\n", escaped(&table.caption), row(&table.head), aligned.join("|"))
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if "\\`*_[]<>|#&~".contains(letter) {
            escaped.push('\\');
        }
        escaped.push(if letter.is_control() { ' ' } else { letter });
    }
    escaped
}
