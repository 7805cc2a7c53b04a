//! Encrypted payloads: what is opened, and why one is refused.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use common::{encode, part};
use countersign_keys::{
    AgreementError, AgreementJwkError, AgreementKey, RandomError, SystemRandom,
    agreement::AGREEMENT_JWK_BYTES_MAX,
};
use countersign_token::{
    ClaimError, JweError,
    jwe::{JWE_BYTES_MAX, JWE_TYP, PLAINTEXT_BYTES_MAX, decrypt, encrypt},
    jws::HEADER_VALUE_BYTES_MAX,
};
use proptest::prelude::*;
use serde_json::{Value, json};

#[test]
fn opens_what_was_encrypted_to_its_key() {
    let key = AgreementKey::generate().unwrap();
    for plaintext in [&b""[..], b"a", &[0xff; 1000]] {
        assert_eq!(open(&sealed(&key, plaintext), &key).unwrap(), plaintext);
    }
}

#[test]
fn says_in_its_header_what_it_must_and_nothing_else() {
    let key = AgreementKey::generate().unwrap();
    let mut header = part(&sealed(&key, b"a secret"), 0);
    let epk = header.as_object_mut().unwrap().remove("epk").unwrap();
    let kid = key.public_key().thumbprint();
    assert_eq!(header, json!({ "alg": "ECDH-ES", "enc": "A256GCM", "kid": kid, "typ": JWE_TYP }));
    assert_eq!(epk.as_object().unwrap().len(), 4);
}

#[test]
fn never_encrypts_the_same_text_twice_alike() {
    let key = AgreementKey::generate().unwrap();
    let (one, two) = (sealed(&key, b"a secret"), sealed(&key, b"a secret"));
    for index in [0, 2, 3, 4] {
        assert_ne!(one.split('.').nth(index), two.split('.').nth(index));
    }
}

#[test]
fn opens_what_a_stranger_encrypted() {
    // By jwcrypto 1.6.1, to Bob's key of RFC 7518 appendix C.
    let sealed = "eyJhbGciOiJFQ0RILUVTIiwiZW5jIjoiQTI1NkdDTSIsImVwayI6eyJjcnYiOiJQLTI1NiIsImt0eSI6IkVDIiwieCI6Ik1rWUx4SE9RamY3VUdsa21VNEk2ZlFkWFRoMDRDM1hRMWxhZ282SkZ1eW8iLCJ5IjoiWGJCNWUyVDlLbmQ2UGNDaVgyMVQzdXdrOXNkMGlRNnkyc0l4VFY2QUxoZyJ9LCJraWQiOiJWeTU3WHJBclVyVzBOYnBJMTJ0RXpESEFCeE13clRoNkhIWFJlblNwbkNvIiwidHlwIjoiY291bnRlcnNpZ24tcGF5bG9hZCtqd2UifQ..YpMDvINzHoovc6Xk.g1aWZdMxGptKRBq-BCPxg-Ieat7-.vrYOE6gTOMrSqE4kdrIBqQ";
    let bob = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgVEmDZpDXXK8p8N0Cndsxs924q6nS1RXFASRl6BfUqdyhRANCAATB40nLYexwJIzoAQNMODThuI6+EWHLJa84dB94X8/ExHvJZwjvgJUrU/jSVV/nK4Qe0EWIYosdN4pZSTlQDsnJ";
    let bob = AgreementKey::from_pkcs8(&STANDARD.decode(bob).unwrap()).unwrap();
    assert_eq!(open(sealed, &bob).unwrap(), b"a stranger wrote this");
}

#[test]
fn jwcrypto_opens_ours_and_we_open_its() {
    let Some(python) = countersign_testkit::Python::with(&["jwcrypto==1.6.1"]) else { return };
    let key = AgreementKey::generate().unwrap();
    let pkcs8 = STANDARD.encode(key.to_pkcs8().unwrap().expose());
    let asked = json!({
        "pem": format!("-----BEGIN PRIVATE KEY-----\n{pkcs8}\n-----END PRIVATE KEY-----\n"),
        "sealed": sealed(&key, "from Rust with love".as_bytes()),
        "plaintext": "from Python with love",
        "typ": JWE_TYP,
    });
    let answer: Value =
        serde_json::from_str(&python.run(include_str!("jwcrypto.py"), &asked.to_string())).unwrap();
    assert_eq!(answer["opened"], "from Rust with love");
    assert_eq!(open(answer["sealed"].as_str().unwrap(), &key).unwrap(), b"from Python with love");
}

