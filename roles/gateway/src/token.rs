//! From the user's access token to the internal token: verified once, minted once, checked again at every use.
//!
//! The access token ends here. What goes on is a transaction token (draft-ietf-oauth-transaction-tokens) that lives at
//! most five minutes, never longer than the access token, and is signed with a key that this process made for itself and
//! published through its agent. Both live in one bounded cache that holds successes only; its key holds every input, and
//! a hit counts only under the same snapshot generation and before expiry.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use countersign_identity::{Caller, SpiffeId, UnixTime, User};
use countersign_keys::hash::hex;
use countersign_keys::{KeyPair, PublicKey, RandomError, Secret, SecureRandom, random_bytes, sha256};
use countersign_ledger::{Pseudonym, PseudonymKey};
use countersign_sdk::authenticate::{Evidence, EvidenceError, UserTerm, authenticate, authenticate_guest};
use countersign_sdk::live::{LiveCell, TokenKeys};
use countersign_token::txn_token::{self, TxnToken, TxnTokenError};
use countersign_token::{AccessTokenError, DpopProof, TokenFacts};

use crate::issuer::{GuestMark, Issuers};

/// By what an access token is judged: one snapshot, and the keys of other issuers.
pub(crate) struct AccessRules<'a> {
    /// Issuer, audience and keys.
    pub(crate) keys: &'a TokenKeys,
    /// Epoch and sequence of the snapshot: under another one everything is judged anew.
    pub(crate) epoch: &'a str,
    pub(crate) sequence: u64,
    /// Issuers beside our own.
    pub(crate) issuers: &'a Issuers,
}

/// Verifies access tokens and mints internal ones.
pub(crate) struct Tokens {
    key: KeyPair,
    owner: SpiffeId,
    shards: Vec<Mutex<HashMap<Digest, Arc<Session>>>>,
    shard_entries_max: usize,
    /// Verdicts that were remembered, and those that had to be found.
    lookups: OnceLock<[metrics::Counter; 2]>,
}

/// A verified access token, with the internal token that was made of it.
#[derive(Debug)]
pub(crate) struct Session {
    /// The user, at the edge: no workload.
    pub(crate) caller: Caller,
    user: User,
    /// What can end the access token.
    facts: Arc<TokenFacts>,
    sequence: u64,
    /// By which keys, if they are not of the snapshot.
    guest: Option<GuestMark>,
    internal: Mutex<Option<InternalToken>>,
    pseudonym: OnceLock<Option<Pseudonym>>,
}

impl Session {
    /// Has the access token not ended?
    pub(crate) fn still_lives(&self, now: UnixTime) -> Result<(), AccessTokenError> {
        let over = now.secs().saturating_sub(self.user.not_after.secs());
        u64::try_from(over).map_or(Ok(()), |by_seconds| Err(AccessTokenError::Expired { by_seconds }))
    }

    /// When the access token ends, and with it whatever streams in its name.
    pub(crate) const fn user_until(&self) -> UnixTime {
        self.user.not_after
    }

    /// For how long what streams in its name may go on, by the newest word of `live`.
    pub(crate) fn term(&self, live: &Arc<LiveCell>) -> UserTerm {
        UserTerm::of(Arc::clone(&self.facts), Arc::clone(live))
    }

    /// The user as the ledger knows users, by the key of the snapshot that the session counts under.
    pub(crate) fn pseudonym(&self, key: Option<&PseudonymKey>) -> Option<Pseudonym> {
        *self.pseudonym.get_or_init(|| key.map(|key| Pseudonym::of(key, &self.user.id)))
    }
}

/// An internal token, ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct InternalToken {
    pub(crate) token: Secret<String>,
    /// Id of the transaction.
    pub(crate) txn: String,
    pub(crate) expires: UnixTime,
}

/// What [`Tokens::internal`] did.
#[derive(Debug, Clone)]
pub(crate) enum Internal {
    /// The token was there already.
    Known(InternalToken),
    /// It was minted now: the ledger wants to know.
    Minted(InternalToken),
}

