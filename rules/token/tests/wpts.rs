//! Workload proof tokens: what one is bound to, and why one is refused.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use common::{NOW, at, forge, key, payload};
use countersign_identity::{Binding, Bound, SpiffeId, TrustDomain, UnixTime, Verified};
use countersign_keys::{KeyPair, SystemRandom};
use countersign_token::{
    ClaimError, ConfirmationKey, JwsError, ProofTarget, ProvenWorkload, TimeError, Unproven, Wit, WitIssuer,
    WorkloadUri, WptError,
    wit::{PROOF_ID_BYTES_MAX, Subject},
    wpt::{self, WPT_LIFETIME_MAX, WPT_TYP, target_uri},
};
use proptest::prelude::*;
use serde_json::{Value, json};

#[test]
fn accepts_what_it_mints_and_tells_what_it_is_bound_to() {
    let caller = Caller::new();
    let proven = caller.verify(&caller.mint(&TARGET), &TARGET).unwrap();
    assert_eq!(proven.subject.as_str(), ADS);
    assert_eq!(proven.wit_id.as_deref(), Some("wit-1"));
    assert_eq!((proven.wit_expires, proven.proof_issued, proven.proof_expires), (at(3600), NOW, at(30)));
    assert_eq!(proven.proof_id, ID);
    assert_eq!(proven.binding, Binding::of(&[Bound::Target]));
    assert_eq!(proven.covers, Vec::<String>::new());
}

#[test]
fn names_no_key_in_its_header_because_the_wit_does() {
    let caller = Caller::new();
    assert_eq!(common::part(&caller.mint(&TARGET), 0), json!({ "alg": "ES256", "typ": "wpt+jwt" }));
}

#[test]
fn dies_with_its_connection() {
    let caller = Caller::new();
    let here = ProofTarget { exporter: Some(&[7; 32]), ..TARGET };
    let token = caller.mint(&here);
    let bound = Binding::of(&[Bound::Target, Bound::Channel]);
    assert_eq!(caller.verify(&token, &here).unwrap().binding, bound);
    let elsewhere = ProofTarget { exporter: Some(&[8; 32]), ..TARGET };
    assert_eq!(caller.refused(&token, &elsewhere), WptError::WrongChannel);
    assert_eq!(
        caller.refused(&token, &TARGET),
        WptError::WrongChannel,
        "what cannot be compared is not equal"
    );
    // Through a foreign proxy there is nothing to bind to, and it is not claimed.
    assert_eq!(caller.verify(&caller.mint(&TARGET), &here).unwrap().binding, Binding::of(&[Bound::Target]));
}

#[test]
fn rejects_a_channel_that_is_no_text() {
    let caller = Caller::new();
    let here = ProofTarget { exporter: Some(&[7; 32]), ..TARGET };
    for (cbx, error) in [
        (json!(""), WptError::Claim(ClaimError::Empty { name: "cbx" })),
        (json!(null), WptError::Claim(ClaimError::WrongType { name: "cbx", want: "a string" })),
        (json!("BwcH"), WptError::WrongChannel),
    ] {
        assert_eq!(caller.refused(&caller.reissue(&here, |claims| claims["cbx"] = cbx), &here), error);
    }
}

#[test]
fn covers_every_token_that_travels_beside_it() {
    let caller = Caller::new();
    let proven = caller.verify(&caller.mint(&LADEN), &LADEN).unwrap();
    assert_eq!(proven.covers, ["authorization", "txn-token", "user-token"]);
}

#[test]
fn rejects_a_token_that_was_exchanged_on_the_way() {
    let caller = Caller::new();
    let token = caller.mint(&LADEN);
    let refused = |target| caller.refused(&token, &target);
    let other = Some("another");
    assert_eq!(refused(ProofTarget { access_token: other, ..LADEN }), WptError::WrongHash { claim: "ath" });
    assert_eq!(refused(ProofTarget { txn_token: other, ..LADEN }), WptError::WrongHash { claim: "tth" });
    let others = &[("user-token", "another")];
    assert_eq!(refused(ProofTarget { others, ..LADEN }), WptError::WrongHash { claim: "oth" });
}

#[test]
fn rejects_a_token_that_was_added_on_the_way() {
    let caller = Caller::new();
    let token = caller.mint(&TARGET);
    let added = Some("added");
    let refused = |target| caller.refused(&token, &target);
    assert_eq!(refused(ProofTarget { access_token: added, ..TARGET }), WptError::Uncovered { claim: "ath" });
    assert_eq!(refused(ProofTarget { txn_token: added, ..TARGET }), WptError::Uncovered { claim: "tth" });
}

