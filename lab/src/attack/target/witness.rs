//! What one of the services is given at the agent's socket: a process of this very program becomes that service for a
//! moment, as whoever has taken it over could, and tells the attacker.

use std::{path::Path, process::Stdio};

use countersign_identity::SpiffeId;
use countersign_keys::{KeyPair, SystemRandom};
use countersign_pki::csr;
use countersign_sdk::{
    agent::AgentApi,
    launch,
    snapshot::{SnapshotKeys, SnapshotRefusal},
};
use countersign_wire::{
    Base64,
    agent::{CertificatePurpose, IssueTokenRequest, SignedSnapshot, TokenKind},
};
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

use super::Live;
use crate::attack::{AttackError, wire::ANSWER_WAIT};

/// For which key a workload identity token is asked: the key itself stays with the attacker.
#[derive(Debug, Serialize, Deserialize)]
pub struct Asked {
    jwk: String,
    possession: Base64,
}

/// What the agent gave.
#[derive(Debug, Serialize, Deserialize)]
pub struct Given {
    wit: String,
    payload: Base64,
    kid: String,
    signature: Base64,
    snapshot_keys: Vec<String>,
}

/// A snapshot, as the agent passes it on, and the keys by which it is known.
#[derive(Clone, Debug)]
pub(crate) struct News {
    pub(crate) signed: SignedSnapshot,
    pub(crate) keys: SnapshotKeys,
}

/// Becomes `service` and asks the agent for everything that a service is given.
///
/// # Errors
/// The agent refuses, or is not there.
pub async fn witness(socket: &Path, service: &str, asked: Asked) -> Result<Given, AttackError> {
    let refused = |why: &dyn std::fmt::Display| AttackError::equipment("what a service is given", why);
    launch::register(socket, service).await.map_err(|error| refused(&error))?;
    let agent = AgentApi::new(socket.to_owned());
    let request = IssueTokenRequest {
        kind: TokenKind::Wit.into(),
        jwk: asked.jwk,
        possession: asked.possession.0,
        ..IssueTokenRequest::default()
    };
    let wit = agent.issue_token(request).await.map_err(|error| refused(&error))?.token;
    let key = KeyPair::generate(&SystemRandom::new()).map_err(|error| refused(&error))?;
    let csr = csr::make(&key, None).map_err(|error| refused(&error))?;
    let issued = agent.issue(csr, CertificatePurpose::Tls).await.map_err(|error| refused(&error))?;
    let mut snapshots = agent.snapshots(("", 0)).await.map_err(|error| refused(&error))?;
    let first = timeout(ANSWER_WAIT, snapshots.message()).await.map_err(|error| refused(&error))?;
    let first = first.map_err(|status| refused(&status.message()))?;
    let first = first.ok_or_else(|| refused(&"no snapshot came"))?;
    Ok(Given {
        wit,
        payload: Base64(first.payload),
        kid: first.kid,
        signature: Base64(first.signature),
        snapshot_keys: issued.snapshot_keys,
    })
}

impl Asked {
    pub(super) fn for_key(key: &KeyPair, owner: &SpiffeId) -> Result<Self, AttackError> {
        let possession = key.sign_fixed(POSSESSION, owner.as_str().as_bytes());
        let possession = possession.map_err(|error| AttackError::equipment("a proof of a key", error))?;
        Ok(Self { jwk: key.public_key().to_jwk(), possession: Base64(possession.to_vec()) })
    }
}

impl Given {
    pub(super) fn wit(self) -> String {
        self.wit
    }

    pub(super) fn news(self) -> Result<News, SnapshotRefusal> {
        let keys = SnapshotKeys::from_jwks(self.snapshot_keys.iter().map(String::as_str))?;
        let signed = SignedSnapshot { payload: self.payload.0, kid: self.kid, signature: self.signature.0 };
        Ok(News { signed, keys })
    }
}

impl Live {
    /// What `service` is given, with a workload identity token for `key`.
    pub(super) async fn given(
        &self,
        service: &str,
        owner: &SpiffeId,
        key: &KeyPair,
    ) -> Result<Given, AttackError> {
        let failed = |why: &dyn std::fmt::Display| AttackError::equipment("what a service is given", why);
        let asked = serde_json::to_vec(&Asked::for_key(key, owner)?).map_err(|error| failed(&error))?;
        let program = std::env::current_exe().map_err(|error| failed(&error))?;
        let mut command = Command::new(program);
        command.arg("lab-witness").arg("--service").arg(service);
        command.arg("--agent-socket").arg(&self.settings().agent_socket);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().map_err(|error| failed(&error))?;
        let mut input = process.stdin.take().ok_or_else(|| failed(&"it has no input"))?;
        input.write_all(&asked).await.map_err(|error| failed(&error))?;
        drop(input);
        let ended = timeout(ANSWER_WAIT, process.wait_with_output()).await.map_err(|error| failed(&error))?;
        let ended = ended.map_err(|error| failed(&error))?;
        if !ended.status.success() {
            return Err(failed(&String::from_utf8_lossy(&ended.stderr).trim()));
        }
        serde_json::from_slice(&ended.stdout).map_err(|error| failed(&error))
    }
}

/// Under what a key signs that it is held, for whoever issues workload identity tokens.
const POSSESSION: &str = "wit-key";
