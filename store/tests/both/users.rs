use countersign_store::StoreError;
use countersign_store::users::User;

use crate::ground::{Ground, NOW, later};

fn user(name: &str) -> User {
    User {
        id: format!("u_{name}"),
        name: name.to_owned(),
        roles: vec!["buyer".to_owned()],
        password: "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA".to_owned(),
        attempts: 0,
        created_at: NOW,
        changed_at: NOW,
    }
}

both! {
    async fn an_account_is_stored_with_its_event(ground: &Ground) {
        ground.db.add_user(&user("alice"), &[ground.record()], NOW).await.unwrap();
        assert_eq!(ground.db.user_by_name("alice").await.unwrap(), Some(user("alice")));
        assert_eq!(ground.db.user("u_alice").await.unwrap(), Some(user("alice")));
        assert_eq!(ground.db.user_by_name("Alice").await.unwrap(), None, "names arrive canonical");
        assert_eq!(ground.db.log_state().await.unwrap().size(), 1);
        assert_eq!(ground.db.user_count().await.unwrap(), 1);
    }

    async fn a_name_is_taken_once(ground: &Ground) {
        ground.db.add_user(&user("alice"), &[], NOW).await.unwrap();
        let mut second = user("alice");
        second.id = "u_other".to_owned();
        assert_eq!(
            ground.db.add_user(&second, &[ground.record()], NOW).await,
            Err(StoreError::Conflict { what: "a user with this name" })
        );
        assert_eq!(ground.db.log_state().await.unwrap().size(), 0);
    }

    async fn a_thousand_parallel_wrong_logins_give_an_exact_count(ground: &Ground) {
        ground.db.add_user(&user("alice"), &[], NOW).await.unwrap();
        ground.db.add_user(&user("bob"), &[], NOW).await.unwrap();
        let second = ground.reopened().await;
        let mut tasks = tokio::task::JoinSet::new();
        for turn in 0..1000 {
            let db = if turn % 2 == 0 { ground.db.clone() } else { second.clone() };
            tasks.spawn(async move { db.count_attempt("u_alice", NOW).await.unwrap() });
        }
        let mut counts = tasks.join_all().await;
        counts.sort_unstable();
        // Every attempt sees another number, so exactly 100 of them may be judged, whatever their order.
        assert_eq!(counts, (1..=1000).collect::<Vec<_>>());
        assert_eq!(ground.db.user("u_alice").await.unwrap().unwrap().attempts, 1000);
        assert_eq!(ground.db.user("u_bob").await.unwrap().unwrap().attempts, 0);
    }

    async fn a_success_or_a_new_password_forgets_the_attempts(ground: &Ground) {
        ground.db.add_user(&user("alice"), &[], NOW).await.unwrap();
        ground.db.count_attempt("u_alice", NOW).await.unwrap();
        ground.db.clear_attempts("u_alice").await.unwrap();
        assert_eq!(ground.db.count_attempt("u_alice", NOW).await.unwrap(), 1);

        ground.db.set_password("u_alice", "$argon2id$new", &[ground.record()], later(5)).await.unwrap();
        let alice = ground.db.user("u_alice").await.unwrap().unwrap();
        assert_eq!((alice.password.as_str(), alice.attempts, alice.changed_at), ("$argon2id$new", 0, later(5)));
    }

    async fn a_hash_that_is_renewed_late_does_not_bring_an_old_password_back(ground: &Ground) {
        ground.db.add_user(&user("alice"), &[], NOW).await.unwrap();
        let before = ground.db.user("u_alice").await.unwrap().unwrap().password;
        ground.db.renew_password_hash("u_alice", &before, "$argon2id$renewed").await.unwrap();
        let hash = async || ground.db.user("u_alice").await.unwrap().unwrap().password;
        assert_eq!(hash().await, "$argon2id$renewed");
        ground.db.set_password("u_alice", "$argon2id$new", &[ground.record()], later(5)).await.unwrap();
        ground.db.renew_password_hash("u_alice", "$argon2id$renewed", "$argon2id$late").await.unwrap();
        assert_eq!(hash().await, "$argon2id$new");
    }

    async fn an_unknown_account_counts_nothing(ground: &Ground) {
        let missing = StoreError::Missing { what: "user" };
        assert_eq!(ground.db.count_attempt("u_none", NOW).await, Err(missing.clone()));
        assert_eq!(ground.db.clear_attempts("u_none").await, Err(missing.clone()));
        assert_eq!(ground.db.set_password("u_none", "x", &[ground.record()], NOW).await, Err(missing));
        assert_eq!(ground.db.log_state().await.unwrap().size(), 0);
    }

    async fn accounts_are_listed_in_parts(ground: &Ground) {
        for name in ["carol", "alice", "bob"] {
            ground.db.add_user(&user(name), &[], NOW).await.unwrap();
        }
        let names = |users: Vec<User>| users.into_iter().map(|user| user.name).collect::<Vec<_>>();
        assert_eq!(names(ground.db.users("", 2).await.unwrap()), ["alice", "bob"]);
        assert_eq!(names(ground.db.users("bob", 2).await.unwrap()), ["carol"]);
        assert_eq!(names(ground.db.users("", 0).await.unwrap()), Vec::<String>::new());
    }

    async fn debug_shows_neither_name_nor_hash(_ground: &Ground) {
        let text = format!("{:?}", user("alice"));
        assert!(!text.contains("argon2id") && !text.contains("\"alice\""), "{text}");
    }
}
