//! Access tokens (RFC 9068): one accepting test, then one for each reason to refuse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::time::Duration;

use common::{NOW, at, forge, header, key, payload, reissue};
use countersign_identity::{CLOCK_SKEW, Possession, UnixTime, User, Verified};
use countersign_keys::KeyPair;
use countersign_token::{
    AccessToken, AccessTokenError, CLAIM_VALUES_MAX, ClaimError, Confirmation, ConfirmationError, JwsError,
    Shown,
    access_token::{ACCESS_TOKEN_LIFETIME_MAX, ACCESS_TOKEN_TYP},
    revoked::TokenFacts,
};
use proptest::prelude::*;
use serde_json::{Value, json};

#[test]
fn accepts_a_token_of_our_issuer_for_our_gateway() {
    let key = key();
    let user = verify(&key, &mint(&key)).unwrap();
    let expected = User {
        id: "u_1".into(),
        name: "alice".into(),
        roles: vec!["buyer".into()],
        txn: "jti-1".into(),
        requested_by: None,
        actors: Vec::new(),
        possession: Possession::None,
        not_after: at(600),
    };
    assert_eq!(*user.get(), expected);
}

#[test]
fn the_claims_on_the_wire_are_those_of_rfc_9068() {
    let claims = payload(&mint(&key()));
    let expected = json!({
        "iss": ISSUER, "aud": GATEWAY, "sub": "u_1", "client_id": "countersign-cli", "iat": NOW.secs(),
        "exp": NOW.secs() + 600, "jti": "jti-1", "name": "alice", "roles": ["buyer"],
    });
    assert_eq!(claims, expected);
}

#[test]
fn accepts_our_audience_among_others() {
    let key = key();
    let token = changed(&key, |claims| claims["aud"] = json!(["https://other.test", GATEWAY]));
    assert!(verify(&key, &token).is_ok());
}

#[test]
fn accepts_claims_that_a_newer_authority_adds() {
    let key = key();
    let token = changed(&key, |claims| claims["acr"] = json!({ "level": 2 }));
    assert!(verify(&key, &token).is_ok());
}

#[test]
fn rejects_a_token_of_another_kind() {
    let key = key();
    for typ in ["txntoken+jwt", "JWT", "jwt", "wit+jwt", "at+jwt+x", "dpop+jwt"] {
        let token = reissue(&key, typ, &mint(&key), |_| {});
        assert_eq!(verify(&key, &token), Err(AccessTokenError::WrongKind { typ: typ.to_lowercase() }));
    }
}

#[test]
fn rejects_a_token_with_actors_which_is_an_exchanged_one() {
    let key = key();
    for act in [json!({ "sub": "spiffe://fleamarket.test/svc/ads" }), json!(null)] {
        let token = changed(&key, |claims| claims["act"] = act);
        let wrong = ClaimError::WrongType { name: "act", want: "absent from a token of a login" };
        assert_eq!(verify(&key, &token), Err(AccessTokenError::Claim(wrong)));
    }
}

#[test]
fn rejects_a_key_that_does_not_sign_access_tokens() {
    let (ours, theirs) = (key(), key());
    let kid = theirs.public_key().thumbprint();
    assert_eq!(verify(&ours, &mint(&theirs)), Err(AccessTokenError::UnknownKey { kid }));
}

#[test]
fn rejects_a_signature_that_does_not_fit() {
    let (ours, theirs) = (key(), key());
    let token = forge(&theirs, &header(&ours, ACCESS_TOKEN_TYP), &payload(&mint(&ours)).to_string());
    assert_eq!(verify(&ours, &token), Err(AccessTokenError::Jws(JwsError::BadSignature)));
}

#[test]
fn rejects_another_issuer_even_if_it_differs_by_a_slash() {
    let key = key();
    for issuer in ["https://evil.test", "https://localhost:8443/", "HTTPS://localhost:8443"] {
        let token = changed(&key, |claims| claims["iss"] = json!(issuer));
        assert_eq!(verify(&key, &token), Err(AccessTokenError::WrongIssuer { got: issuer.into() }));
    }
}

#[test]
fn rejects_another_audience() {
    let key = key();
    for audience in [json!("https://other.test"), json!(["https://other.test", "countersign-gateway/"])] {
        let token = changed(&key, |claims| claims["aud"] = audience);
        assert!(matches!(verify(&key, &token), Err(AccessTokenError::WrongAudience { .. })));
    }
}

#[test]
fn rejects_an_empty_list_of_audiences() {
    let key = key();
    let token = changed(&key, |claims| claims["aud"] = json!([]));
    assert_eq!(verify(&key, &token), Err(AccessTokenError::Claim(ClaimError::Empty { name: "aud" })));
}

#[test]
fn rejects_a_token_from_the_moment_at_which_it_expires() {
    let key = key();
    let token = mint(&key);
    assert!(verify_at(&key, &token, UnixTime::from_millis(at(600).millis() - 1)).is_ok());
    assert_eq!(verify_at(&key, &token, at(600)), Err(AccessTokenError::Expired { by_seconds: 0 }));
    assert_eq!(verify_at(&key, &token, at(603)), Err(AccessTokenError::Expired { by_seconds: 3 }));
}

