//! A request to leave HTTP, to an upstream: over a connection of its own, tried once.

use std::sync::Arc;

use countersign_policy::Permit;
use countersign_sdk::outbound::Outgoing;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

use super::body::{Hold, UpstreamBody};
use super::cluster::{Cluster, Lease, Outcome};
use super::dial::Proof;
use super::endpoint::Seat;
use super::error::UpstreamError;
use crate::upgrade::Way;

/// What an upstream said to a request to leave HTTP.
pub(crate) enum ClusterSwitched {
    /// It goes on in the other protocol.
    Yes(Response<()>, Way),
    /// It answers in HTTP, whatever it says.
    No(Response<UpstreamBody>),
}

/// Bytes both ways, who is at the other end, and the seat there.
type Left = (Upgraded, Option<Proof>, Arc<Option<Seat>>);

impl Cluster {
    /// Sends a request that says what it wants to leave HTTP for.
    ///
    /// Takes the permit: nothing is forwarded without one.
    ///
    /// # Errors
    /// See [`UpstreamError`].
    pub(crate) async fn switch(
        &self,
        _permit: Permit,
        request: Request<Outgoing>,
    ) -> Result<ClusterSwitched, UpstreamError> {
        let request = self.aimed(request)?;
        let lease = self.pick()?;
        let asked = tokio::time::timeout(self.timeouts.answer(), self.ask_to_leave(&lease, request));
        let late = |_| {
            lease.report(Outcome::Failed);
            UpstreamError::AnswerTimedOut {
                upstream: self.name().to_owned(),
                endpoint: lease.endpoint().place().to_string(),
                after_ms: self.timeouts.answer_ms,
            }
        };
        let (answer, left) = asked.await.map_err(late).flatten()?;
        let Some((io, proof, seat)) = left else {
            let hold = Hold { lease, line: None };
            return Ok(ClusterSwitched::No(answer.map(|body| UpstreamBody::new(body, hold, None))));
        };
        let way = Way::new(TokioIo::new(io), (lease, seat), Proof::lost(proof));
        Ok(ClusterSwitched::Yes(answer.map(|_| ()), way))
    }

    /// The answer, and what it left HTTP on, if it did.
    async fn ask_to_leave(
        &self,
        lease: &Lease,
        request: Request<Outgoing>,
    ) -> Result<(Response<Incoming>, Option<Left>), UpstreamError> {
        let failed = |error: &hyper::Error| {
            lease.report(Outcome::Failed);
            self.broke(lease, &error.to_string())
        };
        let (mut send, proof, seat) = self.dial_once(lease).await?;
        let mut answer = send.send_request(request).await.map_err(|error| failed(&error))?;
        lease.report(Outcome::Answered(answer.status().as_u16()));
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok((answer, None));
        }
        let io = hyper::upgrade::on(&mut answer).await.map_err(|error| failed(&error))?;
        Ok((answer, Some((io, proof, seat))))
    }

    /// A connection that no other request will use, and that counts as long as it lasts.
    async fn dial_once(
        &self,
        lease: &Lease,
    ) -> Result<(SendRequest<Outgoing>, Option<Proof>, Arc<Option<Seat>>), UpstreamError> {
        let full = || self.full(lease.endpoint(), "connections_max", self.breaker().connections_max.get());
        let dialed =
            self.dial(lease).await.inspect_err(|_| lease.report(Outcome::Failed))?.ok_or_else(full)?;
        let (proof, seat) = (dialed.proof, Arc::new(dialed.seat));
        let mut builder = http1::Builder::new();
        builder.max_buf_size(self.answer_head.bytes_max()).max_headers(self.answer_head.headers_max());
        let opened = builder.handshake(TokioIo::new(dialed.wire)).await;
        let (send, connection) = opened.map_err(|error| self.broke(lease, &error.to_string()))?;
        let (watched, held) = (proof.clone(), Arc::clone(&seat));
        tokio::spawn(async move {
            tokio::select! {
                ended = connection.with_upgrades() => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection that was to leave http ended with an error");
                },
                () = Proof::lost(watched) => {}
            }
            drop(held);
        });
        Ok((send, proof, seat))
    }
}
