//! What our certificates contain: each is read again, field by field, by another parser than wrote it.

use std::net::IpAddr;
use std::time::Duration;

use countersign_identity::{SpiffeId, TrustDomain, UnixTime};
use countersign_pki::csr::{self, Csr};
use countersign_pki::issue::{self, IssueError, Issuer, IssuerError, Root};
use countersign_pki::path::PathError;
use countersign_pki::profile::{self, EdgeNames, LeafTtl, Profile, TtlError};
use x509_parser::prelude::*;

use crate::fixture::*;

fn parse(der: &[u8]) -> X509Certificate<'_> {
    let (rest, certificate) = X509Certificate::from_der(der).unwrap();
    assert!(rest.is_empty());
    certificate
}

fn seconds(certificate: &X509Certificate<'_>) -> (i64, i64) {
    (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp())
}

/// Every extension as (oid, critical), so that one too many or too few is noticed.
fn extensions(certificate: &X509Certificate<'_>) -> Vec<(String, bool)> {
    let mut all: Vec<_> =
        certificate.extensions().iter().map(|e| (e.oid.to_id_string(), e.critical)).collect();
    all.sort();
    all
}

fn expect(extensions: &[(&str, bool)]) -> Vec<(String, bool)> {
    extensions.iter().map(|(oid, critical)| (format!("2.5.29.{oid}"), *critical)).collect()
}

#[test]
fn a_workload_certificate_contains_what_the_profile_says_and_nothing_else() {
    let house = house("fleamarket.test");
    let workload_key = key();
    let request = Csr::parse(&csr::make(&workload_key, Some(&house.id("ads"))).unwrap()).unwrap();
    let serial = serial();
    let issued =
        issue::issue_workload(&house.issuing, &request, &house.id("ads"), LeafTtl::default(), NOW, serial)
            .unwrap();

    let certificate = parse(&issued.der);
    assert_eq!(certificate.version(), X509Version::V3);
    assert_eq!(certificate.raw_serial(), serial);
    assert_eq!(issued.serial_hex, countersign_pki::serial_hex(&serial));
    assert_eq!(certificate.signature_algorithm.algorithm.to_id_string(), "1.2.840.10045.4.3.2");
    assert_eq!(certificate.tbs_certificate.signature, certificate.signature_algorithm);
    let issuing = parse(house.issuing.certificate());
    assert_eq!(certificate.issuer().as_raw(), issuing.subject().as_raw());
    assert_eq!(certificate.subject().iter().count(), 0);
    assert_eq!(seconds(&certificate), (NOW.secs() - 60, NOW.secs() + 3600));
    assert_eq!((issued.not_before.secs(), issued.not_after.secs()), seconds(&certificate));
    assert_eq!(certificate.public_key().raw, workload_key.public_key().spki_der());
    assert!(certificate.issuer_uid.is_none() && certificate.subject_uid.is_none());

    // SKI, key usage, SAN, basic constraints, AKI, extended key usage: in the order of their numbers as text.
    let expected = [("14", false), ("15", true), ("17", true), ("19", true), ("35", false), ("37", false)];
    assert_eq!(extensions(&certificate), expect(&expected));
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.as_slice(), [GeneralName::URI("spiffe://fleamarket.test/svc/ads")]);
    assert_eq!(certificate.key_usage().unwrap().unwrap().value.flags, 1, "digitalSignature alone");
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth && usage.other.is_empty());
    assert!(
        !(usage.any
            || usage.code_signing
            || usage.email_protection
            || usage.time_stamping
            || usage.ocsp_signing)
    );
    let constraints = certificate.basic_constraints().unwrap().unwrap().value;
    assert_eq!((constraints.ca, constraints.path_len_constraint), (false, None));
    assert_eq!(
        key_ids(&certificate).1,
        key_ids(&issuing).0,
        "authority key id = the issuer's subject key id"
    );
    certificate.verify_signature(Some(issuing.public_key())).unwrap();
}

/// (subject key id, authority key id)
fn key_ids(certificate: &X509Certificate<'_>) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let mut ids = (None, None);
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => ids.0 = Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                ids.1 = id.key_identifier.as_ref().map(|id| id.0.to_vec())
            }
            _ => {}
        }
    }
    ids
}

#[test]
fn a_server_only_certificate_differs_in_its_extended_key_usage_alone() {
    let house = house("fleamarket.test");
    let request = Csr::parse(&csr::make(&key(), None).unwrap()).unwrap();
    let (ttl, id) = (LeafTtl::default(), house.id("ads"));
    let issued =
        issue::issue_workload_server_only(&house.issuing, &request, &id, ttl, NOW, serial()).unwrap();
    let certificate = parse(&issued.der);
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth);
    assert_eq!(extensions(&certificate), extensions(&parse(&house.issue("ads").der)));
}

