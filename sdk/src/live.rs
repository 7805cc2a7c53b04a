//! A snapshot made ready for use: everything parsed and compiled once, so that a request only looks.

mod floor;
mod staleness;
mod token_keys;

use std::{collections::HashMap, fmt, ops::Deref, sync::Arc};

use arc_swap::ArcSwap;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{SpiffeId, TrustDomain, UnixTime};
use countersign_ledger::PseudonymKey;
use countersign_pki::{
    CertificateDer,
    bundle::{Bundle, BundleError, BundleSet},
    revocation::{Crl, CrlError},
};
use countersign_policy::{PolicyError, PolicySet};
use countersign_request::RouteTable;
use countersign_wire::snapshot::{ServiceAddress, Snapshot, TrustBundle};
use thiserror::Error;
use tokio::sync::watch;

pub use floor::Floor;
pub use staleness::{STALE_GRACE, Staleness, WhenStale};
pub(crate) use token_keys::wit_facts;
pub use token_keys::{AuthorityKeys, RegisteredKey, TokenKeys};

/// A compiled snapshot; immutable.
pub struct Live {
    snapshot: Snapshot,
    bundles: BundleSet,
    tokens: Arc<TokenKeys>,
    services: HashMap<String, ServiceAddress>,
    /// Short names of those that are registered, by their full ones.
    names: HashMap<SpiffeId, String>,
    policy: Arc<Result<PolicySet, PolicyError>>,
    /// Those that our policies name.
    routes: Arc<RouteTable<()>>,
    pseudonyms: Option<PseudonymKey>,
    staleness: Staleness,
}

/// How old a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Within `valid_until`.
    Fresh,
    /// Past it, within the grace of [`Staleness`]: it still counts, and readiness says so.
    Grace,
    /// Past that: nothing is decided by it any more.
    Stale,
}

/// Why a verified snapshot cannot be used. The old one stays.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CompileError {
    /// The roots of a trust domain.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A revocation list.
    #[error("revocation list of {trust_domain} cannot be used: {source}")]
    Crl {
        /// Whose.
        trust_domain: TrustDomain,
        /// Why.
        source: CrlError,
    },
    /// A public key.
    #[error("a key in the snapshot cannot be read")]
    Key,
    /// The key for pseudonyms.
    #[error("pseudonym key of the snapshot is not 32 bytes in base64url")]
    PseudonymKey,
}

impl Live {
    /// Compiles a snapshot that was verified; of the policies, only those of `target`.
    ///
    /// Policies that cannot be loaded do not hold back the revocations that came with them: the snapshot is
    /// taken, and the target refuses everybody until they are corrected.
    ///
    /// # Errors
    /// See [`CompileError`].
    pub fn compile(snapshot: Snapshot, target: Option<&str>) -> Result<Self, CompileError> {
        Self::compile_after(None, snapshot, target)
    }

    /// As [`Live::compile`], but takes from `previous` what has not changed since.
    ///
    /// # Errors
    /// See [`CompileError`].
    pub fn compile_after(
        previous: Option<&Self>,
        snapshot: Snapshot,
        target: Option<&str>,
    ) -> Result<Self, CompileError> {
        let bundles = bundles(&snapshot, previous)?;
        let tokens = tokens(&snapshot, previous)?;
        let services =
            snapshot.services.iter().map(|entry| (entry.name.to_string(), entry.clone())).collect();
        let names = snapshot.services.iter().map(|entry| (entry.spiffe_id.clone(), entry.name.to_string()));
        let names = names.collect();
        let policy = policy(&snapshot, target, previous);
        let routes = routes(target, &policy, previous);
        let pseudonyms = match &snapshot.pseudonym_key {
            Some(text) => Some(pseudonym_key(text.expose())?),
            None => None,
        };
        let staleness = previous.map(|previous| previous.staleness).unwrap_or_default();
        Ok(Self { snapshot, bundles, tokens, services, names, policy, routes, pseudonyms, staleness })
    }

