//! The five checks: who passes them, and at which one everybody else fails.

use std::time::Duration;

use countersign_identity::{IdError, TrustDomain, UnixTime};
use countersign_keys::sha256;
use countersign_pki::path::PathError;
use countersign_pki::truststore::CertificateAuthorityService;
use countersign_pki::verify::{CHAIN_CERTIFICATES_MAX, ChainError, IdentityError, UsageError, ValidityError};
use countersign_pki::{
    Bundle, BundleError, BundleSet, CERTIFICATE_BYTES_MAX, CertificateDer, CheckName, CheckResult, CrlPolicy,
    Expectation, PeerError, Usage, Verdict, bundle, issue, verify_peer,
};
use rcgen::{CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};

use crate::fixture::*;

/// The results as one word each, in order.
pub(crate) fn results(verdict: &Verdict) -> Vec<&'static str> {
    assert_eq!(verdict.checks.each_ref().map(|check| check.name), CheckName::ALL, "all five, in order");
    let word = |result: &CheckResult| match result {
        CheckResult::Pass => "pass",
        CheckResult::Fail(_) => "fail",
        CheckResult::NotReached => "not_reached",
    };
    verdict.checks.iter().map(|check| word(&check.result)).collect()
}

/// The reason, having made sure that it is the same in the outcome and in the record of its check.
pub(crate) fn refusal(verdict: &Verdict) -> PeerError {
    let reason = verdict.outcome.clone().unwrap_err();
    let failed: Vec<_> = verdict.checks.iter().filter(|c| matches!(c.result, CheckResult::Fail(_))).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].name, reason.check());
    assert_eq!(failed[0].result, CheckResult::Fail(reason.clone()));
    reason
}

#[test]
fn accepts_a_workload_of_its_own_authority_and_says_who_it_is() {
    let house = house("fleamarket.test");
    let issued = house.issue("ads");
    for usage in [Usage::Client, Usage::Server] {
        let crls = vec![house.crl(&[])];
        let (chain, bundles, ads) = (house.chain(&issued), house.bundles(crls), house.id("ads"));
        let verdict =
            verify_peer(&chain, &bundles, NOW, usage, Expectation::Exactly(&ads), CrlPolicy::Require);
        assert_eq!(results(&verdict), ["pass"; 5]);
        let workload = verdict.outcome.unwrap().into_inner();
        assert_eq!(workload.id, ads);
        let certificate = workload.certificate.unwrap();
        assert_eq!(certificate.serial_hex, issued.serial_hex);
        assert_eq!(certificate.thumbprint_sha256_hex, countersign_keys::sha256_hex(&issued.der));
        assert_eq!(certificate.not_after, issued.not_after);
    }
}

#[test]
fn check_1_refuses_a_server_only_certificate_from_a_client() {
    let house = house("fleamarket.test");
    let chain = house.forge(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let verdict = house.judge(&chain);
    assert_eq!(refusal(&verdict), UsageError::NoClientAuth.into());
    assert_eq!(results(&verdict), ["fail", "not_reached", "not_reached", "not_reached", "not_reached"]);
}

#[test]
fn check_1_wants_both_extended_key_usages_or_none() {
    let house = house("fleamarket.test");
    let judge = |usages: Vec<ExtendedKeyUsagePurpose>, usage| {
        let chain = house.forge(|params| params.extended_key_usages = usages);
        let bundles = house.bundles(Vec::new());
        verify_peer(&chain, &bundles, NOW, usage, Expectation::AnyInBundle, CrlPolicy::AcceptMissing)
    };
    use ExtendedKeyUsagePurpose::{ClientAuth, CodeSigning, ServerAuth};
    assert_eq!(refusal(&judge(vec![ClientAuth], Usage::Server)), UsageError::NoServerAuth.into());
    assert_eq!(refusal(&judge(vec![ClientAuth], Usage::Client)), UsageError::NoServerAuth.into());
    assert_eq!(refusal(&judge(vec![ServerAuth], Usage::Server)), UsageError::NoClientAuth.into());
    assert_eq!(refusal(&judge(vec![CodeSigning], Usage::Client)), UsageError::NoClientAuth.into());
    assert_eq!(refusal(&judge(vec![CodeSigning], Usage::Server)), UsageError::NoServerAuth.into());
    assert!(judge(vec![ClientAuth, ServerAuth, CodeSigning], Usage::Client).outcome.is_ok());
    assert!(judge(Vec::new(), Usage::Client).outcome.is_ok());
}

#[test]
fn check_1_refuses_a_leaf_that_could_sign_or_cannot() {
    let house = house("fleamarket.test");
    let judge = |usages: Vec<KeyUsagePurpose>| refusal(&house.judge(&house.forge(|p| p.key_usages = usages)));
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign, KeyEncipherment};
    assert_eq!(judge(Vec::new()), UsageError::NoDigitalSignature.into());
    assert_eq!(judge(vec![KeyEncipherment]), UsageError::NoDigitalSignature.into());
    assert_eq!(judge(vec![DigitalSignature, KeyCertSign]), UsageError::SignsCertificates.into());
    assert_eq!(judge(vec![DigitalSignature, CrlSign]), UsageError::SignsCertificates.into());
    let not_critical = house.forge(|params| {
        params.key_usages.clear();
        let mut usage = CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![0x03, 0x02, 0x07, 0x80]);
        usage.set_criticality(false);
        params.custom_extensions.push(usage);
    });
    assert_eq!(refusal(&house.judge(&not_critical)), UsageError::NoDigitalSignature.into());
}

