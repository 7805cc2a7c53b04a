//! Tokens of one hop: one accepting test, then one for each reason to refuse; and inside a service's token.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use common::{NOW, at, forge, header, key, payload, reissue};
use countersign_identity::{CLOCK_SKEW, Possession, SpiffeId, UnixTime, Verified};
use countersign_keys::KeyPair;
use countersign_token::{
    AccessToken, AccessTokenError, ClaimError, Confirmation, ConfirmationError, ExchangedToken,
    ExchangedTokenError, ExpectedToken, JwsError, Scope, ScopeError, ServiceToken, Shown, Signer,
    SubjectToken, TimeError, TokenFacts, TokenKind,
    service_token::{BodyBinding, SeenRequest, UserBinding},
};
use proptest::prelude::*;
use serde_json::{Value, json};

#[test]
fn accepts_a_token_for_us_from_the_workload_that_acts() {
    let key = key();
    let verified = verify(&key, &mint(&key)).unwrap();
    assert_eq!(*verified.get(), token());
    let user = ExchangedToken::user(&verified);
    assert_eq!((user.id.as_str(), user.name.as_str(), user.txn.as_str()), ("u_1", "alice", "txn-1"));
    assert_eq!(user.actors, [id("countersign/gateway/edge"), id("svc/ads")]);
    assert_eq!(user.requested_by, Some(id("svc/ads")));
    assert_eq!((user.possession, user.not_after), (Possession::Key, at(300)));
    let facts = TokenFacts {
        ids: vec!["jti-1".into(), "txn-1".into()],
        subject: "u_1".into(),
        kid: "kid".into(),
        issued_at: NOW,
        expires: at(300),
    };
    assert_eq!(verified.facts("kid"), facts);
}

#[test]
fn the_claims_on_the_wire_are_those_of_rfc_8693_and_rfc_9068() {
    let (iat, exp) = (NOW.secs(), NOW.secs() + 300);
    assert_eq!(
        payload(&mint(&key())),
        json!({
            "iss": STS, "aud": "spiffe://fleamarket.test/svc/media", "sub": "u_1",
            "client_id": "spiffe://fleamarket.test/svc/ads", "iat": iat, "exp": exp, "jti": "jti-1", "txn": "txn-1",
            "name": "alice", "roles": ["buyer"], "scope": "media.read media.write", "user_possession": "key",
            "act": {
                "sub": "spiffe://fleamarket.test/svc/ads",
                "act": { "sub": "spiffe://fleamarket.test/countersign/gateway/edge" },
            },
            "cnf": { "jkt": JKT },
        })
    );
}

#[test]
fn only_the_outermost_actor_may_show_the_token() {
    let key = key();
    let token = mint(&key);
    for presenter in ["svc/chat", "countersign/gateway/edge"] {
        let presenter = id(presenter);
        let found = verify_by(&key, &token, Some(&presenter), JKT);
        assert_eq!(found, Err(ExchangedTokenError::OtherActor { presenter }));
    }
    // Where nobody proved a name there is none to compare; whether that is accepted is the edge's to say.
    assert!(verify_by(&key, &token, None, JKT).is_ok());
}

#[test]
fn rejects_whoever_does_not_hold_the_key_of_the_token() {
    let key = key();
    let ads = id("svc/ads");
    let found = verify_by(&key, &mint(&key), Some(&ads), "another");
    let refused = ExchangedTokenError::Confirmation(ConfirmationError::NotHeld { method: "jkt" });
    assert_eq!(found, Err(refused));
    let certificate = Confirmation::Certificate(JKT.into());
    let bound = ExchangedToken { confirmation: Some(certificate), ..token() }.mint(&key).unwrap();
    let refused = ExchangedTokenError::Confirmation(ConfirmationError::NotHeld { method: "x5t#S256" });
    assert_eq!(verify_by(&key, &bound, Some(&ads), JKT), Err(refused));
}

#[test]
fn whom_alone_a_token_lets_act_is_read_with_its_claims_and_limits_the_exchange() {
    let key = key();
    let limited = ExchangedToken { may_act: Some(id("svc/chat")), ..token() }.mint(&key).unwrap();
    assert_eq!(payload(&limited)["may_act"], json!({ "sub": "spiffe://fleamarket.test/svc/chat" }));
    let subject = SubjectToken::of_exchanged_token(&verify(&key, &limited).unwrap(), false);
    assert_eq!(subject.may_act, Some(vec![id("svc/chat")]));
    let found =
        verify(&key, &changed(&key, |claims| claims["may_act"] = json!("spiffe://fleamarket.test/svc/chat")));
    let wrong = ClaimError::WrongType { name: "may_act", want: "an object" };
    assert_eq!(found, Err(ExchangedTokenError::Claim(wrong)));
}

