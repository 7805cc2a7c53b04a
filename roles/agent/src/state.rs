//! What survives a restart: the agent's own files, each written whole or not at all, readable by their owner.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::AgentError;

/// Largest file that is read back; the snapshot is by far the largest.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The agent's directory, held by one agent at a time.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl StateDir {
    /// Makes `path` (0700) where it is missing, and takes it.
    pub(crate) fn open(path: PathBuf) -> Result<Self, AgentError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .and_then(|()| std::fs::set_permissions(&path, Permissions::from_mode(0o700)))
            .map_err(AgentError::file("make", &path))?;
        let lock = private_file(&path.join("lock")).map_err(AgentError::file("open", &path))?;
        match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err(_) => Err(AgentError::StateInUse(path)),
        }
    }

    /// Where `name` lies.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a JSON document; `None` where there is none yet.
    pub(crate) fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, AgentError> {
        let path = self.path(name);
        let unreadable = |kind| AgentError::File { doing: "read", path: path.clone(), kind };
        let Some(bytes) = read_bounded(&path, FILE_BYTES_MAX).map_err(|e| unreadable(e.kind()))? else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|_| unreadable(io::ErrorKind::InvalidData))
    }

    /// Replaces a JSON document in one step, on disk before this returns.
    pub(crate) fn save(&self, name: &str, document: &impl Serialize) -> Result<(), AgentError> {
        let path = self.path(name);
        let fresh = self.path(&format!("{name}.new"));
        serde_json::to_vec(document)
            .map_err(io::Error::from)
            .and_then(|bytes| {
                let mut file = private_file(&fresh)?;
                file.write_all(&bytes)?;
                file.sync_all()?;
                std::fs::rename(&fresh, &path)?;
                File::open(&self.path)?.sync_all()
            })
            .map_err(AgentError::file("write", &path))
    }
}

/// The whole of a file, `None` where there is none; an error where it is longer than `max` bytes.
pub(crate) fn read_bounded(path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > max) {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(Some(bytes))
}

fn private_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // `mode` counts for new files only.
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn state() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path().join("agent")).unwrap();
        (dir, state)
    }

    #[test]
    fn what_was_saved_is_loaded_and_nobody_else_may_read_it() {
        let (_dir, state) = state();
        assert_eq!(state.load::<Vec<u8>>("x").unwrap(), None);
        std::fs::write(state.path("x.new"), "left behind by a crash").unwrap();
        std::fs::set_permissions(state.path("x.new"), Permissions::from_mode(0o644)).unwrap();
        state.save("x", &vec![1, 2]).unwrap();
        assert_eq!(state.load::<Vec<u8>>("x").unwrap(), Some(vec![1, 2]));
        let mode = |path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(state.path("x")), 0o600);
        assert_eq!(mode(state.path("lock")), 0o600);
        assert_eq!(mode(state.path.clone()), 0o700);
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let (_dir, state) = state();
        std::fs::write(state.path("x"), "[1,").unwrap();
        let error = state.load::<Vec<u8>>("x").unwrap_err();
        let expected =
            AgentError::File { doing: "read", path: state.path("x"), kind: io::ErrorKind::InvalidData };
        assert_eq!(error, expected);
    }

    #[test]
    fn a_second_agent_on_the_same_state_is_refused() {
        let (_dir, state) = state();
        let path = state.path.clone();
        assert_eq!(StateDir::open(path.clone()).unwrap_err(), AgentError::StateInUse(path.clone()));
        drop(state);
        assert!(StateDir::open(path).is_ok());
    }

    #[test]
    fn a_file_is_read_up_to_its_limit_and_no_further() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "1234").unwrap();
        assert_eq!(read_bounded(&path, 4).unwrap().unwrap(), b"1234");
        assert_eq!(read_bounded(&path, 3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
