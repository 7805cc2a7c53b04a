//! DPoP at the edge (RFC 9449): a user's client proves for each request that it holds the key of its access token.
//!
//! A proof counts once, and only with a nonce that this process made at most two minutes ago. So no proof can be made in
//! advance, none survives a restart, and none that was used here counts at another gateway: its nonces are others.

use countersign_identity::UnixTime;
use countersign_keys::{RandomError, Secret, SecureRandom, random_bytes};
use countersign_request::Head;
use countersign_sdk::replay::ReplayGuard;
use countersign_token::dpop::{
    self, DpopError, DpopNonces, DpopProof, DpopTarget, DpopUri, NONCE_LIFETIME, NonceError,
};
use countersign_token::replay::{ReplayError, Sighting};
use http::HeaderName;

/// Judges proofs, and remembers those that counted.
#[derive(Debug)]
pub(crate) struct Proofs {
    nonces: DpopNonces,
    seen: ReplayGuard,
}

/// A proof that holds for its request, and was not looked up yet.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) proof: DpopProof,
    nonce_made_at: UnixTime,
}

/// Why a proof does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProofError {
    #[error(transparent)]
    Proof(#[from] DpopError),
    #[error(transparent)]
    Nonce(#[from] NonceError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

impl Proofs {
    /// For a process that starts at `now`.
    pub(crate) fn new(rng: &dyn SecureRandom, now: UnixTime) -> Result<Self, RandomError> {
        let nonces = DpopNonces::new(Secret::new(random_bytes(rng)?));
        Ok(Proofs { nonces, seen: ReplayGuard::new(now) })
    }

    /// The nonce for a client's next proofs.
    pub(crate) fn nonce(&self, now: UnixTime) -> String {
        self.nonces.current(now)
    }

    /// Does the proof fit the request that came over `scheme`, and the token beside it? At login there is none yet.
    pub(crate) fn judge(
        &self,
        proof: &str,
        scheme: &str,
        request: &impl Head,
        access_token: Option<&str>,
        now: UnixTime,
    ) -> Result<Judged, ProofError> {
        let uri = DpopUri::of_request(scheme, request);
        let target = DpopTarget { method: request.method(), uri, access_token };
        let proof = dpop::verify(proof, &target, now)?;
        let nonce_made_at = self.nonces.judge(proof.nonce(), now)?;
        Ok(Judged { proof, nonce_made_at })
    }

    /// Accepts it for the first and only time. Ask once the token was found to be bound to its key: strangers fill
    /// nothing.
    pub(crate) fn admit(&self, judged: &Judged, now: UnixTime) -> Result<(), ProofError> {
        let sighting = Sighting {
            issuer: judged.proof.jkt(),
            jti: judged.proof.jti(),
            // By the nonce, which our own clock dated: what the client's says does not matter.
            issued_at: judged.nonce_made_at,
            expires: judged.nonce_made_at.saturating_add(NONCE_LIFETIME),
            // The nonce ties it to this process, as a channel would: no other can have accepted it.
            channel_bound: true,
        };
        Ok(self.seen.admit(&sighting, now)?)
    }
}

/// Carries the nonce for the next proof (RFC 9449 section 8).
pub(crate) const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");
