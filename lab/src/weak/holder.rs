//! The third port: whoever holds a bearer token, a macaroon or a workload identity token with its proof may come in.

use std::sync::{Mutex, PoisonError};

use countersign_identity::SpiffeId;
use countersign_keys::{KeyPair, SystemRandom, random_bytes};
use countersign_request::WORKLOAD_IDENTITY_TOKEN;
use countersign_sdk::{authenticate::EvidenceError, clock, inbound::Denial};
use countersign_token::{
    BearerEntry, BearerId, BearerKey, BearerToken, bearer,
    macaroon::{HeldMacaroon, MacaroonError, Predicate, RequestFacts, RootKey, service},
};
use countersign_wire::codes::Code;

use super::{NoListener, Weak, Weakness, door::Asked};
use crate::attack::AttackError;

/// What the listener knows of tokens that can be handed on.
pub(super) struct Holders {
    key: BearerKey,
    /// Under which macaroons for this callee are minted.
    own: RootKey,
    /// And for all others.
    others: RootKey,
    bearers: Mutex<Vec<Issued>>,
    /// Signs workload identity tokens.
    pub(super) wits: KeyPair,
}

struct Issued {
    id: BearerId,
    scope: String,
    revoked: bool,
    entry: BearerEntry,
}

impl Holders {
    pub(super) fn new() -> Result<Self, NoListener> {
        let random =
            || random_bytes::<32>(&SystemRandom::new()).map_err(|error| NoListener::new("a secret", error));
        let (own, others) = (RootKey::derive(&random()?), RootKey::derive(&random()?));
        let wits =
            KeyPair::generate(&SystemRandom::new()).map_err(|error| NoListener::new("a key", error))?;
        Ok(Self { key: BearerKey::new(random()?), own, others, bearers: Mutex::default(), wits })
    }
}

impl Weak {
    /// A bearer token of `owner` for the callee `scope`: its id, and itself.
    ///
    /// # Errors
    /// It could not be made.
    pub fn bearer(&self, owner: &str, scope: &str) -> Result<(String, String), AttackError> {
        let failed = |error| AttackError::equipment("a bearer token", error);
        let token = BearerToken::mint(&SystemRandom::new()).map_err(failed)?;
        let entry = BearerEntry {
            owner: self.name(owner)?,
            hash: self.holders.key.hash(&token),
            expires: clock::now().saturating_add(LIFE),
        };
        let issued = Issued { id: token.id(), scope: scope.to_owned(), revoked: false, entry };
        self.holders.bearers.lock().unwrap_or_else(PoisonError::into_inner).push(issued);
        Ok((token.id().to_string(), token.expose().to_owned()))
    }

    /// Takes one back.
    pub fn revoke_bearer(&self, id: &str) {
        let mut bearers = self.holders.bearers.lock().unwrap_or_else(PoisonError::into_inner);
        bearers
            .iter_mut()
            .filter(|issued| issued.id.to_string() == id)
            .for_each(|issued| issued.revoked = true);
    }

    /// A macaroon by which `owner` may call `callee`, so far as these caveats allow.
    ///
    /// # Errors
    /// It could not be made.
    pub fn macaroon(&self, owner: &str, callee: &str, caveats: &[&str]) -> Result<String, AttackError> {
        let failed = |error: &dyn std::fmt::Display| AttackError::equipment("a macaroon", error);
        let random = random_bytes(&SystemRandom::new()).map_err(|error| failed(&error))?;
        let own = callee == ME;
        let (key, key_id) =
            if own { (&self.holders.own, OWN_KEY) } else { (&self.holders.others, OTHER_KEY) };
        let name = service::MacaroonName::new(key_id, self.name(owner)?, random);
        let name = name.map_err(|error| failed(&error))?;
        let expires = clock::now().saturating_add(LIFE);
        let minted = service::mint(key, &name, &self.name(callee)?, expires);
        let mut macaroon = minted.map_err(|error| failed(&error))?;
        for caveat in caveats {
            macaroon = macaroon.attenuate(caveat).map_err(|error| failed(&error))?;
        }
        Ok(HeldMacaroon::new(macaroon).to_text())
    }