#[test]
fn check_1_refuses_a_ca_as_a_peer() {
    let house = house("fleamarket.test");
    let ca = house.forge(|params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0)));
    assert_eq!(refusal(&house.judge(&ca)), UsageError::Ca.into());
    let issuing = [house.issuing.certificate().clone()];
    assert_eq!(refusal(&house.judge(&issuing)), UsageError::Ca.into());
    let root = [house.root.certificate().clone()];
    assert_eq!(refusal(&house.judge(&root)), UsageError::Ca.into());
}

#[test]
fn check_1_refuses_no_certificate_noise_and_too_much() {
    let house = house("fleamarket.test");
    assert_eq!(refusal(&house.judge(&[])), UsageError::NoCertificate.into());
    assert_eq!(refusal(&house.judge(&[vec![0x30, 0].into()])), UsageError::Malformed.into());
    let leaf = house.issue("ads");
    let trailing: CertificateDer<'_> = [&leaf.der[..], &[0]].concat().into();
    assert_eq!(refusal(&house.judge(&[trailing])), UsageError::Malformed.into());
    let mut long = house.chain(&leaf);
    long.resize(CHAIN_CERTIFICATES_MAX, house.issuing.certificate().clone());
    assert!(house.judge(&long).outcome.is_ok());
    long.push(house.issuing.certificate().clone());
    assert_eq!(refusal(&house.judge(&long)), UsageError::TooMuch.into());
    let big = vec![leaf.der, vec![0; CERTIFICATE_BYTES_MAX + 1].into()];
    assert_eq!(refusal(&house.judge(&big)), UsageError::TooMuch.into());
}

#[test]
fn check_2_refuses_an_expired_and_a_future_certificate_to_the_second() {
    let house = house("fleamarket.test");
    let issued = house.issue("ads");
    let judge = |now: UnixTime| {
        let (chain, bundles) = (house.chain(&issued), house.bundles(Vec::new()));
        verify_peer(&chain, &bundles, now, Usage::Client, Expectation::AnyInBundle, CrlPolicy::AcceptMissing)
    };
    let second = Duration::from_secs(1);
    assert!(judge(issued.not_before).outcome.is_ok());
    assert!(judge(issued.not_after).outcome.is_ok());
    assert!(judge(issued.not_after.saturating_add(Duration::from_millis(999))).outcome.is_ok());
    let expired = judge(issued.not_after.saturating_add(second));
    assert_eq!(refusal(&expired), ValidityError::Expired { by: second }.into());
    assert_eq!(results(&expired), ["pass", "fail", "not_reached", "not_reached", "not_reached"]);
    let future = judge(issued.not_before.saturating_sub(second));
    assert_eq!(refusal(&future), ValidityError::NotYetValid { by: second }.into());
}

#[test]
fn check_3_refuses_another_authority_of_the_same_trust_domain_name() {
    let (ours, theirs) = (house("fleamarket.test"), house("fleamarket.test"));
    let verdict = ours.judge(&theirs.chain(&theirs.issue("ads")));
    assert_eq!(refusal(&verdict), ChainError::Path(PathError::UnknownIssuer).into());
    assert_eq!(results(&verdict), ["pass", "pass", "fail", "not_reached", "not_reached"]);
}

