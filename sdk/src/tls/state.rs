//! What a process trusts and what it is: read on every handshake, swapped without a lock.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use countersign_identity::{SpiffeId, UnixTime};
use countersign_keys::KeyPair;
use countersign_pki::{bundle::BundleSet, verify::CrlPolicy};
use rustls::{
    DistinguishedName, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use thiserror::Error;
use tokio::sync::watch;

use super::{challenge::Challenge, groups::Groups, leaf::Leaf, provider, verified::VerifiedChains};

/// A certificate chain with its private key, parsed once.
pub struct Identity {
    certified: Arc<CertifiedKey>,
    id: Option<SpiffeId>,
    dns_names: Vec<String>,
    serial_hex: String,
    not_before: UnixTime,
    not_after: UnixTime,
    issuer: DistinguishedName,
}

/// Why a chain and a key do not make an identity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// No certificate at all.
    #[error("identity has no certificate: give the chain, leaf first")]
    NoCertificate,
    /// The leaf or the last certificate of the chain cannot be read.
    #[error("certificate of the identity cannot be read: give DER of x.509 version 3")]
    Unreadable,
    /// A workload's leaf must carry exactly one SPIFFE ID.
    #[error("certificate names no spiffe id: a workload needs an x509-svid")]
    NoSpiffeId,
    /// The private key cannot be used.
    #[error("private key cannot be used: give a P-256 key")]
    Key,
    /// The certificate was made for another key.
    #[error("certificate and private key do not belong together")]
    KeyMismatch,
}

impl Identity {
    /// An X.509-SVID: `chain` has the leaf first, then the intermediates; the root may be left out.
    ///
    /// # Errors
    /// The chain is empty or unreadable, names no SPIFFE ID, or does not belong to `key`.
    pub fn workload(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Result<Self, IdentityError> {
        let identity = Self::parse(chain, key)?;
        if identity.id.is_none() {
            return Err(IdentityError::NoSpiffeId);
        }
        Ok(identity)
    }

    /// A server certificate for people and browsers: DNS or IP names, no SPIFFE ID.
    ///
    /// # Errors
    /// The chain is empty or unreadable, or does not belong to `key`.
    pub fn edge(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Result<Self, IdentityError> {
        Self::parse(chain, key)
    }

    fn parse(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Result<Self, IdentityError> {
        let (Some(leaf), Some(last)) = (chain.first(), chain.last()) else {
            return Err(IdentityError::NoCertificate);
        };
        let facts = Leaf::read(leaf).ok_or(IdentityError::Unreadable)?;
        let issuer = issuer_of(last)?;
        let pkcs8 = key.to_pkcs8().map_err(|_| IdentityError::Key)?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.expose().as_slice()));
        let signer =
            rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&private).map_err(|_| IdentityError::Key)?;
        let certified = CertifiedKey::new(chain, signer);
        certified.keys_match().map_err(|_| IdentityError::KeyMismatch)?;
        Ok(Self {
            certified: Arc::new(certified),
            id: facts.id,
            dns_names: facts.dns_names,
            serial_hex: facts.serial_hex,
            not_before: facts.not_before,
            not_after: facts.not_after,
            issuer,
        })
    }

    /// Its SPIFFE ID; an edge certificate has none.
    #[must_use]
    pub const fn id(&self) -> Option<&SpiffeId> {
        self.id.as_ref()
    }

    /// Its DNS names, in lower case; one may begin with `*.`.
    #[must_use]
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// Serial number of the leaf, lower-case hexadecimal.
    #[must_use]
    pub fn serial_hex(&self) -> &str {
        &self.serial_hex
    }

    /// Start of its validity (backdated by the issuer).
    #[must_use]
    pub const fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// End of its validity.
    #[must_use]
    pub const fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// What is presented, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    pub(crate) const fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// Was it issued below one of these authorities? An empty list is no preference
    /// (RFC 8446 section 4.2.4).
    pub(crate) fn is_wanted_by(&self, authorities: &[&[u8]]) -> bool {
        authorities.is_empty() || authorities.contains(&self.issuer.as_ref())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?}, serial {})", self.id, self.serial_hex)
    }
}

