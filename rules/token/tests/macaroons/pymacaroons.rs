//! Another language's macaroons: PyPI's `pymacaroons` verifies ours, and we verify what it mints, narrows and discharges.

use std::collections::HashMap;

use countersign_identity::{SpiffeId, UnixTime};
use countersign_testkit::Python;
use countersign_token::macaroon::{
    ChainError, Macaroon, MacaroonError, MacaroonName, PredicateError, RequestFacts, RootKey, binary, format,
    json, packets, service, verify_chain,
};

use super::{LOCATION, exactly};

const SECRET: &[u8] = b"a secret that both sides know";
const THIRD_SECRET: &[u8] = b"a secret of the third party";
const AUTH: &str = "http://auth.example.org/";
const KNOWN: &[&str] = &["account = 3735928559", "user = alice"];

#[test]
fn pymacaroons_verifies_ours_and_we_verify_its() {
    let Some(python) = Python::with(&["pymacaroons==0.13.0"]) else { return };
    let third = RootKey::derive(THIRD_SECRET);
    let root = Macaroon::mint(LOCATION, b"keyid", &RootKey::derive(SECRET)).unwrap();
    let root =
        root.attenuate(KNOWN[0]).unwrap().attenuate_third_party(AUTH, &third, b"who", [3; 24]).unwrap();
    let discharge = Macaroon::mint(AUTH, b"who", &third).unwrap().attenuate(KNOWN[1]).unwrap();
    let ours = service::mint(&RootKey::derive(SECRET), &name(), &users(), UnixTime::from_secs(1_900_000_000));

    let asked = serde_json::json!({
        "secret": String::from_utf8_lossy(SECRET), "third_secret": String::from_utf8_lossy(THIRD_SECRET),
        "known": KNOWN,
        "v1": [base64(&packets::write(&root)), base64(&packets::write(&discharge.clone().bound_to(&root)))],
        "v2": [base64(&binary::write(&root)), base64(&binary::write(&discharge.clone().bound_to(&root)))],
        "json": [json::write(&root), json::write(&discharge.bound_to(&root))],
        "service": base64(&binary::write(&ours.unwrap())),
    });
    let answer = python.run(include_str!("pymacaroons.py"), &asked.to_string());
    let answer: HashMap<String, Vec<String>> = serde_json::from_str(&answer).unwrap();

    assert_eq!(answer["accepted"], ["v1", "v2", "json"]);
    assert_eq!(answer["refused"], ["v1", "v2", "json"], "each with a caveat taken away");
    for form in ["minted_v1", "minted_v2", "minted_json"] {
        let both: Vec<_> =
            answer[form].iter().map(|text| format::read_any(text.as_bytes()).unwrap()).collect();
        let judge =
            |known: &[&str]| verify_chain(&both[0], &both[1..], &RootKey::derive(SECRET), exactly(known));
        assert_eq!(judge(KNOWN), Ok(()), "{form}");
        assert!(matches!(judge(&KNOWN[..1]), Err(ChainError::Predicate(_))), "{form}");
        let unbound = verify_chain(&both[0], &[], &RootKey::derive(SECRET), exactly(KNOWN));
        assert_eq!(unbound, Err(ChainError::NoDischarge { location: AUTH.into() }), "{form}");
    }
    judge_what_python_narrowed(&answer["narrowed"]);
}

/// Ours, narrowed there: once to what we know, once by a caveat that nobody here understands.
fn judge_what_python_narrowed(narrowed: &[String]) {
    let (users, root) = (users(), RootKey::derive(SECRET));
    let facts = RequestFacts {
        callee: &users,
        method: "GET",
        path: "/users/7",
        query: None,
        body: None,
        caller: None,
        user: None,
        now: UnixTime::from_secs(1_800_000_000),
    };
    let judge = |text: &str, facts: &RequestFacts<'_>| service::verify(text, facts, |_| Some(&root));
    assert_eq!(judge(&narrowed[0], &facts).unwrap().owner, name().owner);
    let other = RequestFacts { method: "DELETE", ..facts };
    let unmet = PredicateError::Unmet { name: "method", want: "GET".into() };
    assert_eq!(judge(&narrowed[0], &other).unwrap_err(), MacaroonError::Chain(ChainError::Predicate(unmet)));
    let unknown = PredicateError::Unknown { caveat: "weather=fine".into() };
    assert_eq!(
        judge(&narrowed[1], &facts).unwrap_err(),
        MacaroonError::Chain(ChainError::Predicate(unknown))
    );
}

fn users() -> SpiffeId {
    SpiffeId::parse("spiffe://td/svc/users").unwrap()
}

fn name() -> MacaroonName {
    MacaroonName::new("k1", SpiffeId::parse("spiffe://td/svc/ads").unwrap(), [7; 16]).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}