#[test]
fn check_3_refuses_a_missing_intermediate_and_a_self_signed_leaf() {
    let house = house("fleamarket.test");
    let chain = house.chain(&house.issue("ads"));
    assert_eq!(refusal(&house.judge(&chain[..1])), ChainError::Path(PathError::UnknownIssuer).into());

    let mut params = leaf_params(&house.id("ads"));
    params.distinguished_name.push(DnType::CommonName, "ads");
    let own: CertificateDer<'static> = params.self_signed(&rcgen_key(&key())).unwrap().into();
    assert_eq!(refusal(&house.judge(&[own])), ChainError::Path(PathError::SelfSigned).into());
}

#[test]
fn check_3_knows_only_the_bundle_of_the_peers_own_trust_domain() {
    let (home, other) = (house("fleamarket.test"), house("other.test"));
    let both: BundleSet = [home.bundle(Vec::new()), other.bundle(Vec::new())].into_iter().collect();
    assert!(judge_in(&both, &home.chain(&home.issue("ads"))).outcome.is_ok());
    assert!(judge_in(&both, &other.chain(&other.issue("ads"))).outcome.is_ok());

    // Each authority certifies a name of the other: trusted roots both, and refused both.
    for (liar, victim) in [(&home, &other), (&other, &home)] {
        let chain = liar.forge(|params| params.subject_alt_names = vec![uri(victim.id("admin").as_str())]);
        let verdict = judge_in(&both, &chain);
        assert_eq!(refusal(&verdict), ChainError::Path(PathError::UnknownIssuer).into());
    }
    let stranger = house("stranger.test");
    let no_bundle = ChainError::NoBundle { trust_domain: stranger.domain.clone() };
    assert_eq!(refusal(&judge_in(&both, &stranger.chain(&stranger.issue("ads")))), no_bundle.into());
}

#[test]
fn check_5_refuses_a_valid_certificate_of_somebody_else() {
    let house = house("fleamarket.test");
    let issued = house.issue("ads");
    let judge = |expected: Expectation<'_>| {
        let (chain, bundles) = (house.chain(&issued), house.bundles(Vec::new()));
        verify_peer(&chain, &bundles, NOW, Usage::Client, expected, CrlPolicy::AcceptMissing)
    };
    let (ads, users, chat) = (house.id("ads"), house.id("users"), house.id("chat"));
    let verdict = judge(Expectation::Exactly(&users));
    assert_eq!(refusal(&verdict), IdentityError::Unexpected { got: ads.clone() }.into());
    assert_eq!(results(&verdict), ["pass", "pass", "pass", "pass", "fail"]);
    assert!(judge(Expectation::OneOf(&[users.clone(), ads.clone()])).outcome.is_ok());
    let verdict = judge(Expectation::OneOf(&[users, chat]));
    assert_eq!(refusal(&verdict), IdentityError::Unexpected { got: ads.clone() }.into());
    assert!(judge(Expectation::OneOf(&[])).outcome.is_err(), "who names nobody accepts nobody");

    let pin = sha256(&issued.der);
    assert!(judge(Expectation::Thumbprint(&pin)).outcome.is_ok());
    let other = sha256(&house.issue("ads").der);
    let verdict = judge(Expectation::Thumbprint(&other));
    assert_eq!(refusal(&verdict), IdentityError::OtherThumbprint { got: ads }.into());
}

#[test]
fn check_5_counts_uri_names_of_every_scheme_and_wants_exactly_one() {
    let house = house("fleamarket.test");
    let judge = |names: Vec<SanType>| house.judge(&house.forge(|params| params.subject_alt_names = names));
    let ads = || uri("spiffe://fleamarket.test/svc/ads");
    let two = judge(vec![ads(), uri("https://fleamarket.test/svc/ads")]);
    assert_eq!(refusal(&two), IdentityError::UriCount { count: 2 }.into());
    assert_eq!(results(&two), ["pass", "pass", "not_reached", "not_reached", "fail"]);
    assert_eq!(refusal(&judge(vec![ads(), ads()])), IdentityError::UriCount { count: 2 }.into());
    assert_eq!(refusal(&judge(Vec::new())), IdentityError::NoName.into());
    let dns = SanType::DnsName("fleamarket.test".try_into().unwrap());
    assert!(
        judge(vec![ads(), dns]).outcome.is_ok(),
        "DNS names beside the one URI are allowed, and mean nothing"
    );
}

