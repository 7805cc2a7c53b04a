use countersign_store::StoreError;
use countersign_store::token_keys::{KEYS_PER_OWNER_MAX, TokenKey};

use crate::ground::{Ground, later};

fn key(ground: &Ground, owner: &str, kid: &str, at: i64) -> TokenKey {
    TokenKey {
        owner: ground.id(owner),
        kid: kid.to_owned(),
        jwk: format!("{{\"kid\":\"{kid}\"}}"),
        published_at: later(at),
    }
}

both! {
    async fn an_owner_keeps_its_newest_keys(ground: &Ground) {
        ground.db.publish_token_key(&key(ground, "other", "z", 0), &[]).await.unwrap();
        for turn in 0..=i64::from(KEYS_PER_OWNER_MAX) {
            let key = key(ground, "gateway", &format!("k{turn}"), turn);
            ground.db.publish_token_key(&key, &[ground.record()]).await.unwrap();
        }
        let kids: Vec<String> = ground.db.token_keys(later(0)).await.unwrap().into_iter().map(|key| key.kid).collect();
        assert_eq!(kids, ["k4", "k3", "k2", "k1", "z"]);
        assert_eq!(ground.db.log_state().await.unwrap().size(), 5);
    }

    async fn the_same_key_again_renews_its_moment(ground: &Ground) {
        ground.db.publish_token_key(&key(ground, "gateway", "k", 0), &[]).await.unwrap();
        ground.db.publish_token_key(&key(ground, "gateway", "k", 9), &[]).await.unwrap();
        assert_eq!(ground.db.token_keys(later(0)).await.unwrap(), [key(ground, "gateway", "k", 9)]);
    }

    async fn a_key_of_another_owner_cannot_be_taken_over(ground: &Ground) {
        ground.db.publish_token_key(&key(ground, "gateway", "k", 0), &[]).await.unwrap();
        let stolen = ground.db.publish_token_key(&key(ground, "ads", "k", 1), &[ground.record()]).await;
        assert!(matches!(stolen, Err(StoreError::Conflict { .. })), "{stolen:?}");
        assert_eq!(ground.db.token_keys(later(0)).await.unwrap(), [key(ground, "gateway", "k", 0)]);
        assert_eq!(ground.db.log_state().await.unwrap().size(), 0);
    }

    async fn a_withdrawn_key_never_counts_again_and_a_new_one_does(ground: &Ground) {
        ground.db.publish_token_key(&key(ground, "gateway", "stolen", 0), &[]).await.unwrap();
        ground.db.publish_token_key(&key(ground, "other", "z", 0), &[]).await.unwrap();
        assert_eq!(ground.db.withdraw_token_keys(&ground.id("gateway"), later(1)).await.unwrap(), 1);
        assert_eq!(ground.db.token_keys(later(0)).await.unwrap(), [key(ground, "other", "z", 0)]);
        let again = ground.db.publish_token_key(&key(ground, "gateway", "stolen", 2), &[]).await;
        assert!(matches!(again, Err(StoreError::Conflict { .. })), "{again:?}");
        ground.db.publish_token_key(&key(ground, "gateway", "fresh", 3), &[]).await.unwrap();
        let kids: Vec<String> =
            ground.db.token_keys(later(0)).await.unwrap().into_iter().map(|key| key.kid).collect();
        assert_eq!(kids, ["fresh", "z"]);
    }

    async fn a_key_that_its_owner_no_longer_publishes_stops_counting(ground: &Ground) {
        ground.db.publish_token_key(&key(ground, "gateway", "old", 0), &[]).await.unwrap();
        ground.db.publish_token_key(&key(ground, "gateway", "new", 5), &[]).await.unwrap();
        assert_eq!(ground.db.token_keys(later(1)).await.unwrap(), [key(ground, "gateway", "new", 5)]);
    }
}
