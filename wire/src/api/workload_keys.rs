//! `/api/v1/services/{name}/keys`: public keys of services, so that their proofs need no certificate.

use countersign_identity::{SpiffeId, UnixTime};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::snapshot::{Jwk, KeyPurpose};

/// Registers a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWorkloadKey {
    /// What it is for.
    pub purpose: KeyPurpose,
    /// A public JWK. Its private half stays with the service.
    #[schema(value_type = Object)]
    pub jwk: Jwk,
}

/// A registered key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegisteredKey {
    /// RFC 7638 thumbprint.
    pub kid: String,
    /// Whose proofs it verifies.
    #[schema(value_type = String)]
    pub owner: SpiffeId,
    /// What it is for.
    pub purpose: KeyPurpose,
    /// The public JWK.
    #[schema(value_type = Object)]
    pub jwk: Jwk,
    /// Who registered it.
    pub registered_by: String,
    /// Milliseconds since 1970.
    #[schema(value_type = i64)]
    pub registered_at: UnixTime,
}

/// Withdraws a key, for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WithdrawKey {
    /// RFC 7638 thumbprint.
    pub kid: String,
}
