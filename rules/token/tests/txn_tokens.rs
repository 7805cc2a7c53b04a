//! Transaction tokens: one accepting test, then one for each reason to refuse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use common::{NOW, at, forge, header, key, payload, reissue};
use countersign_identity::{CLOCK_SKEW, Possession, SpiffeId, TrustDomain, UnixTime, User, Verified};
use countersign_keys::KeyPair;
use countersign_token::{
    ClaimError, JwsError, SubjectToken, TokenKind, TxnGrant, TxnToken, TxnTokenError,
    actors::ACTORS_MAX,
    txn_token::{self, TXN_TOKEN_LIFETIME_MAX, TXN_TOKEN_TYP},
};
use proptest::prelude::*;
use serde_json::{Value, json};

#[test]
fn accepts_a_token_that_its_gateway_made() {
    let key = key();
    let user = verify(&key, &mint(&key)).unwrap();
    let expected = User {
        id: "u_1".into(),
        name: "alice".into(),
        roles: vec!["buyer".into()],
        txn: "txn-1".into(),
        requested_by: Some(gateway()),
        actors: Vec::new(),
        possession: Possession::None,
        not_after: at(300),
    };
    assert_eq!(*user.get(), expected);
}

#[test]
fn every_hop_verifies_the_same_unmodified_token() {
    let key = key();
    let token = mint(&key);
    let seen: Vec<_> = ["ads", "users", "reports"].map(|_hop| verify(&key, &token).unwrap()).into();
    assert!(seen.iter().all(|user| *user == seen[0]));
}

#[test]
fn the_token_on_the_wire_is_that_of_the_draft() {
    let key = key();
    let token = mint(&key);
    let id = gateway().to_string();
    let expected = json!({
        "iss": id, "iat": NOW.secs(), "aud": "fleamarket.test", "exp": NOW.secs() + 300, "txn": "txn-1",
        "sub": "u_1", "scope": "fleamarket", "req_wl": id, "tctx": { "name": "alice", "roles": ["buyer"] },
    });
    assert_eq!(payload(&token), expected);
    assert_eq!(countersign_token::jws::parse_as(TokenKind::TxnToken, &token).unwrap().typ, "txntoken+jwt");
}

#[test]
fn the_required_claims_are_those_that_the_draft_requires() {
    let Some(path) = countersign_testkit::vectors("txn-tokens/draft-ietf-oauth-transaction-tokens.md") else {
        return;
    };
    let draft = std::fs::read_to_string(path).unwrap();
    for name in ["iat", "aud", "exp", "txn", "sub", "scope", "req_wl"] {
        let at = draft.find(&format!("\n`{name}`:\n: ")).expect(name);
        let sentence: String = draft[at..].lines().nth(2).unwrap().to_owned();
        assert!(sentence.starts_with(": REQUIRED"), "{name}: {sentence}");
    }
}

#[test]
fn rejects_a_token_of_another_kind() {
    let key = key();
    for typ in ["at+jwt", "JWT", "txn_token", "wit+jwt"] {
        let token = reissue(&key, typ, &mint(&key), |_| {});
        assert_eq!(verify(&key, &token), Err(TxnTokenError::WrongKind { typ: typ.to_lowercase() }));
    }
}

#[test]
fn rejects_a_key_that_nobody_published() {
    let (ours, theirs) = (key(), key());
    let kid = theirs.public_key().thumbprint();
    assert_eq!(verify(&ours, &mint(&theirs)), Err(TxnTokenError::UnknownKey { kid }));
}

#[test]
fn rejects_a_signature_that_does_not_fit() {
    let (ours, theirs) = (key(), key());
    let token = forge(&theirs, &header(&ours, TXN_TOKEN_TYP), &payload(&mint(&ours)).to_string());
    assert_eq!(verify(&ours, &token), Err(TxnTokenError::Jws(JwsError::BadSignature)));
}

#[test]
fn rejects_a_token_for_another_trust_domain() {
    let key = key();
    for audience in ["other.test", "fleamarket.test.evil.test", "Fleamarket.test", "spiffe://fleamarket.test"]
    {
        let token = changed(&key, |claims| claims["aud"] = json!(audience));
        assert_eq!(verify(&key, &token), Err(TxnTokenError::WrongTrustDomain { got: audience.into() }));
    }
}