/// Why no internal token could be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MintError {
    #[error(transparent)]
    Token(#[from] TxnTokenError),
    #[error(transparent)]
    Random(#[from] RandomError),
}

impl Tokens {
    /// `owner` is the gateway's own SPIFFE ID, in whose name tokens are minted.
    pub(crate) fn new(key: KeyPair, owner: SpiffeId, entries_max: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let shard_entries_max = (entries_max / SHARDS).max(1);
        Tokens { key, owner, shards, shard_entries_max, lookups: OnceLock::new() }
    }

    /// The key that the other services must know before any request can pass.
    pub(crate) fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    /// The user of an access token, beside the proof of its key that was judged for this request.
    pub(crate) fn verify(
        &self,
        token: &str,
        proof: Option<&DpopProof>,
        rules: &AccessRules<'_>,
        now: UnixTime,
    ) -> Result<Arc<Session>, EvidenceError> {
        let digest = cache_key(token, proof, rules);
        let known = self.known(&digest);
        if let Some(session) = &known
            && session.sequence == rules.sequence
            && session.user.not_after > now
            && session.guest.is_none_or(|mark| rules.issuers.stand_by(mark, now))
        {
            self.looked_up(true);
            return Ok(Arc::clone(session));
        }
        self.looked_up(false);
        let evidence = Evidence { access_token: Some(token), proof, ..Evidence::default() };
        let guesthouse = rules.issuers.of_token(token, &rules.keys.access_issuer, now);
        let judged = match &guesthouse {
            Some(house) => {
                let judged = authenticate_guest(&evidence, house.trust(), &rules.keys.revoked, now);
                judged.map(|(caller, facts)| (caller, Some(facts)))
            }
            None => {
                let judged = authenticate(&evidence, rules.keys, now);
                judged.caller.map(|caller| (caller, judged.token))
            }
        };
        let (caller, facts) = judged.inspect_err(|_| self.forget(&digest))?;
        let facts = Arc::new(facts.ok_or(EvidenceError::NotBearer)?);
        let user = caller.user().ok_or(EvidenceError::NotBearer)?.get().clone();
        let guest = guesthouse.map(|house| house.mark);
        // The same access token keeps its internal token from one snapshot to the next, while it says the same.
        let same = known.filter(|old| old.user == user && old.guest == guest);
        let internal = same.and_then(|old| lock(&old.internal).clone());
        let (sequence, internal, pseudonym) = (rules.sequence, Mutex::new(internal), OnceLock::new());
        let session = Session { caller, user, facts, sequence, guest, internal, pseudonym };
        let session = Arc::new(session);
        self.keep(digest, Arc::clone(&session), now);
        Ok(session)
    }

    /// The internal token of a session: the same one for its first minute, or until the session ends.
    pub(crate) fn internal(
        &self,
        session: &Session,
        rng: &dyn SecureRandom,
        now: UnixTime,
    ) -> Result<Internal, MintError> {
        let mut slot = lock(&session.internal);
        if let Some(token) = slot.as_ref() {
            let fresh = token.expires > now.saturating_add(RENEW_BEFORE);
            let last = token.expires >= session.user.not_after && token.expires > now;
            if fresh || last {
                return Ok(Internal::Known(token.clone()));
            }
        }
        let minted = self.mint(&session.user, rng, now)?;
        *slot = Some(minted.clone());
        Ok(Internal::Minted(minted))
    }

    /// One for a call that may outlast the one of the session: as long as it can be had.
    pub(crate) fn internal_for_long(
        &self,
        session: &Session,
        rng: &dyn SecureRandom,
        now: UnixTime,
    ) -> Result<InternalToken, MintError> {
        self.mint(&session.user, rng, now)
    }

    fn mint(&self, user: &User, rng: &dyn SecureRandom, now: UnixTime) -> Result<InternalToken, MintError> {
        let txn = hex(&random_bytes::<16>(rng)?);
        let expires = txn_token::expiry(now, Some(user.not_after));
        let token = TxnToken {
            txn: txn.clone(),
            user_id: user.id.clone(),
            name: user.name.clone(),
            roles: user.roles.clone(),
            scope: SCOPE.to_owned(),
            requested_by: self.owner.clone(),
            actors: Vec::new(),
            possession: user.possession,
            expires,
        };
        let token = token.mint(&self.key, now)?;
        Ok(InternalToken { token: Secret::new(token), txn, expires })
    }

    /// The share of the first among both is how well the cache does.
    fn looked_up(&self, remembered: bool) {
        let counter =
            |result| metrics::counter!("countersign_access_token_lookups_total", "result" => result);
        let [hits, misses] = self.lookups.get_or_init(|| ["hit", "miss"].map(counter));
        if remembered { hits } else { misses }.increment(1);
    }

    fn known(&self, digest: &Digest) -> Option<Arc<Session>> {
        lock(self.shard(digest)?).get(digest).cloned()
    }

    fn forget(&self, digest: &Digest) {
        if let Some(shard) = self.shard(digest) {
            lock(shard).remove(digest);
        }
    }

    fn keep(&self, digest: Digest, session: Arc<Session>, now: UnixTime) {
        let Some(shard) = self.shard(&digest) else { return };
        let mut shard = lock(shard);
        if shard.len() >= self.shard_entries_max && !shard.contains_key(&digest) {
            shard.retain(|_, other| other.user.not_after > now);
        }
        if shard.len() >= self.shard_entries_max && !shard.contains_key(&digest) {
            // All are alive: the one that ends first goes. It costs its owner one more verification, nothing else.
            let soonest =
                shard.iter().min_by_key(|(_, other)| other.user.not_after).map(|(digest, _)| *digest);
            soonest.and_then(|digest| shard.remove(&digest));
        }
        shard.insert(digest, session);
    }

    fn shard(&self, digest: &Digest) -> Option<&Mutex<HashMap<Digest, Arc<Session>>>> {
        let first = digest.first().copied().unwrap_or_default();
        self.shards.get(usize::from(first) % SHARDS)
    }
}

/// No code that could panic runs under these locks, so a poisoned one is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every input, separated so that no two sets of inputs look alike. Of a proof that is its key: a token in one client's
/// hands is not the same as in another's, or in nobody's.
fn cache_key(token: &str, proof: Option<&DpopProof>, rules: &AccessRules<'_>) -> Digest {
    let (issuer, audience) = (&rules.keys.access_issuer, &rules.keys.access_audience);
    let key = proof.map(DpopProof::jkt).unwrap_or_default();
    let mut input = Vec::with_capacity(token.len() + issuer.len() + audience.len() + 160);
    for part in [issuer, audience, rules.epoch, key, token] {
        input.extend_from_slice(&(part.len() as u64).to_be_bytes());
        input.extend_from_slice(part.as_bytes());
    }
    sha256(&input)
}

type Digest = [u8; 32];

/// The purpose of internal tokens: a request that came in at the edge.
const SCOPE: &str = "edge";
/// Independent parts of the cache, so that cores do not wait for one lock.
const SHARDS: usize = 16;
/// A token with less life than this is replaced, if the access token allows a longer one: a call chain needs time, and
/// behind the edge an answer streams for no longer than its token lives.
const RENEW_BEFORE: Duration = Duration::from_secs(240);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use countersign_identity::TrustDomain;
    use countersign_keys::SystemRandom;
    use countersign_token::AccessToken;

    use super::*;

    const ISSUER: &str = "https://localhost:7443";
    const AUDIENCE: &str = "https://fleamarket.test";
    const NOW: UnixTime = UnixTime::from_secs(1_700_000_000);

    struct Deployment {
        tokens: Tokens,
        key: KeyPair,
        keys: TokenKeys,
    }

    impl Deployment {
        fn new(entries_max: usize) -> Self {
            let td = TrustDomain::parse("fleamarket.test").unwrap();
            let key = KeyPair::generate(&SystemRandom::new()).unwrap();
            let public = key.public_key().clone();
            let own = KeyPair::generate(&SystemRandom::new()).unwrap();
            let (issuer, audience) = (ISSUER.into(), AUDIENCE.into());
            let keys = TokenKeys::for_access_tokens(td.clone(), issuer, audience, [public]);
            let tokens = Tokens::new(own, SpiffeId::gateway(&td, "edge").unwrap(), entries_max);
            Deployment { tokens, key, keys }
        }

        fn access(&self, user: &str, expires: UnixTime) -> String {
            let token = AccessToken {
                issuer: ISSUER.into(),
                audience: AUDIENCE.into(),
                user_id: format!("u_{user}"),
                name: user.into(),
                roles: vec!["buyer".into()],
                client_id: "countersign-cli".into(),
                jti: format!("jti-{user}"),
                expires,
                confirmation: None,
            };
            token.mint(&self.key, NOW).unwrap()
        }

        fn verify(&self, token: &str, sequence: u64, now: UnixTime) -> Result<Arc<Session>, EvidenceError> {
            let issuers = Issuers::default();
            let rules = AccessRules { keys: &self.keys, epoch: "e1", sequence, issuers: &issuers };
            self.tokens.verify(token, None, &rules, now)
        }

        /// The internal token, if it had to be minted.
        fn minted(&self, session: &Session, now: UnixTime) -> Option<InternalToken> {
            match self.tokens.internal(session, &SystemRandom::new(), now).unwrap() {
                Internal::Minted(token) => Some(token),
                Internal::Known(_) => None,
            }
        }
    }

    fn after(seconds: u64) -> UnixTime {
        NOW.saturating_add(Duration::from_secs(seconds))
    }

    #[test]
    fn one_internal_token_is_minted_per_access_token() {
        let mut d = Deployment::new(100);
        let token = d.access("alice", after(600));
        let session = d.verify(&token, 1, NOW).unwrap();
        assert_eq!(d.minted(&session, NOW).unwrap().expires, after(300));
        // The second time nobody looks at the key: it is a hit.
        d.keys.access.clear();
        let again = d.verify(&token, 1, after(10)).unwrap();
        assert!(d.minted(&again, after(10)).is_none());
    }

    #[test]
    fn an_internal_token_never_outlives_the_access_token() {
        let d = Deployment::new(100);
        let token = d.access("alice", after(120));
        let session = d.verify(&token, 1, NOW).unwrap();
        assert_eq!(d.minted(&session, NOW).unwrap().expires, after(120));
        // Nothing longer can be had, so the last one is used to its end.
        assert!(d.minted(&session, after(119)).is_none());
    }

    #[test]
    fn an_internal_token_with_less_than_four_minutes_to_live_is_replaced() {
        let d = Deployment::new(100);
        let token = d.access("alice", after(600));
        let session = d.verify(&token, 1, NOW).unwrap();
        let first = d.minted(&session, NOW).unwrap();
        assert!(d.minted(&session, after(59)).is_none());
        let second = d.minted(&session, after(61)).unwrap();
        assert_ne!(first.txn, second.txn);
        assert_eq!(second.expires, after(361));
    }

    #[test]
    fn a_session_ends_with_its_access_token() {
        let d = Deployment::new(100);
        let session = d.verify(&d.access("alice", after(60)), 1, NOW).unwrap();
        assert_eq!(session.still_lives(after(59)), Ok(()));
        assert_eq!(session.still_lives(after(60)), Err(AccessTokenError::Expired { by_seconds: 0 }));
        assert_eq!(session.still_lives(after(63)), Err(AccessTokenError::Expired { by_seconds: 3 }));
    }

    #[test]
    fn each_look_into_the_cache_is_counted_by_whether_the_verdict_was_remembered() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let text = metrics::with_local_recorder(&recorder, || {
            let d = Deployment::new(100);
            let [alice, bob] = ["alice", "bob"].map(|user| d.access(user, after(600)));
            for token in [&alice, &alice, &alice, &bob] {
                d.verify(token, 1, NOW).unwrap();
            }
            // Under another snapshot everything is judged anew, and what is refused was no hit either.
            d.verify(&alice, 2, NOW).unwrap();
            d.verify("nonsense", 2, NOW).unwrap_err();
            recorder.handle().render()
        });
        for series in [r#"{result="hit"} 2"#, r#"{result="miss"} 4"#] {
            assert!(text.contains(&format!("countersign_access_token_lookups_total{series}")), "{text}");
        }
    }

    #[test]
    fn a_cached_token_is_refused_once_it_has_expired() {
        let d = Deployment::new(100);
        let token = d.access("alice", after(60));
        d.verify(&token, 1, NOW).unwrap();
        let refused = d.verify(&token, 1, after(60)).unwrap_err();
        assert_eq!(refused, EvidenceError::AccessToken(AccessTokenError::Expired { by_seconds: 0 }));
    }

    #[test]
    fn a_cached_token_is_verified_again_under_a_new_snapshot() {
        let mut d = Deployment::new(100);
        let token = d.access("alice", after(600));
        d.verify(&token, 1, NOW).unwrap();
        d.keys.access.clear();
        assert!(d.verify(&token, 1, NOW).is_ok());
        // The key was withdrawn with snapshot 2.
        let refused = d.verify(&token, 2, NOW).unwrap_err();
        assert!(matches!(refused, EvidenceError::AccessToken(AccessTokenError::UnknownKey { .. })));
        // And the refusal took the old success with it.
        assert!(d.verify(&token, 1, NOW).is_err());
    }

    #[test]
    fn a_new_snapshot_does_not_make_a_second_internal_token() {
        let d = Deployment::new(100);
        let token = d.access("alice", after(600));
        for sequence in 1..4 {
            let session = d.verify(&token, sequence, NOW).unwrap();
            assert_eq!(d.minted(&session, NOW).is_some(), sequence == 1);
        }
    }

    #[test]
    fn a_cached_token_does_not_count_for_another_issuer_or_audience() {
        let mut d = Deployment::new(100);
        let token = d.access("alice", after(600));
        d.verify(&token, 1, NOW).unwrap();
        d.keys.access_issuer = "https://other.test".into();
        let refused = d.verify(&token, 1, NOW).unwrap_err();
        assert!(matches!(refused, EvidenceError::AccessToken(AccessTokenError::WrongIssuer { .. })));
        d.keys.access_issuer = ISSUER.into();
        d.keys.access_audience = "https://other.test".into();
        let refused = d.verify(&token, 1, NOW).unwrap_err();
        assert!(matches!(refused, EvidenceError::AccessToken(AccessTokenError::WrongAudience { .. })));
    }

    #[test]
    fn the_cache_stays_within_its_bound_and_never_holds_a_refused_token() {
        let d = Deployment::new(32);
        for n in 0..200 {
            d.verify(&d.access(&format!("user{n}"), after(600)), 1, NOW).unwrap();
            assert!(d.verify(&format!("not-a-token-{n}"), 1, NOW).is_err());
        }
        let held: usize = d.tokens.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert!((1..=32).contains(&held), "{held}");
    }

    #[test]
    fn an_internal_token_is_no_access_token_and_the_other_way_round() {
        let mut d = Deployment::new(100);
        let token = d.access("alice", after(600));
        let session = d.verify(&token, 1, NOW).unwrap();
        let internal = d.minted(&session, NOW).unwrap();
        // Even with the right key in the right place the kind is wrong.
        let own = d.tokens.public_key().clone();
        d.keys.access.insert(own.thumbprint().to_string(), own);
        let refused = d.verify(internal.token.expose(), 1, NOW).unwrap_err();
        assert!(matches!(refused, EvidenceError::AccessToken(AccessTokenError::WrongKind { .. })));
        let owner = (d.key.public_key().clone(), d.tokens.owner.clone());
        let refused = TxnToken::verify(&token, &d.keys.trust_domain, NOW, |_| Some(owner));
        assert!(matches!(refused, Err(TxnTokenError::WrongKind { .. })));
    }
}
