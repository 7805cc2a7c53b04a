//! How the agent proves for the first time that it belongs here: a single-use join token, sent to nobody but
//! the authority that made it.
//!
//! The token carries the hash of the root's public key. So the agent first looks at who listens on the
//! authority's address, sending nothing, and takes from the chain shown there the one root that the token
//! names; only then it connects again, trusting that root alone, and speaks (DESIGN 5.7).

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_identity::TrustDomain;
use countersign_keys::{KeyPair, Secret, SystemRandom, constant_time_eq, sha256};
use countersign_pki::{Bundle, BundleSet, CertificateDer, CrlPolicy, csr};
use countersign_sdk::tls::{TrustState, provider};
use countersign_wire::Base64;
use countersign_wire::node::{JoinRequest, JoinResponse};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{ServerName, UnixTime as TlsTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{Code, Request, Status};

use crate::credential::Credential;
use crate::error::AgentError;
use crate::node::{Node, VERSIONS, reason};
use crate::renew::Backoff;
use crate::state::{StateDir, read_bounded};

/// Longest join token.
const TOKEN_BYTES_MAX: u64 = 512;
/// Time for looking at who listens.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
const PENDING_KEY: &str = "join-key.json";

/// `csj_<secret>.<base64url SHA-256 of the root's SubjectPublicKeyInfo>`.
#[derive(Debug)]
pub(crate) struct JoinToken {
    text: Secret<String>,
    pin: [u8; 32],
}

impl JoinToken {
    /// Reads the token file; one line end is forgiven.
    pub(crate) fn read(path: &Path) -> Result<Self, AgentError> {
        let bytes = read_bounded(path, TOKEN_BYTES_MAX).map_err(AgentError::file("read", path))?;
        let text = Secret::new(bytes.and_then(|b| String::from_utf8(b).ok()).unwrap_or_default());
        Self::parse(text.expose().trim_end()).ok_or_else(|| AgentError::NotAJoinToken(path.to_owned()))
    }

    fn parse(text: &str) -> Option<Self> {
        let (secret, pin) = text.strip_prefix("csj_")?.split_once('.')?;
        let pin = URL_SAFE_NO_PAD.decode(pin).ok()?.try_into().ok()?;
        let clean =
            !secret.is_empty() && secret.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        clean.then(|| Self { text: Secret::new(text.to_owned()), pin })
    }

    fn names(&self, certificate: &CertificateDer<'_>) -> bool {
        ParsedCertificate::try_from(certificate)
            .is_ok_and(|parsed| constant_time_eq(&sha256(&parsed.subject_public_key_info()), &self.pin))
    }
}

/// Joins with `token`. Tries until the authority is reached; a clear no ends it.
pub(crate) async fn join(
    address: &str,
    trust_domain: &TrustDomain,
    token: &JoinToken,
    state: &StateDir,
) -> Result<Credential, AgentError> {
    let key = pending_key(state)?;
    let mut backoff = Backoff::default();
    loop {
        let why = match try_join(address, trust_domain, token, &key).await {
            Ok(credential) => return Ok(credential),
            Err(Attempt::Final(error)) => return Err(error),
            Err(Attempt::Unreachable(why)) => why,
        };
        let pause = backoff.next();
        tracing::warn!(address, why, retry_ms = pause.as_millis(), "the authority cannot be reached to join");
        tokio::time::sleep(pause).await;
    }
}

/// Forgets what was kept for a repeated attempt.
pub(crate) fn joined(state: &StateDir, token_file: &Path) -> Result<(), AgentError> {
    for path in [token_file, &state.path(PENDING_KEY)] {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(AgentError::file("delete", path)(e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The key of this attempt outlives a crash: the same token with the same key gets the same answer for ten
/// minutes, with another key it is a replay.
fn pending_key(state: &StateDir) -> Result<KeyPair, AgentError> {
    #[derive(Serialize, Deserialize)]
    struct Pending {
        key: Base64,
    }
    if let Some(Pending { key }) = state.load(PENDING_KEY)?
        && let Ok(key) = KeyPair::from_pkcs8(key.as_slice())
    {
        return Ok(key);
    }
    let failed = |_| AgentError::NoRandomness;
    let key = KeyPair::generate(&SystemRandom::new()).map_err(|_| failed(()))?;
    let der = key.to_pkcs8().map_err(|_| failed(()))?;
    state.save(PENDING_KEY, &Pending { key: der.expose().as_slice().into() })?;
    Ok(key)
}

/// How one attempt failed.
#[derive(Debug)]
enum Attempt {
    Unreachable(String),
    Final(AgentError),
}

async fn try_join(
    address: &str,
    trust_domain: &TrustDomain,
    token: &JoinToken,
    key: &KeyPair,
) -> Result<Credential, Attempt> {
    let shown = look(address).await.map_err(Attempt::Unreachable)?;
    let stranger = || Attempt::Final(AgentError::WrongAuthority { address: address.to_owned() });
    let root = shown.into_iter().find(|certificate| token.names(certificate)).ok_or_else(stranger)?;
    let bundle = Bundle::new(trust_domain.clone(), vec![root], Vec::new()).map_err(|_| stranger())?;
    let trust = TrustState::new(BundleSet::from_iter([bundle]), CrlPolicy::AcceptMissing);
    let node = Node::new(address, trust_domain, trust);
    let csr = csr::make(key, None).map_err(|_| Attempt::Final(AgentError::NoRandomness))?;
    let request = JoinRequest { versions: Some(VERSIONS), token: token.text.expose().clone(), csr };
    let answer = node.client().join(Request::new(request)).await;
    match answer {
        Ok(answer) => admitted(answer.into_inner(), trust_domain, token, key),
        Err(status) => Err(refused(address, &status)),
    }
}

fn admitted(
    answer: JoinResponse,
    trust_domain: &TrustDomain,
    token: &JoinToken,
    key: &KeyPair,
) -> Result<Credential, Attempt> {
    let roots_pinned = answer.roots.iter().any(|root| token.names(&CertificateDer::from(root.as_slice())));
    if !roots_pinned {
        return Err(Attempt::Final(AgentError::BadAnswer(
            "its roots are not those of the join token".to_owned(),
        )));
    }
    Credential::accept(answer, key.clone(), trust_domain, None).map_err(Attempt::Final)
}

fn refused(address: &str, status: &Status) -> Attempt {
    use countersign_sdk::outbound::CallError;
    match crate::node::call_error(status) {
        // Its chain leads to the pinned root, and yet it is somebody else below that root.
        Some(CallError::Handshake { .. }) => {
            Attempt::Final(AgentError::WrongAuthority { address: address.to_owned() })
        }
        Some(_) => Attempt::Unreachable(reason(status)),
        None => match status.code() {
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::Unimplemented => {
                Attempt::Final(AgentError::JoinRefused { reason: status.message().to_owned() })
            }
            _ => Attempt::Unreachable(reason(status)),
        },
    }
}

/// Who listens at `address`: the chain that it shows. The handshake is broken off there, nothing is sent.
async fn look(address: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let onlooker = Arc::new(Onlooker::default());
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&onlooker) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let handshake = async {
        let tcp = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        // It never succeeds: the onlooker accepts nobody.
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map(drop).map_err(|e| e.to_string())
    };
    let ended = tokio::time::timeout(LOOK_TIMEOUT, handshake).await;
    let shown = std::mem::take(&mut *onlooker.0.lock().unwrap_or_else(PoisonError::into_inner));
    match (shown.is_empty(), ended) {
        (false, _) => Ok(shown),
        (true, Ok(Err(why))) => Err(why),
        (true, _) => Err("no certificate was shown in time".to_owned()),
    }
}

/// Notes the chain that a server shows, and accepts none.
#[derive(Debug, Default)]
struct Onlooker(Mutex<Vec<CertificateDer<'static>>>);

impl ServerCertVerifier for Onlooker {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: TlsTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(end_entity).chain(intermediates).map(|c| c.clone().into_owned());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = chain.collect();
        Err(rustls::CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("nobody is accepted here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("nobody is accepted here".to_owned()))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> Option<JoinToken> {
        JoinToken::parse(text)
    }

    #[test]
    fn a_join_token_carries_a_secret_and_the_hash_of_a_key() {
        let pin = URL_SAFE_NO_PAD.encode([7; 32]);
        assert_eq!(parse(&format!("csj_s3cr-et_.{pin}")).unwrap().pin, [7; 32]);
        for bad in [
            String::new(),
            "csj_".into(),
            format!("csj_.{pin}"),
            format!("s3cret.{pin}"),
            format!("csj_s3cret{pin}"),
            format!("csj_s3cret.{pin}."),
            format!("csj_s3 cret.{pin}"),
            format!("csj_s3cret.{}", URL_SAFE_NO_PAD.encode([7; 31])),
            format!("csj_s3cret.{pin}="),
        ] {
            assert!(parse(&bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_token_file_may_end_in_a_line_end_and_must_not_be_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let token = format!("csj_secret.{}\n", URL_SAFE_NO_PAD.encode([7; 32]));
        std::fs::write(&path, &token).unwrap();
        assert!(JoinToken::read(&path).is_ok());
        std::fs::write(&path, token.repeat(2)).unwrap();
        assert_eq!(JoinToken::read(&path).unwrap_err(), AgentError::NotAJoinToken(path.clone()));
        std::fs::write(&path, "x".repeat(513)).unwrap();
        assert!(matches!(JoinToken::read(&path).unwrap_err(), AgentError::File { .. }));
    }

    #[test]
    fn a_token_is_never_printed() {
        let token = parse(&format!("csj_s3cret.{}", URL_SAFE_NO_PAD.encode([7; 32]))).unwrap();
        assert!(!format!("{token:?}").contains("s3cret"));
    }

    #[test]
    fn an_attempt_that_was_cut_short_is_repeated_with_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path().join("agent")).unwrap();
        let first = pending_key(&state).unwrap();
        assert_eq!(pending_key(&state).unwrap().public_key(), first.public_key());
        let token = dir.path().join("token");
        std::fs::write(&token, "csj_").unwrap();
        joined(&state, &token).unwrap();
        assert!(!token.exists());
        assert_ne!(pending_key(&state).unwrap().public_key(), first.public_key());
    }
}