    /// The same, which grows old by other rules, and so do all that follow it.
    #[must_use]
    pub const fn growing_old_by(mut self, staleness: Staleness) -> Self {
        self.staleness = staleness;
        self
    }

    /// The snapshot as it came.
    #[must_use]
    pub const fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Whom we can recognise.
    #[must_use]
    pub const fn bundles(&self) -> &BundleSet {
        &self.bundles
    }

    /// Keys for tokens of every kind, and what of them was taken back.
    #[must_use]
    pub fn tokens(&self) -> &TokenKeys {
        &self.tokens
    }

    /// The rules of our target.
    ///
    /// # Errors
    /// They could not be loaded: nobody is accepted.
    pub fn policy(&self) -> Result<&PolicySet, &PolicyError> {
        (*self.policy).as_ref()
    }

    /// The routes that our rules name, for who stands in front of a service and does not know its routes.
    #[must_use]
    pub fn routes(&self) -> &RouteTable<()> {
        &self.routes
    }

    /// A service by its short name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&ServiceAddress> {
        self.services.get(name)
    }

    /// A service or a gateway by its full name.
    #[must_use]
    pub fn service_of(&self, id: &SpiffeId) -> Option<&ServiceAddress> {
        self.service(self.names.get(id)?)
    }

    /// The key under which users appear in the ledger.
    #[must_use]
    pub const fn pseudonyms(&self) -> Option<&PseudonymKey> {
        self.pseudonyms.as_ref()
    }

    /// How old it is at `now`.
    #[must_use]
    pub fn freshness(&self, now: UnixTime) -> Freshness {
        if now <= self.snapshot.valid_until {
            Freshness::Fresh
        } else {
            match self.staleness.grace() {
                Some(grace) if now > self.snapshot.valid_until.saturating_add(grace) => Freshness::Stale,
                _ => Freshness::Grace,
            }
        }
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Live(epoch {}, sequence {})", self.snapshot.epoch, self.snapshot.sequence)
    }
}

fn bundles(snapshot: &Snapshot, previous: Option<&Live>) -> Result<BundleSet, CompileError> {
    let kept = |entry: &TrustBundle| {
        let previous = previous.filter(|previous| previous.snapshot.bundles.contains(entry))?;
        previous.bundles.of(&entry.trust_domain).map(|bundle| (**bundle).clone())
    };
    snapshot.bundles.iter().map(|entry| kept(entry).map_or_else(|| bundle(entry), Ok)).collect()
}

/// The same table as before if nothing in it changed.
fn tokens(snapshot: &Snapshot, previous: Option<&Live>) -> Result<Arc<TokenKeys>, CompileError> {
    let previous = previous.map(|previous| (&previous.snapshot, &previous.tokens));
    let keys = TokenKeys::read(snapshot, previous.map(|(snapshot, keys)| (snapshot, &**keys)))?;
    match previous {
        Some((before, held)) if keys.generation == held.generation && before.revoked == snapshot.revoked => {
            Ok(Arc::clone(held))
        }
        _ => Ok(Arc::new(keys)),
    }
}

fn policy(
    snapshot: &Snapshot,
    target: Option<&str>,
    previous: Option<&Live>,
) -> Arc<Result<PolicySet, PolicyError>> {
    let text = target.and_then(|target| Some((target, snapshot.policy(target)?)));
    let same = previous
        .filter(|previous| target.and_then(|target| previous.snapshot.policy(target)) == text.map(|t| t.1));
    if let Some(previous) = same {
        return Arc::clone(&previous.policy);
    }
    let policy = PolicySet::load(text);
    if let Err(error) = &policy {
        tracing::error!(%error, "policies cannot be loaded: everybody is refused until they are corrected");
    }
    Arc::new(policy)
}

