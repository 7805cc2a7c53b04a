//! The load generator: `wrk`, told by a script of its own to say what it counted as JSON.
//!
//! It takes whole seconds only, so each run is given more than it needs and is interrupted when its time is over; how long
//! it really ran it says itself.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;
use thiserror::Error;
use tokio::process::Command;

use super::{
    chains::Asked,
    data::{Errors, Latency, Load},
};

/// `wrk`, found.
#[derive(Clone, Debug)]
pub struct Generator {
    program: PathBuf,
    script: PathBuf,
    /// What it is, for the report.
    pub load: Load,
}

/// What it counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counts {
    /// Answers, good or bad.
    pub requests: u64,
    /// How long it ran.
    pub seconds: f64,
    /// What went wrong.
    pub errors: Errors,
    /// How long answers took.
    pub latency: Latency,
}

/// Why there is no load.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The program is not installed.
    #[error("wrk is not installed: apt-get install wrk")]
    Absent,
    /// It cannot be run, or its script cannot be written.
    #[error("wrk cannot be run: {0}")]
    Run(#[from] io::Error),
    /// It ended by itself, or said something else than what was counted.
    #[error("wrk did not say what it counted: {said}")]
    Unreadable {
        /// What it said.
        said: String,
    },
}

impl Generator {
    /// Finds it, and leaves its script in `directory`.
    ///
    /// # Errors
    /// It is not installed.
    pub async fn find(directory: &Path, connections: u32) -> Result<Self, LoadError> {
        Self::named("wrk", directory, connections).await
    }

    async fn named(program: &str, directory: &Path, connections: u32) -> Result<Self, LoadError> {
        let asked = Command::new(program).arg("--version").stdin(Stdio::null()).output().await;
        let said = match asked {
            Ok(output) => [output.stdout, output.stderr].concat(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(LoadError::Absent),
            Err(error) => return Err(error.into()),
        };
        let said = String::from_utf8_lossy(&said);
        let tool = said.split(" [").next().unwrap_or_default().trim().to_owned();
        let script = directory.join("wrk.lua");
        std::fs::write(&script, SCRIPT)?;
        let load = Load { tool, connections, threads: 1 };
        Ok(Self { program: PathBuf::from(program), script, load })
    }

    /// Asks for it again and again for as long as `span`.
    ///
    /// # Errors
    /// See [`LoadError`]. That answers are bad is none.
    pub async fn run(&self, asked: &Asked, span: Duration) -> Result<Counts, LoadError> {
        let Asked { head, host, path } = asked;
        let mut child = Command::new(&self.program)
            .arg(format!("-t{}", self.load.threads))
            .arg(format!("-c{}", self.load.connections))
            // If nobody interrupts it, it ends by itself soon afterwards.
            .arg(format!("-d{}s", span.as_secs() + 2))
            .arg("--timeout")
            .arg(format!("{}s", TIMEOUT.as_secs()))
            .arg("-s")
            .arg(&self.script)
            .arg("-H")
            .arg(format!("Host: {host}"))
            .arg(format!("http://{head}{path}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        tokio::select! {
            // Ended before its time: what it says tells why.
            _ = child.wait() => {}
            () = tokio::time::sleep(span) => interrupt(&child)?,
        }
        let output = child.wait_with_output().await?;
        read(&[output.stdout, output.stderr].concat())
    }
}

fn interrupt(child: &tokio::process::Child) -> Result<(), LoadError> {
    let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else { return Ok(()) };
    kill(Pid::from_raw(pid), Signal::SIGINT).map_err(|error| LoadError::Run(error.into()))
}

/// What the script printed, on a line of its own among what `wrk` prints by itself.
fn read(said: &[u8]) -> Result<Counts, LoadError> {
    let said = String::from_utf8_lossy(said);
    let line = said.lines().find_map(|line| line.strip_prefix(MARK));
    let counted: Option<Counted> = line.and_then(|line| serde_json::from_str(line).ok());
    let Some(counted) = counted.filter(|counted| counted.duration_us > 0.0) else {
        return Err(LoadError::Unreadable { said: said.chars().take(400).collect() });
    };
    Ok(Counts {
        requests: counted.requests,
        seconds: counted.duration_us / 1_000_000.0,
        errors: counted.errors,
        latency: counted.latency_us,
    })
}

#[derive(Deserialize)]
struct Counted {
    requests: u64,
    duration_us: f64,
    errors: Errors,
    latency_us: Latency,
}

const MARK: &str = "counted ";
const SCRIPT: &str = r#"-- Says what was counted as one line of JSON.
function done(summary, latency, requests)
  local e = summary.errors
  io.write("counted ", string.format(
    '{"requests":%d,"duration_us":%d,"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d},',
    summary.requests, summary.duration, e.connect, e.read, e.write, e.status, e.timeout))
  io.write(string.format('"latency_us":{"p50":%d,"p95":%d,"p99":%d,"p999":%d,"max":%d}}\n',
    latency:percentile(50), latency:percentile(95), latency:percentile(99), latency:percentile(99.9), latency.max))
end
"#;
/// An answer that takes longer counts as none.
const TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_what_the_script_says_among_what_the_tool_says() {
        let said = "Running 2s test\n  Requests/sec: 1\ncounted {\"requests\":1002,\"duration_us\":2003000,\"errors\":\
                    {\"connect\":0,\"read\":1,\"write\":2,\"status\":3,\"timeout\":4},\"latency_us\":{\"p50\":310,\
                    \"p95\":500,\"p99\":810,\"p999\":1200,\"max\":1300}}\n";
        let counts = read(said.as_bytes()).unwrap();
        assert_eq!((counts.requests, counts.errors.sum(), counts.latency.p50), (1002, 10, 310.0));
        assert!((counts.seconds - 2.003).abs() < 1e-9);
    }

    #[test]
    fn rejects_what_is_no_count() {
        for said in ["unable to connect to 127.0.0.1:1 Connection refused", "counted {}", "counted 7", ""] {
            assert!(matches!(read(said.as_bytes()), Err(LoadError::Unreadable { .. })), "{said}");
        }
    }

    #[tokio::test]
    async fn a_tool_that_is_not_installed_is_named_with_the_command_that_installs_it() {
        let directory = tempfile::tempdir().unwrap();
        let absent = Generator::named("wrk-is-not-here", directory.path(), 1).await.unwrap_err();
        assert!(matches!(absent, LoadError::Absent));
        assert!(absent.to_string().contains("apt-get install wrk"));
    }

    #[tokio::test]
    async fn a_script_that_cannot_be_written_is_no_load() {
        let nowhere = Path::new("/nowhere/at/all");
        assert!(matches!(Generator::named("sh", nowhere, 1).await, Err(LoadError::Run(_))));
    }
}
