//! Whom we believe about whom: one bundle of roots and CRLs per trust domain, never pooled.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_identity::TrustDomain;
use rustls_pki_types::CertificateDer;

use crate::path::{Anchor, PathError};
use crate::revocation::Crl;

/// The roots and CRLs of one trust domain. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bundle {
    trust_domain: TrustDomain,
    roots: Arc<[CertificateDer<'static>]>,
    anchors: Arc<[Anchor]>,
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
    /// A root is not a CA certificate that holds by itself.
    #[error("root {position} of the bundle of {trust_domain} is refused")]
    NotARoot {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// Which root, from 0.
        position: usize,
        /// What is wrong with it.
        #[source]
        reason: PathError,
    },
    /// More roots than [`ROOTS_MAX`].
    #[error("the bundle of {trust_domain} has {count} roots, more than {ROOTS_MAX}")]
    TooManyRoots {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// How many.
        count: usize,
    },
    /// More CRLs than [`CRLS_MAX`].
    #[error("the bundle of {trust_domain} has {count} CRLs, more than {CRLS_MAX}")]
    TooManyCrls {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// How many.
        count: usize,
    },
}

/// The bundles by trust domain.
#[derive(Debug, Clone, Default)]
pub struct BundleSet(BTreeMap<TrustDomain, Arc<Bundle>>);

impl Bundle {
    /// Takes roots (CA certificates) and CRLs.
    pub fn new(
        trust_domain: TrustDomain,
        roots: Vec<CertificateDer<'static>>,
        crls: Vec<Crl>,
    ) -> Result<Self, BundleError> {
        if roots.is_empty() {
            return Err(BundleError::Empty { trust_domain });
        }
        if roots.len() > ROOTS_MAX {
            return Err(BundleError::TooManyRoots { trust_domain, count: roots.len() });
        }
        if crls.len() > CRLS_MAX {
            return Err(BundleError::TooManyCrls { trust_domain, count: crls.len() });
        }
        let anchors = roots
            .iter()
            .enumerate()
            .map(|(position, root)| {
                let refused =
                    |reason| BundleError::NotARoot { trust_domain: trust_domain.clone(), position, reason };
                Anchor::new(root).map_err(refused)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            roots: roots.into(),
            anchors,
            crls: crls.into_iter().map(Arc::new).collect(),
            trust_domain,
        })
    }

    /// The same roots with these CRLs.
    pub fn with_crls(&self, crls: Vec<Arc<Crl>>) -> Result<Self, BundleError> {
        if crls.len() > CRLS_MAX {
            let trust_domain = self.trust_domain.clone();
            return Err(BundleError::TooManyCrls { trust_domain, count: crls.len() });
        }
        Ok(Self { crls, ..self.clone() })
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

    pub(crate) fn anchors(&self) -> &[Anchor] {
        &self.anchors
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

/// Roots in one bundle: the current one, its successor, and some in retirement.
pub const ROOTS_MAX: usize = 32;
/// CRLs in one bundle: one per CA that is still in use.
pub const CRLS_MAX: usize = 64;
