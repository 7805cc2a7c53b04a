//! `/api/v1/federation`: bundles of other trust domains, and our own for them.

use countersign_identity::{TrustDomain, UnixTime};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::Base64;

/// Keys of one bundle at most.
pub const BUNDLE_KEYS_MAX: usize = 64;

/// `use` of a root of X.509-SVIDs.
pub const USE_X509_SVID: &str = "x509-svid";
/// `use` of a key of JWT-SVIDs.
pub const USE_JWT_SVID: &str = "jwt-svid";
/// `use` of a key of WIT-SVIDs.
pub const USE_WIT_SVID: &str = "wit-svid";
/// `use` of a key of the token service; of our own making, so that others pass over it.
pub const USE_EXCHANGE: &str = "countersign-exchange";

/// What a trust domain's members are recognised by: a SPIFFE bundle (Trust Domain and Bundle, section 4). Members
/// that are not named here are passed over, as the standard wants; those of ours begin with `countersign_`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundleDocument {
    /// Grows with every change of the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spiffe_sequence: Option<u64>,
    /// How often to look again, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spiffe_refresh_hint: Option<u64>,
    /// None at all: whatever was published before counts no longer.
    pub keys: Vec<BundleKey>,
    /// Exact `iss` of what the trust domain's token service issues.
    #[serde(default, rename = "countersign_issuer", skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Certificate revocation lists, DER. Where there is none, certificates of the trust domain are refused.
    #[serde(default, rename = "countersign_crls", skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub crls: Vec<Base64>,
}

/// One key of a bundle: a JWK (RFC 7517) of which only what a public key needs is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundleKey {
    /// `EC`, `OKP`, `RSA`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kty: Option<String>,
    /// Which kind of document it is authoritative for; see [`USE_X509_SVID`] and its neighbours.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub usage: Option<String>,
    /// How documents name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// The one algorithm that it is used with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    /// Curve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crv: Option<String>,
    /// Coordinate, or the whole point of an Edwards curve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    /// Coordinate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    /// Modulus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<String>,
    /// Exponent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e: Option<String>,
    /// The root certificate, DER: exactly one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub x5c: Vec<Base64>,
}

impl BundleKey {
    /// The bare public key: a JWK without `kid`, `use` and `x5c`.
    #[must_use]
    pub fn to_jwk(&self) -> String {
        self.members(None).to_string()
    }

    /// The public key with the name that its trust domain gives it.
    #[must_use]
    pub fn to_named_jwk(&self, kid: &str) -> String {
        self.members(Some(kid)).to_string()
    }

    fn members(&self, kid: Option<&str>) -> Value {
        let members = [
            ("kty", self.kty.as_deref()),
            ("crv", self.crv.as_deref()),
            ("x", self.x.as_deref()),
            ("y", self.y.as_deref()),
            ("n", self.n.as_deref()),
            ("e", self.e.as_deref()),
            ("kid", kid),
        ];
        let there = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
        Value::Object(there.collect())
    }
}

/// `POST /api/v1/federation`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Federate {
    /// Whose bundle it is. The document does not say it, so whoever hands it in does.
    #[schema(value_type = String)]
    pub trust_domain: TrustDomain,
    /// As the other trust domain serves it.
    pub bundle: BundleDocument,
}

/// Another trust domain that we recognise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Federated {
    /// Its name.
    #[schema(value_type = String)]
    pub trust_domain: TrustDomain,
    /// Of the bundle at hand; 0 where the document has none.
    pub sequence: u64,
    /// Exact `iss` of its token service; empty where it has none.
    pub issuer: String,
    /// SHA-256 of each root, hex.
    pub roots: Vec<String>,
    /// Thumbprints of the keys that sign its tokens, of all kinds.
    pub keys: Vec<String>,
    /// When the first of its revocation lists ends, milliseconds since 1970: a newer bundle is needed by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>)]
    pub crls_until: Option<UnixTime>,
    /// When the bundle was handed in, milliseconds since 1970.
    #[schema(value_type = i64)]
    pub stored_at: UnixTime,
    /// Who handed it in.
    pub stored_by: String,
}
