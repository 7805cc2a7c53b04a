//! DPoP proofs: one `accepts`, then one `rejects` per reason; and nonces.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use std::time::Duration;

use common::{NOW, at, forge, key, keys_of_every_algorithm, payload};
use countersign_identity::CLOCK_SKEW;
use countersign_keys::{JwkError, KeyPair, PublicKey, Secret};
use countersign_token::{
    ClaimError, DpopError, DpopNonces, DpopTarget, DpopUri, JwsError, NonceError,
    dpop::{self, DPOP_ID_BYTES_MAX, DPOP_LIFETIME, NONCE_LIFETIME, NONCE_STEP},
};
use http::Method;
use serde_json::{Value, json};

const TOKEN: &str = "access.token.text";
const JTI: &str = "0123456789abcdef";

fn target(uri: &str) -> DpopTarget<'static> {
    DpopTarget { method: &Method::GET, uri: DpopUri::parse(uri).unwrap(), access_token: Some(TOKEN) }
}

fn ads() -> DpopTarget<'static> {
    target("https://flea.test/ads")
}

fn header(key: &KeyPair) -> Value {
    let jwk: Value = serde_json::from_str(&key.public_key().to_jwk()).unwrap();
    json!({ "alg": key.algorithm().jose_name(), "jwk": jwk, "typ": "dpop+jwt" })
}

/// A proof for [`ads`], properly signed, whose claims were changed first.
fn changed(key: &KeyPair, change: impl FnOnce(&mut Value)) -> String {
    let mut claims = payload(&dpop::mint(key, &ads(), None, JTI, NOW).unwrap());
    change(&mut claims);
    forge(key, &header(key).to_string(), &claims.to_string())
}

fn refusal(proof: &str) -> DpopError {
    dpop::verify(proof, &ads(), NOW).unwrap_err()
}

#[test]
fn accepts_a_proof_by_any_algorithm_for_its_own_request() {
    for key in keys_of_every_algorithm() {
        let minted = dpop::mint(&key, &ads(), Some("nonce"), JTI, NOW).unwrap();
        let proof = dpop::verify(&minted, &ads(), at(1)).unwrap();
        assert_eq!(proof.jkt(), dpop::jkt(key.public_key()));
        assert_eq!((proof.jti(), proof.nonce(), proof.issued_at()), (JTI, Some("nonce"), NOW));
        assert_eq!(proof.expires(), NOW.saturating_add(DPOP_LIFETIME).saturating_add(CLOCK_SKEW));
    }
}

#[test]
fn jkt_and_ath_are_those_of_rfc_9449() {
    let Some(path) = countersign_testkit::vectors("ours/rfc-examples.json") else { return };
    let vectors: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let key = PublicKey::from_jwk(&vectors["rfc9449-jkt"]["jwk"].to_string()).unwrap();
    assert_eq!(dpop::jkt(&key), vectors["rfc9449-jkt"]["jkt"]);
    let token = vectors["rfc9449-ath"]["access_token"].as_str().unwrap();
    let beside = DpopTarget { access_token: Some(token), ..ads() };
    let proof = dpop::mint(&common::key(), &beside, None, JTI, NOW).unwrap();
    assert_eq!(payload(&proof)["ath"], vectors["rfc9449-ath"]["ath"]);
}

#[test]
fn a_uri_has_one_spelling() {
    let parse = |text: &str| DpopUri::parse(text).map(|uri| uri.as_str().to_owned());
    for (text, canonical) in [
        ("https://flea.test/ads", "https://flea.test/ads"),
        ("HTTPS://FLEA.TEST:443/ads", "https://flea.test/ads"),
        ("http://flea.test:80", "http://flea.test/"),
        ("http://flea.test:443/", "http://flea.test:443/"),
        ("https://flea.test:8443/caf%c3%a9", "https://flea.test:8443/caf%C3%A9"),
    ] {
        assert_eq!(parse(text).as_deref(), Some(canonical), "{text}");
    }
    for text in ["", "/ads", "flea.test/ads", "https://flea.test/ads?", "https://flea.test/#", "https://a@b/"]
    {
        assert_eq!(parse(text), None, "{text}");
    }
}

