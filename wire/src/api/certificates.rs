//! `/api/v1/certificates`, `/api/v1/bundle`.

use countersign_identity::{ServiceName, SpiffeId, TrustDomain, UnixTime};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Base64;

/// A certificate that we issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    /// Hex.
    pub serial: String,
    /// Whose it is; absent for edge servers.
    #[schema(value_type = Option<String>)]
    pub spiffe_id: Option<SpiffeId>,
    /// `workload`, `server`, `edge`, …
    pub profile: String,
    /// SHA-256 of the DER, hex.
    pub thumbprint: String,
    /// Milliseconds since 1970.
    #[schema(value_type = i64)]
    pub issued_at: UnixTime,
    /// Milliseconds since 1970.
    #[schema(value_type = i64)]
    pub not_after: UnixTime,
    /// Milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>)]
    pub revoked_at: Option<UnixTime>,
    /// RFC 5280 section 5.3.1, `keyCompromise`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `POST /api/v1/certificates`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IssueCertificate {
    /// The registered service to certify. Exactly one of this and `edge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub service: Option<ServiceName>,
    /// Names of an HTTPS server, certified under the edge root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<EdgeNames>,
    /// PKCS#10, DER.
    #[schema(value_type = String, format = Byte)]
    pub csr: Base64,
    /// `workload` if absent, or `server` (serverAuth alone).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Lifetime in seconds, 60 to 86,400; 3,600 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
}

/// The names of an edge server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EdgeNames {
    /// DNS names.
    #[serde(default)]
    pub dns: Vec<String>,
    /// IP addresses, text.
    #[serde(default)]
    pub ips: Vec<String>,
}

/// What was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IssuedCertificate {
    /// The facts.
    pub certificate: Certificate,
    /// Leaf first, without the root; DER each.
    #[schema(value_type = Vec<String>)]
    pub chain: Vec<Base64>,
    /// Of the trust domain, or of the edge; DER each.
    #[schema(value_type = Vec<String>)]
    pub roots: Vec<Base64>,
}

/// `POST /api/v1/certificates/revoke`: exactly one of `serial` and `service`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// One certificate, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// All live certificates of a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub service: Option<ServiceName>,
    /// RFC 5280 section 5.3.1; `unspecified` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What was revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revoked {
    /// Hex each.
    pub serials: Vec<String>,
    /// Number of the revocation list that carries them.
    pub crl_number: u64,
}

/// `GET /api/v1/bundle`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Bundle {
    /// Whose roots.
    #[schema(value_type = String)]
    pub trust_domain: TrustDomain,
    /// Workload roots, DER each.
    #[schema(value_type = Vec<String>)]
    pub roots: Vec<Base64>,
    /// DER each.
    #[schema(value_type = Vec<String>)]
    pub crls: Vec<Base64>,
    /// Roots of the edge and the API, DER each: another trust altogether.
    #[schema(value_type = Vec<String>)]
    pub edge_roots: Vec<Base64>,
}