fn issuer_of(certificate: &CertificateDer<'_>) -> Result<DistinguishedName, IdentityError> {
    let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|_| IdentityError::Unreadable)?;
    Ok(DistinguishedName::in_sequence(parsed.issuer()))
}

/// One generation of what a process is and trusts; immutable.
#[derive(Clone)]
pub struct Trust {
    generation: u64,
    identities: Vec<Arc<Identity>>,
    bundles: Arc<BundleSet>,
    crl_policy: CrlPolicy,
    authorities: Arc<[DistinguishedName]>,
    verified: Arc<VerifiedChains>,
    provider: Arc<CryptoProvider>,
    challenges: Arc<[Challenge]>,
}

impl Trust {
    /// Grows by one with every change.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Who the process is first of all.
    #[must_use]
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.identities.first()
    }

    /// Does the bundle of our own trust domain list our certificate as revoked? Then nobody believes us any more.
    #[must_use]
    pub fn own_certificate_is_revoked(&self) -> bool {
        let Some((identity, id)) = self.identity().and_then(|identity| Some((identity, identity.id()?)))
        else {
            return false;
        };
        let bundle = self.bundles.of(id.trust_domain());
        let Some((bundle, leaf)) = bundle.zip(identity.chain().first()) else { return false };
        bundle.crls().iter().any(|crl| crl.revokes(leaf))
    }

    /// Every identity that it may show, the preferred one first.
    #[must_use]
    pub fn identities(&self) -> &[Arc<Identity>] {
        &self.identities
    }

    /// Whom it can recognise: one bundle per trust domain, with its revocation lists.
    #[must_use]
    pub const fn bundles(&self) -> &Arc<BundleSet> {
        &self.bundles
    }

    /// What a missing or expired revocation list means.
    #[must_use]
    pub const fn crl_policy(&self) -> CrlPolicy {
        self.crl_policy
    }

    /// What was verified under these bundles and revocation lists, and no others.
    pub(super) const fn verified(&self) -> &Arc<VerifiedChains> {
        &self.verified
    }

    /// The cryptography of its handshakes: groups in their order.
    pub(super) const fn provider(&self) -> &Arc<CryptoProvider> {
        &self.provider
    }

    /// What is shown to whoever validates a host of ours.
    pub(super) fn challenges(&self) -> &[Challenge] {
        &self.challenges
    }

    /// Subjects of all roots, as a server names them in its CertificateRequest.
    pub(crate) const fn authorities(&self) -> &Arc<[DistinguishedName]> {
        &self.authorities
    }
}

/// The trust of a process over time. Reading is one atomic load; writing is rare and serialised.
pub struct TrustState {
    current: ArcSwap<Trust>,
    writing: Mutex<()>,
    generation: watch::Sender<u64>,
    identities_set: AtomicU64,
    chains_reused: AtomicU64,
}

impl TrustState {
    /// Trusts `bundles`, and is nobody yet.
    #[must_use]
    pub fn new(bundles: BundleSet, crl_policy: CrlPolicy) -> Arc<Self> {
        let authorities = subjects(&bundles);
        let trust = Trust {
            generation: 1,
            identities: Vec::new(),
            bundles: Arc::new(bundles),
            crl_policy,
            authorities,
            verified: VerifiedChains::new(),
            provider: provider(),
            challenges: Arc::default(),
        };
        Arc::new(Self {
            current: ArcSwap::from_pointee(trust),
            writing: Mutex::new(()),
            generation: watch::Sender::new(1),
            identities_set: AtomicU64::new(0),
            chains_reused: AtomicU64::new(0),
        })
    }

    /// The newest generation.
    #[must_use]
    pub fn load(&self) -> Arc<Trust> {
        self.current.load_full()
    }

    /// The newest generation, for a look that holds it only briefly: nothing is counted up.
    pub(crate) fn peek(&self) -> impl Deref<Target = Arc<Trust>> {
        self.current.load()
    }