#[test]
fn rejects_a_proof_whose_token_was_removed_on_the_way() {
    let caller = Caller::new();
    let token = caller.mint(&LADEN);
    let refused = |target| caller.refused(&token, &target);
    assert_eq!(refused(ProofTarget { access_token: None, ..LADEN }), WptError::TokenGone { claim: "ath" });
    assert_eq!(refused(ProofTarget { txn_token: None, ..LADEN }), WptError::TokenGone { claim: "tth" });
    let gone = WptError::UnknownOther { name: "user-token".into() };
    assert_eq!(refused(ProofTarget { others: &[], ..LADEN }), gone);
}

#[test]
fn a_token_that_oth_does_not_cover_gives_no_rights() {
    let caller = Caller::new();
    let others = &[("user-token", "added"), ("x-other", "added too")];
    let proven = caller.verify(&caller.mint(&TARGET), &ProofTarget { others, ..TARGET }).unwrap();
    assert_eq!(proven.covers, Vec::<String>::new());
}

#[test]
fn rejects_an_entry_of_oth_that_it_does_not_understand() {
    let caller = Caller::new();
    let token = caller.reissue(&LADEN, |claims| claims["oth"]["x-unknown"] = "AAAA".into());
    assert_eq!(caller.refused(&token, &LADEN), WptError::UnknownOther { name: "x-unknown".into() });
    let token = caller.reissue(&LADEN, |claims| claims["oth"]["user-token"] = json!(["AAAA"]));
    assert_eq!(caller.refused(&token, &LADEN), WptError::WrongHash { claim: "oth" });
    let token = caller.reissue(&LADEN, |claims| claims["oth"] = "AAAA".into());
    let wrong = WptError::Claim(ClaimError::WrongType { name: "oth", want: "an object" });
    assert_eq!(caller.refused(&token, &LADEN), wrong);
}

#[test]
fn spaces_around_the_value_of_another_header_do_not_count() {
    let caller = Caller::new();
    let spaced = ProofTarget { others: &[("user-token", " a user's token ")], ..LADEN };
    assert!(caller.verify(&caller.mint(&LADEN), &spaced).is_ok());
}

#[test]
fn rejects_a_proof_for_another_target() {
    let caller = Caller::new();
    let token = caller.mint(&TARGET);
    for audience in
        ["https://users.test/ads/8", "https://ads.test/", "http://ads.test/ads/7", "https://ads.test/ads/7?a"]
    {
        let refused = caller.refused(&token, &ProofTarget { audience, ..TARGET });
        assert_eq!(refused, WptError::WrongAudience { got: TARGET.audience.into() });
    }
    assert_eq!(target_uri("ads.test", "/ads/7"), TARGET.audience);
}

#[test]
fn rejects_a_list_of_targets() {
    let caller = Caller::new();
    let token = caller.reissue(&TARGET, |claims| claims["aud"] = json!([TARGET.audience]));
    let wrong = WptError::Claim(ClaimError::WrongType { name: "aud", want: "a string" });
    assert_eq!(caller.refused(&token, &TARGET), wrong);
}

#[test]
fn rejects_a_proof_made_beside_another_wit() {
    let caller = Caller::new();
    // The same workload, the same key: a WIT that lives longer.
    let renewed = Caller::with(caller.key.clone(), at(7200));
    let token = renewed.mint(&TARGET);
    assert_eq!(caller.refused(&token, &TARGET), WptError::WrongHash { claim: "wth" });
}

#[test]
fn rejects_a_proof_signed_by_another_key_than_that_of_the_wit() {
    let (caller, thief) = (Caller::new(), key());
    let token = forge(&thief, &bare_header(), &payload(&caller.mint(&TARGET)).to_string());
    assert_eq!(caller.refused(&token, &TARGET), WptError::Jws(JwsError::BadSignature));
}

#[test]
fn rejects_a_header_that_names_another_key() {
    let (caller, thief) = (Caller::new(), key());
    let token =
        forge(&caller.key, &common::header(&thief, WPT_TYP), &payload(&caller.mint(&TARGET)).to_string());
    assert_eq!(caller.refused(&token, &TARGET), WptError::Jws(JwsError::WrongKey));
}

#[test]
fn rejects_a_proof_made_with_another_algorithm_than_the_wit_says() {
    let caller = Caller::new();
    let ed25519 = KeyPair::generate_ed25519(&SystemRandom::new()).unwrap();
    let header = json!({ "alg": "Ed25519", "typ": WPT_TYP }).to_string();
    let token = forge(&ed25519, &header, &payload(&caller.mint(&TARGET)).to_string());
    let refused = WptError::WrongAlgorithm { got: "Ed25519".into(), want: "ES256".into() };
    assert_eq!(caller.refused(&token, &TARGET), refused);
}