fn routes(
    target: Option<&str>,
    policy: &Arc<Result<PolicySet, PolicyError>>,
    previous: Option<&Live>,
) -> Arc<RouteTable<()>> {
    if let Some(previous) = previous.filter(|previous| Arc::ptr_eq(&previous.policy, policy)) {
        return Arc::clone(&previous.routes);
    }
    let (Some(target), Ok(policy)) = (target, &**policy) else { return Arc::default() };
    // Rules that give one route two names are not loaded: this is always a table.
    Arc::new(RouteTable::new(policy.routes(target).into_iter().map(|route| (route, ()))).unwrap_or_default())
}

fn bundle(entry: &TrustBundle) -> Result<Bundle, CompileError> {
    let roots = entry.roots.iter().map(|der| CertificateDer::from(der.as_slice().to_vec())).collect();
    let refused = |source| CompileError::Crl { trust_domain: entry.trust_domain.clone(), source };
    let crls = entry.crls.iter().map(|der| Crl::read(der.as_slice()).map_err(refused));
    Ok(Bundle::new(entry.trust_domain.clone(), roots, crls.collect::<Result<_, _>>()?)?)
}

fn pseudonym_key(text: &str) -> Result<PseudonymKey, CompileError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CompileError::PseudonymKey)?;
    bytes.try_into().map(PseudonymKey::new).map_err(|_| CompileError::PseudonymKey)
}

/// The newest [`Live`] of a process.
#[derive(Debug)]
pub struct LiveCell {
    current: ArcSwap<Live>,
    changes: watch::Sender<u64>,
}

impl LiveCell {
    /// Starts with `first`.
    #[must_use]
    pub fn new(first: Live) -> Arc<Self> {
        let changes = watch::Sender::new(first.snapshot.sequence);
        Arc::new(Self { current: ArcSwap::from_pointee(first), changes })
    }

    /// The newest one: one atomic load.
    #[must_use]
    pub fn load(&self) -> Arc<Live> {
        self.current.load_full()
    }

    /// The newest one, for a look that holds it only briefly: nothing is counted up.
    pub fn peek(&self) -> impl Deref<Target = Arc<Live>> + use<> {
        self.current.load()
    }

    /// Replaces it.
    pub fn store(&self, next: Live) {
        let sequence = next.snapshot.sequence;
        self.current.store(Arc::new(next));
        self.changes.send_replace(sequence);
    }

    /// Tells of each new one by its sequence.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use countersign_pki::CrlPolicy;

    use super::*;
    use countersign_wire::{
        SecretText,
        snapshot::{AccessTokenKeys, InternalTokenKey, Jwk, Policies, PolicyFile},
    };

    pub(crate) fn snapshot() -> Snapshot {
        Snapshot {
            format: countersign_wire::snapshot::FORMAT,
            trust_domain: TrustDomain::parse("td").unwrap(),
            epoch: "e1".into(),
            sequence: 1,
            issued_at: UnixTime::from_secs(1_800_000_000),
            valid_until: UnixTime::from_secs(1_800_000_060),
            critical: Vec::new(),
            bundles: Vec::new(),
            access_token: AccessTokenKeys { issuer: "i".into(), audience: "a".into(), keys: Vec::new() },
            internal_token_keys: Vec::new(),
            services: Vec::new(),
            policies: Policies { generation: 1, files: Vec::new() },
            ledger_head: None,
            pseudonym_key: None,
            token_authorities: Vec::new(),
            workload_keys: Vec::new(),
            revoked: Default::default(),
            sts: None,
        }
    }

    #[test]
    fn a_snapshot_counts_until_its_grace_is_over() {
        let live = Live::compile(snapshot(), None).unwrap();
        let until = live.snapshot().valid_until;
        let later = |span| until.saturating_add(span);
        assert_eq!(live.freshness(until), Freshness::Fresh);
        assert_eq!(live.freshness(later(Duration::from_millis(1))), Freshness::Grace);
        assert_eq!(live.freshness(later(STALE_GRACE)), Freshness::Grace);
        assert_eq!(live.freshness(later(STALE_GRACE + Duration::from_millis(1))), Freshness::Stale);
    }