#[test]
fn rejects_another_issuer_and_another_callee() {
    let key = key();
    for issuer in ["https://evil.test", "https://auth.fleamarket.test/", "https://AUTH.fleamarket.test"] {
        let found = verify(&key, &changed(&key, |claims| claims["iss"] = json!(issuer)));
        assert_eq!(found, Err(ExchangedTokenError::WrongIssuer { got: issuer.into() }));
    }
    let found = verify(&key, &changed(&key, |claims| claims["aud"] = json!(id("svc/chat").as_str())));
    assert_eq!(found, Err(ExchangedTokenError::WrongAudience { got: id("svc/chat") }));
    let found = verify(&key, &changed(&key, |claims| claims["aud"] = json!("https://media.test")));
    assert_eq!(found, Err(ExchangedTokenError::NotAWorkload { aud: "https://media.test".into() }));
    let list = verify(&key, &changed(&key, |claims| claims["aud"] = json!([id("svc/media").as_str()])));
    let wrong = ClaimError::WrongType { name: "aud", want: "a string" };
    assert_eq!(list, Err(ExchangedTokenError::Claim(wrong)));
}

#[test]
fn rejects_a_token_in_which_nobody_acts_or_two_are_named() {
    let key = key();
    let found = verify(&key, &changed(&key, |claims| drop(claims.as_object_mut().unwrap().remove("act"))));
    assert_eq!(found, Err(ExchangedTokenError::Claim(ClaimError::Missing { name: "act" })));
    let found = verify(&key, &changed(&key, |claims| claims["client_id"] = json!(id("svc/chat").as_str())));
    assert_eq!(found, Err(ExchangedTokenError::OtherClient));
    let nobody = ExchangedToken { actors: Vec::new(), ..token() }.mint(&key);
    assert_eq!(nobody, Err(ExchangedTokenError::Claim(ClaimError::Missing { name: "act" })));
}

#[test]
fn rejects_a_key_that_does_not_sign_exchanged_tokens_and_a_signature_that_does_not_fit() {
    let (ours, theirs) = (key(), key());
    let kid = theirs.public_key().thumbprint();
    assert_eq!(verify(&ours, &mint(&theirs)), Err(ExchangedTokenError::UnknownKey { kid }));
    let forged = forge(&theirs, &header(&ours, "at+jwt"), &payload(&mint(&ours)).to_string());
    assert_eq!(verify(&ours, &forged), Err(ExchangedTokenError::Jws(JwsError::BadSignature)));
    for typ in ["JWT", "txntoken+jwt", "countersign-service+jwt", "wit+jwt"] {
        let found = verify(&ours, &reissue(&ours, typ, &mint(&ours), |_| {}));
        assert!(matches!(found, Err(ExchangedTokenError::Jws(JwsError::OtherKind { .. }))), "{typ}");
    }
}

#[test]
fn rejects_a_scope_that_is_none() {
    let key = key();
    let found = verify(&key, &changed(&key, |claims| claims["scope"] = json!("a  b")));
    let refused = ScopeError::NotAWord { word: String::new() };
    assert_eq!(found, Err(ExchangedTokenError::Scope(refused)));
    let empty = verify(&key, &changed(&key, |claims| claims["scope"] = json!(""))).unwrap();
    assert!(empty.scope.is_empty());
}

#[test]
fn rejects_a_token_that_lives_too_long_has_ended_or_has_not_begun() {
    let key = key();
    let judged = |token: &str, now| verify_at(&key, token, now).map(|_| ());
    let good = mint(&key);
    assert_eq!(judged(&good, UnixTime::from_millis(at(300).millis() - 1)), Ok(()));
    assert_eq!(judged(&good, at(300)), Err(TimeError::Expired { by_seconds: 0 }.into()));
    let skew = i64::try_from(CLOCK_SKEW.as_secs()).unwrap();
    assert_eq!(judged(&good, at(-skew)), Ok(()));
    assert_eq!(judged(&good, at(-skew - 1)), Err(TimeError::NotYetValid { in_seconds: 61 }.into()));
    let longer = changed(&key, |claims| claims["exp"] = json!(NOW.secs() + 301));
    assert_eq!(judged(&longer, NOW), Err(TimeError::Lifetime { seconds: 301, max: 300 }.into()));
    let minted = ExchangedToken { expires: at(301), ..token() }.mint(&key);
    assert_eq!(minted, Err(TimeError::Lifetime { seconds: 301, max: 300 }.into()));
}

