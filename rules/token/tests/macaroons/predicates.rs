//! The language of caveats: one test per caveat, and the law that appending never widens.

use countersign_identity::{SpiffeId, UnixTime};
use countersign_keys::sha256;
use countersign_token::macaroon::caveat::query_digest;
use countersign_token::macaroon::{
    CAVEATS_MAX, Macaroon, Predicate, PredicateError, RequestFacts, verify_chain,
};
use proptest::prelude::*;

use super::key;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://td/svc/{name}")).unwrap()
}

fn facts<'a>(callee: &'a SpiffeId, caller: &'a SpiffeId) -> RequestFacts<'a> {
    RequestFacts {
        callee,
        method: "POST",
        path: "/ads/7/buy",
        query: Some("quantity=1"),
        body: Some(sha256(b"body")),
        caller: Some(caller),
        user: Some("u_1"),
        now: NOW,
    }
}

fn judge(caveat: &str) -> Result<(), PredicateError> {
    let (callee, caller) = (id("ads"), id("gateway"));
    Predicate::parse(caveat.as_bytes())?.judge(&facts(&callee, &caller))
}

fn unmet(name: &'static str, want: &str) -> Result<(), PredicateError> {
    Err(PredicateError::Unmet { name, want: want.into() })
}

#[test]
fn an_audience_is_one_callee_exactly() {
    assert_eq!(judge("aud = spiffe://td/svc/ads"), Ok(()));
    for other in
        ["spiffe://td/svc/ad", "spiffe://td/svc/ads2", "spiffe://other/svc/ads", "ads", "SPIFFE://td/svc/ads"]
    {
        assert_eq!(judge(&format!("aud = {other}")), unmet("aud", other));
    }
}

#[test]
fn a_method_is_one_method_and_case_counts() {
    assert_eq!(judge("method = POST"), Ok(()));
    assert_eq!(judge("method = GET"), unmet("method", "GET"));
    assert_eq!(judge("method = post"), unmet("method", "post"));
}

#[test]
fn a_path_is_the_whole_path_and_path_under_ends_at_a_slash() {
    assert_eq!(judge("path = /ads/7/buy"), Ok(()));
    assert_eq!(judge("path = /ads/7"), unmet("path", "/ads/7"));
    assert_eq!(judge("path-under = /ads/7/"), Ok(()));
    assert_eq!(judge("path-under = /"), Ok(()));
    assert_eq!(judge("path-under = /ads/7/buy/"), unmet("path-under", "/ads/7/buy/"));
    assert_eq!(judge("path-under = /ads/70/"), unmet("path-under", "/ads/70/"));
    assert_eq!(
        judge("path-under = /ads/7"),
        Err(PredicateError::BadValue { name: "path-under".into() }),
        "or /ads/70 would do"
    );
    assert_eq!(judge("path-under = ads/"), Err(PredicateError::BadValue { name: "path-under".into() }));
    assert_eq!(judge("path = ads"), Err(PredicateError::BadValue { name: "path".into() }));
}

#[test]
fn before_ends_without_leniency() {
    let second = NOW.secs();
    assert_eq!(judge(&format!("before = {}", second + 1)), Ok(()));
    assert_eq!(judge(&format!("before = {second}")), Err(PredicateError::TooLate { by_seconds: 0 }));
    assert_eq!(judge(&format!("before = {}", second - 9)), Err(PredicateError::TooLate { by_seconds: 9 }));
    for malformed in ["0", "01", "+1900000000", "-1", "1.5", "1e12", "253402300800", "99999999999999999999"] {
        assert_eq!(
            judge(&format!("before = {malformed}")),
            Err(PredicateError::BadValue { name: "before".into() }),
            "{malformed}"
        );
    }
}

#[test]
fn a_query_and_a_body_are_named_by_their_hashes() {
    let (callee, caller) = (id("ads"), id("gateway"));
    let text = Predicate::Query(query_digest(Some("quantity=1"))).to_string();
    assert_eq!(judge(&text), Ok(()));
    assert_eq!(judge(&Predicate::Query(query_digest(None)).to_string()), Err(PredicateError::OtherQuery));
    let none = RequestFacts { query: None, ..facts(&callee, &caller) };
    assert_eq!(Predicate::Query(query_digest(Some(""))).judge(&none), Ok(()));

    assert_eq!(judge(&Predicate::Body(sha256(b"body")).to_string()), Ok(()));
    assert_eq!(judge(&Predicate::Body(sha256(b"other")).to_string()), Err(PredicateError::OtherBody));
    let stream = RequestFacts { body: None, ..facts(&callee, &caller) };
    assert_eq!(Predicate::Body(sha256(b"")).judge(&stream), Err(PredicateError::BodyNotRead));
    for malformed in ["x", "", "AAAA", &"A".repeat(44)] {
        let refused = judge(&format!("body-sha256 = {malformed}"));
        assert!(matches!(refused, Err(PredicateError::BadValue { .. })), "{malformed}");
        assert!(judge(&format!("query-sha256 = {malformed}")).is_err(), "{malformed}");
    }
}

