//! Keys by which tokens are verified, one table for each kind of token, and what was taken back.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicU64, Ordering},
};

use countersign_identity::{SpiffeId, TrustDomain, UnixTime};
use countersign_keys::PublicKey;
use countersign_wire::snapshot::{Jwk, KeyPurpose, Revoked, Snapshot, TokenAuthority};

use super::CompileError;
use crate::authenticate::EvidenceError;

/// Keys for verifying tokens, found by `kid`. A key of one table verifies nothing of another.
#[derive(Clone, Debug)]
pub struct TokenKeys {
    /// Unlike that of any other table of this process: what was verified by another one is verified again.
    pub generation: u64,
    /// Audience of internal tokens.
    pub trust_domain: TrustDomain,
    /// Keys of internal tokens, each with the only workload that may use it.
    pub internal: HashMap<String, (PublicKey, SpiffeId)>,
    /// Exact `iss` of access tokens.
    pub access_issuer: String,
    /// Exact `aud` of access tokens.
    pub access_audience: String,
    /// Keys of access tokens.
    pub access: HashMap<String, PublicKey>,
    /// Keys of whole trust domains: our own, and those that we federate with.
    pub authorities: HashMap<TrustDomain, AuthorityKeys>,
    /// Keys that workloads registered for signing requests.
    pub registered: HashMap<String, RegisteredKey>,
    /// What counts no longer.
    pub revoked: Revocations,
}

/// Keys with which one trust domain signs tokens about its own subjects.
#[derive(Clone, Debug)]
pub struct AuthorityKeys {
    /// Exact `iss` of what its token service issues.
    pub issuer: String,
    /// Keys of JWT-SVIDs.
    pub jwt_svid: HashMap<String, PublicKey>,
    /// Keys of workload identity tokens.
    pub wit: HashMap<String, PublicKey>,
    /// Keys of what the token service issues.
    pub exchange: HashMap<String, PublicKey>,
}

/// A key that needs no certificate, and the only workload that may name it.
#[derive(Clone, Debug)]
pub struct RegisteredKey {
    /// Whose.
    pub owner: SpiffeId,
    /// The public key.
    pub key: PublicKey,
}

/// Tokens, users and keys that were taken back before they expired. Asked at every use of a token, known or not.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    tokens: HashSet<String>,
    users: HashMap<String, UnixTime>,
    keys: HashSet<String>,
}

impl TokenKeys {
    /// A table for access tokens alone: no internal token, and no token of a workload, is verified by it.
    #[must_use]
    pub fn for_access_tokens(
        trust_domain: TrustDomain,
        issuer: String,
        audience: String,
        keys: impl IntoIterator<Item = PublicKey>,
    ) -> Self {
        Self {
            generation: next_generation(),
            trust_domain,
            internal: HashMap::new(),
            access_issuer: issuer,
            access_audience: audience,
            access: keys.into_iter().map(|key| (key.thumbprint().to_string(), key)).collect(),
            authorities: HashMap::new(),
            registered: HashMap::new(),
            revoked: Revocations::default(),
        }
    }

    /// Keys of the trust domain of `subject`, the only ones that may speak of it.
    #[must_use]
    pub fn authority_of(&self, subject: &SpiffeId) -> Option<&AuthorityKeys> {
        self.authorities.get(subject.trust_domain())
    }

    pub(super) fn read(snapshot: &Snapshot) -> Result<Self, CompileError> {
        let mut internal = HashMap::new();
        for entry in &snapshot.internal_token_keys {
            let key = read(&entry.jwk)?;
            internal.insert(key.thumbprint().to_string(), (key, entry.owner.clone()));
        }
        let mut authorities = HashMap::new();
        for entry in &snapshot.token_authorities {
            authorities.insert(entry.trust_domain.clone(), AuthorityKeys::read(entry)?);
        }
        let mut registered = HashMap::new();
        for entry in snapshot.workload_keys.iter().filter(|entry| entry.purpose == KeyPurpose::Signing) {
            let (owner, key) = (entry.owner.clone(), read(&entry.jwk)?);
            registered.insert(key.thumbprint().to_string(), RegisteredKey { owner, key });
        }
        Ok(Self {
            generation: next_generation(),
            trust_domain: snapshot.trust_domain.clone(),
            internal,
            access_issuer: snapshot.access_token.issuer.clone(),
            access_audience: snapshot.access_token.audience.clone(),
            access: table(&snapshot.access_token.keys)?,
            authorities,
            registered,
            revoked: Revocations::read(&snapshot.revoked),
        })
    }

