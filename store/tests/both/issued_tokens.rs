use countersign_store::StoreError;
use countersign_store::issued_tokens::IssuedToken;

use crate::ground::{Ground, NOW, later};

fn token(ground: &Ground, owner: &str, id: &str, until: i64) -> IssuedToken {
    IssuedToken { id: id.to_owned(), owner: ground.id(owner), expires_at: later(until) }
}

both! {
    async fn tokens_of_a_workload_are_remembered_while_they_live(ground: &Ground) {
        for (owner, id, until) in [("ads", "a", 60), ("ads", "b", 120), ("users", "c", 60)] {
            let token = token(ground, owner, id, until);
            ground.db.add_issued_token(&token, &[ground.record()], NOW).await.unwrap();
        }
        let of_ads = |at| async move { ground.db.issued_tokens_of(&ground.id("ads"), later(at)).await.unwrap() };
        assert_eq!(of_ads(0).await, [token(ground, "ads", "b", 120), token(ground, "ads", "a", 60)]);
        assert_eq!(of_ads(60).await, [token(ground, "ads", "b", 120)]);
        assert_eq!(ground.db.tidy_issued_tokens(later(60)).await.unwrap(), 2);
        assert_eq!(ground.db.log_state().await.unwrap().size(), 3);
    }

    async fn rejects_a_token_of_an_id_that_is_taken(ground: &Ground) {
        ground.db.add_issued_token(&token(ground, "ads", "a", 60), &[], NOW).await.unwrap();
        let again = ground.db.add_issued_token(&token(ground, "users", "a", 60), &[ground.record()], NOW).await;
        assert!(matches!(again, Err(StoreError::Conflict { .. })), "{again:?}");
        assert_eq!(ground.db.log_state().await.unwrap().size(), 0);
    }
}
