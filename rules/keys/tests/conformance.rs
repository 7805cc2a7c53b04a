//! Vectors of others: ECDSA P-256 of Wycheproof, keys of RFC 7520, thumbprints of RFC 7638.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use countersign_keys::{JwkError, PublicKey, SignatureInvalid};
use serde_json::Value;

fn read(rel: &str) -> Option<Value> {
    let file = countersign_testkit::vectors(rel)?;
    Some(serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap())
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn verifies_every_wycheproof_signature_on_p256_as_expected() {
    let Some(vectors) = read("wycheproof/ecdsa_secp256r1_sha256_p1363_test.json") else { return };
    let mut tried = 0;
    for group in vectors["testGroups"].as_array().unwrap() {
        let key = PublicKey::from_spki_der(&unhex(group["publicKeyDer"].as_str().unwrap())).unwrap();
        for test in group["tests"].as_array().unwrap() {
            let (message, signature) =
                (unhex(test["msg"].as_str().unwrap()), unhex(test["sig"].as_str().unwrap()));
            let expected = if test["result"] == "valid" { Ok(()) } else { Err(SignatureInvalid) };
            assert_eq!(
                key.verify_raw(&message, &signature),
                expected,
                "case {}: {}",
                test["tcId"],
                test["comment"]
            );
            tried += 1;
        }
    }
    assert!(tried > 200, "only {tried} vectors were found");
}

#[test]
fn reads_wycheproof_keys_alike_from_der_and_jwk() {
    let Some(vectors) = read("wycheproof/ecdsa_secp256r1_sha256_p1363_test.json") else { return };
    for group in vectors["testGroups"].as_array().unwrap() {
        let Some(mut jwk) = group.get("publicKeyJwk").cloned() else { continue };
        jwk.as_object_mut().unwrap().remove("kid");
        let from_der = PublicKey::from_spki_der(&unhex(group["publicKeyDer"].as_str().unwrap())).unwrap();
        assert_eq!(PublicKey::from_jwk(&jwk.to_string()).unwrap(), from_der);
    }
}

#[test]
fn computes_the_thumbprint_of_rfc_9449() {
    let Some(examples) = read("ours/rfc-examples.json") else { return };
    let example = &examples["rfc9449-jkt"];
    let key = PublicKey::from_jwk(&example["jwk"].to_string()).unwrap();
    assert_eq!(key.thumbprint(), example["jkt"].as_str().unwrap());
}

#[test]
fn refuses_the_keys_of_rfc_7520_each_for_its_reason() {
    let refused = |name: &str| {
        let jwk = read(&format!("jose-cookbook/jwk/{name}.json"))?;
        Some(PublicKey::from_jwk(&jwk.to_string()).unwrap_err())
    };
    let Some(other_curve) = refused("3_1.ec_public_key") else { return };
    assert_eq!(other_curve, JwkError::OtherKind { kty: "EC".into(), crv: "P-521".into() });
    assert_eq!(refused("3_2.ec_private_key"), Some(JwkError::Private));
    assert_eq!(
        refused("3_3.rsa_public_key"),
        Some(JwkError::OtherKind { kty: "RSA".into(), crv: String::new() })
    );
    // The RSA private key is longer than any key of ours and is not even parsed.
    assert!(matches!(refused("3_4.rsa_private_key"), Some(JwkError::TooLong { .. })));
    assert_eq!(refused("3_5.symmetric_key_mac_computation"), Some(JwkError::Private));
    assert_eq!(refused("3_6.symmetric_key_encryption"), Some(JwkError::Private));
}
