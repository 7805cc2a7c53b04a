//! Why evidence does not hold.

use countersign_identity::Mode;
use countersign_pki::verify::PeerError;
use countersign_token::{
    AccessTokenError, BearerError, JwsError, ReplayError, TxnTokenError, WitError, WptError,
};
use thiserror::Error;

/// Why evidence does not hold. Present and wrong is final: it never counts as absent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EvidenceError {
    /// The peer passed the handshake and is no longer believed.
    #[error("peer of this connection is no longer believed: {0}")]
    Peer(#[from] PeerError),
    /// The internal token.
    #[error(transparent)]
    TxnToken(#[from] TxnTokenError),
    /// A user's token from somebody who proved no name: only workloads pass tokens on.
    #[error(
        "user's token came from somebody who proved no name: connect over mtls, or send a proof beside it"
    )]
    TokenFromStranger,
    /// The access token.
    #[error(transparent)]
    AccessToken(#[from] AccessTokenError),
    /// `Authorization` is there and is not `Bearer TOKEN`.
    #[error("authorization header is not of the form `Bearer TOKEN`")]
    NotBearer,
    /// Several pieces of evidence that no mode combines, or one without its counterpart.
    #[error("evidence does not go together: {0}")]
    Combination(&'static str),
    /// A token that is none.
    #[error(transparent)]
    Unreadable(JwsError),
    /// A token of a kind that proves no workload.
    #[error("token in the authorization header is of the kind {typ:?}, which proves no workload here")]
    UnknownKind {
        /// What it says it is.
        typ: String,
    },
    /// A token over plain HTTP, where everybody on the way has a copy of it now.
    #[error("token of a workload came over plain http: connect with tls, and replace the token")]
    InTheClear,
    /// The opaque bearer token.
    #[error(transparent)]
    Bearer(#[from] BearerError),
    /// The workload identity token.
    #[error(transparent)]
    Wit(#[from] WitError),
    /// The workload proof token.
    #[error(transparent)]
    Wpt(#[from] WptError),
    /// A proof of single use that was used, or that cannot be known to be new.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The token, its user, or the key that signed it was taken back.
    #[error("{what} {id} was taken back: get a new token")]
    Revoked {
        /// `token`, `key` or `user`.
        what: &'static str,
        /// Its public id.
        id: String,
    },
    /// The body is not the one that was signed.
    #[error("body is not the one that the evidence names")]
    BodyChanged,
    /// The target does not accept what was proven.
    #[error("caller proved itself in mode {mode}, and this service accepts only {}", list(accepts))]
    BelowFloor {
        /// What was proven.
        mode: Mode,
        /// What would do.
        accepts: Vec<Mode>,
    },
}

impl EvidenceError {
    /// Under which name a decision record has it, if that is not simply its token's.
    pub(super) const fn check(&self) -> Option<&'static str> {
        match self {
            Self::Combination(_) => Some("combination"),
            Self::InTheClear => Some("transport"),
            Self::Replay(_) => Some("replay"),
            Self::Revoked { .. } => Some("revocation"),
            Self::BodyChanged => Some("body"),
            Self::BelowFloor { .. } => Some("floor"),
            _ => None,
        }
    }
}

fn list(modes: &[Mode]) -> String {
    modes.iter().map(|mode| mode.as_str()).collect::<Vec<_>>().join(", ")
}
