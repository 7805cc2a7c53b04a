//! A manipulated certificate is declined, whatever was changed in it (T37).

use countersign_pki::{CertificateDer, PeerError};
use x509_parser::prelude::*;

use crate::fixture::*;

/// Where the TBSCertificate lies in the DER.
fn signed_part(der: &[u8]) -> std::ops::Range<usize> {
    let certificate = X509Certificate::from_der(der).unwrap().1;
    let signed: &[u8] = certificate.tbs_certificate.as_ref();
    let start = signed.as_ptr() as usize - der.as_ptr() as usize;
    start..start + signed.len()
}

#[test]
fn every_flipped_bit_of_a_leafs_content_is_refused() {
    let house = house("fleamarket.test");
    let chain = house.chain(&house.issue("ads"));
    let bundles = house.bundles(Vec::new());
    assert!(judge_in(&bundles, &chain).outcome.is_ok());
    let leaf = chain[0].to_vec();
    let mut reasons = std::collections::BTreeSet::new();
    for (at, bit) in signed_part(&leaf).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut flipped = leaf.clone();
        flipped[at] ^= 1 << bit;
        let reason = judge_in(&bundles, &[flipped.into(), chain[1].clone()]).outcome;
        let reason = reason.expect_err(&format!("bit {bit} of byte {at} was flipped and nobody noticed"));
        reasons.insert(reason.check().as_str());
    }
    // Every check but revocation has its part in it, the signature above all.
    assert_eq!(reasons.into_iter().collect::<Vec<_>>(), ["chain", "identity", "usage", "validity"]);
}

#[test]
fn every_flipped_byte_of_an_intermediate_or_a_signature_is_refused() {
    let house = house("fleamarket.test");
    let chain = house.chain(&house.issue("ads"));
    let bundles = house.bundles(Vec::new());
    let judge = |chain: [CertificateDer<'_>; 2]| judge_in(&bundles, &chain).outcome;
    for at in 0..chain[1].len() {
        let mut flipped = chain[1].to_vec();
        flipped[at] ^= 0x10;
        let error =
            judge([chain[0].clone(), flipped.into()]).expect_err(&format!("byte {at} of the intermediate"));
        assert!(matches!(error, PeerError::Chain(_)), "byte {at}: {error}");
    }
    for at in signed_part(&chain[0]).end..chain[0].len() {
        let mut flipped = chain[0].to_vec();
        flipped[at] ^= 0x10;
        assert!(judge([flipped.into(), chain[1].clone()]).is_err(), "byte {at} of the signature");
    }
}

#[test]
fn the_key_of_one_certificate_does_not_go_with_the_content_of_another() {
    let house = house("fleamarket.test");
    let (ads, users) = (house.issue("ads"), house.issue("ads"));
    let point = |der: &[u8]| {
        let key = X509Certificate::from_der(der).unwrap().1.public_key().subject_public_key.data.to_vec();
        (der.windows(65).position(|window| window == key).unwrap(), key)
    };
    let ((at, _), (_, other_key)) = (point(&ads.der), point(&users.der));
    let mut swapped = ads.der.to_vec();
    swapped[at..at + 65].copy_from_slice(&other_key);
    let verdict = house.judge(&[swapped.into(), house.issuing.certificate().clone()]);
    assert!(matches!(verdict.outcome, Err(PeerError::Chain(_))));
}
