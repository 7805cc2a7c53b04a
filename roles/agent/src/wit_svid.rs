//! The WIT-SVID profile of the SPIFFE Workload API (section 7): a workload that cannot make its own key gets one with
//! the token that names it. Both live in memory alone, and end with the stream.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use countersign_identity::UnixTime;
use countersign_keys::{KeyPair, SystemRandom};
use countersign_sdk::clock;
use countersign_wire::agent::{IssueTokenRequest, TokenKind};
use countersign_wire::workload::{Witsvid, WitsvidResponse};
use futures::Stream;
use futures::stream;
use tonic::{Code, Status};

use crate::agent::Core;
use crate::attest::Process;
use crate::registry::Registered;
use crate::renew::{Backoff, renew_after};
use crate::serve::gone;

/// What a workload reads.
pub(crate) type Wits = Pin<Box<dyn Stream<Item = Result<WitsvidResponse, Status>> + Send>>;

/// Under what a key signs that it is held; see `IssueTokenRequest.possession`.
const POSSESSION_PURPOSE: &str = "wit-key";

/// One open stream.
struct Feed {
    core: Arc<Core>,
    process: Arc<Process>,
    held: Arc<Registered>,
    backoff: Backoff,
    /// When what was handed out last has to be replaced, and when it ends.
    last: Option<(Duration, UnixTime)>,
    over: bool,
}

/// A token with its key at once, then another one with another key at half of each one's life.
pub(crate) fn feed(core: Arc<Core>, process: Arc<Process>, held: Arc<Registered>) -> Wits {
    let feed = Feed { core, process, held, backoff: Backoff::default(), last: None, over: false };
    Box::pin(stream::unfold(feed, |mut feed| async move {
        let next = feed.next().await?;
        Some((next, feed))
    }))
}

impl Feed {
    async fn next(&mut self) -> Option<Result<WitsvidResponse, Status>> {
        if self.over {
            return None;
        }
        let gone_first = self.held.gone.clone();
        let outcome = tokio::select! {
            biased;
            () = gone_first.cancelled() => Err(gone()),
            made = self.renewed() => made,
        };
        self.over = outcome.is_err();
        Some(outcome)
    }

    async fn renewed(&mut self) -> Result<WitsvidResponse, Status> {
        let mut pause = self.last.map(|(pause, _)| pause);
        loop {
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            match self.make().await {
                Ok(made) => {
                    self.backoff.reset();
                    return Ok(made);
                }
                // What was handed out stays good while it lives, unless the workload is nobody any more.
                Err(status) if status.code() == Code::PermissionDenied || !self.still_good() => {
                    return Err(status);
                }
                Err(status) => {
                    tracing::warn!(code = ?status.code(), "a workload identity token could not be renewed");
                    pause = Some(self.backoff.next());
                }
            }
        }
    }

    async fn make(&mut self) -> Result<WitsvidResponse, Status> {
        self.core.limits.token(self.process.key())?;
        let no_key = || Status::internal("a key could not be made");
        let key = KeyPair::generate(&SystemRandom::new()).map_err(|_| no_key())?;
        let id = &self.held.entry.spiffe_id;
        let possession = key.sign_fixed(POSSESSION_PURPOSE, id.as_str().as_bytes()).map_err(|_| no_key())?;
        let request = IssueTokenRequest {
            kind: TokenKind::Wit.into(),
            jwk: key.public_key().to_jwk(),
            possession: possession.to_vec(),
            ..IssueTokenRequest::default()
        };
        let issued = self.core.issue_token(&self.process, &self.held, request).await?;
        let expires = UnixTime::from_millis(issued.expires_at_ms);
        self.last = Some((renew_after(clock::until(expires)), expires));
        let private = key.to_private_jwk().map_err(|_| no_key())?;
        let svid = Witsvid {
            spiffe_id: id.to_string(),
            wit_svid: issued.token,
            wit_svid_key: private.expose().clone(),
            hint: String::new(),
        };
        Ok(WitsvidResponse { svids: vec![svid] })
    }

    fn still_good(&self) -> bool {
        self.last.is_some_and(|(_, expires)| clock::now() < expires)
    }
}
