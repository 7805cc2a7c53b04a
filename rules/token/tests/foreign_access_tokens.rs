//! Access tokens of other issuers: what is accepted, then one test for each reason to refuse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::time::Duration;

use common::{NOW, at, forge, key, keys_of_every_algorithm};
use countersign_identity::{Possession, UnixTime, User};
use countersign_keys::{JwkSet, KeyPair};
use countersign_token::{
    AccessGrant, ClaimError, ConfirmationError, ForeignIssuer, ForeignTokenError, ForeignTyp, JwsError,
    Shown, TimeError,
    foreign_access_token::{SUBJECT_BYTES_MAX, claimed_issuer},
};
use serde_json::{Value, json};

const ISSUER: &str = "https://sts.mesh.test";
const HASH: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";

fn issuer() -> ForeignIssuer {
    ForeignIssuer {
        issuer: ISSUER.into(),
        audience: "backend".into(),
        typs: vec![ForeignTyp::Jwt],
        lifetime_max: Duration::from_secs(3600),
        name_claim: None,
        roles_claim: None,
        roles: [("seller", "shop-seller"), ("admin", "shop-owner")].map(|(k, v)| (k.into(), v.into())).into(),
    }
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "spiffe://mesh.test/client", "aud": "backend", "iat": NOW.secs(),
        "nbf": NOW.secs() - 60, "exp": NOW.secs() + 600, "jti": "one", "scope": "read write",
    })
}

