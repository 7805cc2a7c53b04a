//! Signed heads: only ours, only whole, only for this purpose.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{TrustDomain, UnixTime};
use countersign_keys::{KeyPair, PublicKey, SignError, SystemRandom};
use countersign_ledger::{
    head::{HEAD_BYTES_MAX, Head, HeadError, SignedHead},
    log::LogState,
};
use proptest::prelude::*;

#[test]
fn accepts_a_head_signed_by_the_ledger_key_through_its_file_form() {
    let (signed, key) = signed();
    let file = serde_json::to_string(&signed).unwrap();
    let head = SignedHead::parse(&file).unwrap().verify(of(&key)).unwrap();
    assert_eq!((head.size, head.epoch.as_str()), (0, "e1"));
    assert_eq!(*head.get(), plain());
}

#[test]
fn rejects_a_head_signed_by_a_key_that_is_not_ours() {
    let (signed, _) = signed();
    let found = signed.verify(|_| None);
    assert_eq!(found, Err(HeadError::UnknownKey { kid: signed.kid.clone() }));
}

#[test]
fn rejects_a_head_whose_numbers_were_changed() {
    let (mut signed, key) = signed();
    signed.payload = signed.payload.replacen("\"size\":0", "\"size\":1", 1);
    assert_eq!(signed.verify(of(&key)), Err(HeadError::BadSignature));
}

#[test]
fn rejects_a_head_with_another_heads_signature_or_none() {
    let (signed, key) = signed();
    for signature in ["", "AAAA", "not base64url", &URL_SAFE_NO_PAD.encode([0; 64])] {
        let forged = SignedHead { signature: signature.into(), ..signed.clone() };
        assert_eq!(forged.verify(of(&key)), Err(HeadError::BadSignature), "{signature}");
    }
}

#[test]
fn rejects_a_signature_that_the_same_key_made_for_another_purpose() {
    let (mut signed, key) = signed();
    signed.signature = URL_SAFE_NO_PAD.encode(key.sign_fixed("snapshot", signed.payload.as_bytes()).unwrap());
    assert_eq!(signed.verify(of(&key)), Err(HeadError::BadSignature));
}

#[test]
fn rejects_a_head_of_another_format() {
    let key = key();
    let signed = SignedHead::sign(&Head { v: 2, ..plain() }, &key).unwrap();
    assert_eq!(signed.verify(of(&key)), Err(HeadError::UnknownVersion { v: 2 }));
}

#[test]
fn rejects_a_head_that_is_longer_than_heads_are() {
    let (mut signed, key) = signed();
    signed.payload = " ".repeat(HEAD_BYTES_MAX + 1);
    assert_eq!(signed.verify(of(&key)), Err(HeadError::TooLarge { bytes: HEAD_BYTES_MAX + 1 }));
    let file = " ".repeat(2 * HEAD_BYTES_MAX + 1);
    assert!(matches!(SignedHead::parse(&file), Err(HeadError::TooLarge { .. })));
}

#[test]
fn rejects_a_file_that_is_no_head() {
    for file in ["", "{}", "[]", r#"{"payload":"{}","kid":"a","signature":"b","more":1}"#] {
        assert_eq!(SignedHead::parse(file), Err(HeadError::Unreadable), "{file}");
    }
}

#[test]
fn a_failure_to_sign_is_passed_on() {
    assert_eq!(HeadError::from(SignError::Failed), HeadError::Sign(SignError::Failed));
}

proptest! {
    #[test]
    fn any_text_as_a_head_is_refused_without_a_panic(text in ".{0,200}") {
        prop_assert!(SignedHead::parse(&text).is_err());
    }
}

fn plain() -> Head {
    let trust_domain = TrustDomain::parse("fleamarket.test").unwrap();
    Head::of(&LogState::empty(&trust_domain), trust_domain, "e1".into(), UnixTime::from_secs(1_800_000_000))
}

fn signed() -> (SignedHead, KeyPair) {
    let key = key();
    (SignedHead::sign(&plain(), &key).unwrap(), key)
}

fn key() -> KeyPair {
    KeyPair::generate(&SystemRandom::new()).unwrap()
}

fn of(key: &KeyPair) -> impl Fn(&str) -> Option<PublicKey> {
    let public = key.public_key().clone();
    move |kid| (kid == public.thumbprint()).then(|| public.clone())
}
