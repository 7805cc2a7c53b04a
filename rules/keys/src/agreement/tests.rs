#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use super::*;
use crate::{KeyPair, PublicKey, SystemRandom};

/// RFC 7518 appendix C: what Alice's ephemeral key and Bob's key agree on.
#[test]
fn derives_the_key_of_rfc_7518_appendix_c() {
    let alice = private("0_NxaRPUMQoAJt50Gz8YiTr8gRTwyEaCumd-MToTmIo");
    let bob = private("VEmDZpDXXK8p8N0Cndsxs924q6nS1RXFASRl6BfUqdw");
    let alice_public = r#"{"kty":"EC","crv":"P-256","x":"gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0","y":"SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps"}"#;
    let bob_public = r#"{"kty":"EC","crv":"P-256","x":"weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ","y":"e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck"}"#;
    assert_eq!(*alice.public_key(), AgreementPublicKey::from_ephemeral_jwk(alice_public).unwrap());
    assert_eq!(*bob.public_key(), AgreementPublicKey::from_ephemeral_jwk(bob_public).unwrap());

    for (mine, theirs) in [(&alice, bob.public_key()), (&bob, alice.public_key())] {
        let theirs = UnparsedPublicKey::new(&ECDH_P256, theirs.0);
        let derived = agree(&mine.private, theirs, (), |agreed| {
            assert_eq!(agreed, AGREED);
            Ok(concat_kdf(agreed, b"A128GCM", b"Alice", b"Bob", 128))
        });
        assert_eq!(URL_SAFE_NO_PAD.encode(&derived.unwrap()[..16]), "VqqN6vgjbSBcIijNcacQGg");
    }
}

#[test]
fn what_was_sealed_to_a_key_opens_with_it_and_with_no_other() {
    let (key, other) = (AgreementKey::generate().unwrap(), AgreementKey::generate().unwrap());
    let (ephemeral, content_key) = key.public_key().agree(&SystemRandom::new()).unwrap();
    let sealed = content_key.seal([7; NONCE_BYTES], b"head", b"a secret").unwrap();
    assert_ne!(sealed.ciphertext, b"a secret");
    let open = |key: &AgreementKey, nonce, associated: &[u8], sealed: &SealedContent| {
        key.agree(&ephemeral).unwrap().open(nonce, associated, sealed).map(|secret| secret.expose().clone())
    };
    assert_eq!(open(&key, [7; NONCE_BYTES], b"head", &sealed), Ok(b"a secret".to_vec()));
    assert_eq!(open(&other, [7; NONCE_BYTES], b"head", &sealed), Err(AgreementError::Damaged));
    assert_eq!(open(&key, [8; NONCE_BYTES], b"head", &sealed), Err(AgreementError::Damaged));
    assert_eq!(open(&key, [7; NONCE_BYTES], b"Head", &sealed), Err(AgreementError::Damaged));
    let changed = |change: fn(&mut SealedContent)| {
        let mut sealed = sealed.clone();
        change(&mut sealed);
        open(&key, [7; NONCE_BYTES], b"head", &sealed)
    };
    assert_eq!(changed(|sealed| sealed.ciphertext[0] ^= 1), Err(AgreementError::Damaged));
    assert_eq!(changed(|sealed| sealed.tag[15] ^= 1), Err(AgreementError::Damaged));
    assert_eq!(changed(|sealed| sealed.ciphertext.truncate(7)), Err(AgreementError::Damaged));
}

#[test]
fn every_message_has_an_ephemeral_key_of_its_own() {
    let key = AgreementKey::generate().unwrap();
    let (one, _) = key.public_key().agree(&SystemRandom::new()).unwrap();
    let (two, _) = key.public_key().agree(&SystemRandom::new()).unwrap();
    assert_ne!(one, two);
}

#[test]
fn a_key_survives_the_ways_it_is_written() {
    let key = AgreementKey::generate().unwrap();
    let again = AgreementKey::from_pkcs8(key.to_pkcs8().unwrap().expose()).unwrap();
    assert_eq!(again.public_key(), key.public_key());
    let public = key.public_key();
    assert_eq!(AgreementPublicKey::from_jwk(&public.to_jwk()), Ok(public.clone()));
    assert_eq!(AgreementPublicKey::from_ephemeral_jwk(&public.to_ephemeral_jwk()), Ok(public.clone()));
}

#[test]
fn debug_shows_no_key() {
    let key = AgreementKey::generate().unwrap();
    let (_, content_key) = key.public_key().agree(&SystemRandom::new()).unwrap();
    let thumbprint = key.public_key().thumbprint();
    assert_eq!(format!("{key:?}"), format!("AgreementKey({thumbprint})"));
    assert_eq!(
        format!("{:?} {content_key:?}", key.public_key()),
        format!("AgreementPublicKey({thumbprint}) ContentKey(..)")
    );
}

#[test]
fn a_key_for_encryption_is_never_one_for_signatures() {
    let encryption = AgreementKey::generate().unwrap();
    assert!(PublicKey::from_jwk(&encryption.public_key().to_jwk()).is_err());
    let signature = KeyPair::generate(&SystemRandom::new()).unwrap();
    let jwk = signature.public_key().to_jwk();
    assert_eq!(AgreementPublicKey::from_jwk(&jwk), Err(AgreementJwkError::OtherUse));
    // Nor is one that does not say what it is for, nor one in place of an ephemeral key.
    let bare = encryption.public_key().to_ephemeral_jwk();
    assert_eq!(AgreementPublicKey::from_jwk(&bare), Err(AgreementJwkError::OtherUse));
    let published = encryption.public_key().to_jwk();
    assert_eq!(AgreementPublicKey::from_ephemeral_jwk(&published), Err(AgreementJwkError::OtherUse));
}

