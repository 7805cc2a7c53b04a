//! What this callee alone holds in order to verify tokens that are addressed to it: root keys of macaroons, and
//! keyed hashes of bearer tokens.

use std::{collections::HashMap, fmt, sync::Arc};

use arc_swap::ArcSwap;
use countersign_identity::UnixTime;
use countersign_keys::Secret;
use countersign_token::{BearerEntry, BearerError, BearerHash, BearerId, BearerKey, macaroon::RootKey};
use countersign_wire::agent::SecretsResponse;
use thiserror::Error;

/// The newest secrets of a process. Reading is one atomic load.
#[derive(Debug)]
pub struct SecretsCell(ArcSwap<Secrets>);

/// One generation of them; immutable.
#[derive(Default)]
pub struct Secrets {
    generation: u64,
    macaroon_keys: HashMap<String, RootKey>,
    bearer_key: Option<BearerKey>,
    bearer: HashMap<BearerId, BearerEntry>,
}

/// Why secrets cannot be used. The old ones stay.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SecretsError {
    /// A key is not 32 bytes, or a hash is not.
    #[error("a key or a hash among the secrets has {bytes} bytes, not {KEY_BYTES}")]
    Length {
        /// How many it has.
        bytes: usize,
    },
    /// The owner of a bearer token is no SPIFFE ID.
    #[error("owner {owner:?} of a bearer token is not a spiffe id")]
    Owner {
        /// As it came.
        owner: String,
    },
    /// The id of a bearer token is none.
    #[error(transparent)]
    BearerId(#[from] BearerError),
    /// They are older than those at hand.
    #[error("secrets of generation {got} are older than those of generation {held}")]
    Backwards {
        /// What we hold.
        held: u64,
        /// What came.
        got: u64,
    },
}

impl SecretsCell {
    /// Holds nothing yet: no macaroon and no bearer token counts.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(Secrets::default())))
    }

    /// The newest ones.
    #[must_use]
    pub fn load(&self) -> Arc<Secrets> {
        self.0.load_full()
    }

    /// Takes all secrets of a newer generation in place of the old ones; the same generation is taken again.
    ///
    /// # Errors
    /// See [`SecretsError`].
    pub fn take(&self, response: SecretsResponse) -> Result<(), SecretsError> {
        let held = self.0.load().generation;
        if response.generation < held {
            return Err(SecretsError::Backwards { held, got: response.generation });
        }
        self.0.store(Arc::new(Secrets::read(response)?));
        Ok(())
    }
}

impl Secrets {
    fn read(response: SecretsResponse) -> Result<Self, SecretsError> {
        let mut macaroon_keys = HashMap::new();
        for entry in response.macaroon_keys {
            let key = Secret::new(exactly(&entry.key)?);
            macaroon_keys.insert(entry.id, RootKey::derive(key.expose()));
        }
        let mut bearer = HashMap::new();
        for entry in response.bearer {
            let owner = entry.owner.parse().map_err(|_| SecretsError::Owner { owner: entry.owner })?;
            let (hash, expires) =
                (BearerHash(exactly(&entry.hash)?), UnixTime::from_millis(entry.expires_at_ms));
            bearer.insert(BearerId::parse(&entry.id)?, BearerEntry { owner, hash, expires });
        }
        let bearer_key = match response.bearer_key.as_slice() {
            [] => None,
            key => Some(BearerKey::new(exactly(key)?)),
        };
        Ok(Self { generation: response.generation, macaroon_keys, bearer_key, bearer })
    }

    /// Which generation this is; zero while none arrived.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The root key of macaroons that name it.
    #[must_use]
    pub fn macaroon_key(&self, id: &str) -> Option<&RootKey> {
        self.macaroon_keys.get(id)
    }

    /// The key under which bearer tokens are hashed for us.
    #[must_use]
    pub const fn bearer_key(&self) -> Option<&BearerKey> {
        self.bearer_key.as_ref()
    }

    /// The bearer token of this id, if its scope names us.
    #[must_use]
    pub fn bearer(&self, id: BearerId) -> Option<&BearerEntry> {
        self.bearer.get(&id)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (macaroon_keys, bearer) = (self.macaroon_keys.len(), self.bearer.len());
        write!(f, "Secrets(generation {}, {macaroon_keys} keys, {bearer} tokens)", self.generation)
    }
}

fn exactly(bytes: &[u8]) -> Result<[u8; KEY_BYTES], SecretsError> {
    bytes.try_into().map_err(|_| SecretsError::Length { bytes: bytes.len() })
}

/// Of every key and hash here.
pub const KEY_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use countersign_wire::agent::{BearerEntry, MacaroonKey};

    const ID: &str = "0123456789abcdef";

    fn response(generation: u64) -> SecretsResponse {
        let owner = "spiffe://td/svc/ads".to_owned();
        SecretsResponse {
            generation,
            macaroon_keys: vec![MacaroonKey { id: "k1".into(), key: vec![1; 32] }],
            bearer_key: vec![2; 32],
            bearer: vec![BearerEntry { id: ID.into(), hash: vec![3; 32], owner, expires_at_ms: 9 }],
        }
    }

    #[test]
    fn newer_secrets_replace_all_older_ones() {
        let cell = SecretsCell::new();
        assert!(cell.load().macaroon_key("k1").is_none() && cell.load().bearer_key().is_none());
        cell.take(response(3)).unwrap();
        let held = cell.load();
        assert!(held.macaroon_key("k1").is_some() && held.bearer_key().is_some());
        let id = BearerId::parse(ID).unwrap();
        assert_eq!(held.bearer(id).unwrap().hash, BearerHash([3; 32]));
        assert_eq!(format!("{held:?}"), "Secrets(generation 3, 1 keys, 1 tokens)");
        cell.take(SecretsResponse { generation: 4, ..SecretsResponse::default() }).unwrap();
        assert!(cell.load().macaroon_key("k1").is_none() && cell.load().bearer(id).is_none());
        assert_eq!(cell.take(response(3)), Err(SecretsError::Backwards { held: 4, got: 3 }));
    }

    #[test]
    fn rejects_secrets_of_another_form_and_keeps_the_old_ones() {
        let cell = SecretsCell::new();
        cell.take(response(1)).unwrap();
        let mut short = response(2);
        short.bearer_key = vec![2; 31];
        assert_eq!(cell.take(short), Err(SecretsError::Length { bytes: 31 }));
        let mut nobody = response(2);
        nobody.bearer.iter_mut().for_each(|entry| entry.owner = "ads".into());
        assert_eq!(cell.take(nobody), Err(SecretsError::Owner { owner: "ads".into() }));
        let mut nameless = response(2);
        nameless.bearer.iter_mut().for_each(|entry| entry.id = "b1".into());
        assert_eq!(cell.take(nameless), Err(SecretsError::BearerId(BearerError::BadId)));
        assert_eq!(cell.load().generation(), 1);
    }
}
