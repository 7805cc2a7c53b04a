use countersign_identity::TrustDomain;
use countersign_store::StoreError;
use countersign_store::policies::PolicyFile;

use crate::ground::{Ground, NOW, certificate, founding, key};

both! {
    async fn state_is_made_once_and_all_of_it(ground: &Ground) {
        let meta = ground.db.meta().await.unwrap().unwrap();
        assert_eq!((meta.epoch.as_str(), meta.snapshot_sequence, meta.founded_at), ("e1", 0, NOW));
        assert_eq!(ground.db.keys().await.unwrap().len(), 1);
        assert_eq!(ground.db.log_state().await.unwrap().size(), 0);

        let again = ground.db.found(&founding(&ground.home), NOW).await;
        assert_eq!(again, Err(StoreError::Conflict { what: "the state of this trust domain" }));
    }

    async fn a_founding_that_fails_leaves_nothing(ground: &Ground) {
        let other = ground.db.for_trust_domain(&TrustDomain::parse("other.test").unwrap());
        let mut twice = founding(other.trust_domain());
        twice.keys.push(key(other.trust_domain(), "issuing-ca", 1));
        assert_eq!(
            other.found(&twice, NOW).await,
            Err(StoreError::Conflict { what: "this version of the key" })
        );
        assert_eq!(other.meta().await.unwrap(), None);
        assert!(other.keys().await.unwrap().is_empty());
    }

    async fn nothing_counts_before_the_founding(ground: &Ground) {
        let other = ground.db.for_trust_domain(&TrustDomain::parse("other.test").unwrap());
        assert_eq!(other.meta().await.unwrap(), None);
        assert_eq!(other.next_crl_number().await, Err(StoreError::NotFounded));
        assert_eq!(other.next_snapshot_sequence().await, Err(StoreError::NotFounded));
        assert_eq!(other.begin_epoch("e2").await, Err(StoreError::NotFounded));
        assert_eq!(other.policies().await, Err(StoreError::NotFounded));
        assert_eq!(other.append(&[ground.record()], NOW).await, Err(StoreError::NotFounded));
    }

    async fn numbers_only_grow_also_after_a_restart(ground: &Ground) {
        assert_eq!(ground.db.next_crl_number().await.unwrap(), 1);
        assert_eq!(ground.db.next_snapshot_sequence().await.unwrap(), 1);
        ground.db.begin_epoch("e2").await.unwrap();
        ground.db.close().await;

        let reopened = ground.reopened().await;
        assert_eq!(reopened.next_crl_number().await.unwrap(), 2);
        assert_eq!(reopened.next_snapshot_sequence().await.unwrap(), 2);
        let meta = reopened.meta().await.unwrap().unwrap();
        assert_eq!((meta.epoch.as_str(), meta.crl_number), ("e2", 2));
    }

    async fn a_crl_number_is_never_given_twice_to_parallel_authorities(ground: &Ground) {
        let second = ground.reopened().await;
        let mut tasks = tokio::task::JoinSet::new();
        for turn in 0..60 {
            let db = if turn % 2 == 0 { ground.db.clone() } else { second.clone() };
            tasks.spawn(async move { db.next_crl_number().await.unwrap() });
        }
        let mut numbers = tasks.join_all().await;
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=60).collect::<Vec<_>>());
    }

    async fn trust_domains_in_one_database_never_mix(ground: &Ground) {
        let home = &ground.db;
        let other = home.for_trust_domain(&TrustDomain::parse("other.test").unwrap());
        other.found(&founding(other.trust_domain()), NOW).await.unwrap();
        let same = certificate("01", &ground.id("ads"));
        home.issue_and_record(&same, &[ground.record()], NOW).await.unwrap();
        home.replace_policies(&[PolicyFile { name: "ads".into(), text: "permit".into() }], 0, "uid:0", &[], NOW)
            .await
            .unwrap();

        assert_eq!(other.certificate("01").await.unwrap(), None);
        assert_eq!(other.policies().await.unwrap().generation, 0);
        assert_eq!(other.log_state().await.unwrap().size(), 0);
        assert_ne!(other.log_state().await.unwrap().hash(), home.log_state().await.unwrap().hash());
        // The same serial again, in the other trust domain, is another certificate.
        other.issue_and_record(&same, &[], NOW).await.unwrap();
        let names: Vec<String> =
            home.trust_domains().await.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["fleamarket.test", "other.test"]);
    }
}
