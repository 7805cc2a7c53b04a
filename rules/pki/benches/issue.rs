//! Certificates per CPU second: judging a request and issuing, against nothing but verifying one signature and
//! making another, in one run. The ratio is what our own code costs beside the cryptography.
//!
//! `cargo bench -p countersign-pki`
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops when it cannot go on"
)]

use std::time::Duration;

use countersign_identity::{SpiffeId, TrustDomain, UnixTime};
use countersign_keys::{KeyPair, SystemRandom, random_bytes};
use countersign_pki::csr::{self, Csr};
use countersign_pki::issue::{self, Root};
use countersign_pki::profile::LeafTtl;
use countersign_pki::revocation::{Crl, RevocationReason, RevokedEntry, make_crl};
use countersign_pki::{Bundle, BundleSet, CrlPolicy, Expectation, Usage, verify_peer};
use countersign_testkit::measure::per_cpu_second as per_second;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn main() {
    let rng = SystemRandom::new();
    let key = || KeyPair::generate(&rng).unwrap();
    let domain = TrustDomain::parse("fleamarket.test").unwrap();
    let root = issue::make_root(Root::Workload, &domain, key(), NOW, [1; 16]).unwrap();
    let issuing = issue::make_issuing(&root, &domain, key(), NOW, [2; 16]).unwrap();
    let workload_key = key();
    let request = csr::make(&workload_key, None).unwrap();
    let ads = SpiffeId::service(&domain, "ads").unwrap();

    let issue = || {
        let serial = random_bytes(&rng).unwrap();
        let csr = Csr::parse(&request).unwrap();
        issue::issue_workload(&issuing, &csr, &ads, LeafTtl::default(), NOW, serial).unwrap()
    };
    // As many bytes as the signed parts of a request and of a certificate have.
    let (asked, granted) = (vec![7; 180], vec![8; 480]);
    let possession = workload_key.sign_asn1(&asked).unwrap();
    let bare = || {
        workload_key.public_key().verify_asn1(&asked, &possession).unwrap();
        issuing.key().sign_asn1(&granted).unwrap()
    };
    let (ours, least) = (per_second(issue), per_second(bare));
    println!("certificates per CPU second, request judged and certificate issued: {ours:.0}");
    println!("bare verify + sign per CPU second: {least:.0}");
    println!("ratio (1.0 is cryptography alone): {:.2}", least / ours);

    let leaf = issue();
    let chain = [leaf.der, issuing.certificate().clone()];
    for revoked in [0, 10_000, 100_000] {
        let bundles = with_revoked(&domain, &root, &issuing, revoked);
        let judged = per_second(|| {
            let expected = Expectation::Exactly(&ads);
            let verdict = verify_peer(&chain, &bundles, NOW, Usage::Client, expected, CrlPolicy::Require);
            assert!(verdict.outcome.is_ok());
            verdict
        });
        let bytes =
            bundles.iter().flat_map(|bundle| bundle.crls()).map(|crl| crl.heap_bytes()).sum::<usize>();
        println!("peers judged per CPU second with {revoked} revoked: {judged:.0} ({bytes} bytes of CRL)");
    }
}

fn with_revoked(
    domain: &TrustDomain,
    root: &issue::Issuer,
    issuing: &issue::Issuer,
    count: u32,
) -> BundleSet {
    let entries: Vec<_> = (1..=count)
        .map(|n| RevokedEntry {
            serial: countersign_keys::sha256(&n.to_be_bytes()).iter().take(16).copied().collect(),
            at: NOW,
            reason: RevocationReason::Superseded,
            not_after: NOW.saturating_add(HOUR),
        })
        .collect();
    let der = make_crl(issuing, 1, &entries, NOW, NOW.saturating_add(HOUR)).unwrap();
    let crl = Crl::parse(&der, issuing.certificate(), NOW).unwrap();
    let roots = vec![root.certificate().clone()];
    [Bundle::new(domain.clone(), roots, vec![crl]).unwrap()].into_iter().collect()
}
