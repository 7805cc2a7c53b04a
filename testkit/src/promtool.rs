//! Prometheus' own tool, which knows what metrics and rules shall look like.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::demanded;

/// What `promtool` says of its input when called so: nothing where all is well. `None`, and a line on stderr, on a machine
/// without it (Debian package `prometheus`); a failure when `COUNTERSIGN_DEMAND_PROMTOOL=1`.
///
/// # Panics
/// When the tool cannot be spoken to.
#[must_use]
pub fn promtool(arguments: &[&str], input: &str) -> Option<Result<(), String>> {
    let mut command = Command::new("promtool");
    let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(why) => {
            assert!(
                !demanded("COUNTERSIGN_DEMAND_PROMTOOL"),
                "promtool is demanded, but it does not start: {why}"
            );
            eprintln!("skipped: promtool does not start: {why}");
            return None;
        }
    };
    let mut pipe = child.stdin.take().expect("standard input is a pipe");
    // A tool that reads a file instead may be gone already.
    let _ = pipe.write_all(input.as_bytes());
    drop(pipe);
    let output = child.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Some(if output.status.success() { Ok(()) } else { Err(said) })
}