#[test]
fn a_caller_and_a_user_must_be_known_to_match() {
    assert_eq!(judge("caller = spiffe://td/svc/gateway"), Ok(()));
    assert_eq!(judge("caller = spiffe://td/svc/ads"), unmet("caller", "spiffe://td/svc/ads"));
    assert_eq!(judge("user = u_1"), Ok(()));
    assert_eq!(judge("user = u_2"), unmet("user", "u_2"));
    let (callee, caller) = (id("ads"), id("gateway"));
    let nobody = RequestFacts { caller: None, user: None, ..facts(&callee, &caller) };
    assert_eq!(Predicate::User("u_1").judge(&nobody), unmet("user", "u_1"));
    let want = "spiffe://td/svc/gateway";
    assert_eq!(Predicate::Caller(want).judge(&nobody), unmet("caller", want));
}

#[test]
fn whatever_is_not_in_the_language_denies() {
    let unknown = [
        "account = 7",
        "AUD = spiffe://td/svc/ads",
        "aud=spiffe://td/svc/ads",
        " aud = x",
        "aud  = x",
        "aud",
        "= x",
        "not method = GET",
        "method != GET",
        "before < 1900000000",
        "ip = 10.0.0.1",
        "aud\u{a0}= x",
    ];
    for caveat in unknown {
        assert!(
            matches!(judge(caveat), Err(PredicateError::Unknown { .. })),
            "{caveat}: {:?}",
            judge(caveat)
        );
    }
    assert_eq!(Predicate::parse(b"method = \xff"), Err(PredicateError::NotText));
    for caveat in
        ["method = ", "method =  POST", "method = POST ", "method = PO ST", "method = POST\n", "path = /a\0"]
    {
        assert!(
            matches!(judge(caveat), Err(PredicateError::BadValue { .. })),
            "{caveat:?}: {:?}",
            judge(caveat)
        );
    }
}

#[test]
fn every_caveat_is_written_as_it_is_read() {
    let all = [
        "aud = spiffe://td/svc/ads",
        "method = GET",
        "path = /x",
        "path-under = /x/",
        "before = 1900000000",
        "caller = spiffe://td/svc/ads",
        "user = u_1",
    ];
    let hashes = [Predicate::Query([1; 32]).to_string(), Predicate::Body([2; 32]).to_string()];
    for caveat in all.into_iter().chain(hashes.iter().map(String::as_str)) {
        assert_eq!(Predicate::parse(caveat.as_bytes()).unwrap().to_string(), caveat);
    }
}

/// Caveats that hold, that do not, and that nobody knows.
fn caveats() -> impl Strategy<Value = String> {
    let often = prop::sample::select(vec![
        "aud = spiffe://td/svc/ads",
        "aud = spiffe://td/svc/chat",
        "method = POST",
        "method = GET",
        "path = /ads/7/buy",
        "path = /",
        "path-under = /ads/",
        "path-under = /chat/",
        "before = 1900000000",
        "before = 1700000000",
        "caller = spiffe://td/svc/gateway",
        "user = u_1",
        "user = u_2",
        "nonsense",
        "or = true",
    ]);
    prop_oneof![often.prop_map(str::to_owned), "[a-z0-9-]{1,12} = [ -~]{0,20}", "\\PC{1,30}"]
}

proptest! {
    #[test]
    fn appending_any_caveat_never_widens(
        start in prop::collection::vec(caveats(), 0..6), appended in prop::collection::vec(caveats(), 1..4),
        method in prop::sample::select(vec!["GET", "POST", "DELETE"]),
        path in prop::sample::select(vec!["/", "/ads/7/buy", "/ads/8", "/chat/1"]),
        user in prop::sample::select(vec![None, Some("u_1"), Some("u_2")]),
        seconds in 1_600_000_000..2_000_000_000_i64,
    ) {
        let (callee, caller) = (id("ads"), id("gateway"));
        let facts = RequestFacts {
            method, path, user, now: UnixTime::from_secs(seconds), ..facts(&callee, &caller)
        };
        let allowed = |macaroon: &Macaroon<'_>| {
            verify_chain(macaroon, &[], &key(), |caveat| Predicate::parse(caveat)?.judge(&facts)).is_ok()
        };
        let append = |macaroon: Macaroon<'static>, caveats: &[String]| {
            caveats.iter().fold(macaroon, |macaroon, caveat| macaroon.attenuate(caveat).unwrap())
        };
        let wide = append(Macaroon::mint("", b"id", &key()).unwrap(), &start);
        let narrow = append(wide.clone(), &appended);
        prop_assert!(narrow.caveats().len() <= CAVEATS_MAX);
        prop_assert!(!allowed(&narrow) || allowed(&wide), "{start:?} + {appended:?} widened");
    }
}