#[test]
fn rejects_a_token_for_several_trust_domains() {
    let key = key();
    let token = changed(&key, |claims| claims["aud"] = json!(["fleamarket.test", "other.test"]));
    let wrong_type = ClaimError::WrongType { name: "aud", want: "a string" };
    assert_eq!(verify(&key, &token), Err(TxnTokenError::Claim(wrong_type)));
}

#[test]
fn rejects_a_token_that_one_gateway_made_in_the_name_of_another() {
    // Blast radius: whoever holds a published key can speak for its owner, and for nobody else.
    let key = key();
    let other = SpiffeId::gateway(&td(), "other").unwrap();
    let owned_by_other = |_: &str| Some((key.public_key().clone(), other.clone()));
    let found = TxnToken::verify(&mint(&key), &td(), NOW, owned_by_other);
    let expected = TxnTokenError::NotOwner { issuer: gateway().to_string(), owner: other.clone() };
    assert_eq!(found, Err(expected));
}

#[test]
fn rejects_a_token_by_anybody_who_is_no_gateway_of_ours_even_if_the_key_was_published() {
    let key = key();
    for owner in [
        "spiffe://fleamarket.test/svc/ads",
        "spiffe://fleamarket.test/countersign/agent/local",
        "spiffe://other.test/countersign/gateway/edge",
    ] {
        let owner = SpiffeId::parse(owner).unwrap();
        let honest = TxnToken { requested_by: owner.clone(), ..alice() }.mint(&key, NOW).unwrap();
        let found =
            TxnToken::verify(&honest, &td(), NOW, |_| Some((key.public_key().clone(), owner.clone())));
        assert_eq!(found, Err(TxnTokenError::NotAnIssuer { owner }));
    }
}

#[test]
fn rejects_a_token_that_names_another_requester_than_its_issuer() {
    let key = key();
    let token = changed(&key, |claims| claims["iss"] = json!("spiffe://fleamarket.test/svc/ads"));
    let issuer = "spiffe://fleamarket.test/svc/ads".to_owned();
    assert_eq!(verify(&key, &token), Err(TxnTokenError::NotOwner { issuer, owner: gateway() }));
    let token = changed(&key, |claims| claims["req_wl"] = json!("spiffe://fleamarket.test/svc/ads"));
    let req_wl = SpiffeId::parse("spiffe://fleamarket.test/svc/ads").unwrap();
    assert_eq!(verify(&key, &token), Err(TxnTokenError::NotRequester { req_wl, owner: gateway() }));
}

/// A token of the authority, requested by `workload`.
fn by_the_authority(workload: &str) -> Result<TxnGrant, TxnTokenError> {
    let (key, authority) = (key(), SpiffeId::authority(&td()));
    let requested_by = SpiffeId::parse(workload).unwrap();
    let actors = vec![gateway(), requested_by.clone()];
    let token = TxnToken { requested_by, actors, possession: Possession::Key, ..alice() };
    let token = token.mint_as(&authority, &key, NOW).unwrap();
    TxnToken::verify_grant(&token, &td(), NOW, |_| Some((key.public_key().clone(), authority.clone())))
}

#[test]
fn accepts_a_token_of_the_authority_for_a_workload_of_its_trust_domain() {
    let grant = by_the_authority("spiffe://fleamarket.test/svc/ads").unwrap();
    let ads = SpiffeId::parse("spiffe://fleamarket.test/svc/ads").unwrap();
    assert_eq!(grant.user.requested_by, Some(ads.clone()));
    assert_eq!(grant.user.actors, [gateway(), ads]);
    assert_eq!(grant.user.possession, Possession::Key, "what the first one proved is not lost on the way");
    assert_eq!((grant.scope.as_str(), grant.facts.ids), ("fleamarket", vec!["txn-1".to_owned()]));
    assert_eq!((grant.facts.subject.as_str(), grant.facts.issued_at), ("u_1", NOW));
}

#[test]
fn rejects_a_token_of_the_authority_for_anybody_else() {
    for workload in [
        "spiffe://other.test/svc/ads",
        "spiffe://fleamarket.test",
        "spiffe://fleamarket.test/countersign/agent/local",
    ] {
        let found = by_the_authority(workload);
        assert!(matches!(found, Err(TxnTokenError::NotRequester { .. })), "{workload}: {found:?}");
    }
}

