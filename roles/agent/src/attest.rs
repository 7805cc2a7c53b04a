//! Which process is at the other end of a connection, and what it executes.
//!
//! A process id alone proves nothing: it is reused the moment its owner is gone. So the peer is *pinned* when
//! its connection is accepted: the kernel hands out a pidfd of the process that connected (`SO_PEERPIDFD`,
//! Linux 6.5). Everything read from `/proc` afterwards counts only if that pidfd still says "running" after
//! the read (SPIFFE Workload Endpoint, section 5; rows SPF-13 and DESIGN 5.6).
//!
//! | what the kernel answers | what it means | verdict |
//! |---|---|---|
//! | a pidfd that is not readable | the process runs | pinned |
//! | a pidfd that is readable | it has exited, reaped or not | refused |
//! | `ENOPROTOOPT` | the kernel is older than 6.5 | start times are compared instead |
//! | any other error, such as `EINVAL` for a reaped peer | unknown | refused |

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{getsockopt, sockopt};
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How often a process without a pidfd is looked at.
const START_TIME_INTERVAL: Duration = Duration::from_millis(500);

/// Why a peer could not be pinned to one living process.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PinError {
    /// The kernel does not say who connected.
    #[error("the kernel does not name the process that connected: {0}")]
    NoCredentials(Errno),
    /// The peer lives in a process namespace that the agent cannot see into.
    #[error("the process that connected is not visible from the agent's process namespace")]
    Invisible,
    /// The kernel has no pidfd for the peer, for another reason than its own age.
    #[error("the process that connected cannot be pinned: {0}")]
    NotPinned(Errno),
    /// The process ended before everything about it was known.
    #[error("the process that connected has exited")]
    Exited,
}

/// A process that is known by more than its number. Only [`pin`] and [`restore`] make one.
#[derive(Debug)]
pub(crate) struct Process {
    key: ProcessKey,
    uid: u32,
    /// Absent on kernels older than 6.5, and for a process restored after a restart of the agent.
    pidfd: Option<OwnedFd>,
}

/// Process id and start time (clock ticks since boot): together they name one process of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ProcessKey {
    pub(crate) pid: i32,
    pub(crate) start_time: u64,
}

/// Pins the process at the other end of a connection that was just accepted.
pub(crate) fn pin(connection: &impl AsFd) -> Result<Process, PinError> {
    let fd = connection.as_fd();
    let credentials = getsockopt(&fd, sockopt::PeerCredentials).map_err(PinError::NoCredentials)?;
    let pidfd = getsockopt(&fd, sockopt::PeerPidfd);
    judge(credentials.pid(), credentials.uid(), pidfd, running_since)
}

/// Looks for a process that was pinned before the agent restarted; `None` when it has ended since.
pub(crate) fn restore(key: ProcessKey, uid: u32) -> Option<Process> {
    let process = Process { key, uid, pidfd: None };
    process.is_alive().then_some(process)
}

/// The verdict on what the kernel answered, apart from the kernel.
fn judge(
    pid: i32,
    uid: u32,
    pidfd: Result<OwnedFd, Errno>,
    running_since: impl Fn(i32) -> io::Result<Option<u64>>,
) -> Result<Process, PinError> {
    if pid <= 0 {
        return Err(PinError::Invisible);
    }
    let pidfd = match pidfd {
        Ok(fd) => Some(fd),
        Err(Errno::ENOPROTOOPT) => None,
        Err(other) => return Err(PinError::NotPinned(other)),
    };
    let start_time = running_since(pid).ok().flatten().ok_or(PinError::Exited)?;
    // The pid may have changed hands before it was read: only a pidfd that is still silent says it did not.
    if pidfd.as_ref().is_some_and(|fd| has_exited(fd.as_fd())) {
        return Err(PinError::Exited);
    }
    Ok(Process { key: ProcessKey { pid, start_time }, uid, pidfd })
}

impl Process {
    /// What names this process and no other of this boot.
    pub(crate) fn key(&self) -> ProcessKey {
        self.key
    }

    /// The uid under which it connected.
    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    /// Whether it runs at this moment. Ask after reading anything about it.
    pub(crate) fn is_alive(&self) -> bool {
        match &self.pidfd {
            Some(fd) => !has_exited(fd.as_fd()),
            None => matches!(running_since(self.key.pid), Ok(Some(since)) if since == self.key.start_time),
        }
    }

