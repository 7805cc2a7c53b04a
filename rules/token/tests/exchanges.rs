//! Which token may become which: the table, and that nothing grows on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::time::Duration;

use common::{NOW, at, key};
use countersign_identity::{Possession, SpiffeId, TrustDomain, UnixTime};
use countersign_token::{
    AccessToken, Confirmation, ExchangeError, ExchangeGrant, ExchangeRequest, ExchangedToken, ExpectedToken,
    JwtSvid, Scope, ScopeError, Shown, SubjectKind, SubjectToken, TxnToken, Wanted, actors::ACTORS_MAX,
    exchange::exchange,
};
use proptest::prelude::*;

#[test]
fn a_users_token_from_login_becomes_one_for_a_hop_or_a_transaction() {
    let (edge, media) = (id("countersign/gateway/edge"), id("svc/media"));
    for wanted in [Wanted::ExchangedToken(&media), Wanted::TxnToken(&home())] {
        let grant = judge(&subject(SubjectKind::AccessToken), &request(&edge, wanted)).unwrap();
        let expected = ExchangeGrant {
            scope: scope("read write"),
            actors: vec![edge.clone()],
            possession: Possession::None,
            // It lives until the subject token's end, never longer than its kind.
            expires: at(250),
        };
        assert_eq!(grant, expected);
    }
}

#[test]
fn hop_by_hop_the_actors_grow_newest_last_and_the_scope_shrinks() {
    let (ads, media, chat) = (id("svc/ads"), id("svc/media"), id("svc/chat"));
    let mut first = subject(SubjectKind::ExchangedToken { audience: ads.clone() });
    first.actors = vec![id("countersign/gateway/edge")];
    let small = scope("read");
    let narrowed = ExchangeRequest { scope: Some(&small), ..request(&ads, Wanted::ExchangedToken(&media)) };
    let grant = judge(&first, &narrowed).unwrap();
    assert_eq!(grant.actors, [id("countersign/gateway/edge"), ads.clone()]);
    assert_eq!(grant.scope, small);

    let second = SubjectToken {
        actors: grant.actors,
        scope: grant.scope,
        ..subject(SubjectKind::ExchangedToken { audience: media.clone() })
    };
    let whole = scope("read write");
    let again = ExchangeRequest { scope: Some(&whole), ..request(&media, Wanted::ExchangedToken(&chat)) };
    assert_eq!(judge(&second, &again), Err(ExchangeError::WiderScope { scope: "read write".into() }));
    let grant = judge(&second, &request(&media, Wanted::ExchangedToken(&chat))).unwrap();
    assert_eq!(grant.actors, [id("countersign/gateway/edge"), ads, media.clone()]);
    assert_eq!(grant.scope, small, "what was given up does not come back");
}

#[test]
fn a_workload_that_exchanges_twice_has_acted_once() {
    let (ads, media) = (id("svc/ads"), id("svc/media"));
    let mut own = subject(SubjectKind::TxnToken { audience: home() });
    own.actors = vec![ads.clone()];
    let grant = judge(&own, &request(&ads, Wanted::ExchangedToken(&media))).unwrap();
    assert_eq!(grant.actors, [ads]);
}

#[test]
fn what_a_user_did_not_prove_no_exchange_proves() {
    // From an unbound token over a token service that saw the client's certificate: the user is still unproven.
    let (ads, media) = (id("svc/ads"), id("svc/media"));
    for possession in Possession::ALL.iter().copied() {
        let mut own = subject(SubjectKind::TxnToken { audience: home() });
        own.possession = possession;
        for client in Possession::ALL.iter().copied() {
            let asked = request(&ads, Wanted::ExchangedToken(&media));
            let grant = exchange(&own, &asked, client, &home(), NOW).unwrap();
            assert_eq!(
                grant.possession, possession,
                "neither does the client's proof lend itself, nor is the user's lost"
            );
        }
    }
}

#[test]
fn a_workloads_own_token_is_as_strong_as_its_weakest_input() {
    let ads = id("svc/ads");
    let own = SubjectKind::JwtSvid { subject: ads.clone() };
    let judged = |of_token, of_client| {
        let mut token = subject(own.clone());
        token.possession = of_token;
        let asked = request(&ads, Wanted::JwtSvid("spiffe://fleamarket.test/svc/media"));
        let grant = exchange(&token, &asked, of_client, &home(), NOW).unwrap();
        assert_eq!(grant.actors, [], "nobody acts for a workload");
        grant.possession
    };
    assert_eq!(judged(Possession::Key, Possession::Key), Possession::Key);
    assert_eq!(judged(Possession::None, Possession::Key), Possession::None);
    assert_eq!(judged(Possession::Key, Possession::None), Possession::None);
}