fn set(key: &KeyPair) -> JwkSet {
    let own = key.public_key();
    let jwk = own.to_jwk().replace(&own.thumbprint(), "k1");
    JwkSet::read(format!(r#"{{"keys":[{jwk}]}}"#).as_bytes()).unwrap()
}

fn header(key: &KeyPair) -> Value {
    json!({ "alg": key.algorithm().jose_name(), "typ": "JWT", "kid": "k1" })
}

fn verify(
    issuer: &ForeignIssuer,
    header: &Value,
    claims: &Value,
    now: UnixTime,
) -> Result<AccessGrant, ForeignTokenError> {
    let key = key();
    let token = forge(&key, &header.to_string(), &claims.to_string());
    issuer.verify(&token, Shown::NOTHING, &set(&key), now)
}

fn with(member: &str, value: Value) -> Result<AccessGrant, ForeignTokenError> {
    let mut claims = claims();
    claims[member] = value;
    verify(&issuer(), &header(&key()), &claims, NOW)
}

fn without(member: &str) -> Result<AccessGrant, ForeignTokenError> {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(member);
    verify(&issuer(), &header(&key()), &claims, NOW)
}

#[test]
fn accepts_a_token_and_names_its_subject_after_its_issuer() {
    let grant = with("groups", json!(["x"])).unwrap();
    let expected = User {
        id: "https://sts.mesh.test#spiffe://mesh.test/client".into(),
        name: "spiffe://mesh.test/client https://sts.mesh.test".into(),
        roles: Vec::new(),
        txn: "one".into(),
        requested_by: None,
        actors: Vec::new(),
        possession: Possession::None,
        not_after: at(600),
    };
    assert_eq!(*grant.user.get(), expected);
    assert_eq!((grant.facts.subject, grant.facts.ids), (expected.id, vec!["one".to_owned()]));
}

#[test]
fn accepts_es256_ed25519_under_both_names_and_rs256() {
    for key in keys_of_every_algorithm() {
        let own = key.algorithm().jose_name();
        for alg in [own, "EdDSA"].into_iter().filter(|alg| *alg == own || own == "Ed25519") {
            let header = json!({ "alg": alg, "typ": "JWT", "kid": "k1", "x5t": "whatever" });
            let token = forge(&key, &header.to_string(), &claims().to_string());
            issuer().verify(&token, Shown::NOTHING, &set(&key), NOW).unwrap();
        }
    }
}

#[test]
fn accepts_the_types_that_the_issuer_writes_and_no_others() {
    let typs =
        [(ForeignTyp::Jwt, "JWT"), (ForeignTyp::AtJwt, "application/at+jwt"), (ForeignTyp::Absent, "")];
    for (known, _) in typs {
        for (typ, written) in typs {
            let mut header = header(&key());
            match written {
                "" => drop(header.as_object_mut().unwrap().remove("typ")),
                written => header["typ"] = json!(written),
            }
            let issuer = ForeignIssuer { typs: vec![known], ..issuer() };
            let verified = verify(&issuer, &header, &claims(), NOW);
            assert_eq!(verified.is_ok(), known == typ, "{known:?} {written}");
        }
    }
    let mut header = header(&key());
    header["typ"] = json!("txntoken+jwt");
    let refused = verify(&issuer(), &header, &claims(), NOW);
    assert_eq!(refused, Err(ForeignTokenError::WrongKind { typ: "txntoken+jwt".into() }));
}

#[test]
fn roles_come_through_the_mapping_alone() {
    let path = |path: &[&str]| Some(path.iter().map(|member| (*member).to_owned()).collect());
    let roles = |roles_claim, value: Value| {
        let mut claims = claims();
        claims["realm"] = value;
        let issuer = ForeignIssuer { roles_claim, ..issuer() };
        verify(&issuer, &header(&key()), &claims, NOW).map(|grant| grant.user.get().roles.clone())
    };
    let said = json!({ "roles": ["root", "seller", "shop-owner", "seller"] });
    assert_eq!(roles(None, said.clone()), Ok(vec![]), "nothing by default");
    assert_eq!(roles(path(&["realm", "roles"]), said.clone()), Ok(vec!["shop-seller".to_owned()]));
    assert_eq!(roles(path(&["realm"]), json!("admin x")), Ok(vec!["shop-owner".to_owned()]));
    assert_eq!(roles(path(&["realm", "groups"]), said), Ok(vec![]));
    for wrong in [json!(1), json!([1]), json!({}), json!(null)] {
        let refused = roles(path(&["realm"]), wrong);
        assert!(
            matches!(refused, Err(ForeignTokenError::Claim(ClaimError::WrongType { .. }))),
            "{refused:?}"
        );
    }
}

#[test]
fn a_name_for_people_says_whose_word_it_is() {
    let named = |value: Value| {
        let mut claims = claims();
        claims["preferred_username"] = value;
        let issuer = ForeignIssuer { name_claim: Some(vec!["preferred_username".into()]), ..issuer() };
        verify(&issuer, &header(&key()), &claims, NOW).map(|grant| grant.user.get().name.clone())
    };
    assert_eq!(named(json!("alice")), Ok("alice https://sts.mesh.test".to_owned()));
    assert_eq!(named(json!("a\nb")), Err(ForeignTokenError::Unnameable { bytes: 3 }));
    assert!(matches!(named(json!(7)), Err(ForeignTokenError::Claim(ClaimError::WrongType { .. }))));
}

#[test]
fn rejects_a_subject_that_could_not_be_told_from_others() {
    let long = "s".repeat(SUBJECT_BYTES_MAX);
    assert!(with("sub", json!(long)).is_ok());
    assert_eq!(
        with("sub", json!(format!("{long}s"))),
        Err(ForeignTokenError::Unnameable { bytes: SUBJECT_BYTES_MAX + 1 })
    );
    assert_eq!(with("sub", json!("a\u{7}")), Err(ForeignTokenError::Unnameable { bytes: 2 }));
    assert_eq!(with("sub", json!("")), Err(ForeignTokenError::Claim(ClaimError::Empty { name: "sub" })));
}

#[test]
fn rejects_a_key_that_the_issuer_does_not_publish() {
    let mut header = header(&key());
    header["kid"] = json!("k2");
    let refused = verify(&issuer(), &header, &claims(), NOW);
    assert_eq!(refused, Err(ForeignTokenError::UnknownKey { kid: "k2".into(), issuer: ISSUER.into() }));
}

#[test]
fn rejects_a_signature_of_another_key_and_an_algorithm_that_the_key_has_not() {
    let key = key();
    let token = forge(&common::key(), &header(&key).to_string(), &claims().to_string());
    let refused = issuer().verify(&token, Shown::NOTHING, &set(&key), NOW);
    assert_eq!(refused, Err(ForeignTokenError::Jws(JwsError::BadSignature)));
    for (alg, error) in [
        ("RS256", JwsError::WrongAlgorithm { alg: "RS256", key: "ES256" }),
        ("none", JwsError::ForbiddenAlgorithm { alg: "none".into() }),
        // Lesson 40: a public key is never a secret for an HMAC.
        ("HS256", JwsError::ForbiddenAlgorithm { alg: "HS256".into() }),
    ] {
        let mut header = header(&key);
        header["alg"] = json!(alg);
        assert_eq!(verify(&issuer(), &header, &claims(), NOW), Err(ForeignTokenError::Jws(error)));
    }
}

#[test]
fn rejects_header_members_that_bring_a_key_or_have_to_be_understood() {
    for member in ["jwk", "jku", "x5c", "x5u", "crit", "b64", "zip", "nonce"] {
        let mut header = header(&key());
        header[member] = json!("x");
        let refused = verify(&issuer(), &header, &claims(), NOW);
        assert_eq!(refused, Err(ForeignTokenError::Jws(JwsError::ForbiddenMember { member: member.into() })));
    }
}

#[test]
fn rejects_another_issuer_under_the_same_key() {
    for got in ["https://sts.mesh.test/", "https://other.test", "HTTPS://sts.mesh.test"] {
        assert_eq!(with("iss", json!(got)), Err(ForeignTokenError::WrongIssuer { got: got.into() }));
    }
}

#[test]
fn rejects_another_audience_and_accepts_ours_among_others() {
    assert!(with("aud", json!(["other", "backend"])).is_ok());
    for (aud, got) in [(json!("other"), "other"), (json!(["backends", "x"]), "backends"), (json!([]), "")] {
        let refused = with("aud", aud);
        assert_eq!(
            refused,
            Err(ForeignTokenError::WrongAudience { got: got.into(), want: "backend".into() })
        );
    }
}

#[test]
fn rejects_a_token_that_lacks_what_says_who_for_whom_and_how_long() {
    for name in ["iss", "sub", "aud", "exp"] {
        assert_eq!(without(name), Err(ForeignTokenError::Claim(ClaimError::Missing { name })));
    }
    for name in ["iat", "nbf", "jti"] {
        assert!(without(name).is_ok(), "{name} may be absent");
    }
    let mut claims = claims();
    claims.as_object_mut().unwrap().retain(|name, _| name != "iat" && name != "nbf");
    let refused = verify(&issuer(), &header(&key()), &claims, NOW);
    assert_eq!(
        refused,
        Err(ForeignTokenError::Claim(ClaimError::Missing { name: "iat" })),
        "without a beginning no life"
    );
}

#[test]
fn rejects_a_token_before_its_time_after_it_and_one_that_lives_too_long() {
    assert_eq!(
        with("nbf", json!(NOW.secs() + 61)),
        Err(ForeignTokenError::Times(TimeError::NotYetValid { in_seconds: 61 }))
    );
    assert_eq!(
        with("iat", json!(NOW.secs() + 61)),
        Err(ForeignTokenError::Times(TimeError::NotYetValid { in_seconds: 61 }))
    );
    assert_eq!(with("exp", json!(NOW.secs() + 3600)).map(|_| ()), Ok(()));
    let long = with("exp", json!(NOW.secs() + 3601));
    assert_eq!(long, Err(ForeignTokenError::Times(TimeError::Lifetime { seconds: 3601, max: 3600 })));
    let refused = verify(&issuer(), &header(&key()), &claims(), at(600));
    assert_eq!(refused, Err(ForeignTokenError::Times(TimeError::Expired { by_seconds: 0 })));
    assert!(matches!(
        with("exp", json!("soon")),
        Err(ForeignTokenError::Claim(ClaimError::WrongType { .. }))
    ));
}

#[test]
fn rejects_a_bound_token_in_the_wrong_hands() {
    let key = key();
    let mut claims = claims();
    claims["cnf"] = json!({ "jkt": HASH });
    let token = forge(&key, &header(&key).to_string(), &claims.to_string());
    let refused = issuer().verify(&token, Shown::NOTHING, &set(&key), NOW);
    assert_eq!(refused, Err(ForeignTokenError::Confirmation(ConfirmationError::NotHeld { method: "jkt" })));
    let held = [HASH.to_owned()];
    let grant =
        issuer().verify(&token, Shown::Held { keys: &held, certificates: &[] }, &set(&key), NOW).unwrap();
    assert_eq!(grant.user.get().possession, Possession::Key);
}

#[test]
fn who_issued_it_is_read_without_believing_it() {
    let token = forge(&key(), "{}", &claims().to_string());
    assert_eq!(claimed_issuer(&token).as_deref(), Some(ISSUER));
    for bad in ["", "a.b.c", "a", &forge(&key(), "{}", r#"{"iss":1}"#), &"a.".repeat(9000)] {
        assert_eq!(claimed_issuer(bad), None, "{bad:.20}");
    }
    assert_eq!(claimed_issuer(&forge(&key(), "{}", r#"{"iss":"a","iss":"b"}"#)), None);
}