#[test]
fn whom_alone_a_token_lets_act_limits_the_exchange() {
    let key = key();
    let grant = |may_act: Value| {
        let token = changed(&key, |claims| claims["may_act"] = may_act);
        TxnToken::verify_grant(&token, &td(), NOW, |_| Some((key.public_key().clone(), gateway())))
    };
    let named = grant(json!({ "sub": gateway().as_str() })).unwrap();
    let subject = SubjectToken::of_txn_token(&named, &td(), false).unwrap();
    assert_eq!(subject.may_act, Some(vec![gateway()]));
    let wrong = ClaimError::WrongType { name: "may_act", want: "an object whose sub is a SPIFFE ID" };
    assert_eq!(grant(json!({ "sub": "u_1" })), Err(TxnTokenError::Claim(wrong)));
}

#[test]
fn a_request_context_that_says_nothing_is_the_weakest() {
    let key = key();
    for rctx in [json!({}), json!({ "user_possession": "none" }), json!({ "later": 1 })] {
        let token = changed(&key, |claims| claims["rctx"] = rctx);
        let user = verify(&key, &token).unwrap();
        assert_eq!((user.possession, user.actors.len()), (Possession::None, 0));
    }
}

#[test]
fn rejects_a_request_context_that_is_malformed() {
    let key = key();
    let many = vec!["spiffe://fleamarket.test/svc/a"; ACTORS_MAX + 1];
    for rctx in [
        json!(null),
        json!([]),
        json!({ "user_possession": "Key" }),
        json!({ "user_possession": true }),
        json!({ "actors": "spiffe://fleamarket.test/svc/a" }),
        json!({ "actors": ["u_1"] }),
        json!({ "actors": many }),
    ] {
        let token = changed(&key, |claims| claims["rctx"] = rctx.clone());
        assert!(matches!(verify(&key, &token), Err(TxnTokenError::Claim(_))), "{rctx}");
    }
}

#[test]
fn rejects_a_requester_that_is_no_spiffe_id() {
    let key = key();
    let token = changed(&key, |claims| claims["req_wl"] = json!("apigateway.trust-domain.example"));
    let req_wl = "apigateway.trust-domain.example".to_owned();
    assert_eq!(verify(&key, &token), Err(TxnTokenError::NotAWorkload { req_wl }));
}

#[test]
fn rejects_a_token_from_the_moment_at_which_it_expires() {
    let key = key();
    let token = mint(&key);
    assert!(verify_at(&key, &token, UnixTime::from_millis(at(300).millis() - 1)).is_ok());
    assert_eq!(verify_at(&key, &token, at(300)), Err(TxnTokenError::Expired { by_seconds: 0 }));
}

#[test]
fn rejects_a_token_from_the_future_beyond_the_clock_skew() {
    let key = key();
    let token = mint(&key);
    let skew = i64::try_from(CLOCK_SKEW.as_secs()).unwrap();
    assert!(verify_at(&key, &token, at(-skew)).is_ok());
    let found = verify_at(&key, &token, at(-skew - 1));
    assert_eq!(found, Err(TxnTokenError::NotYetValid { in_seconds: CLOCK_SKEW.as_secs() + 1 }));
}

#[test]
fn rejects_a_life_of_more_than_five_minutes_whoever_signed_it() {
    let key = key();
    let token = changed(&key, |claims| claims["exp"] = json!(NOW.secs() + 301));
    assert_eq!(verify(&key, &token), Err(TxnTokenError::Lifetime { seconds: 301 }));
    let token = changed(&key, |claims| claims["exp"] = json!(NOW.secs()));
    assert_eq!(verify(&key, &token), Err(TxnTokenError::Lifetime { seconds: 0 }));
}

#[test]
fn never_outlives_the_evidence_behind_it() {
    assert_eq!(txn_token::expiry(NOW, None), NOW.saturating_add(TXN_TOKEN_LIFETIME_MAX));
    assert_eq!(txn_token::expiry(NOW, Some(at(600))), at(300));
    assert_eq!(txn_token::expiry(NOW, Some(at(20))), at(20));
    let key = key();
    let from_dead_evidence = TxnToken { expires: txn_token::expiry(NOW, Some(at(-1))), ..alice() };
    assert_eq!(from_dead_evidence.mint(&key, NOW), Err(TxnTokenError::Lifetime { seconds: 0 }));
}

