//! Figure 4.1: the handshake. Once as the thesis has it, and once as it happens: openssl, with a certificate of ads that
//! lives a minute, connects to users and says which messages go and come.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use countersign_lab::sequence::Sequence;
use countersign_wire::api::services::Service;

use crate::cli::{At, ca};
use crate::error::CliError;

const CALLER: &str = "ads";
const CALLEE: &str = "users";
const PATIENCE: Duration = Duration::from_secs(10);
const CERTIFIED_FOR: Duration = Duration::from_secs(60);

pub(super) async fn figures(at: &At) -> Result<[Sequence; 2], CliError> {
    Ok([as_the_thesis_has_it(), as_it_happens(at).await?])
}

/// Section 4.1.1: twelve steps; ★ those that only mutual TLS has.
fn as_the_thesis_has_it() -> Sequence {
    let mut figure = Sequence::new("4.1 (TLS 1.2)", "The handshake of section 4.1.1, with RSA key transport");
    let (client, server) = ("client", "server");
    let mut step = |number: usize, from: &str, to: &str, what: &str, only_mutual: bool| {
        let source = format!("section 4.1.1, step {number}");
        if only_mutual {
            figure.tells_marked(from, to, what, source);
        } else {
            figure.tells(from, to, what, source);
        }
    };
    step(1, client, server, "ClientHello: cipher suites, random", false);
    step(2, server, client, "ServerHello: one suite, random", false);
    step(3, server, client, "Certificate", false);
    step(4, server, client, "CertificateRequest: which authorities", true);
    step(5, server, client, "ServerHelloDone", false);
    step(6, client, server, "Certificate, for everybody on the path to read", true);
    step(7, client, server, "ClientKeyExchange: a secret, encrypted for the server's RSA key", false);
    step(8, client, server, "CertificateVerify: a signature over all of the above", true);
    step(9, client, server, "ChangeCipherSpec", false);
    step(10, client, server, "Finished", false);
    step(11, server, client, "ChangeCipherSpec", false);
    step(12, server, client, "Finished", false);
    figure
}

async fn as_it_happens(at: &At) -> Result<Sequence, CliError> {
    let services: Vec<Service> = at.admin.get("/api/v1/services").await?;
    let callee = services.iter().find(|service| service.name.as_str() == CALLEE);
    let callee =
        callee.ok_or_else(|| CliError::failed("there is no service called users", "", "countersign up"))?;
    let dir = at.ready()?.state_dir.join("handshake");
    let shown = async {
        ca::issue_for(at, CALLER, CERTIFIED_FOR, &dir).await?;
        messages_of(&callee.address, &dir).await
    };
    let said = shown.await;
    // Its key is of no use to anybody any more.
    let _ = std::fs::remove_dir_all(&dir);
    drawn(&said?)
}

async fn messages_of(address: &str, dir: &Path) -> Result<String, CliError> {
    let file = |name: &str| dir.join(name);
    let mut command = tokio::process::Command::new("openssl");
    command.args(["s_client", "-msg", "-tls1_3", "-connect", address]);
    command.arg("-cert").arg(file("cert.pem")).arg("-cert_chain").arg(file("cert.pem"));
    command.arg("-key").arg(file("key.pem")).arg("-CAfile").arg(file("bundle.pem"));
    command.stdin(Stdio::null()).kill_on_drop(true);
    let missing = |e| CliError::usage("openssl cannot be started", e, "apt-get install openssl");
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output =
        output.map_err(|e| CliError::failed("the handshake does not end", e, "countersign check"))?;
    Ok(String::from_utf8_lossy(&output.map_err(missing)?.stdout).into_owned())
}

/// `<<< TLS 1.3, Handshake [length 0006], EncryptedExtensions`
fn drawn(said: &str) -> Result<Sequence, CliError> {
    let mut figure = Sequence::new(
        "4.1 (TLS 1.3)",
        "The same as it happened: openssl, with a certificate of ads, asks users",
    );
    let mut is_secret = false;
    for line in said.lines() {
        let (from, to) = match line.get(..4) {
            Some(">>> ") => (CALLER, CALLEE),
            Some("<<< ") => (CALLEE, CALLER),
            _ => continue,
        };
        let Some((length, name)) =
            line.split_once("Handshake [length ").and_then(|(_, rest)| rest.split_once("], "))
        else {
            continue;
        };
        let bytes = usize::from_str_radix(length, 16).unwrap_or_default();
        let readable = if is_secret { "encrypted" } else { "readable" };
        let label = format!("{name} ({bytes} bytes, {readable})");
        let source = format!("openssl s_client -msg: {}", line.trim());
        if is_only_mutual(name, from) {
            figure.tells_marked(from, to, label, source);
        } else {
            figure.tells(from, to, label, source);
        }
        is_secret |= name.starts_with("ServerHello");
    }
    let has = |name: &str| figure.messages().iter().any(|m| m.marked && m.label.starts_with(name));
    if !["CertificateRequest", "Certificate (", "CertificateVerify"].into_iter().all(has) {
        let last = said.lines().last().unwrap_or_default();
        return Err(CliError::failed("the handshake was not mutual", last, "countersign explain last"));
    }
    Ok(figure)
}

/// What would be missing if the callee did not ask who is calling.
fn is_only_mutual(name: &str, from: &str) -> bool {
    name.starts_with("CertificateRequest") || (from == CALLER && name.starts_with("Certificate"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
>>> TLS 1.0, RecordHeader [length 0005]
>>> TLS 1.3, Handshake [length 0119], ClientHello
<<< TLS 1.3, Handshake [length 005a], ServerHello
<<< TLS 1.3, Handshake [length 0006], EncryptedExtensions
<<< TLS 1.3, Handshake [length 0042], CertificateRequest
<<< TLS 1.3, Handshake [length 0300], Certificate
<<< TLS 1.3, Handshake [length 004f], CertificateVerify
<<< TLS 1.3, Handshake [length 0034], Finished
>>> TLS 1.3, Handshake [length 0310], Certificate
>>> TLS 1.3, Handshake [length 004f], CertificateVerify
>>> TLS 1.3, Handshake [length 0034], Finished
";

    #[test]
    fn of_a_mutual_handshake_the_three_messages_are_marked_and_only_the_hellos_are_readable() {
        let figure = drawn(SAID).unwrap();
        let marked: Vec<&str> =
            figure.messages().iter().filter(|m| m.marked).map(|m| m.label.as_str()).collect();
        assert_eq!(
            marked,
            [
                "CertificateRequest (66 bytes, encrypted)",
                "Certificate (784 bytes, encrypted)",
                "CertificateVerify (79 bytes, encrypted)"
            ]
        );
        let readable = figure.messages().iter().filter(|m| m.label.contains("readable"));
        assert_eq!(
            readable.map(|m| m.label.as_str()).collect::<Vec<_>>(),
            ["ClientHello (281 bytes, readable)", "ServerHello (90 bytes, readable)"]
        );
        assert_eq!(as_the_thesis_has_it().messages().iter().filter(|m| m.marked).count(), 3);
    }

    #[test]
    fn a_handshake_without_the_callers_certificate_is_no_figure() {
        let one_way: String =
            SAID.lines().filter(|l| !l.contains("CertificateRequest")).map(|l| format!("{l}\n")).collect();
        assert!(matches!(drawn(&one_way), Err(CliError::Failed(_))));
        assert!(matches!(drawn(""), Err(CliError::Failed(_))));
    }
}
