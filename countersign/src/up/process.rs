//! One supervised process: started with a pipe as its stdin, and told to end by closing it. A child whose
//! supervisor was killed sees the same closed pipe, so no child outlives `up`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, ChildStdin, Command};
use tokio_util::sync::CancellationToken;

use crate::error::CliError;

/// A process that drains its requests may take this long before it is killed.
const DRAIN: Duration = Duration::from_secs(12);
/// First and longest pause before a process that ended is started again.
const RESTART_FIRST: Duration = Duration::from_secs(1);
const RESTART_LONGEST: Duration = Duration::from_secs(30);
/// A log longer than this is moved aside, when its process starts and while it runs: one is kept besides the newest.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How often the length of a log is looked at.
const LOG_LOOK: Duration = Duration::from_secs(5);

/// What is to be kept running.
#[derive(Debug, Clone)]
pub struct Process {
    /// Name in messages, and of the log file.
    pub name: String,
    /// Arguments to this same binary.
    pub arguments: Vec<String>,
    /// Where stdout and stderr go.
    pub log: PathBuf,
}

/// A running process.
#[derive(Debug)]
pub struct Running {
    process: Process,
    child: Child,
    /// Held apart from `child`, whose `wait` would close it: it is what keeps the process running.
    pipe: Option<ChildStdin>,
}

impl Process {
    /// Starts it.
    pub fn start(self) -> Result<Running, CliError> {
        let mut child = self.spawn()?;
        let pipe = child.stdin.take();
        Ok(Running { process: self, child, pipe })
    }

    fn spawn(&self) -> Result<Child, CliError> {
        let failed =
            |e: std::io::Error| CliError::failed(format!("{} does not start", self.name), e, "try again");
        let binary = std::env::current_exe().map_err(failed)?;
        let (out, err) = self.log_file().map_err(failed)?;
        Command::new(binary)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(err)
            .kill_on_drop(true)
            // Its own group: Ctrl-C reaches the supervisor alone, which then ends the children in order.
            .process_group(0)
            .spawn()
            .map_err(failed)
    }

    fn log_file(&self) -> std::io::Result<(Stdio, Stdio)> {
        if std::fs::metadata(&self.log).is_ok_and(|m| m.len() > LOG_BYTES_MAX) {
            std::fs::rename(&self.log, self.log.with_extension("log.1"))?;
        }
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        Ok((file.try_clone()?.into(), file.into()))
    }

    /// The last lines of the log, for the error that the person reads.
    pub fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut lines: Vec<&str> = text.lines().rev().filter(|l| !l.trim().is_empty()).take(4).collect();
        lines.reverse();
        lines.join("\n       ")
    }
}

impl Running {
    /// The exit code of a process that has ended already.
    pub fn ended(&mut self) -> Option<i32> {
        self.child.try_wait().ok().flatten().map(|status| status.code().unwrap_or(-1))
    }

    /// What it is.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Keeps it running until `stop`, starting it again with growing pauses, then ends it.
    ///
    /// A process that ends with exit code 2 says that its configuration or keys are wrong, or its address taken. It
    /// served with them before, so it is started again too: somebody changes them back, or lets go of the address.
    /// Until then there is no hurry.
    pub async fn keep(mut self, stop: CancellationToken) {
        let mut pause = RESTART_FIRST;
        loop {
            let started = Instant::now();
            tokio::select! {
                () = stop.cancelled() => return self.end().await,
                code = self.wait() => {
                    tracing::error!(process = %self.process.name, code, "process ended");
                    pause = pause_after(code, started.elapsed(), pause);
                }
            }
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(RESTART_LONGEST);
                match self.process.spawn() {
                    Ok(mut child) => {
                        self.pipe = child.stdin.take();
                        self.child = child;
                        break;
                    }
                    // A full disk or process table passes.
                    Err(e) => {
                        tracing::error!(process = %self.process.name, error = %e, "process cannot be started yet");
                    }
                }
            }
        }
    }

    /// Its exit code, when it ends. Its log stays short until then, whoever fills it.
    async fn wait(&mut self) -> Option<i32> {
        loop {
            tokio::select! {
                status = self.child.wait() => return status.ok().and_then(|s| s.code()),
                () = tokio::time::sleep(LOG_LOOK) => {}
            }
            if let Err(e) = shorten(&self.process.log, LOG_BYTES_MAX) {
                tracing::warn!(process = %self.process.name, error = %e, "a log cannot be moved aside");
            }
        }
    }

    async fn end(&mut self) {
        drop(self.pipe.take());
        if tokio::time::timeout(DRAIN, self.child.wait()).await.is_err() {
            tracing::warn!(process = %self.process.name, "process did not end in time and is killed");
            let _ = self.child.kill().await;
        }
    }
}

/// How long to wait before a process is started again that ended with `code` after it `ran` so long.
fn pause_after(code: Option<i32>, ran: Duration, pause: Duration) -> Duration {
    match code {
        Some(2) => RESTART_LONGEST,
        // A process that ran well for long ended for a new reason.
        _ if ran > RESTART_LONGEST => RESTART_FIRST,
        _ => pause,
    }
}

/// Moves the content of a long log aside. The process goes on writing to the file that it has open, and appends: so
/// the file is emptied, not renamed. What is written between the two steps is lost.
fn shorten(log: &Path, bytes_max: u64) -> std::io::Result<()> {
    if std::fs::metadata(log)?.len() <= bytes_max {
        return Ok(());
    }
    std::fs::copy(log, log.with_extension("log.1"))?;
    std::fs::OpenOptions::new().write(true).open(log)?.set_len(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn whatever_a_process_that_served_ended_with_it_is_started_again() {
        let (short, long) = (Duration::from_secs(2), Duration::from_secs(3600));
        let pause = Duration::from_secs(8);
        // Exit code 2 is also that of an address which somebody else holds at this moment.
        assert_eq!(pause_after(Some(2), short, pause), RESTART_LONGEST);
        assert_eq!(pause_after(Some(2), long, pause), RESTART_LONGEST);
        assert_eq!(pause_after(Some(1), short, pause), pause);
        assert_eq!(pause_after(None, long, pause), RESTART_FIRST, "killed");
    }

    #[test]
    fn a_long_log_is_moved_aside_while_its_process_writes_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let (log, aside) = (dir.path().join("ads.log"), dir.path().join("ads.log.1"));
        let mut process = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        process.write_all(b"0123456789").unwrap();
        shorten(&log, 10).unwrap();
        assert!(!aside.exists(), "as long as it may be");
        process.write_all(b"x").unwrap();
        shorten(&log, 10).unwrap();
        process.write_all(b"new").unwrap();
        assert_eq!(std::fs::read(&log).unwrap(), b"new");
        assert_eq!(std::fs::read(&aside).unwrap(), b"0123456789x");
    }
}
