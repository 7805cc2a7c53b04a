//! DPoP at the authority (RFC 9449 section 5): a token that is asked for beside a proof is bound to its key.

use countersign_identity::UnixTime;
use countersign_request::CanonicalRequest;
use countersign_token::{
    Sighting,
    dpop::{self, DpopProof, DpopTarget, DpopUri},
};
use countersign_wire::codes::Code;
use http::{HeaderMap, Method, Uri, Version};

use super::Sts;

/// Why a proof does not count.
#[derive(Clone, Debug)]
pub(crate) struct ProofRefusal {
    pub(crate) code: Code,
    /// For the ledger.
    pub(crate) reason: String,
    /// With what the client makes its next one, where that could help.
    pub(crate) nonce: Option<String>,
}

impl Sts {
    /// The key that a `POST` proves to hold, if it carries a proof: for the first and only time.
    pub(crate) fn proven_key(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        version: Version,
        now: UnixTime,
    ) -> Result<Option<DpopProof>, ProofRefusal> {
        let Some(header) = headers.get(countersign_request::DPOP) else { return Ok(None) };
        let text = header.to_str().map_err(|_| ProofRefusal::new("the header is no text"))?;
        let request = CanonicalRequest::parse(&Method::POST, uri, headers, version);
        let uri = DpopUri::of_request("https", &request.map_err(ProofRefusal::new)?);
        let target = DpopTarget { method: &Method::POST, uri, access_token: None };
        let proof = dpop::verify(text, &target, now).map_err(ProofRefusal::new)?;
        self.nonces.judge(proof.nonce(), now).map_err(|error| ProofRefusal {
            code: Code::DpopNonceNeeded,
            nonce: Some(self.nonces.current(now)),
            ..ProofRefusal::new(error)
        })?;
        let sighting = Sighting {
            issuer: proof.jkt(),
            jti: proof.jti(),
            issued_at: proof.issued_at(),
            expires: proof.expires(),
            // The nonce is ours and fresh: no process before this one could have seen the proof.
            channel_bound: true,
        };
        self.replay.admit(&sighting, now).map_err(ProofRefusal::new)?;
        Ok(Some(proof))
    }
}

impl ProofRefusal {
    fn new(reason: impl ToString) -> Self {
        Self { code: Code::DpopProofRefused, reason: reason.to_string(), nonce: None }
    }
}
