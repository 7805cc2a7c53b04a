//! Service tokens: one accepting test, then one for each reason to refuse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::collections::BTreeMap;

use common::{NOW, at, encode, forge, header, key, payload, reissue};
use countersign_identity::{Binding, Bound, CLOCK_SKEW, SpiffeId, UnixTime, Verified};
use countersign_keys::{KeyPair, SystemRandom, sha256};
use countersign_token::{
    BodyError, ClaimError, JwsError, ServiceToken, ServiceTokenError, Signer, SignerHint, TimeError,
    TokenKind,
    service_token::{BodyBinding, JTI_CHARS_MAX, RequiredClaim, SeenBody, SeenRequest, UserBinding, new_id},
};
use proptest::prelude::*;
use serde_json::{Value, json};

const TXN_TOKEN: &str = "eyJ0eG4.eyJ1.c2ln";
const USER_TOKEN: &str = "eyJhdA.eyJ1.c2ln";
const CHANNEL: [u8; 32] = [7; 32];

#[test]
fn accepts_what_a_service_signed_for_exactly_this_request() {
    for key in common::keys_of_every_algorithm() {
        let verified = verify(&key, &mint(&key, &order()), &seen()).unwrap();
        assert_eq!(*verified.get(), order());
        assert_eq!(verified.binding(), Binding::of(&[Bound::Target, Bound::MethodAndQuery, Bound::Channel]));
        let all = verified.judge_body(SeenBody::Whole(b"{\"ad\":7}")).unwrap();
        assert_eq!(all, verified.binding().and(Bound::Body));
    }
}

#[test]
fn whoever_examines_a_token_without_its_request_learns_who_made_it_for_whom_and_when() {
    let (key, order) = (key(), order());
    let token = mint(&key, &order);
    let examine = |callee: Option<&SpiffeId>, owner: SpiffeId, now| {
        let signer = Signer { key: key.public_key().clone(), owner };
        ServiceToken::examine(&token, callee, now, |_| Some(signer)).map(|(token, _)| token)
    };
    assert_eq!(examine(None, ads(), NOW), Ok(order.clone()));
    assert_eq!(examine(Some(&media()), ads(), NOW), Ok(order));
    let facts = examine(None, ads(), NOW).unwrap().facts("kid");
    assert_eq!((facts.subject.as_str(), facts.kid.as_str()), (ads().as_str(), "kid"));
    let wrong = ServiceTokenError::WrongAudience { got: media() };
    assert_eq!(examine(Some(&ads()), ads(), NOW), Err(wrong));
    let wrong = ServiceTokenError::NotOwner { issuer: ads(), owner: media() };
    assert_eq!(examine(None, media(), NOW), Err(wrong));
    let late = NOW.saturating_add(std::time::Duration::from_secs(30));
    let wrong = ServiceTokenError::Times(TimeError::Expired { by_seconds: 0 });
    assert_eq!(examine(None, ads(), late), Err(wrong));
    let nobody = ServiceToken::examine(&token, None, NOW, |_| None).unwrap_err();
    assert_eq!(nobody, ServiceTokenError::UnknownKey { kid: key.public_key().thumbprint() });
}

#[test]
fn the_claims_on_the_wire_are_those_that_every_callee_knows() {
    let token = mint(&key(), &order());
    let (iat, exp) = (NOW.secs(), NOW.secs() + 30);
    assert_eq!(
        payload(&token),
        json!({
            "iss": "spiffe://fleamarket.test/svc/ads", "aud": "spiffe://fleamarket.test/svc/media",
            "jti": "abcdefghijklmnopqrstuv", "iat": iat, "nbf": iat, "exp": exp,
            "htm": "POST", "htp": "/orders?draft=1", "bdy": encode(sha256(b"{\"ad\":7}")),
            "cbx": encode(CHANNEL), "tth": encode(sha256(TXN_TOKEN.as_bytes())), "tenant": "t1",
        })
    );
    let header: Value = serde_json::from_slice(
        &base64::Engine::decode(
            &base64::engine::general_purpose::URL_SAFE_NO_PAD,
            token.split('.').next().unwrap(),
        )
        .unwrap(),
    )
    .unwrap();
    assert_eq!(header["typ"], "countersign-service+jwt");
    assert_eq!(header.as_object().unwrap().len(), 3, "alg, kid, typ: {header}");
}