#[test]
fn the_three_tiers_have_the_constraints_and_lifetimes_that_are_stated() {
    const DAY: i64 = 24 * 3600;
    let house = house("fleamarket.test");
    for (issuer, days, path_length, self_issued) in
        [(&house.root, 3650, Some(1), true), (&house.issuing, 90, Some(0), false)]
    {
        let certificate = parse(issuer.certificate());
        assert_eq!(seconds(&certificate), (NOW.secs() - 60, NOW.secs() + days * DAY));
        let constraints = certificate.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, path_length);
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
        assert!(!usage.value.digital_signature());
        assert!(certificate.extended_key_usage().unwrap().is_none());
        assert!(certificate.name_constraints().unwrap().is_none(), "URI constraints cannot be verified");
        let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names.as_slice(), [GeneralName::URI("spiffe://fleamarket.test")]);
        assert_eq!(certificate.subject() == certificate.issuer(), self_issued);
    }
    assert_eq!(house.root.profile(), Profile::WorkloadRoot);
    assert_eq!(house.issuing.profile(), Profile::Issuing);
}

#[test]
fn every_serial_number_is_positive_and_at_most_20_octets_whatever_the_random_bits() {
    let house = house("fleamarket.test");
    let request = Csr::parse(&csr::make(&key(), None).unwrap()).unwrap();
    let with = |serial| {
        issue::issue_workload(&house.issuing, &request, &house.id("ads"), LeafTtl::default(), NOW, serial)
    };
    for serial in [[0xff; 16], [0x80; 16], [0x7f; 16], [1; 16], {
        let mut small = [0; 16];
        small[15] = 7;
        small
    }] {
        let issued = with(serial).unwrap();
        let certificate = parse(&issued.der);
        let raw = certificate.raw_serial();
        assert!(raw[0] & 0x80 == 0 && raw.len() <= 20, "{raw:02x?}");
        assert_eq!(countersign_pki::serial_hex(raw), issued.serial_hex);
        assert!(house.judge(&house.chain(&issued)).outcome.is_ok());
    }
    assert_eq!(with([0; 16]).unwrap_err(), IssueError::SerialZero);
}

#[test]
fn a_leaf_lives_for_the_asked_time_between_a_minute_and_a_day() {
    let house = house("fleamarket.test");
    let request = Csr::parse(&csr::make(&key(), None).unwrap()).unwrap();
    for asked in [Duration::from_secs(60), HOUR * 24] {
        let ttl = LeafTtl::new(asked).unwrap();
        let issued =
            issue::issue_workload(&house.issuing, &request, &house.id("a"), ttl, NOW, serial()).unwrap();
        assert_eq!(issued.not_after, NOW.saturating_add(asked));
    }
    let (short, long) = (Duration::from_secs(59), HOUR * 24 + Duration::from_secs(1));
    assert_eq!(LeafTtl::new(short), Err(TtlError::TooShort { asked: short }));
    assert_eq!(LeafTtl::new(long), Err(TtlError::TooLong { asked: long, limit: HOUR * 24 }));
    assert_eq!(LeafTtl::default().duration(), HOUR);
}

#[test]
fn nothing_outlives_its_issuer() {
    let house = house("fleamarket.test");
    let request = Csr::parse(&csr::make(&key(), None).unwrap()).unwrap();
    let issue = |now| {
        issue::issue_workload(&house.issuing, &request, &house.id("ads"), LeafTtl::default(), now, serial())
    };
    let end = house.issuing.not_after();
    let late = issue(end.saturating_sub(Duration::from_secs(600))).unwrap();
    assert_eq!(late.not_after, end);
    assert_eq!(issue(end.saturating_sub(Duration::from_secs(60))).unwrap().not_after, end);
    for bad in [end.saturating_sub(Duration::from_secs(59)), end, end.saturating_add(HOUR)] {
        assert_eq!(issue(bad).unwrap_err(), IssueError::IssuerNotValid);
    }
    let before = NOW.saturating_sub(HOUR);
    assert_eq!(issue(before).unwrap_err(), IssueError::IssuerNotValid, "not valid yet");

    let late_root = house.root.not_after().saturating_sub(HOUR * 24);
    let issuing = issue::make_issuing(&house.root, &house.domain, key(), late_root, serial()).unwrap();
    assert_eq!(issuing.not_after(), house.root.not_after());
}

