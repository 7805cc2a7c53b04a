//! What a workload asks of the agent on its own machine, over the agent's Unix socket.

use std::path::{Path, PathBuf};

use countersign_wire::{
    MESSAGE_BYTES_MAX,
    agent::{
        AppliedRequest, CertificatePurpose, IssueRequest, IssueResponse, IssueTokenRequest,
        IssueTokenResponse, PublishTokenKeyRequest, RegisterRequest, RegisterResponse, ReportRequest,
        SecretsRequest, SecretsResponse, SignedSnapshot, SnapshotsRequest, agent_client::AgentClient,
    },
};
use thiserror::Error;

use crate::{
    outbound::{CallLimits, Channel, Target},
    spool::Ship,
};

/// Where a workload finds its agent, by the SPIFFE Workload Endpoint standard (section 4).
pub const SOCKET_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// The agent's socket.
#[derive(Clone, Debug)]
pub struct AgentApi {
    /// None: this process has its identity from files.
    client: Option<AgentClient<Channel>>,
    socket: PathBuf,
}

/// Why the agent gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AgentError {
    /// [`SOCKET_VARIABLE`] is not set.
    #[error("{SOCKET_VARIABLE} is not set: start this program with `countersign run --service NAME -- CMD`")]
    NoSocket,
    /// [`SOCKET_VARIABLE`] does not name a Unix socket.
    #[error("{SOCKET_VARIABLE} is {0:?}: write unix:///path/to/agent.sock")]
    BadSocket(String),
    /// Our identity comes from files: there is no agent to ask.
    #[error("this needs an agent, and our identity comes from files: start with an agent's socket instead")]
    NoAgent,
    /// It is not there, or not ready.
    #[error("agent at {socket} cannot be reached: {why}")]
    Unreachable {
        /// Where.
        socket: PathBuf,
        /// Why.
        why: String,
    },
    /// It does not know this process, or will not do this for it.
    #[error("agent refused: {why}")]
    Denied {
        /// What it says.
        why: String,
    },
    /// It does not understand us.
    #[error("agent answered with an error: {why}")]
    Failed {
        /// What it says.
        why: String,
    },
}

impl AgentError {
    /// May the same question be answered later?
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// Reads [`SOCKET_VARIABLE`].
///
/// # Errors
/// It is not set, or names anything but a Unix socket.
pub fn socket_of_environment() -> Result<PathBuf, AgentError> {
    parse_socket(std::env::var(SOCKET_VARIABLE).ok().as_deref())
}

fn parse_socket(value: Option<&str>) -> Result<PathBuf, AgentError> {
    let value = value.ok_or(AgentError::NoSocket)?;
    let refused = || AgentError::BadSocket(value.chars().take(256).collect());
    let path = value.strip_prefix("unix:").ok_or_else(refused)?;
    let path = path.strip_prefix("//").unwrap_or(path);
    if !path.starts_with('/') || path.contains(['?', '#']) {
        return Err(refused());
    }
    Ok(PathBuf::from(path))
}

impl AgentApi {
    /// Talks to the agent at `socket`; connects with the first question.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        let channel = Channel::new(Target::Unix(socket.clone()), CallLimits::default());
        let client = AgentClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Self { client: Some(client), socket }
    }

    /// Asks nobody: every question is refused with [`AgentError::NoAgent`].
    #[must_use]
    pub const fn none() -> Self {
        Self { client: None, socket: PathBuf::new() }
    }

    /// Is there somebody to ask?
    #[must_use]
    pub const fn is_there(&self) -> bool {
        self.client.is_some()
    }

    /// Where it is.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Makes the calling process a service.
    ///
    /// # Errors
    /// See [`AgentError`], as for all questions.
    pub async fn register(&self, entry: &str) -> Result<RegisterResponse, AgentError> {
        let request = RegisterRequest { entry: entry.to_owned() };
        let answer = self.client()?.register(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.error(&status))
    }

