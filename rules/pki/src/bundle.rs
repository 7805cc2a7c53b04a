//! Whom we believe about whom: one bundle of roots and CRLs per trust domain, never pooled.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_identity::TrustDomain;
use rustls_pki_types::CertificateDer;

use crate::revocation::Crl;

/// The roots and CRLs of one trust domain.
#[derive(Debug, Clone)]
pub struct Bundle {
    trust_domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
    crls: Vec<Arc<Crl>>,
}

/// Why a bundle is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Nothing to trust.
    #[error("the bundle of {trust_domain} has no root; everything of that trust domain would be refused")]
    Empty {
        /// Whose bundle.
        trust_domain: TrustDomain,
    },
    /// A root is not a CA certificate.
    #[error("root {position} of the bundle of {trust_domain} is not a CA certificate")]
    NotARoot {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// Which root, from 0.
        position: usize,
    },
}

/// The bundles by trust domain.
#[derive(Debug, Clone, Default)]
pub struct BundleSet(BTreeMap<TrustDomain, Arc<Bundle>>);

impl Bundle {
    /// Takes roots (self-signed CA certificates) and CRLs.
    pub fn new(
        trust_domain: TrustDomain,
        roots: Vec<CertificateDer<'static>>,
        crls: Vec<Crl>,
    ) -> Result<Self, BundleError> {
        Ok(Self { trust_domain, roots, crls: crls.into_iter().map(Arc::new).collect() })
    }

    /// Whose bundle it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The CRLs.
    pub fn crls(&self) -> &[Arc<Crl>] {
        &self.crls
    }
}

impl BundleSet {
    /// No bundles: nobody is believed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a bundle, or replaces that of the same trust domain.
    pub fn insert(&mut self, bundle: Bundle) {
        self.0.insert(bundle.trust_domain.clone(), Arc::new(bundle));
    }

    /// The bundle of this trust domain and of no other.
    pub fn of(&self, trust_domain: &TrustDomain) -> Option<&Arc<Bundle>> {
        self.0.get(trust_domain)
    }

    /// All bundles, by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.0.values()
    }
}

impl FromIterator<Bundle> for BundleSet {
    fn from_iter<I: IntoIterator<Item = Bundle>>(bundles: I) -> Self {
        let mut set = Self::new();
        bundles.into_iter().for_each(|bundle| set.insert(bundle));
        set
    }
}