#[test]
fn rejects_a_proof_of_another_type() {
    let key = key();
    let mut header = header(&key);
    header["typ"] = json!("jwt");
    let claims = payload(&dpop::mint(&key, &ads(), None, JTI, NOW).unwrap());
    let proof = forge(&key, &header.to_string(), &claims.to_string());
    assert_eq!(refusal(&proof), DpopError::WrongKind { typ: "jwt".into() });
}

#[test]
fn rejects_a_proof_signed_by_another_key_than_the_one_in_it() {
    let claims = payload(&dpop::mint(&key(), &ads(), None, JTI, NOW).unwrap());
    let proof = forge(&key(), &header(&key()).to_string(), &claims.to_string());
    assert_eq!(refusal(&proof), DpopError::Jws(JwsError::BadSignature));
}

#[test]
fn rejects_a_proof_whose_key_is_private_symmetric_or_only_named() {
    let key = key();
    let claims = payload(&dpop::mint(&key, &ads(), None, JTI, NOW).unwrap()).to_string();
    let mut private = header(&key);
    private["jwk"]["d"] = json!("AAAA");
    assert_eq!(
        refusal(&forge(&key, &private.to_string(), &claims)),
        DpopError::Jws(JwsError::Jwk(JwkError::Private))
    );
    let mut symmetric = header(&key);
    symmetric["alg"] = json!("HS256");
    let refused = refusal(&forge(&key, &symmetric.to_string(), &claims));
    assert!(matches!(refused, DpopError::Jws(JwsError::ForbiddenAlgorithm { .. })), "{refused}");
    let named = json!({ "alg": "ES256", "kid": key.public_key().thumbprint(), "typ": "dpop+jwt" });
    let refused = refusal(&forge(&key, &named.to_string(), &claims));
    assert!(matches!(refused, DpopError::Jws(_)), "{refused}");
}

#[test]
fn rejects_a_proof_that_lacks_a_claim_or_has_it_in_another_type() {
    for claim in ["htm", "htu", "iat", "jti"] {
        let proof = changed(&key(), |claims| drop(claims.as_object_mut().unwrap().remove(claim)));
        assert_eq!(refusal(&proof), DpopError::Claim(ClaimError::Missing { name: claim }));
    }
    let refused = refusal(&changed(&key(), |claims| claims["iat"] = json!("now")));
    assert!(matches!(refused, DpopError::Claim(ClaimError::WrongType { name: "iat", .. })));
}

#[test]
fn rejects_a_proof_for_another_method() {
    let proof = changed(&key(), |claims| claims["htm"] = json!("POST"));
    assert_eq!(refusal(&proof), DpopError::WrongMethod { got: "POST".into() });
    let proof = changed(&key(), |claims| claims["htm"] = json!("get"));
    assert_eq!(refusal(&proof), DpopError::WrongMethod { got: "get".into() });
}

#[test]
fn rejects_a_proof_for_another_uri() {
    for uri in [
        "https://flea.test/ads/7",
        "http://flea.test/ads",
        "https://other.test/ads",
        "https://flea.test:8443/ads",
        "https://flea.test/ads?near=me",
        "/ads",
    ] {
        let proof = changed(&key(), |claims| claims["htu"] = json!(uri));
        assert_eq!(refusal(&proof), DpopError::WrongUri { got: uri.into() });
    }
    let other_spelling = changed(&key(), |claims| claims["htu"] = json!("HTTPS://Flea.test:443/ads"));
    assert!(dpop::verify(&other_spelling, &ads(), NOW).is_ok());
}