#[test]
fn rejects_a_token_from_the_future_beyond_the_clock_skew() {
    let key = key();
    let skew = i64::try_from(CLOCK_SKEW.as_secs()).unwrap();
    let token = mint(&key);
    assert!(verify_at(&key, &token, at(-skew)).is_ok());
    let found = verify_at(&key, &token, at(-skew - 1));
    assert_eq!(found, Err(AccessTokenError::NotYetValid { in_seconds: CLOCK_SKEW.as_secs() + 1 }));
}

#[test]
fn rejects_a_life_that_is_longer_than_allowed_whoever_signed_it() {
    let key = key();
    let longest = i64::try_from(ACCESS_TOKEN_LIFETIME_MAX.as_secs()).unwrap();
    let token = changed(&key, |claims| claims["exp"] = json!(NOW.secs() + longest));
    assert!(verify(&key, &token).is_ok());
    let token = changed(&key, |claims| claims["exp"] = json!(NOW.secs() + longest + 1));
    assert_eq!(verify(&key, &token), Err(AccessTokenError::Lifetime { seconds: 3601 }));
    let token = changed(&key, |claims| claims["exp"] = json!(NOW.secs()));
    assert_eq!(verify(&key, &token), Err(AccessTokenError::Lifetime { seconds: 0 }));
}

#[test]
fn never_mints_what_it_would_not_accept() {
    let key = key();
    let long = AccessToken {
        expires: NOW.saturating_add(ACCESS_TOKEN_LIFETIME_MAX + Duration::from_secs(1)),
        ..alice()
    };
    assert!(matches!(long.mint(&key, NOW), Err(AccessTokenError::Lifetime { seconds: 3601 })));
    let dead = AccessToken { expires: NOW, ..alice() };
    assert!(matches!(dead.mint(&key, NOW), Err(AccessTokenError::Lifetime { seconds: 0 })));
    let nameless = AccessToken { user_id: String::new(), ..alice() };
    assert_eq!(nameless.mint(&key, NOW), Err(AccessTokenError::Claim(ClaimError::Empty { name: "sub" })));
    let unaddressed = AccessToken { audience: String::new(), ..alice() };
    assert_eq!(unaddressed.mint(&key, NOW), Err(AccessTokenError::Claim(ClaimError::Empty { name: "aud" })));
}

#[test]
fn rejects_each_absent_claim_by_its_name() {
    let key = key();
    for name in CLAIMS {
        let token = changed(&key, |claims| drop(claims.as_object_mut().unwrap().remove(name)));
        assert_eq!(verify(&key, &token), Err(AccessTokenError::Claim(ClaimError::Missing { name })));
    }
}

#[test]
fn rejects_each_claim_of_the_wrong_type_and_never_takes_it_for_absent() {
    let key = key();
    for name in CLAIMS {
        for wrong in [json!(null), json!(true), json!({}), json!([1]), json!(1.5)] {
            let token = changed(&key, |claims| claims[name] = wrong.clone());
            let found = verify(&key, &token);
            let named = matches!(found, Err(AccessTokenError::Claim(ClaimError::WrongType { name: n, .. })) if n == name);
            assert!(named, "{name} = {wrong}: {found:?}");
        }
    }
}

#[test]
fn rejects_times_that_are_not_plain_whole_seconds() {
    let key = key();
    for name in ["exp", "iat"] {
        for wrong in [
            json!("1800000600"),
            json!(-1),
            json!(1_800_000_600.0),
            json!(u64::MAX),
            json!(253_402_300_800_i64),
        ] {
            let token = changed(&key, |claims| claims[name] = wrong.clone());
            let want = "a time in whole seconds";
            let expected = AccessTokenError::Claim(ClaimError::WrongType { name, want });
            assert_eq!(verify(&key, &token), Err(expected), "{name} = {wrong}");
        }
    }
}