    /// The number of the newest generation: one atomic load, nothing is counted up.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.current.load().generation
    }

    /// Tells of each new generation, so that open connections can be judged again.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// From the next handshake on, the process is `identity`.
    pub fn set_identity(&self, identity: Identity) {
        self.set_identities([identity]);
    }

    /// Several identities, the preferred one first. A client shows the first one that was issued
    /// below an authority which the server names; a server always shows the first.
    pub fn set_identities(&self, identities: impl IntoIterator<Item = impl Into<Arc<Identity>>>) {
        let identities: Vec<_> = identities.into_iter().map(Into::into).collect();
        self.identities_set.fetch_add(1, Ordering::Relaxed);
        self.replace(|old| Trust { generation: old.generation + 1, identities, ..old.clone() });
    }

    /// From now on, these bundles and revocation lists count, for open connections too.
    pub fn set_bundles(&self, bundles: BundleSet) {
        let authorities = subjects(&bundles);
        let (bundles, verified) = (Arc::new(bundles), VerifiedChains::new());
        self.replace(|old| Trust {
            generation: old.generation + 1,
            bundles,
            authorities,
            verified,
            ..old.clone()
        });
    }

    /// From the next handshake on, the process is `identity` and these bundles count: one generation for both.
    pub fn set(&self, identity: Identity, bundles: BundleSet) {
        let authorities = subjects(&bundles);
        self.identities_set.fetch_add(1, Ordering::Relaxed);
        let (identities, bundles) = (vec![Arc::new(identity)], Arc::new(bundles));
        let verified = VerifiedChains::new();
        self.replace(|old| Trust {
            generation: old.generation + 1,
            identities,
            bundles,
            authorities,
            verified,
            ..old.clone()
        });
    }

    /// From the next handshake on, these groups are offered and accepted, the preferred one first.
    pub fn set_groups(&self, groups: &Groups) {
        let provider = groups.provider();
        self.replace(|old| Trust { generation: old.generation + 1, provider, ..old.clone() });
    }

    /// From the next handshake on, whoever validates one of these hosts (tls-alpn-01, RFC 8737) is shown its answer,
    /// and no other validation is answered. For edges that show certificates by name.
    pub fn set_challenges(&self, challenges: impl IntoIterator<Item = Challenge>) {
        let challenges: Arc<[Challenge]> = challenges.into_iter().collect();
        self.replace(|old| Trust { generation: old.generation + 1, challenges, ..old.clone() });
    }

    /// How many presented chains were known already, byte for byte, and not verified again.
    #[must_use]
    pub fn chains_reused(&self) -> u64 {
        self.chains_reused.load(Ordering::Relaxed)
    }

    pub(super) fn count_reused_chain(&self) {
        self.chains_reused.fetch_add(1, Ordering::Relaxed);
    }

    /// How often credentials were parsed and set: once per rotation, never per connection.
    #[must_use]
    pub fn rotations(&self) -> u64 {
        self.identities_set.load(Ordering::Relaxed)
    }

    fn replace(&self, next: impl FnOnce(&Trust) -> Trust) {
        let _one_writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let next = next(&self.current.load());
        let generation = next.generation;
        self.current.store(Arc::new(next));
        self.generation.send_replace(generation);
    }
}

impl fmt::Debug for TrustState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trust = self.current.load();
        write!(f, "TrustState(generation {}, {:?})", trust.generation, trust.identities)
    }
}

/// A root that rustls cannot read is left out of the hints; whether it is trusted is not decided here.
fn subjects(bundles: &BundleSet) -> Arc<[DistinguishedName]> {
    let mut roots = RootCertStore::empty();
    for bundle in bundles.iter() {
        roots.add_parsable_certificates(bundle.roots().iter().cloned());
    }
    let mut subjects = roots.subjects();
    subjects.dedup_by(|a, b| a.as_ref() == b.as_ref());
    subjects.into()
}
