//! One supervisor for one state directory: an advisory lock that the kernel drops when its holder dies.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use crate::error::CliError;

/// Held for as long as the deployment is supervised.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// The lock of `state_dir`, or `None` where another process holds it.
    pub fn try_take(state_dir: &Path) -> Result<Option<Self>, CliError> {
        let path = state_dir.join("up.lock");
        let open =
            std::fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = open.map_err(|e| {
            CliError::usage(
                format!("cannot open {}", path.display()),
                e,
                "choose a state directory that you own",
            )
        })?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Some(Self { _file: file })),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, e)) => Err(CliError::usage(
                format!("cannot lock {}", path.display()),
                e,
                "put the state directory on a local file system",
            )),
        }
    }
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
}
