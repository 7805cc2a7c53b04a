//! Every store on both databases, and none in another one's.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::os::unix::fs::PermissionsExt;

use countersign_flea_market::{
    EndUser, Place,
    store::{
        AdStore, AdToKeep, ChatStore, MediaStore, Nearby, Picture, Profile, ReportStore, SearchToKeep,
        StoreError, SubscriptionStore, Taken, UserStore,
    },
};
use countersign_identity::UnixTime;
use countersign_testkit::Postgres;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

/// Addresses of an empty database of each kind that this machine has.
fn databases(directory: &tempfile::TempDir) -> Vec<String> {
    let file = format!("sqlite:{}", directory.path().join("some name.db").display());
    let server = Postgres::shared().map(|server| server.database());
    std::iter::once(file).chain(server).collect()
}

fn user(id: &str, name: &str) -> EndUser {
    EndUser { id: id.to_owned(), name: name.to_owned(), roles: vec![] }
}

fn thing(seller: &str, kind: &str, place: &str) -> AdToKeep {
    AdToKeep {
        seller: seller.into(),
        kind: kind.into(),
        title: "50% off_ a bicycle".into(),
        description: "It's \"fine\"; DROP TABLE ads; --".into(),
        category: "bicycles".into(),
        price_cents: (kind != "swap").then_some(5),
        swap_for: (kind == "swap").then(|| "honey".into()),
        town: "Linz".into(),
        place: Place::parse(place).unwrap(),
        picture: None,
    }
}

#[tokio::test]
async fn advertisements_are_kept_found_and_taken_once() {
    let directory = countersign_testkit::temp_dir();
    for address in databases(&directory) {
        let store = AdStore::open(&address).await.unwrap();
        assert!(store.is_new().await.unwrap());
        let near = store.publish(thing("bob", "sell", "48.37,14.51"), NOW).await.unwrap();
        let far = store.publish(thing("bob", "rent", "48.37,15.51"), NOW).await.unwrap();
        assert_eq!((near.id, far.id), (1, 2));
        assert_eq!(store.find(1).await.unwrap().unwrap(), near);
        assert_eq!(store.find(3).await.unwrap(), None);

        let ids = async |wanted: Nearby| -> Vec<i64> {
            store.open_ads(&wanted).await.unwrap().iter().map(|ad| ad.id).collect()
        };
        let here = Place::parse("48.37,15.4");
        assert_eq!(ids(Nearby { near: here, ..Nearby::default() }).await, [2, 1]);
        assert_eq!(ids(Nearby { near: here, within_km: Some(20), ..Nearby::default() }).await, [2]);
        assert_eq!(ids(Nearby { kind: Some("sell".into()), ..Nearby::default() }).await, [1]);
        assert_eq!(ids(Nearby { words: Some("50% OFF_".into()), ..Nearby::default() }).await, [2, 1]);
        assert!(ids(Nearby { words: Some("50!".into()), ..Nearby::default() }).await.is_empty());
        assert!(ids(Nearby { words: Some("5_%".into()), ..Nearby::default() }).await.is_empty());
        assert!(ids(Nearby { seller: Some("' OR '1'='1".into()), ..Nearby::default() }).await.is_empty());

        let taken = Taken { by: "alice".into(), at: NOW, note: "bought".into() };
        let own = Taken { by: "bob".into(), ..taken.clone() };
        assert!(!store.take(1, "sell", &own).await.unwrap());
        assert!(!store.take(1, "rent", &taken).await.unwrap());
        assert!(store.take(1, "sell", &taken).await.unwrap());
        assert!(!store.take(1, "sell", &taken).await.unwrap());
        assert_eq!(store.find(1).await.unwrap().unwrap().taken, Some(taken));
        assert_eq!(store.count_of("bob").await.unwrap(), 1);

        assert!(!store.remove(2, Some("alice")).await.unwrap());
        assert!(store.remove(2, Some("bob")).await.unwrap());
        let next = store.publish(thing("bob", "swap", "48,14"), NOW).await.unwrap();
        assert_eq!(next.id, 3, "numbers are never given twice");
        assert!(!AdStore::open(&address).await.unwrap().is_new().await.unwrap());
    }
}

#[tokio::test]
async fn a_service_refuses_the_database_of_another_one() {
    let directory = countersign_testkit::temp_dir();
    for address in databases(&directory) {
        UserStore::open(&address).await.unwrap();
        let refused = AdStore::open(&address).await.unwrap_err();
        let expected = StoreError::OtherOwner { service: "ads".into(), owner: "users".into() };
        assert_eq!(refused, expected);
        assert!(UserStore::open(&address).await.is_ok(), "and leaves it as it was");
    }
}

#[tokio::test]
async fn a_database_that_is_not_there_is_refused_without_repeating_its_password() {
    let address = "postgres://someone:hunter2@127.0.0.1:1/nothing";
    let refused = ChatStore::open(address).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Unreachable { .. }), "{refused}");
    assert!(!refused.to_string().contains("hunter2"));
    let broken = ChatStore::open("postgres://someone:hunter2@[/nothing").await.unwrap_err();
    assert!(!broken.to_string().contains("hunter2"), "{broken}");
    assert_eq!(ChatStore::open("mysql://x").await.unwrap_err(), StoreError::Address);
    let directory = ChatStore::open("sqlite:/").await.unwrap_err();
    assert!(matches!(directory, StoreError::Unreachable { .. }));
}

#[tokio::test]
async fn files_are_readable_by_their_owner_alone() {
    let directory = countersign_testkit::temp_dir();
    let file = directory.path().join("m.db");
    let store = MediaStore::open(&format!("sqlite:{}", file.display())).await.unwrap();
    let picture = Picture { owner: "bob".into(), content_type: "image/png".into(), bytes: vec![0, 255, 7] };
    store.add(&picture, NOW).await.unwrap();
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.path());
    }
}

