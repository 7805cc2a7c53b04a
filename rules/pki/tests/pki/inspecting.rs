//! What `inspect` tells about a file.

use countersign_pki::inspect::{Description, ENTRIES_SHOWN_MAX, InspectError, describe};
use countersign_pki::pem::{self, PemError};
use countersign_pki::profile::EdgeNames;
use countersign_pki::revocation::{CrlError, RevocationReason, RevokedEntry, make_crl};
use countersign_pki::{csr, issue};
use serde_json::json;

use crate::fixture::*;

#[test]
fn tells_every_field_of_a_workload_certificate_in_pem_and_in_der() {
    let house = house("fleamarket.test");
    let issued = house.issue("ads");
    let told = serde_json::to_value(&describe(&issued.der).unwrap()[0]).unwrap();
    assert_eq!(told["kind"], "certificate");
    assert_eq!(told["version"], 3);
    assert_eq!(told["serial"], issued.serial_hex);
    assert_eq!(told["subject"], "");
    assert!(told["issuer"].as_str().unwrap().contains("CN=Countersign issuing CA"));
    assert_eq!(told["not_before"], "2027-01-15T07:59:00Z");
    assert_eq!(told["not_after"], "2027-01-15T09:00:00Z");
    assert_eq!(told["public_key"]["algorithm"]["oid"], "1.2.840.10045.2.1");
    assert_eq!(told["public_key"]["algorithm"]["name"], "id-ecPublicKey prime256v1");
    assert_eq!(told["public_key"]["bits"], 256);
    assert_eq!(
        told["signature_algorithm"],
        json!({"oid": "1.2.840.10045.4.3.2", "name": "ecdsa-with-SHA256"})
    );
    assert!(told["signature"].as_str().unwrap().starts_with("30"));
    assert_eq!(told["structure"], "leaf");
    assert_eq!(told["purposes"], json!(["client", "server"]));
    assert_eq!(told["self_issued"], false);
    assert_eq!(told["public_ca"], serde_json::Value::Null);
    assert_eq!(told["thumbprint_sha256"], countersign_keys::sha256_hex(&issued.der));
    let value = |oid: &str| {
        let extensions = told["extensions"].as_array().unwrap();
        let found = extensions.iter().find(|extension| extension["oid"] == oid).unwrap();
        (found["value"].as_str().unwrap().to_owned(), found["critical"].as_bool().unwrap())
    };
    assert_eq!(value("2.5.29.17"), ("URI:spiffe://fleamarket.test/svc/ads".into(), true));
    assert_eq!(value("2.5.29.15"), ("digitalSignature".into(), true));
    assert_eq!(value("2.5.29.37"), ("client, server".into(), false));
    assert_eq!(value("2.5.29.19"), ("cA=false".into(), true));

    let in_pem = pem::encode(pem::CERTIFICATE, &issued.der);
    assert_eq!(describe(in_pem.as_bytes()).unwrap(), describe(&issued.der).unwrap());
}

#[test]
fn tells_the_tiers_of_a_chain_apart_and_keeps_private_keys_to_itself() {
    let house = house("fleamarket.test");
    let leaf_key = key();
    let names = EdgeNames::local(&house.domain);
    let edge = issue::make_root(issue::Root::Edge(&names), &house.domain, key(), NOW, serial()).unwrap();
    let leaf = house.issue("ads").der;
    let chain = [&leaf, house.issuing.certificate(), house.root.certificate(), edge.certificate()];
    let secret = leaf_key.to_pkcs8().unwrap();
    let file =
        pem::encode_certificates(chain.map(|der| &der[..])) + &pem::encode(pem::PRIVATE_KEY, secret.expose());
    let told = serde_json::to_value(describe(file.as_bytes()).unwrap()).unwrap();
    let structures: Vec<_> = (0..4).map(|at| told[at]["structure"].as_str().unwrap()).collect();
    assert_eq!(structures, ["leaf", "intermediate", "root", "root"]);
    assert_eq!(told[4], json!({"kind": "private_key", "label": "PRIVATE KEY"}));
    let text = told.to_string();
    assert!(text.contains("permitted: DNS:fleamarket.test, DNS:localhost, IP:127.0.0.1/255.255.255.255"));
    assert!(text.contains("cA=true, pathLen=1"));
}