#[test]
fn rejects_each_claim_that_is_absent_or_of_another_type() {
    let key = key();
    for name in ["iss", "aud", "sub", "client_id", "iat", "exp", "jti", "txn", "name", "roles", "scope"] {
        let token = changed(&key, |claims| drop(claims.as_object_mut().unwrap().remove(name)));
        assert_eq!(verify(&key, &token), Err(ExchangedTokenError::Claim(ClaimError::Missing { name })));
    }
    for name in
        ["iss", "aud", "sub", "client_id", "iat", "exp", "jti", "txn", "name", "roles", "scope", "act", "cnf"]
    {
        for value in [json!(null), json!(true), json!([1]), json!(1.5)] {
            let token = changed(&key, |claims| claims[name] = value.clone());
            let found = verify(&key, &token);
            assert!(matches!(found, Err(ExchangedTokenError::Claim(_))), "{name} = {value}: {found:?}");
        }
    }
}

#[test]
fn a_user_of_whom_nothing_is_said_proved_nothing() {
    let key = key();
    let token = changed(&key, |claims| drop(claims.as_object_mut().unwrap().remove("user_possession")));
    assert_eq!(verify(&key, &token).unwrap().user_possession, Possession::None);
    for value in [json!("Key"), json!(true), json!("certificate"), json!(null)] {
        let token = changed(&key, |claims| claims["user_possession"] = value.clone());
        assert!(matches!(verify(&key, &token), Err(ExchangedTokenError::Claim(_))), "{value}");
    }
}

/// The two kinds of access tokens share a type; nothing else of one passes for the other, even under one key and for one
/// audience.
#[test]
fn a_token_of_one_hop_is_no_token_for_the_edge_and_the_other_way_round() {
    let key = key();
    let key_of = |_: &str| Some(key.public_key().clone());
    let found = AccessToken::verify(&mint(&key), STS, id("svc/media").as_str(), NOW, key_of);
    let act = ClaimError::WrongType { name: "act", want: "absent from a token of a login" };
    assert_eq!(found, Err(AccessTokenError::Claim(act)));
    let login = AccessToken {
        issuer: STS.into(),
        audience: id("svc/media").as_str().to_owned(),
        user_id: "u_1".into(),
        name: "alice".into(),
        roles: Vec::new(),
        client_id: "countersign-cli".into(),
        jti: "jti-1".into(),
        expires: at(600),
        confirmation: None,
    };
    let found = verify(&key, &login.mint(&key, NOW).unwrap());
    assert_eq!(found, Err(ExchangedTokenError::Claim(ClaimError::Missing { name: "act" })));
}

/// The user's token as a claim of the service's own: the outer one by the service's key, the inner one by that of the
/// token service, and the inner one only in the hands of who signed the outer one.
#[test]
fn a_nested_token_is_verified_on_its_own_and_belongs_to_who_signed_around_it() {
    let (sts, ads, chat) = (key(), key(), key());
    let inner = ExchangedToken { confirmation: None, ..token() }.mint(&sts).unwrap();
    let around = |inner: &str, maker: &str, key: &KeyPair| {
        let outer = ServiceToken {
            issuer: id(maker),
            audience: id("svc/media"),
            jti: "abcdefghijklmnopqrstuv".into(),
            method: "GET".into(),
            path_and_query: "/".into(),
            body: BodyBinding::Unbound,
            channel: None,
            user: UserBinding::Nested(inner.to_owned()),
            private: std::collections::BTreeMap::new(),
            issued_at: NOW,
            expires: at(30),
        };
        let media = id("svc/media");
        let seen = SeenRequest {
            callee: &media,
            method: "GET",
            path_and_query: "/",
            channel: None,
            txn_token: None,
            user_token: None,
            required: &[],
        };
        let signer = Signer { key: key.public_key().clone(), owner: id(maker) };
        let outer =
            ServiceToken::verify(&outer.mint(key, None).unwrap(), &seen, NOW, |_| Some(signer)).unwrap();
        let UserBinding::Nested(inner) = &outer.user else { panic!("nested: {outer:?}") };
        let expected = ExpectedToken {
            issuer: STS,
            audience: &media,
            presenter: Some(&outer.issuer),
            shown: Shown::NOTHING,
        };
        ExchangedToken::verify(inner, &expected, NOW, |kid| {
            (kid == sts.public_key().thumbprint()).then(|| sts.public_key().clone())
        })
        .map(|verified| verified.user_id.clone())
    };
    assert_eq!(around(&inner, "svc/ads", &ads), Ok("u_1".into()));
    // Captured from ads, and signed around by chat.
    let presenter = id("svc/chat");
    assert_eq!(around(&inner, "svc/chat", &chat), Err(ExchangedTokenError::OtherActor { presenter }));
    // Made up by ads itself.
    let kid = ads.public_key().thumbprint();
    let made_up = ExchangedToken { confirmation: None, ..token() }.mint(&ads).unwrap();
    assert_eq!(around(&made_up, "svc/ads", &ads), Err(ExchangedTokenError::UnknownKey { kid }));
    // For another callee, and over.
    let foreign =
        ExchangedToken { confirmation: None, audience: id("svc/chat"), ..token() }.mint(&sts).unwrap();
    let got = id("svc/chat");
    assert_eq!(around(&foreign, "svc/ads", &ads), Err(ExchangedTokenError::WrongAudience { got }));
    let old = ExchangedToken { confirmation: None, issued_at: at(-300), expires: NOW, ..token() }
        .mint(&sts)
        .unwrap();
    assert_eq!(around(&old, "svc/ads", &ads), Err(TimeError::Expired { by_seconds: 0 }.into()));
}