#[test]
fn a_signer_is_looked_for_by_name_key_and_certificate() {
    let key = key();
    let token = order().mint(&key, Some(&[9; 32])).unwrap();
    let look_up = |hint: SignerHint<'_>| {
        assert_eq!((hint.issuer, hint.certificate_sha256), (&ads(), Some(&[9; 32])));
        assert_eq!(hint.kid, key.public_key().thumbprint());
        Some(Signer { key: key.public_key().clone(), owner: ads() })
    };
    assert!(ServiceToken::verify(&token, &seen(), NOW, look_up).is_ok());
}

#[test]
fn rejects_a_token_whose_issuer_is_not_the_owner_of_the_key() {
    // D2, the thesis's Algorithm 5.1: B holds a good certificate and presents a token in the name of A.
    let key = key();
    let token = mint(&key, &order());
    let other = SpiffeId::parse("spiffe://fleamarket.test/svc/chat").unwrap();
    let found = ServiceToken::verify(&token, &seen(), NOW, |_| {
        Some(Signer { key: key.public_key().clone(), owner: other.clone() })
    });
    assert_eq!(found, Err(ServiceTokenError::NotOwner { issuer: ads(), owner: other }));
}

#[test]
fn rejects_a_key_that_nobody_certified_or_registered() {
    let key = key();
    let found = ServiceToken::verify(&mint(&key, &order()), &seen(), NOW, |_| None);
    assert_eq!(found, Err(ServiceTokenError::UnknownKey { kid: key.public_key().thumbprint() }));
}

#[test]
fn rejects_a_signature_that_does_not_fit() {
    let (ours, theirs) = (key(), key());
    let claims = payload(&mint(&ours, &order())).to_string();
    let token = forge(&theirs, &header(&ours, TokenKind::Service.typ()), &claims);
    assert_eq!(verify(&ours, &token, &seen()), Err(ServiceTokenError::Jws(JwsError::BadSignature)));
}

#[test]
fn rejects_a_token_of_another_kind() {
    let key = key();
    for typ in ["JWT", "at+jwt", "txntoken+jwt", "client-authentication+jwt", "wpt+jwt", "dpop+jwt"] {
        let token = reissue(&key, typ, &mint(&key, &order()), |_| {});
        let found = verify(&key, &token, &seen());
        assert!(matches!(found, Err(ServiceTokenError::Jws(JwsError::OtherKind { .. }))), "{typ}: {found:?}");
    }
}

#[test]
fn rejects_a_token_for_another_callee() {
    let key = key();
    let chat = SpiffeId::parse("spiffe://fleamarket.test/svc/chat").unwrap();
    let found = verify(&key, &mint(&key, &order()), &SeenRequest { callee: &chat, ..seen() });
    assert_eq!(found, Err(ServiceTokenError::WrongAudience { got: media() }));
}

#[test]
fn rejects_several_callees_even_if_we_are_among_them() {
    let key = key();
    let token = changed(&key, |claims| claims["aud"] = json!([media().as_str()]));
    let wrong = ClaimError::WrongType { name: "aud", want: "a string" };
    assert_eq!(verify(&key, &token, &seen()), Err(ServiceTokenError::Claim(wrong)));
}

#[test]
fn rejects_another_method() {
    let key = key();
    for method in ["PUT", "post", "GET"] {
        let found = verify(&key, &mint(&key, &order()), &SeenRequest { method, ..seen() });
        assert_eq!(found, Err(ServiceTokenError::OtherMethod { got: "POST".into() }));
    }
}

#[test]
fn rejects_another_path_or_another_query() {
    let key = key();
    for path_and_query in
        ["/orders", "/orders?draft=2", "/orders?draft=1&x", "/Orders?draft=1", "/orders/?draft=1"]
    {
        let found = verify(&key, &mint(&key, &order()), &SeenRequest { path_and_query, ..seen() });
        assert_eq!(found, Err(ServiceTokenError::OtherPath), "{path_and_query}");
    }
}

#[test]
fn rejects_another_connection_and_one_that_is_not_known() {
    let key = key();
    let other = [8; 32];
    for channel in [Some(&other), None] {
        let found = verify(&key, &mint(&key, &order()), &SeenRequest { channel, ..seen() });
        assert_eq!(found, Err(ServiceTokenError::OtherConnection));
    }
    // Through a foreign proxy it says nothing of a connection, and is bound to none.
    let unbound = ServiceToken { channel: None, ..order() };
    let verified = verify(&key, &mint(&key, &unbound), &seen()).unwrap();
    assert!(!verified.binding().contains(Bound::Channel));
}

