//! Who signed: the holder of a verified signing certificate, kept so that the next token of the same key needs no
//! path validation.
//!
//! Signatures of a chain are verified once, when it comes in. What can change afterwards is asked at every use: its
//! lifetime, whether its root is still believed, and whether somebody took it back.

use countersign_identity::{SpiffeId, UnixTime, Verified, Workload};
use countersign_keys::{PublicKey, sha256};
use rustls_pki_types::CertificateDer;

use crate::bundle::BundleSet;
use crate::path::Path;
use crate::verify::{
    ChainError, CrlPolicy, Expectation, PeerError, Usage, UsageError, ValidityError, Verdict,
    check_revocation, judge,
};
use crate::x509;

/// A workload's signing key, as its certificate proved it (profile `Signing`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    workload: Verified<Workload>,
    key: PublicKey,
    thumbprint: [u8; 32],
    path: Path,
}

/// Judges a chain, leaf first, that came with a token: the five checks, with [`Usage::Signing`]. The chain is
/// untrusted path material; the bundle of the trust domain in the leaf's own name decides.
///
/// The signer is there exactly when the verdict's outcome is good.
pub fn verify_signer(
    chain: &[CertificateDer<'_>],
    bundles: &BundleSet,
    now: UnixTime,
    expected: Expectation<'_>,
    crl_policy: CrlPolicy,
) -> (Verdict, Option<Signer>) {
    let mut passed = Vec::new();
    let judged = judge(chain, bundles, now, Usage::Signing, expected, crl_policy, &mut passed)
        .and_then(|(workload, path)| Signer::of(chain, workload, path));
    let outcome = judged.as_ref().map(|signer| signer.workload.clone()).map_err(Clone::clone);
    let path_ends = judged.as_ref().ok().map(|signer| signer.path.not_after);
    (Verdict::of(outcome, path_ends, &passed), judged.ok())
}

impl Signer {
    fn of(chain: &[CertificateDer<'_>], workload: Verified<Workload>, path: Path) -> Result<Self, PeerError> {
        let leaf = chain.first().ok_or(UsageError::NoCertificate)?;
        let parsed = x509::parse(leaf).ok_or(UsageError::Malformed)?;
        let key = PublicKey::from_spki_der(parsed.public_key().raw).map_err(|_| UsageError::NotForSigning)?;
        Ok(Self { workload, key, thumbprint: sha256(leaf), path })
    }

    /// Whether it still counts now: not ended, its root still in the bundle of its own trust domain, not revoked.
    /// What was verified of signatures and names cannot change.
    ///
    /// # Errors
    /// [`PeerError::Validity`], [`PeerError::Chain`], [`PeerError::Revocation`].
    pub fn recheck(
        &self,
        bundles: &BundleSet,
        now: UnixTime,
        crl_policy: CrlPolicy,
    ) -> Result<Verified<Workload>, PeerError> {
        if now.secs() > self.path.not_after.secs() {
            return Err(ValidityError::Expired { by: now.since(self.path.not_after) }.into());
        }
        let trust_domain = self.id().trust_domain();
        let bundle = bundles
            .of(trust_domain)
            .filter(|bundle| bundle.anchors().iter().any(|anchor| anchor.ends(&self.path)))
            .ok_or_else(|| ChainError::NoBundle { trust_domain: trust_domain.clone() })?;
        check_revocation(&self.path, bundle, now, crl_policy)?;
        Ok(self.workload.clone())
    }

    /// Who signs: the one URI SAN.
    pub fn id(&self) -> &SpiffeId {
        &self.workload.id
    }

    /// With which key.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// SHA-256 of the leaf: `x5t#S256` (RFC 7515 section 4.1.8) before base64url.
    pub fn thumbprint(&self) -> &[u8; 32] {
        &self.thumbprint
    }

    /// The earliest end of the certificates on its path.
    pub fn not_after(&self) -> UnixTime {
        self.path.not_after
    }
}
