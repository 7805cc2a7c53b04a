//! What a workload may ask for: a certificate for its own key, and at most its own name.

use countersign_identity::{IdError, SpiffeId};
use countersign_keys::WeakKey;
use countersign_pki::csr::{self, CSR_BYTES_MAX, Csr, CsrError};
use countersign_pki::issue;
use countersign_pki::profile::LeafTtl;
use rcgen::{
    Attribute, BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use x509_parser::prelude::*;

use crate::fixture::*;

/// A request by a P-256 key that asks for what `change` says.
fn request(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn refusal(der: &[u8]) -> CsrError {
    Csr::parse(der).unwrap_err()
}

#[test]
fn accepts_a_bare_key_its_own_name_and_what_every_workload_gets_anyway() {
    let house = house("fleamarket.test");
    assert_eq!(Csr::parse(&request(|_| {})).unwrap().requested_id(), None);
    let own = key();
    let named = Csr::parse(&csr::make(&own, Some(&house.id("ads"))).unwrap()).unwrap();
    assert_eq!(named.requested_id(), Some(&house.id("ads")));
    assert_eq!(named.public_key(), own.public_key());
    let like_the_profile = request(|params| {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.is_ca = IsCa::ExplicitNoCa;
    });
    assert!(Csr::parse(&like_the_profile).is_ok());
}

#[test]
fn the_subject_of_a_request_is_ignored_and_the_certificate_equals_the_profile() {
    let house = house("fleamarket.test");
    let boastful = request(|params| {
        params.distinguished_name.push(DnType::CommonName, "root of everything");
        params.distinguished_name.push(DnType::OrganizationName, "Countersign");
        params.subject_alt_names = vec![uri("spiffe://fleamarket.test/svc/ads")];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let (ttl, id) = (LeafTtl::default(), house.id("ads"));
    let csr = Csr::parse(&boastful).unwrap();
    let issued = issue::issue_workload(&house.issuing, &csr, &id, ttl, NOW, serial()).unwrap();
    let certificate = X509Certificate::from_der(&issued.der).unwrap().1;
    assert_eq!(certificate.subject().iter().count(), 0);
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth, "the profile's, not the request's");
    assert_eq!(certificate.extensions().len(), 6);
}

#[test]
fn rejects_a_csr_signed_by_another_key() {
    // The key of one request with the signature of another.
    let (one, other) = (request(|_| {}), request(|_| {}));
    let signature =
        |der: &[u8]| X509CertificationRequest::from_der(der).unwrap().1.signature_value.data.to_vec();
    let (ours, theirs) = (signature(&one), signature(&other));
    if ours.len() != theirs.len() {
        // ECDSA signatures in DER have 70 to 72 bytes; another pair will do.
        return rejects_a_csr_signed_by_another_key();
    }
    let mut swapped = one.clone();
    let at = one.len() - ours.len();
    swapped[at..].copy_from_slice(&theirs);
    assert_eq!(refusal(&swapped), CsrError::NotPossessed);

    let mut flipped = one;
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    assert_eq!(refusal(&flipped), CsrError::NotPossessed);
}

#[test]
fn rejects_a_csr_whose_content_was_changed_after_signing() {
    let der = csr::make(&key(), Some(&SpiffeId::parse("spiffe://fleamarket.test/svc/ads").unwrap())).unwrap();
    let at = der.windows(3).position(|window| window == b"ads").unwrap();
    let mut changed = der;
    changed[at..at + 3].copy_from_slice(b"abc");
    assert_eq!(refusal(&changed), CsrError::NotPossessed);
}

#[test]
fn rejects_weak_and_foreign_keys_each_for_its_reason() {
    let by = |algorithm| {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        refusal(params.serialize_request(&key).unwrap().der())
    };
    let p384 = WeakKey::OtherCurve { curve: "P-384".into() };
    assert_eq!(by(&rcgen::PKCS_ECDSA_P384_SHA384), CsrError::Key(p384));
    assert_eq!(by(&rcgen::PKCS_ED25519), CsrError::Key(WeakKey::Ed25519));
    let rsa = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let der = CertificateParams::default().serialize_request(&rsa).unwrap().der().to_vec();
    assert_eq!(refusal(&der), CsrError::Key(WeakKey::Rsa { bits: 2048 }));
}

#[test]
fn rejects_a_signature_algorithm_other_than_ecdsa_with_sha256() {
    let mut der = request(|_| {});
    // ecdsa-with-SHA256 (…4.3.2) becomes ecdsa-with-SHA384 (…4.3.3).
    let oid = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    let at = der.windows(8).position(|window| window == oid).unwrap();
    der[at + 7] = 3;
    assert_eq!(refusal(&der), CsrError::SignatureAlgorithm { oid: "1.2.840.10045.4.3.3".into() });
}

#[test]
fn rejects_odd_encodings_of_what_no_signature_covers() {
    let good = request(|_| {});
    let oid = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    let at = good.windows(10).position(|window| window == oid).unwrap();
    let mut other_class = good.clone();
    other_class[at] = 0x40;
    assert_eq!(refusal(&other_class), CsrError::Malformed);
    // The BIT STRING follows at once: tag, length, unused bits.
    let mut unused_bits = good;
    unused_bits[at + 12] = 1;
    assert_eq!(refusal(&unused_bits), CsrError::Malformed);
}

#[test]
fn rejects_names_beyond_one_spiffe_id() {
    let asks = |names: Vec<SanType>| refusal(&request(|params| params.subject_alt_names = names));
    let ads = || uri("spiffe://fleamarket.test/svc/ads");
    let other = |name: &str| CsrError::AsksForOtherNames { name: name.into() };
    let two = asks(vec![ads(), uri("spiffe://fleamarket.test/svc/users")]);
    assert_eq!(two, other("URI(spiffe://fleamarket.test/svc/users)"));
    assert_eq!(asks(vec![SanType::DnsName("localhost".try_into().unwrap())]), other("DNSName(localhost)"));
    assert_eq!(
        asks(vec![ads(), SanType::DnsName("localhost".try_into().unwrap())]),
        other("DNSName(localhost)")
    );
    assert_eq!(asks(vec![SanType::IpAddress([127, 0, 0, 1].into())]), other("IPAddress(7f:00:00:01)"));
    let mail = SanType::Rfc822Name("spiffe://fleamarket.test/svc/ads".try_into().unwrap());
    assert_eq!(asks(vec![mail]), other("RFC822Name(spiffe://fleamarket.test/svc/ads)"));
}

#[test]
fn rejects_names_that_are_no_spiffe_id_and_never_normalises_them() {
    let asks = |name: &str| refusal(&request(|params| params.subject_alt_names = vec![uri(name)]));
    let invalid = |error| CsrError::AsksForInvalidId(error);
    assert_eq!(asks("https://fleamarket.test/svc/ads"), invalid(IdError::WrongScheme));
    assert_eq!(asks("spiffe://fleamarket.test/svc/../countersign/authority"), invalid(IdError::DotSegment));
    assert_eq!(asks("spiffe://fleamarket.test/svc/%2e%2e/x"), invalid(IdError::BadPathCharacter('%')));
    assert_eq!(asks("spiffe://fleamarket.test/svc/ads\0"), invalid(IdError::BadPathCharacter('\0')));
}

#[test]
fn rejects_asking_to_be_a_ca_or_for_more_usages() {
    let ca = request(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(refusal(&ca), CsrError::AsksToBeCa);
    for usage in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::KeyEncipherment] {
        let more = request(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature, usage]);
        assert_eq!(refusal(&more), CsrError::AsksForKeyUsage);
    }
    for usage in [
        ExtendedKeyUsagePurpose::Any,
        ExtendedKeyUsagePurpose::CodeSigning,
        ExtendedKeyUsagePurpose::EmailProtection,
        ExtendedKeyUsagePurpose::TimeStamping,
        ExtendedKeyUsagePurpose::OcspSigning,
        ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 2]),
    ] {
        let more =
            request(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, usage]);
        assert_eq!(refusal(&more), CsrError::AsksForExtendedKeyUsage);
    }
}