#[test]
fn rejects_a_body_that_was_changed_or_cannot_be_judged() {
    let key = key();
    let verified = verify(&key, &mint(&key, &order()), &seen()).unwrap();
    for body in [&b"{\"ad\":8}"[..], b"", b"{\"ad\":7} "] {
        assert_eq!(verified.judge_body(SeenBody::Whole(body)), Err(BodyError::Changed));
    }
    assert_eq!(verified.judge_body(SeenBody::Streamed), Err(BodyError::CannotBeJudged));
}

#[test]
fn a_body_that_nothing_is_said_about_is_unbound_and_the_evidence_says_so() {
    let key = key();
    let unbound = ServiceToken { body: BodyBinding::Unbound, ..order() };
    let verified = verify(&key, &mint(&key, &unbound), &seen()).unwrap();
    for body in [SeenBody::Streamed, SeenBody::Whole(b"anything")] {
        assert!(!verified.judge_body(body).unwrap().contains(Bound::Body));
    }
    // Saying nothing at all is not saying "unbound".
    let token = changed(&key, |claims| drop(claims.as_object_mut().unwrap().remove("bdy")));
    let missing = ServiceTokenError::Claim(ClaimError::Missing { name: "bdy" });
    assert_eq!(verify(&key, &token, &seen()), Err(missing));
}

#[test]
fn what_is_printed_of_a_service_token_holds_no_token_of_its_user() {
    let nested = with(UserBinding::Nested(USER_TOKEN.into()));
    let printed = format!("{nested:?}");
    assert!(printed.contains("Nested(..)") && !printed.contains(USER_TOKEN), "{printed}");
}

#[test]
fn rejects_another_user_token_than_the_one_that_was_signed() {
    let key = key();
    let with_txn = mint(&key, &order());
    let with_user = mint(&key, &with(UserBinding::UserToken(sha256(USER_TOKEN.as_bytes()))));
    let with_none = mint(&key, &with(UserBinding::None));
    let nested = mint(&key, &with(UserBinding::Nested(USER_TOKEN.into())));
    let judged = |token: &str, txn_token, user_token| {
        verify(&key, token, &SeenRequest { txn_token, user_token, ..seen() }).map(|_| ())
    };
    assert_eq!(judged(&with_user, None, Some(USER_TOKEN)), Ok(()));
    assert_eq!(judged(&with_none, None, None), Ok(()));
    assert_eq!(judged(&nested, None, None), Ok(()));
    let other = Err(ServiceTokenError::OtherUserToken);
    // Swapped for another user's, moved to the other header, or added by somebody on the way.
    assert_eq!(judged(&with_txn, Some("eyJ0eG4.eyJ2.c2ln"), None), other);
    assert_eq!(judged(&with_user, None, Some(TXN_TOKEN)), other);
    assert_eq!(judged(&with_user, Some(USER_TOKEN), None), other);
    assert_eq!(judged(&with_txn, Some(TXN_TOKEN), Some(USER_TOKEN)), other);
    for token in [&with_none, &nested] {
        assert_eq!(judged(token, Some(TXN_TOKEN), None), other);
        assert_eq!(judged(token, None, Some(USER_TOKEN)), other);
    }
    let gone = Err(ServiceTokenError::UserTokenGone);
    assert_eq!(judged(&with_txn, None, None), gone);
    assert_eq!(judged(&with_user, None, None), gone);
}

#[test]
fn rejects_a_token_that_names_several_users() {
    let key = key();
    let token = changed(&key, |claims| claims["user_token"] = json!(USER_TOKEN));
    assert_eq!(verify(&key, &token, &seen()), Err(ServiceTokenError::SeveralUsers));
    let token = changed(&key, |claims| claims["uth"] = claims["tth"].clone());
    assert_eq!(verify(&key, &token, &seen()), Err(ServiceTokenError::SeveralUsers));
}

#[test]
fn rejects_a_token_without_the_claims_that_are_demanded_here() {
    let key = key();
    let judged = |demands: &[(&str, Option<&str>)]| {
        let demands: Vec<RequiredClaim> =
            demands.iter().map(|(name, value)| RequiredClaim::new(name, *value).unwrap()).collect();
        let required: Vec<&RequiredClaim> = demands.iter().collect();
        verify(&key, &mint(&key, &order()), &SeenRequest { required: &required, ..seen() }).map(|_| ())
    };
    assert_eq!(judged(&[("tenant", Some("t1"))]), Ok(()));
    assert_eq!(judged(&[("tenant", None)]), Ok(()));
    let other = ServiceTokenError::OtherValue { name: "tenant".into() };
    assert_eq!(judged(&[("tenant", Some("t2"))]), Err(other));
    let demanded = ServiceTokenError::Demanded { name: "region".into() };
    assert_eq!(judged(&[("tenant", None), ("region", None)]), Err(demanded));
}

