//! The master key's file: outside the state directory, readable by its owner alone.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use countersign_keys::{MasterKey, SystemRandom, master::FILE_BYTES_MAX};

use crate::AuthorityError;

/// Makes a new master key file (0600), and its directory (0700) where that is missing. For a new deployment
/// only: [`run`](crate::run) itself never makes one, so that a lost key cannot be papered over.
///
/// # Errors
/// [`AuthorityError::File`], also if there is a file already.
pub fn make_master_key(path: &Path) -> Result<(), AuthorityError> {
    let file_error = |why: String| AuthorityError::File { path: path.to_owned(), why };
    let key = MasterKey::generate(&SystemRandom::new()).map_err(|error| file_error(error.to_string()))?;
    let make = || -> std::io::Result<()> {
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(key.to_file_text().expose().as_bytes())?;
        file.sync_all()?;
        path.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
    };
    make().map_err(|error| file_error(error.to_string()))
}

/// Reads the key; `state_dir` must not hold it.
pub(crate) fn read(path: &Path, state_dir: &Path) -> Result<MasterKey, AuthorityError> {
    let unusable = |why: String| AuthorityError::MasterKeyUnusable { path: path.to_owned(), why };
    let file = fs::File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => AuthorityError::MasterKeyMissing { path: path.to_owned() },
        _ => unusable(error.to_string()),
    })?;
    if inside(path, state_dir) {
        return Err(AuthorityError::MasterKeyInsideState { path: path.to_owned() });
    }
    let metadata = file.metadata().map_err(|error| unusable(error.to_string()))?;
    if !metadata.is_file() {
        return Err(unusable("it is not a regular file".to_owned()));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(unusable(format!(
            "group or others may read it (mode {:o}); run chmod 600",
            metadata.mode() & 0o777
        )));
    }
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX + 1));
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(|error| unusable(error.to_string()))?;
    MasterKey::from_file_bytes(&bytes).map_err(|error| unusable(error.to_string()))
}

/// Compared by what the paths really name, so that a link or `..` hides nothing.
fn inside(path: &Path, state_dir: &Path) -> bool {
    match (path.canonicalize(), state_dir.canonicalize()) {
        (Ok(path), Ok(state_dir)) => path.starts_with(state_dir),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn place() -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (key, state) = (dir.path().join("config/deployment.key"), dir.path().join("state"));
        fs::create_dir(&state).unwrap();
        (dir, key, state)
    }

    #[test]
    fn accepts_the_key_that_it_made_and_makes_it_private() {
        let (_dir, key, state) = place();
        make_master_key(&key).unwrap();
        assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(key.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        read(&key, &state).unwrap();
    }

    #[test]
    fn never_replaces_a_key() {
        let (_dir, key, _state) = place();
        make_master_key(&key).unwrap();
        let before = fs::read(&key).unwrap();
        assert!(matches!(make_master_key(&key), Err(AuthorityError::File { .. })));
        assert_eq!(fs::read(&key).unwrap(), before);
    }

    #[test]
    fn rejects_a_missing_key_without_making_one() {
        let (_dir, key, state) = place();
        assert_eq!(read(&key, &state).unwrap_err(), AuthorityError::MasterKeyMissing { path: key.clone() });
        assert!(!key.exists());
    }

    #[test]
    fn rejects_a_key_that_others_may_read() {
        let (_dir, key, state) = place();
        make_master_key(&key).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read(&key, &state), Err(AuthorityError::MasterKeyUnusable { .. })));
    }

    #[test]
    fn rejects_a_key_inside_the_state_directory_also_through_a_link() {
        let (_dir, key, state) = place();
        let hidden = state.join("master.key");
        make_master_key(&hidden).unwrap();
        assert_eq!(
            read(&hidden, &state).unwrap_err(),
            AuthorityError::MasterKeyInsideState { path: hidden.clone() }
        );
        std::os::unix::fs::symlink(&hidden, key.with_file_name("link")).unwrap_or_else(|_| {
            fs::create_dir_all(key.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(&hidden, key.with_file_name("link")).unwrap();
        });
        assert!(matches!(
            read(&key.with_file_name("link"), &state),
            Err(AuthorityError::MasterKeyInsideState { .. })
        ));
    }

    #[test]
    fn rejects_a_file_that_is_no_key_and_never_quotes_it() {
        let (_dir, key, state) = place();
        fs::create_dir_all(key.parent().unwrap()).unwrap();
        for content in [&b"hunter2hunter2"[..], b"", &[b'x'; 4096]] {
            fs::write(&key, content).unwrap();
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
            let error = read(&key, &state).unwrap_err();
            assert!(matches!(error, AuthorityError::MasterKeyUnusable { .. }));
            assert!(!error.to_string().contains("hunter2"));
        }
    }
}
