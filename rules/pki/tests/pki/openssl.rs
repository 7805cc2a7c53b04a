//! A stranger's opinion: openssl reads, prints and verifies what we make.

use std::path::Path;
use std::process::{Command, Stdio};

use countersign_keys::{KeyPair, WeakKey};
use countersign_pki::csr::{self, Csr, CsrError};
use countersign_pki::issue::{self, Root};
use countersign_pki::pem;
use countersign_pki::profile::{self, EdgeNames, LeafTtl};
use countersign_pki::revocation::make_crl;

use crate::fixture::*;

/// What `openssl` printed (both streams) and whether it was content; `None` and a message if there is none.
fn openssl(folder: &Path, arguments: &[&str]) -> Option<(bool, String)> {
    let run = Command::new("openssl").args(arguments).current_dir(folder).stdin(Stdio::null()).output();
    let Ok(output) = run else {
        eprintln!("skipped: openssl is not installed");
        return None;
    };
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

fn folder_with(files: &[(&str, String)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn certificate(der: &[u8]) -> String {
    pem::encode(pem::CERTIFICATE, der)
}

/// The certificates of the fixture are of 2027.
const AT: &str = "1800000100";

#[test]
fn openssl_verifies_our_chain_for_both_purposes_and_refuses_it_revoked() {
    let house = house("fleamarket.test");
    let (good, stolen) = (house.issue("ads"), house.issue("ads"));
    let next = NOW.saturating_add(HOUR);
    let of_root = make_crl(&house.root, 1, &[], NOW, next).unwrap();
    let of_issuing = make_crl(&house.issuing, 2, &[entry(&stolen)], NOW, next).unwrap();
    let folder = folder_with(&[
        ("root.pem", certificate(house.root.certificate())),
        ("issuing.pem", certificate(house.issuing.certificate())),
        ("good.pem", certificate(&good.der)),
        ("stolen.pem", certificate(&stolen.der)),
        ("crls.pem", pem::encode(pem::X509_CRL, &of_root) + &pem::encode(pem::X509_CRL, &of_issuing)),
    ]);
    let verify = |leaf: &str, purpose: &str| {
        let fixed =
            ["verify", "-x509_strict", "-attime", AT, "-CAfile", "root.pem", "-untrusted", "issuing.pem"];
        let rest = ["-crl_check_all", "-CRLfile", "crls.pem", "-purpose", purpose, leaf];
        openssl(folder.path(), &[&fixed[..], &rest[..]].concat())
    };
    for purpose in ["sslclient", "sslserver"] {
        let Some((content, text)) = verify("good.pem", purpose) else { return };
        assert!(content, "{purpose}: {text}");
    }
    let (content, text) = verify("stolen.pem", "sslclient").unwrap();
    assert!(!content && text.contains("certificate revoked"), "{text}");
}

#[test]
fn openssl_verifies_our_crl_and_prints_number_and_reason() {
    let house = house("fleamarket.test");
    let stolen = house.issue("ads");
    let der = make_crl(&house.issuing, 4711, &[entry(&stolen)], NOW, NOW.saturating_add(HOUR)).unwrap();
    let folder = folder_with(&[
        ("issuing.pem", certificate(house.issuing.certificate())),
        ("crl.pem", pem::encode(pem::X509_CRL, &der)),
    ]);
    let arguments = ["crl", "-in", "crl.pem", "-CAfile", "issuing.pem", "-noout", "-text"];
    let Some((content, text)) = openssl(folder.path(), &arguments) else { return };
    assert!(content && text.contains("verify OK"), "{text}");
    for expected in
        ["Version 2 (0x1)", "X509v3 CRL Number", "4711", "Key Compromise", "Authority Key Identifier"]
    {
        assert!(text.contains(expected), "{expected} is missing: {text}");
    }
    assert!(text.to_lowercase().contains(&stolen.serial_hex));
}

#[test]
fn openssl_prints_the_content_that_the_profile_states() {
    let house = house("fleamarket.test");
    let folder = folder_with(&[("leaf.pem", certificate(&house.issue("ads").der))]);
    let Some((_, text)) = openssl(folder.path(), &["x509", "-in", "leaf.pem", "-noout", "-text"]) else {
        return;
    };
    for expected in [
        "Version: 3 (0x2)",
        "Signature Algorithm: ecdsa-with-SHA256",
        "URI:spiffe://fleamarket.test/svc/ads",
        "X509v3 Subject Alternative Name: critical",
        "X509v3 Key Usage: critical\n                Digital Signature\n",
        "TLS Web Client Authentication, TLS Web Server Authentication",
        "X509v3 Basic Constraints: critical\n                CA:FALSE",
        "ASN1 OID: prime256v1",
    ] {
        assert!(text.contains(expected), "{expected} is missing: {text}");
    }
}

#[test]
fn openssl_prints_a_signing_certificate_and_refuses_it_for_tls() {
    let house = house("fleamarket.test");
    let request = Csr::parse(&csr::make(&key(), None).unwrap()).unwrap();
    let (id, ttl) = (house.id("ads"), LeafTtl::default());
    let issued = issue::issue_signing(&house.issuing, &request, &id, ttl, NOW, serial()).unwrap();
    let folder = folder_with(&[
        ("root.pem", certificate(house.root.certificate())),
        ("issuing.pem", certificate(house.issuing.certificate())),
        ("signing.pem", certificate(&issued.der)),
    ]);
    let text = openssl(folder.path(), &["x509", "-in", "signing.pem", "-noout", "-text"]);
    let Some((_, text)) = text else { return };
    for expected in [
        "X509v3 Extended Key Usage: \n                1.3.6.1.5.5.7.3.37\n",
        "URI:spiffe://fleamarket.test/svc/ads",
        "X509v3 Key Usage: critical\n                Digital Signature\n",
    ] {
        assert!(text.contains(expected), "{expected} is missing: {text}");
    }
    let verify = |purpose: &[&str]| {
        let fixed =
            ["verify", "-x509_strict", "-attime", AT, "-CAfile", "root.pem", "-untrusted", "issuing.pem"];
        openssl(folder.path(), &[&fixed[..], purpose, &["signing.pem"]].concat()).unwrap()
    };
    let (content, text) = verify(&[]);
    assert!(content, "the chain itself holds: {text}");
    for purpose in ["sslclient", "sslserver"] {
        let (content, text) = verify(&["-purpose", purpose]);
        assert!(!content && text.contains("unsuitable certificate purpose"), "{purpose}: {text}");
    }
}

#[test]
fn openssl_verifies_an_edge_server_by_name_and_by_address_and_refuses_names_outside_the_constraints() {
    let house = house("fleamarket.test");
    let names = EdgeNames::local(&house.domain);
    let root = issue::make_root(Root::Edge(&names), &house.domain, key(), NOW, serial()).unwrap();
    let ttl = profile::EDGE_SERVER_TTL_DEFAULT;
    let issued = issue::issue_edge_server(&root, key().public_key(), &names, ttl, NOW, serial()).unwrap();
    let mut outside = leaf_params(&house.id("ads"));
    outside.subject_alt_names = vec![rcgen::SanType::DnsName("example.com".try_into().unwrap())];
    let outside = sign(&outside, &root);
    let folder = folder_with(&[
        ("root.pem", certificate(root.certificate())),
        ("server.pem", certificate(&issued.der)),
        ("outside.pem", certificate(&outside)),
    ]);
    let verify = |rest: &[&str]| {
        let fixed = ["verify", "-x509_strict", "-attime", AT, "-CAfile", "root.pem", "-purpose", "sslserver"];
        openssl(folder.path(), &[&fixed[..], rest].concat())
    };
    for host in [
        ["-verify_hostname", "localhost"],
        ["-verify_hostname", "fleamarket.test"],
        ["-verify_ip", "127.0.0.1"],
    ] {
        let Some((content, text)) = verify(&[&host[..], &["server.pem"]].concat()) else { return };
        assert!(content, "{host:?}: {text}");
    }
    let (content, text) = verify(&["-verify_hostname", "example.com", "server.pem"]).unwrap();
    assert!(!content, "{text}");
    let (content, text) = verify(&["outside.pem"]).unwrap();
    assert!(!content && text.contains("permitted subtree violation"), "{text}");
}

#[test]
fn a_request_made_by_openssl_is_judged_like_one_of_ours() {
    let house = house("fleamarket.test");
    let folder = folder_with(&[]);
    let request = |name: &str, key: &[&str], rest: &[&str]| {
        let fixed = ["req", "-new", "-nodes", "-keyout", "key.pem", "-outform", "DER", "-out", name];
        let (content, text) =
            openssl(folder.path(), &[&fixed[..], key, &["-subj", "/CN=ads"], rest].concat())?;
        assert!(content, "{text}");
        Some(Csr::parse(&std::fs::read(folder.path().join(name)).unwrap()))
    };
    let p256 = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let Some(plain) = request("plain.der", &p256, &[]) else { return };
    let (ttl, ads) = (LeafTtl::default(), house.id("ads"));
    let issued = issue::issue_workload(&house.issuing, &plain.unwrap(), &ads, ttl, NOW, serial()).unwrap();
    assert!(house.judge(&house.chain(&issued)).outcome.is_ok());

    let named =
        request("named.der", &p256, &["-addext", "subjectAltName=URI:spiffe://fleamarket.test/svc/ads"]);
    assert_eq!(named.unwrap().unwrap().requested_id(), Some(&ads));
    let ca = request("ca.der", &p256, &["-addext", "basicConstraints=CA:TRUE"]);
    assert_eq!(ca.unwrap(), Err(CsrError::AsksToBeCa));
    let rsa = request("rsa.der", &["-newkey", "rsa:2048"], &[]);
    assert_eq!(rsa.unwrap(), Err(CsrError::Key(WeakKey::Rsa { bits: 2048 })));
    let weak = request("weak.der", &["-newkey", "rsa:1024"], &[]);
    assert_eq!(weak.unwrap(), Err(CsrError::Key(WeakKey::RsaTooShort { bits: 1024 })));
    let p384 = request("p384.der", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"], &[]);
    assert_eq!(p384.unwrap(), Err(CsrError::Key(WeakKey::OtherCurve { curve: "P-384".into() })));
}

#[test]
fn a_private_key_made_by_openssl_is_a_key_of_ours() {
    let folder = folder_with(&[]);
    let arguments = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "key.pem"];
    let Some((content, text)) = openssl(folder.path(), &arguments) else { return };
    assert!(content, "{text}");
    let file = std::fs::read(folder.path().join("key.pem")).unwrap();
    let key = KeyPair::from_pkcs8(&pem::decode(&file).unwrap()[0].der).unwrap();
    let signature = key.sign_asn1(b"message").unwrap();
    assert!(key.public_key().verify_asn1(b"message", &signature).is_ok());
}
