//! The load generator: `wrk`, told by a script of its own to say what it counted as JSON.
//!
//! It takes whole seconds only, so each run is given more than it needs and is interrupted when its time is over; how long
//! it really ran it says itself.

use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    pin::{Pin, pin},
    process::{Output, Stdio},
    time::Duration,
};

use nix::{
    errno::Errno,
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
    /// It was interrupted before it began, every time.
    #[error(
        "wrk never began: the machine has no time for it; try again when it does less, or with more --seconds"
    )]
    NeverBegan,
    /// It neither ends nor says anything.
    #[error(
        "wrk did not end within {waited_s} s of being interrupted twice; try again when the machine does less"
    )]
    Silent {
        /// Seconds.
        waited_s: u64,
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
        let mut span = span;
        for _ in 1..ATTEMPTS {
            if let Some(counts) = self.attempt(asked, span).await? {
                return Ok(counts);
            }
            span += LATER;
        }
        self.attempt(asked, span).await?.ok_or(LoadError::NeverBegan)
    }

    /// Nothing, where a busy machine had not even let it begin when its time was over.
    async fn attempt(&self, asked: &Asked, span: Duration) -> Result<Option<Counts>, LoadError> {
        let Asked { head, host, path } = asked;
        let child = Command::new(&self.program)
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
        let pid = child.id();
        let mut ended = pin!(child.wait_with_output());
        let output = tokio::select! {
            // Ended before its time: what it says tells why.
            output = &mut ended => output?,
            () = tokio::time::sleep(span) => interrupted(pid, ended, &PATIENCE).await?,
        };
        // Once it has begun it does not die of the signal, but says what it counted.
        if output.status.signal() == Some(Signal::SIGINT as i32) {
            return Ok(None);
        }
        read(&[output.stdout, output.stderr].concat()).map(Some)
    }
}

/// Asks it to end, again if it does not within `patience`. Dropped, it is killed.
async fn interrupted(
    pid: Option<u32>,
    mut ended: Pin<&mut impl Future<Output = io::Result<Output>>>,
    patience: &[Duration],
) -> Result<Output, LoadError> {
    for patience in patience {
        interrupt(pid)?;
        if let Ok(output) = tokio::time::timeout(*patience, &mut ended).await {
            return Ok(output?);
        }
    }
    Err(LoadError::Silent { waited_s: patience.iter().map(Duration::as_secs).sum() })
}

fn interrupt(pid: Option<u32>) -> Result<(), LoadError> {
    let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()) else { return Ok(()) };
    match kill(Pid::from_raw(pid), Signal::SIGINT) {
        // It ended in the same moment.
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(LoadError::Run(error.into())),
    }
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
const ATTEMPTS: u32 = 4;
/// How much more time each further attempt is given.
const LATER: Duration = Duration::from_millis(500);
/// How long each interrupt may take to be followed.
const PATIENCE: [Duration; 2] = [Duration::from_secs(10); 2];
/// An answer that takes longer counts as none.
const TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::AsyncReadExt as _;

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

    /// A tool of these lines, found.
    async fn tool(directory: &Path, lines: &str) -> Generator {
        let program = directory.join("tool");
        let head = format!("#!/usr/bin/env -S {SHELL}\n[ \"$1\" = --version ] && exit 0");
        std::fs::write(&program, format!("{head}\n{lines}\n")).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        loop {
            match Generator::named(program.to_str().unwrap(), directory, 1).await {
                // Another test forked while the file was open for writing.
                Err(LoadError::Run(error)) if error.kind() == io::ErrorKind::ExecutableFileBusy => {}
                found => return found.unwrap(),
            }
        }
    }

    /// Whoever runs the tests in the background has them ignore interrupts, and a shell cannot change that by itself.
    const SHELL: &str = "--default-signal=INT sh";

    fn anything() -> Asked {
        Asked { head: ([127, 0, 0, 1], 1).into(), host: "a".into(), path: "/".into() }
    }

    #[tokio::test]
    async fn a_tool_that_is_interrupted_before_it_began_is_given_more_time_and_then_told() {
        let directory = tempfile::tempdir().unwrap();
        // It dies of the signal, as the load generator does before it listens to it.
        let generator = tool(directory.path(), "echo . >>\"$0.begun\"; exec sleep 60").await;
        let never = generator.run(&anything(), Duration::from_millis(100)).await.unwrap_err();
        assert!(matches!(never, LoadError::NeverBegan), "{never}");
        // Once it has had the time, what it says counts.
        let line = r#"counted {"requests":7,"duration_us":5,"errors":{"connect":0,"read":0,"write":0,"status":0,"timeout":0},"latency_us":{"p50":1,"p95":1,"p99":1,"p999":1,"max":1}}"#;
        let second =
            format!("[ -e \"$0.second\" ] || {{ touch \"$0.second\"; exec sleep 60; }}\necho '{line}'");
        let generator = tool(directory.path(), &second).await;
        assert_eq!(generator.run(&anything(), Duration::from_secs(2)).await.unwrap().requests, 7);
    }

    #[tokio::test]
    async fn a_tool_that_does_not_follow_an_interrupt_is_interrupted_again_and_then_told() {
        let ends_at_the_second =
            "n=0; trap 'n=$((n+1)); [ $n = 2 ] && exit 0' INT; echo; while :; do sleep 0.1; done";
        let deaf = "trap '' INT; echo; while :; do sleep 0.1; done";
        let [short, long] = [3, 60].map(Duration::from_secs);
        for (lines, patience, ends) in
            [(ends_at_the_second, [short, long], true), (deaf, [short, short], false)]
        {
            let mut child = Command::new("env");
            child.args(SHELL.split(' ')).args(["-c", lines]).stdout(Stdio::piped()).kill_on_drop(true);
            let mut child = child.spawn().unwrap();
            let listens = child.stdout.as_mut().unwrap().read_u8().await;
            assert_eq!(listens.unwrap(), b'\n', "its trap is set");
            let ended = interrupted(child.id(), pin!(child.wait_with_output()), &patience).await;
            assert_eq!(ended.is_ok(), ends, "{ended:?}");
            assert!(ends || matches!(ended, Err(LoadError::Silent { waited_s: 6 })));
        }
    }

    #[tokio::test]
    async fn a_script_that_cannot_be_written_is_no_load() {
        let nowhere = Path::new("/nowhere/at/all");
        assert!(matches!(Generator::named("sh", nowhere, 1).await, Err(LoadError::Run(_))));
    }
}
