use countersign_store::StoreError;
use countersign_store::bearer::{BEARER_PER_CALLEE_MAX, NewBearer};

use crate::ground::{Ground, NOW, later};

/// A token of `ads` that lives for an hour.
fn token(ground: &Ground, id: &str, scope: &[&str]) -> NewBearer {
    NewBearer {
        id: id.to_owned(),
        owner: ground.id("ads"),
        hashes: scope.iter().map(|callee| (ground.id(callee), [7; 32])).collect(),
        issued_by: "uid:0".to_owned(),
        issued_at: NOW,
        expires_at: later(3600),
    }
}

async fn known(ground: &Ground, callee: &str, at: i64) -> Vec<String> {
    let (_, hashes) = ground.db.bearers_at(&ground.id(callee), later(at)).await.unwrap();
    hashes.into_iter().map(|hash| hash.id).collect()
}

both! {
    async fn a_token_is_known_to_the_callees_of_its_scope_and_to_nobody_else(ground: &Ground) {
        assert_eq!(ground.db.bearers_at(&ground.id("users"), NOW).await.unwrap(), (0, Vec::new()));
        let token = token(ground, "b1", &["users", "chat"]);
        let generation = ground.db.add_bearer(&token, &[ground.record()]).await.unwrap();
        let (seen, hashes) = ground.db.bearers_at(&ground.id("users"), NOW).await.unwrap();
        assert_eq!((seen, hashes.len()), (generation, 1));
        assert_eq!((hashes[0].hash.as_slice(), &hashes[0].owner), (&[7; 32][..], &ground.id("ads")));
        assert_eq!(hashes[0].expires_at, later(3600));
        assert_eq!(known(ground, "chat", 0).await, ["b1"]);
        assert!(known(ground, "media", 0).await.is_empty());
        let stored = ground.db.bearer("b1", NOW).await.unwrap().unwrap();
        assert_eq!(stored.scope, [ground.id("chat"), ground.id("users")]);
        assert_eq!(ground.db.bearers(NOW).await.unwrap(), [stored]);
        assert_eq!(ground.db.log_state().await.unwrap().size(), 1);
    }

    async fn the_hash_of_a_token_is_found_for_its_callees_alone_also_when_it_does_not_count(ground: &Ground) {
        ground.db.add_bearer(&token(ground, "b1", &["users"]), &[]).await.unwrap();
        ground.db.revoke_bearer("b1", later(1), &[]).await.unwrap();
        let hash = |id: &'static str, callee: &'static str| async move {
            ground.db.bearer_hash(id, &ground.id(callee)).await.unwrap()
        };
        assert_eq!(hash("b1", "users").await, Some(vec![7; 32]));
        assert_eq!(hash("b1", "chat").await, None);
        assert_eq!(hash("b2", "users").await, None);
    }

    async fn rejects_a_second_token_of_the_same_id(ground: &Ground) {
        ground.db.add_bearer(&token(ground, "b1", &["users"]), &[]).await.unwrap();
        let again = ground.db.add_bearer(&token(ground, "b1", &["chat"]), &[ground.record()]).await;
        assert!(matches!(again, Err(StoreError::Conflict { .. })), "{again:?}");
        assert!(known(ground, "chat", 0).await.is_empty());
        assert_eq!(ground.db.log_state().await.unwrap().size(), 0);
    }

    async fn a_revoked_token_is_known_nowhere_and_revoked_once(ground: &Ground) {
        let made = ground.db.add_bearer(&token(ground, "b1", &["users"]), &[]).await.unwrap();
        let revoked = ground.db.revoke_bearer("b1", later(1), &[ground.record()]).await.unwrap();
        assert!(revoked > made, "callees must hear of it");
        assert!(known(ground, "users", 1).await.is_empty());
        let again = ground.db.revoke_bearer("b1", later(2), &[]).await;
        assert!(matches!(again, Err(StoreError::Missing { .. })), "{again:?}");
        let listed = ground.db.bearers(later(2)).await.unwrap();
        assert_eq!(listed[0].revoked_at, Some(later(1)), "still shown until it would have ended");
    }

    async fn a_replaced_token_counts_for_the_overlap_and_is_replaced_once(ground: &Ground) {
        ground.db.add_bearer(&token(ground, "old", &["users"]), &[]).await.unwrap();
        let next = NewBearer { issued_at: later(10), ..token(ground, "new", &["users"]) };
        ground.db.replace_bearer("old", later(70), &next, &[ground.record()]).await.unwrap();
        assert_eq!(known(ground, "users", 69).await, ["new", "old"]);
        assert_eq!(known(ground, "users", 70).await, ["new"]);
        let old = ground.db.bearer("old", later(20)).await.unwrap().unwrap();
        assert_eq!((old.expires_at, old.replaced_by.as_deref()), (later(70), Some("new")));
        let third = NewBearer { issued_at: later(20), ..token(ground, "third", &["users"]) };
        let again = ground.db.replace_bearer("old", later(90), &third, &[]).await;
        assert!(matches!(again, Err(StoreError::Missing { .. })), "{again:?}");
        assert_eq!(known(ground, "users", 20).await, ["new", "old"]);
    }

    async fn an_overlap_lengthens_no_life(ground: &Ground) {
        ground.db.add_bearer(&token(ground, "old", &["users"]), &[]).await.unwrap();
        ground.db.replace_bearer("old", later(9999), &token(ground, "new", &["users"]), &[]).await.unwrap();
        let old = ground.db.bearer("old", NOW).await.unwrap().unwrap();
        assert_eq!(old.expires_at, later(3600));
    }

    async fn an_expired_token_is_unknown_and_forgotten(ground: &Ground) {
        ground.db.add_bearer(&token(ground, "b1", &["users"]), &[]).await.unwrap();
        assert_eq!(known(ground, "users", 3599).await, ["b1"]);
        assert!(known(ground, "users", 3600).await.is_empty());
        assert_eq!(ground.db.tidy_bearers(later(3599)).await.unwrap(), 0);
        assert_eq!(ground.db.tidy_bearers(later(3600)).await.unwrap(), 1);
        assert!(ground.db.bearers(NOW).await.unwrap().is_empty());
    }

    async fn all_tokens_of_a_revoked_owner_end_at_once(ground: &Ground) {
        ground.db.add_bearer(&token(ground, "b1", &["users"]), &[]).await.unwrap();
        let other = NewBearer { owner: ground.id("chat"), ..token(ground, "b2", &["users"]) };
        ground.db.add_bearer(&other, &[]).await.unwrap();
        assert_eq!(ground.db.revoke_bearers_of(&ground.id("ads"), later(1)).await.unwrap(), 1);
        assert_eq!(known(ground, "users", 1).await, ["b2"]);
    }
}

