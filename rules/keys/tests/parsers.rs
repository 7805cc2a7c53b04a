//! No bytes whatsoever make a parser panic.
#![allow(clippy::unwrap_used)]

use countersign_identity::TrustDomain;
use countersign_keys::{
    AgreementKey, AgreementPublicKey, KeyPair, MasterKey, PublicKey, SealContext, Sealed, SystemRandom,
    algorithm,
};
use proptest::prelude::*;

static RSA: std::sync::LazyLock<KeyPair> = std::sync::LazyLock::new(|| KeyPair::generate_rsa().unwrap());

/// A good public key with some bytes changed: gets further into the parser than noise does.
fn mutated_spki() -> impl Strategy<Value = Vec<u8>> {
    let good = KeyPair::generate(&SystemRandom::new()).unwrap().public_key().spki_der();
    proptest::collection::vec((0..good.len(), any::<u8>()), 1..4).prop_map(move |changes| {
        let mut bytes = good.clone();
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes
    })
}

proptest! {
    #[test]
    fn key_parsers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = algorithm::judge(&bytes);
        let _ = KeyPair::from_pkcs8(&bytes);
        let _ = MasterKey::from_file_bytes(&bytes);
        let _ = KeyPair::from_token_pkcs8(&bytes);
        let _ = PublicKey::from_point(&bytes);
        let _ = PublicKey::from_ed25519(&bytes);
        let _ = PublicKey::from_rsa_der(&bytes);
        let _ = PublicKey::from_jwk(&String::from_utf8_lossy(&bytes));
        let _ = AgreementPublicKey::from_jwk(&String::from_utf8_lossy(&bytes));
        let _ = AgreementKey::from_pkcs8(&bytes);
    }

    #[test]
    fn whatever_is_judged_good_is_a_key_and_nothing_else_is(bytes in mutated_spki()) {
        prop_assert_eq!(algorithm::judge(&bytes).is_ok(), PublicKey::from_spki_der(&bytes).is_ok());
    }

    #[test]
    fn a_changed_rsa_key_is_refused_or_written_back_as_it_was_read(changes in proptest::collection::vec((0..270_usize, any::<u8>()), 1..3)) {
        let mut bytes = RSA.public_key().subject_public_key().to_vec();
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if let Ok(key) = PublicKey::from_rsa_der(&bytes) {
            let read = PublicKey::from_jwk(&key.to_jwk()).unwrap();
            prop_assert_eq!(read.subject_public_key(), &bytes);
        }
    }

    #[test]
    fn jwk_parser_never_panics(json in r#"\{("(kty|crv|x|y|n|e|kid|d)":("EC"|"RSA"|"OKP"|"Ed25519"|"P-256"|"[A-Za-z0-9_-]{0,44}"|[0-9]{1,3}|null),?){0,6}\}"#) {
        let _ = PublicKey::from_jwk(&json);
        let _ = AgreementPublicKey::from_jwk(&json);
        let _ = AgreementPublicKey::from_ephemeral_jwk(&json);
    }

    #[test]
    fn sealed_blobs_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
        let master = MasterKey::generate(&SystemRandom::new()).unwrap();
        let home = TrustDomain::parse("fleamarket.test").unwrap();
        let context = SealContext { trust_domain: &home, purpose: "p", row_id: "r", key_version: 1 };
        prop_assert!(Sealed::from_bytes(bytes).open(&master, context).is_err());
    }
}