#[test]
fn rejects_a_subject_token_that_was_revoked() {
    let (edge, media) = (id("countersign/gateway/edge"), id("svc/media"));
    let revoked = SubjectToken { is_revoked: true, ..subject(SubjectKind::AccessToken) };
    let found = judge(&revoked, &request(&edge, Wanted::ExchangedToken(&media)));
    assert_eq!(found, Err(ExchangeError::SubjectRevoked));
}

#[test]
fn rejects_a_subject_token_that_is_over() {
    let (edge, media) = (id("countersign/gateway/edge"), id("svc/media"));
    for (expires, by_seconds) in [(NOW, 0), (at(-5), 5)] {
        let old = SubjectToken { expires, ..subject(SubjectKind::AccessToken) };
        let found = judge(&old, &request(&edge, Wanted::TxnToken(&home())));
        assert_eq!(found, Err(ExchangeError::SubjectExpired { by_seconds }));
        assert_eq!(judge(&old, &request(&edge, Wanted::ExchangedToken(&media))), found);
    }
}

#[test]
fn an_actor_token_makes_its_owner_the_actor_and_bounds_the_life() {
    let (edge, media, chat) = (id("countersign/gateway/edge"), id("svc/media"), id("svc/chat"));
    let asked = |expires| ExchangeRequest {
        actor: Some((&chat, expires)),
        ..request(&edge, Wanted::ExchangedToken(&media))
    };
    let grant = judge(&subject(SubjectKind::AccessToken), &asked(at(20))).unwrap();
    assert_eq!((grant.actors, grant.expires), (vec![chat.clone()], at(20)));
    let grant = judge(&subject(SubjectKind::AccessToken), &asked(at(299))).unwrap();
    assert_eq!(grant.expires, at(250), "an actor who lives longer lends nothing of it");
    let found = judge(&subject(SubjectKind::AccessToken), &asked(NOW));
    assert_eq!(found, Err(ExchangeError::ActorExpired { actor: chat.clone() }));
}

#[test]
fn rejects_an_actor_whom_the_subject_token_does_not_name() {
    let (edge, media, chat) = (id("countersign/gateway/edge"), id("svc/media"), id("svc/chat"));
    let asked = request(&edge, Wanted::ExchangedToken(&media));
    let token = |may_act| SubjectToken { may_act, ..subject(SubjectKind::AccessToken) };
    assert!(judge(&token(Some(vec![chat.clone(), edge.clone()])), &asked).is_ok());
    let refused = Err(ExchangeError::MayNotAct { actor: edge.clone() });
    assert_eq!(judge(&token(Some(vec![chat.clone()])), &asked), refused);
    assert_eq!(judge(&token(Some(Vec::new())), &asked), refused, "nobody is not everybody");
    // It is the actor that must be named, and not who asks.
    let asked = ExchangeRequest { actor: Some((&chat, at(300))), ..asked };
    assert!(judge(&token(Some(vec![chat.clone()])), &asked).is_ok());
}

#[test]
fn rejects_whoever_the_subject_token_is_not_for() {
    let media = id("svc/media");
    let foreign = SpiffeId::parse("spiffe://other.test/svc/ads").unwrap();
    let cases = [
        (SubjectKind::AccessToken, id("svc/ads")),
        (SubjectKind::ExchangedToken { audience: id("svc/chat") }, id("svc/ads")),
        (SubjectKind::TxnToken { audience: home() }, foreign),
    ];
    for (kind, client) in cases {
        let found = judge(&subject(kind), &request(&client, Wanted::ExchangedToken(&media)));
        assert_eq!(found, Err(ExchangeError::NotForClient { client }));
    }
    let client = id("svc/ads");
    let svid = subject(SubjectKind::JwtSvid { subject: id("svc/chat") });
    let found = judge(&svid, &request(&client, Wanted::JwtSvid("a")));
    assert_eq!(found, Err(ExchangeError::NotForClient { client }));
}