#[test]
fn the_two_names_of_ed25519_are_not_the_same_string() {
    let workload = KeyPair::generate_ed25519(&SystemRandom::new()).unwrap();
    let issuer = key();
    let wit = Wit {
        subject: WorkloadUri::read("wimse://fleamarket.test/ads").unwrap(),
        confirmation: ConfirmationKey::new(workload.public_key().clone()),
        token_id: None,
        issuer: None,
        expires: at(3600),
    };
    let wit = wit.mint(&issuer, NOW).unwrap();
    let unproven = Wit::<WorkloadUri>::verify(&wit, NOW, |_| Some(authority(&issuer))).unwrap();
    let token = wpt::mint(&workload, &wit, &TARGET, ID, NOW, at(30)).unwrap();
    assert!(wpt::verify(&token, &unproven, &TARGET, NOW).is_ok());
    let header = json!({ "alg": "EdDSA", "typ": WPT_TYP }).to_string();
    let token = forge(&workload, &header, &payload(&token).to_string());
    let refused = WptError::WrongAlgorithm { got: "EdDSA".into(), want: "Ed25519".into() };
    assert_eq!(wpt::verify(&token, &unproven, &TARGET, NOW), Err(refused));
}

#[test]
fn rejects_a_token_of_another_kind() {
    let caller = Caller::new();
    for typ in ["JWT", "wit+jwt", "dpop+jwt"] {
        let header = json!({ "alg": "ES256", "typ": typ }).to_string();
        let token = forge(&caller.key, &header, &payload(&caller.mint(&TARGET)).to_string());
        assert_eq!(caller.refused(&token, &TARGET), WptError::WrongKind { typ: typ.to_lowercase() });
    }
}

#[test]
fn rejects_a_header_that_brings_its_own_key() {
    let caller = Caller::new();
    let header = json!({ "alg": "ES256", "typ": WPT_TYP, "jwk": {} }).to_string();
    let token = forge(&caller.key, &header, &payload(&caller.mint(&TARGET)).to_string());
    let refused = WptError::Jws(JwsError::ForbiddenMember { member: "jwk".into() });
    assert_eq!(caller.refused(&token, &TARGET), refused);
}

#[test]
fn rejects_an_expired_proof_in_the_second_that_it_expires() {
    let caller = Caller::new();
    let token = caller.mint(&TARGET);
    assert!(caller.verify_at(&token, at(29)).is_ok());
    assert_eq!(caller.verify_at(&token, at(30)), Err(WptError::Times(TimeError::Expired { by_seconds: 0 })));
}

#[test]
fn rejects_a_proof_whose_wit_has_expired_in_the_cache() {
    let caller = Caller::with(key(), at(10));
    let token = caller.mint(&TARGET);
    assert!(caller.verify_at(&token, at(9)).is_ok());
    assert_eq!(caller.verify_at(&token, at(10)), Err(WptError::WitExpired { by_seconds: 0 }));
}

#[test]
fn rejects_a_proof_from_the_future() {
    let caller = Caller::new();
    let token = caller.mint(&TARGET);
    assert!(caller.verify_at(&token, at(-60)).is_ok(), "as much as honest clocks differ");
    assert_eq!(
        caller.verify_at(&token, at(-61)),
        Err(WptError::Times(TimeError::NotYetValid { in_seconds: 61 }))
    );
}

#[test]
fn rejects_a_proof_that_lives_too_long_to_be_remembered_or_not_at_all() {
    let caller = Caller::new();
    let expiring = |seconds, iat: bool| {
        caller.reissue(&TARGET, |claims| {
            claims["exp"] = at(seconds).secs().into();
            if !iat {
                claims.as_object_mut().unwrap().remove("iat");
            }
        })
    };
    assert!(caller.verify(&expiring(60, true), &TARGET).is_ok());
    assert_eq!(caller.refused(&expiring(61, true), &TARGET), too_long(61, 60));
    let backwards = caller.reissue(&TARGET, |claims| claims["iat"] = at(30).secs().into());
    assert_eq!(caller.refused(&backwards, &TARGET), too_long(0, 60));
    // Others do not say when they made it: then what is left counts, and honest clocks differ.
    let proven = caller.verify(&expiring(120, false), &TARGET).unwrap();
    assert_eq!(proven.proof_issued, at(60), "it counts as old as it may be");
    assert_eq!(caller.refused(&expiring(121, false), &TARGET), too_long(121, 120));
}

#[test]
fn rejects_an_id_that_is_empty_or_too_long() {
    let caller = Caller::new();
    let with = |id: &str| caller.reissue(&TARGET, |claims| claims["jti"] = id.into());
    assert!(caller.verify(&with(&"x".repeat(PROOF_ID_BYTES_MAX)), &TARGET).is_ok());
    let bytes = PROOF_ID_BYTES_MAX + 1;
    assert_eq!(caller.refused(&with(&"x".repeat(bytes)), &TARGET), WptError::Id { bytes });
    assert_eq!(caller.refused(&with(""), &TARGET), WptError::Claim(ClaimError::Empty { name: "jti" }));
}

