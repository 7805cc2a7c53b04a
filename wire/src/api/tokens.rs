//! `/api/v1/tokens/…`: tokens that an administrator has issued for services, and discharges of macaroons.

use countersign_identity::{ServiceName, SpiffeId, UnixTime};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::SecretText;

/// Asks for a bearer token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBearer {
    /// The service that it speaks for.
    #[schema(value_type = String)]
    pub service: ServiceName,
    /// The services at which it counts, 1 to 16.
    #[schema(value_type = Vec<String>)]
    pub scope: Vec<ServiceName>,
    /// Lifetime in seconds: 86,400 if absent, 7,776,000 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
}

/// Asks for a bearer token in the place of another one, with the same owner, scope and lifetime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateBearer {
    /// For how many seconds both count: 3,600 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap_s: Option<u64>,
}

/// A bearer token without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Bearer {
    /// Public part of the token.
    pub id: String,
    /// For whom it speaks.
    #[schema(value_type = String)]
    pub owner: SpiffeId,
    /// Where it counts.
    #[schema(value_type = Vec<String>)]
    pub scope: Vec<SpiffeId>,
    /// Who had it issued: an administrator, or an agent for a workload.
    pub issued_by: String,
    /// Milliseconds since 1970.
    #[schema(value_type = i64)]
    pub issued_at: UnixTime,
    /// Milliseconds since 1970.
    #[schema(value_type = i64)]
    pub expires_at: UnixTime,
    /// The token that takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<String>,
    /// Milliseconds since 1970; absent while it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>)]
    pub revoked_at: Option<UnixTime>,
}

/// Asks for a macaroon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMacaroon {
    /// The service that it speaks for.
    #[schema(value_type = String)]
    pub service: ServiceName,
    /// The one service at which it counts.
    #[schema(value_type = String)]
    pub callee: ServiceName,
    /// Lifetime in seconds: 3,600 if absent, 86,400 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
    /// First-party caveats, one text each, such as `method = GET`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caveats: Vec<String>,
    /// What the authority must be shown before it discharges the macaroon: `workload = SPIFFE-ID` or `user = ID`. The
    /// macaroon alone is then worth nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discharge_for: Option<String>,
}

/// A token: shown once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IssuedToken {
    /// Its public id, for listings and revocation.
    pub id: String,
    /// The token itself.
    #[schema(value_type = String)]
    pub token: SecretText,
    /// Milliseconds since 1970.
    #[schema(value_type = i64)]
    pub expires_at: UnixTime,
}

/// Asks for the discharge of a third-party caveat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDischarge {
    /// Identifier of the caveat, base64url without padding.
    pub caveat: String,
}

/// A discharge macaroon: bind it to the macaroon that needs it before sending both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Discharge {
    /// Version 2 binary, base64url without padding.
    #[schema(value_type = String)]
    pub discharge: SecretText,
    /// Milliseconds since 1970.
    #[schema(value_type = i64)]
    pub expires_at: UnixTime,
}