#[test]
fn rejects_a_name_of_another_workload_another_trust_domain_or_no_workload() {
    let house = house("fleamarket.test");
    let asks_for_users = Csr::parse(&csr::make(&key(), Some(&house.id("users"))).unwrap()).unwrap();
    let asks_for_nothing = Csr::parse(&csr::make(&key(), None).unwrap()).unwrap();
    let issue = |request: &Csr, id: &SpiffeId| {
        issue::issue_workload(&house.issuing, request, id, LeafTtl::default(), NOW, serial()).unwrap_err()
    };
    let (ads, users) = (house.id("ads"), house.id("users"));
    let other_id = IssueError::OtherId { asked: users, entitled: ads.clone() };
    assert_eq!(issue(&asks_for_users, &ads), other_id);
    let foreign = SpiffeId::parse("spiffe://other.test/svc/ads").unwrap();
    assert_eq!(issue(&asks_for_nothing, &foreign), IssueError::ForeignTrustDomain { id: foreign.clone() });
    let domain = SpiffeId::parse("spiffe://fleamarket.test").unwrap();
    assert_eq!(issue(&asks_for_nothing, &domain), IssueError::NotAWorkload { id: domain.clone() });
}

#[test]
fn each_issuer_signs_its_own_kind_alone() {
    let house = house("fleamarket.test");
    let request = Csr::parse(&csr::make(&key(), None).unwrap()).unwrap();
    let edge = edge_root();
    let wrong = |issuer: Profile, wanted: Profile| IssueError::WrongIssuer { issuer, wanted };
    for (issuer, profile) in [(&house.root, Profile::WorkloadRoot), (&edge, Profile::EdgeRoot)] {
        let error =
            issue::issue_workload(issuer, &request, &house.id("ads"), LeafTtl::default(), NOW, serial())
                .unwrap_err();
        assert_eq!(error, wrong(profile, Profile::Workload));
    }
    let names = EdgeNames { dns: vec!["localhost".into()], ips: Vec::new() };
    let error = issue::issue_edge_server(&house.issuing, key().public_key(), &names, HOUR, NOW, serial());
    assert_eq!(error.unwrap_err(), wrong(Profile::Issuing, Profile::EdgeServer));
    let error = issue::make_issuing(&edge, &house.domain, key(), NOW, serial()).unwrap_err();
    assert_eq!(error, wrong(Profile::EdgeRoot, Profile::Issuing));
}

fn edge_root() -> Issuer {
    let domain = TrustDomain::parse("fleamarket.test").unwrap();
    let names = EdgeNames::local(&domain);
    issue::make_root(Root::Edge(&names), &domain, key(), NOW, serial()).unwrap()
}

fn names(dns: &[&str], ips: &[&str]) -> EdgeNames {
    EdgeNames {
        dns: dns.iter().map(|name| (*name).to_owned()).collect(),
        ips: ips.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect(),
    }
}

#[test]
fn an_edge_server_certificate_has_dns_and_ip_names_and_server_auth_alone() {
    let root = edge_root();
    assert_eq!(root.profile(), Profile::EdgeRoot);
    let wanted = names(&["fleamarket.test", "www.fleamarket.test", "localhost"], &["127.0.0.1", "::1"]);
    let ttl = profile::EDGE_SERVER_TTL_DEFAULT;
    let issued = issue::issue_edge_server(&root, key().public_key(), &wanted, ttl, NOW, serial()).unwrap();
    let certificate = parse(&issued.der);
    let found = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    let v6 = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let expected = [
        GeneralName::DNSName("fleamarket.test"),
        GeneralName::DNSName("www.fleamarket.test"),
        GeneralName::DNSName("localhost"),
        GeneralName::IPAddress(&[127, 0, 0, 1]),
        GeneralName::IPAddress(&v6),
    ];
    assert_eq!(found.as_slice(), expected);
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth);
    assert_eq!(seconds(&certificate).1, NOW.secs() + 30 * 24 * 3600);

    let root = parse(root.certificate());
    assert_eq!(root.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(0));
    assert!(root.name_constraints().unwrap().unwrap().critical);
    assert!(root.subject_alternative_name().unwrap().is_none());
}

