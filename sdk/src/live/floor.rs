//! What a target accepts, now.

use std::sync::Arc;

use countersign_identity::Mode;

use super::{Live, LiveCell};
use crate::tls::ClientAuth;

/// The modes that a target accepts, as the newest snapshot says: read anew for each handshake and for each request,
/// so that a connection from before a change gives no right after it.
#[derive(Clone, Debug)]
pub struct Floor {
    live: Arc<LiveCell>,
    target: Arc<str>,
}

impl Floor {
    /// The floor of `target`, a registered service by its short name.
    #[must_use]
    pub fn of(target: &str, live: Arc<LiveCell>) -> Self {
        Self { live, target: target.into() }
    }

    /// What a missing client certificate means in a handshake that begins now: it is demanded where no accepted mode
    /// goes without.
    #[must_use]
    pub fn client_auth(&self) -> ClientAuth {
        let required = self.live.peek().accepts(&self.target).iter().all(|mode| mode.shows_certificate());
        if required { ClientAuth::Required } else { ClientAuth::Optional }
    }

    /// Is plain HTTP served? Only while somebody may come without any proof.
    #[must_use]
    pub fn serves_plain(&self) -> bool {
        self.live.peek().accepts(&self.target).contains(&Mode::None)
    }

    /// Word of each newer snapshot.
    pub(crate) fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.live.subscribe()
    }
}

impl Live {
    /// The modes that `target` accepts; one that is not registered accepts mutual TLS alone.
    #[must_use]
    pub fn accepts(&self, target: &str) -> &[Mode] {
        self.service(target).map_or(&[Mode::Mtls], |service| service.accepts.as_slice())
    }
}