#[test]
fn a_workload_never_becomes_a_user_nor_a_user_a_workload() {
    let (ads, media) = (id("svc/ads"), id("svc/media"));
    let svid = subject(SubjectKind::JwtSvid { subject: ads.clone() });
    for wanted in [Wanted::ExchangedToken(&media), Wanted::TxnToken(&home())] {
        assert_eq!(judge(&svid, &request(&ads, wanted)), Err(ExchangeError::WorkloadIsNoUser));
    }
    for kind in
        [SubjectKind::TxnToken { audience: home() }, SubjectKind::ExchangedToken { audience: ads.clone() }]
    {
        let found = judge(&subject(kind), &request(&ads, Wanted::JwtSvid("a")));
        assert_eq!(found, Err(ExchangeError::UserIsNoWorkload));
    }
}

#[test]
fn rejects_a_transaction_token_in_exchange_for_one() {
    let ads = id("svc/ads");
    let txn = subject(SubjectKind::TxnToken { audience: home() });
    assert_eq!(judge(&txn, &request(&ads, Wanted::TxnToken(&home()))), Err(ExchangeError::AlreadyTxnToken));
    // The per-hop way may go on as the other.
    let hop = subject(SubjectKind::ExchangedToken { audience: ads.clone() });
    assert!(judge(&hop, &request(&ads, Wanted::TxnToken(&home()))).is_ok());
}

#[test]
fn rejects_a_target_that_is_nobody_or_elsewhere() {
    let (ads, elsewhere) = (id("svc/ads"), TrustDomain::parse("other.test").unwrap());
    let hop = subject(SubjectKind::ExchangedToken { audience: ads.clone() });
    let target = |target: &str| Err(ExchangeError::WrongTarget { target: target.into() });
    assert_eq!(judge(&hop, &request(&ads, Wanted::TxnToken(&elsewhere))), target("other.test"));
    let svid = subject(SubjectKind::JwtSvid { subject: ads.clone() });
    assert_eq!(judge(&svid, &request(&ads, Wanted::JwtSvid(""))), target(""));
    let domain = SpiffeId::parse("spiffe://fleamarket.test").unwrap();
    let found = judge(&hop, &request(&ads, Wanted::ExchangedToken(&domain)));
    assert_eq!(found, target("spiffe://fleamarket.test"));
}

#[test]
fn rejects_a_foreign_workload_and_an_actor_for_a_workload() {
    let foreign = SpiffeId::parse("spiffe://other.test/svc/ads").unwrap();
    let svid = subject(SubjectKind::JwtSvid { subject: foreign.clone() });
    let found = judge(&svid, &request(&foreign, Wanted::JwtSvid("a")));
    assert_eq!(found, Err(ExchangeError::ForeignWorkload { subject: foreign.clone() }));
    let ads = id("svc/ads");
    let svid = subject(SubjectKind::JwtSvid { subject: ads.clone() });
    let asked = ExchangeRequest { actor: Some((&foreign, at(60))), ..request(&ads, Wanted::JwtSvid("a")) };
    assert_eq!(judge(&svid, &asked), Err(ExchangeError::NobodyToActFor));
}

#[test]
fn a_token_for_the_token_service_is_exchanged_by_whom_it_was_issued_to_and_by_nobody_else() {
    let (partner, ads) = (SpiffeId::parse("spiffe://other.test/svc/shop").unwrap(), id("svc/ads"));
    let mut across = subject(SubjectKind::ExchangedToken { audience: SpiffeId::authority(&home()) });
    across.actors =
        vec![SpiffeId::parse("spiffe://other.test/countersign/gateway/edge").unwrap(), partner.clone()];
    let grant = judge(&across, &request(&partner, Wanted::ExchangedToken(&ads))).unwrap();
    assert_eq!(grant.actors, across.actors, "it has acted already");
    let thief = SpiffeId::parse("spiffe://other.test/svc/thief").unwrap();
    for client in [thief, SpiffeId::authority(&home()), ads.clone()] {
        let refused = judge(&across, &request(&client, Wanted::ExchangedToken(&ads)));
        assert_eq!(refused, Err(ExchangeError::NotForClient { client: client.clone() }));
    }
}

#[test]
fn rejects_a_users_token_in_the_hands_of_another_trust_domains_gateway() {
    let client = SpiffeId::parse("spiffe://other.test/countersign/gateway/edge").unwrap();
    let refused =
        judge(&subject(SubjectKind::AccessToken), &request(&client, Wanted::ExchangedToken(&id("svc/ads"))));
    assert_eq!(refused, Err(ExchangeError::NotForClient { client }));
}

