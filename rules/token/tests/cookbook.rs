//! The JOSE cookbook: what of it is in our profile, and why the rest is not. The verdicts are in `cookbook.json`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_keys::PublicKey;
use countersign_token::{JwsError, TokenKind, jws};
use serde_json::Value;

#[test]
fn every_case_of_the_jose_cookbook_is_verified_or_refused_for_its_own_reason() {
    for case in expected("tokens") {
        let file = case["file"].as_str().unwrap();
        let Some(vector) = vector(file) else { return };
        let kind =
            TokenKind::ALL.into_iter().find(|kind| kind.typ() == case["as"].as_str().unwrap()).unwrap();
        let output = vector["output"].as_object().unwrap();
        let key = key_of(&vector);
        match output.get("compact").and_then(Value::as_str) {
            Some(compact) => {
                let verdict = match jws::parse_as(kind, compact) {
                    Ok(read) => read
                        .verify(key.as_ref().unwrap())
                        .map_or_else(|e| format!("{e:?}"), |_| "verified".into()),
                    Err(error) => format!("{error:?}"),
                };
                assert_eq!(verdict, case["verdict"].as_str().unwrap(), "{file}");
            }
            None => assert!(case.get("verdict").is_none(), "{file} has no compact form"),
        }
        for form in ["json", "json_flat"].into_iter().filter_map(|form| output.get(form)) {
            let text = form.to_string();
            assert!(
                matches!(jws::parse_as(kind, &text), Err(JwsError::NotThreeParts | JwsError::NotBase64Url)),
                "{file}"
            );
        }
        let fits = case.get("signature").and_then(Value::as_bool).unwrap_or(false);
        assert_eq!(key.is_some_and(|key| signature_fits(&key, &vector)), fits, "{file}");
    }
}

#[test]
fn every_key_of_the_jose_cookbook_is_read_or_refused_for_its_own_reason() {
    for case in expected("keys") {
        let file = case["file"].as_str().unwrap();
        let Some(jwk) = vector(file) else { return };
        let found =
            PublicKey::from_jwk(&jwk.to_string()).map_or_else(|e| format!("{e:?}"), |_| "read".into());
        assert_eq!(found, case["verdict"].as_str().unwrap(), "{file}");
    }
}

/// The public half of the case's key, if it is one of ours: without its private members and its made-up name.
fn key_of(vector: &Value) -> Option<PublicKey> {
    let mut jwk = vector["input"]["key"].clone();
    jwk.as_object_mut()?.retain(|name, _| ["kty", "crv", "x", "y", "n", "e"].contains(&name.as_str()));
    PublicKey::from_jwk(&jwk.to_string()).ok()
}

fn signature_fits(key: &PublicKey, vector: &Value) -> bool {
    let signing = &vector["signing"];
    let (Some(input), Some(signature)) = (signing["sig-input"].as_str(), signing["sig"].as_str()) else {
        return false;
    };
    key.verify_raw(input.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).is_ok()
}

fn expected(list: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("cookbook.json")).unwrap();
    file[list].as_array().unwrap().clone()
}

fn vector(file: &str) -> Option<Value> {
    let path = countersign_testkit::vectors(&format!("jose-cookbook/{file}.json"))?;
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}