#[tokio::test]
async fn a_name_belongs_to_one_account_for_good() {
    let directory = countersign_testkit::temp_dir();
    for address in databases(&directory) {
        let store = ChatStore::open(&address).await.unwrap();
        let recognise = async |id: &str, name: &str| store.db().recognise(&user(id, name)).await;
        assert_eq!(recognise("u_1", "alice").await.unwrap(), "alice");
        assert_eq!(recognise("u_1", "alice").await.unwrap(), "alice");
        assert_eq!(recognise("u_1", "alice-renamed").await.unwrap(), "alice");
        let taken = StoreError::NameTaken { handle: "alice".into() };
        assert_eq!(recognise("u_2", "alice").await.unwrap_err(), taken);
    }
}

#[tokio::test]
async fn conversations_have_two_people_and_messages_without_gaps() {
    let directory = countersign_testkit::temp_dir();
    for address in databases(&directory) {
        let store = ChatStore::open(&address).await.unwrap();
        let (chat, first) = store.write("bob", "alice", "hello", NOW).await.unwrap();
        let (again, second) = store.write("alice", "bob", "hello back", NOW).await.unwrap();
        assert_eq!((chat.id, first.number, second.number), (again.id, 1, 2));
        assert_eq!(store.find(chat.id, "eve").await.unwrap(), None);
        assert_eq!(store.conversations("bob").await.unwrap().len(), 1);
        let authors: Vec<_> = store.messages(chat.id).await.unwrap().into_iter().map(|m| m.author).collect();
        assert_eq!(authors, ["bob", "alice"]);
    }
}

#[tokio::test]
async fn searches_find_once_and_notifications_are_bounded() {
    let directory = countersign_testkit::temp_dir();
    for address in databases(&directory) {
        let store = SubscriptionStore::open(&address).await.unwrap();
        let place = Place::parse("48.37,14.51").unwrap();
        let search = SearchToKeep {
            owner: "alice".into(),
            words: Some("bike".into()),
            kind: Some("sell".into()),
            price_cents_max: Some(100),
            near: Some((place, 5)),
        };
        let saved = store.save(search, NOW).await.unwrap();
        assert_eq!(store.searches_of("alice").await.unwrap(), std::slice::from_ref(&saved));
        assert_eq!(store.candidates("sell", Some(100)).await.unwrap(), std::slice::from_ref(&saved));
        assert!(store.candidates("sell", Some(101)).await.unwrap().is_empty());
        assert!(store.candidates("rent", None).await.unwrap().is_empty());
        for ad in 1..=101 {
            assert_eq!(store.notify(std::slice::from_ref(&saved), ad, "bike", NOW).await.unwrap(), 1);
        }
        assert_eq!(store.notify(std::slice::from_ref(&saved), 50, "bike", NOW).await.unwrap(), 0);
        let told = store.notifications_of("alice").await.unwrap();
        assert!(told.len() <= 100, "{}", told.len());
        assert_eq!(told.first().map(|n| n.ad), Some(101));
        assert!(!store.delete(saved.id, "bob").await.unwrap());
        assert!(store.delete(saved.id, "alice").await.unwrap());
    }
}

#[tokio::test]
async fn profiles_pictures_and_reports_come_back_as_they_were_kept() {
    let directory = countersign_testkit::temp_dir();
    for address in databases(&directory) {
        let users = UserStore::open(&address).await.unwrap();
        let profile = Profile {
            handle: "ané".into(),
            display_name: "Ané".into(),
            town: "Linz".into(),
            about: String::new(),
            rating: None,
            deals: 0,
            joined_at: NOW,
        };
        users.write(&profile).await.unwrap();
        let changed = Profile { town: "Wels".into(), rating: Some(50), deals: 9, ..profile.clone() };
        users.write(&changed).await.unwrap();
        let kept = users.find("ané").await.unwrap().unwrap();
        assert_eq!(kept, Profile { town: "Wels".into(), ..profile }, "nobody writes their own rating");
        users.write(&Profile { handle: "bo".into(), ..kept.clone() }).await.unwrap();
        let mut found = users.find_all(&["x", "ané", "bo') OR ('' = '"]).await.unwrap();
        assert_eq!(found, std::slice::from_ref(&kept), "asked for by their handles alone");
        found = users.find_all(&["bo", "ané"]).await.unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(users.find_all(&[]).await.unwrap(), []);
    }
    let other = countersign_testkit::temp_dir();
    for address in databases(&other) {
        let store = ReportStore::open(&address).await.unwrap();
        let filed = store.file(1, None, "alice", "why not", NOW).await.unwrap().unwrap();
        assert_eq!(store.file(1, None, "alice", "again", NOW).await.unwrap(), None);
        let closed = store.close(filed.id, "mod", "removed", NOW).await.unwrap().unwrap();
        assert_eq!(closed.closed, Some((NOW, "mod".into(), "removed".into())));
        assert_eq!(store.close(filed.id, "mod", "twice", NOW).await.unwrap(), None);
        assert_eq!(store.all().await.unwrap(), [closed]);
    }
    let third = countersign_testkit::temp_dir();
    for address in databases(&third) {
        let media = MediaStore::open(&address).await.unwrap();
        let picture =
            Picture { owner: "bob".into(), content_type: "image/png".into(), bytes: (0..=255).collect() };
        let id = media.add(&picture, NOW).await.unwrap();
        assert_eq!(media.find(id).await.unwrap().unwrap(), picture);
        assert_eq!(media.count_of("bob").await.unwrap(), 1);
    }
}