#[test]
fn check_5_never_takes_a_name_of_another_kind_for_a_spiffe_id() {
    let house = house("fleamarket.test");
    let text = "spiffe://fleamarket.test/svc/ads";
    let mail = SanType::Rfc822Name(text.try_into().unwrap());
    let dns = SanType::DnsName(text.try_into().unwrap());
    for name in [mail, dns] {
        let verdict = house.judge(&house.forge(|params| params.subject_alt_names = vec![name]));
        assert_eq!(refusal(&verdict), IdentityError::UriCount { count: 0 }.into());
    }
    let in_the_subject = house.forge(|params| {
        params.subject_alt_names.clear();
        params.distinguished_name.push(DnType::CommonName, text);
    });
    assert_eq!(refusal(&house.judge(&in_the_subject)), IdentityError::NoName.into());
}

#[test]
fn check_5_refuses_control_bytes_in_names_of_any_kind() {
    let house = house("fleamarket.test");
    let ads = || uri("spiffe://fleamarket.test/svc/ads");
    let bad = [
        vec![uri("spiffe://fleamarket.test/svc/ads\0.evil.test")],
        vec![ads(), SanType::DnsName("fleamarket.test\0.evil.test".try_into().unwrap())],
        vec![ads(), SanType::Rfc822Name("ads@fleamarket.test\0@evil.test".try_into().unwrap())],
        vec![uri("spiffe://fleamarket.test/svc/ads\n")],
    ];
    for names in bad {
        let verdict = house.judge(&house.forge(|params| params.subject_alt_names = names));
        assert_eq!(refusal(&verdict), IdentityError::MalformedName.into());
    }
}

#[test]
fn check_5_refuses_names_that_are_no_workload() {
    let house = house("fleamarket.test");
    let judge = |name: &str| refusal(&house.judge(&house.forge(|p| p.subject_alt_names = vec![uri(name)])));
    assert_eq!(judge("spiffe://fleamarket.test"), IdentityError::NotAWorkload.into());
    let not_an_id = |error| PeerError::from(IdentityError::NotASpiffeId(error));
    assert_eq!(judge("https://fleamarket.test/svc/ads"), not_an_id(IdError::WrongScheme));
    assert_eq!(judge("spiffe://fleamarket.test/svc/../x"), not_an_id(IdError::DotSegment));
    assert_eq!(judge("spiffe://fleamarket.test/svc/%2e"), not_an_id(IdError::BadPathCharacter('%')));
}

#[test]
fn check_5_wants_a_critical_name_where_the_subject_is_empty() {
    let house = house("fleamarket.test");
    let chain = house.forge(|params| {
        params.subject_alt_names.clear();
        let text = b"spiffe://fleamarket.test/svc/ads";
        let name = [&[0x30, 2 + text.len() as u8, 0x86, text.len() as u8][..], text].concat();
        params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], name));
    });
    assert_eq!(refusal(&house.judge(&chain)), IdentityError::NameNotCritical.into());
}

