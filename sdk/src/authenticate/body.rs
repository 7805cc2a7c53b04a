//! What the evidence of a request says of its body, which arrives later.

use countersign_identity::Verified;
use countersign_keys::{constant_time_eq, sha256};
use countersign_token::{ServiceToken, service_token::SeenBody};

use super::EvidenceError;

/// What has to be compared before there is a caller.
#[derive(Debug, Default)]
pub(super) enum BodyClaim {
    /// Nothing.
    #[default]
    Nothing,
    /// What a service token says.
    ServiceToken(Box<Verified<ServiceToken>>),
    /// It has this SHA-256: a macaroon's caveat says so, or the digest field that a signature covers.
    Sha256([u8; 32]),
}

impl BodyClaim {
    pub(super) const fn is_there(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    pub(super) fn judge(&self, body: &[u8]) -> Result<(), EvidenceError> {
        match self {
            Self::Nothing => Ok(()),
            Self::ServiceToken(token) => Ok(token.judge_body(SeenBody::Whole(body)).map(drop)?),
            Self::Sha256(expected) if constant_time_eq(expected, &sha256(body)) => Ok(()),
            Self::Sha256(_) => Err(EvidenceError::BodyChanged),
        }
    }
}