#[test]
fn tells_what_a_request_asks_for_and_why_it_would_be_refused() {
    let house = house("fleamarket.test");
    let good = csr::make(&key(), Some(&house.id("ads"))).unwrap();
    let Description::CertificateRequest(told) = describe(&good).unwrap().remove(0) else {
        panic!("not a request")
    };
    assert_eq!(told.refused, None);
    assert_eq!(told.requested_extensions[0].value, "URI:spiffe://fleamarket.test/svc/ads");

    let mut bad = good;
    let last = bad.len() - 1;
    bad[last] ^= 1;
    let file = pem::encode(pem::CERTIFICATE_REQUEST, &bad);
    let Description::CertificateRequest(told) = describe(file.as_bytes()).unwrap().remove(0) else {
        panic!("not a request")
    };
    assert!(told.refused.unwrap().contains("not signed by the key that it holds"));
}

#[test]
fn tells_a_crl_with_its_number_times_and_first_entries() {
    let house = house("fleamarket.test");
    let entries: Vec<_> = (1..=ENTRIES_SHOWN_MAX as u32 + 5)
        .map(|n| RevokedEntry {
            serial: n.to_be_bytes().to_vec(),
            at: NOW,
            reason: RevocationReason::Superseded,
            not_after: NOW,
        })
        .collect();
    let der = make_crl(&house.issuing, 7, &entries, NOW, NOW.saturating_add(HOUR)).unwrap();
    let Description::RevocationList(told) = describe(&der).unwrap().remove(0) else { panic!("not a CRL") };
    assert_eq!((told.number, told.count, told.entries.len()), (7, entries.len(), ENTRIES_SHOWN_MAX));
    assert_eq!(
        (told.this_update.as_str(), told.next_update.as_str()),
        ("2027-01-15T08:00:00Z", "2027-01-15T09:00:00Z")
    );
    let first = &told.entries[0];
    assert_eq!((first.serial.as_str(), first.reason), ("1", "superseded"));
    assert_eq!(first.revoked_at, "2027-01-15T08:00:00Z");
    assert!(told.issuer.contains("CN=Countersign issuing CA"));
}

#[test]
fn names_the_public_ca_that_a_certificate_claims() {
    let house = house("fleamarket.test");
    let mut params = ca_params("R11", None);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "Let's Encrypt");
    let claimed: Vec<u8> = params.self_signed(&rcgen_key(&key())).unwrap().der().to_vec();
    let Description::Certificate(told) = describe(&claimed).unwrap().remove(0) else {
        panic!("not a certificate")
    };
    assert_eq!(told.public_ca, Some("Let's Encrypt"));
    let Description::Certificate(own) = describe(house.root.certificate()).unwrap().remove(0) else {
        panic!("not a certificate")
    };
    assert_eq!(own.public_ca, None);
}

#[test]
fn control_characters_in_names_do_not_reach_a_terminal() {
    let house = house("fleamarket.test");
    let chain = house.forge(|params| {
        params.subject_alt_names = vec![uri("spiffe://x/\u{1b}[31m")];
        params.distinguished_name.push(rcgen::DnType::CommonName, "red \u{1b}[31m");
    });
    let told = serde_json::to_string(&describe(&chain[0]).unwrap()).unwrap();
    assert!(!told.contains("\\u001b"), "{told}");
}

#[test]
fn rejects_what_it_does_not_know_and_says_so() {
    let house = house("fleamarket.test");
    assert_eq!(describe(b""), Err(InspectError::Empty));
    assert_eq!(describe(b"hello"), Err(InspectError::Unknown));
    assert_eq!(describe(&[0x30, 3, 2, 1, 0]), Err(InspectError::Unknown));
    let unclosed = InspectError::Pem(PemError::Unclosed { line: 1 });
    assert_eq!(describe(b"-----BEGIN CERTIFICATE-----\nAAAA\n"), Err(unclosed));
    let mut crl = house.crl(&[]).der().to_vec();
    let at = crl.windows(3).position(|window| window == [0x55, 0x1d, 20]).unwrap();
    crl[at + 2] = 99;
    assert_eq!(describe(&crl), Err(InspectError::Crl(CrlError::NoNumber)));
    let odd = describe(pem::encode("DH PARAMETERS", b"x").as_bytes()).unwrap();
    assert_eq!(odd, [Description::Unreadable { label: "DH PARAMETERS".into(), bytes: 1 }]);
}