#[test]
fn a_path_may_be_cross_signed_but_no_longer_than_its_authorities_allow() {
    let house = house("fleamarket.test");
    let judge = |chain: &[CertificateDer<'static>]| house.judge(chain);

    // The issuing key, cross-signed by a new root: found through whichever root is in the bundle.
    let new_root = issue::make_root(issue::Root::Workload, &house.domain, key(), NOW, serial()).unwrap();
    let leaf = house.issue("ads");
    let mut params = ca_params("unused", Some(0));
    let issuing =
        rcgen::Issuer::from_ca_cert_der(house.issuing.certificate(), rcgen_key(house.issuing.key())).unwrap();
    params.distinguished_name = subject_of(house.issuing.certificate());
    let cross = sign_key(&params, issuing.key(), &new_root);
    let new_bundle =
        Bundle::new(house.domain.clone(), vec![new_root.certificate().clone()], Vec::new()).unwrap();
    let both_ways = [leaf.der, house.issuing.certificate().clone(), cross];
    assert!(judge(&both_ways).outcome.is_ok());
    assert!(judge_in(&[new_bundle].into_iter().collect(), &both_ways).outcome.is_ok());

    // The root allows one CA below itself, not two; the issuing CA allows none.
    let (middle_key, low_key) = (rcgen_key(&key()), rcgen_key(&key()));
    let middle = sign_key(&ca_params("middle", None), &middle_key, &house.root);
    let middle_signer = rcgen::Issuer::from_ca_cert_der(&middle, &middle_key).unwrap();
    let low: CertificateDer<'static> =
        ca_params("low", None).signed_by(&low_key, &middle_signer).unwrap().into();
    let low_signer = rcgen::Issuer::from_ca_cert_der(&low, &low_key).unwrap();
    let leaf: CertificateDer<'static> =
        leaf_params(&house.id("ads")).signed_by(&rcgen_key(&key()), &low_signer).unwrap().into();
    assert_eq!(refusal(&judge(&[leaf, low, middle])), ChainError::Path(PathError::TooLong).into());

    let below_issuing = sign_key(&ca_params("below", None), &low_key, &house.issuing);
    let signer = rcgen::Issuer::from_ca_cert_der(&below_issuing, &low_key).unwrap();
    let leaf: CertificateDer<'static> =
        leaf_params(&house.id("ads")).signed_by(&rcgen_key(&key()), &signer).unwrap().into();
    let chain = [leaf, below_issuing, house.issuing.certificate().clone()];
    assert_eq!(refusal(&judge(&chain)), ChainError::Path(PathError::TooLong).into());
}

fn subject_of(ca: &CertificateDer<'_>) -> rcgen::DistinguishedName {
    use x509_parser::prelude::*;
    let certificate = X509Certificate::from_der(ca).unwrap().1;
    let mut name = rcgen::DistinguishedName::new();
    for attribute in certificate.subject().iter_attributes() {
        let kind = match attribute.attr_type().to_id_string().as_str() {
            "2.5.4.10" => DnType::OrganizationName,
            _ => DnType::CommonName,
        };
        name.push(kind, attribute.as_str().unwrap());
    }
    name
}

#[test]
fn a_workload_that_signs_for_others_is_no_authority() {
    let house = house("fleamarket.test");
    let ads_key = rcgen_key(&key());
    let mut params = leaf_params(&house.id("ads"));
    params.distinguished_name.push(DnType::CommonName, "ads");
    let ads = sign_key(&params, &ads_key, &house.issuing);
    let signer = rcgen::Issuer::from_ca_cert_der(&ads, &ads_key).unwrap();
    let forged: CertificateDer<'static> =
        leaf_params(&house.id("users")).signed_by(&rcgen_key(&key()), &signer).unwrap().into();
    let chain = [forged, ads, house.issuing.certificate().clone()];
    assert_eq!(refusal(&house.judge(&chain)), ChainError::Path(PathError::LeafAsCa).into());
}

#[test]
fn an_edge_root_in_nobodys_bundle_proves_no_workload() {
    let house = house("fleamarket.test");
    let names = countersign_pki::profile::EdgeNames::local(&house.domain);
    let edge = issue::make_root(issue::Root::Edge(&names), &house.domain, key(), NOW, serial()).unwrap();
    let leaf = sign(&leaf_params(&house.id("ads")), &edge);
    assert_eq!(refusal(&house.judge(&[leaf])), ChainError::Path(PathError::UnknownIssuer).into());
}

#[test]
fn a_root_past_its_end_proves_nobody_even_where_the_chain_below_is_fresh() {
    let house = house("fleamarket.test");
    let after = house.root.not_after().saturating_add(HOUR);
    let issuing = sign_key(
        &{
            let mut params = ca_params("late", Some(0));
            params.not_after = at(after.saturating_add(HOUR));
            params
        },
        &rcgen_key(house.issuing.key()),
        &house.root,
    );
    let signer = rcgen::Issuer::from_ca_cert_der(&issuing, rcgen_key(house.issuing.key())).unwrap();
    let mut params = leaf_params(&house.id("ads"));
    params.not_after = at(after.saturating_add(HOUR));
    let leaf: CertificateDer<'static> = params.signed_by(&rcgen_key(&key()), &signer).unwrap().into();
    let (chain, bundles) = ([leaf, issuing], house.bundles(Vec::new()));
    let verdict = verify_peer(
        &chain,
        &bundles,
        after,
        Usage::Client,
        Expectation::AnyInBundle,
        CrlPolicy::AcceptMissing,
    );
    assert_eq!(refusal(&verdict), ChainError::Path(PathError::RootNotValid).into());
}

#[test]
fn a_bundle_refuses_to_be_empty_too_large_or_without_real_roots() {
    let house = house("fleamarket.test");
    let trust_domain = house.domain.clone();
    let make = |roots| Bundle::new(trust_domain.clone(), roots, Vec::new()).map(|_| ()).unwrap_err();
    assert_eq!(make(Vec::new()), BundleError::Empty { trust_domain: trust_domain.clone() });
    let root = house.root.certificate().clone();
    let not_a_root =
        |position, reason| BundleError::NotARoot { trust_domain: trust_domain.clone(), position, reason };
    assert_eq!(make(vec![root.clone(), house.issue("ads").der]), not_a_root(1, PathError::LeafAsCa));
    assert_eq!(make(vec![vec![1].into()]), not_a_root(0, PathError::Malformed));
    let count = bundle::ROOTS_MAX + 1;
    let many = BundleError::TooManyRoots { trust_domain: trust_domain.clone(), count };
    assert_eq!(make(vec![root.clone(); count]), many);
    let crls = vec![house.crl(&[]); bundle::CRLS_MAX + 1];
    let error = Bundle::new(trust_domain.clone(), vec![root], crls).map(|_| ()).unwrap_err();
    assert_eq!(error, BundleError::TooManyCrls { trust_domain, count: bundle::CRLS_MAX + 1 });
}

#[test]
fn a_trust_store_of_ones_own_validates_what_was_appended_and_nothing_else() {
    let house = house("fleamarket.test");
    let chain = house.chain(&house.issue("ads"));
    let mut store = BundleSet::new();
    assert!(!store.validate_certificate(&chain, NOW));
    store.append_certificate(&house.domain, house.root.certificate().clone()).unwrap();
    assert!(store.validate_certificate(&chain, NOW));
    assert!(!store.validate_certificate(&chain, NOW.saturating_add(HOUR * 2)));

    // Appending keeps what was there, takes nothing twice, and refuses a leaf.
    let successor = issue::make_root(issue::Root::Workload, &house.domain, key(), NOW, serial()).unwrap();
    store.append_certificate(&house.domain, successor.certificate().clone()).unwrap();
    store.append_certificate(&house.domain, successor.certificate().clone()).unwrap();
    assert_eq!(store.of(&house.domain).unwrap().roots().len(), 2);
    assert!(store.validate_certificate(&chain, NOW));
    assert!(store.append_certificate(&house.domain, chain[0].clone()).is_err());

    // Trusted for its own trust domain, not for another.
    let mut elsewhere = BundleSet::new();
    let other = TrustDomain::parse("other.test").unwrap();
    elsewhere.append_certificate(&other, house.root.certificate().clone()).unwrap();
    assert!(!elsewhere.validate_certificate(&chain, NOW));
}

#[test]
fn check_names_are_those_of_the_decision_record() {
    let names = CheckName::ALL.map(CheckName::as_str);
    assert_eq!(names, ["usage", "validity", "chain", "revocation", "identity"]);
}

#[test]
fn check_3_refuses_intermediates_that_may_not_sign_certificates() {
    let house = house("fleamarket.test");
    let judge = |params: &rcgen::CertificateParams| {
        let ca_key = rcgen_key(&key());
        let ca = sign_key(params, &ca_key, &house.root);
        let signer = rcgen::Issuer::from_ca_cert_der(&ca, &ca_key).unwrap();
        let leaf: CertificateDer<'static> =
            leaf_params(&house.id("ads")).signed_by(&rcgen_key(&key()), &signer).unwrap().into();
        house.judge(&[leaf, ca]).outcome.map(|_| ())
    };
    let refused = |reason| Err(PeerError::from(ChainError::Path(reason)));
    assert_eq!(judge(&ca_params("good", Some(0))), Ok(()));

    let mut no_cert_sign = ca_params("no keyCertSign", Some(0));
    no_cert_sign.key_usages = vec![KeyUsagePurpose::CrlSign];
    assert_eq!(judge(&no_cert_sign), refused(PathError::NoKeyCertSign));
    let mut no_constraints = ca_params("no basic constraints", None);
    no_constraints.is_ca = IsCa::NoCa;
    assert_eq!(judge(&no_constraints), refused(PathError::LeafAsCa));
    let mut server_only = ca_params("for servers", Some(0));
    server_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert_eq!(judge(&server_only), refused(PathError::ExtendedKeyUsage));
    let mut ended = ca_params("ended", Some(0));
    ended.not_before = at(NOW.saturating_sub(HOUR * 2));
    ended.not_after = at(NOW.saturating_sub(HOUR));
    assert_eq!(judge(&ended), refused(PathError::Expired));
    let mut begins_later = ca_params("begins later", Some(0));
    begins_later.not_before = at(NOW.saturating_add(HOUR));
    begins_later.not_after = at(NOW.saturating_add(HOUR * 2));
    assert_eq!(judge(&begins_later), refused(PathError::NotYetValid));
    let mut upside_down = ca_params("ends before it begins", Some(0));
    upside_down.not_after = at(NOW.saturating_sub(HOUR));
    assert_eq!(judge(&upside_down), refused(PathError::InvalidValidity));
    let mut unknown = ca_params("unknown critical extension", Some(0));
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55738, 666, 1], vec![5, 0]);
    extension.set_criticality(true);
    unknown.custom_extensions.push(extension);
    assert_eq!(judge(&unknown), refused(PathError::UnknownCriticalExtension));
    let mut uri_constraints = ca_params("constraints on URIs", Some(0));
    // NameConstraints { permitted [0] { URI "fleamarket.test" } }
    let host = b"fleamarket.test";
    let tree = [&[0x30, 17, 0x86, 15][..], host].concat();
    let content = [&[0x30, 21, 0xa0, 19][..], &tree].concat();
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
    extension.set_criticality(true);
    uri_constraints.custom_extensions.push(extension);
    assert_eq!(judge(&uri_constraints), refused(PathError::NameConstraint), "even where the name would fit");
}

