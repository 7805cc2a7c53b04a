//! JWT-SVIDs: what we issue, what we take from others, and one test for each reason to refuse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use common::{NOW, at, forge, header, key, payload};
use countersign_identity::{CLOCK_SKEW, SpiffeId, TrustDomain, UnixTime, Verified};
use countersign_keys::KeyPair;
use countersign_token::{ClaimError, JwsError, JwtSvid, JwtSvidError, TimeError};
use proptest::prelude::*;
use serde_json::{Value, json};

const US: &str = "spiffe://fleamarket.test/svc/media";

#[test]
fn accepts_what_its_trust_domain_issued_for_us() {
    let [p256, _, rsa] = common::keys_of_every_algorithm();
    for key in [p256, rsa] {
        let verified = verify(&key, &svid().mint(&key).unwrap()).unwrap();
        assert_eq!(*verified.get(), svid());
        let facts = verified.facts("kid");
        assert_eq!((facts.ids, facts.subject.as_str()), (vec!["jti-1".to_owned()], svid().subject.as_str()));
        assert_eq!((facts.issued_at, facts.expires), (NOW, at(300)));
    }
}

#[test]
fn what_we_issue_has_three_header_members_and_the_claims_of_the_standard() {
    let key = key();
    let token = svid().mint(&key).unwrap();
    let part = token.split('.').next().unwrap();
    let decoded = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, part).unwrap();
    let header: Value = serde_json::from_slice(&decoded).unwrap();
    assert_eq!(header, json!({ "alg": "ES256", "kid": key.public_key().thumbprint(), "typ": "JWT" }));
    let claims = json!({
        "sub": "spiffe://fleamarket.test/svc/ads", "aud": [US, "other"], "exp": NOW.secs() + 300,
        "iat": NOW.secs(), "jti": "jti-1",
    });
    assert_eq!(payload(&token), claims);
}

#[test]
fn accepts_the_forms_that_other_issuers_write() {
    let key = key();
    let kid = key.public_key().thumbprint();
    let minimal = json!({ "sub": svid().subject.as_str(), "aud": US, "exp": NOW.secs() + 300 });
    for header in [
        json!({ "alg": "ES256", "kid": kid }),
        json!({ "alg": "ES256", "kid": kid, "typ": "JWT" }),
        json!({ "alg": "ES256", "kid": kid, "typ": "JOSE" }),
        // Foreign trust domains name their keys as they like: the bundle knows.
        json!({ "alg": "ES256", "kid": "spire-key-1" }),
    ] {
        let token = forge(&key, &header.to_string(), &minimal.to_string());
        let verified = verify(&key, &token).unwrap();
        assert_eq!((verified.jti.clone(), verified.issued_at), (None, None), "{header}");
        // Nobody knows when it was issued: for a revocation it is as old as it may be.
        assert_eq!(verified.facts("kid").issued_at, at(300 - 3600));
    }
}

#[test]
fn the_key_is_looked_up_in_the_bundle_of_the_subjects_own_trust_domain() {
    let key = key();
    let foreign = JwtSvid { subject: SpiffeId::parse("spiffe://other.test/svc/ads").unwrap(), ..svid() };
    let token = foreign.mint(&key).unwrap();
    // Our own bundle has the key; it says nothing about theirs.
    let trust_domain = TrustDomain::parse("other.test").unwrap();
    let kid = key.public_key().thumbprint();
    assert_eq!(
        verify(&key, &token),
        Err(JwtSvidError::UnknownKey { kid, trust_domain: trust_domain.clone() })
    );
    let verified = JwtSvid::verify(&token, US, NOW, |domain, _| {
        (*domain == trust_domain).then(|| key.public_key().clone())
    });
    assert_eq!(verified.unwrap().subject, foreign.subject);
}