    /// Whether the kernel holds it for us, or only its start time tells it apart.
    pub(crate) fn is_pinned(&self) -> bool {
        self.pidfd.is_some()
    }

    /// Returns when it has exited.
    pub(crate) async fn exited(&self) {
        if let Some(fd) = &self.pidfd
            && let Ok(watched) = watched(fd.as_fd())
            && watched.readable().await.is_ok()
        {
            return;
        }
        while self.is_alive() {
            tokio::time::sleep(START_TIME_INTERVAL).await;
        }
    }

    /// Opens what it executes, through the process itself: the path may name another file by now.
    pub(crate) fn executable(&self) -> Result<Executable, ExecutableError> {
        let link = format!("/proc/{}/exe", self.key.pid);
        let unreadable = |e: io::Error| ExecutableError::Unreadable(e.kind());
        let file = File::open(&link);
        let path = std::fs::read_link(&link);
        if !self.is_alive() {
            return Err(ExecutableError::Exited);
        }
        Ok(Executable { file: file.map_err(unreadable)?, path: path.map_err(unreadable)? })
    }
}

/// The program of a living process.
pub(crate) struct Executable {
    /// The file that is being executed, whatever its path holds by now.
    pub(crate) file: File,
    /// Its path as the kernel tells it.
    pub(crate) path: PathBuf,
}

/// Why the program of a process is not known.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExecutableError {
    /// The process ended while it was looked at: nothing of what was read counts.
    #[error("the process has exited")]
    Exited,
    /// The agent may not read it, as for a process of another uid.
    #[error("its executable cannot be read: {0}")]
    Unreadable(io::ErrorKind),
}

#[expect(
    deprecated,
    reason = "its successor is unsafe; here the descriptor is borrowed for as long as it is watched"
)]
fn watched(pidfd: BorrowedFd<'_>) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    AsyncFd::with_interest(pidfd, Interest::READABLE)
}

/// A pidfd becomes readable when its process exits, before it is reaped (pidfd_open(2)). A poll that fails
/// counts as exited.
fn has_exited(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    !matches!(nix::poll::poll(&mut fds, PollTimeout::ZERO), Ok(0))
}

/// Start time of a process in clock ticks since boot, `None` for one that has exited and waits to be reaped.
fn running_since(pid: i32) -> io::Result<Option<u64>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    Ok(parse_stat(&stat))
}

