//! How the agent proves for the first time that it belongs here: a single-use join token, sent to nobody but
//! the authority that made it.
//!
//! The token carries the hash of the root's public key, so it is known before anything is sent who may receive
//! it (module `pinned`; DESIGN 5.7).

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_identity::TrustDomain;
use countersign_keys::{KeyPair, Secret, SystemRandom};
use countersign_pki::{CertificateDer, csr};
use countersign_wire::Base64;
use countersign_wire::node::node_client::NodeClient;
use countersign_wire::node::{JoinRequest, JoinResponse};
use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

use crate::credential::Credential;
use crate::error::AgentError;
use crate::node::VERSIONS;
use crate::pinned::{Pinned, PinnedError};
use crate::renew::Backoff;
use crate::state::{StateDir, read_bounded};

/// Longest join token.
const TOKEN_BYTES_MAX: u64 = 512;
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
    let failed = |why: String| AgentError::Key(why);
    let key = KeyPair::generate(&SystemRandom::new()).map_err(|e| failed(e.to_string()))?;
    let der = key.to_pkcs8().map_err(|e| failed(e.to_string()))?;
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
    let csr = csr::make(key, None).map_err(|e| Attempt::Final(AgentError::Key(e.to_string())))?;
    let request = JoinRequest { versions: Some(VERSIONS), token: token.text.expose().clone(), csr };
    let pinned = Arc::new(Pinned::new(token.pin, trust_domain));
    let channel = pinned.connect(address).await.map_err(|why| match why {
        PinnedError::Stranger => Attempt::Final(AgentError::WrongAuthority { address: address.to_owned() }),
        PinnedError::Unreachable(why) => Attempt::Unreachable(why),
    })?;
    match NodeClient::new(channel).join(request).await {
        Ok(answer) => admitted(answer.into_inner(), trust_domain, &pinned, key),
        Err(status) => Err(refused(&status)),
    }
}

fn admitted(
    answer: JoinResponse,
    trust_domain: &TrustDomain,
    pinned: &Pinned,
    key: &KeyPair,
) -> Result<Credential, Attempt> {
    if !answer.roots.iter().any(|root| pinned.is(&CertificateDer::from(root.as_slice()))) {
        let why = "the root of the join token is not among its roots";
        return Err(Attempt::Final(AgentError::BadAnswer(why.to_owned())));
    }
    Credential::accept(answer, key.clone(), trust_domain, None).map_err(Attempt::Final)
}

/// A clear no is final; everything else may be a passing trouble.
fn refused(status: &Status) -> Attempt {
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Unauthenticated
        | Code::Unimplemented => {
            Attempt::Final(AgentError::JoinRefused { reason: status.message().to_owned() })
        }
        _ => Attempt::Unreachable(status.message().to_owned()),
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
