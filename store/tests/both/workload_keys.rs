use countersign_store::StoreError;
use countersign_store::workload_keys::{WORKLOAD_KEYS_PER_OWNER_MAX, WorkloadKey};

use crate::ground::{Ground, NOW, later};

fn key(ground: &Ground, owner: &str, kid: &str) -> WorkloadKey {
    WorkloadKey {
        owner: ground.id(owner),
        kid: kid.to_owned(),
        purpose: "signing".to_owned(),
        jwk: format!("{{\"kid\":\"{kid}\"}}"),
        registered_by: "uid:0".to_owned(),
        registered_at: NOW,
    }
}

async fn kids(ground: &Ground) -> Vec<String> {
    ground.db.workload_keys().await.unwrap().into_iter().map(|key| key.kid).collect()
}

both! {
    async fn a_key_is_registered_with_its_record_and_the_same_again_changes_nothing(ground: &Ground) {
        ground.db.register_workload_key(&key(ground, "ads", "k"), &[ground.record()]).await.unwrap();
        ground.db.register_workload_key(&key(ground, "ads", "k"), &[]).await.unwrap();
        assert_eq!(ground.db.workload_keys().await.unwrap(), [key(ground, "ads", "k")]);
        assert_eq!(ground.db.log_state().await.unwrap().size(), 1);
    }

    async fn rejects_a_key_of_another_owner_or_purpose(ground: &Ground) {
        ground.db.register_workload_key(&key(ground, "ads", "k"), &[]).await.unwrap();
        let other = WorkloadKey { purpose: "encryption".to_owned(), ..key(ground, "ads", "k") };
        for stolen in [key(ground, "users", "k"), other] {
            let refused = ground.db.register_workload_key(&stolen, &[ground.record()]).await;
            assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
        }
        assert_eq!(ground.db.workload_keys().await.unwrap(), [key(ground, "ads", "k")]);
    }

    async fn a_withdrawn_key_never_counts_again(ground: &Ground) {
        ground.db.register_workload_key(&key(ground, "ads", "k"), &[]).await.unwrap();
        let missing = ground.db.withdraw_workload_key(&ground.id("users"), "k", &[], later(1)).await;
        assert!(matches!(missing, Err(StoreError::Missing { .. })), "its owner is another one: {missing:?}");
        ground.db.withdraw_workload_key(&ground.id("ads"), "k", &[ground.record()], later(1)).await.unwrap();
        assert!(kids(ground).await.is_empty());
        let again = ground.db.register_workload_key(&key(ground, "ads", "k"), &[]).await;
        assert!(matches!(again, Err(StoreError::Conflict { .. })), "{again:?}");
        let twice = ground.db.withdraw_workload_key(&ground.id("ads"), "k", &[], later(2)).await;
        assert!(matches!(twice, Err(StoreError::Missing { .. })), "{twice:?}");
    }

    async fn all_keys_of_a_revoked_owner_are_withdrawn(ground: &Ground) {
        for (owner, kid) in [("ads", "a"), ("ads", "b"), ("users", "c")] {
            ground.db.register_workload_key(&key(ground, owner, kid), &[]).await.unwrap();
        }
        assert_eq!(ground.db.withdraw_workload_keys_of(&ground.id("ads"), later(1)).await.unwrap(), 2);
        assert_eq!(kids(ground).await, ["c"]);
    }

    async fn rejects_one_key_more_than_an_owner_may_have(ground: &Ground) {
        for number in 0..WORKLOAD_KEYS_PER_OWNER_MAX {
            ground.db.register_workload_key(&key(ground, "ads", &format!("k{number}")), &[]).await.unwrap();
        }
        let full = ground.db.register_workload_key(&key(ground, "ads", "more"), &[ground.record()]).await;
        assert!(matches!(full, Err(StoreError::Conflict { .. })), "{full:?}");
        assert_eq!(ground.db.log_state().await.unwrap().size(), 0);
        ground.db.register_workload_key(&key(ground, "users", "more"), &[]).await.unwrap();
    }
}
