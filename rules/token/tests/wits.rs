//! Workload identity tokens: who is named, by whom, and why one is refused.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use common::{NOW, at, forge, key, payload, reissue};
use countersign_identity::{SpiffeId, TrustDomain};
use countersign_keys::{JwkError, KeyPair, SystemRandom};
use countersign_token::{
    ClaimError, ConfirmationKey, JwsError, TimeError, Unproven, Wit, WitError, WitIssuer, WorkloadUri,
    wit::{Subject, WIT_LIFETIME_MAX, WIT_TYP},
};
use proptest::prelude::*;
use serde_json::{Value, json};

#[test]
fn accepts_what_it_mints_and_tells_what_may_be_revoked() {
    let (issuer, workload) = (key(), key());
    let unproven = verify(&wit(&workload).mint(&issuer, NOW).unwrap(), &issuer).unwrap();
    assert_eq!(unproven.claimed_subject().as_str(), ADS);
    assert_eq!(unproven.token_id(), Some("wit-1"));
    assert_eq!(unproven.expires(), at(3600));
    assert_eq!(unproven.key_ids(), [issuer.public_key().thumbprint(), workload.public_key().thumbprint()]);
}

#[test]
fn says_everything_that_the_standard_demands_and_nothing_that_it_forbids() {
    let (issuer, workload) = (key(), key());
    let token = wit(&workload).mint(&issuer, NOW).unwrap();
    let header = json!({ "alg": "ES256", "kid": issuer.public_key().thumbprint(), "typ": "wit+jwt" });
    assert_eq!(common::part(&token, 0), header);
    let claims = payload(&token);
    let mut names: Vec<_> = claims.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["cnf", "exp", "iat", "iss", "jti", "sub"], "no aud, no nbf");
    assert_eq!(claims["cnf"]["jwk"]["alg"], "ES256");
}

#[test]
fn accepts_a_token_without_jti_and_iss() {
    let (issuer, workload) = (key(), key());
    let bare = Wit { token_id: None, issuer: None, ..wit(&workload) };
    let unproven = verify(&bare.mint(&issuer, NOW).unwrap(), &issuer).unwrap();
    assert_eq!(unproven.token_id(), None);
}

#[test]
fn iat_is_never_the_beginning_of_validity() {
    let issuer = key();
    let token = reissue(&issuer, WIT_TYP, &minted(&issuer), |claims| claims["iat"] = at(3000).secs().into());
    assert!(verify(&token, &issuer).is_ok());
}

#[test]
fn rejects_a_token_of_another_kind() {
    let issuer = key();
    for typ in ["JWT", "at+jwt", "wpt+jwt", "txntoken+jwt"] {
        let token = reissue(&issuer, typ, &minted(&issuer), |_| {});
        assert_eq!(verify(&token, &issuer), Err(WitError::WrongKind { typ: typ.to_lowercase() }));
    }
    let untyped = forge(&issuer, &json!({ "alg": "ES256", "kid": "k" }).to_string(), "{}");
    assert_eq!(verify(&untyped, &issuer), Err(WitError::WrongKind { typ: String::new() }));
}

#[test]
fn rejects_a_key_that_is_not_published_for_wits() {
    let issuer = key();
    let kid = issuer.public_key().thumbprint();
    let found = Wit::<SpiffeId>::verify(&minted(&issuer), NOW, |_| None);
    assert_eq!(found, Err(WitError::UnknownKey { kid }));
}

#[test]
fn rejects_a_signature_by_another_key() {
    let (ours, theirs) = (key(), key());
    let header = common::header(&ours, WIT_TYP);
    let token = forge(&theirs, &header, &payload(&minted(&ours)).to_string());
    assert_eq!(verify(&token, &ours), Err(WitError::Jws(JwsError::BadSignature)));
}

#[test]
fn rejects_a_key_that_the_kid_does_not_name() {
    let issuer = key();
    let other = key();
    let found = Wit::<SpiffeId>::verify(&minted(&issuer), NOW, |_| Some(authority(&other)));
    assert_eq!(found, Err(WitError::Jws(JwsError::WrongKey)));
}

