//! `countersign.agent.v1`: what our own SDK asks. The key stays with the workload; it gets a certificate, the
//! snapshots, tokens with what it verifies those of others by, and a way to the ledger.

use std::pin::Pin;
use std::sync::Arc;

use countersign_wire::agent::agent_server::Agent;
use countersign_wire::agent::{
    AppliedRequest, AppliedResponse, CertificatePurpose, IssueRequest, IssueResponse, IssueTokenRequest,
    IssueTokenResponse, PublishTokenKeyRequest, PublishTokenKeyResponse, RegisterRequest, RegisterResponse,
    ReportRequest, ReportResponse, SecretsRequest, SignedSnapshot, SnapshotsRequest,
};
use futures::Stream;
use futures::stream;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::agent::Core;
use crate::registry::{RegisterError, Registered};
use crate::secrets::{Secrets, SecretsFeed};
use crate::serve::{caller, gone, process, starting};
use crate::snapshot::Held;

/// The service, on the agent's socket.
#[derive(Debug)]
pub(crate) struct AgentApi(pub(crate) Arc<Core>);

type Snapshots = Pin<Box<dyn Stream<Item = Result<SignedSnapshot, Status>> + Send>>;

/// Longest name of an entry, as a full SPIFFE ID.
const ENTRY_BYTES_MAX: usize = countersign_identity::SPIFFE_ID_BYTES_MAX;

#[tonic::async_trait]
impl Agent for AgentApi {
    type SnapshotsStream = Snapshots;

    type SecretsStream = Secrets;

    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let process = process(&self.0, request.extensions())?;
        let wanted = &request.get_ref().entry;
        if wanted.len() > ENTRY_BYTES_MAX {
            return Err(Status::invalid_argument(format!(
                "an entry's name has at most {ENTRY_BYTES_MAX} bytes"
            )));
        }
        let held = self.0.registry.register(&process, wanted).map_err(|error| {
            let (pid, uid) = (process.key().pid, process.uid());
            match error {
                RegisterError::Starting => {
                    tracing::debug!(pid, uid, "a process asks before the agent knows its entries")
                }
                _ => tracing::warn!(%error, pid, uid, "a process was not registered"),
            }
            refusal(&error)
        })?;
        Ok(Response::new(RegisterResponse { spiffe_id: held.entry.spiffe_id.to_string() }))
    }

    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let (process, held) = caller(&self.0, request.extensions())?;
        self.0.limits.certificate(process.key())?;
        let IssueRequest { csr, purpose } = request.into_inner();
        let purpose = CertificatePurpose::try_from(purpose)
            .map_err(|_| Status::invalid_argument("no such purpose of certificates"))?;
        let issued = self.0.issue(&process, &held, csr, purpose).await?;
        Ok(Response::new(issued.response))
    }

    async fn issue_token(
        &self,
        request: Request<IssueTokenRequest>,
    ) -> Result<Response<IssueTokenResponse>, Status> {
        let (process, held) = caller(&self.0, request.extensions())?;
        self.0.limits.token(process.key())?;
        self.0.issue_token(&process, &held, request.into_inner()).await.map(Response::new)
    }

    async fn secrets(&self, request: Request<SecretsRequest>) -> Result<Response<Secrets>, Status> {
        let (_, held) = caller(&self.0, request.extensions())?;
        Ok(Response::new(SecretsFeed::open(Arc::clone(&self.0), held)))
    }

    async fn applied(&self, request: Request<AppliedRequest>) -> Result<Response<AppliedResponse>, Status> {
        let (_, held) = caller(&self.0, request.extensions())?;
        self.0.applied(&held, request.into_inner()).await?;
        Ok(Response::new(AppliedResponse {}))
    }

    async fn snapshots(&self, request: Request<SnapshotsRequest>) -> Result<Response<Snapshots>, Status> {
        let (_, held) = caller(&self.0, request.extensions())?;
        let SnapshotsRequest { epoch, sequence } = request.into_inner();
        let snapshots = self.0.snapshots.subscribe();
        let feed = Feed { held, snapshots, has: (epoch, sequence), over: false };
        Ok(Response::new(Box::pin(stream::unfold(feed, |mut feed| async move {
            let next = feed.next().await?;
            Some((next, feed))
        }))))
    }

    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        let (_, held) = caller(&self.0, request.extensions())?;
        self.0.report(&held, request.into_inner()).await.map(Response::new)
    }

    async fn publish_token_key(
        &self,
        request: Request<PublishTokenKeyRequest>,
    ) -> Result<Response<PublishTokenKeyResponse>, Status> {
        let (_, held) = caller(&self.0, request.extensions())?;
        self.0.publish_token_key(&held, request.into_inner().jwk).await?;
        Ok(Response::new(PublishTokenKeyResponse {}))
    }
}

fn refusal(error: &RegisterError) -> Status {
    let say = error.to_string();
    match error {
        RegisterError::Starting => Status::unavailable(say),
        RegisterError::NoEntry(_) => Status::not_found(say),
        RegisterError::NotALauncher { .. } | RegisterError::Exited => Status::permission_denied(say),
        RegisterError::AlreadyAnother(_) => Status::already_exists(say),
        RegisterError::Full => Status::resource_exhausted(say),
    }
}

/// One open stream of snapshots.
struct Feed {
    held: Arc<Registered>,
    snapshots: watch::Receiver<Option<Arc<Held>>>,
    /// Epoch and sequence that the caller holds.
    has: (String, u64),
    over: bool,
}

impl Feed {
    /// The newest snapshot that the caller does not hold. One that it was too slow for is skipped.
    async fn next(&mut self) -> Option<Result<SignedSnapshot, Status>> {
        if self.over {
            return None;
        }
        loop {
            if self.held.gone.is_cancelled() {
                return self.end(gone());
            }
            let newest = self.snapshots.borrow_and_update().clone();
            if let Some(newest) = newest.filter(|newest| self.is_news(newest)) {
                let snapshot = newest.live.snapshot();
                self.has = (snapshot.epoch.clone(), snapshot.sequence);
                return Some(Ok(newest.signed.clone()));
            }
            let changed = tokio::select! {
                () = self.held.gone.cancelled() => true,
                changed = self.snapshots.changed() => changed.is_ok(),
            };
            if !changed {
                return self.end(starting());
            }
        }
    }

    fn is_news(&self, newest: &Held) -> bool {
        let snapshot = newest.live.snapshot();
        let (epoch, sequence) = &self.has;
        snapshot.epoch != *epoch || snapshot.sequence > *sequence
    }

    fn end(&mut self, status: Status) -> Option<Result<SignedSnapshot, Status>> {
        self.over = true;
        Some(Err(status))
    }
}
