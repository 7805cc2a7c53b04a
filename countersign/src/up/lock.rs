//! One supervisor for one state directory: an advisory lock that the kernel drops when its holder dies.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::error::CliError;

/// Its file, which also tells that a directory is a deployment's.
pub const NAME: &str = "up.lock";

/// Held for as long as the deployment is supervised.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// Who supervises a state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nobody.
    Nobody,
    /// The process of this id, be it ready, starting or stopping. For an instant after a start it may be the id of
    /// the process before: one that is to be ended is asked for twice.
    Process(u32),
    /// A process that has not written its id yet: ask again in a moment.
    Unnamed,
}

impl Lock {
    /// The lock of `state_dir`, or `None` where another process holds it.
    pub fn try_take(state_dir: &Path) -> Result<Option<Self>, CliError> {
        let path = path_of(state_dir);
        let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = open.map_err(|e| cannot_open(&path, &e))?;
        let Some(mut file) = try_lock(file, FlockArg::LockExclusiveNonblock, &path)? else {
            return Ok(None);
        };
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|e| CliError::usage(format!("cannot write {}", path.display()), e, "free space"))?;
        Ok(Some(Self { _file: file }))
    }

    /// Who holds the lock of `state_dir`. It leaves nothing behind where there never was one.
    pub fn holder(state_dir: &Path) -> Result<Holder, CliError> {
        let path = path_of(state_dir);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Holder::Nobody),
            Err(e) => return Err(cannot_open(&path, &e)),
        };
        let mut text = String::new();
        (&mut file).take(PID_BYTES_MAX).read_to_string(&mut text).map_err(|e| cannot_open(&path, &e))?;
        // Shared, so that two who ask at once do not take each other for the holder.
        let free = try_lock(file, FlockArg::LockSharedNonblock, &path)?.is_some();
        // 0 would be whoever asks, and all of its process group.
        let pid = text.trim().parse().ok().filter(|pid| *pid > 0);
        Ok(if free { Holder::Nobody } else { pid.map_or(Holder::Unnamed, Holder::Process) })
    }
}

/// Longer than any process id.
const PID_BYTES_MAX: u64 = 32;

fn path_of(state_dir: &Path) -> PathBuf {
    state_dir.join(NAME)
}

fn try_lock(file: File, how: FlockArg, path: &Path) -> Result<Option<Flock<File>>, CliError> {
    match Flock::lock(file, how) {
        Ok(file) => Ok(Some(file)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, e)) => Err(CliError::usage(
            format!("cannot lock {}", path.display()),
            e,
            "put the state directory on a local file system",
        )),
    }
}

fn cannot_open(path: &Path, why: &std::io::Error) -> CliError {
    CliError::usage(format!("cannot open {}", path.display()), why, "choose a state directory that you own")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_supervisor_of_one_state_directory_is_told_that_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::try_take(dir.path()).unwrap();
        assert!(first.is_some());
        assert!(Lock::try_take(dir.path()).unwrap().is_none());
        drop(first);
        assert!(Lock::try_take(dir.path()).unwrap().is_some());
    }
    #[test]
    fn whoever_asks_is_told_which_process_supervises_and_a_foreign_directory_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Lock::holder(dir.path()).unwrap(), Holder::Nobody);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let held = Lock::try_take(dir.path()).unwrap();
        assert_eq!(Lock::holder(dir.path()).unwrap(), Holder::Process(std::process::id()));
        for text in ["", "0", "-1", "ads"] {
            std::fs::write(dir.path().join(NAME), text).unwrap();
            assert_eq!(Lock::holder(dir.path()).unwrap(), Holder::Unnamed);
        }
        drop(held);
        assert_eq!(Lock::holder(dir.path()).unwrap(), Holder::Nobody);
    }
}
