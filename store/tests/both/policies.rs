use countersign_store::StoreError;
use countersign_store::policies::{PolicyFile, digest};

use crate::ground::{Ground, NOW};

fn file(name: &str, text: &str) -> PolicyFile {
    PolicyFile { name: name.to_owned(), text: text.to_owned() }
}

both! {
    async fn a_generation_changes_exactly_when_a_file_does(ground: &Ground) {
        let first = [file("users", "u"), file("ads", "a")];
        assert_eq!(ground.db.policies().await.unwrap().generation, 0);
        let replace = |files: Vec<PolicyFile>, expected| async move {
            ground.db.replace_policies(&files, expected, "uid:0", &[ground.record()], NOW).await
        };
        assert_eq!(replace(first.to_vec(), 0).await, Ok(1));
        assert_eq!(replace(vec![first[1].clone(), first[0].clone()], 1).await, Ok(1), "order is nothing");
        assert_eq!(ground.db.log_state().await.unwrap().size(), 1, "no event tells of a change that was none");
        assert_eq!(replace(vec![file("ads", "a2")], 1).await, Ok(2));
        let policies = ground.reopened().await.policies().await.unwrap();
        assert_eq!((policies.generation, policies.files), (2, vec![file("ads", "a2")]));
    }

    async fn no_files_are_a_generation_too(ground: &Ground) {
        ground.db.replace_policies(&[file("ads", "a")], 0, "uid:0", &[], NOW).await.unwrap();
        assert_eq!(ground.db.replace_policies(&[], 1, "uid:0", &[], NOW).await, Ok(2));
        let policies = ground.db.policies().await.unwrap();
        assert_eq!((policies.generation, policies.files.len()), (2, 0));
    }

    async fn two_authors_do_not_overwrite_each_other(ground: &Ground) {
        ground.db.replace_policies(&[file("ads", "a")], 0, "uid:0", &[], NOW).await.unwrap();
        assert_eq!(
            ground.db.replace_policies(&[file("ads", "b")], 0, "uid:1", &[], NOW).await,
            Err(StoreError::NotNewer { what: "policy generation", got: 1, newest: 1 })
        );
    }

    async fn a_replacement_that_fails_leaves_the_old_generation(ground: &Ground) {
        ground.db.replace_policies(&[file("ads", "a")], 0, "uid:0", &[], NOW).await.unwrap();
        let twice = [file("ads", "b"), file("ads", "c")];
        assert_eq!(
            ground.db.replace_policies(&twice, 1, "uid:0", &[ground.record()], NOW).await,
            Err(StoreError::Conflict { what: "a policy file with this name" })
        );
        let policies = ground.db.policies().await.unwrap();
        assert_eq!((policies.generation, policies.files), (1, vec![file("ads", "a")]));
        assert_eq!(ground.db.log_state().await.unwrap().size(), 0);
    }
}

#[test]
fn no_two_sets_of_files_share_a_digest_by_moving_text() {
    assert_ne!(digest(&[file("ab", "c")]), digest(&[file("a", "bc")]));
    assert_ne!(digest(&[file("a", "b"), file("c", "d")]), digest(&[file("a", "bcd")]));
}