#[test]
fn rejects_an_audience_whatever_it_is() {
    let issuer = key();
    for audience in [json!("spiffe://fleamarket.test/svc/users"), json!([]), Value::Null] {
        let token = reissue(&issuer, WIT_TYP, &minted(&issuer), |claims| claims["aud"] = audience);
        assert_eq!(verify(&token, &issuer), Err(WitError::Audience));
    }
}

#[test]
fn rejects_a_subject_that_is_no_workload() {
    let issuer = key();
    for sub in
        ["ads", "https://fleamarket.test/svc/ads", "spiffe://fleamarket.test", "wimse://fleamarket.test/ads"]
    {
        let token = reissue(&issuer, WIT_TYP, &minted(&issuer), |claims| claims["sub"] = sub.into());
        assert_eq!(verify(&token, &issuer), Err(WitError::NotAWorkload { sub: sub.into() }));
    }
}

#[test]
fn rejects_a_subject_of_another_trust_domain_than_that_of_the_key() {
    let issuer = key();
    let sub = "spiffe://other.test/svc/ads";
    let token = reissue(&issuer, WIT_TYP, &minted(&issuer), |claims| claims["sub"] = sub.into());
    let refused = WitError::WrongTrustDomain { issuer: home(), sub: sub.into() };
    assert_eq!(verify(&token, &issuer), Err(refused));
}

#[test]
fn rejects_an_issuer_that_is_not_that_of_the_trust_domain() {
    let issuer = key();
    let token =
        reissue(&issuer, WIT_TYP, &minted(&issuer), |claims| claims["iss"] = "https://evil.test".into());
    assert_eq!(verify(&token, &issuer), Err(WitError::WrongIssuer { got: "https://evil.test".into() }));
}

#[test]
fn does_not_judge_an_issuer_of_whom_nothing_is_known_but_the_key() {
    let issuer = key();
    let nameless = WitIssuer { issuer: None, ..authority(&issuer) };
    let token =
        reissue(&issuer, WIT_TYP, &minted(&issuer), |claims| claims["iss"] = "https://any.test".into());
    assert!(Wit::<SpiffeId>::verify(&token, NOW, |_| Some(nameless)).is_ok());
}

#[test]
fn rejects_a_confirmation_that_is_not_exactly_one_key() {
    let issuer = key();
    let refused = |change: fn(&mut Value)| {
        verify(&reissue(&issuer, WIT_TYP, &minted(&issuer), change), &issuer).unwrap_err()
    };
    assert_eq!(
        refused(|claims| claims["cnf"]["x5t#S256"] = "AAAA".into()),
        WitError::Confirmation { member: "x5t#S256".into() }
    );
    assert_eq!(
        refused(|claims| claims["cnf"] = json!({ "jkt": "AAAA" })),
        WitError::Confirmation { member: "jkt".into() }
    );
    assert_eq!(
        refused(|claims| claims["cnf"] = json!({})),
        WitError::Claim(ClaimError::Missing { name: "jwk" })
    );
}

#[test]
fn rejects_a_confirmation_key_without_alg() {
    let issuer = key();
    let token = reissue(&issuer, WIT_TYP, &minted(&issuer), |claims| {
        claims["cnf"]["jwk"].as_object_mut().unwrap().remove("alg");
    });
    assert_eq!(verify(&token, &issuer), Err(WitError::Claim(ClaimError::Missing { name: "alg" })));
}

#[test]
fn rejects_a_confirmation_key_that_is_private_symmetric_or_of_another_algorithm() {
    let issuer = key();
    let refused = |change: fn(&mut Value)| {
        verify(
            &reissue(&issuer, WIT_TYP, &minted(&issuer), |claims| change(&mut claims["cnf"]["jwk"])),
            &issuer,
        )
    };
    let bad = |error| Err(WitError::ConfirmationKey(error));
    assert_eq!(refused(|jwk| jwk["d"] = "AAAA".into()), bad(JwkError::Private));
    assert_eq!(
        refused(|jwk| *jwk = json!({ "kty": "oct", "k": "AAAA", "alg": "HS256" })),
        bad(JwkError::Private)
    );
    for alg in ["none", "HS256", "ES384", "ECDH-ES"] {
        let token =
            reissue(&issuer, WIT_TYP, &minted(&issuer), |claims| claims["cnf"]["jwk"]["alg"] = alg.into());
        assert_eq!(verify(&token, &issuer), bad(JwkError::OtherUse), "{alg}");
    }
    assert_eq!(refused(|jwk| jwk["use"] = "enc".into()), bad(JwkError::OtherUse));
}

