//! Policy files: read from their directory, judged as a whole, and only then in force.

use std::{fs, io::Read as _, path::Path, sync::Arc};

use countersign_ledger::Event;
use countersign_policy::{POLICY_FILE_BYTES_MAX, POLICY_FILES_MAX, PolicySet};
use countersign_sdk::clock;
use countersign_store::{
    StoreError,
    policies::{PolicyFile, digest},
};

use crate::{journal::Change, state::Authority};

/// Why the policies of before stay in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApplyError {
    /// A file cannot be read.
    #[error("{path}: {why}")]
    File {
        /// Which one.
        path: String,
        /// Why.
        why: String,
    },
    /// They do not fit the schema, or each other.
    #[error(transparent)]
    Policy(#[from] countersign_policy::PolicyError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Puts the files of `dir` in force, if they differ from those that are. Returns the generation.
pub(crate) async fn apply(authority: &Arc<Authority>, dir: &Path, by: &str) -> Result<u64, ApplyError> {
    let files = read(dir)?;
    PolicySet::load(files.iter().map(|file| (file.name.as_str(), file.text.as_str())))?;
    let before = authority.db.policies().await?.generation;
    let generation = before.saturating_add(1);
    let event = Event::PolicyChanged { generation, digest: digest(&files), changed_by: by.to_owned() };
    let by = by.to_owned();
    let now_in_force = authority
        .journal
        .with(vec![event], move |db, records| async move {
            let generation = db.replace_policies(&files, before, &by, &records, clock::now()).await?;
            Ok::<_, StoreError>(if generation == before {
                Change::Nothing(generation)
            } else {
                Change::Recorded(generation)
            })
        })
        .await?;
    Ok(now_in_force)
}

/// Every `NAME.cedar` of the directory, by name.
fn read(dir: &Path) -> Result<Vec<PolicyFile>, ApplyError> {
    let failed = |path: &Path, why: String| ApplyError::File { path: path.display().to_string(), why };
    let listing = fs::read_dir(dir).map_err(|error| failed(dir, error.to_string()))?;
    let mut files = Vec::new();
    for item in listing {
        let path = item.map_err(|error| failed(dir, error.to_string()))?.path();
        if path.extension().is_none_or(|extension| extension != "cedar") {
            continue;
        }
        if files.len() >= POLICY_FILES_MAX {
            return Err(failed(dir, format!("more than {POLICY_FILES_MAX} policy files")));
        }
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        let mut text = String::new();
        let limit = u64::try_from(POLICY_FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
        fs::File::open(&path)
            .and_then(|file| file.take(limit).read_to_string(&mut text))
            .map_err(|error| failed(&path, error.to_string()))?;
        files.push(PolicyFile { name, text });
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::serve::testing;

    #[test]
    fn reads_cedar_files_by_name_and_leaves_the_rest_alone() {
        let dir = countersign_testkit::temp_dir();
        for (name, text) in [("users.cedar", "b"), ("ads.cedar", "a"), ("ads.test.toml", "x"), ("notes", "x")]
        {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let files = read(dir.path()).unwrap();
        let named: Vec<(&str, &str)> = files.iter().map(|f| (f.name.as_str(), f.text.as_str())).collect();
        assert_eq!(named, [("ads", "a"), ("users", "b")]);
    }

    #[tokio::test]
    async fn rejects_what_cannot_be_read_or_does_not_fit_and_keeps_what_was() {
        let (dir, authority) = testing::authority().await;
        let missing = apply(&authority, &dir.path().join("none"), "uid:0").await.unwrap_err();
        assert!(matches!(missing, ApplyError::File { .. }), "{missing}");
        let policies = dir.path().join("policies");
        fs::create_dir(&policies).unwrap();
        fs::write(policies.join("ads.cedar"), [0xff, 0xfe]).unwrap();
        assert!(matches!(apply(&authority, &policies, "uid:0").await, Err(ApplyError::File { .. })));
        fs::write(policies.join("ads.cedar"), "permit (principal, action, resource);").unwrap();
        assert!(matches!(apply(&authority, &policies, "uid:0").await, Err(ApplyError::Policy(_))));
        fs::write(policies.join("ads.cedar"), "@id(\"a\") permit (principal, action, resource);").unwrap();
        assert_eq!(apply(&authority, &policies, "uid:0").await, Ok(1));
        authority.db.close().await;
        assert!(matches!(apply(&authority, &policies, "uid:0").await, Err(ApplyError::Store(_))));
    }
}