#[tokio::test]
async fn rejects_one_token_more_than_a_callee_can_hold() {
    let ground = Ground::sqlite().await;
    let ids: Vec<String> = (0..BEARER_PER_CALLEE_MAX).map(|number| format!("t{number}")).collect();
    // One transaction would do it in a moment, which the interface rightly does not offer.
    let rows = |f: &dyn Fn(&String) -> String| ids.iter().map(f).collect::<Vec<_>>().join(",");
    let tokens = rows(&|id| {
        format!(
            "('fleamarket.test','{id}','spiffe://fleamarket.test/svc/ads','x',0,{})",
            later(3600).millis()
        )
    });
    let hashes =
        rows(&|id| format!("('fleamarket.test','spiffe://fleamarket.test/svc/users','{id}','AAAA')"));
    let sql = format!(
        "INSERT INTO bearer_tokens (trust_domain,id,owner,issued_by,issued_at,expires_at) VALUES {tokens}; \
         INSERT INTO bearer_hashes (trust_domain,callee,id,hash) VALUES {hashes};"
    );
    ground.tamper(Box::leak(sql.into_boxed_str())).await;
    let full = ground.db.add_bearer(&token(&ground, "more", &["users"]), &[]).await;
    assert!(matches!(full, Err(StoreError::Conflict { .. })), "{full:?}");
    ground.db.add_bearer(&token(&ground, "more", &["chat"]), &[]).await.unwrap();
    ground.db.revoke_bearer("t7", NOW, &[]).await.unwrap();
    ground.db.add_bearer(&token(&ground, "place", &["users"]), &[]).await.unwrap();
}