#[test]
fn rejects_algorithms_that_the_profile_does_not_know() {
    let ed25519 = KeyPair::generate_ed25519(&SystemRandom::new()).unwrap();
    let forbidden = WitError::ForbiddenAlgorithm { alg: "Ed25519".into() };
    // As issuer's key and as the workload's: the generic profile takes both, that of SPIFFE takes neither.
    assert_eq!(wit(&key()).mint(&ed25519, NOW), Err(forbidden.clone()));
    assert_eq!(wit(&ed25519).mint(&key(), NOW), Err(forbidden.clone()));
    let foreign = reissue(&ed25519, WIT_TYP, &minted(&key()), |_| {});
    assert_eq!(verify(&foreign, &ed25519), Err(forbidden.clone()), "the issuer's key alone");
    let generic = Wit { subject: WorkloadUri::read(ADS).unwrap(), ..generic(&ed25519) };
    let token = generic.mint(&ed25519, NOW).unwrap();
    assert!(Wit::<WorkloadUri>::verify(&token, NOW, |_| Some(authority(&ed25519))).is_ok());
    assert_eq!(verify(&token, &ed25519), Err(forbidden));
}

#[test]
fn rejects_an_expired_token_in_the_second_that_it_expires() {
    let issuer = key();
    let token = minted(&issuer);
    let judged =
        |seconds| Wit::<SpiffeId>::verify(&token, at(seconds), |_| Some(authority(&issuer))).map(|_| ());
    assert_eq!(judged(3599), Ok(()));
    assert_eq!(judged(3600), Err(WitError::Times(TimeError::Expired { by_seconds: 0 })));
    assert_eq!(judged(3700), Err(WitError::Times(TimeError::Expired { by_seconds: 100 })));
}

#[test]
fn rejects_a_token_before_its_nbf() {
    let issuer = key();
    let token =
        |ahead| reissue(&issuer, WIT_TYP, &minted(&issuer), |claims| claims["nbf"] = at(ahead).secs().into());
    assert!(verify(&token(60), &issuer).is_ok(), "as much as honest clocks differ");
    assert_eq!(verify(&token(61), &issuer), Err(WitError::Times(TimeError::NotYetValid { in_seconds: 61 })));
}

#[test]
fn rejects_a_token_that_is_valid_for_longer_than_a_day() {
    let (issuer, longest) = (key(), i64::try_from(WIT_LIFETIME_MAX.as_secs()).unwrap());
    let token =
        |life| reissue(&issuer, WIT_TYP, &minted(&issuer), |claims| claims["exp"] = at(life).secs().into());
    assert!(verify(&token(longest + 60), &issuer).is_ok());
    let max = WIT_LIFETIME_MAX.as_secs() + 60;
    let seconds = max + 1;
    assert_eq!(
        verify(&token(longest + 61), &issuer),
        Err(WitError::Times(TimeError::Lifetime { seconds, max }))
    );
}

#[test]
fn rejects_a_token_without_a_required_claim() {
    let issuer = key();
    for name in ["sub", "exp", "cnf"] {
        let token = reissue(&issuer, WIT_TYP, &minted(&issuer), |claims| {
            claims.as_object_mut().unwrap().remove(name);
        });
        assert_eq!(verify(&token, &issuer), Err(WitError::Claim(ClaimError::Missing { name })));
    }
}

#[test]
fn rejects_an_optional_claim_of_the_wrong_type() {
    let issuer = key();
    for (name, want) in [("jti", "a string"), ("iss", "a string"), ("nbf", "a time in whole seconds")] {
        let token = reissue(&issuer, WIT_TYP, &minted(&issuer), |claims| claims[name] = Value::Null);
        assert_eq!(verify(&token, &issuer), Err(WitError::Claim(ClaimError::WrongType { name, want })));
    }
}

