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

/// Prints one line of result, or several. A closed pipe ends the output quietly.
pub fn line(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{}", without_controls(&text.to_string(), &['\n', '\t']));
}

/// Text that others wrote, for one line on somebody's terminal: whatever a terminal would obey rather than show (ECMA-48),
/// line ends among it, becomes U+FFFD. A compromised service chooses what is in its records.
pub fn safe(text: impl std::fmt::Display) -> String {
    without_controls(&text.to_string(), &[])
}

fn without_controls(text: &str, but: &[char]) -> String {
    let obeyed = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars()
        .map(|c| if obeyed(c) && !but.contains(&c) { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

/// Prints text of result as it is.
pub fn raw(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// Prints one line of message, for the person and not for the pipe.
pub fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{}", without_controls(&text.to_string(), &['\n', '\t']));
}

/// Prints a message over the one before it, for a person who watches a terminal.
pub fn note_over(text: impl std::fmt::Display) {
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "\r\x1b[K{text}").and_then(|()| err.flush());
}

/// Prints a value as JSON, on one line where `compact`.
pub fn json<T: Serialize>(value: &T, compact: bool) -> Result<(), CliError> {
    let text = if compact { serde_json::to_string(value) } else { serde_json::to_string_pretty(value) };
    let text =
        text.map_err(|e| CliError::failed("the result cannot be written as JSON", e, "report this"))?;
    // As it is: what reads JSON gets the very strings, and JSON escapes most of what a terminal obeys.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
    Ok(())
}

/// A table without boxes: it pastes well and wraps nothing at 80 columns where the content does not.
pub fn table<const N: usize>(
    heads: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Result<(), CliError> {
    table_of(heads, rows).into_iter().for_each(line);
    Ok(())
}

fn table_of<const N: usize>(heads: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heads);
    for row in rows {
        table.add_row(row.map(safe));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|text| text.trim_end().to_owned()).collect()
}

/// A moment as a person reads it, UTC, to the second.
pub fn moment(at: countersign_identity::UnixTime) -> String {
    let Ok(at) = time::OffsetDateTime::from_unix_timestamp(at.secs()) else { return "never".to_owned() };
    let (date, clock) = (at.date(), at.time());
    format!("{date} {:02}:{:02}:{:02}Z", clock.hour(), clock.minute(), clock.second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_others_wrote_moves_the_cursor_or_begins_a_line_of_its_own() {
        let forged = "/ads\u{1b}[2K\u{9b}1A\r\nALLOWED\u{7}\u{7f}\u{202e}";
        let shown = safe(forged);
        assert_eq!(shown, "/ads\u{fffd}[2K\u{fffd}1A\u{fffd}\u{fffd}ALLOWED\u{fffd}\u{fffd}\u{fffd}");
        let lines = table_of(["route"], [[forged.to_owned()]]);
        assert_eq!(lines.len(), 2, "a cell begins a line: {lines:?}");
        assert!(lines.iter().all(|line| !line.contains(char::is_control)), "{lines:?}");
        assert_eq!(without_controls("two\nlines\u{1b}", &['\n']), "two\nlines\u{fffd}");
    }
}