    /// Certifies a key that we made, for this purpose and no other.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn issue(
        &self,
        csr: Vec<u8>,
        purpose: CertificatePurpose,
    ) -> Result<IssueResponse, AgentError> {
        let answer = self.client()?.issue(IssueRequest { csr, purpose: purpose.into() }).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.error(&status))
    }

    /// The newest snapshot and every newer one.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn snapshots(
        &self,
        (epoch, sequence): (&str, u64),
    ) -> Result<tonic::Streaming<SignedSnapshot>, AgentError> {
        let request = SnapshotsRequest { epoch: epoch.to_owned(), sequence };
        let answer = self.client()?.snapshots(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.error(&status))
    }

    /// A token that the authority issues to us.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn issue_token(&self, request: IssueTokenRequest) -> Result<IssueTokenResponse, AgentError> {
        let answer = self.client()?.issue_token(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.error(&status))
    }

    /// What we, and nobody else, need in order to verify tokens that are addressed to us: all of it at once, then
    /// all of it again after each change.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn secrets(&self) -> Result<tonic::Streaming<SecretsResponse>, AgentError> {
        let answer = self.client()?.secrets(SecretsRequest {}).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.error(&status))
    }

    /// Tells by which generations we work.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn applied(&self, generations: AppliedRequest) -> Result<(), AgentError> {
        let answer = self.client()?.applied(generations).await;
        answer.map(|_| ()).map_err(|status| self.error(&status))
    }

    /// Publishes the public key with which a gateway signs internal tokens.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn publish_token_key(&self, jwk: String) -> Result<(), AgentError> {
        let answer = self.client()?.publish_token_key(PublishTokenKeyRequest { jwk }).await;
        answer.map(|_| ()).map_err(|status| self.error(&status))
    }

    fn client(&self) -> Result<AgentClient<Channel>, AgentError> {
        self.client.clone().ok_or(AgentError::NoAgent)
    }

    pub(crate) fn unreachable(&self, why: &str) -> AgentError {
        AgentError::Unreachable { socket: self.socket.clone(), why: why.to_owned() }
    }

    pub(crate) fn error(&self, status: &tonic::Status) -> AgentError {
        use tonic::Code;
        let why = status.message().to_owned();
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled => {
                AgentError::Unreachable { socket: self.socket.clone(), why }
            }
            Code::PermissionDenied | Code::Unauthenticated | Code::NotFound => AgentError::Denied { why },
            _ => AgentError::Failed { why },
        }
    }
}

impl Ship for AgentApi {
    async fn ship(&self, report: ReportRequest) -> Result<u64, tonic::Status> {
        let mut client =
            self.client().map_err(|error| tonic::Status::failed_precondition(error.to_string()))?;
        Ok(client.report(report).await?.into_inner().acknowledged)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn accepts_both_forms_of_a_unix_socket() {
        assert_eq!(parse_socket(Some("unix:///run/agent.sock")).unwrap(), PathBuf::from("/run/agent.sock"));
        assert_eq!(parse_socket(Some("unix:/run/agent.sock")).unwrap(), PathBuf::from("/run/agent.sock"));
    }

    #[test]
    fn rejects_what_is_not_an_absolute_path_of_a_unix_socket() {
        for bad in ["tcp://127.0.0.1:1", "/run/agent.sock", "unix:agent.sock", "unix:///a?b", ""] {
            assert_eq!(parse_socket(Some(bad)), Err(AgentError::BadSocket(bad.to_owned())));
        }
        assert_eq!(parse_socket(None), Err(AgentError::NoSocket));
    }

    #[tokio::test]
    async fn rejects_every_question_where_there_is_no_agent() {
        let agent = AgentApi::none();
        assert!(!agent.is_there());
        assert_eq!(agent.register("ads").await.unwrap_err(), AgentError::NoAgent);
        assert_eq!(agent.publish_token_key("{}".into()).await.unwrap_err(), AgentError::NoAgent);
        assert!(!AgentError::NoAgent.is_temporary(), "nobody waits for what cannot come");
        assert!(agent.ship(ReportRequest::default()).await.is_err());
    }
}
