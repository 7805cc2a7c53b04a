//! Signing certificates: for tokens and requests, and never for a connection.

use countersign_keys::KeyPair;
use countersign_pki::issue::{self, Issued};
use countersign_pki::profile::{ID_KP_JWT, LeafTtl};
use countersign_pki::verify::{ChainError, IdentityError, RevocationError, UsageError, ValidityError};
use countersign_pki::{
    BundleSet, CertificateDer, CheckResult, CrlPolicy, Expectation, PeerError, Signer, Usage, Verdict, csr,
    verify_peer, verify_signer,
};
use rcgen::ExtendedKeyUsagePurpose;

use crate::fixture::*;

struct Ads {
    house: House,
    key: KeyPair,
    issued: Issued,
}

fn ads() -> Ads {
    let (house, key) = (house("fleamarket.test"), key());
    let request = csr::Csr::parse(&csr::make(&key, None).unwrap()).unwrap();
    let ttl = LeafTtl::default();
    let id = house.id("ads");
    let issued = issue::issue_signing(&house.issuing, &request, &id, ttl, NOW, serial()).unwrap();
    Ads { house, key, issued }
}

impl Ads {
    fn verify(&self, bundles: &BundleSet) -> (Verdict, Option<Signer>) {
        let chain = self.house.chain(&self.issued);
        verify_signer(&chain, bundles, NOW, Expectation::AnyInBundle, CrlPolicy::Require)
    }

    fn signer(&self) -> (BundleSet, Signer) {
        let bundles = self.house.bundles(vec![self.house.crl(&[])]);
        let signer = self.verify(&bundles).1.unwrap();
        (bundles, signer)
    }
}

fn refusal(house: &House, chain: &[CertificateDer<'_>], usage: Usage) -> PeerError {
    let bundles = house.bundles(Vec::new());
    let policy = CrlPolicy::AcceptMissing;
    verify_peer(chain, &bundles, NOW, usage, Expectation::AnyInBundle, policy).outcome.unwrap_err()
}

#[test]
fn accepts_a_signing_certificate_by_all_five_checks_and_gives_its_key() {
    let ads = ads();
    let bundles = ads.house.bundles(vec![ads.house.crl(&[])]);
    let (verdict, signer) = ads.verify(&bundles);
    assert!(verdict.checks.iter().all(|check| check.result == CheckResult::Pass), "{verdict:?}");
    let signer = signer.unwrap();
    assert_eq!(*signer.id(), ads.house.id("ads"));
    assert_eq!(signer.key(), ads.key.public_key());
    assert_eq!(*signer.thumbprint(), countersign_keys::sha256(&ads.issued.der));
    assert_eq!(signer.not_after(), ads.issued.not_after);
    assert_eq!(signer.recheck(&bundles, NOW, CrlPolicy::Require).unwrap().id, ads.house.id("ads"));
}

#[test]
fn rejects_a_signing_certificate_at_both_ends_of_a_connection() {
    let ads = ads();
    let chain = ads.house.chain(&ads.issued);
    assert_eq!(refusal(&ads.house, &chain, Usage::Client), UsageError::NoClientAuth.into());
    assert_eq!(refusal(&ads.house, &chain, Usage::Server), UsageError::NoServerAuth.into());
}

#[test]
fn rejects_as_signer_whoever_may_do_anything_else() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, CodeSigning, Other, ServerAuth};
    let house = house("fleamarket.test");
    let jwt = || Other(ID_KP_JWT.to_vec());
    let judge = |usages: Vec<ExtendedKeyUsagePurpose>| {
        let chain = house.forge(|params| params.extended_key_usages = usages);
        let bundles = house.bundles(Vec::new());
        let any = Expectation::AnyInBundle;
        let (verdict, signer) = verify_signer(&chain, &bundles, NOW, any, CrlPolicy::AcceptMissing);
        assert_eq!(verdict.outcome.is_ok(), signer.is_some());
        verdict.outcome
    };
    assert!(judge(vec![jwt()]).is_ok());
    for usages in [
        vec![ClientAuth, ServerAuth],
        vec![ClientAuth, ServerAuth, jwt()],
        vec![jwt(), CodeSigning],
        vec![jwt(), Any],
        vec![jwt(), Other(vec![1, 2, 3, 4])],
        vec![Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 38])],
        Vec::new(),
    ] {
        assert_eq!(judge(usages.clone()).unwrap_err(), UsageError::NotForSigning.into(), "{usages:?}");
    }
}

#[test]
fn rejects_a_signer_of_another_name_of_another_authority_and_of_yesterday() {
    let ads = ads();
    let chain = ads.house.chain(&ads.issued);
    let (bundles, users) = (ads.house.bundles(vec![ads.house.crl(&[])]), ads.house.id("users"));
    let judge = |bundles: &BundleSet, now, expected| {
        verify_signer(&chain, bundles, now, expected, CrlPolicy::Require).0.outcome.unwrap_err()
    };
    let other = judge(&bundles, NOW, Expectation::Exactly(&users));
    assert_eq!(other, IdentityError::Unexpected { got: ads.house.id("ads") }.into());
    let late = ads.issued.not_after.saturating_add(HOUR);
    let expired = judge(&bundles, late, Expectation::AnyInBundle);
    assert!(matches!(expired, PeerError::Validity(ValidityError::Expired { .. })), "{expired}");
    let elsewhere = house("fleamarket.test").bundles(Vec::new());
    let foreign = judge(&elsewhere, NOW, Expectation::AnyInBundle);
    assert!(matches!(foreign, PeerError::Chain(ChainError::Path(_))), "{foreign}");
    let nobody = judge(&BundleSet::new(), NOW, Expectation::AnyInBundle);
    assert!(matches!(nobody, PeerError::Chain(ChainError::NoBundle { .. })), "{nobody}");
}

#[test]
fn a_revoked_signer_is_refused_when_it_comes_and_when_it_is_remembered() {
    let ads = ads();
    let (_, signer) = ads.signer();
    let revoked = ads.house.bundles(vec![ads.house.crl(&[&ads.issued])]);
    let is_revoked =
        |error: &PeerError| matches!(error, PeerError::Revocation(RevocationError::Revoked { .. }));
    assert!(is_revoked(&ads.verify(&revoked).0.outcome.unwrap_err()));
    assert!(is_revoked(&signer.recheck(&revoked, NOW, CrlPolicy::Require).unwrap_err()));
    let unknown = signer.recheck(&ads.house.bundles(Vec::new()), NOW, CrlPolicy::Require).unwrap_err();
    assert_eq!(unknown, RevocationError::NoCrl.into());
}

#[test]
fn a_remembered_signer_ends_with_its_certificate_and_with_its_root() {
    let ads = ads();
    let (bundles, signer) = ads.signer();
    let recheck = |bundles: &BundleSet, now| signer.recheck(bundles, now, CrlPolicy::AcceptMissing);
    assert!(recheck(&bundles, ads.issued.not_after).is_ok());
    let late = ads.issued.not_after.saturating_add(std::time::Duration::from_secs(1));
    assert!(matches!(recheck(&bundles, late).unwrap_err(), PeerError::Validity(_)));
    let replaced = house("fleamarket.test").bundles(Vec::new());
    for gone in [replaced, BundleSet::new()] {
        let error = recheck(&gone, NOW).unwrap_err();
        assert!(matches!(error, PeerError::Chain(ChainError::NoBundle { .. })), "{error}");
    }
}