#[test]
fn a_subject_that_is_only_stated_begins_a_transaction_and_becomes_nothing_else() {
    let (ads, users) = (id("svc/ads"), id("svc/users"));
    let stated = subject(SubjectKind::Stated);
    let begun = judge(&stated, &request(&ads, Wanted::TxnToken(&home()))).unwrap();
    assert_eq!(begun.actors, std::slice::from_ref(&ads));
    let hop = judge(&stated, &request(&ads, Wanted::ExchangedToken(&users)));
    assert_eq!(hop, Err(ExchangeError::StatedSubject));
    let foreign = SpiffeId::parse("spiffe://other.test/svc/ads").unwrap();
    let refused = judge(&stated, &request(&foreign, Wanted::TxnToken(&home())));
    assert_eq!(refused, Err(ExchangeError::NotForClient { client: foreign }));
}

#[test]
fn rejects_one_actor_too_many() {
    let (ads, media) = (id("svc/ads"), id("svc/media"));
    let with = |actors| SubjectToken {
        actors: vec![id("svc/chat"); actors],
        ..subject(SubjectKind::ExchangedToken { audience: ads.clone() })
    };
    let asked = request(&ads, Wanted::ExchangedToken(&media));
    assert_eq!(judge(&with(ACTORS_MAX - 1), &asked).unwrap().actors.len(), ACTORS_MAX);
    assert_eq!(judge(&with(ACTORS_MAX), &asked), Err(ExchangeError::ChainTooLong));
}

#[test]
fn oauth_names_each_refusal() {
    let actor = id("svc/ads");
    let code = |error: ExchangeError| error.oauth_code();
    assert_eq!(code(ExchangeError::WiderScope { scope: String::new() }), "invalid_scope");
    assert_eq!(code(ExchangeError::WrongTarget { target: String::new() }), "invalid_target");
    assert_eq!(code(ExchangeError::SubjectRevoked), "invalid_request");
    assert_eq!(code(ExchangeError::MayNotAct { actor }), "invalid_request");
}

#[test]
fn a_subject_from_login_proved_what_it_proved_where_it_was_shown() {
    let sts = key();
    let key_of = |_: &str| Some(sts.public_key().clone());
    let login = AccessToken {
        issuer: "i".into(),
        audience: "a".into(),
        user_id: "u_1".into(),
        name: "alice".into(),
        roles: Vec::new(),
        client_id: "cli".into(),
        jti: "j".into(),
        expires: at(600),
        confirmation: Some(Confirmation::Key("0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I".into())),
    };
    let held = ["0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I".to_owned()];
    let shown = Shown::Held { keys: &held, certificates: &[] };
    let login = login.mint(&sts, NOW).unwrap();
    let grant = AccessToken::verify_shown(&login, shown, "i", "a", NOW, key_of).unwrap();
    let subject = SubjectToken::of_access_token(&grant, scope("read"), false);
    assert_eq!((subject.possession, subject.expires), (Possession::Key, at(600)));
    assert_eq!((subject.kind, subject.actors.len()), (SubjectKind::AccessToken, 0));
}

#[test]
fn a_subject_of_a_transaction_counts_its_requester_among_the_actors() {
    let (sts, authority) = (key(), id("countersign/gateway/edge"));
    let txn = TxnToken {
        txn: "t".into(),
        user_id: "u_1".into(),
        name: "alice".into(),
        roles: Vec::new(),
        scope: "read write".into(),
        requested_by: authority.clone(),
        actors: Vec::new(),
        possession: Possession::Key,
        expires: at(60),
    };
    let grant = |txn: &TxnToken| {
        let text = txn.mint(&sts, NOW).unwrap();
        TxnToken::verify_grant(&text, &home(), NOW, |_| Some((sts.public_key().clone(), authority.clone())))
            .unwrap()
    };
    let subject = SubjectToken::of_txn_token(&grant(&txn), &home(), false).unwrap();
    assert_eq!(subject.actors, std::slice::from_ref(&authority), "who requested it has acted");
    assert_eq!((subject.scope, subject.possession), (scope("read write"), Possession::Key));
    let unscoped = grant(&TxnToken { scope: "a  b".into(), ..txn });
    let refused = SubjectToken::of_txn_token(&unscoped, &home(), false);
    assert_eq!(refused, Err(ScopeError::NotAWord { word: String::new() }));
}

