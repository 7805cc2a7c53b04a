use countersign_identity::{Mode, ServiceName, UserContext, WimseProof};
use countersign_store::StoreError;
use countersign_store::services::{Lowered, Modes, NewService};

use crate::ground::{Ground, NOW, later};

fn entry(ground: &Ground, name: &str) -> NewService {
    NewService {
        id: format!("s-{name}"),
        name: ServiceName::parse(name).unwrap(),
        spiffe_id: ground.id(name),
        address: "127.0.0.1:7001".to_owned(),
        accepts: vec![Mode::Mtls],
        sends: Mode::Mtls,
        user_context: UserContext::Same,
        wimse: WimseProof::Token,
        launch_by: vec![0, 4_294_967_295],
        nodes: vec![ground.id("ads")],
    }
}

both! {
    async fn an_entry_is_stored_with_its_event_and_found_by_name_and_identity(ground: &Ground) {
        let stored =
            ground.db.register_service(&entry(ground, "ads"), &[ground.record()], NOW).await.unwrap();
        assert_eq!((stored.launch_by.as_slice(), stored.accepts.as_slice()), (&[0, u32::MAX][..], &[Mode::Mtls][..]));
        assert_eq!(ground.db.service("ads").await.unwrap(), Some(stored.clone()));
        assert_eq!(ground.db.service_of(&ground.id("ads")).await.unwrap(), Some(stored));
        assert_eq!(ground.db.service("users").await.unwrap(), None);
        assert_eq!(ground.db.log_state().await.unwrap().size(), 1);
    }

    async fn an_entry_of_the_same_name_keeps_its_id_and_its_identity(ground: &Ground) {
        ground.db.register_service(&entry(ground, "ads"), &[], NOW).await.unwrap();
        let mut moved = entry(ground, "ads");
        moved.id = "s-other".to_owned();
        moved.address = "127.0.0.1:7002".to_owned();
        let stored = ground.db.register_service(&moved, &[], later(5)).await.unwrap();
        assert_eq!((stored.id.as_str(), stored.address.as_str()), ("s-ads", "127.0.0.1:7002"));
        assert_eq!((stored.created_at, stored.updated_at), (NOW, later(5)));

        let mut renamed = entry(ground, "ads");
        renamed.spiffe_id = ground.id("users");
        let refused = ground.db.register_service(&renamed, &[ground.record()], NOW).await;
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
        assert_eq!(ground.db.log_state().await.unwrap().size(), 0);
    }

    async fn an_identity_belongs_to_one_name(ground: &Ground) {
        ground.db.register_service(&entry(ground, "ads"), &[], NOW).await.unwrap();
        let mut thief = entry(ground, "thief");
        thief.spiffe_id = ground.id("ads");
        let refused = ground.db.register_service(&thief, &[], NOW).await;
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
        let names: Vec<_> = ground.db.services().await.unwrap().into_iter().map(|s| s.name).collect();
        assert_eq!(names, [ServiceName::parse("ads").unwrap()]);
    }

    async fn registering_again_never_changes_the_modes(ground: &Ground) {
        ground.db.register_service(&entry(ground, "ads"), &[], NOW).await.unwrap();
        let mut weaker = entry(ground, "ads");
        (weaker.accepts, weaker.sends) = (vec![Mode::None], Mode::None);
        let stored = ground.db.register_service(&weaker, &[], NOW).await.unwrap();
        assert_eq!((stored.accepts, stored.sends), (vec![Mode::Mtls], Mode::Mtls));
    }

    async fn modes_change_for_all_named_services_or_for_none_and_say_what_comes_back(ground: &Ground) {
        let ads = ground.db.register_service(&entry(ground, "ads"), &[], NOW).await.unwrap();
        let name = |name| ServiceName::parse(name).unwrap();
        let modes = Modes {
            accepts: vec![Mode::Jwt, Mode::Mtls],
            sends: Mode::Jwt,
            user_context: UserContext::Nested,
            wimse: WimseProof::HttpSignature,
        };
        let lowered = Lowered { until: later(60), from: ads.modes() };
        let both = [(name("ads"), modes.clone(), Some(lowered.clone())), (name("users"), modes.clone(), None)];
        let refused = ground.db.set_modes(&both, &[ground.record()], NOW).await;
        assert!(matches!(refused, Err(StoreError::Missing { .. })), "{refused:?}");
        assert_eq!(ground.db.service("ads").await.unwrap().unwrap().modes(), ads.modes());
        assert_eq!(ground.db.log_state().await.unwrap().size(), 0);

        ground.db.set_modes(&both[..1], &[ground.record()], NOW).await.unwrap();
        let stored = ground.db.service("ads").await.unwrap().unwrap();
        assert_eq!((stored.modes(), stored.lowered), (modes.clone(), Some(lowered)));
        ground.db.set_modes(&[(name("ads"), modes, None)], &[], NOW).await.unwrap();
        assert_eq!(ground.db.service("ads").await.unwrap().unwrap().lowered, None);
    }
}
