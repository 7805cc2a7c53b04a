//! A child process that ends with its test.

use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// Kills (SIGKILL, by its own pid) and reaps the process when dropped.
#[derive(Debug)]
pub struct Child(std::process::Child);

impl Child {
    /// Starts `command`.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn spawn(command: &mut Command) -> Child {
        match command.spawn() {
            Ok(child) => Child(child),
            Err(error) => panic!("cannot start {command:?}: {error}"),
        }
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// The process itself: its pipes, or `wait`.
    pub fn inner(&mut self) -> &mut std::process::Child {
        &mut self.0
    }

    /// SIGKILL now, and wait until the process is gone.
    pub fn kill(&mut self) {
        // A process that has already ended is as dead as one that we kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Waits for the process to end by itself; `None` after `limit`.
    pub fn wait_for(&mut self, limit: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if started.elapsed() < limit => std::thread::sleep(Duration::from_millis(10)),
                _ => return None,
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn a_dropped_child_is_dead_and_reaped() {
        let child = Child::spawn(Command::new("sleep").arg("60"));
        let proc_entry = PathBuf::from(format!("/proc/{}", child.pid()));
        assert!(proc_entry.exists());
        drop(child);
        assert!(!proc_entry.exists());
    }

    #[test]
    fn waiting_ends_at_the_limit() {
        let mut child = Child::spawn(Command::new("sleep").arg("60"));
        assert!(child.wait_for(Duration::from_millis(50)).is_none());
        child.kill();
        let mut quick = Child::spawn(&mut Command::new("true"));
        assert!(quick.wait_for(Duration::from_secs(10)).unwrap().success());
    }
}