const STS: &str = "https://auth.fleamarket.test";
const JKT: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://fleamarket.test/{path}")).unwrap()
}

fn token() -> ExchangedToken {
    ExchangedToken {
        issuer: STS.into(),
        audience: id("svc/media"),
        user_id: "u_1".into(),
        name: "alice".into(),
        roles: vec!["buyer".into()],
        scope: Scope::parse("media.read media.write").unwrap(),
        txn: "txn-1".into(),
        jti: "jti-1".into(),
        actors: vec![id("countersign/gateway/edge"), id("svc/ads")],
        confirmation: Some(Confirmation::Key(JKT.into())),
        user_possession: Possession::Key,
        may_act: None,
        issued_at: NOW,
        expires: at(300),
    }
}

fn mint(key: &KeyPair) -> String {
    token().mint(key).unwrap()
}

fn changed(key: &KeyPair, change: impl FnOnce(&mut Value)) -> String {
    reissue(key, TokenKind::AccessToken.typ(), &mint(key), change)
}

type Verdict = Result<Verified<ExchangedToken>, ExchangedTokenError>;

fn verify(key: &KeyPair, token: &str) -> Verdict {
    verify_at(key, token, NOW)
}

fn verify_at(key: &KeyPair, token: &str, now: UnixTime) -> Verdict {
    judge(key, token, Some(&id("svc/ads")), JKT, now)
}

fn verify_by(key: &KeyPair, token: &str, presenter: Option<&SpiffeId>, held: &str) -> Verdict {
    judge(key, token, presenter, held, NOW)
}

fn judge(key: &KeyPair, token: &str, presenter: Option<&SpiffeId>, held: &str, now: UnixTime) -> Verdict {
    let (audience, keys) = (id("svc/media"), [held.to_owned()]);
    let shown = Shown::Held { keys: &keys, certificates: &[] };
    let expected = ExpectedToken { issuer: STS, audience: &audience, presenter, shown };
    ExchangedToken::verify(token, &expected, now, |kid| {
        (kid == key.public_key().thumbprint()).then(|| key.public_key().clone())
    })
}

proptest! {
    #[test]
    fn whatever_is_signed_as_claims_is_judged_without_a_panic(claims in ".{0,200}") {
        let key = key();
        let token = forge(&key, &header(&key, "at+jwt"), &claims);
        prop_assert!(verify(&key, &token).is_err());
    }

    #[test]
    fn a_chain_of_actors_survives_the_wire(names in prop::collection::vec("[a-z]{1,8}", 1..=6)) {
        let key = key();
        let actors: Vec<SpiffeId> = names.iter().map(|name| id(&format!("svc/{name}"))).collect();
        let minted = ExchangedToken { actors: actors.clone(), ..token() }.mint(&key).unwrap();
        let verified = judge(&key, &minted, actors.last(), JKT, NOW).unwrap();
        prop_assert_eq!(&verified.actors, &actors);
    }
}