#[test]
fn check_3_is_bounded_however_many_authorities_share_one_name() {
    let house = house("fleamarket.test");
    let leaf_signer_key = rcgen_key(&key());
    let twins: Vec<_> = (0..CHAIN_CERTIFICATES_MAX - 1)
        .map(|_| sign_key(&ca_params("twin", None), &rcgen_key(&key()), &house.root))
        .collect();
    let absent = sign_key(&ca_params("twin", None), &leaf_signer_key, &house.root);
    let signer = rcgen::Issuer::from_ca_cert_der(&absent, &leaf_signer_key).unwrap();
    let leaf: CertificateDer<'static> =
        leaf_params(&house.id("ads")).signed_by(&rcgen_key(&key()), &signer).unwrap().into();
    let chain: Vec<_> = std::iter::once(leaf).chain(twins).collect();
    assert_eq!(refusal(&house.judge(&chain)), ChainError::Path(PathError::Signature).into());

    // Beneath the limit on certificates there is one on work.
    let many: Vec<_> =
        (0..150).map(|_| sign_key(&ca_params("twin", None), &rcgen_key(&key()), &house.root)).collect();
    let anchor = countersign_pki::path::Anchor::new(house.root.certificate()).unwrap();
    let purpose = countersign_pki::path::Purpose::Client;
    let error = countersign_pki::path::validate(&chain[0], &many, &[anchor], NOW, purpose).unwrap_err();
    assert_eq!(error, PathError::TooComplex);
}

