//! SPIFFE IDs against the cases of `conformance/spiffe` (SPIFFE-ID section 2; row SPF-1).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use countersign_identity::SpiffeId;
use serde_json::Value;

#[test]
fn agrees_with_every_spiffe_id_case() {
    let Some(file) = countersign_testkit::vectors("spiffe/spiffe-id-cases.json") else {
        return;
    };
    let cases: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let valid = ids(&cases, "valid");
    let invalid = ids(&cases, "invalid");
    assert!(valid.len() >= 50 && invalid.len() >= 200, "the file lost its cases");

    for id in valid {
        let parsed = SpiffeId::parse(&id).unwrap_or_else(|error| panic!("{id:?} is valid: {error}"));
        assert_eq!(parsed.as_str(), id, "a valid id is kept as it is");
    }
    for id in invalid {
        // Scheme and trust domain compare without case on input and are emitted in lower case
        // (SPF-1). The file lets us normalise those; the result must be an id that we would emit.
        if let Ok(parsed) = SpiffeId::parse(&id) {
            assert_ne!(parsed.as_str(), id, "{id:?} is invalid and was accepted as it is");
            assert_eq!(parsed.as_str(), fold_authority(&id), "{id:?} became something else");
            assert_eq!(SpiffeId::parse(parsed.as_str()), Ok(parsed));
        }
    }
}

fn ids(cases: &Value, list: &str) -> Vec<String> {
    let cases = cases.get(list).and_then(Value::as_array).unwrap();
    cases.iter().map(|case| case.get("id").and_then(Value::as_str).unwrap().to_owned()).collect()
}

/// The id with scheme and trust domain in lower case and everything else untouched.
fn fold_authority(id: &str) -> String {
    let rest = id.get("spiffe://".len()..).unwrap();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    format!("spiffe://{}{path}", authority.to_ascii_lowercase())
}
