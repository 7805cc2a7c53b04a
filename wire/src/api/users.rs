//! `/api/v1/users`, `/api/v1/login`.

use countersign_identity::UnixTime;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::SecretText;

/// An account. No member ever says anything about its password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// Immutable, opaque, never reused: `u_…`.
    pub id: String,
    /// Canonical name.
    pub name: String,
    /// Roles, sorted.
    pub roles: Vec<String>,
    /// Milliseconds since 1970.
    #[schema(value_type = i64)]
    pub created_at: UnixTime,
}

/// `POST /api/v1/users`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// As the user writes it; made canonical by the authority.
    pub name: String,
    /// At least 15 characters.
    #[schema(value_type = String, format = Password)]
    pub password: SecretText,
    /// Roles.
    #[serde(default)]
    pub roles: Vec<String>,
}

/// `POST /api/v1/users/{name}/password`: a new password, which also unlocks the account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    /// At least 15 characters.
    #[schema(value_type = String, format = Password)]
    pub password: SecretText,
}

/// Header of `POST /api/v1/login` in which a gateway tells whose login it passes on, as an IP address. It counts only
/// on a connection whose client proved to be a gateway of this deployment; from everybody else it is ignored.
pub const CLIENT_ADDRESS_HEADER: &str = "x-countersign-client-address";
/// The key that the client of a login proved to hold, as a gateway of ours tells it: its RFC 7638 thumbprint. The access
/// token is bound to it (RFC 9449). Of anybody else it counts for nothing.
pub const CLIENT_KEY_HEADER: &str = "x-countersign-client-key";

/// `POST /api/v1/login`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// As the user writes it.
    pub name: String,
    /// The password.
    #[schema(value_type = String, format = Password)]
    pub password: SecretText,
}

/// A successful login, named as in RFC 6749 section 5.1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoggedIn {
    /// A JWT (RFC 9068).
    #[schema(value_type = String)]
    pub access_token: SecretText,
    /// `Bearer`, or `DPoP` where the token is bound to the client's key.
    pub token_type: String,
    /// Seconds.
    pub expires_in: u64,
}