#[test]
fn every_case_of_the_jose_cookbook_is_refused_for_its_own_reason() {
    let expected: Value = serde_json::from_str(include_str!("cookbook.json")).unwrap();
    let key = AgreementKey::generate().unwrap();
    let reason = |token: &str| format!("{:?}", open(token, &key).unwrap_err());
    for (case, expected) in expected["cases"].as_object().unwrap() {
        let Some(vector) = vector(case) else { return };
        let output = &vector["output"];
        for form in ["compact", "json", "json_flat"] {
            let Some(token) = output.get(form) else { continue };
            match token.as_str() {
                Some(compact) => assert_eq!(reason(compact), expected["compact"], "{case}"),
                None => {
                    let expected = expected.get("json").map_or("NotFiveParts", |json| json.as_str().unwrap());
                    assert_eq!(reason(&token.to_string()), expected, "{case} as {form}");
                }
            }
        }
    }
    for (case, expected) in expected["nested"].as_object().unwrap() {
        let Some(vector) = vector(case) else { return };
        let compact = vector["encrypt"]["output"]["compact"].as_str().unwrap();
        assert_eq!(reason(compact), expected.as_str().unwrap(), "{case}");
    }
}

#[test]
fn the_expectations_name_every_jwe_of_the_cookbook() {
    let Some(folder) = countersign_testkit::vectors("jose-cookbook/jwe") else { return };
    let expected: Value = serde_json::from_str(include_str!("cookbook.json")).unwrap();
    for file in std::fs::read_dir(folder).unwrap() {
        let case = format!("jwe/{}", file.unwrap().file_name().to_string_lossy());
        assert!(expected["cases"].get(&case).is_some(), "{case} has no expectation");
    }
}

#[test]
fn never_decompresses_anything() {
    // CVE-2024-28180, CVE-2024-28122: a few bytes that say "DEF" became gigabytes.
    let key = AgreementKey::generate().unwrap();
    for value in [json!("DEF"), json!("none"), Value::Null] {
        let token = with_header(&key, |header| header["zip"] = value);
        assert_eq!(refused(&token, &key), JweError::Compressed);
    }
}

#[test]
fn rejects_every_other_way_of_agreeing_on_a_key() {
    let key = AgreementKey::generate().unwrap();
    for alg in
        ["none", "dir", "RSA1_5", "RSA-OAEP", "ECDH-ES+A256KW", "A256KW", "PBES2-HS256+A128KW", "ecdh-es"]
    {
        let token = with_header(&key, |header| header["alg"] = alg.into());
        assert_eq!(refused(&token, &key), JweError::ForbiddenAlgorithm { alg: alg.into() });
    }
}

#[test]
fn rejects_every_other_cipher() {
    let key = AgreementKey::generate().unwrap();
    for enc in ["A128GCM", "A192GCM", "A128CBC-HS256", "A256CBC-HS512", "none"] {
        let token = with_header(&key, |header| header["enc"] = enc.into());
        assert_eq!(refused(&token, &key), JweError::ForbiddenEncryption { enc: enc.into() });
    }
}

#[test]
fn rejects_every_header_member_beyond_the_five() {
    let key = AgreementKey::generate().unwrap();
    for member in ["crit", "apu", "apv", "jku", "jwk", "x5c", "x5t", "cty", "p2c", "iv", "tag", "Alg"] {
        let token = with_header(&key, |header| header[member] = json!(["a"]));
        assert_eq!(refused(&token, &key), JweError::ForbiddenMember { member: member.into() });
    }
}

#[test]
fn rejects_a_header_without_one_of_the_five() {
    let key = AgreementKey::generate().unwrap();
    for name in ["alg", "enc", "epk", "kid", "typ"] {
        let token = with_header(&key, |header| drop(header.as_object_mut().unwrap().remove(name)));
        assert_eq!(refused(&token, &key), JweError::Header(ClaimError::Missing { name }));
    }
}

#[test]
fn rejects_a_header_that_says_something_twice() {
    let key = AgreementKey::generate().unwrap();
    let token = sealed(&key, b"a secret");
    let header = part(&token, 0).to_string().replacen('{', "{\"alg\":\"dir\",", 1);
    let rest = token.split_once('.').unwrap().1;
    let found = refused(&format!("{}.{rest}", encode(header)), &key);
    assert_eq!(found, JweError::Header(ClaimError::Duplicate { name: "alg".into() }));
}

#[test]
fn rejects_something_else_that_was_encrypted() {
    let key = AgreementKey::generate().unwrap();
    for typ in ["JWT", "JWE", "countersign-service+jwt"] {
        let token = with_header(&key, |header| header["typ"] = typ.into());
        assert_eq!(refused(&token, &key), JweError::WrongKind { typ: typ.into() });
    }
}