#[test]
fn never_mints_what_it_would_not_accept() {
    let key = key();
    let long = TxnToken { expires: at(301), ..alice() };
    assert_eq!(long.mint(&key, NOW), Err(TxnTokenError::Lifetime { seconds: 301 }));
    let unscoped = TxnToken { scope: String::new(), ..alice() };
    assert_eq!(unscoped.mint(&key, NOW), Err(TxnTokenError::Claim(ClaimError::Empty { name: "scope" })));
}

#[test]
fn rejects_each_absent_claim_by_its_name() {
    let key = key();
    for name in ["iss", "iat", "aud", "exp", "txn", "sub", "scope", "req_wl", "tctx"] {
        let token = changed(&key, |claims| drop(claims.as_object_mut().unwrap().remove(name)));
        assert_eq!(verify(&key, &token), Err(TxnTokenError::Claim(ClaimError::Missing { name })));
    }
    for name in ["name", "roles"] {
        let token = changed(&key, |claims| drop(claims["tctx"].as_object_mut().unwrap().remove(name)));
        assert_eq!(verify(&key, &token), Err(TxnTokenError::Claim(ClaimError::Missing { name })));
    }
}

#[test]
fn rejects_each_claim_of_the_wrong_type_and_never_takes_it_for_absent() {
    let key = key();
    for name in ["iss", "iat", "aud", "exp", "txn", "sub", "scope", "req_wl", "tctx"] {
        for wrong in [json!(null), json!(true), json!([1]), json!(1.5)] {
            let token = changed(&key, |claims| claims[name] = wrong.clone());
            let found = verify(&key, &token);
            let named = matches!(found, Err(TxnTokenError::Claim(ClaimError::WrongType { name: n, .. })) if n == name);
            assert!(named, "{name} = {wrong}: {found:?}");
        }
    }
}

#[test]
fn rejects_roles_outside_the_transactions_context() {
    let key = key();
    // Roles that somebody adds at the top do not count, and do not replace those inside.
    let token = changed(&key, |claims| claims["roles"] = json!(["moderator"]));
    assert_eq!(verify(&key, &token).unwrap().roles, ["buyer"]);
}

proptest! {
    #[test]
    fn whatever_is_signed_as_claims_is_judged_without_a_panic(claims in ".{0,200}") {
        let key = key();
        prop_assert!(verify(&key, &forge(&key, &header(&key, TXN_TOKEN_TYP), &claims)).is_err());
    }

    #[test]
    fn what_is_minted_at_any_millisecond_is_accepted_then(millis in 0_i64..1000, life in 1_000_i64..=300_000) {
        let key = key();
        let now = UnixTime::from_millis(NOW.millis() + millis);
        let token = TxnToken { expires: UnixTime::from_millis(now.millis() + life), ..alice() }.mint(&key, now).unwrap();
        prop_assert!(verify_at(&key, &token, now).is_ok());
    }
}

fn alice() -> TxnToken {
    TxnToken {
        txn: "txn-1".into(),
        user_id: "u_1".into(),
        name: "alice".into(),
        roles: vec!["buyer".into()],
        scope: "fleamarket".into(),
        requested_by: gateway(),
        actors: Vec::new(),
        possession: Possession::None,
        expires: at(300),
    }
}

fn gateway() -> SpiffeId {
    SpiffeId::gateway(&td(), "edge").unwrap()
}

fn td() -> TrustDomain {
    TrustDomain::parse("fleamarket.test").unwrap()
}

fn mint(key: &KeyPair) -> String {
    alice().mint(key, NOW).unwrap()
}

fn changed(key: &KeyPair, change: impl FnOnce(&mut Value)) -> String {
    reissue(key, TXN_TOKEN_TYP, &mint(key), change)
}

fn verify(key: &KeyPair, token: &str) -> Result<Verified<User>, TxnTokenError> {
    verify_at(key, token, NOW)
}

fn verify_at(key: &KeyPair, token: &str, now: UnixTime) -> Result<Verified<User>, TxnTokenError> {
    let public = key.public_key();
    TxnToken::verify(token, &td(), now, |kid| {
        (kid == public.thumbprint()).then(|| (public.clone(), gateway()))
    })
}