#[test]
fn the_path_below_spiffe_takes_no_authority_for_a_leaf_either() {
    let house = house("fleamarket.test");
    let anchor = countersign_pki::path::Anchor::new(house.root.certificate()).unwrap();
    let purpose = countersign_pki::path::Purpose::Client;
    let error = countersign_pki::path::validate(house.issuing.certificate(), &[], &[anchor], NOW, purpose);
    assert_eq!(error.unwrap_err(), PathError::CaAsLeaf);
}

#[test]
fn messages_start_in_lower_case_name_their_object_and_end_without_a_full_stop() {
    let house = house("fleamarket.test");
    let messages = [
        PeerError::Identity(IdentityError::UriCount { count: 2 }).to_string(),
        PeerError::from(ValidityError::Expired { by: HOUR }).to_string(),
        PeerError::from(ChainError::NoBundle { trust_domain: house.domain.clone() }).to_string(),
        PathError::Other("something new".into()).to_string(),
        issue::IssueError::Encode.to_string(),
        countersign_pki::csr::MakeCsrError::Encode.to_string(),
        countersign_pki::revocation::MakeCrlError::Encode.to_string(),
    ];
    for message in messages {
        assert!(message.starts_with(|c: char| c.is_lowercase()) && !message.ends_with('.'), "{message}");
        assert!(
            message.contains("certificate")
                || ["csr", "crl", "bundle", "chain"]
                    .iter()
                    .any(|object| { message.to_lowercase().contains(object) }),
            "{message}"
        );
    }
}
