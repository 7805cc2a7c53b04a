//! Policies as files: a directory, of which every `NAME.cedar` is the rules of the service `NAME`.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use countersign_policy::{POLICY_FILE_BYTES_MAX, POLICY_FILES_MAX};
use countersign_wire::snapshot::PolicyFile;
use thiserror::Error;

/// Why a directory of policies cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("policies in {} cannot be read: {why}", path.display())]
pub struct PolicyDirError {
    /// The directory, or a file in it.
    pub path: PathBuf,
    /// What is wrong.
    pub why: String,
}

/// The files of the directory, by name. Whether they are policies is not judged; of a file that is too long, one byte too
/// many is read, so that whoever judges it sees that.
///
/// # Errors
/// The directory or a file in it cannot be read, is no UTF-8, or there are more than [`POLICY_FILES_MAX`].
pub fn read_policies(dir: &Path) -> Result<Vec<PolicyFile>, PolicyDirError> {
    let failed = |path: &Path, why: String| PolicyDirError { path: path.to_owned(), why };
    let listing = fs::read_dir(dir).map_err(|error| failed(dir, error.to_string()))?;
    let mut files = Vec::new();
    for item in listing {
        let path = item.map_err(|error| failed(dir, error.to_string()))?.path();
        if !is_policy(&path) {
            continue;
        }
        if files.len() >= POLICY_FILES_MAX {
            return Err(failed(dir, format!("there are more than {POLICY_FILES_MAX}")));
        }
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        let mut text = String::new();
        let limit = u64::try_from(POLICY_FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
        fs::File::open(&path)
            .and_then(|file| file.take(limit).read_to_string(&mut text))
            .map_err(|error| failed(&path, error.to_string()))?;
        files.push(PolicyFile { name, text });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Does its name say that it is one?
pub(crate) fn is_policy(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "cedar")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_cedar_files_by_name_and_leaves_the_rest_alone() {
        let dir = countersign_testkit::temp_dir();
        for (name, text) in [("users.cedar", "b"), ("ads.cedar", "a"), ("ads.test.toml", "x"), ("notes", "x")]
        {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let files = read_policies(dir.path()).unwrap();
        let named: Vec<(&str, &str)> = files.iter().map(|f| (f.name.as_str(), f.text.as_str())).collect();
        assert_eq!(named, [("ads", "a"), ("users", "b")]);
    }

    #[test]
    fn rejects_what_is_no_text_and_shows_that_a_file_is_too_long() {
        let dir = countersign_testkit::temp_dir();
        assert_eq!(read_policies(&dir.path().join("none")).unwrap_err().path, dir.path().join("none"));
        let file = dir.path().join("ads.cedar");
        fs::write(&file, [0xff, 0xfe]).unwrap();
        assert_eq!(read_policies(dir.path()).unwrap_err().path, file);
        fs::write(&file, "x".repeat(POLICY_FILE_BYTES_MAX + 7)).unwrap();
        let read = read_policies(dir.path()).unwrap();
        assert!(read.iter().all(|file| file.text.len() == POLICY_FILE_BYTES_MAX + 1));
    }
}
