//! x509-limbo, the part on RFC 5280, on path validation below the rules of SPIFFE.
//!
//! What we do differently is listed in `limbo_divergences.json`, each case with its reason; this test fails
//! when a case is missing there, and as well when one is there that diverges no more or otherwise.

use std::collections::BTreeMap;

use countersign_identity::UnixTime;
use countersign_pki::path::{self, Anchor, PathError, Purpose};
use countersign_pki::{CertificateDer, pem};
use rustls_pki_types::ServerName;
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

#[derive(Debug, PartialEq)]
enum Outcome {
    Accepted,
    Refused(PathError),
    /// The path holds, but the leaf is of another host. TLS clients of the edge check that by themselves.
    OtherHost,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Divergence {
    expected: String,
    ours: String,
    reason: String,
}

#[test]
fn every_limbo_case_comes_out_as_expected_for_its_own_reason_or_is_listed() {
    let Some(file) = countersign_testkit::vectors("x509-limbo/limbo-rfc5280.json") else { return };
    let limbo: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let cases = limbo["testcases"].as_array().unwrap();
    assert!(cases.len() >= 102, "only {} cases were found", cases.len());

    let listed: BTreeMap<String, Divergence> =
        serde_json::from_str(include_str!("../limbo_divergences.json")).unwrap();
    let mut found = BTreeMap::new();
    for case in cases {
        let id = case["id"].as_str().unwrap().trim_start_matches("rfc5280::");
        let (expected, ours) = (case["expected_result"].as_str().unwrap(), run(case));
        let agrees = match (expected, &ours) {
            ("SUCCESS", Outcome::Accepted) => true,
            ("FAILURE", ours) => own_reasons(id).contains(ours),
            _ => false,
        };
        if !agrees {
            found.insert(id.to_owned(), (expected.to_owned(), describe(&ours)));
        }
    }
    let as_listed: BTreeMap<_, _> =
        listed.iter().map(|(id, d)| (id.clone(), (d.expected.clone(), d.ours.clone()))).collect();
    assert_eq!(found, as_listed, "left: what diverges; right: limbo_divergences.json");
    assert!(
        listed.values().all(|divergence| divergence.reason.len() > 20),
        "every divergence needs its reason"
    );
}

fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Accepted => "accepted".into(),
        Outcome::Refused(reason) => format!("refused: {reason:?}"),
        Outcome::OtherHost => "refused: OtherHost".into(),
    }
}

fn run(case: &Value) -> Outcome {
    let leaf = certificate(&case["peer_certificate"]);
    let intermediates = certificates(&case["untrusted_intermediates"]);
    // A root that is refused by itself is not in the store; it gives the reason if nothing else does.
    let (mut anchors, mut refused) = (Vec::new(), None);
    for root in certificates(&case["trusted_certs"]) {
        match Anchor::new(&root) {
            Ok(anchor) => anchors.push(anchor),
            Err(reason) => refused = Some(reason),
        }
    }
    let now = match case["validation_time"].as_str() {
        Some(text) => {
            let time = OffsetDateTime::parse(text, &Rfc3339).unwrap();
            UnixTime::from_millis((time.unix_timestamp_nanos() / 1_000_000) as i64)
        }
        None => UnixTime::from_secs(1_790_000_000),
    };
    let purpose = if case["validation_kind"] == "CLIENT" { Purpose::Client } else { Purpose::Server };
    if let Err(reason) = path::validate(&leaf, &intermediates, &anchors, now, purpose) {
        return Outcome::Refused(refused.unwrap_or(reason));
    }
    match case["expected_peer_name"]["value"].as_str() {
        Some(host) if purpose == Purpose::Server && !names(&leaf, host) => Outcome::OtherHost,
        _ => Outcome::Accepted,
    }
}

fn names(leaf: &CertificateDer<'_>, host: &str) -> bool {
    let leaf = webpki::EndEntityCert::try_from(leaf).unwrap();
    leaf.verify_is_valid_for_subject_name(&ServerName::try_from(host).unwrap()).is_ok()
}

fn certificates(list: &Value) -> Vec<CertificateDer<'static>> {
    list.as_array().unwrap().iter().map(certificate).collect()
}

fn certificate(text: &Value) -> CertificateDer<'static> {
    pem::decode(text.as_str().unwrap().as_bytes()).unwrap().remove(0).der.into()
}

/// What a FAILURE has to fail for.
fn own_reasons(id: &str) -> Vec<Outcome> {
    use PathError as E;
    let (group, name) = id.split_once("::").unwrap_or(("", id));
    let reason = match (group, name) {
        ("aki" | "ski", _) => E::KeyIdentifier,
        ("eku", _) => E::ExtendedKeyUsage,
        ("pc", _) | ("nc", "permitted-dns-match-noncritical") => E::NonCriticalConstraints,
        ("nc", "not-allowed-in-ee-noncritical" | "not-allowed-in-ee-critical") => E::NameConstraintsInLeaf,
        ("nc", "nc-permits-invalid-dns-san" | "nc-permits-invalid-ip-san") => E::Malformed,
        // Constraints on directory names and e-mail are refused unseen: that is not these cases' own reason.
        ("nc", name) if name.contains("-dn-match") || name.contains("-dn-mismatch") => return Vec::new(),
        ("nc", name) if name.contains("email") => return Vec::new(),
        ("nc", _) => E::NameConstraint,
        ("san", "malformed") => E::Malformed,
        ("san", "noncritical-with-empty-subject") => E::SanNotCritical,
        ("san", _) => return vec![Outcome::OtherHost],
        ("serial", _) => E::SerialNumber,
        ("validity", "expired-root") => E::RootNotValid,
        ("validity", name) if name.starts_with("expired") => E::Expired,
        ("validity", _) => E::NotYetValid,
        (_, "ee-empty-issuer" | "ca-empty-subject") => E::EmptyName,
        (_, "chain-untrusted-root") => E::UnknownIssuer,
        (_, name) if name.starts_with("unknown-critical-extension") => E::UnknownCriticalExtension,
        (_, "ee-critical-aia-invalid") => E::UnknownCriticalExtension,
        (_, "root-non-critical-basic-constraints") => E::NonCriticalBasicConstraints,
        (_, "root-missing-basic-constraints" | "intermediate-ca-without-ca-bit") => E::LeafAsCa,
        (_, "intermediate-ca-missing-basic-constraints") => E::LeafAsCa,
        (_, "root-inconsistent-ca-extensions" | "ica-ku-keycertsign") => E::NoKeyCertSign,
        (_, "leaf-ku-keycertsign") => E::LeafSignsCertificates,
        (_, "duplicate-extensions") => E::DuplicateExtension,
        (_, "mismatching-signature-algorithm") => E::Algorithm,
        (_, "ca-as-leaf-wrong-san") => return vec![Outcome::OtherHost],
        _ => panic!("a new case: say for which reason {id} has to fail"),
    };
    vec![Outcome::Refused(reason)]
}
