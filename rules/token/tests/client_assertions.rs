//! Client assertions: one accepting test, then one for each reason to refuse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use common::{NOW, at, forge, header, key, payload, reissue};
use countersign_identity::{CLOCK_SKEW, SpiffeId, UnixTime, Verified};
use countersign_keys::KeyPair;
use countersign_token::{
    ClaimError, ClientAssertion, ClientAssertionError, JwsError, Signer, TimeError, TokenKind,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const ISSUER: &str = "https://auth.fleamarket.test";

#[test]
fn accepts_a_client_that_speaks_for_itself_to_us_alone() {
    for key in common::keys_of_every_algorithm() {
        let verified = verify(&key, &mint(&key)).unwrap();
        assert_eq!(*verified.get(), assertion());
    }
    let id = "spiffe://fleamarket.test/svc/ads";
    let (iat, exp) = (NOW.secs(), NOW.secs() + 60);
    let jti = "abcdefghijklmnopqrstuv";
    let expected = json!({ "iss": id, "sub": id, "aud": ISSUER, "jti": jti, "iat": iat, "exp": exp });
    assert_eq!(payload(&mint(&key())), expected);
}

#[test]
fn rejects_a_client_that_does_not_own_the_key() {
    let key = key();
    let owner = SpiffeId::parse("spiffe://fleamarket.test/svc/chat").unwrap();
    let signer = Signer { key: key.public_key().clone(), owner: owner.clone() };
    let found = ClientAssertion::verify(&mint(&key), ISSUER, NOW, |_| Some(signer));
    assert_eq!(found, Err(ClientAssertionError::NotOwner { client: assertion().client, owner }));
}

#[test]
fn rejects_a_key_that_nobody_registered_and_a_signature_that_does_not_fit() {
    let (ours, theirs) = (key(), key());
    let kid = theirs.public_key().thumbprint();
    assert_eq!(verify(&ours, &mint(&theirs)), Err(ClientAssertionError::UnknownKey { kid }));
    let typ = TokenKind::ClientAssertion.typ();
    let forged = forge(&theirs, &header(&ours, typ), &payload(&mint(&ours)).to_string());
    assert_eq!(verify(&ours, &forged), Err(ClientAssertionError::Jws(JwsError::BadSignature)));
}

#[test]
fn the_algorithm_is_that_of_the_registered_key_whatever_the_header_says() {
    let key = key();
    let header = header(&key, TokenKind::ClientAssertion.typ()).replace("ES256", "RS256");
    let found = verify(&key, &forge(&key, &header, &payload(&mint(&key)).to_string()));
    let wrong = JwsError::WrongAlgorithm { alg: "RS256", key: "ES256" };
    assert_eq!(found, Err(ClientAssertionError::Jws(wrong)));
}

#[test]
fn rejects_a_token_of_another_kind() {
    let key = key();
    for typ in ["JWT", "at+jwt", "countersign-service+jwt", "dpop+jwt", "logout+jwt"] {
        let found = verify(&key, &reissue(&key, typ, &mint(&key), |_| {}));
        assert!(matches!(found, Err(ClientAssertionError::Jws(JwsError::OtherKind { .. }))), "{typ}");
    }
}

#[test]
fn rejects_every_audience_but_the_issuer_as_the_only_one() {
    let key = key();
    for aud in
        ["https://auth.fleamarket.test/", "https://auth.fleamarket.test/oauth2/token", "https://evil.test"]
    {
        let found = verify(&key, &changed(&key, |claims| claims["aud"] = json!(aud)));
        assert_eq!(found, Err(ClientAssertionError::WrongAudience { got: aud.into() }));
    }
    // In a list there may be somebody else, who could use it here.
    for aud in [json!([ISSUER]), json!([ISSUER, "https://evil.test"])] {
        let found = verify(&key, &changed(&key, |claims| claims["aud"] = aud));
        let wrong = ClaimError::WrongType { name: "aud", want: "a string" };
        assert_eq!(found, Err(ClientAssertionError::Claim(wrong)));
    }
}

#[test]
fn rejects_a_client_that_speaks_about_another() {
    let key = key();
    let chat = "spiffe://fleamarket.test/svc/chat";
    let found = verify(&key, &changed(&key, |claims| claims["sub"] = json!(chat)));
    assert_eq!(found, Err(ClientAssertionError::AboutAnother { sub: chat.into() }));
}

#[test]
fn rejects_a_client_id_that_is_no_spiffe_id() {
    let key = key();
    let token = changed(&key, |claims| {
        claims["iss"] = json!("ads");
        claims["sub"] = json!("ads");
    });
    assert_eq!(verify(&key, &token), Err(ClientAssertionError::NotAnId { iss: "ads".into() }));
}

#[test]
fn rejects_an_id_that_could_be_guessed_or_not_be_remembered() {
    let key = key();
    for jti in ["a".repeat(15), "a".repeat(65)] {
        let chars = jti.len();
        let found = verify(&key, &changed(&key, |claims| claims["jti"] = json!(jti)));
        assert_eq!(found, Err(ClientAssertionError::IdLength { chars }));
    }
}

#[test]
fn rejects_an_assertion_that_lives_too_long_has_ended_or_has_not_begun() {
    let key = key();
    let judged = |token: &str, now| verify_at(&key, token, now).map(|_| ());
    assert_eq!(judged(&mint(&key), at(59)), Ok(()));
    assert_eq!(judged(&mint(&key), at(60)), Err(TimeError::Expired { by_seconds: 0 }.into()));
    let skew = i64::try_from(CLOCK_SKEW.as_secs()).unwrap();
    assert_eq!(judged(&mint(&key), at(-skew - 1)), Err(TimeError::NotYetValid { in_seconds: 61 }.into()));
    let longest = changed(&key, |claims| claims["exp"] = json!(NOW.secs() + 300));
    assert_eq!(judged(&longest, NOW), Ok(()));
    let lifetime = TimeError::Lifetime { seconds: 301, max: 300 };
    let longer = changed(&key, |claims| claims["exp"] = json!(NOW.secs() + 301));
    assert_eq!(judged(&longer, NOW), Err(lifetime.into()));
    let minted = ClientAssertion { expires: at(301), ..assertion() }.mint(&key, ISSUER);
    assert_eq!(minted, Err(lifetime.into()));
}

#[test]
fn rejects_an_assertion_whose_client_says_that_it_begins_later() {
    let key = key();
    let from = |nbf: Value| verify(&key, &changed(&key, |claims| claims["nbf"] = nbf)).map(|_| ());
    let skew = i64::try_from(CLOCK_SKEW.as_secs()).unwrap();
    assert_eq!(from(json!(NOW.secs() + skew)), Ok(()));
    assert_eq!(from(json!(NOW.secs() + skew + 1)), Err(TimeError::NotYetValid { in_seconds: 61 }.into()));
    assert!(matches!(from(json!("1800000000")), Err(ClientAssertionError::Claim(_))));
}

#[test]
fn rejects_each_claim_that_is_absent_or_of_another_type() {
    let key = key();
    for name in ["iss", "sub", "aud", "jti", "iat", "exp"] {
        let found = verify(&key, &changed(&key, |claims| drop(claims.as_object_mut().unwrap().remove(name))));
        assert_eq!(found, Err(ClientAssertionError::Claim(ClaimError::Missing { name })));
        for value in [json!(null), json!(true), json!(1.5), json!({})] {
            let found = verify(&key, &changed(&key, |claims| claims[name] = value.clone()));
            assert!(matches!(found, Err(ClientAssertionError::Claim(_))), "{name} = {value}: {found:?}");
        }
    }
}

fn assertion() -> ClientAssertion {
    ClientAssertion {
        client: SpiffeId::parse("spiffe://fleamarket.test/svc/ads").unwrap(),
        jti: "abcdefghijklmnopqrstuv".into(),
        issued_at: NOW,
        expires: at(60),
    }
}

fn mint(key: &KeyPair) -> String {
    assertion().mint(key, ISSUER).unwrap()
}

fn changed(key: &KeyPair, change: impl FnOnce(&mut Value)) -> String {
    reissue(key, TokenKind::ClientAssertion.typ(), &mint(key), change)
}

fn verify(key: &KeyPair, token: &str) -> Result<Verified<ClientAssertion>, ClientAssertionError> {
    verify_at(key, token, NOW)
}

fn verify_at(
    key: &KeyPair,
    token: &str,
    now: UnixTime,
) -> Result<Verified<ClientAssertion>, ClientAssertionError> {
    ClientAssertion::verify(token, ISSUER, now, |hint| {
        let owner = assertion().client;
        (hint.kid == key.public_key().thumbprint()).then(|| Signer { key: key.public_key().clone(), owner })
    })
}

proptest! {
    #[test]
    fn whatever_is_signed_as_claims_is_judged_without_a_panic(claims in ".{0,200}") {
        let key = key();
        let token = forge(&key, &header(&key, TokenKind::ClientAssertion.typ()), &claims);
        prop_assert!(verify(&key, &token).is_err());
    }
}
