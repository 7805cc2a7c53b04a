//! Certificate chains of keys that sign requests: path material that came with a token. Their signatures are verified
//! once; whether they still count is asked at every use.
//!
//! *A registered key, else one that is certified by its chain*: three places ask so, and each asks something else, so the
//! chain is judged here and the choice stands with whoever makes it.
//!
//! | who asks | what chooses | what is remembered |
//! |---|---|---|
//! | the door (`authenticate::service_token`) | the token: with `x5t#S256` the chain alone counts, without it the registration | chains that held; one that comes along speaks, known or not |
//! | the token service (`authority: api/sts/client`) | the registration, by `kid`: an assertion has no `x5t#S256` | as here |
//! | `token verify` (`authority: api/verify/signed`) | as the door, whose verdict it foretells | nothing: it tells what it was shown, and whoever asks must not warm a cache |

use std::{fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_identity::UnixTime;
use countersign_ledger::CheckRecord;
use countersign_pki::{
    CERTIFICATE_BYTES_MAX, CertificateDer,
    signer::{Signer, verify_signer},
    verify::{CHAIN_CERTIFICATES_MAX, Expectation, PeerError},
};
use thiserror::Error;

use crate::{
    bounded::Bounded,
    tls::{TrustState, check_records},
};

/// Chains that held when they came: successes alone, found by the name and the thumbprint of their leaf.
pub struct SigningChains {
    trust: Arc<TrustState>,
    known: Bounded<Arc<Signer>>,
}

/// A chain that proves nobody.
#[derive(Clone, Debug)]
pub struct ChainRefusal {
    /// The first check that failed.
    pub error: PeerError,
    /// All five.
    pub checks: Vec<CheckRecord>,
}

/// Why the header `Countersign-Signing-Chain` cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChainHeaderError {
    /// Not an RFC 9651 list of byte sequences.
    #[error("signing chain is not a list of certificates between colons, leaf first")]
    Malformed,
    /// More or longer certificates than a chain has.
    #[error(
        "signing chain is longer than {CHAIN_CERTIFICATES_MAX} certificates of {CERTIFICATE_BYTES_MAX} bytes"
    )]
    TooLong,
}

impl SigningChains {
    /// Judges chains by what `trust` holds at the time.
    #[must_use]
    pub fn new(trust: Arc<TrustState>) -> Self {
        Self { trust, known: Bounded::new(CHAINS_MAX) }
    }

    /// The signer `name` whose certificate has this SHA-256 thumbprint, if its chain came before.
    ///
    /// # Errors
    /// It was believed, and is no longer: expired, revoked, or its root is gone. It is forgotten.
    pub fn known(
        &self,
        name: &str,
        thumbprint: &[u8; 32],
        now: UnixTime,
    ) -> Result<Option<Arc<Signer>>, PeerError> {
        let Some(signer) = self.known.find(thumbprint).filter(|signer| signer.id().as_str() == name) else {
            return Ok(None);
        };
        let trust = self.trust.peek();
        signer
            .recheck(trust.bundles(), now, trust.crl_policy())
            .inspect_err(|_| self.known.forget(thumbprint))?;
        Ok(Some(signer))
    }

    /// Verifies a chain, leaf first, against the bundle of the trust domain that its own leaf names. It is not remembered
    /// before [`SigningChains::keep`] is told of a signature by its key: anybody can show the chain of somebody else.
    ///
    /// # Errors
    /// The first of the five checks that fails.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Arc<Signer>, Box<ChainRefusal>> {
        let trust = self.trust.peek();
        let (verdict, signer) =
            verify_signer(chain, trust.bundles(), now, Expectation::AnyInBundle, trust.crl_policy());
        match (signer, &verdict.outcome) {
            (Some(signer), _) => Ok(Arc::new(signer)),
            (None, outcome) => {
                let unsaid = countersign_pki::verify::UsageError::NotForSigning;
                let error = outcome.as_ref().err().cloned().unwrap_or(unsaid.into());
                Err(Box::new(ChainRefusal { error, checks: check_records(&verdict) }))
            }
        }
    }

    /// Remembers the chain of a signer whose key has signed what came with it.
    pub fn keep(&self, signer: &Arc<Signer>, now: UnixTime) {
        let is_dead = |held: &Arc<Signer>| held.not_after() <= now;
        self.known.keep(*signer.thumbprint(), Arc::clone(signer), is_dead);
    }
}

impl fmt::Debug for SigningChains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningChains({:?})", self.trust)
    }
}

/// Reads `:leaf:, :issuer:`, each the DER of a certificate in base64 (RFC 9651 section 3.3.5).
///
/// # Errors
/// See [`ChainHeaderError`].
pub fn read_chain(header: &str) -> Result<Vec<CertificateDer<'static>>, ChainHeaderError> {
    let mut chain = Vec::new();
    for item in header.split(',') {
        if chain.len() == CHAIN_CERTIFICATES_MAX {
            return Err(ChainHeaderError::TooLong);
        }
        chain.push(certificate(item)?);
    }
    Ok(chain)
}

/// The leaf alone: of a chain that is known, nothing else is looked at.
///
/// # Errors
/// As [`read_chain`].
pub fn read_leaf(header: &str) -> Result<CertificateDer<'static>, ChainHeaderError> {
    certificate(header.split_once(',').map_or(header, |(leaf, _)| leaf))
}

fn certificate(item: &str) -> Result<CertificateDer<'static>, ChainHeaderError> {
    let item = item.trim_matches([' ', '\t']);
    let inner = item.strip_prefix(':').and_then(|rest| rest.strip_suffix(':'));
    let text = inner.filter(|text| !text.is_empty()).ok_or(ChainHeaderError::Malformed)?;
    if text.len() > CERTIFICATE_BYTES_MAX.div_ceil(3) * 4 {
        return Err(ChainHeaderError::TooLong);
    }
    STANDARD.decode(text).map(CertificateDer::from).map_err(|_| ChainHeaderError::Malformed)
}

/// Writes what [`read_chain`] reads.
#[must_use]
pub fn write_chain(chain: &[CertificateDer<'_>]) -> String {
    chain.iter().map(|der| format!(":{}:", STANDARD.encode(der))).collect::<Vec<_>>().join(", ")
}

/// A deployment with more callers than this verifies some chains again.
const CHAINS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_chain_is_read_as_it_was_written() {
        let chain: Vec<_> = [vec![1, 2, 3], vec![255; 100]].map(CertificateDer::from).to_vec();
        assert_eq!(read_chain(&write_chain(&chain)).unwrap(), chain);
        assert_eq!(read_chain(":AQID:,\t:AQID:").unwrap().len(), 2);
    }

    #[test]
    fn rejects_a_header_that_is_no_list_of_certificates() {
        for bad in ["", ":", "::", "AQID", ":AQID", ":AQID:,", ":AQI:", ":AQ_D:", ":AQID: :AQID:"] {
            assert_eq!(read_chain(bad), Err(ChainHeaderError::Malformed), "{bad:?}");
        }
        let many = vec![CertificateDer::from(vec![1]); CHAIN_CERTIFICATES_MAX + 1];
        assert_eq!(read_chain(&write_chain(&many)), Err(ChainHeaderError::TooLong));
        let long = [CertificateDer::from(vec![1; CERTIFICATE_BYTES_MAX + 3])];
        assert_eq!(read_chain(&write_chain(&long)), Err(ChainHeaderError::TooLong));
    }
}
