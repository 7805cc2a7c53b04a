//! How we call: what our own entry in the snapshot says that we send, at each request.

use countersign_identity::{Mode, SpiffeId, UserContext, WimseProof};

use crate::live::Live;

/// What we send, to whomever: it is the caller's to choose. The callee's floor is the callee's to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sending {
    pub(crate) mode: Mode,
    pub(crate) user: UserContext,
    pub(crate) wimse: WimseProof,
}

impl Sending {
    /// As `live` says of `own`; who is not registered shows its certificate, and passes users on as they came.
    pub(crate) fn of(own: &SpiffeId, live: &Live) -> Self {
        live.service_of(own).map_or(Self::UNREGISTERED, |entry| Self {
            mode: entry.sends,
            user: entry.user_context,
            wimse: entry.wimse,
        })
    }

    const UNREGISTERED: Self = Self { mode: Mode::Mtls, user: UserContext::Same, wimse: WimseProof::Token };
}
