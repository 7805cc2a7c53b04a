//! Why evidence does not hold.

use countersign_identity::{Mode, SpiffeId};
use countersign_pki::verify::PeerError;
use countersign_token::{
    AccessTokenError, BearerError, BodyError, ExchangedTokenError, ForeignTokenError, JwsError, JwtSvidError,
    ReplayError, RevokedError, ServiceTokenError, SignatureError, TxnTokenError, WitError, WptError,
    macaroon::MacaroonError,
};
use thiserror::Error;

use crate::signing_chains::ChainHeaderError;

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
    /// The token for this hop.
    #[error(transparent)]
    HopToken(#[from] ExchangedTokenError),
    /// The JWT-SVID.
    #[error(transparent)]
    JwtSvid(#[from] JwtSvidError),
    /// The access token.
    #[error(transparent)]
    AccessToken(#[from] AccessTokenError),
    /// The access token of another issuer.
    #[error(transparent)]
    ForeignToken(#[from] ForeignTokenError),
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
    #[error(transparent)]
    Revoked(#[from] RevokedError),
    /// The macaroon.
    #[error(transparent)]
    Macaroon(#[from] MacaroonError),
    /// The signature of the request.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The caller's own token.
    #[error(transparent)]
    ServiceToken(#[from] ServiceTokenError),
    /// The certificate of the key that signed does not hold.
    #[error("certificate of the key that signed does not hold: {0}")]
    Signer(#[source] PeerError),
    /// The header with the certificate of the key that signed.
    #[error(transparent)]
    ChainHeader(#[from] ChainHeaderError),
    /// Whose key signed is not known, and no certificate that the token names came along.
    #[error(
        "nobody knows whose key signed the token: send the chain that its certificate names, or register the key"
    )]
    SignerUnknown,
    /// Somebody's token with a certificate of somebody else.
    #[error(
        "issuer is not the name in its signing certificate: the token says {issuer}, the certificate {certified}"
    )]
    SignerMismatch {
        /// Who the token says made it.
        issuer: SpiffeId,
        /// Whom the certificate names.
        certified: SpiffeId,
    },
    /// Somebody's token over the connection of somebody else.
    #[error(
        "issuer is not the name in the certificate of the connection: the token says {issuer}, the certificate {peer}"
    )]
    OtherPeer {
        /// Who the token says made it.
        issuer: SpiffeId,
        /// Whose connection it is.
        peer: SpiffeId,
    },
    /// The body is not the one that the caller's own token was made for.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The body is not the one that was signed.
    #[error("body is not the one that the evidence names")]
    BodyChanged,
    /// A claim is demanded here, and only what a caller signs itself can have any.
    #[error("the claim {name:?} is demanded here, and mode {mode} carries no claims: send jwt or mtls+jwt")]
    NoClaims {
        /// Which.
        name: String,
        /// What was proven.
        mode: Mode,
    },
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
            Self::Revoked(_) => Some("revocation"),
            Self::SignerMismatch { .. }
            | Self::OtherPeer { .. }
            | Self::ServiceToken(ServiceTokenError::NotOwner { .. }) => Some("issuer"),
            Self::Signer(_) | Self::ChainHeader(_) | Self::SignerUnknown => Some("signing certificate"),
            Self::BodyChanged | Self::Body(_) => Some("body"),
            Self::BelowFloor { .. } => Some("floor"),
            Self::NoClaims { .. }
            | Self::ServiceToken(ServiceTokenError::Demanded { .. } | ServiceTokenError::OtherValue { .. }) => {
                Some("claims")
            }
            _ => None,
        }
    }
}

fn list(modes: &[Mode]) -> String {
    modes.iter().map(|mode| mode.as_str()).collect::<Vec<_>>().join(", ")
}
