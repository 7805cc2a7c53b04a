//! Other people's implementations, by way of Python: packages of PyPI in a virtual environment of our own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::{demanded, temp_dir};

/// An interpreter that knows certain packages. Its environment goes away when dropped.
#[derive(Debug)]
pub struct Python {
    interpreter: PathBuf,
    _environment: TempDir,
}

impl Python {
    /// An interpreter with these packages, each pinned as `name==version`. `None`, and a line on stderr, where Python is
    /// missing or the packages cannot be fetched; a failure when `COUNTERSIGN_DEMAND_PYTHON=1`.
    #[must_use]
    pub fn with(packages: &[&str]) -> Option<Python> {
        let environment = temp_dir();
        let interpreter = environment.path().join("bin/python");
        let made = quietly(Command::new("python3").args(["-m", "venv"]).arg(environment.path()));
        let why = made.and_then(|()| {
            let mut pip = Command::new(&interpreter);
            pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--retries=1", "--timeout=20"]);
            quietly(pip.args(packages))
        });
        let Err(why) = why else { return Some(Python { interpreter, _environment: environment }) };
        assert!(!demanded("COUNTERSIGN_DEMAND_PYTHON"), "python with {packages:?} is demanded, but {why}");
        eprintln!("skipped: no python with {packages:?}: {why}");
        None
    }

    /// What a script writes to its standard output when it reads `input`.
    ///
    /// # Panics
    /// When the script fails.
    #[must_use]
    pub fn run(&self, script: &str, input: &str) -> String {
        let mut command = Command::new(&self.interpreter);
        let command =
            command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the interpreter was just installed");
        let mut pipe = child.stdin.take().expect("standard input is a pipe");
        pipe.write_all(input.as_bytes()).expect("the script reads its input");
        drop(pipe);
        let output = child.wait_with_output().expect("the script ends");
        assert!(output.status.success(), "the script failed: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("the script writes text")
    }

    /// The interpreter itself, for what [`Python::run`] cannot do.
    #[must_use]
    pub fn interpreter(&self) -> &Path {
        &self.interpreter
    }
}

fn quietly(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|why| format!("{} does not start: {why}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(String::from_utf8_lossy(&text).lines().rev().take(3).collect::<Vec<_>>().join("; "))
}
