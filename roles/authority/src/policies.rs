//! Policy files: read from their directory, judged as a whole, and only then in force.

use std::{path::Path, sync::Arc};

use countersign_ledger::Event;
use countersign_policy::PolicySet;
use countersign_sdk::{
    clock,
    policy_dir::{PolicyDirError, read_policies},
};
use countersign_store::{
    StoreError,
    policies::{PolicyFile, digest},
};
use countersign_wire::snapshot as wire;

use crate::{journal::Change, state::Authority};

/// Why the policies of before stay in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApplyError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] PolicyDirError),
    /// They do not fit the schema, or each other.
    #[error(transparent)]
    Policy(#[from] countersign_policy::PolicyError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Puts the files of `dir` in force, if they differ from those that are. Returns the generation.
pub(crate) async fn apply(authority: &Arc<Authority>, dir: &Path, by: &str) -> Result<u64, ApplyError> {
    let kept = |file: wire::PolicyFile| PolicyFile { name: file.name, text: file.text };
    let files: Vec<PolicyFile> = read_policies(dir)?.into_iter().map(kept).collect();
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;
    use crate::serve::testing;

    #[tokio::test]
    async fn rejects_what_cannot_be_read_or_does_not_fit_and_keeps_what_was() {
        let (dir, authority) = testing::authority().await;
        let missing = apply(&authority, &dir.path().join("none"), "uid:0").await.unwrap_err();
        assert!(matches!(missing, ApplyError::File(_)), "{missing}");
        let policies = dir.path().join("policies");
        fs::create_dir(&policies).unwrap();
        fs::write(policies.join("ads.cedar"), [0xff, 0xfe]).unwrap();
        assert!(matches!(apply(&authority, &policies, "uid:0").await, Err(ApplyError::File(_))));
        fs::write(policies.join("ads.cedar"), "permit (principal, action, resource);").unwrap();
        assert!(matches!(apply(&authority, &policies, "uid:0").await, Err(ApplyError::Policy(_))));
        fs::write(policies.join("ads.cedar"), "@id(\"a\") permit (principal, action, resource);").unwrap();
        assert_eq!(apply(&authority, &policies, "uid:0").await, Ok(1));
        authority.db.close().await;
        assert!(matches!(apply(&authority, &policies, "uid:0").await, Err(ApplyError::Store(_))));
    }
}