#[test]
fn rejects_any_other_extension_and_any_extension_twice() {
    let custom = |arcs: &[u64]| CustomExtension::from_oid_content(arcs, vec![5, 0]);
    let asks =
        |extensions: Vec<CustomExtension>| refusal(&request(|params| params.custom_extensions = extensions));
    let refused = |oid: &str| CsrError::AsksForExtension { oid: oid.into() };
    assert_eq!(asks(vec![custom(&[2, 5, 29, 30])]), refused("2.5.29.30"), "name constraints");
    assert_eq!(asks(vec![custom(&[1, 2, 3, 4])]), refused("1.2.3.4"));
    // The same extension twice: whoever reads the first only would not see the second name.
    let named = |name: &[u8]| {
        let content = [&[0x30, 2 + name.len() as u8, 0x86, name.len() as u8][..], name].concat();
        CustomExtension::from_oid_content(&[2, 5, 29, 17], content)
    };
    let twice =
        vec![named(b"spiffe://fleamarket.test/svc/ads"), named(b"spiffe://fleamarket.test/svc/users")];
    assert_eq!(asks(twice), refused("2.5.29.17"));
    let broken = CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x04, 0x01, 0x00]);
    assert_eq!(asks(vec![broken]), refused("2.5.29.17"), "a SAN that cannot be read is not skipped");
}

#[test]
fn rejects_attributes_other_than_one_extension_request() {
    const CHALLENGE_PASSWORD: &[u64] = &[1, 2, 840, 113_549, 1, 9, 7];
    const EXTENSION_REQUEST: &[u64] = &[1, 2, 840, 113_549, 1, 9, 14];
    let with = |attributes: Vec<Attribute>, name: bool| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if name {
            params.subject_alt_names = vec![uri("spiffe://fleamarket.test/svc/ads")];
        }
        let key = KeyPair::generate().unwrap();
        refusal(params.serialize_request_with_attributes(&key, attributes).unwrap().der())
    };
    // SET { PrintableString "x" }, SET { SEQUENCE {} }
    let password = || Attribute { oid: CHALLENGE_PASSWORD, values: vec![0x31, 3, 0x13, 1, b'x'] };
    let extensions = || Attribute { oid: EXTENSION_REQUEST, values: vec![0x31, 2, 0x30, 0] };
    let refused = |oid: &str| CsrError::Attribute { oid: oid.into() };
    assert_eq!(with(vec![password()], false), refused("1.2.840.113549.1.9.7"));
    assert_eq!(with(vec![password()], true), refused("1.2.840.113549.1.9.7"));
    // Two extension requests: a reader of the first alone would miss the second.
    assert_eq!(with(vec![extensions()], true), refused("1.2.840.113549.1.9.14"));
}

#[test]
fn rejects_noise_trailing_bytes_and_overlong_requests() {
    let good = request(|_| {});
    assert_eq!(refusal(b""), CsrError::Malformed);
    assert_eq!(refusal(&good[..good.len() - 1]), CsrError::Malformed);
    assert_eq!(refusal(&[&good[..], &[0, 0]].concat()), CsrError::TrailingData { bytes: 2 });
    assert_eq!(refusal(&vec![0; CSR_BYTES_MAX + 1]), CsrError::TooLong { bytes: CSR_BYTES_MAX + 1 });
    assert_eq!(refusal(&vec![0; CSR_BYTES_MAX]), CsrError::Malformed);
}