#[test]
fn rejects_private_claims_with_registered_names_or_other_types() {
    let key = key();
    for name in ["iss", "aud", "tth", "user_token", "cbx", "sub"] {
        let token = ServiceToken { private: BTreeMap::from([(name.into(), "x".into())]), ..order() };
        let registered = ServiceTokenError::RegisteredName { name: name.into() };
        assert_eq!(token.mint(&key, None), Err(registered.clone()));
        assert_eq!(RequiredClaim::new(name, None), Err(registered), "nobody could fulfil it");
    }
    for value in [json!(1), json!(null), json!({ "a": 1 }), json!(["t1"])] {
        let token = changed(&key, |claims| claims["tenant"] = value);
        assert_eq!(verify(&key, &token, &seen()), Err(ServiceTokenError::NotText { name: "tenant".into() }));
    }
}

#[test]
fn rejects_a_token_that_lives_too_long_has_ended_or_has_not_begun() {
    let key = key();
    let judged = |token: &str, now| verify_at(&key, token, &seen(), now).map(|_| ());
    let token = mint(&key, &order());
    assert_eq!(judged(&token, UnixTime::from_millis(at(30).millis() - 1)), Ok(()));
    let expired = ServiceTokenError::Times(TimeError::Expired { by_seconds: 0 });
    assert_eq!(judged(&token, at(30)), Err(expired));
    let skew = i64::try_from(CLOCK_SKEW.as_secs()).unwrap();
    assert_eq!(judged(&token, at(-skew)), Ok(()));
    let early = ServiceTokenError::Times(TimeError::NotYetValid { in_seconds: CLOCK_SKEW.as_secs() + 1 });
    assert_eq!(judged(&token, at(-skew - 1)), Err(early));
    let lifetime = |seconds| ServiceTokenError::Times(TimeError::Lifetime { seconds, max: 60 });
    let longest = changed(&key, |claims| claims["exp"] = json!(NOW.secs() + 60));
    assert_eq!(judged(&longest, NOW), Ok(()));
    let longer = changed(&key, |claims| claims["exp"] = json!(NOW.secs() + 61));
    assert_eq!(judged(&longer, NOW), Err(lifetime(61)));
    assert_eq!(ServiceToken { expires: at(61), ..order() }.mint(&key, None), Err(lifetime(61)));
    assert_eq!(ServiceToken { expires: NOW, ..order() }.mint(&key, None), Err(lifetime(0)));
}

#[test]
fn rejects_an_nbf_that_is_not_the_time_of_issue() {
    let key = key();
    let token = changed(&key, |claims| claims["nbf"] = json!(NOW.secs() - 100));
    let wrong = ClaimError::WrongType { name: "nbf", want: "the time in iat" };
    assert_eq!(verify(&key, &token, &seen()), Err(ServiceTokenError::Claim(wrong)));
}

#[test]
fn rejects_an_id_that_could_be_guessed_or_not_be_remembered() {
    let key = key();
    for jti in ["1".to_owned(), "a".repeat(15), "a".repeat(JTI_CHARS_MAX + 1)] {
        let chars = jti.len();
        let token = changed(&key, |claims| claims["jti"] = json!(jti));
        assert_eq!(verify(&key, &token, &seen()), Err(ServiceTokenError::IdLength { chars }));
        let minted = ServiceToken { jti, ..order() }.mint(&key, None);
        assert_eq!(minted, Err(ServiceTokenError::IdLength { chars }));
    }
    let (one, two) = (new_id(&SystemRandom::new()).unwrap(), new_id(&SystemRandom::new()).unwrap());
    assert!(one != two && one.len() == 22, "128 bits in base64url");
}

#[test]
fn rejects_names_that_are_no_spiffe_ids() {
    let key = key();
    for name in ["iss", "aud"] {
        for value in ["ads", "https://fleamarket.test/svc/ads", "spiffe://fleamarket.test/svc/../ads"] {
            let token = changed(&key, |claims| claims[name] = json!(value));
            let found = verify(&key, &token, &seen());
            assert_eq!(found, Err(ServiceTokenError::NotAnId { name, got: value.into() }));
        }
    }
}