/// proc_pid_stat(5): the command name is in brackets and may hold anything, so the fields are counted from the
/// last bracket: 3 is the state, 22 the start time.
fn parse_stat(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(22 - 3 - 1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::{Child, Command, Stdio};

    use super::*;

    const US: i32 = 4242;

    const SOCKET: &str = "COUNTERSIGN_TEST_SOCKET";

    #[test]
    #[ignore = "not a test: the child process of the tests below, which connects and waits"]
    fn child_that_connects_and_waits() {
        let Some(path) = std::env::var_os(SOCKET) else { return };
        let _connection = UnixStream::connect(path).unwrap();
        io::stdin().read_line(&mut String::new()).unwrap();
    }

    /// A process that connects to `path` and lives until its standard input closes.
    fn connector(path: &std::path::Path) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "attest::tests::child_that_connects_and_waits"])
            .env(SOCKET, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn accepted() -> (tempfile::TempDir, Child, UnixStream) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let child = connector(&path);
        let (stream, _) = listener.accept().unwrap();
        (dir, child, stream)
    }

    fn exited_but_not_reaped(child: &mut Child) {
        drop(child.stdin.take());
        let stat = format!("/proc/{}/stat", child.id());
        while !std::fs::read_to_string(&stat).unwrap().contains(") Z") {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn accepts_a_living_peer_and_names_its_pid_uid_and_start_time() {
        let (_dir, mut child, stream) = accepted();
        let process = pin(&stream).unwrap();
        assert_eq!(process.key().pid, i32::try_from(child.id()).unwrap());
        assert_eq!(process.uid(), nix::unistd::getuid().as_raw());
        assert_eq!(Some(process.key().start_time), running_since(process.key().pid).unwrap());
        assert!(process.is_alive());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!process.is_alive());
    }

    #[test]
    fn rejects_a_peer_that_exited_but_was_not_reaped() {
        let (_dir, mut child, stream) = accepted();
        exited_but_not_reaped(&mut child);
        assert_eq!(pin(&stream).unwrap_err(), PinError::Exited);
        child.wait().unwrap();
    }

    #[test]
    fn an_unreaped_peer_is_rejected_by_its_pidfd_even_where_its_start_time_reads_well() {
        let (_dir, mut child, stream) = accepted();
        exited_but_not_reaped(&mut child);
        let pidfd = getsockopt(&stream, sockopt::PeerPidfd);
        assert_eq!(judge(US, 0, pidfd, |_| Ok(Some(7))).unwrap_err(), PinError::Exited);
        child.wait().unwrap();
    }

    #[test]
    fn rejects_a_peer_that_was_reaped_before_it_could_be_pinned() {
        let (_dir, mut child, stream) = accepted();
        drop(child.stdin.take());
        child.wait().unwrap();
        // Newer kernels hand out a readable pidfd, older ones EINVAL: refused both times.
        assert!(matches!(pin(&stream), Err(PinError::Exited | PinError::NotPinned(Errno::EINVAL))));
    }

    #[test]
    fn rejects_every_error_of_the_kernel_but_its_age() {
        for errno in [Errno::EINVAL, Errno::ESRCH, Errno::ENODATA, Errno::EMFILE, Errno::EPERM] {
            let verdict = judge(US, 0, Err(errno), |_| Ok(Some(7)));
            assert_eq!(verdict.unwrap_err(), PinError::NotPinned(errno));
        }
    }

    #[test]
    fn an_old_kernel_falls_back_to_comparing_start_times() {
        let (_dir, mut child, stream) = accepted();
        let pid = getsockopt(&stream, sockopt::PeerCredentials).unwrap().pid();
        let process = judge(pid, 0, Err(Errno::ENOPROTOOPT), running_since).unwrap();
        assert!(!process.is_pinned());
        assert!(process.is_alive());
        let reused = Process {
            key: ProcessKey { pid, start_time: process.key().start_time + 1 },
            uid: 0,
            pidfd: None,
        };
        assert!(!reused.is_alive(), "the same pid with another start time is another process");
        exited_but_not_reaped(&mut child);
        assert!(!process.is_alive());
        child.wait().unwrap();
    }

    #[test]
    fn rejects_a_peer_whose_start_time_cannot_be_read() {
        let gone = |_| Err(io::ErrorKind::NotFound.into());
        assert_eq!(judge(US, 0, Err(Errno::ENOPROTOOPT), gone).unwrap_err(), PinError::Exited);
    }

    #[test]
    fn rejects_a_peer_from_another_process_namespace() {
        assert_eq!(judge(0, 0, Err(Errno::ENOPROTOOPT), |_| Ok(Some(7))).unwrap_err(), PinError::Invisible);
    }

    #[test]
    fn rejects_what_is_not_a_connection() {
        let (_read, write) = io::pipe().unwrap();
        assert_eq!(pin(&write).unwrap_err(), PinError::NoCredentials(Errno::ENOTSOCK));
    }

    #[test]
    fn the_executable_of_an_exited_process_does_not_count() {
        let (_dir, mut child, stream) = accepted();
        let process = pin(&stream).unwrap();
        assert_eq!(process.executable().unwrap().path, std::env::current_exe().unwrap());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(process.executable().err(), Some(ExecutableError::Exited));
    }

    #[test]
    fn an_executable_that_cannot_be_read_is_said_to_be_so() {
        // Kernel threads run no file.
        let Some(thread) = running_since(2).ok().flatten() else { return };
        let process = Process { key: ProcessKey { pid: 2, start_time: thread }, uid: 0, pidfd: None };
        assert!(matches!(process.executable().err(), Some(ExecutableError::Unreadable(_))));
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_noticed_without_asking() {
        let (_dir, mut child, stream) = accepted();
        let process = pin(&stream).unwrap();
        let early = tokio::time::timeout(Duration::from_millis(100), process.exited()).await;
        assert!(early.is_err(), "it still runs");
        drop(child.stdin.take());
        tokio::time::timeout(Duration::from_secs(5), process.exited()).await.unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_name_full_of_brackets_does_not_shift_the_fields() {
        let fields = (3..=52).map(|n| if n == 3 { "S".into() } else { n.to_string() });
        let stat = format!("17 (a) Z 1 (b)) {}", fields.collect::<Vec<String>>().join(" "));
        assert_eq!(parse_stat(&stat), Some(22));
        assert_eq!(parse_stat("17 (x) Z 1"), None);
        assert_eq!(parse_stat("17 (x"), None);
        assert_eq!(parse_stat("17 (x) S 1 2"), None);
    }
}
