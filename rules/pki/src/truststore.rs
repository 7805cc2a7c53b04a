//! The thesis's Listing 5.1, `ICertificateAuthorityService`, over our bundles: a trust store of one's own in
//! place of the operating system's.

use countersign_identity::{TrustDomain, UnixTime};
use rustls_pki_types::CertificateDer;

use crate::bundle::{Bundle, BundleError, BundleSet};
use crate::verify::{CrlPolicy, Expectation, Usage, verify_peer};

/// A trust store to which authorities are appended and against which certificates are validated.
pub trait CertificateAuthorityService {
    /// Trusts one more root, for this trust domain alone.
    fn append_certificate(
        &mut self,
        trust_domain: &TrustDomain,
        certificate: CertificateDer<'static>,
    ) -> Result<(), BundleError>;

    /// Whether this chain (leaf first) counts now: all five checks, as a client, revocation as far as known.
    fn validate_certificate(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool;
}

impl CertificateAuthorityService for BundleSet {
    fn append_certificate(
        &mut self,
        trust_domain: &TrustDomain,
        certificate: CertificateDer<'static>,
    ) -> Result<(), BundleError> {
        let held = self.of(trust_domain);
        let mut roots = held.map(|bundle| bundle.roots().to_vec()).unwrap_or_default();
        let crls = held.map(|bundle| bundle.crls().to_vec()).unwrap_or_default();
        if !roots.contains(&certificate) {
            roots.push(certificate);
        }
        self.insert(Bundle::new(trust_domain.clone(), roots, Vec::new())?.with_crls(crls)?);
        Ok(())
    }

    fn validate_certificate(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        verify_peer(chain, self, now, Usage::Client, Expectation::AnyInBundle, CrlPolicy::AcceptMissing)
            .outcome
            .is_ok()
    }
}
