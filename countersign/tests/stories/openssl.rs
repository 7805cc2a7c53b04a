//! # Strangers verify us: openssl judges chain, list and handshake.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::deployment::{Deployment, text};

fn openssl(arguments: &[&str], input: &[u8]) -> (bool, String) {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed by cargo xtask test");
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(input);
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    (out.status.success(), format!("{}{}", text(&out.stdout), text(&out.stderr)))
}

#[test]
fn openssl_accepts_our_chain_for_clients_and_servers_and_refuses_it_under_another_root() {
    let d = Deployment::shared();
    let dir = d.scratch("openssl-chain");
    let path = |name: &str| dir.join(name).display().to_string();
    d.ok(&["cert", "issue", "--service", "ads", "--out", dir.to_str().unwrap()]);
    for purpose in ["sslclient", "sslserver"] {
        let ask = [
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            &path("bundle.pem"),
            "-untrusted",
            &path("cert.pem"),
            &path("cert.pem"),
        ];
        let (ok, said) = openssl(&ask, b"");
        assert!(ok, "{purpose}: {said}");
    }
    let ask = ["verify", "-CAfile", d.url("ca_file"), "-untrusted", &path("cert.pem"), &path("cert.pem")];
    assert!(!openssl(&ask, b"").0, "the edge root must not vouch for workloads");
}

#[test]
fn openssl_accepts_our_revocation_list() {
    let d = Deployment::shared();
    let dir = d.scratch("openssl-crl");
    let path = |name: &str| dir.join(name).display().to_string();
    d.ok(&["cert", "issue", "--service", "chat", "--out", dir.to_str().unwrap()]);
    let crl = d.ok(&["ca", "bundle", "--crl"]);
    let chain = std::fs::read_to_string(path("cert.pem")).unwrap();
    let issuing = chain.split_inclusive("-----END CERTIFICATE-----\n").nth(1).unwrap();
    std::fs::write(
        path("issuing.pem"),
        format!("{issuing}{}", std::fs::read_to_string(path("bundle.pem")).unwrap()),
    )
    .unwrap();
    let (ok, said) = openssl(&["crl", "-noout", "-text", "-CAfile", &path("issuing.pem")], crl.as_bytes());
    assert!(ok && said.contains("verify OK"), "{said}");
    assert!(said.contains("X509v3 CRL Number"), "{said}");
}

#[test]
fn openssl_s_client_completes_mutual_tls_and_never_resumes_a_session() {
    let d = Deployment::shared();
    let dir = d.scratch("openssl-tls");
    let path = |name: &str| dir.join(name).display().to_string();
    d.ok(&["cert", "issue", "--service", "users", "--out", dir.to_str().unwrap()]);
    let address = d.address_of("ads");
    let base = [
        "s_client",
        "-connect",
        &address,
        "-cert",
        &path("cert.pem"),
        "-cert_chain",
        &path("cert.pem"),
        "-key",
        &path("key.pem"),
        "-CAfile",
        &path("bundle.pem"),
        "-verify_return_error",
        "-tls1_3",
        "-ign_eof",
    ];
    let request = b"GET /ads HTTP/1.1\r\nHost: ads\r\nConnection: close\r\n\r\n";
    let session = path("session.pem");
    let (_, said) = openssl(&[&base[..], &["-sess_out", &session]].concat(), request);
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    assert!(
        said.contains("HTTP/1.1 403"),
        "a valid certificate of a service that the policy does not name: {said}"
    );
    // No ticket was sent, so there is no session to come back with; if one was written, it must not be taken.
    if std::path::Path::new(&session).exists() {
        let (_, said) = openssl(&[&base[..], &["-sess_in", &session]].concat(), request);
        assert!(!said.contains("Reused,"), "{said}");
    }
    assert!(!said.contains("Reused,"), "{said}");
    assert!(!said.contains("Post-Handshake New Session Ticket arrived"), "{said}");
}