    /// Would [`TokenKeys::read`] give the same for both?
    pub(super) fn are_the_same(a: &Snapshot, b: &Snapshot) -> bool {
        a.trust_domain == b.trust_domain
            && a.access_token == b.access_token
            && a.internal_token_keys == b.internal_token_keys
            && a.token_authorities == b.token_authorities
            && a.workload_keys == b.workload_keys
            && a.revoked == b.revoked
    }
}

impl AuthorityKeys {
    fn read(entry: &TokenAuthority) -> Result<Self, CompileError> {
        Ok(Self {
            issuer: entry.issuer.clone(),
            jwt_svid: named(&entry.jwt_svid)?,
            wit: named(&entry.wit)?,
            exchange: table(&entry.exchange)?,
        })
    }
}

impl Revocations {
    fn read(revoked: &Revoked) -> Self {
        let mut users: HashMap<String, UnixTime> = HashMap::new();
        for user in &revoked.users {
            let before = users.entry(user.id.clone()).or_insert(user.issued_before);
            *before = (*before).max(user.issued_before);
        }
        Self {
            tokens: revoked.tokens.iter().map(|token| token.id.clone()).collect(),
            users,
            keys: revoked.keys.iter().map(|key| key.id.clone()).collect(),
        }
    }

    /// Was this token taken back, by its `jti` or the id of a bearer token or macaroon?
    ///
    /// # Errors
    /// It was.
    pub fn judge_token(&self, id: &str) -> Result<(), EvidenceError> {
        judge(self.tokens.contains(id), "token", id)
    }

    /// Was everything taken back that was signed with this key?
    ///
    /// # Errors
    /// It was.
    pub fn judge_key(&self, kid: &str) -> Result<(), EvidenceError> {
        judge(self.keys.contains(kid), "key", kid)
    }

    /// Were the tokens of this user that were issued at this moment taken back?
    ///
    /// # Errors
    /// They were.
    pub fn judge_user(&self, id: &str, issued_at: UnixTime) -> Result<(), EvidenceError> {
        judge(self.users.get(id).is_some_and(|before| issued_at < *before), "user", id)
    }
}

fn judge(revoked: bool, what: &'static str, id: &str) -> Result<(), EvidenceError> {
    if revoked { Err(EvidenceError::Revoked { what, id: id.to_owned() }) } else { Ok(()) }
}

fn table(jwks: &[Jwk]) -> Result<HashMap<String, PublicKey>, CompileError> {
    jwks.iter().map(|jwk| read(jwk).map(|key| (key.thumbprint().to_string(), key))).collect()
}

/// By the names that the trust domain gives them, which with us are their thumbprints and elsewhere anything.
fn named(jwks: &[Jwk]) -> Result<HashMap<String, PublicKey>, CompileError> {
    let one = |jwk: &Jwk| {
        let mut members: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(jwk.as_str()).map_err(|_| CompileError::Key)?;
        let name = members.remove("kid");
        let key = serde_json::to_string(&members).map_err(|_| CompileError::Key)?;
        let key = PublicKey::from_jwk(&key).map_err(|_| CompileError::Key)?;
        let name = match name {
            Some(serde_json::Value::String(name)) => name,
            Some(_) => return Err(CompileError::Key),
            None => key.thumbprint(),
        };
        Ok((name, key))
    };
    jwks.iter().map(one).collect()
}

fn read(jwk: &Jwk) -> Result<PublicKey, CompileError> {
    PublicKey::from_jwk(jwk.as_str()).map_err(|_| CompileError::Key)
}

fn next_generation() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
