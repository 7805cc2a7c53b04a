//! The signed, numbered snapshot: everything that a data plane needs in order to decide without asking anybody.
//!
//! It travels as [`crate::agent::SignedSnapshot`]: the exact bytes of this JSON, a `kid`, and a signature over
//! `countersign/v1/snapshot`. Rules of acceptance (DESIGN section 5 point 11): never back within an epoch; an
//! unknown critical member or another format keeps the old snapshot and turns readiness off.

use countersign_identity::{Mode, ServiceName, SpiffeId, TrustDomain, UnixTime, UserContext, WimseProof};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::json::{self, JsonError};
use crate::{Base64, SecretText};

/// The format that this version writes and reads.
pub const FORMAT: u32 = 1;
/// The largest snapshot that is read, in bytes.
pub const SNAPSHOT_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Members of a snapshot that this version understands; a writer may declare any of them critical.
const KNOWN_MEMBERS: [&str; 18] = [
    "format",
    "trust_domain",
    "epoch",
    "sequence",
    "issued_at",
    "valid_until",
    "critical",
    "bundles",
    "access_token",
    "internal_token_keys",
    "services",
    "policies",
    "ledger_head",
    "pseudonym_key",
    "token_authorities",
    "workload_keys",
    "revoked",
    "sts",
];

/// One generation of what the authority tells its data planes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`FORMAT`].
    pub format: u32,
    /// Whose snapshot this is.
    pub trust_domain: TrustDomain,
    /// Random, new whenever the authority's state is restored or promoted.
    pub epoch: String,
    /// Grows by at least one with every change within an epoch.
    pub sequence: u64,
    /// When it was signed.
    pub issued_at: UnixTime,
    /// Until when it is fresh; afterwards a grace period runs.
    pub valid_until: UnixTime,
    /// Members without which the rest must not be used.
    #[serde(default)]
    pub critical: Vec<String>,
    /// One per trust domain that we know.
    pub bundles: Vec<TrustBundle>,
    /// Who mints the users' access tokens.
    pub access_token: AccessTokenKeys,
    /// Who may mint internal user tokens, and with which key.
    pub internal_token_keys: Vec<InternalTokenKey>,
    /// Where services are and how they are called.
    pub services: Vec<ServiceAddress>,
    /// All policy files of one generation.
    pub policies: Policies,
    /// The newest signed head of the ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger_head: Option<LedgerHead>,
    /// Key for the pseudonyms of users in ledger records (`countersign_ledger::PseudonymKey`): 32 bytes, base64url
    /// without padding. Without it, records name no user. Known to every workload, unknown to readers of the ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pseudonym_key: Option<SecretText>,
    /// Keys with which trust domains sign tokens: our own, and those that we federate with.
    #[serde(default)]
    pub token_authorities: Vec<TokenAuthority>,
    /// Keys that workloads registered, so that proofs of theirs need no certificate.
    #[serde(default)]
    pub workload_keys: Vec<WorkloadKey>,
    /// What was taken back before it expired.
    #[serde(default)]
    pub revoked: Revoked,
    /// The token service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sts: Option<Sts>,
}

/// Keys with which one trust domain signs tokens, one list for each kind: a key of one kind verifies no other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenAuthority {
    /// Whose subjects these keys may name, and no others.
    #[schema(value_type = String)]
    pub trust_domain: TrustDomain,
    /// Exact `iss` of what its token service issues.
    pub issuer: String,
    /// Keys of JWT-SVIDs.
    #[schema(value_type = Vec<Object>)]
    pub jwt_svid: Vec<Jwk>,
    /// Keys of workload identity tokens (WIT-SVIDs).
    #[schema(value_type = Vec<Object>)]
    pub wit: Vec<Jwk>,
    /// Keys of what the token service issues by exchange.
    #[schema(value_type = Vec<Object>)]
    pub exchange: Vec<Jwk>,
}

/// A key that a workload registered: proofs signed with it count as those of its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadKey {
    /// The only workload that may name it.
    pub owner: SpiffeId,
    /// What for.
    pub purpose: KeyPurpose,
    /// The public key.
    pub jwk: Jwk,
}

/// What a registered key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyPurpose {
    /// Signs requests (RFC 7517 section 4.2, `sig`).
    Signing,
    /// Others encrypt payloads to it (`enc`).
    Encryption,
}

/// What was taken back before it expired. Each entry goes when nothing that it speaks of can be alive any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Single tokens, by `jti` (or the id of a bearer token or macaroon).
    #[serde(default)]
    pub tokens: Vec<RevokedToken>,
    /// All tokens of a user that were issued before a moment.
    #[serde(default)]
    pub users: Vec<RevokedUser>,
    /// All tokens signed with a key, by `kid`.
    #[serde(default)]
    pub keys: Vec<RevokedToken>,
}

/// A token or a key that counts no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedToken {
    /// `jti` or `kid`.
    pub id: String,
    /// When the entry may be forgotten.
    pub until: UnixTime,
}

/// A user whose tokens count no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedUser {
    /// Opaque id, `u_…`.
    pub id: String,
    /// Tokens issued before this moment are refused.
    pub issued_before: UnixTime,
    /// When the entry may be forgotten.
    pub until: UnixTime,
}