#[test]
fn rejects_a_proof_beside_another_access_token_than_it_names() {
    let other = DpopTarget { access_token: Some("other"), ..ads() };
    let none = DpopTarget { access_token: None, ..ads() };
    let for_other = dpop::mint(&key(), &other, None, JTI, NOW).unwrap();
    let for_none = dpop::mint(&key(), &none, None, JTI, NOW).unwrap();
    assert_eq!(refusal(&for_other), DpopError::OtherToken);
    assert_eq!(refusal(&for_none), DpopError::NoToken);
    assert_eq!(dpop::verify(&for_other, &none, NOW).unwrap_err(), DpopError::TokenGone);
    assert!(dpop::verify(&for_none, &none, NOW).is_ok());
}

#[test]
fn rejects_a_proof_that_is_too_old_or_dated_ahead() {
    let window = i64::try_from((DPOP_LIFETIME + CLOCK_SKEW).as_secs()).unwrap();
    let proof = dpop::mint(&key(), &ads(), None, JTI, NOW).unwrap();
    assert!(dpop::verify(&proof, &ads(), at(window - 1)).is_ok());
    let refused = dpop::verify(&proof, &ads(), at(window)).unwrap_err();
    assert_eq!(refused, DpopError::TooOld { by_seconds: CLOCK_SKEW.as_secs() });
    let skew = i64::try_from(CLOCK_SKEW.as_secs()).unwrap();
    assert!(dpop::verify(&proof, &ads(), at(-skew)).is_ok());
    let refused = dpop::verify(&proof, &ads(), at(-skew - 1)).unwrap_err();
    assert_eq!(refused, DpopError::DatedAhead { by_seconds: CLOCK_SKEW.as_secs() + 1 });
}

#[test]
fn rejects_an_id_longer_than_the_limit_and_makes_none() {
    let longest = "a".repeat(DPOP_ID_BYTES_MAX);
    let proof = dpop::mint(&key(), &ads(), None, &longest, NOW).unwrap();
    assert!(dpop::verify(&proof, &ads(), NOW).is_ok());
    let longer = format!("{longest}a");
    let bytes = longer.len();
    assert_eq!(dpop::mint(&key(), &ads(), None, &longer, NOW), Err(DpopError::Id { bytes }));
    let proof = changed(&key(), |claims| claims["jti"] = json!(longer));
    assert_eq!(refusal(&proof), DpopError::Id { bytes });
}

fn nonces(byte: u8) -> DpopNonces {
    DpopNonces::new(Secret::new([byte; 32]))
}

#[test]
fn a_nonce_counts_where_it_was_made_for_two_minutes() {
    let nonces = nonces(1);
    let nonce = nonces.current(NOW);
    let made_at = nonces.judge(Some(&nonce), NOW).unwrap();
    assert!(made_at <= NOW && NOW.since(made_at) < NONCE_STEP);
    let last = made_at.saturating_add(NONCE_LIFETIME).saturating_sub(Duration::from_millis(1));
    assert_eq!(nonces.judge(Some(&nonce), last), Ok(made_at));
    assert_eq!(nonces.current(made_at), nonce, "the same for the whole step");
    assert_ne!(nonces.current(made_at.saturating_add(NONCE_STEP)), nonce);
    assert_eq!(format!("{nonces:?}"), "DpopNonces(..)");
}

#[test]
fn rejects_a_nonce_that_is_missing_foreign_or_old() {
    let nonces = nonces(1);
    assert_eq!(nonces.judge(None, NOW), Err(NonceError::Missing));
    let nonce = nonces.current(NOW);
    for foreign in ["", "AAAA", "no nonce", &self::nonces(2).current(NOW), &format!("{nonce}A"), &nonce[1..]]
    {
        assert_eq!(nonces.judge(Some(foreign), NOW), Err(NonceError::NotOurs), "{foreign}");
    }
    let late = NOW.saturating_add(NONCE_LIFETIME);
    assert_eq!(nonces.judge(Some(&nonce), late), Err(NonceError::Old));
    let early = NOW.saturating_sub(NONCE_STEP);
    assert_eq!(
        nonces.judge(Some(&nonce), early),
        Err(NonceError::Old),
        "made after our own clock stepped back"
    );
}
