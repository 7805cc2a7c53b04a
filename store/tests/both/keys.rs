use countersign_keys::{OpenError, SealContext};
use countersign_store::StoreError;
use countersign_store::keys::SealedKey;

use crate::ground::{Ground, SECRET, key, later, master};

both! {
    async fn a_version_of_a_key_is_written_once(ground: &Ground) {
        let second = key(&ground.home, "issuing-ca", 2);
        ground.db.add_key(&second, later(5)).await.unwrap();
        assert_eq!(
            ground.db.add_key(&second, later(6)).await,
            Err(StoreError::Conflict { what: "this version of the key" })
        );
        let keys = ground.reopened().await.keys().await.unwrap();
        let versions: Vec<u32> = keys.iter().map(|key| key.version).collect();
        assert_eq!(versions, [1, 2]);
        assert_eq!((&keys[1].sealed, keys[1].created_at), (&second.sealed, later(5)));
        assert_eq!(keys[1].certificate, Some(vec![0x30, 0x00]));
    }

    async fn keys_of_new_purposes_come_all_together_or_not_at_all(ground: &Ground) {
        let new = [key(&ground.home, "exchange", 1), key(&ground.home, "txn", 1)];
        ground.db.add_keys(&new, later(5)).await.unwrap();
        let again = [key(&ground.home, "dpop-nonce", 1), key(&ground.home, "txn", 1)];
        let refused = ground.db.add_keys(&again, later(6)).await;
        assert_eq!(refused, Err(StoreError::Conflict { what: "this version of the key" }));
        let keys = ground.db.keys().await.unwrap();
        let purposes: Vec<&str> = keys.iter().map(|key| key.purpose.as_str()).collect();
        assert_eq!(purposes, ["exchange", "issuing-ca", "txn"]);
    }

    async fn a_key_is_retired_once(ground: &Ground) {
        ground.db.retire_key("issuing-ca", 1, later(9)).await.unwrap();
        assert_eq!(ground.db.keys().await.unwrap()[0].retired_at, Some(later(9)));
        let again = ground.db.retire_key("issuing-ca", 1, later(10)).await;
        assert_eq!(again, Err(StoreError::Missing { what: "live key" }));
    }

    async fn a_sealed_key_that_was_moved_to_another_row_does_not_open(ground: &Ground) {
        ground.db.add_key(&key(&ground.home, "pepper", 1), later(0)).await.unwrap();
        ground
            .tamper(
                "UPDATE sealed_keys SET sealed = (SELECT sealed FROM sealed_keys WHERE purpose = 'issuing-ca') \
                 WHERE purpose = 'pepper'",
            )
            .await;
        let keys = ground.db.keys().await.unwrap();
        let open = |key: &SealedKey| {
            let row_id = SealedKey::row_id(&key.purpose, key.version);
            let context = SealContext {
                trust_domain: &ground.home,
                purpose: &key.purpose,
                row_id: &row_id,
                key_version: key.version,
            };
            key.sealed.open(&master(), context).map(|secret| secret.expose().clone())
        };
        assert_eq!(open(&keys[0]), Ok(SECRET.to_vec()));
        assert_eq!(open(&keys[1]), Err(OpenError::WrongContext));
    }

    async fn a_column_that_holds_nonsense_is_named(ground: &Ground) {
        ground.tamper("UPDATE sealed_keys SET sealed = '%'").await;
        assert_eq!(
            ground.db.keys().await,
            Err(StoreError::Corrupt { table: "sealed_keys", column: "sealed" })
        );
        ground.tamper("UPDATE sealed_keys SET sealed = 'AAAA', version = -1").await;
        assert_eq!(
            ground.db.keys().await,
            Err(StoreError::Corrupt { table: "sealed_keys", column: "version" })
        );
    }
}
