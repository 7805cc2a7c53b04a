//! `POST /api/v1/tokens/verify`: does a token count, and where it does not, why.

use std::fmt;

use countersign_identity::{ServiceName, UnixTime};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::explain::{Check, CheckOutcome};
use crate::SecretText;

/// A token, and what is known of the request that it would come with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyToken {
    /// The token, as it stands in its header or file.
    #[schema(value_type = String)]
    pub token: SecretText,
    /// Value of the header `Countersign-Signing-Chain` that came with a service token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// The service that would be called. If absent, the one that the token names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub callee: Option<ServiceName>,
    /// The request by which the caveats of a macaroon are judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<VerifyRequest>,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// `GET`.
    pub method: String,
    /// `/users/7`, without the query.
    pub path: String,
    /// Without its `?`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
}

/// Whether a token counts. What it says is proven only where it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenVerdict {
    /// What it is.
    pub kind: ExaminedKind,
    /// No check failed. What could not be judged here is `not_reached`, and its detail says so.
    pub holds: bool,
    /// Of whom it speaks: the id of a user, or a SPIFFE ID.
    pub subject: Option<String>,
    /// For whom it is.
    pub audience: Vec<String>,
    /// Milliseconds since 1970.
    #[schema(value_type = Option<i64>)]
    pub expires_at: Option<UnixTime>,
    /// In the order in which they were made.
    pub checks: Vec<Check>,
    /// It was taken back. Asked of what holds otherwise.
    pub revoked: bool,
}

impl TokenVerdict {
    /// The first check that failed.
    #[must_use]
    pub fn failed(&self) -> Option<&Check> {
        self.checks.iter().find(|check| check.result == CheckOutcome::Fail)
    }
}

/// The kinds of tokens that can be judged away from their request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExaminedKind {
    /// What a user got by login.
    AccessToken,
    /// A user's token for one callee, from the token service.
    ExchangedToken,
    /// The internal token of a transaction.
    TxnToken,
    /// A SPIFFE JWT-SVID, of our own trust domain or of a federated one.
    JwtSvid,
    /// A workload identity token.
    Wit,
    /// What a service signed for one request.
    ServiceToken,
    /// An opaque bearer token.
    Bearer,
    /// A macaroon, with discharges or without.
    Macaroon,
}

/// For people.
impl fmt::Display for ExaminedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AccessToken => "access token",
            Self::ExchangedToken => "exchanged token",
            Self::TxnToken => "transaction token",
            Self::JwtSvid => "JWT-SVID",
            Self::Wit => "workload identity token",
            Self::ServiceToken => "service token",
            Self::Bearer => "bearer token",
            Self::Macaroon => "macaroon",
        })
    }
}
