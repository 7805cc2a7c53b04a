//! A certificate that another proxy took in a handshake of its own, and forwards.

use countersign_identity::{Caller, Freshness, Proof, SpiffeId, UnixTime, Verified, Workload, WorkloadProof};
use countersign_pki::verify::{Expectation, Usage, verify_peer};
use rustls::pki_types::CertificateDer;

use super::EvidenceError;
use crate::tls::TrustState;

/// Judges the chain (leaf first) of a client of `proxy`: the five checks anew, by our own bundles and revocation lists.
/// That the client holds the key is the word of the proxy, which has to be listed for that.
///
/// # Errors
/// The first check that fails.
pub fn authenticate_forwarded(
    chain: &[CertificateDer<'_>],
    trust: &TrustState,
    now: UnixTime,
) -> Result<Verified<Workload>, EvidenceError> {
    let trust = trust.load();
    let (bundles, anyone) = (trust.bundles(), Expectation::AnyInBundle);
    Ok(verify_peer(chain, bundles, now, Usage::Client, anyone, trust.crl_policy()).outcome?)
}

/// The caller whose request came through `proxy`, with the workload that connected there. Nothing binds the request to
/// that workload's connection any more, and whoever may speak for the proxy could present it again.
#[must_use]
pub fn behind_proxy(caller: &Caller, workload: Verified<Workload>, proxy: SpiffeId) -> Caller {
    let user = caller.user().cloned();
    let freshness = if user.is_some() { caller.proof().freshness } else { Freshness::Reusable };
    let proof = Proof { workload: WorkloadProof::Certificate, freshness, ..*caller.proof() };
    Caller::new(Some(workload), user, vec![proxy], proof)
}
