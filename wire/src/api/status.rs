//! `GET /api/v1/status`.

use countersign_identity::{SpiffeId, TrustDomain, UnixTime};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::snapshot::LedgerHead;

/// How the deployment is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Of this authority.
    #[schema(value_type = String)]
    pub trust_domain: TrustDomain,
    /// Of the binary.
    pub version: String,
    /// `sqlite` or `postgres`.
    pub database: String,
    /// Now, at the authority.
    #[schema(value_type = i64)]
    pub at: UnixTime,
    /// Since when this authority runs.
    #[schema(value_type = i64)]
    pub started_at: UnixTime,
    /// Of the newest snapshot.
    pub epoch: String,
    /// Of the newest snapshot.
    pub sequence: u64,
    /// Of the newest policies.
    pub policy_generation: u64,
    /// Certification authorities, roots first.
    pub authorities: Vec<CaStatus>,
    /// The newest revocation list.
    pub crl: Option<CrlStatus>,
    /// Agents that joined.
    pub nodes: Vec<NodeStatus>,
    /// How many services are registered.
    pub services: u64,
    /// How many accounts exist.
    pub users: u64,
    /// Live workload certificates.
    pub certificates: u64,
    /// Number of events in the ledger.
    pub ledger_size: u64,
    /// The newest signed head of the ledger.
    pub ledger_head: Option<LedgerHead>,
    /// What somebody should look at, worst first; empty when all is well.
    pub warnings: Vec<Warning>,
}

/// One of our own CA certificates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CaStatus {
    /// `workload root`, `issuing` or `edge root`.
    pub kind: String,
    /// Hex.
    pub serial: String,
    /// Milliseconds since 1970.
    #[schema(value_type = i64)]
    pub not_before: UnixTime,
    /// Milliseconds since 1970.
    #[schema(value_type = i64)]
    pub not_after: UnixTime,
    /// From 0 to 1; a warning from 0.8.
    pub life_used: f32,
}

/// The newest certificate revocation list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CrlStatus {
    /// `crlNumber`.
    pub number: u64,
    /// Milliseconds since 1970.
    #[schema(value_type = i64)]
    pub this_update: UnixTime,
    /// Milliseconds since 1970.
    #[schema(value_type = i64)]
    pub next_update: UnixTime,
    /// Revoked certificates that have not expired.
    pub entries: u64,
}

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// Immutable, opaque.
    pub id: String,
    /// Its identity.
    #[schema(value_type = String)]
    pub spiffe_id: SpiffeId,
    /// Milliseconds since 1970.
    #[schema(value_type = i64)]
    pub joined_at: UnixTime,
    /// When it last asked or reported anything, milliseconds since 1970.
    #[schema(value_type = i64)]
    pub seen_at: UnixTime,
}

/// Something that works but should not stay as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Warning {
    /// `CSnnnn`.
    pub code: String,
    /// What.
    pub text: String,
    /// What to do.
    pub fix: String,
}