/// Where tokens are exchanged (RFC 8693).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sts {
    /// Its issuer identifier (RFC 8414).
    pub issuer: String,
    /// `https://…/oauth2/token`.
    pub token_endpoint: String,
    /// Roots of its server certificate, DER.
    pub roots: Vec<Base64>,
}

/// Roots and revocations of one trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustBundle {
    /// The trust domain whose peers are judged by this bundle, and no others.
    pub trust_domain: TrustDomain,
    /// Certificates, DER.
    pub roots: Vec<Base64>,
    /// Certificate revocation lists, DER.
    #[serde(default)]
    pub crls: Vec<Base64>,
}

/// What a gateway needs to verify the users' access tokens (RFC 9068).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessTokenKeys {
    /// Exact `iss`.
    pub issuer: String,
    /// Exact `aud`.
    pub audience: String,
    /// Public keys, found by `kid`.
    pub keys: Vec<Jwk>,
}

/// A key that signs internal user tokens (`Txn-Token`), and the gateway that owns it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InternalTokenKey {
    /// The only workload that may be named as requester by tokens of this key.
    pub owner: SpiffeId,
    /// The public key.
    pub jwk: Jwk,
}

/// A registered service as its callers see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAddress {
    /// Short name.
    pub name: ServiceName,
    /// The identity that its callers expect.
    pub spiffe_id: SpiffeId,
    /// `host:port`.
    pub address: String,
    /// Modes that it accepts: its floor.
    pub accepts: Vec<Mode>,
    /// The mode in which it calls others.
    pub sends: Mode,
    /// How it carries its user along when it calls others.
    #[serde(default)]
    pub user_context: UserContext,
    /// Which WIMSE proof it sends in mode `wimse`.
    #[serde(default)]
    pub wimse: WimseProof,
}

/// The policies of all targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// Grows with every change of any file.
    pub generation: u64,
    /// One file per target.
    pub files: Vec<PolicyFile>,
}

/// The Cedar text of one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFile {
    /// The target service, or `gateway`.
    pub name: String,
    /// Cedar.
    pub text: String,
}

/// A signed head of the ledger, as `countersign_ledger::SignedHead` makes and verifies it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LedgerHead {
    /// The exact text that was signed: JSON with trust domain, epoch, size, hash and time.
    pub payload: String,
    /// Thumbprint of the ledger's key.
    pub kid: String,
    /// base64url.
    pub signature: String,
}

/// A public JSON Web Key, kept as the text that came: whoever uses it parses it strictly
/// (`countersign_keys::PublicKey::from_jwk`).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Jwk(Box<RawValue>);

/// Why a document is not a snapshot that we may use. In every case the old snapshot stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Not JSON of the right shape and size.
    #[error("the snapshot cannot be read: {0}")]
    Json(#[from] JsonError),
    /// Written by a version with another format.
    #[error("the snapshot has format {got}, this version reads {FORMAT}: update this binary")]
    Format {
        /// What it says.
        got: u32,
    },
    /// Declares a member critical that we do not understand.
    #[error("the snapshot needs {member:?} to be understood and this version does not: update this binary")]
    Critical {
        /// The first such member.
        member: String,
    },
}

impl Snapshot {
    /// Reads the payload of a [`crate::agent::SignedSnapshot`] whose signature was verified.
    ///
    /// # Errors
    /// See [`SnapshotError`]; format and critical members are judged before anything else.
    pub fn parse(payload: &[u8]) -> Result<Snapshot, SnapshotError> {
        let preamble: Preamble = json::from_slice(payload, SNAPSHOT_BYTES_MAX)?;
        if preamble.format != FORMAT {
            return Err(SnapshotError::Format { got: preamble.format });
        }
        if let Some(member) =
            preamble.critical.into_iter().find(|member| !KNOWN_MEMBERS.contains(&member.as_str()))
        {
            return Err(SnapshotError::Critical { member });
        }
        Ok(json::from_slice(payload, SNAPSHOT_BYTES_MAX)?)
    }

    /// The bytes to be signed.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        // Strings, numbers and lists of them: nothing here can fail to serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The text of a target's policies.
    #[must_use]
    pub fn policy(&self, target: &str) -> Option<&str> {
        self.policies.files.iter().find(|file| file.name == target).map(|file| file.text.as_str())
    }

    /// A service by its short name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&ServiceAddress> {
        self.services.iter().find(|service| service.name.as_str() == name)
    }
}

/// What must be understood before the rest may even be parsed.
#[derive(Deserialize)]
struct Preamble {
    format: u32,
    #[serde(default)]
    critical: Vec<String>,
}

impl Jwk {
    /// Takes JSON text over as it is.
    ///
    /// # Errors
    /// Anything that is not JSON.
    pub fn from_text(text: &str) -> Result<Jwk, JsonError> {
        json::from_slice::<Box<RawValue>>(text.as_bytes(), json::BODY_BYTES_MAX).map(Jwk)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Jwk {
    fn eq(&self, other: &Jwk) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Jwk {}