    /// The owner of what came.
    pub(super) fn holder(&self, asked: &Asked<'_>) -> Result<String, Denial> {
        if let Some(wit) = asked.headers.get(WORKLOAD_IDENTITY_TOKEN).and_then(|value| value.to_str().ok()) {
            return self.proven(wit, asked);
        }
        let value = asked.headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match value.and_then(|value| value.split_once(' ')) {
            Some(("Bearer", token)) => self.bearer_owner(token),
            Some(("Macaroon", credential)) => self.macaroon_owner(credential, asked),
            _ => Err(Denial::new(Code::ProofTooWeak, "no token came that counts here")),
        }
    }

    fn bearer_owner(&self, token: &str) -> Result<String, Denial> {
        let bearers = self.holders.bearers.lock().unwrap_or_else(PoisonError::into_inner);
        let entry_of = |id: BearerId| {
            let counts = |issued: &&Issued| {
                let scope = issued.scope == ME || self.makes(Weakness::BearerAnywhere);
                let live = !issued.revoked || self.makes(Weakness::BearerForEver);
                issued.id == id && scope && live
            };
            bearers.iter().find(counts).map(|issued| issued.entry.clone())
        };
        if self.makes(Weakness::BearerByItsId) {
            let entry = BearerToken::parse(token).ok().and_then(|token| entry_of(token.id()));
            return entry.map(|entry| entry.owner.to_string()).ok_or_else(unknown);
        }
        let holder = bearer::verify(token, &self.holders.key, clock::now(), entry_of);
        holder.map(|holder| holder.owner.to_string()).map_err(|error| EvidenceError::Bearer(error).into())
    }

    fn macaroon_owner(&self, credential: &str, asked: &Asked<'_>) -> Result<String, Denial> {
        let me = self.name(ME).map_err(|error| Denial::new(Code::Internal, error.to_string()))?;
        let owner = self.judged(credential, &me, asked);
        owner.map(|owner| owner.to_string()).map_err(|error| EvidenceError::Macaroon(error).into())
    }

    fn judged(&self, credential: &str, me: &SpiffeId, asked: &Asked<'_>) -> Result<SpiffeId, MacaroonError> {
        let (path, query) = asked.target.split_once('?').unzip();
        let facts = RequestFacts {
            callee: me,
            method: asked.method,
            path: path.unwrap_or(asked.target),
            query,
            body: None,
            caller: None,
            user: None,
            now: clock::now(),
        };
        let key_of = |id: &str| match id {
            OWN_KEY => Some(&self.holders.own),
            OTHER_KEY if self.makes(Weakness::MacaroonAnywhere) => Some(&self.holders.others),
            _ => None,
        };
        if self.makes(Weakness::CaveatsSkipped) {
            // The MACs fit, so whoever made it meant it.
            return service::examine(credential, me, key_of, |_| {}).map(|holder| holder.owner);
        }
        let held = HeldMacaroon::parse(credential)?;
        let name = service::MacaroonName::parse(held.root().identifier())?;
        if self.makes(Weakness::MacUnchecked) {
            // The caveats are all met, so nothing speaks against it.
            for caveat in held.root().caveats() {
                Predicate::parse(caveat.id())?.judge(&facts)?;
            }
            return Ok(name.owner);
        }
        if self.makes(Weakness::MacaroonAnywhere) {
            let named = SpiffeId::parse(held.root().location())?;
            return service::examine(credential, &named, key_of, |_| {}).map(|holder| holder.owner);
        }
        service::verify(credential, &facts, key_of).map(|holder| holder.owner.clone())
    }
}

fn unknown() -> Denial {
    Denial::new(Code::TokenKeyUnknown, "there is no such token")
}

/// Whose port it is.
pub(super) const ME: &str = crate::attack::CALLEE;
const OWN_KEY: &str = "own";
const OTHER_KEY: &str = "others";
pub(super) const LIFE: std::time::Duration = std::time::Duration::from_secs(600);