    #[test]
    fn how_old_the_news_of_revocations_may_be_is_said_by_name() {
        let read = |text: &str| serde_json::from_str::<Staleness>(text);
        let aged = |text: &str, millis: u64| {
            let live = Live::compile(snapshot(), None).unwrap().growing_old_by(read(text).unwrap());
            live.freshness(live.snapshot().valid_until.saturating_add(Duration::from_millis(millis)))
        };
        let (hard, grace) = (r#"{"when_stale":"refuse"}"#, r#"{"grace_s":60}"#);
        let soft = r#"{"when_stale":"accept_insecure"}"#;
        assert_eq!([hard, grace, soft].map(|text| aged(text, 0)), [Freshness::Fresh; 3]);
        assert_eq!(
            (aged(hard, 1), aged(grace, 1), aged(soft, 1)),
            (Freshness::Stale, Freshness::Grace, Freshness::Grace)
        );
        assert_eq!((aged(grace, 60_000), aged(grace, 60_001)), (Freshness::Grace, Freshness::Stale));
        assert_eq!(aged(soft, 365 * 24 * 3_600_000), Freshness::Grace);
        let required = [hard, grace, soft].map(|text| read(text).unwrap().lists() == CrlPolicy::Require);
        assert_eq!(required, [true, true, false]);
        for wrong in [r#"{"when_stale":"accept"}"#, r#"{"when_stale":"soft"}"#, r#"{"grace":1}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(read("{}").unwrap(), Staleness::default());
    }

    #[test]
    fn rejects_roots_lists_and_keys_that_cannot_be_used() {
        let refused = |change: fn(&mut Snapshot)| {
            let mut snapshot = snapshot();
            change(&mut snapshot);
            Live::compile(snapshot, None).unwrap_err()
        };
        let bundle = |snapshot: &mut Snapshot| {
            let trust_domain = snapshot.trust_domain.clone();
            snapshot.bundles.push(TrustBundle { trust_domain, roots: Vec::new(), crls: Vec::new() });
        };
        assert!(matches!(refused(bundle), CompileError::Bundle(_)));
        let list = |snapshot: &mut Snapshot| {
            let (trust_domain, crls) = (snapshot.trust_domain.clone(), vec![b"none".as_slice().into()]);
            snapshot.bundles.push(TrustBundle { trust_domain, roots: Vec::new(), crls });
        };
        assert!(matches!(refused(list), CompileError::Crl { .. }));
        let key = |snapshot: &mut Snapshot| {
            let (owner, jwk) = ("spiffe://td/g".parse().unwrap(), Jwk::from_text("{}").unwrap());
            snapshot.internal_token_keys.push(InternalTokenKey { owner, jwk });
        };
        assert_eq!(refused(key), CompileError::Key);
        let short = |snapshot: &mut Snapshot| {
            snapshot.pseudonym_key = Some(SecretText::new("AAAA".into()));
        };
        assert_eq!(refused(short), CompileError::PseudonymKey);
    }

    #[test]
    fn policies_that_did_not_change_are_not_compiled_again() {
        let with = |text: &str| {
            let mut snapshot = snapshot();
            snapshot.policies.files.push(PolicyFile { name: "ads".into(), text: text.into() });
            snapshot
        };
        let rule = "@id(\"all\") permit (principal, action, resource);";
        let first = Live::compile(with(rule), Some("ads")).unwrap();
        let same = Live::compile_after(Some(&first), with(rule), Some("ads")).unwrap();
        assert!(Arc::ptr_eq(&first.policy, &same.policy));
        let other = Live::compile_after(Some(&first), with("nonsense"), Some("ads")).unwrap();
        assert!(other.policy().is_err());
    }
}
