use countersign_store::StoreError;
use countersign_store::revoked::{REVOKED_MAX, Revoked, RevokedKind};

use crate::ground::{Ground, NOW, later};

fn row(kind: RevokedKind, id: &str, until: i64) -> Revoked {
    Revoked { kind, id: id.to_owned(), issued_before: NOW, until: later(until), by: "uid:0".to_owned() }
}

both! {
    async fn a_revocation_is_stored_with_its_event_and_forgotten_at_its_end(ground: &Ground) {
        ground.db.revoke(&row(RevokedKind::Token, "t1", 60), &[ground.record()], NOW).await.unwrap();
        ground.db.revoke(&row(RevokedKind::User, "u_1", 600), &[], NOW).await.unwrap();
        let ids = |rows: Vec<Revoked>| rows.into_iter().map(|row| row.id).collect::<Vec<_>>();
        assert_eq!(ids(ground.db.revocations(NOW).await.unwrap()), ["t1", "u_1"]);
        assert_eq!(ids(ground.db.revocations(later(60)).await.unwrap()), ["u_1"]);
        assert_eq!(ground.db.log_state().await.unwrap().size(), 1);
        assert_eq!(ground.db.forget_revocations(later(60)).await.unwrap(), 1);
        assert_eq!(ids(ground.db.revocations(NOW).await.unwrap()), ["u_1"]);
    }

    async fn a_second_revocation_of_the_same_only_extends_the_first(ground: &Ground) {
        ground.db.revoke(&row(RevokedKind::User, "u_1", 600), &[], NOW).await.unwrap();
        let mut again = row(RevokedKind::User, "u_1", 60);
        again.issued_before = later(30);
        ground.db.revoke(&again, &[], later(30)).await.unwrap();
        let stored = ground.db.revocations(NOW).await.unwrap().remove(0);
        assert_eq!((stored.issued_before, stored.until), (later(30), later(600)));
        // The same id of another kind is something else.
        ground.db.revoke(&row(RevokedKind::Key, "u_1", 60), &[], NOW).await.unwrap();
        assert_eq!(ground.db.revocations(NOW).await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn there_are_never_more_revocations_than_a_snapshot_can_carry() {
    let ground = Ground::sqlite().await;
    for number in 0..REVOKED_MAX {
        ground.db.revoke(&row(RevokedKind::Token, &number.to_string(), 60), &[], NOW).await.unwrap();
    }
    let refused = ground.db.revoke(&row(RevokedKind::Token, "one more", 60), &[], NOW).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    // What is held already may be extended, and what has ended makes room.
    ground.db.revoke(&row(RevokedKind::Token, "7", 90), &[], NOW).await.unwrap();
    ground.db.revoke(&row(RevokedKind::Token, "one more", 90), &[], later(61)).await.unwrap();
}
