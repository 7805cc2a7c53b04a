//! Keys by which tokens are verified, one table for each kind of token, and what was taken back.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use countersign_identity::{SpiffeId, TrustDomain, UnixTime};
use countersign_keys::PublicKey;
use countersign_token::{Revoked, RevokedError, TokenFacts, Unproven, WitIssuer};
use countersign_wire::snapshot::{self, Jwk, KeyPurpose, Snapshot, TokenAuthority};

use super::CompileError;

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
    /// What was taken back before it expired. Asked at every use of a token, known or not.
    pub revoked: Revoked,
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
            revoked: Revoked::default(),
        }
    }

    /// Keys of the trust domain of `subject`, the only ones that may speak of it.
    #[must_use]
    pub fn authority_of(&self, subject: &SpiffeId) -> Option<&AuthorityKeys> {
        self.authorities.get(subject.trust_domain())
    }

    /// Does a workload identity token still count: itself, the key that signed it, and the key that it names?
    ///
    /// # Errors
    /// One of them was taken back.
    pub fn judge_wit(&self, wit: &Unproven, now: UnixTime) -> Result<(), RevokedError> {
        wit.key_ids().into_iter().try_for_each(|kid| self.revoked.judge(&wit_facts(wit, kid, now)))
    }

    /// The key for workload identity tokens that a trust domain publishes under this name.
    #[must_use]
    pub fn wit_issuer(&self, kid: &str) -> Option<WitIssuer> {
        self.ours_first().find_map(|(trust_domain, authority)| {
            let (kid, key) = (kid.to_owned(), authority.wit.get(kid)?.clone());
            let issuer = Some(authority.issuer.clone());
            Some(WitIssuer { kid, key, trust_domain: trust_domain.clone(), issuer })
        })
    }

    /// The trust domain whose token service signs with the key of this name.
    #[must_use]
    pub fn exchange_authority(&self, kid: &str) -> Option<(&TrustDomain, &AuthorityKeys)> {
        self.ours_first().find(|(_, authority)| authority.exchange.contains_key(kid))
    }

    /// Other trust domains name their keys as they like, by the names of ours as well: that must hide none of ours.
    fn ours_first(&self) -> impl Iterator<Item = (&TrustDomain, &AuthorityKeys)> {
        self.authorities.get_key_value(&self.trust_domain).into_iter().chain(&self.authorities)
    }

    /// As `snapshot` has them; of the same `generation` as those before if only revocations came.
    pub(super) fn read(
        snapshot: &Snapshot,
        previous: Option<(&Snapshot, &Self)>,
    ) -> Result<Self, CompileError> {
        let same = previous.filter(|(previous, _)| are_the_same_keys(previous, snapshot));
        if let Some((_, keys)) = same {
            return Ok(Self { revoked: revoked(&snapshot.revoked), ..keys.clone() });
        }
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
            revoked: revoked(&snapshot.revoked),
        })
    }
}

fn are_the_same_keys(a: &Snapshot, b: &Snapshot) -> bool {
    a.trust_domain == b.trust_domain
        && a.access_token == b.access_token
        && a.internal_token_keys == b.internal_token_keys
        && a.token_authorities == b.token_authorities
        && a.workload_keys == b.workload_keys
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

/// By what a workload identity token can be taken back, one of its keys being `kid`.
pub(crate) fn wit_facts(wit: &Unproven, kid: String, now: UnixTime) -> TokenFacts {
    TokenFacts {
        ids: wit.token_id().map(str::to_owned).into_iter().collect(),
        subject: wit.claimed_subject().to_string(),
        kid,
        // What it says of that is for audit alone (WIT-SVID section 3.6).
        issued_at: now,
        expires: wit.expires(),
    }
}

fn revoked(revoked: &snapshot::Revoked) -> Revoked {
    let mut all = Revoked::default();
    revoked.tokens.iter().for_each(|token| all.token(&token.id));
    revoked.users.iter().for_each(|user| all.subject(&user.id, user.issued_before));
    revoked.keys.iter().for_each(|key| all.key(&key.id));
    all
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use countersign_keys::{KeyPair, SystemRandom};

    use super::*;

    #[test]
    fn no_other_trust_domain_hides_a_key_of_ours_by_publishing_one_of_the_same_name() {
        let td = |name: &str| TrustDomain::parse(name).unwrap();
        let key = || KeyPair::generate(&SystemRandom::new()).unwrap().public_key().clone();
        let (home, ours) = (td("home.test"), key());
        let mut keys = TokenKeys::for_access_tokens(home.clone(), "i".into(), "a".into(), []);
        let authority = |name: &TrustDomain, key: PublicKey| AuthorityKeys {
            issuer: format!("https://{name}"),
            jwt_svid: HashMap::new(),
            wit: [("one".to_owned(), key.clone())].into(),
            exchange: [("one".to_owned(), key)].into(),
        };
        keys.authorities.insert(home.clone(), authority(&home, ours.clone()));
        for number in 0..64 {
            let other = td(&format!("b{number}.test"));
            keys.authorities.insert(other.clone(), authority(&other, key()));
        }
        let found = keys.wit_issuer("one").unwrap();
        assert_eq!((found.trust_domain, found.key), (home.clone(), ours));
        assert_eq!(keys.exchange_authority("one").unwrap().0, &home);
    }
}