#[test]
fn does_not_mint_what_it_would_refuse() {
    let (issuer, workload) = (key(), key());
    let expired = Wit { expires: at(0), ..wit(&workload) };
    assert_eq!(expired.mint(&issuer, NOW), Err(WitError::Times(TimeError::Expired { by_seconds: 0 })));
    let endless = Wit { expires: at(1_000_000), ..wit(&workload) };
    assert_eq!(
        endless.mint(&issuer, NOW),
        Err(WitError::Times(TimeError::Lifetime { seconds: 1_000_000, max: 86_460 }))
    );
    let nobody = Wit { subject: "spiffe://fleamarket.test".parse().unwrap(), ..wit(&workload) };
    let sub = "spiffe://fleamarket.test".into();
    assert_eq!(nobody.mint(&issuer, NOW), Err(WitError::NotAWorkload { sub }));
}

#[test]
fn a_workload_uri_is_an_absolute_uri_whose_authority_is_a_trust_domain() {
    for good in ["wimse://example.com/svcA", "spiffe://a/b", "x+y-1.z://Trust_Domain/%41/b;c=d"] {
        assert!(WorkloadUri::read(good).is_some(), "{good}");
    }
    let long = format!("wimse://example.com/{}", "a".repeat(2048));
    for bad in [
        "",
        "wimse:example.com/a",
        "wimse://example.com",
        "wimse://example.com/",
        "wimse:///a",
        "://example.com/a",
        "1x://example.com/a",
        "wimse://user@example.com/a",
        "wimse://example.com:443/a",
        "wimse://example.com/a?b",
        "wimse://example.com/a#b",
        "wimse://example.com/a b",
        "wimse://example.com/é",
        &long,
    ] {
        assert_eq!(WorkloadUri::read(bad), None, "{bad}");
    }
}

#[test]
fn a_workload_uri_belongs_to_the_trust_domain_in_its_authority() {
    let issuer = key();
    let token = generic(&key()).mint(&issuer, NOW).unwrap();
    let other = WitIssuer { trust_domain: TrustDomain::parse("other.test").unwrap(), ..authority(&issuer) };
    let found = Wit::<WorkloadUri>::verify(&token, NOW, |_| Some(other));
    assert!(matches!(found, Err(WitError::WrongTrustDomain { .. })), "{found:?}");
}

proptest! {
    #[test]
    fn any_claims_are_read_or_refused_without_a_panic(
        members in prop::collection::vec(("(sub|exp|cnf|jti|iss|nbf|aud|jwk|[a-z]{0,3})", "(null|1|\"[ -~]{0,20}\"|\\{\\}|\\{\"jwk\":\\{\"alg\":\"ES256\"\\}\\})"), 0..7)
    ) {
        let issuer = key();
        let members: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        let json = format!("{{{}}}", members.join(","));
        let token = forge(&issuer, &common::header(&issuer, WIT_TYP), &json);
        prop_assert!(verify(&token, &issuer).is_err());
    }

    #[test]
    fn any_text_is_a_workload_uri_or_not_without_a_panic(text in "\\PC{0,40}") {
        let _ = WorkloadUri::read(&text);
        let _ = <SpiffeId as Subject>::read(&text);
    }
}

const ADS: &str = "spiffe://fleamarket.test/svc/ads";

fn wit(workload: &KeyPair) -> Wit {
    Wit {
        subject: ADS.parse().unwrap(),
        confirmation: ConfirmationKey::new(workload.public_key().clone()),
        token_id: Some("wit-1".into()),
        issuer: Some("https://authority.fleamarket.test".into()),
        expires: at(3600),
    }
}

fn generic(workload: &KeyPair) -> Wit<WorkloadUri> {
    Wit {
        subject: WorkloadUri::read("wimse://fleamarket.test/ads").unwrap(),
        confirmation: ConfirmationKey::new(workload.public_key().clone()),
        token_id: None,
        issuer: None,
        expires: at(3600),
    }
}

fn minted(issuer: &KeyPair) -> String {
    wit(&key()).mint(issuer, NOW).unwrap()
}

fn verify(token: &str, issuer: &KeyPair) -> Result<Unproven, WitError> {
    Wit::verify(token, NOW, |kid| (kid == issuer.public_key().thumbprint()).then(|| authority(issuer)))
}

fn authority(key: &KeyPair) -> WitIssuer {
    WitIssuer {
        kid: key.public_key().thumbprint(),
        key: key.public_key().clone(),
        trust_domain: home(),
        issuer: Some("https://authority.fleamarket.test".into()),
    }
}

fn home() -> TrustDomain {
    TrustDomain::parse("fleamarket.test").unwrap()
}
