//! Vectors of others: ECDSA P-256, Ed25519 and RSA of Wycheproof, keys of RFC 7520, thumbprints of RFC 7638.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use countersign_keys::{Algorithm, JwkError, KeyPair, PublicKey, SignatureInvalid, TokenKeyError};
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
fn verifies_every_wycheproof_signature_of_ed25519_and_rsa_as_expected() {
    for (file, jwk, at_least) in
        [("ed25519_test", "publicKeyJwk", 150), ("rsa_signature_2048_sha256_test", "keyJwk", 240)]
    {
        let Some(vectors) = read(&format!("wycheproof/{file}.json")) else { return };
        let mut tried = 0;
        for group in vectors["testGroups"].as_array().unwrap() {
            let mut jwk = group[jwk].clone();
            jwk.as_object_mut().unwrap().remove("kid");
            let key = match PublicKey::from_jwk(&jwk.to_string()) {
                // RSA with the exponent 3 has too many ways to be used wrongly.
                Err(JwkError::Key(refused)) => {
                    assert_eq!(
                        (refused, jwk["e"].as_str()),
                        (TokenKeyError::BadRsa { bits: 2048 }, Some("Aw"))
                    );
                    continue;
                }
                key => key.unwrap(),
            };
            for test in group["tests"].as_array().unwrap() {
                let [message, signature] = ["msg", "sig"].map(|field| unhex(test[field].as_str().unwrap()));
                // The one "acceptable" signature lacks a NULL that PKCS #1 demands.
                let expected = if test["result"] == "valid" { Ok(()) } else { Err(SignatureInvalid) };
                assert_eq!(key.verify_raw(&message, &signature), expected, "{file} {}", test["tcId"]);
                tried += 1;
            }
        }
        assert!(tried >= at_least, "only {tried} vectors of {file} were found");
    }
}

#[test]
fn signs_with_ed25519_exactly_as_wycheproof_and_openssl_do() {
    let pem_key = std::process::Command::new("openssl")
        .args(["genpkey", "-algorithm", "ed25519", "-outform", "DER"])
        .output()
        .unwrap();
    let key = KeyPair::from_token_pkcs8(&pem_key.stdout).unwrap();
    assert_eq!(key.algorithm(), Algorithm::Ed25519);
    let dir = countersign_testkit::temp_dir();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("key"), &pem_key.stdout).unwrap();
    std::fs::write(path("message"), b"message").unwrap();
    let signed = std::process::Command::new("openssl")
        .args(["pkeyutl", "-sign", "-rawin", "-keyform", "DER", "-inkey"])
        .arg(path("key"))
        .arg("-in")
        .arg(path("message"))
        .output()
        .unwrap();
    assert_eq!(key.sign_raw(b"message").unwrap(), signed.stdout, "RFC 8032 leaves nothing to chance");
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
fn computes_the_thumbprints_of_the_rfcs() {
    let Some(examples) = read("ours/rfc-examples.json") else { return };
    for (name, field) in
        [("rfc9449-jkt", "jkt"), ("rfc7638-3.1", "thumbprint_S256"), ("rfc8037-a", "thumbprint_S256")]
    {
        let mut jwk = examples[name]["jwk"].clone();
        jwk.as_object_mut().unwrap().remove("d");
        let key = PublicKey::from_jwk(&jwk.to_string()).unwrap();
        assert_eq!(key.thumbprint(), examples[name][field].as_str().unwrap(), "{name}");
    }
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
    // A sound key, but its name says nothing about it.
    assert_eq!(refused("3_3.rsa_public_key"), Some(JwkError::WrongKid));
    // The RSA private key is longer than any key of ours and is not even parsed.
    assert!(matches!(refused("3_4.rsa_private_key"), Some(JwkError::TooLong { .. })));
    assert_eq!(refused("3_5.symmetric_key_mac_computation"), Some(JwkError::Private));
    assert_eq!(refused("3_6.symmetric_key_encryption"), Some(JwkError::Private));
}
