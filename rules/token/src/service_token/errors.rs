//! Why a service token is refused.

use countersign_identity::SpiffeId;

use crate::{claims::ClaimError, jws::JwsError, times::TimeError};

/// Why a service token is refused, as far as its request's head tells.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceTokenError {
    /// Not a token of this kind at all, or its signature does not fit.
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// A claim is absent or malformed.
    #[error("the service token's claims are not acceptable: {0}")]
    Claim(#[from] ClaimError),
    /// A name in it is not a SPIFFE ID.
    #[error("{name} of the service token is {got:?}, which is not a SPIFFE ID")]
    NotAnId {
        /// Which claim.
        name: &'static str,
        /// What it says.
        got: String,
    },
    /// Its `jti` has fewer than 96 bits, or is too long to be remembered.
    #[error("the jti of the service token has {chars} characters, not 16 to 64; use 128 random bits")]
    IdLength {
        /// How many.
        chars: usize,
    },
    /// Several claims say whose request it is.
    #[error("the service token has more than one of tth, uth and user_token; a request has one user")]
    SeveralUsers,
    /// A private claim has a registered name.
    #[error("{name:?} is the name of a registered claim; give the private claim another")]
    RegisteredName {
        /// Which.
        name: String,
    },
    /// A private claim is not a text.
    #[error("the private claim {name:?} of the service token is not a text")]
    NotText {
        /// Which.
        name: String,
    },
    /// No certificate and no registration gives the key.
    #[error(
        "no verified certificate and no registered key has the id {kid:?}; send the signing chain along, or register the key"
    )]
    UnknownKey {
        /// Its thumbprint.
        kid: String,
    },
    /// Made in the name of a workload that does not own the key.
    #[error("the service token names {issuer}, but the key that signed it belongs to {owner}")]
    NotOwner {
        /// Who it says made it.
        issuer: SpiffeId,
        /// Whose the key is.
        owner: SpiffeId,
    },
    /// For somebody else.
    #[error("the service token is for {got}, not for this service")]
    WrongAudience {
        /// For whom it is.
        got: SpiffeId,
    },
    /// Made for another method.
    #[error("the service token is for a request with the method {got:?}")]
    OtherMethod {
        /// Which.
        got: String,
    },
    /// Made for another path or another query.
    #[error("the service token is for another path or another query than this request has")]
    OtherPath,
    /// Made for another connection.
    #[error(
        "the service token is for another TLS connection; it was passed on, or something ends TLS in between"
    )]
    OtherConnection,
    /// A claim that is demanded here is absent.
    #[error("the claim {name:?} is demanded here, and the service token does not have it")]
    Demanded {
        /// Which.
        name: String,
    },
    /// A claim that is demanded here has another value.
    #[error("the claim {name:?} of the service token does not have the value that is demanded here")]
    OtherValue {
        /// Which.
        name: String,
    },
    /// The user's token that it names did not come along.
    #[error("the service token names the token of a user, and none came with the request")]
    UserTokenGone,
    /// Another token of a user came along than it names, or one although it names none.
    #[error("the token of a user that came with the request is not the one that the service token names")]
    OtherUserToken,
    /// Not now.
    #[error("the service token does not count now: {0}")]
    Times(#[from] TimeError),
}

/// Why a body is refused although its request's head was in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Another body than was signed.
    #[error("the body is not the one that the service token was made for")]
    Changed,
    /// The token names a hash, and nobody buffers the body.
    #[error(
        "the service token is bound to its body, which is too long to be judged here; sign it as unbound"
    )]
    CannotBeJudged,
}
