//! stdout is the result, stderr the messages: the only module that prints.

use std::io::Write as _;

use comfy_table::{ContentArrangement, Table, TableStyle};
use serde::Serialize;

use crate::error::CliError;

/// How a listing is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Columns for a person.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One JSON document on each line, as long as `tap` runs.
    Jsonl,
}

/// Prints one line of result. A closed pipe ends the output quietly.
pub fn line(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Prints text of result as it is.
pub fn raw(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// Prints one line of message, for the person and not for the pipe.
pub fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints a message over the one before it, for a person who watches a terminal.
pub fn note_over(text: impl std::fmt::Display) {
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "\r\x1b[K{text}").and_then(|()| err.flush());
}

/// Prints a value as JSON, on one line where `compact`.
pub fn json<T: Serialize>(value: &T, compact: bool) -> Result<(), CliError> {
    let text = if compact { serde_json::to_string(value) } else { serde_json::to_string_pretty(value) };
    line(text.map_err(|e| CliError::failed("the result cannot be written as JSON", e, "report this"))?);
    Ok(())
}

/// A table without boxes: it pastes well and wraps nothing at 80 columns where the content does not.
pub fn table<const N: usize>(
    heads: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Result<(), CliError> {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heads);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for text in table.lines() {
        line(text.trim_end());
    }
    Ok(())
}

/// A moment as a person reads it, UTC, to the second.
pub fn moment(at: countersign_identity::UnixTime) -> String {
    let Ok(at) = time::OffsetDateTime::from_unix_timestamp(at.secs()) else { return "never".to_owned() };
    let (date, clock) = (at.date(), at.time());
    format!("{date} {:02}:{:02}:{:02}Z", clock.hour(), clock.minute(), clock.second())
}
