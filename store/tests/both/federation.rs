use countersign_identity::TrustDomain;
use countersign_store::StoreError;
use countersign_store::federation::{PEERS_MAX, PeerBundle};

use crate::ground::{Ground, later};

fn bundle(peer: &str, sequence: u64) -> PeerBundle {
    PeerBundle {
        peer: TrustDomain::parse(peer).unwrap(),
        sequence,
        document: format!("{{\"spiffe_sequence\":{sequence},\"keys\":[]}}"),
        stored_at: later(1),
        stored_by: "uid:0".to_owned(),
    }
}

both! {
    async fn a_newer_bundle_replaces_the_one_before_and_is_recorded(ground: &Ground) {
        ground.db.federate(&bundle("b.test", 1), &[ground.record()]).await.unwrap();
        ground.db.federate(&bundle("a.test", 7), &[]).await.unwrap();
        ground.db.federate(&bundle("b.test", 2), &[]).await.unwrap();
        assert_eq!(ground.db.federation().await.unwrap(), [bundle("a.test", 7), bundle("b.test", 2)]);
        assert_eq!(ground.db.log_state().await.unwrap().size(), 1);
    }

    async fn rejects_an_older_bundle_and_keeps_the_newer_one(ground: &Ground) {
        ground.db.federate(&bundle("b.test", 3), &[]).await.unwrap();
        let older = ground.db.federate(&bundle("b.test", 2), &[ground.record()]).await;
        assert_eq!(older, Err(StoreError::NotNewer { what: "bundle", got: 2, newest: 3 }));
        assert_eq!(ground.db.federation().await.unwrap(), [bundle("b.test", 3)]);
        assert_eq!(ground.db.log_state().await.unwrap().size(), 0);
    }

    async fn federation_ends_once(ground: &Ground) {
        let peer = TrustDomain::parse("b.test").unwrap();
        ground.db.federate(&bundle("b.test", 3), &[]).await.unwrap();
        ground.db.end_federation(&peer, &[ground.record()], later(2)).await.unwrap();
        assert_eq!(ground.db.federation().await.unwrap(), []);
        let again = ground.db.end_federation(&peer, &[], later(3)).await;
        assert_eq!(again, Err(StoreError::Missing { what: "federated trust domain" }));
    }

    async fn rejects_one_trust_domain_more_than_are_kept(ground: &Ground) {
        for number in 0..PEERS_MAX {
            ground.db.federate(&bundle(&format!("p{number}.test"), 1), &[]).await.unwrap();
        }
        let more = ground.db.federate(&bundle("one-more.test", 1), &[]).await;
        assert!(matches!(more, Err(StoreError::Conflict { .. })), "{more:?}");
        ground.db.federate(&bundle("p0.test", 2), &[]).await.unwrap();
    }
}
