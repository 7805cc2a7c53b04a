//! The one task that keeps credentials fresh, and gets what the snapshot says that we send before it is sent.

use std::{sync::Arc, time::Duration};

use countersign_identity::{SpiffeId, UnixTime};
use countersign_wire::agent::TokenKind;

use super::{CredentialError, Credentials, Need, PerCallee, issued, needs, signing, wit};
use crate::{
    clock,
    live::{Live, LiveCell},
};

impl Credentials {
    /// Keeps everything fresh for ever.
    pub(crate) async fn keep(self, live: Arc<LiveCell>) {
        let mut changes = live.subscribe();
        loop {
            let sent = self.look(&live.load()).await;
            let due = self.next_due(sent).map_or(LOOK_AGAIN, clock::until);
            tokio::select! {
                _ = changes.changed() => {}
                () = self.0.came.notified() => {}
                () = tokio::time::sleep(due.clamp(BREATH, LOOK_AGAIN)) => {}
            }
        }
    }

    /// Is everything at hand that `live` says we send? Gets what is not.
    ///
    /// # Errors
    /// See [`CredentialError`]; the first failure.
    pub(crate) async fn ready_for(&self, live: &Live) -> Result<(), CredentialError> {
        match self.sent(live) {
            Need::Nothing => Ok(()),
            Need::Signing => self.signing().await.map(|_| ()),
            Need::Wit => self.wit().await.map(|_| ()),
            Need::Bearer => self.all_of(&self.0.bearer).await,
            Need::Macaroon => self.all_of(&self.0.macaroon).await,
        }
    }

    fn sent(&self, live: &Live) -> Need {
        live.service_of(&self.0.id).map_or(Need::Nothing, |own| needs(own.sends))
    }

    async fn all_of(&self, tokens: &PerCallee) -> Result<(), CredentialError> {
        let mut result = Ok(());
        for callee in tokens.tokens.load_full().keys() {
            result = result.and(self.issued(tokens, callee).await.map(|_| ()));
        }
        result
    }

    /// Gets what is sent and not there yet, renews what is due, forgets what is for nobody.
    async fn look(&self, live: &Live) -> Need {
        let registered = |callee: &SpiffeId| live.service_of(callee).is_some();
        self.0.bearer.retain(registered);
        self.0.macaroon.retain(registered);
        let sent = self.sent(live);
        let ready = self.ready_for(live).await;
        let renewed = self.renew(sent, clock::now()).await;
        if let Err(error) = ready.and(renewed) {
            tracing::warn!(%error, need = ?sent, "a credential could not be got or renewed");
        }
        sent
    }

    async fn renew(&self, sent: Need, now: UnixTime) -> Result<(), CredentialError> {
        let Self(inner) = self;
        let is_due = |due: Option<UnixTime>| due.is_some_and(|due| due <= now);
        let mut result = Ok(());
        if is_due(inner.signing.due(sent == Need::Signing)) {
            result = result.and(inner.signing.renew(|| signing::get(&inner.agent, &inner.id)).await);
        }
        if is_due(inner.wit.due(sent == Need::Wit)) {
            result = result.and(inner.wit.renew(|| wit::get(&inner.agent, &inner.id)).await);
        }
        for tokens in [&inner.bearer, &inner.macaroon] {
            for (callee, kept) in tokens.tokens.load_full().iter() {
                if is_due(kept.due(sent == tokens.need())) {
                    let renewed = kept.renew(|| issued::get(&inner.agent, tokens.kind, callee)).await;
                    result = result.and(renewed);
                }
            }
        }
        result
    }

    fn next_due(&self, sent: Need) -> Option<UnixTime> {
        let Self(inner) = self;
        let own = [inner.signing.due(sent == Need::Signing), inner.wit.due(sent == Need::Wit)];
        let issued = [&inner.bearer, &inner.macaroon].into_iter().filter_map(|tokens| {
            let kept = tokens.tokens.load_full();
            kept.values().filter_map(|kept| kept.due(sent == tokens.need())).min()
        });
        own.into_iter().flatten().chain(issued).min()
    }
}

impl PerCallee {
    fn need(&self) -> Need {
        if self.kind == TokenKind::Bearer { Need::Bearer } else { Need::Macaroon }
    }
}

/// Between two looks at most: what could not be got is tried again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Between two looks at least, whatever a certificate says about its own end.
const BREATH: Duration = Duration::from_millis(200);