#[test]
fn rejects_an_ephemeral_key_that_is_none() {
    let key = AgreementKey::generate().unwrap();
    let refused =
        |change: fn(&mut Value)| match refused(&with_header(&key, |header| change(&mut header["epk"])), &key)
        {
            JweError::EphemeralKey(error) => error,
            other => panic!("{other}"),
        };
    assert_eq!(refused(|epk| epk["y"] = epk["x"].clone()), AgreementJwkError::NotOnCurve);
    assert_eq!(refused(|epk| epk["d"] = "AAAA".into()), AgreementJwkError::Private);
    assert_eq!(refused(|epk| epk["x5c"] = json!([])), AgreementJwkError::Malformed);
    assert_eq!(refused(|epk| epk["kid"] = "a".into()), AgreementJwkError::OtherUse);
    let p384 = AgreementJwkError::OtherKind { kty: "EC".into(), crv: "P-384".into() };
    assert_eq!(refused(|epk| epk["crv"] = "P-384".into()), p384);
    let long = refused(|epk| epk["x"] = "A".repeat(AGREEMENT_JWK_BYTES_MAX).into());
    assert!(matches!(long, AgreementJwkError::TooLong { .. }), "{long}");
}

#[test]
fn rejects_an_encrypted_key_where_none_is_sent() {
    let key = AgreementKey::generate().unwrap();
    let token = sealed(&key, b"a secret").replacen("..", ".AAAA.", 1);
    assert_eq!(refused(&token, &key), JweError::EncryptedKey);
}

#[test]
fn rejects_a_nonce_or_a_tag_of_another_length() {
    let key = AgreementKey::generate().unwrap();
    let token = sealed(&key, b"a secret");
    for bytes in [0, 8, 11, 13, 16] {
        let token = with_part(&token, 2, &encode(vec![0; bytes]));
        assert_eq!(refused(&token, &key), JweError::NonceLength { bytes });
    }
    for bytes in [0, 4, 15, 17, 32] {
        let token = with_part(&token, 4, &encode(vec![0; bytes]));
        assert_eq!(refused(&token, &key), JweError::TagLength { bytes });
    }
}

#[test]
fn rejects_a_key_that_is_not_here_and_one_that_is_not_meant() {
    let (key, other) = (AgreementKey::generate().unwrap(), AgreementKey::generate().unwrap());
    let token = sealed(&key, b"a secret");
    let kid = key.public_key().thumbprint();
    assert_eq!(decrypt(&token, |_| None).map(drop), Err(JweError::UnknownKey { kid }));
    assert_eq!(refused(&token, &other), JweError::WrongKey);
}

#[test]
fn rejects_a_kid_that_is_too_long() {
    let key = AgreementKey::generate().unwrap();
    let long =
        |bytes: usize| refused(&with_header(&key, |header| header["kid"] = "k".repeat(bytes).into()), &key);
    assert_eq!(long(HEADER_VALUE_BYTES_MAX), JweError::WrongKey);
    let bytes = HEADER_VALUE_BYTES_MAX + 1;
    assert_eq!(long(bytes), JweError::KidTooLong { bytes });
}

#[test]
fn rejects_a_payload_that_was_changed_or_is_for_another_key() {
    let key = AgreementKey::generate().unwrap();
    let token = sealed(&key, b"a secret");
    for index in [2, 3, 4] {
        let mut bytes = URL_SAFE_NO_PAD.decode(token.split('.').nth(index).unwrap()).unwrap();
        bytes[0] ^= 1;
        assert_eq!(refused(&with_part(&token, index, &encode(bytes)), &key), JweError::Damaged);
    }
    assert_eq!(refused(&with_part(&token, 3, ""), &key), JweError::Damaged);
    // Another header with the same meaning: what was said with it was not said by the sender.
    let header = encode(format!(" {}", part(&token, 0)));
    assert_eq!(refused(&with_part(&token, 0, &header), &key), JweError::Damaged);
    let epk = part(&sealed(&key, b"a secret"), 0)["epk"].clone();
    assert_eq!(refused(&with_header_of(&token, |header| header["epk"] = epk), &key), JweError::Damaged);
}

#[test]
fn rejects_anything_but_five_parts() {
    let key = AgreementKey::generate().unwrap();
    let token = sealed(&key, b"a secret");
    for text in
        ["", "a", "....", "a.b.c.d", &format!("{token}."), &format!("{token}.AAAA"), &".".repeat(100_000)]
    {
        let found = refused(text, &key);
        let short: String = text.chars().take(20).collect();
        if text == "...." {
            assert_eq!(found, JweError::Header(ClaimError::NotJson));
        } else {
            assert_eq!(found, JweError::NotFiveParts, "{short}");
        }
    }
}

