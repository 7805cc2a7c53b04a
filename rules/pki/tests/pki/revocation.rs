//! Taking certificates back, and being believed about it.

use std::time::Duration;

use countersign_identity::UnixTime;
use countersign_pki::revocation::{
    CRL_BYTES_MAX, CRL_LIFE_MAX, Crl, CrlError, MakeCrlError, RevocationReason, RevokedEntry, make_crl,
};
use countersign_pki::verify::RevocationError;
use countersign_pki::{
    BundleSet, CertificateDer, CrlPolicy, Expectation, Usage, Verdict, issue, verify_peer,
};
use rcgen::{CertificateRevocationListParams, KeyIdMethod, KeyUsagePurpose, RevokedCertParams, SerialNumber};

use crate::fixture::*;
use crate::peers::{refusal, results};

fn judge(bundles: &BundleSet, chain: &[CertificateDer<'_>], now: UnixTime, policy: CrlPolicy) -> Verdict {
    verify_peer(chain, bundles, now, Usage::Client, Expectation::AnyInBundle, policy)
}

#[test]
fn check_4_refuses_a_revoked_certificate_and_says_why() {
    let house = house("fleamarket.test");
    let (stolen, fine) = (house.issue("ads"), house.issue("ads"));
    let bundles = house.bundles(vec![house.crl(&[&stolen])]);
    for policy in [CrlPolicy::Require, CrlPolicy::AcceptMissing] {
        let verdict = judge(&bundles, &house.chain(&stolen), NOW, policy);
        let reason = RevocationReason::KeyCompromise;
        let revoked = RevocationError::Revoked { serial_hex: stolen.serial_hex.clone(), reason };
        assert_eq!(refusal(&verdict), revoked.into());
        assert_eq!(results(&verdict), ["pass", "pass", "pass", "fail", "not_reached"]);
        assert!(judge(&bundles, &house.chain(&fine), NOW, policy).outcome.is_ok());
    }
}

#[test]
fn check_4_needs_a_current_crl_where_the_policy_says_so() {
    let house = house("fleamarket.test");
    let issued = house.issue("ads");
    let chain = house.chain(&issued);
    let none = house.bundles(Vec::new());
    assert_eq!(refusal(&judge(&none, &chain, NOW, CrlPolicy::Require)), RevocationError::NoCrl.into());
    assert!(judge(&none, &chain, NOW, CrlPolicy::AcceptMissing).outcome.is_ok());

    let half_an_hour = NOW.saturating_add(Duration::from_secs(1800));
    let stale = Crl::read(&make_crl(&house.issuing, 1, &[], NOW, half_an_hour).unwrap()).unwrap();
    let bundles = house.bundles(vec![stale]);
    assert!(judge(&bundles, &chain, half_an_hour, CrlPolicy::Require).outcome.is_ok());
    let later = half_an_hour.saturating_add(Duration::from_secs(1));
    let expired = RevocationError::Crl(CrlError::Expired { next_update: half_an_hour });
    assert_eq!(refusal(&judge(&bundles, &chain, later, CrlPolicy::Require)), expired.into());
    assert!(judge(&bundles, &chain, later, CrlPolicy::AcceptMissing).outcome.is_ok());
}

#[test]
fn what_an_expired_crl_lists_stays_revoked() {
    let house = house("fleamarket.test");
    let stolen = house.issue("ads");
    let soon = NOW.saturating_add(Duration::from_secs(10));
    let stale = Crl::read(&make_crl(&house.issuing, 1, &[entry(&stolen)], NOW, soon).unwrap()).unwrap();
    let later = NOW.saturating_add(Duration::from_secs(600));
    let verdict = judge(&house.bundles(vec![stale]), &house.chain(&stolen), later, CrlPolicy::AcceptMissing);
    assert!(matches!(
        refusal(&verdict),
        countersign_pki::PeerError::Revocation(RevocationError::Revoked { .. })
    ));
}

#[test]
fn a_revoked_issuing_ca_takes_everything_below_it_along() {
    let house = house("fleamarket.test");
    let issued = house.issue("ads");
    let ca = RevokedEntry {
        serial: unhex(house.issuing.serial_hex()),
        at: NOW,
        reason: RevocationReason::CaCompromise,
        not_after: house.issuing.not_after(),
    };
    let of_root = make_crl(&house.root, 1, &[ca], NOW, NOW.saturating_add(HOUR)).unwrap();
    let bundles = house.bundles(vec![house.crl(&[]), Crl::read(&of_root).unwrap()]);
    let verdict = judge(&bundles, &house.chain(&issued), NOW, CrlPolicy::Require);
    let serial_hex = house.issuing.serial_hex().to_owned();
    let revoked = RevocationError::Revoked { serial_hex, reason: RevocationReason::CaCompromise };
    assert_eq!(refusal(&verdict), revoked.into());

    // The drill of T40: a new root takes the compromised one's place, and only its children count.
    let new_root = issue::make_root(issue::Root::Workload, &house.domain, key(), NOW, serial()).unwrap();
    let new_issuing = issue::make_issuing(&new_root, &house.domain, key(), NOW, serial()).unwrap();
    let renewed = House { domain: house.domain.clone(), root: new_root, issuing: new_issuing };
    let replaced = renewed.bundles(Vec::new());
    assert!(judge_in(&replaced, &house.chain(&issued)).outcome.is_err());
    assert!(judge_in(&replaced, &renewed.chain(&renewed.issue("ads"))).outcome.is_ok());
}

#[test]
fn a_crl_counts_only_from_the_issuer_itself() {
    let house = house("fleamarket.test");
    let issued = house.issue("ads");
    let chain = house.chain(&issued);
    let verdict_with = |der: &[u8]| {
        let bundles = house.bundles(vec![Crl::read(der).unwrap()]);
        judge(&bundles, &chain, NOW, CrlPolicy::Require)
    };
    let good = house.crl(&[]);

    let mut forged = good.der().to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(refusal(&verdict_with(&forged)), RevocationError::Crl(CrlError::Signature).into());

    // Another CA with the same name, listing our leaf: neither believed nor taken for the right one.
    let namesake =
        issue::Issuer::new(sign_like(house.issuing.certificate(), &house), key_of_namesake()).unwrap();
    let slander = make_crl(&namesake, 9, &[entry(&issued)], NOW, NOW.saturating_add(HOUR)).unwrap();
    assert_eq!(refusal(&verdict_with(&slander)), RevocationError::Crl(CrlError::OtherIssuer).into());
    let both = house.bundles(vec![Crl::read(&slander).unwrap(), good]);
    assert!(judge(&both, &chain, NOW, CrlPolicy::Require).outcome.is_ok());
}

thread_local! {
    static NAMESAKE: countersign_keys::KeyPair = key();
}

fn key_of_namesake() -> countersign_keys::KeyPair {
    NAMESAKE.with(Clone::clone)
}

/// An issuing CA with the same name as this one, and the namesake's key.
fn sign_like(certificate: &CertificateDer<'_>, house: &House) -> CertificateDer<'static> {
    use x509_parser::prelude::*;
    let original = X509Certificate::from_der(certificate).unwrap().1;
    let mut params = ca_params("unused", Some(0));
    params.distinguished_name = rcgen::DistinguishedName::new();
    for attribute in original.subject().iter_attributes() {
        let kind = match attribute.attr_type().to_id_string().as_str() {
            "2.5.4.10" => rcgen::DnType::OrganizationName,
            _ => rcgen::DnType::CommonName,
        };
        params.distinguished_name.push(kind, attribute.as_str().unwrap());
    }
    params.subject_alt_names = vec![uri("spiffe://fleamarket.test")];
    sign_key(&params, &rcgen_key(&key_of_namesake()), &house.root)
}

#[test]
fn a_crl_of_a_ca_without_crl_sign_does_not_count() {
    let house = house("fleamarket.test");
    let ca_key = key();
    let mut params = ca_params("no crls", Some(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = sign_key(&params, &rcgen_key(&ca_key), &house.root);
    let signer = rcgen::Issuer::from_ca_cert_der(&ca, rcgen_key(&ca_key)).unwrap();
    let leaf: CertificateDer<'static> =
        leaf_params(&house.id("ads")).signed_by(&rcgen_key(&key()), &signer).unwrap().into();

    // The encoder refuses to sign a CRL for such a CA, so it is told of one with the same name that may.
    let mut may = params;
    may.key_usages.push(KeyUsagePurpose::CrlSign);
    let may_sign = rcgen::Issuer::new(may, rcgen_key(&ca_key));
    let crl = crl_params(1, Vec::new()).signed_by(&may_sign).unwrap();
    let error = Crl::parse(crl.der(), &ca, NOW).unwrap_err();
    assert_eq!(error, CrlError::IssuerNotCrlSigner);
    let bundles = house.bundles(vec![Crl::read(crl.der()).unwrap()]);
    let verdict = judge(&bundles, &[leaf, ca], NOW, CrlPolicy::Require);
    assert_eq!(refusal(&verdict), RevocationError::Crl(CrlError::IssuerNotCrlSigner).into());
}

fn crl_params(number: u64, revoked: Vec<RevokedCertParams>) -> CertificateRevocationListParams {
    CertificateRevocationListParams {
        this_update: at(NOW),
        next_update: at(NOW.saturating_add(HOUR)),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked,
        key_identifier_method: KeyIdMethod::Sha256,
    }
}

#[test]
fn a_crl_says_what_was_put_into_it() {
    let house = house("fleamarket.test");
    let reasons = RevocationReason::ALL;
    let entries: Vec<_> = reasons
        .iter()
        .enumerate()
        .map(|(n, reason)| RevokedEntry {
            serial: vec![0, 0x80 + n as u8, n as u8],
            at: UnixTime::from_secs(NOW.secs() - n as i64),
            reason: *reason,
            not_after: NOW,
        })
        .collect();
    let next = NOW.saturating_add(HOUR);
    let der = make_crl(&house.issuing, u64::MAX, &entries, NOW, next).unwrap();
    let crl = Crl::parse(&der, house.issuing.certificate(), NOW).unwrap();
    assert_eq!((crl.number(), crl.this_update(), crl.next_update()), (u64::MAX, NOW, next));
    assert_eq!((crl.len(), crl.is_empty(), crl.der()), (entries.len(), false, &der[..]));
    for entry in &entries {
        assert_eq!(crl.reason(&entry.serial), Some(entry.reason));
        assert!(crl.is_revoked(&entry.serial[1..]), "with or without a leading zero");
    }
    assert!(!crl.is_revoked(&[0x80]) && !crl.is_revoked(&[]) && !crl.is_revoked(&[0xff; 20]));
    let listed: Vec<_> = crl.entries().map(|(serial, at, reason)| (serial.to_vec(), at, reason)).collect();
    let expected: Vec<_> = entries.iter().map(|e| (e.serial[1..].to_vec(), e.at, e.reason)).collect();
    assert_eq!(listed, expected);
    assert!(house.crl(&[]).is_empty());
}

#[test]
fn reasons_have_names_that_read_back() {
    for reason in RevocationReason::ALL {
        assert_eq!(RevocationReason::parse(reason.as_str()), Some(reason));
        let json = serde_json::to_value(reason).unwrap();
        assert_eq!(json, reason.as_str());
        assert_eq!(serde_json::from_value::<RevocationReason>(json).unwrap(), reason);
    }
    for name in ["keyCompromise", "key-compromise", "key_compromise", "KEYCOMPROMISE"] {
        assert_eq!(RevocationReason::parse(name), Some(RevocationReason::KeyCompromise));
    }
    assert!(serde_json::from_str::<RevocationReason>("\"because\"").is_err());
    assert_eq!(RevocationReason::parse("certificate_hold"), None);
}

#[test]
fn a_revoked_unexpired_certificate_never_leaves_the_crl_and_an_expired_one_leaves_late() {
    let house = house("fleamarket.test");
    let revoked = house.issue("ads");
    let listed_at = |now: UnixTime| {
        let der = make_crl(&house.issuing, 1, &[entry(&revoked)], now, now.saturating_add(HOUR)).unwrap();
        Crl::read(&der).unwrap().is_revoked(&unhex(&revoked.serial_hex))
    };
    assert!(listed_at(NOW));
    assert!(listed_at(revoked.not_after.saturating_sub(Duration::from_secs(1))));
    assert!(listed_at(revoked.not_after), "it is on a CRL issued after its end");
    let over = revoked.not_after.saturating_add(CRL_LIFE_MAX);
    assert!(listed_at(over.saturating_sub(Duration::from_secs(1))));
    assert!(!listed_at(over));
}

#[test]
fn rejects_making_a_crl_with_a_bad_next_update_or_serial() {
    let house = house("fleamarket.test");
    let make = |next, entries: &[RevokedEntry]| make_crl(&house.issuing, 1, entries, NOW, next).map(|_| ());
    assert_eq!(make(NOW, &[]), Err(MakeCrlError::NextUpdate));
    assert_eq!(make(NOW.saturating_add(CRL_LIFE_MAX), &[]), Ok(()));
    let too_late = NOW.saturating_add(CRL_LIFE_MAX + Duration::from_secs(1));
    assert_eq!(make(too_late, &[]), Err(MakeCrlError::NextUpdate));
    let with = |serial: Vec<u8>| {
        let entry = RevokedEntry { serial, at: NOW, reason: RevocationReason::Unspecified, not_after: NOW };
        make(NOW.saturating_add(HOUR), &[entry])
    };
    assert_eq!(with(vec![0x7f; 20]), Ok(()));
    for serial in [Vec::new(), vec![0, 0], vec![0x80; 20], vec![1; 21]] {
        assert_eq!(with(serial), Err(MakeCrlError::Serial));
    }
}

#[test]
fn rejects_a_crl_of_another_issuer_an_expired_one_and_one_from_the_future() {
    let (house, other) = (house("fleamarket.test"), house("fleamarket.test"));
    let der = house.crl(&[]).der().to_vec();
    let parse = |issuer: &CertificateDer<'_>, now| Crl::parse(&der, issuer, now).map(|_| ()).unwrap_err();
    assert_eq!(parse(other.issuing.certificate(), NOW), CrlError::OtherIssuer);
    assert_eq!(parse(&vec![0x30, 0].into(), NOW), CrlError::IssuerMalformed);
    let own = house.issuing.certificate();
    let next_update = NOW.saturating_add(HOUR);
    let late = next_update.saturating_add(Duration::from_secs(1));
    assert_eq!(parse(own, late), CrlError::Expired { next_update });
    let early = NOW.saturating_sub(Duration::from_secs(61));
    assert_eq!(parse(own, early), CrlError::NotYetValid);
    assert!(Crl::parse(&der, own, NOW.saturating_sub(Duration::from_secs(60))).is_ok());
}

#[test]
fn rejects_crls_that_are_partial_unnumbered_or_not_crls() {
    let house = house("fleamarket.test");
    let signer =
        rcgen::Issuer::from_ca_cert_der(house.issuing.certificate(), rcgen_key(house.issuing.key())).unwrap();
    let mut partial = crl_params(1, Vec::new());
    partial.issuing_distribution_point = Some(rcgen::CrlIssuingDistributionPoint {
        distribution_point: rcgen::CrlDistributionPoint { uris: vec!["http://fleamarket.test/crl".into()] },
        scope: Some(rcgen::CrlScope::UserCertsOnly),
    });
    let partial = partial.signed_by(&signer).unwrap();
    assert_eq!(Crl::read(partial.der()).unwrap_err(), CrlError::UnknownCriticalExtension);

    let good = house.crl(&[]).der().to_vec();
    // The last octet of an extension's object identifier decides which one it is.
    let renamed = |from: [u8; 3], to: u8| {
        let mut der = good.clone();
        let at = der.windows(3).position(|window| window == from).unwrap();
        der[at + 2] = to;
        Crl::read(&der).unwrap_err()
    };
    assert_eq!(renamed([0x55, 0x1d, 20], 99), CrlError::NoNumber);
    assert_eq!(renamed([0x55, 0x1d, 35], 99), CrlError::NoAuthorityKeyId);
    assert_eq!(renamed([0x55, 0x1d, 35], 20), CrlError::Malformed, "a number twice");
    for bytes in
        [&[][..], &[0x30, 0], &good[..good.len() - 1], &[&good[..], &[0]].concat(), &house.issue("a").der]
    {
        assert_eq!(Crl::read(bytes).unwrap_err(), CrlError::Malformed);
    }
    let bytes = CRL_BYTES_MAX + 1;
    assert_eq!(Crl::read(&vec![0; bytes]).unwrap_err(), CrlError::TooLong { bytes });
    assert_eq!(Crl::read(&vec![0; CRL_BYTES_MAX]).unwrap_err(), CrlError::Malformed);
}

#[test]
fn a_long_crl_is_looked_up_correctly_and_costs_four_bytes_an_entry_beside_itself() {
    let house = house("fleamarket.test");
    let serial_of = |n: u32| countersign_keys::sha256(&n.to_be_bytes())[..16].to_vec();
    let entries: Vec<_> = (0..20_000)
        .map(|n| RevokedEntry {
            serial: serial_of(n),
            at: NOW,
            reason: RevocationReason::Superseded,
            not_after: NOW.saturating_add(HOUR),
        })
        .collect();
    let der = make_crl(&house.issuing, 1, &entries, NOW, NOW.saturating_add(HOUR)).unwrap();
    let crl = Crl::parse(&der, house.issuing.certificate(), NOW).unwrap();
    assert_eq!(crl.len(), 20_000);
    assert!((0..20_000).all(|n| crl.is_revoked(&serial_of(n))));
    assert!((20_000..40_000).all(|n| !crl.is_revoked(&serial_of(n))));
    assert!(crl.heap_bytes() <= der.len() + 4 * crl.len());
}