#[test]
fn a_subject_of_a_hop_or_of_a_workload_is_for_whom_its_token_says() {
    let (sts, authority) = (key(), id("countersign/gateway/edge"));
    let key_of = |_: &str| Some(sts.public_key().clone());
    let hop = ExchangedToken {
        issuer: "i".into(),
        audience: id("svc/ads"),
        user_id: "u_1".into(),
        name: "alice".into(),
        roles: Vec::new(),
        scope: scope("read"),
        txn: "t".into(),
        jti: "j".into(),
        actors: vec![authority],
        confirmation: None,
        user_possession: Possession::None,
        may_act: None,
        issued_at: NOW,
        expires: at(90),
    };
    let (text, audience) = (hop.mint(&sts).unwrap(), id("svc/ads"));
    let expected = ExpectedToken { issuer: "i", audience: &audience, presenter: None, shown: Shown::NOTHING };
    let verified = ExchangedToken::verify(&text, &expected, NOW, key_of).unwrap();
    let subject = SubjectToken::of_exchanged_token(&verified, true);
    assert_eq!(subject.kind, SubjectKind::ExchangedToken { audience });
    assert_eq!((subject.actors, subject.expires, subject.is_revoked), (hop.actors, at(90), true));

    let svid = JwtSvid {
        subject: id("svc/ads"),
        audiences: vec!["a".into()],
        jti: Some("j".into()),
        issued_at: Some(NOW),
        expires: at(30),
    };
    let verified = JwtSvid::verify(&svid.mint(&sts).unwrap(), "a", NOW, |_, kid| key_of(kid)).unwrap();
    let subject = SubjectToken::of_jwt_svid(&verified, false);
    assert_eq!(subject.kind, SubjectKind::JwtSvid { subject: id("svc/ads") });
    assert_eq!(subject.possession, Possession::None, "whoever has a copy has it");
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://fleamarket.test/{path}")).unwrap()
}

fn home() -> TrustDomain {
    TrustDomain::parse("fleamarket.test").unwrap()
}

fn scope(words: &str) -> Scope {
    Scope::parse(words).unwrap()
}

fn subject(kind: SubjectKind) -> SubjectToken {
    SubjectToken {
        kind,
        scope: scope("read write"),
        actors: Vec::new(),
        possession: Possession::None,
        may_act: None,
        expires: at(250),
        is_revoked: false,
    }
}

fn request<'a>(client: &'a SpiffeId, wanted: Wanted<'a>) -> ExchangeRequest<'a> {
    ExchangeRequest { client, actor: None, wanted, scope: None }
}

fn judge(subject: &SubjectToken, request: &ExchangeRequest<'_>) -> Result<ExchangeGrant, ExchangeError> {
    exchange(subject, request, Possession::Key, &home(), NOW)
}

fn any_scope() -> impl Strategy<Value = Scope> {
    prop::collection::vec("[abcd]", 1..4).prop_map(|words| scope(&words.join(" ")))
}

proptest! {
    #[test]
    fn whatever_is_granted_is_never_more_than_was_given(
        given in any_scope(), wanted in prop::option::of(any_scope()), lives in -10_i64..10_000,
        actor_lives in prop::option::of(-10_i64..10_000), chain in 0_usize..8, proven: bool
    ) {
        let (ads, media) = (id("svc/ads"), id("svc/media"));
        let token = SubjectToken {
            scope: given.clone(),
            actors: vec![media.clone(); chain],
            possession: if proven { Possession::Key } else { Possession::None },
            expires: at(lives),
            ..subject(SubjectKind::ExchangedToken { audience: ads.clone() })
        };
        let asked = ExchangeRequest {
            scope: wanted.as_ref(),
            actor: actor_lives.map(|lives| (&ads, at(lives))),
            ..request(&ads, Wanted::ExchangedToken(&media))
        };
        if let Ok(grant) = judge(&token, &asked) {
            prop_assert!(grant.scope.is_within(&given));
            prop_assert!(grant.expires <= token.expires && grant.expires > NOW);
            prop_assert!(actor_lives.is_none_or(|lives| grant.expires <= at(lives)));
            let longest: UnixTime = NOW.saturating_add(Duration::from_secs(300));
            prop_assert!(grant.expires <= longest);
            prop_assert!(grant.possession <= token.possession);
            prop_assert_eq!(&grant.actors[..chain], &token.actors[..]);
            prop_assert_eq!(grant.actors.last(), Some(&ads));
            prop_assert!(grant.actors.len() <= ACTORS_MAX);
        }
    }
}