#[test]
fn rejects_a_proof_without_a_required_claim() {
    let caller = Caller::new();
    for name in ["aud", "exp", "jti", "wth"] {
        let token = caller.reissue(&TARGET, |claims| drop(claims.as_object_mut().unwrap().remove(name)));
        assert_eq!(caller.refused(&token, &TARGET), WptError::Claim(ClaimError::Missing { name }));
    }
}

#[test]
fn does_not_mint_what_it_would_refuse() {
    let caller = Caller::new();
    let mint = |id, expires| wpt::mint(&caller.key, &caller.wit, &TARGET, id, NOW, expires);
    assert_eq!(mint("", at(30)), Err(WptError::Id { bytes: 0 }));
    assert_eq!(mint(ID, NOW), Err(too_long(0, 60)));
    assert_eq!(WPT_LIFETIME_MAX.as_secs(), 60);
    assert_eq!(mint(ID, at(61)), Err(too_long(61, 60)));
}

proptest! {
    #[test]
    fn any_claims_are_judged_without_a_panic(
        members in prop::collection::vec(("(aud|exp|iat|jti|wth|ath|tth|oth|cbx)", "(null|0|1800000010|-1|1e400|\"[ -~]{0,12}\"|\\{\\}|\\{\"user-token\":1\\}|\\[\\])"), 0..9)
    ) {
        let caller = Caller::new();
        let members: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        let token = forge(&caller.key, &bare_header(), &format!("{{{}}}", members.join(",")));
        prop_assert!(caller.verify(&token, &LADEN).is_err());
    }

    #[test]
    fn a_proof_with_any_one_character_changed_is_refused(place in any::<prop::sample::Index>(), with in "[A-Za-z0-9_.=-]") {
        let caller = Caller::new();
        let token = caller.mint(&LADEN);
        let at = place.index(token.len());
        let changed = format!("{}{with}{}", &token[..at], &token[at + 1..]);
        prop_assume!(changed != token);
        prop_assert!(caller.verify(&changed, &LADEN).is_err());
    }
}

const ADS: &str = "spiffe://fleamarket.test/svc/ads";
const ID: &str = "Zm9ydHktdHdvIGJ5dGVz";
const TARGET: ProofTarget<'static> = ProofTarget {
    audience: "https://ads.test/ads/7",
    access_token: None,
    txn_token: None,
    others: &[],
    exporter: None,
};
const LADEN: ProofTarget<'static> = ProofTarget {
    access_token: Some("an access token"),
    txn_token: Some("a transaction token"),
    others: &[("user-token", "a user's token")],
    ..TARGET
};

/// A workload with its WIT.
struct Caller {
    key: KeyPair,
    wit: String,
    unproven: Unproven,
}

impl Caller {
    fn new() -> Self {
        Self::with(key(), at(3600))
    }

    fn with(workload: KeyPair, expires: UnixTime) -> Self {
        let issuer = key();
        let wit = Wit {
            subject: ADS.parse::<SpiffeId>().unwrap(),
            confirmation: ConfirmationKey::new(workload.public_key().clone()),
            token_id: Some("wit-1".into()),
            issuer: None,
            expires,
        };
        let wit = wit.mint(&issuer, NOW).unwrap();
        let unproven = Wit::verify(&wit, NOW, |_| Some(authority(&issuer))).unwrap();
        Self { key: workload, wit, unproven }
    }

    fn mint(&self, target: &ProofTarget<'_>) -> String {
        wpt::mint(&self.key, &self.wit, target, ID, NOW, at(30)).unwrap()
    }

    /// A properly signed proof with other claims.
    fn reissue(&self, target: &ProofTarget<'_>, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = payload(&self.mint(target));
        change(&mut claims);
        forge(&self.key, &bare_header(), &claims.to_string())
    }

    fn verify(&self, token: &str, target: &ProofTarget<'_>) -> Result<Verified<ProvenWorkload>, WptError> {
        wpt::verify(token, &self.unproven, target, NOW)
    }

    fn verify_at(&self, token: &str, now: UnixTime) -> Result<(), WptError> {
        wpt::verify(token, &self.unproven, &TARGET, now).map(|_| ())
    }

    fn refused(&self, token: &str, target: &ProofTarget<'_>) -> WptError {
        self.verify(token, target).unwrap_err()
    }
}

fn too_long(seconds: u64, max: u64) -> WptError {
    WptError::Times(TimeError::Lifetime { seconds, max })
}

fn bare_header() -> String {
    json!({ "alg": "ES256", "typ": WPT_TYP }).to_string()
}

fn authority(key: &KeyPair) -> WitIssuer {
    WitIssuer {
        kid: key.public_key().thumbprint(),
        key: key.public_key().clone(),
        trust_domain: TrustDomain::parse("fleamarket.test").unwrap(),
        issuer: None,
    }
}