#[test]
fn rejects_claims_that_are_said_twice_at_any_depth() {
    let key = key();
    let claims = payload(&mint(&key)).to_string();
    let doubled = [
        claims.replacen('{', r#"{"sub":"u_2","#, 1),
        claims.replacen('{', r#"{"exp":1,"#, 1),
        claims.replacen('{', r#"{"unknown":{"a":1,"a":1},"#, 1),
    ];
    for claims in doubled {
        let found = verify(&key, &forge(&key, &header(&key, ACCESS_TOKEN_TYP), &claims));
        assert!(matches!(found, Err(AccessTokenError::Claim(ClaimError::Duplicate { .. }))), "{found:?}");
    }
}

#[test]
fn accepts_as_many_roles_as_allowed_and_rejects_one_more() {
    let key = key();
    let roles = |count: usize| vec!["r"; count];
    let token = changed(&key, |claims| claims["roles"] = json!(roles(CLAIM_VALUES_MAX)));
    assert_eq!(verify(&key, &token).unwrap().roles.len(), CLAIM_VALUES_MAX);
    let token = changed(&key, |claims| claims["roles"] = json!(roles(CLAIM_VALUES_MAX + 1)));
    let too_many = ClaimError::TooMany { name: "roles", values: CLAIM_VALUES_MAX + 1 };
    assert_eq!(verify(&key, &token), Err(AccessTokenError::Claim(too_many)));
}

#[test]
fn rejects_claims_that_are_no_object_or_nested_too_deep() {
    let key = key();
    let cases = [
        ("", ClaimError::NotJson),
        ("\u{0}", ClaimError::NotJson),
        ("[]", ClaimError::NotAnObject),
        (r#"{"a":[[[[[[[[1]]]]]]]]}"#, ClaimError::TooDeep),
    ];
    for (claims, expected) in cases {
        let found = verify(&key, &forge(&key, &header(&key, ACCESS_TOKEN_TYP), claims));
        assert_eq!(found, Err(AccessTokenError::Claim(expected)), "{claims}");
    }
}

proptest! {
    #[test]
    fn whatever_is_signed_as_claims_is_judged_without_a_panic(claims in ".{0,200}") {
        let key = key();
        prop_assert!(verify(&key, &forge(&key, &header(&key, ACCESS_TOKEN_TYP), &claims)).is_err());
    }

    #[test]
    fn a_token_is_accepted_exactly_within_its_life(seconds in -200_i64..900) {
        let key = key();
        let accepted = verify_at(&key, &mint(&key), at(seconds)).is_ok();
        prop_assert_eq!(accepted, (-60..600).contains(&seconds));
    }
}

const ISSUER: &str = "https://localhost:8443";
const GATEWAY: &str = "countersign-gateway";
const CLAIMS: [&str; 9] = ["iss", "aud", "sub", "client_id", "iat", "exp", "jti", "name", "roles"];

fn alice() -> AccessToken {
    AccessToken {
        issuer: ISSUER.into(),
        audience: GATEWAY.into(),
        user_id: "u_1".into(),
        name: "alice".into(),
        roles: vec!["buyer".into()],
        client_id: "countersign-cli".into(),
        jti: "jti-1".into(),
        expires: at(600),
        confirmation: None,
    }
}

fn mint(key: &KeyPair) -> String {
    alice().mint(key, NOW).unwrap()
}

fn changed(key: &KeyPair, change: impl FnOnce(&mut Value)) -> String {
    reissue(key, ACCESS_TOKEN_TYP, &mint(key), change)
}

fn verify(key: &KeyPair, token: &str) -> Result<Verified<User>, AccessTokenError> {
    verify_at(key, token, NOW)
}

fn verify_at(key: &KeyPair, token: &str, now: UnixTime) -> Result<Verified<User>, AccessTokenError> {
    let public = key.public_key();
    AccessToken::verify(token, ISSUER, GATEWAY, now, |kid| {
        (kid == public.thumbprint()).then(|| public.clone())
    })
}

fn in_hands(confirmation: Option<Confirmation>, shown: Shown<'_>) -> Result<Possession, AccessTokenError> {
    let key = key();
    let token = AccessToken { confirmation, ..alice() }.mint(&key, NOW).unwrap();
    let key_of = |_: &str| Some(key.public_key().clone());
    let grant = AccessToken::verify_shown(&token, shown, ISSUER, GATEWAY, NOW, key_of)?;
    let facts = TokenFacts {
        ids: vec!["jti-1".into()],
        subject: "u_1".into(),
        kid: key.public_key().thumbprint(),
        issued_at: NOW,
        expires: at(600),
    };
    assert_eq!(grant.facts, facts);
    Ok(grant.user.possession)
}

#[test]
fn accepts_a_bound_token_in_the_right_hands_and_says_that_a_key_was_proven() {
    let held = [key().public_key().thumbprint()];
    let by_key = Shown::Held { keys: &held, certificates: &[] };
    let by_certificate = Shown::Held { keys: &[], certificates: &held };
    assert_eq!(in_hands(Some(Confirmation::Key(held[0].clone())), by_key), Ok(Possession::Key));
    assert_eq!(
        in_hands(Some(Confirmation::Certificate(held[0].clone())), by_certificate),
        Ok(Possession::Key)
    );
    assert_eq!(in_hands(None, by_certificate), Ok(Possession::None), "everybody may show a certificate");
}

#[test]
fn rejects_a_bound_token_in_any_other_hands() {
    let (mine, others) = (key().public_key().thumbprint(), [key().public_key().thumbprint()]);
    for (bound, method) in
        [(Confirmation::Key(mine.clone()), "jkt"), (Confirmation::Certificate(mine), "x5t#S256")]
    {
        let refused = Err(AccessTokenError::Confirmation(ConfirmationError::NotHeld { method }));
        assert_eq!(in_hands(Some(bound.clone()), Shown::NOTHING), refused);
        assert_eq!(in_hands(Some(bound), Shown::Held { keys: &others, certificates: &others }), refused);
    }
}

#[test]
fn rejects_a_condition_that_is_not_understood() {
    let key = key();
    let minted = alice().mint(&key, NOW).unwrap();
    let token = reissue(&key, "at+jwt", &minted, |claims| claims["cnf"] = json!({ "kid": "1" }));
    assert!(matches!(verify(&key, &token), Err(AccessTokenError::Claim(_))));
}
