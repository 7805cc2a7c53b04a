//! What a verifier finds out, brought to the connection that asked.
//!
//! A configuration, and so its verifier, is shared by all connections of one generation of trust. rustls calls the
//! verifier while the handshake of one connection is polled, on the same thread, and tells it nothing about which one
//! that is. So the finding is laid where the handshake that is being polled picks it up.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::peer::Peer;

/// What is known of the other end after its handshake.
#[derive(Debug, Default)]
pub(super) struct Finding {
    /// The peer that presented a certificate, judged.
    pub(super) peer: Option<Arc<Peer>>,
    /// It does not hold the key of that certificate.
    pub(super) possession_failed: bool,
}

/// A handshake that returns what the verifier found out besides its own result.
pub(super) struct Judging<H> {
    handshake: H,
    finding: Finding,
}

thread_local! {
    static POLLED: RefCell<Finding> = RefCell::default();
}

impl<H: Future + Unpin> Judging<H> {
    pub(super) fn new(handshake: H) -> Self {
        Self { handshake, finding: Finding::default() }
    }
}

impl<H: Future + Unpin> Future for Judging<H> {
    type Output = (H::Output, Finding);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A stream below may be in a handshake of its own: whatever lies there is put back.
        let outer = POLLED.replace(std::mem::take(&mut self.finding));
        let polled = Pin::new(&mut self.handshake).poll(cx);
        self.finding = POLLED.replace(outer);
        polled.map(|result| (result, std::mem::take(&mut self.finding)))
    }
}

/// For verifiers: this is whom the connection that is being polled has at its other end.
pub(super) fn found(peer: Arc<Peer>) {
    POLLED.with_borrow_mut(|finding| finding.peer = Some(peer));
}

/// For verifiers: did the peer sign with the key of its certificate, or with another one?
pub(super) fn possession<P, E>(signature: &Result<P, E>) {
    POLLED.with_borrow_mut(|finding| match (signature, &finding.peer) {
        (Ok(_), Some(peer)) => peer.holds_its_key(),
        (Ok(_), None) => {}
        (Err(_), _) => finding.possession_failed = true,
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn each_handshake_gets_its_own_finding_however_they_are_interleaved() {
        let handshake = |fails: bool| {
            Judging::new(Box::pin(async move {
                tokio::task::yield_now().await;
                possession(&if fails { Err(()) } else { Ok(()) });
                // One handshake over another, which fails differently.
                let ((), inner) = Judging::new(Box::pin(async {
                    tokio::task::yield_now().await;
                }))
                .await;
                assert!(!inner.possession_failed);
                tokio::task::yield_now().await;
            }))
        };
        let all = futures::future::join_all([true, false, true].map(handshake)).await;
        let found: Vec<_> = all.into_iter().map(|(_, finding)| finding.possession_failed).collect();
        assert_eq!(found, [true, false, true]);
        assert!(!POLLED.take().possession_failed, "nothing stays behind");
    }
}