#[test]
fn rejects_a_jwk_for_another_way_of_agreeing() {
    let jwk = jwk_with(r#""alg":"ECDH-ES""#, r#""alg":"ECDH-ES+A256KW""#);
    assert_eq!(AgreementPublicKey::from_jwk(&jwk), Err(AgreementJwkError::OtherUse));
}

#[test]
fn rejects_a_jwk_that_holds_the_private_key() {
    let jwk = jwk_with("{", r#"{"d":"AAAA","#);
    assert_eq!(AgreementPublicKey::from_jwk(&jwk), Err(AgreementJwkError::Private));
}

#[test]
fn rejects_a_jwk_with_unknown_doubled_or_mistyped_members() {
    for (what, with) in [("{", r#"{"x5u":"","#), ("{", r#"{"kty":"EC","#), (r#""EC""#, "7"), ("}", "")] {
        let jwk = jwk_with(what, with);
        assert_eq!(AgreementPublicKey::from_jwk(&jwk), Err(AgreementJwkError::Malformed), "{jwk}");
    }
}

#[test]
fn rejects_a_jwk_of_another_kind() {
    let kind = |kty: &str, crv: &str| Err(AgreementJwkError::OtherKind { kty: kty.into(), crv: crv.into() });
    assert_eq!(AgreementPublicKey::from_jwk(&jwk_with("P-256", "P-384")), kind("EC", "P-384"));
    let x25519 = r#"{"kty":"OKP","crv":"X25519","x":"AAAA","use":"enc"}"#;
    assert_eq!(AgreementPublicKey::from_jwk(x25519), kind("OKP", "X25519"));
    assert_eq!(AgreementPublicKey::from_jwk(r#"{"use":"enc"}"#), kind("", ""));
}

#[test]
fn a_kind_that_a_stranger_invented_reaches_no_log_whole() {
    let long = "k".repeat(900);
    let jwk = format!(r#"{{"kty":"{long}","crv":"\u001b[2J\nlevel=info","use":"enc"}}"#);
    let short = AgreementJwkError::OtherKind { kty: long[..16].into(), crv: "[2Jlevel=info".into() };
    assert_eq!(AgreementPublicKey::from_jwk(&jwk), Err(short));
}

#[test]
fn rejects_an_ephemeral_point_off_the_curve() {
    // An invalid curve attack: the private key would leak a little with every such point.
    let (x, y) = AgreementKey::generate().unwrap().public_key().coordinates();
    let mut off_curve = URL_SAFE_NO_PAD.decode(&y).unwrap();
    off_curve[31] ^= 1;
    let zero = URL_SAFE_NO_PAD.encode([0; 32]);
    for (x, y) in [
        (x.clone(), URL_SAFE_NO_PAD.encode(&off_curve)),
        (zero.clone(), zero),
        (x.clone(), y[..42].to_owned()),
        (x.clone(), format!("{y}=")),
        (x, String::new()),
    ] {
        let jwk = format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}"}}"#);
        assert_eq!(AgreementPublicKey::from_ephemeral_jwk(&jwk), Err(AgreementJwkError::NotOnCurve), "{jwk}");
    }
}

#[test]
fn rejects_a_kid_that_is_not_the_thumbprint() {
    let key = AgreementKey::generate().unwrap();
    let kid = key.public_key().thumbprint();
    let jwk = key.public_key().to_jwk().replace(&kid, "other");
    assert_eq!(AgreementPublicKey::from_jwk(&jwk), Err(AgreementJwkError::WrongKid));
}

#[test]
fn rejects_a_jwk_one_byte_above_the_limit() {
    let jwk = AgreementKey::generate().unwrap().public_key().to_jwk();
    let padded = |bytes: usize| format!("{jwk}{}", " ".repeat(bytes - jwk.len()));
    assert!(AgreementPublicKey::from_jwk(&padded(AGREEMENT_JWK_BYTES_MAX)).is_ok());
    let bytes = AGREEMENT_JWK_BYTES_MAX + 1;
    assert_eq!(AgreementPublicKey::from_jwk(&padded(bytes)), Err(AgreementJwkError::TooLong { bytes }));
}

#[test]
fn rejects_bytes_that_are_no_private_key_on_p_256() {
    let ed25519 = KeyPair::generate_ed25519(&SystemRandom::new()).unwrap().to_pkcs8().unwrap();
    for bytes in [&[][..], &[0x30, 0], ed25519.expose()] {
        assert_eq!(AgreementKey::from_pkcs8(bytes).unwrap_err(), AgreementError::NotPkcs8);
    }
}

#[test]
fn a_failing_generator_and_a_failing_library_are_told_apart() {
    assert_eq!(
        AgreementError::from(RandomError::Unavailable),
        AgreementError::Random(RandomError::Unavailable)
    );
    assert_ne!(
        AgreementError::Failed.to_string(),
        AgreementError::Random(RandomError::Unavailable).to_string()
    );
}

fn private(d: &str) -> AgreementKey {
    let bytes = URL_SAFE_NO_PAD.decode(d).unwrap();
    AgreementKey::of(PrivateKey::from_private_key(&ECDH_P256, &bytes).unwrap()).unwrap()
}

/// A good JWK with the first `what` in it replaced.
fn jwk_with(what: &str, with: &str) -> String {
    AgreementKey::generate().unwrap().public_key().to_jwk().replacen(what, with, 1)
}

const AGREED: [u8; 32] = [
    158, 86, 217, 29, 129, 113, 53, 211, 114, 131, 66, 131, 191, 132, 38, 156, 251, 49, 110, 163, 218, 128,
    106, 72, 246, 218, 167, 121, 140, 254, 144, 196,
];
