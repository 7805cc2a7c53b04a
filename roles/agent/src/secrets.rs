//! What one workload verifies tokens with, passed on from the authority and never kept: with the authority down a
//! workload goes on with what it holds, and one that starts waits.

use std::pin::Pin;
use std::sync::Arc;

use countersign_wire::agent::SecretsResponse;
use countersign_wire::node::NodeSecretsRequest;
use futures::Stream;
use futures::stream;
use tokio::sync::watch;
use tonic::{Code, Status, Streaming};

use crate::agent::Core;
use crate::credential::Credential;
use crate::registry::Registered;
use crate::renew::Backoff;
use crate::serve::gone;

/// What a workload reads.
pub(crate) type Secrets = Pin<Box<dyn Stream<Item = Result<SecretsResponse, Status>> + Send>>;

/// One open stream, with the authority's behind it.
pub(crate) struct SecretsFeed {
    core: Arc<Core>,
    held: Arc<Registered>,
    upstream: Option<Streaming<SecretsResponse>>,
    renewed: watch::Receiver<Option<Arc<Credential>>>,
    backoff: Backoff,
    over: bool,
}

impl SecretsFeed {
    /// The secrets of the service that `held` is: all at once, then all again after each change. It outlives
    /// connections to the authority.
    pub(crate) fn open(core: Arc<Core>, held: Arc<Registered>) -> Secrets {
        let renewed = core.credential.subscribe();
        let feed = Self { core, held, upstream: None, renewed, backoff: Backoff::default(), over: false };
        Box::pin(stream::unfold(feed, |mut feed| async move {
            let next = feed.next().await?;
            Some((next, feed))
        }))
    }

    async fn next(&mut self) -> Option<Result<SecretsResponse, Status>> {
        if self.over {
            return None;
        }
        loop {
            let gone_first = self.held.gone.clone();
            tokio::select! {
                biased;
                () = gone_first.cancelled() => return self.end(gone()),
                step = self.step() => match step {
                    Ok(Some(secrets)) => return Some(Ok(secrets)),
                    Ok(None) => {}
                    Err(status) => return self.end(status),
                }
            }
        }
    }

    /// The next message; `None` when the connection has to be made again first.
    async fn step(&mut self) -> Result<Option<SecretsResponse>, Status> {
        let Some(upstream) = &mut self.upstream else {
            self.renewed.mark_unchanged();
            let request = NodeSecretsRequest { spiffe_id: self.held.entry.spiffe_id.to_string() };
            let opened = self.core.node.client().secrets(request).await;
            match self.core.node.settle(opened) {
                Ok(stream) => self.upstream = Some(stream),
                Err(status) => self.wait_after(&status).await?,
            }
            return Ok(None);
        };
        tokio::select! {
            // A new credential means a new connection; the old one ends.
            _ = self.renewed.changed() => self.upstream = None,
            message = upstream.message() => match message {
                Ok(Some(secrets)) => {
                    self.backoff.reset();
                    return Ok(Some(secrets));
                }
                Ok(None) => {
                    self.upstream = None;
                    tokio::time::sleep(self.backoff.next()).await;
                }
                Err(status) => {
                    self.upstream = None;
                    let status = self.core.node.settle_failure(&status);
                    self.wait_after(&status).await?;
                }
            },
        }
        Ok(None)
    }

    /// Only the authority's own word that this workload is nobody ends the stream.
    async fn wait_after(&mut self, status: &Status) -> Result<(), Status> {
        if matches!(status.code(), Code::PermissionDenied | Code::NotFound) {
            return Err(Status::permission_denied(status.message()));
        }
        tokio::time::sleep(self.backoff.next()).await;
        Ok(())
    }

    fn end(&mut self, status: Status) -> Option<Result<SecretsResponse, Status>> {
        self.over = true;
        Some(Err(status))
    }
}
