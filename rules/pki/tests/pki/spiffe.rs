//! Good and bad X.509-SVIDs of go-spiffe and rust-spiffe.

use std::path::PathBuf;

use countersign_identity::{SpiffeId, TrustDomain, UnixTime};
use countersign_keys::KeyPair;
use countersign_pki::path::{Anchor, PathError};
use countersign_pki::pem::{self, PemError};
use countersign_pki::verify::{ChainError, IdentityError, UsageError, ValidityError};
use countersign_pki::{
    Bundle, BundleError, BundleSet, CertificateDer, CheckName, CrlPolicy, Expectation, PeerError, Usage,
    Verdict, verify_peer,
};
use x509_parser::prelude::*;

use crate::fixture::house;
use crate::peers::refusal;

const GO: &str = "spiffe/go-spiffe-testdata/svid/x509svid/testdata";
const RUST: &str = "spiffe/rust-spiffe-testdata/spiffe/svid/x509";
const RUSTLS: &str = "spiffe/rust-spiffe-testdata/spiffe-rustls";

/// The certificates of a file: PEM, or DER one after the other. `None` where this machine has no vectors.
fn chain(folder: &str, file: &str) -> Option<Vec<CertificateDer<'static>>> {
    let path: PathBuf = countersign_testkit::vectors(folder)?.join(file);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if file.ends_with(".pem") {
        let blocks = pem::decode(&bytes).unwrap();
        return Some(
            blocks.into_iter().filter(|b| b.label == pem::CERTIFICATE).map(|b| b.der.into()).collect(),
        );
    }
    let mut rest = bytes.as_slice();
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (after, certificate) = X509Certificate::from_der(rest).unwrap();
        all.push(certificate.as_raw().to_vec().into());
        rest = after;
    }
    Some(all)
}

/// An hour's quarter into the leaf's life.
fn during(leaf: &CertificateDer<'_>) -> UnixTime {
    let certificate = X509Certificate::from_der(leaf).unwrap().1;
    UnixTime::from_secs(certificate.validity().not_before.timestamp() + 900)
}

