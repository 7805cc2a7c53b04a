use countersign_identity::SpiffeId;
use countersign_store::StoreError;
use countersign_store::nodes::{JOIN_RETRY, JoinError, JoinToken, Joined, Joining};

use crate::ground::{Ground, NOW, certificate, later};

const SECRET: &[u8] = b"csj_secret";

fn agent(ground: &Ground) -> SpiffeId {
    SpiffeId::agent(&ground.home, "laptop").unwrap()
}

fn token(ground: &Ground) -> JoinToken {
    JoinToken {
        id: "j1".to_owned(),
        spiffe_id: agent(ground),
        created_at: NOW,
        expires_at: later(300),
        used: None,
    }
}

fn joining(ground: &Ground, key: &str) -> Joining {
    Joining {
        key: key.to_owned(),
        node_id: format!("n-{key}"),
        certificate: certificate(&format!("0{key}"), &agent(ground)),
        answer: format!("answer for {key}").into_bytes(),
        records: vec![ground.record()],
    }
}

both! {
    async fn a_join_token_is_good_for_one_key(ground: &Ground) {
        ground.db.add_join_token(SECRET, &token(ground), &[ground.record()], NOW).await.unwrap();
        assert_eq!(ground.db.join_token(SECRET, "1", NOW).await.unwrap().spiffe_id, agent(ground));
        assert_eq!(ground.db.join(SECRET, &joining(ground, "1"), later(1)).await, Ok(Joined::Now));
        assert_eq!(ground.db.join(SECRET, &joining(ground, "2"), later(2)).await, Err(JoinError::Spent));
        assert_eq!(ground.db.join_token(SECRET, "2", later(2)).await, Err(JoinError::Spent));

        assert!(ground.db.certificate("01").await.unwrap().is_some());
        assert_eq!(ground.db.certificate("02").await.unwrap(), None, "the refused one left nothing");
        let nodes = ground.db.nodes().await.unwrap();
        assert_eq!((nodes.len(), nodes[0].id.as_str(), nodes[0].joined_at), (1, "n-1", later(1)));
        assert_eq!(ground.db.log_state().await.unwrap().size(), 2);
    }

    async fn the_same_key_gets_the_same_answer_for_ten_minutes(ground: &Ground) {
        ground.db.add_join_token(SECRET, &token(ground), &[], NOW).await.unwrap();
        ground.db.join(SECRET, &joining(ground, "1"), NOW).await.unwrap();
        let size = ground.db.log_state().await.unwrap().size();

        // Also past the token's own end, and whatever was prepared for it this time.
        let mut retry = joining(ground, "1");
        retry.answer = b"another answer".to_vec();
        let just_before = later(i64::try_from(JOIN_RETRY.as_secs()).unwrap() - 1);
        let answer = b"answer for 1".to_vec();
        assert_eq!(
            ground.db.join(SECRET, &retry, just_before).await,
            Ok(Joined::Again { answer })
        );
        assert_eq!(ground.db.log_state().await.unwrap().size(), size, "nothing was stored");

        let ten_minutes = NOW.saturating_add(JOIN_RETRY);
        assert_eq!(ground.db.join(SECRET, &retry, ten_minutes).await, Err(JoinError::Spent));
    }

    async fn an_expired_or_unknown_join_token_buys_nothing(ground: &Ground) {
        ground.db.add_join_token(SECRET, &token(ground), &[], NOW).await.unwrap();
        assert_eq!(ground.db.join(SECRET, &joining(ground, "1"), later(300)).await, Err(JoinError::Expired));
        assert_eq!(ground.db.join(b"csj_guess", &joining(ground, "1"), NOW).await, Err(JoinError::Unknown));
        assert!(ground.db.nodes().await.unwrap().is_empty());
        assert_eq!(ground.db.certificate("01").await.unwrap(), None);
    }

    async fn parallel_agents_with_one_token_and_different_keys_make_one_node(ground: &Ground) {
        ground.db.add_join_token(SECRET, &token(ground), &[], NOW).await.unwrap();
        let second = ground.reopened().await;
        let mut tasks = tokio::task::JoinSet::new();
        for key in 0..40 {
            let db = if key % 2 == 0 { ground.db.clone() } else { second.clone() };
            let joining = joining(ground, &format!("{key}"));
            tasks.spawn(async move { db.join(SECRET, &joining, later(1)).await });
        }
        let results = tasks.join_all().await;
        assert_eq!(results.iter().filter(|result| **result == Ok(Joined::Now)).count(), 1);
        assert_eq!(results.iter().filter(|result| **result == Err(JoinError::Spent)).count(), 39);
        assert_eq!(ground.db.nodes().await.unwrap().len(), 1);
        assert_eq!(ground.db.log_state().await.unwrap().size(), 1);
    }

    async fn parallel_retries_of_one_agent_get_one_answer(ground: &Ground) {
        ground.db.add_join_token(SECRET, &token(ground), &[], NOW).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for serial in 0..20 {
            let db = ground.db.clone();
            let mut joining = joining(ground, "1");
            joining.certificate.serial = format!("{serial:02x}");
            joining.answer = format!("answer {serial}").into_bytes();
            tasks.spawn(async move { (db.join(SECRET, &joining, later(1)).await, joining.answer) });
        }
        let results = tasks.join_all().await;
        let winners: Vec<_> = results.iter().filter(|(result, _)| *result == Ok(Joined::Now)).collect();
        assert_eq!(winners.len(), 1);
        for (result, _) in results.iter().filter(|(result, _)| *result != Ok(Joined::Now)) {
            assert_eq!(result, &Ok(Joined::Again { answer: winners[0].1.clone() }));
        }
    }

    async fn a_join_that_fails_does_not_spend_the_token(ground: &Ground) {
        ground.db.add_join_token(SECRET, &token(ground), &[], NOW).await.unwrap();
        let taken = certificate("01", &ground.id("ads"));
        ground.db.issue_and_record(&taken, &[], NOW).await.unwrap();
        let conflict = StoreError::Conflict { what: "a certificate with this serial" };
        assert_eq!(
            ground.db.join(SECRET, &joining(ground, "1"), NOW).await,
            Err(JoinError::Store(conflict))
        );
        assert_eq!(ground.db.join(SECRET, &joining(ground, "2"), NOW).await, Ok(Joined::Now));
    }

    async fn an_agent_that_joins_again_keeps_its_id(ground: &Ground) {
        for (secret, key) in [(b"first".as_slice(), "1"), (b"second", "2")] {
            ground.db.add_join_token(secret, &token(ground), &[], NOW).await.unwrap();
            ground.db.join(secret, &joining(ground, key), later(1)).await.unwrap();
        }
        let nodes = ground.db.nodes().await.unwrap();
        assert_eq!((nodes.len(), nodes[0].id.as_str()), (1, "n-1"));
        assert_eq!(
            ground.db.add_join_token(b"first", &token(ground), &[], NOW).await,
            Err(StoreError::Conflict { what: "this join token" })
        );
    }

    async fn an_agent_that_was_seen_is_never_seen_earlier(ground: &Ground) {
        ground.db.add_join_token(SECRET, &token(ground), &[], NOW).await.unwrap();
        ground.db.join(SECRET, &joining(ground, "1"), NOW).await.unwrap();
        ground.db.node_seen(&agent(ground), later(9)).await.unwrap();
        ground.db.node_seen(&agent(ground), later(5)).await.unwrap();
        assert_eq!(ground.db.nodes().await.unwrap()[0].seen_at, later(9));
        let stranger = SpiffeId::agent(&ground.home, "stranger").unwrap();
        assert_eq!(
            ground.db.node_seen(&stranger, NOW).await,
            Err(StoreError::Missing { what: "node" })
        );
    }

    async fn tidying_keeps_tokens_that_can_still_be_answered(ground: &Ground) {
        ground.db.add_join_token(b"unused", &token(ground), &[], NOW).await.unwrap();
        ground.db.add_join_token(SECRET, &token(ground), &[], NOW).await.unwrap();
        ground.db.join(SECRET, &joining(ground, "1"), later(299)).await.unwrap();
        assert_eq!(ground.db.tidy_join_tokens(later(898)).await.unwrap(), 0);
        assert!(matches!(
            ground.db.join(SECRET, &joining(ground, "1"), later(898)).await,
            Ok(Joined::Again { .. })
        ));
        assert_eq!(ground.db.tidy_join_tokens(later(900)).await.unwrap(), 2);
        assert_eq!(ground.db.join_token(SECRET, "1", later(900)).await, Err(JoinError::Unknown));
    }
}
