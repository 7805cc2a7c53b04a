//! No bytes whatsoever make a parser panic, and changed bytes never pass for unchanged ones.

use std::sync::LazyLock;

use countersign_pki::csr::{self, Csr};
use countersign_pki::path::Anchor;
use countersign_pki::{CertificateDer, Crl, inspect, issue, pem};
use proptest::prelude::*;

use crate::fixture::*;

struct Good {
    house: House,
    leaf: Vec<u8>,
    csr: Vec<u8>,
    crl: Vec<u8>,
}

static GOOD: LazyLock<Good> = LazyLock::new(|| {
    let house = house("fleamarket.test");
    let issued = house.issue("ads");
    let csr = csr::make(&key(), Some(&house.id("ads"))).unwrap();
    let crl = house.crl(&[&issued]).der().to_vec();
    Good { leaf: issued.der.to_vec(), csr, crl, house }
});

/// Something good with a few bytes changed, cut out or put in: gets further into a parser than noise does.
fn mutated(good: fn() -> &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..3_u8);
    prop::collection::vec(change, 1..6).prop_map(move |changes| {
        let mut bytes = good().to_vec();
        for (at, value, kind) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = value,
                1 => bytes.truncate(at),
                _ => bytes.insert(at, value),
            }
        }
        bytes
    })
}

proptest! {
    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Csr::parse(&bytes);
        let _ = Crl::read(&bytes);
        let _ = pem::decode(&bytes);
        let _ = inspect::describe(&bytes);
        let certificate = CertificateDer::from(bytes.clone());
        let _ = Anchor::new(&certificate);
        let _ = issue::life_used(&certificate, NOW);
        prop_assert!(GOOD.house.judge(&[certificate]).outcome.is_err());
    }

    #[test]
    fn a_changed_certificate_never_panics_and_never_passes(bytes in mutated(|| &GOOD.leaf)) {
        let _ = inspect::describe(&bytes);
        let _ = Anchor::new(&CertificateDer::from(bytes.clone()));
        let unchanged = bytes == GOOD.leaf;
        let chain = [bytes.into(), GOOD.house.issuing.certificate().clone()];
        prop_assert_eq!(GOOD.house.judge(&chain).outcome.is_ok(), unchanged);
    }

    #[test]
    fn a_changed_request_never_panics_and_never_passes(bytes in mutated(|| &GOOD.csr)) {
        let _ = inspect::describe(&bytes);
        prop_assert_eq!(Csr::parse(&bytes).is_ok(), bytes == GOOD.csr);
    }

    #[test]
    fn a_changed_crl_never_panics_and_never_passes(bytes in mutated(|| &GOOD.crl)) {
        let _ = inspect::describe(&bytes);
        let read = Crl::parse(&bytes, GOOD.house.issuing.certificate(), NOW);
        prop_assert_eq!(read.is_ok(), bytes == GOOD.crl);
    }

    #[test]
    fn a_changed_pem_file_never_panics(text in "(-----(BEGIN|END) [A-Z ]{0,8}-----\n|[A-Za-z0-9+/=]{0,20}\n){0,9}") {
        let _ = inspect::describe(text.as_bytes());
        if let Ok(blocks) = pem::decode(text.as_bytes()) {
            for block in blocks {
                prop_assert_eq!(pem::decode(pem::encode(&block.label, &block.der).as_bytes()).unwrap(), [block]);
            }
        }
    }
}

#[test]
fn odd_certificates_crls_and_ocsp_messages_of_others_never_panic() {
    let Some(folder) = countersign_testkit::vectors("x509-crl-ocsp") else { return };
    let (mut folders, mut tried) = (vec![folder], 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(path).unwrap();
            let _ = inspect::describe(&bytes);
            let ders = pem::decode(&bytes).map(|blocks| blocks.into_iter().map(|block| block.der).collect());
            for der in ders.unwrap_or_else(|_| vec![bytes]) {
                let _ = Csr::parse(&der);
                let _ = Crl::read(&der);
                let certificate = CertificateDer::from(der);
                let _ = Anchor::new(&certificate);
                assert!(GOOD.house.judge(&[certificate]).outcome.is_err());
            }
            tried += 1;
        }
    }
    assert!(tried >= 100, "only {tried} files were found");
}