fn judge(chain: &[CertificateDer<'_>], bundles: &BundleSet, now: UnixTime) -> Verdict {
    verify_peer(chain, bundles, now, Usage::Client, Expectation::AnyInBundle, CrlPolicy::AcceptMissing)
}

fn strangers() -> BundleSet {
    house("example.org").bundles(Vec::new())
}

fn bundle_of(roots: Vec<CertificateDer<'static>>) -> BundleSet {
    [Bundle::new(TrustDomain::parse("example.org").unwrap(), roots, Vec::new()).unwrap()]
        .into_iter()
        .collect()
}

#[test]
fn accepts_the_svids_whose_authority_is_among_the_files() {
    let Some(leaf) = chain(RUSTLS, "spiffe_leaf.der") else { return };
    let now = during(&leaf[0]);
    let bundles = bundle_of(chain(RUSTLS, "ca.der").unwrap());
    let workload = judge(&leaf, &bundles, now).outcome.unwrap().into_inner();
    assert_eq!(workload.id, SpiffeId::parse("spiffe://example.org/service").unwrap());

    let leaf = chain(RUSTLS, "spiffe_leaf_uri_only.der").unwrap();
    let bundles = bundle_of(chain(RUSTLS, "ca_uri_only.der").unwrap());
    assert!(judge(&leaf, &bundles, during(&leaf[0])).outcome.is_ok());

    let with_root = chain(RUST, "1-svid-chain.der").unwrap();
    let bundles = bundle_of(vec![with_root.last().unwrap().clone()]);
    assert!(judge(&with_root, &bundles, during(&with_root[0])).outcome.is_ok());
    assert!(judge(&with_root, &strangers(), during(&with_root[0])).outcome.is_err());
}

#[test]
fn good_svids_of_unknown_authorities_fail_at_the_chain_and_not_before() {
    let good = [
        (GO, "good-leaf-only.pem"),
        (GO, "good-leaf-and-intermediate.pem"),
        (GO, "good-cert-and-key.pem"),
        (GO, "good-key-and-cert.pem"),
        (RUST, "svid-with-dns.der"),
        (RUST, "1-svid-chain.der"),
        (RUST, "expired-svid-chain.der"),
    ];
    for (folder, file) in good {
        let Some(chain) = chain(folder, file) else { return };
        let verdict = judge(&chain, &strangers(), during(&chain[0]));
        assert_eq!(refusal(&verdict).check(), CheckName::Chain, "{file}");
    }
}

#[test]
fn bad_svids_fail_at_the_check_that_is_theirs() {
    let signs = || PeerError::from(UsageError::SignsCertificates);
    let no_signature = || PeerError::from(UsageError::NoDigitalSignature);
    let bad = [
        ("wrong-leaf-ca-true", PeerError::from(UsageError::Ca)),
        ("wrong-leaf-cert-sign", signs()),
        ("wrong-leaf-crl-sign", signs()),
        // Its key usage is keyCertSign and cRLSign instead of digitalSignature.
        ("wrong-leaf-no-digital-signature", signs()),
        ("wrong-leaf-empty-id", PeerError::from(IdentityError::UriCount { count: 0 })),
    ];
    for (name, expected) in bad {
        for (folder, ending) in [(GO, "pem"), (RUST, "der")] {
            let Some(chain) = chain(folder, &format!("{name}.{ending}")) else { return };
            assert_eq!(refusal(&judge(&chain, &strangers(), during(&chain[0]))), expected, "{name}.{ending}");
        }
    }
    let more = [
        (RUSTLS, "spiffe_leaf_no_digital_signature.der"),
        (RUSTLS, "spiffe_leaf_no_key_usage.der"),
        (RUSTLS, "no_spiffe_leaf.der"),
        // Its key usage is not critical (and its subject and issuer are empty).
        (RUST, "empty-subject-name.der"),
    ];
    for (folder, file) in more {
        let chain = chain(folder, file).unwrap();
        assert_eq!(refusal(&judge(&chain, &strangers(), during(&chain[0]))), no_signature(), "{file}");
    }
    let signer = chain(RUSTLS, "ca_with_spiffe_signing.der").unwrap();
    assert_eq!(refusal(&judge(&signer, &strangers(), during(&signer[0]))), UsageError::Ca.into());
}

#[test]
fn an_intermediate_that_is_no_authority_carries_no_path() {
    for (file, reason) in [
        ("wrong-intermediate-no-ca", PathError::LeafAsCa),
        ("wrong-intermediate-no-key-cert-sign", PathError::NoKeyCertSign),
    ] {
        for (folder, ending) in [(GO, "pem"), (RUST, "der")] {
            let Some(chain) = chain(folder, &format!("{file}.{ending}")) else { return };
            // No root of theirs is among the files; the intermediate is refused as one, for the same reason.
            let error =
                Bundle::new(TrustDomain::parse("example.org").unwrap(), vec![chain[1].clone()], Vec::new());
            let Err(BundleError::NotARoot { reason: found, .. }) = error else {
                panic!("{file} was taken as a root")
            };
            assert!([reason.clone(), PathError::KeyIdentifier].contains(&found), "{file}: {found:?}");
            let verdict = judge(&chain, &strangers(), during(&chain[0]));
            assert!(matches!(refusal(&verdict), PeerError::Chain(ChainError::Path(_))));
        }
    }
}

#[test]
fn an_expired_svid_is_expired() {
    let Some(chain) = chain(RUST, "expired-svid-chain.der") else { return };
    let verdict = judge(&chain, &strangers(), UnixTime::from_secs(1_800_000_000));
    assert!(matches!(refusal(&verdict), PeerError::Validity(ValidityError::Expired { .. })));
}

#[test]
fn corrupted_files_are_malformed_and_keys_belong_to_their_certificates() {
    let Some(folder) = countersign_testkit::vectors(RUST) else { return };
    let read = |file: &str| std::fs::read(folder.join(file)).unwrap();
    let corrupted: CertificateDer<'_> = read("corrupted").into();
    assert_eq!(
        refusal(&judge(&[corrupted], &strangers(), UnixTime::from_secs(0))),
        UsageError::Malformed.into()
    );

    let leaf = chain(RUST, "1-svid-chain.der").unwrap().remove(0);
    let spki = X509Certificate::from_der(&leaf).unwrap().1.public_key().raw.to_vec();
    assert_eq!(KeyPair::from_pkcs8(&read("1-key.der")).unwrap().public_key().spki_der(), spki);
}

#[test]
fn bundle_files_of_go_spiffe_are_read_or_refused() {
    let Some(folder) = countersign_testkit::vectors("spiffe/go-spiffe-testdata/bundle/x509bundle/testdata")
    else {
        return;
    };
    let read = |file: &str| pem::decode(&std::fs::read(folder.join(file)).unwrap());
    assert_eq!(read("cert.pem").unwrap().len(), 1);
    assert_eq!(read("certs.pem").unwrap().len(), 2);
    assert_eq!(read("empty.pem"), Err(PemError::NoBlock));
    assert_eq!(read("not-pem.pem"), Err(PemError::NoBlock));
    assert_ne!(read("key.pem").unwrap()[0].label, pem::CERTIFICATE);
    // As roots, none of them count: they are of version 1, and the corrupted one has bytes to spare.
    let root = |file: &str| Anchor::new(&read(file).unwrap().remove(0).der.into()).map(|_| ()).unwrap_err();
    assert_eq!(root("cert.pem"), PathError::Version);
    assert_eq!(root("certs.pem"), PathError::Version);
    assert_eq!(root("corrupted.pem"), PathError::Malformed);
}