#[test]
fn an_edge_root_certifies_no_name_outside_its_constraints() {
    let root = edge_root();
    let issue = |wanted: &EdgeNames| {
        issue::issue_edge_server(&root, key().public_key(), wanted, HOUR, NOW, serial()).map(|_| ())
    };
    let refused = Err(IssueError::NameNotPermitted { reason: PathError::NameConstraint });
    assert_eq!(issue(&names(&["example.com"], &[])), refused);
    assert_eq!(issue(&names(&["localhost"], &["10.0.0.1"])), refused);
    assert_eq!(issue(&names(&["localhost"], &["::2"])), refused);

    // A root for DNS names alone certifies no address at all, and one for addresses no name.
    let domain = TrustDomain::parse("fleamarket.test").unwrap();
    let make = |permitted: EdgeNames| {
        issue::make_root(Root::Edge(&permitted), &domain, key(), NOW, serial()).unwrap()
    };
    let issue_under = |root: &Issuer, wanted: &EdgeNames| {
        issue::issue_edge_server(root, key().public_key(), wanted, HOUR, NOW, serial()).map(|_| ())
    };
    let dns_only = make(names(&["localhost"], &[]));
    assert_eq!(issue_under(&dns_only, &names(&["localhost"], &[])), Ok(()));
    assert_eq!(issue_under(&dns_only, &names(&[], &["127.0.0.1"])), refused);
    assert_eq!(issue_under(&dns_only, &names(&[], &["::1"])), refused);
    let ip_only = make(names(&[], &["127.0.0.1"]));
    assert_eq!(issue_under(&ip_only, &names(&[], &["127.0.0.1"])), Ok(()));
    assert_eq!(issue_under(&ip_only, &names(&["localhost"], &[])), refused);
}

#[test]
fn rejects_edge_names_that_are_none_too_many_or_no_dns_names() {
    let root = edge_root();
    let issue = |wanted: &EdgeNames, ttl| {
        issue::issue_edge_server(&root, key().public_key(), wanted, ttl, NOW, serial()).map(|_| ())
    };
    assert_eq!(issue(&EdgeNames::default(), HOUR), Err(IssueError::NameCount { count: 0 }));
    let many = EdgeNames { dns: vec!["localhost".into(); profile::EDGE_NAMES_MAX], ips: Vec::new() };
    assert_eq!(issue(&many, HOUR), Ok(()));
    let too_many = EdgeNames { ips: vec![[127, 0, 0, 1].into()], ..many };
    assert_eq!(issue(&too_many, HOUR), Err(IssueError::NameCount { count: profile::EDGE_NAMES_MAX + 1 }));
    for name in ["Localhost", "*.localhost", "local_host!", "a b", "", "localhost.", "spiffe://x"] {
        let error = Err(IssueError::NotADnsName { name: name.into() });
        assert_eq!(issue(&names(&[name], &[]), HOUR), error, "{name}");
    }
    let long = profile::EDGE_SERVER_TTL_MAX + HOUR;
    let error = TtlError::TooLong { asked: long, limit: profile::EDGE_SERVER_TTL_MAX };
    assert_eq!(issue(&names(&["localhost"], &[]), long), Err(IssueError::Ttl(error)));
}

#[test]
fn a_stored_issuer_comes_back_with_its_own_key_only() {
    let house = house("fleamarket.test");
    let issuing = house.issuing.certificate().clone();
    let again = Issuer::new(issuing.clone(), house.issuing.key().clone()).unwrap();
    assert_eq!(again.serial_hex(), house.issuing.serial_hex());
    assert_eq!(again.not_after(), house.issuing.not_after());
    let error = |certificate, key| Issuer::new(certificate, key).map(|_| ()).unwrap_err();
    assert_eq!(error(issuing, key()), IssuerError::KeyMismatch);
    let leaf_key = key();
    let request = Csr::parse(&csr::make(&leaf_key, None).unwrap()).unwrap();
    let (ttl, id) = (LeafTtl::default(), house.id("ads"));
    let leaf = issue::issue_workload(&house.issuing, &request, &id, ttl, NOW, serial()).unwrap();
    assert_eq!(error(leaf.der, leaf_key), IssuerError::NotACa);
    assert_eq!(error(vec![0x30, 0].into(), key()), IssuerError::Malformed);
    assert_eq!(format!("{:?}", house.issuing), format!("Issuer(Issuing {})", house.issuing.serial_hex()));
}

#[test]
fn the_used_share_of_a_life_counts_from_issue_and_passes_the_warning_at_four_fifths() {
    let house = house("fleamarket.test");
    let leaf = house.issue("ads").der;
    let used = |seconds: i64| issue::life_used(&leaf, UnixTime::from_secs(NOW.secs() + seconds)).unwrap();
    assert_eq!(used(0), 0.0);
    assert_eq!(used(1800), 0.5);
    assert!(used(2879) < profile::LIFE_USED_WARNING && used(2881) > profile::LIFE_USED_WARNING);
    assert!(used(3600) >= 1.0 && used(7200) > 1.0);
    assert_eq!(used(-100), 0.0);
    assert_eq!(issue::life_used(&vec![1, 2, 3].into(), NOW), None);
}
