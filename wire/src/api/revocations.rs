//! `/api/v1/revocations`: what is taken back before it expires.

use countersign_identity::UnixTime;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What an id names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RevocationKind {
    /// One token: its `jti`, or the public id of a bearer token or macaroon.
    Token,
    /// All tokens of a user that were issued until now: a name.
    User,
    /// All tokens signed with a key: its `kid`.
    Key,
}

/// Takes something back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRevocation {
    /// What `id` names.
    pub kind: RevocationKind,
    /// `jti`, public id, name of a user, or `kid`.
    pub id: String,
}

/// Something that counts no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revocation {
    /// What `id` names.
    pub kind: RevocationKind,
    /// `jti`, opaque id of a user, or `kid`.
    pub id: String,
    /// Tokens issued before this moment are refused, milliseconds since 1970.
    #[schema(value_type = i64)]
    pub issued_before: UnixTime,
    /// When nothing that it speaks of can be alive any more.
    #[schema(value_type = i64)]
    pub until: UnixTime,
    /// Who revoked it.
    pub revoked_by: String,
}