#[test]
fn rejects_each_claim_that_is_absent_or_of_another_type() {
    let key = key();
    for name in ["iss", "aud", "jti", "iat", "nbf", "exp", "htm", "htp", "bdy"] {
        let token = changed(&key, |claims| drop(claims.as_object_mut().unwrap().remove(name)));
        assert_eq!(
            verify(&key, &token, &seen()),
            Err(ServiceTokenError::Claim(ClaimError::Missing { name }))
        );
    }
    // CVE-2026-25537: of the wrong type is not absent, also where absent would do.
    for name in ["iss", "aud", "jti", "iat", "nbf", "exp", "htm", "htp", "bdy", "cbx", "tth"] {
        for value in [json!(null), json!(true), json!([]), json!("1800000000"), json!(1.5)] {
            let token = changed(&key, |claims| claims[name] = value.clone());
            let found = verify(&key, &token, &seen());
            assert!(found.is_err(), "{name} = {value}");
        }
    }
}

fn ads() -> SpiffeId {
    SpiffeId::parse("spiffe://fleamarket.test/svc/ads").unwrap()
}

fn media() -> SpiffeId {
    SpiffeId::parse("spiffe://fleamarket.test/svc/media").unwrap()
}

fn order() -> ServiceToken {
    ServiceToken {
        issuer: ads(),
        audience: media(),
        jti: "abcdefghijklmnopqrstuv".into(),
        method: "POST".into(),
        path_and_query: "/orders?draft=1".into(),
        body: BodyBinding::Sha256(sha256(b"{\"ad\":7}")),
        channel: Some(CHANNEL),
        user: UserBinding::TxnToken(sha256(TXN_TOKEN.as_bytes())),
        private: BTreeMap::from([("tenant".into(), "t1".into())]),
        issued_at: NOW,
        expires: at(30),
    }
}

fn with(user: UserBinding) -> ServiceToken {
    ServiceToken { user, ..order() }
}

fn seen() -> SeenRequest<'static> {
    static CALLEE: std::sync::LazyLock<SpiffeId> = std::sync::LazyLock::new(media);
    SeenRequest {
        callee: &CALLEE,
        method: "POST",
        path_and_query: "/orders?draft=1",
        channel: Some(&CHANNEL),
        txn_token: Some(TXN_TOKEN),
        user_token: None,
        required: &[],
    }
}

fn mint(key: &KeyPair, token: &ServiceToken) -> String {
    token.mint(key, None).unwrap()
}

fn changed(key: &KeyPair, change: impl FnOnce(&mut Value)) -> String {
    reissue(key, TokenKind::Service.typ(), &mint(key, &order()), change)
}

fn verify(
    key: &KeyPair,
    token: &str,
    seen: &SeenRequest<'_>,
) -> Result<Verified<ServiceToken>, ServiceTokenError> {
    // What a request says of its user is the token's own business, except where a test is about it.
    verify_at(key, token, seen, NOW)
}

fn verify_at(
    key: &KeyPair,
    token: &str,
    seen: &SeenRequest<'_>,
    now: UnixTime,
) -> Result<Verified<ServiceToken>, ServiceTokenError> {
    let public = key.public_key();
    ServiceToken::verify(token, seen, now, |hint| {
        (hint.kid == public.thumbprint()).then(|| Signer { key: public.clone(), owner: ads() })
    })
}

proptest! {
    #[test]
    fn whatever_is_signed_as_claims_is_judged_without_a_panic(claims in ".{0,200}") {
        let key = key();
        let token = forge(&key, &header(&key, TokenKind::Service.typ()), &claims);
        prop_assert!(verify(&key, &token, &seen()).is_err());
    }

    #[test]
    fn a_claim_changed_to_any_text_is_refused_or_was_the_same(
        name in prop::sample::select(vec!["iss", "aud", "jti", "htm", "htp", "bdy", "cbx", "tth"]), value in ".{0,60}"
    ) {
        let key = key();
        let before = mint(&key, &order());
        let token = changed(&key, |claims| claims[name] = json!(value));
        // The id is nobody's but the replay cache's to judge; and a body may be unbound.
        let free = (name == "jti" && (16..=64).contains(&value.len())) || (name == "bdy" && value == "unbound");
        prop_assume!(payload(&before) != payload(&token) && !free);
        prop_assert!(verify(&key, &token, &seen()).is_err(), "{} = {:?}", name, value);
    }
}