#[test]
fn rejects_a_missing_kid_and_every_other_header_member() {
    let key = key();
    let claims = payload(&svid().mint(&key).unwrap()).to_string();
    let token = forge(&key, r#"{"alg":"ES256"}"#, &claims);
    let missing = JwsError::Header(ClaimError::Missing { name: "kid" });
    assert_eq!(verify(&key, &token), Err(JwtSvidError::Jws(missing)));
    for member in ["jku", "jwk", "x5u", "x5c", "x5t#S256", "crit", "cty", "zip"] {
        let header = json!({ "alg": "ES256", "kid": key.public_key().thumbprint(), member: "a" });
        let found = verify(&key, &forge(&key, &header.to_string(), &claims));
        let forbidden = JwsError::ForbiddenMember { member: member.into() };
        assert_eq!(found, Err(JwtSvidError::Jws(forbidden)));
    }
}

#[test]
fn rejects_a_type_that_is_not_jwt_or_jose() {
    let key = key();
    let claims = payload(&svid().mint(&key).unwrap()).to_string();
    for typ in ["at+jwt", "wit+jwt", "txntoken+jwt", "countersign-service+jwt", "client-authentication+jwt"] {
        let found = verify(&key, &forge(&key, &header(&key, typ), &claims));
        let other = JwsError::OtherKind { typ: typ.into(), want: "JWT" };
        assert_eq!(found, Err(JwtSvidError::Jws(other)));
    }
}

#[test]
fn rejects_ed25519_hmac_and_none() {
    let [_, ed25519, _] = common::keys_of_every_algorithm();
    let forbidden = |alg: &str| JwtSvidError::Jws(JwsError::ForbiddenAlgorithm { alg: alg.into() });
    assert_eq!(svid().mint(&ed25519), Err(forbidden("Ed25519")));
    let key = key();
    let claims = payload(&svid().mint(&key).unwrap()).to_string();
    for alg in ["EdDSA", "Ed25519", "HS256", "none"] {
        let header = json!({ "alg": alg, "kid": "k" }).to_string();
        assert_eq!(verify(&ed25519, &forge(&ed25519, &header, &claims)), Err(forbidden(alg)));
    }
}

#[test]
fn rejects_a_token_that_is_not_for_us() {
    let key = key();
    for aud in [json!("spiffe://fleamarket.test/svc/chat"), json!(["a", "b"]), json!(format!("{US}/"))] {
        let found = verify(&key, &changed(&key, |claims| claims["aud"] = aud.clone()));
        assert!(matches!(found, Err(JwtSvidError::WrongAudience { got: Some(_) })), "{aud}");
    }
    let empty = verify(&key, &changed(&key, |claims| claims["aud"] = json!([])));
    assert_eq!(empty, Err(JwtSvidError::Claim(ClaimError::Empty { name: "aud" })));
    // CVE-2020-26160: an audience of the wrong type is none that fits.
    for aud in [json!(null), json!(1), json!({ US: 1 }), json!([US, 1]), json!([[US]])] {
        let found = verify(&key, &changed(&key, |claims| claims["aud"] = aud.clone()));
        assert!(matches!(found, Err(JwtSvidError::Claim(_))), "{aud}: {found:?}");
    }
}

#[test]
fn rejects_a_subject_that_is_no_spiffe_id_of_a_workload() {
    let key = key();
    for sub in ["ads", "spiffe://fleamarket.test"] {
        let found = verify(&key, &changed(&key, |claims| claims["sub"] = json!(sub)));
        assert_eq!(found, Err(JwtSvidError::NotAnId { sub: sub.into() }));
    }
}

#[test]
fn rejects_a_token_that_lives_too_long_has_ended_or_has_not_begun() {
    let key = key();
    let judged = |token: &str, now| verify_at(&key, token, now).map(|_| ());
    let token = svid().mint(&key).unwrap();
    assert_eq!(judged(&token, at(299)), Ok(()));
    assert_eq!(judged(&token, at(300)), Err(TimeError::Expired { by_seconds: 0 }.into()));
    let skew = i64::try_from(CLOCK_SKEW.as_secs()).unwrap();
    assert_eq!(judged(&token, at(-skew - 1)), Err(TimeError::NotYetValid { in_seconds: 61 }.into()));
    let lifetime = |seconds| Err(JwtSvidError::Times(TimeError::Lifetime { seconds, max: 3600 }));
    assert_eq!(
        judged(&changed(&key, |claims| claims["exp"] = json!(NOW.secs() + 3601)), NOW),
        lifetime(3601)
    );
    // Without a time of issue: what is left of it, as the clock of its issuer may have it.
    let without = |left: i64| {
        changed(&key, |claims| {
            claims["exp"] = json!(NOW.secs() + left);
            claims.as_object_mut().unwrap().remove("iat");
        })
    };
    assert_eq!(judged(&without(3600 + skew), NOW), Ok(()));
    assert_eq!(judged(&without(3601 + skew), NOW), lifetime(3601));
    assert_eq!(judged(&without(0), NOW), Err(TimeError::Expired { by_seconds: 0 }.into()));
    let later = changed(&key, |claims| claims["nbf"] = json!(NOW.secs() + skew + 1));
    assert_eq!(judged(&later, NOW), Err(TimeError::NotYetValid { in_seconds: 61 }.into()));
}

#[test]
fn rejects_claims_that_are_absent_or_of_another_type() {
    let key = key();
    for name in ["sub", "aud", "exp"] {
        let found = verify(&key, &changed(&key, |claims| drop(claims.as_object_mut().unwrap().remove(name))));
        assert_eq!(found, Err(JwtSvidError::Claim(ClaimError::Missing { name })));
    }
    for name in ["sub", "exp", "iat", "nbf", "jti"] {
        for value in [json!(null), json!([]), json!(true), json!(1.5), json!({})] {
            let found = verify(&key, &changed(&key, |claims| claims[name] = value.clone()));
            assert!(matches!(found, Err(JwtSvidError::Claim(_))), "{name} = {value}: {found:?}");
        }
    }
    let text = verify(&key, &changed(&key, |claims| claims["exp"] = json!("1900000000")));
    assert!(matches!(text, Err(JwtSvidError::Claim(_))), "CVE-2026-25537");
}

#[test]
fn what_we_issue_can_always_be_taken_back() {
    let key = key();
    let missing = |name| Err(JwtSvidError::Claim(ClaimError::Missing { name }));
    assert_eq!(JwtSvid { jti: None, ..svid() }.mint(&key), missing("jti"));
    assert_eq!(JwtSvid { issued_at: None, ..svid() }.mint(&key), missing("iat"));
    let nobody = JwtSvid { audiences: Vec::new(), ..svid() }.mint(&key);
    assert_eq!(nobody, Err(JwtSvidError::Claim(ClaimError::Empty { name: "aud" })));
}

#[test]
fn rejects_a_signature_that_does_not_fit() {
    let (ours, theirs) = (key(), key());
    let token = svid().mint(&theirs).unwrap();
    let found = JwtSvid::verify(&token, US, NOW, |_, _| Some(ours.public_key().clone()));
    assert_eq!(found, Err(JwtSvidError::Jws(JwsError::BadSignature)));
}

fn svid() -> JwtSvid {
    JwtSvid {
        subject: SpiffeId::parse("spiffe://fleamarket.test/svc/ads").unwrap(),
        audiences: vec![US.into(), "other".into()],
        jti: Some("jti-1".into()),
        issued_at: Some(NOW),
        expires: at(300),
    }
}

fn changed(key: &KeyPair, change: impl FnOnce(&mut Value)) -> String {
    common::reissue(key, "JWT", &svid().mint(key).unwrap(), change)
}

fn verify(key: &KeyPair, token: &str) -> Result<Verified<JwtSvid>, JwtSvidError> {
    verify_at(key, token, NOW)
}

fn verify_at(key: &KeyPair, token: &str, now: UnixTime) -> Result<Verified<JwtSvid>, JwtSvidError> {
    JwtSvid::verify(token, US, now, |domain, _| {
        (domain.as_str() == "fleamarket.test").then(|| key.public_key().clone())
    })
}

proptest! {
    #[test]
    fn whatever_is_signed_as_claims_is_judged_without_a_panic(claims in ".{0,200}") {
        let key = key();
        let token = forge(&key, &header(&key, "JWT"), &claims);
        prop_assert!(verify(&key, &token).is_err());
    }
}