#[test]
fn rejects_every_spelling_of_a_part_but_the_canonical_one() {
    let key = AgreementKey::generate().unwrap();
    let token = sealed(&key, b"a secret");
    for index in [0, 2, 3, 4] {
        let text = token.split('.').nth(index).unwrap();
        for spelling in [format!("{text}="), format!("{text}\n"), format!("+{}", &text[1..])] {
            assert_eq!(refused(&with_part(&token, index, &spelling), &key), JweError::NotBase64Url);
        }
    }
}

#[test]
fn encrypts_the_longest_payload_and_nothing_longer() {
    let key = AgreementKey::generate().unwrap();
    let longest = sealed(&key, &vec![7; PLAINTEXT_BYTES_MAX]);
    assert!(longest.len() <= JWE_BYTES_MAX);
    assert_eq!(open(&longest, &key).unwrap().len(), PLAINTEXT_BYTES_MAX);
    let bytes = PLAINTEXT_BYTES_MAX + 1;
    let found = encrypt(&vec![7; bytes], key.public_key(), &SystemRandom::new());
    assert_eq!(found, Err(JweError::PlaintextTooLong { bytes }));
}

#[test]
fn rejects_what_is_longer_than_the_longest_by_its_length_alone() {
    let key = AgreementKey::generate().unwrap();
    assert_eq!(refused(&"x".repeat(JWE_BYTES_MAX), &key), JweError::NotFiveParts);
    let bytes = JWE_BYTES_MAX + 1;
    assert_eq!(refused(&"x".repeat(bytes), &key), JweError::TooLarge { bytes });
}

#[test]
fn failures_below_are_passed_on() {
    assert_eq!(JweError::from(RandomError::Unavailable), JweError::Random(RandomError::Unavailable));
    assert_eq!(JweError::from(AgreementError::Failed), JweError::Agreement(AgreementError::Failed));
}

proptest! {
    #[test]
    fn any_text_is_refused_without_a_panic(text in ".{0,200}") {
        let key = AgreementKey::generate().unwrap();
        prop_assert!(open(&text, &key).is_err());
    }

    #[test]
    fn any_five_parts_are_refused_without_a_panic(
        header in "\\{(\"(alg|enc|epk|kid|typ|zip)\":(\"(ECDH-ES|A256GCM|k)\"|1|null|\\{\\}),?){0,6}\\}",
        rest in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 4)
    ) {
        let key = AgreementKey::generate().unwrap();
        let rest: Vec<String> = rest.iter().map(encode).collect();
        let token = format!("{}.{}", encode(header), rest.join("."));
        prop_assert!(open(&token, &key).is_err());
    }

    #[test]
    fn a_payload_with_any_one_character_changed_is_refused(place in any::<prop::sample::Index>(), with in "[A-Za-z0-9_.=-]") {
        let key = AgreementKey::generate().unwrap();
        let token = sealed(&key, b"a secret");
        let at = place.index(token.len());
        let changed = format!("{}{with}{}", &token[..at], &token[at + 1..]);
        prop_assume!(changed != token);
        prop_assert!(open(&changed, &key).is_err());
    }
}

fn sealed(key: &AgreementKey, plaintext: &[u8]) -> String {
    encrypt(plaintext, key.public_key(), &SystemRandom::new()).unwrap()
}

fn open(token: &str, key: &AgreementKey) -> Result<Vec<u8>, JweError> {
    decrypt(token, |_| Some(key.clone())).map(|plaintext| plaintext.expose().clone())
}

fn refused(token: &str, key: &AgreementKey) -> JweError {
    open(token, key).unwrap_err()
}

/// A payload for `key` whose header was changed on the way.
fn with_header(key: &AgreementKey, change: impl FnOnce(&mut Value)) -> String {
    with_header_of(&sealed(key, b"a secret"), change)
}

fn with_header_of(token: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut header = part(token, 0);
    change(&mut header);
    with_part(token, 0, &encode(header.to_string()))
}

fn with_part(token: &str, index: usize, with: &str) -> String {
    let mut parts: Vec<&str> = token.split('.').collect();
    parts[index] = with;
    parts.join(".")
}

fn vector(case: &str) -> Option<Value> {
    let path = countersign_testkit::vectors(&format!("jose-cookbook/{case}"))?;
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}
