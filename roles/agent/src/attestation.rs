//! What the agent saw of a process: the text that goes into the ledger with each certificate.
//!
//! It decides nothing today. It tells, afterwards, which program held an identity.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_keys::{Sha256, hash::hex};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::attest::{ExecutableError, Process};

/// Largest program that is hashed.
const EXECUTABLE_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Programs whose hash is remembered.
const REMEMBERED_MAX: usize = 256;
/// Longest path that goes into the ledger: the authority keeps 512 characters of the whole text.
const PATH_CHARS_MAX: usize = 256;

/// Looks at processes; remembers the hashes of programs that did not change.
#[derive(Debug)]
pub(crate) struct Attestor {
    remembered: Mutex<HashMap<FileVersion, String>>,
    /// One program is hashed at a time: many processes of one program start together, and one hash serves all.
    turn: Semaphore,
}

/// One content of one file, as far as the file system tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FileVersion {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The text, as JSON.
#[derive(Debug, Serialize)]
struct Seen {
    pid: i32,
    uid: u32,
    /// Clock ticks since boot.
    started: u64,
    /// Whether the kernel pinned it (`pidfd`) or its start time was compared.
    pinned: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
}

impl Default for Attestor {
    fn default() -> Self {
        Self { remembered: Mutex::default(), turn: Semaphore::new(1) }
    }
}

impl Attestor {
    /// What can be said about `process`.
    ///
    /// # Errors
    /// It has exited: nothing that was read counts. A program that cannot be read is no error, the text says so.
    pub(crate) async fn look_at(self: &Arc<Self>, process: &Process) -> Result<String, ExecutableError> {
        let mut seen = Seen {
            pid: process.key().pid,
            uid: process.uid(),
            started: process.key().start_time,
            pinned: process.is_pinned(),
            executable: None,
            sha256: None,
            unknown: None,
        };
        match process.executable() {
            Ok(executable) => {
                seen.executable =
                    Some(executable.path.to_string_lossy().chars().take(PATH_CHARS_MAX).collect());
                match self.hash(executable.file).await {
                    Ok(hash) => seen.sha256 = Some(hash),
                    Err(error) => seen.unknown = Some(error.kind().to_string()),
                }
            }
            Err(ExecutableError::Exited) => return Err(ExecutableError::Exited),
            Err(error @ ExecutableError::Unreadable(_)) => seen.unknown = Some(error.to_string()),
        }
        // It may have executed another program, or ended, while the first was hashed.
        if !process.is_alive() {
            return Err(ExecutableError::Exited);
        }
        Ok(serde_json::to_string(&seen).unwrap_or_default())
    }

    async fn hash(self: &Arc<Self>, file: File) -> io::Result<String> {
        let version = FileVersion::of(&file.metadata()?);
        if let Some(known) = self.known(&version) {
            return Ok(known);
        }
        let _turn = self.turn.acquire().await.map_err(io::Error::other)?;
        if let Some(known) = self.known(&version) {
            return Ok(known);
        }
        let hash = tokio::task::spawn_blocking(move || hash_of(file)).await.map_err(io::Error::other)??;
        let mut remembered = self.remembered();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(version, hash.clone());
        Ok(hash)
    }

    fn known(&self, version: &FileVersion) -> Option<String> {
        self.remembered().get(version).cloned()
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<FileVersion, String>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FileVersion {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

fn hash_of(file: File) -> io::Result<String> {
    if file.metadata()?.len() > EXECUTABLE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut file = file.take(EXECUTABLE_BYTES_MAX);
    let mut hash = Sha256::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(hex(&hash.finish()));
        }
        hash.update(piece.get(..read).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn the_text_names_the_program_and_the_hash_of_what_runs() {
        let (here, _there) = UnixStream::pair().unwrap();
        let process = crate::attest::pin(&here).unwrap();
        let attestor = Arc::new(Attestor::default());
        let text = attestor.look_at(&process).await.unwrap();
        let seen: serde_json::Value = serde_json::from_str(&text).unwrap();
        let program = std::env::current_exe().unwrap();
        assert_eq!(seen["pid"], std::process::id());
        assert_eq!(seen["executable"], program.to_str().unwrap());
        let expected = countersign_keys::sha256_hex(&std::fs::read(program).unwrap());
        assert_eq!(seen["sha256"], expected);
        assert_eq!(attestor.remembered().len(), 1);
        assert_eq!(attestor.look_at(&process).await.unwrap(), text);
    }

    #[tokio::test]
    async fn a_changed_program_is_hashed_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        let attestor = Arc::new(Attestor::default());
        std::fs::write(&path, "one").unwrap();
        let first = attestor.hash(File::open(&path).unwrap()).await.unwrap();
        std::fs::write(&path, "other").unwrap();
        assert_ne!(attestor.hash(File::open(&path).unwrap()).await.unwrap(), first);
    }
}
