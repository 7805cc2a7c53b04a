//! Whom a WIT may name: the two profiles.

use std::time::Duration;

use countersign_identity::{IdKind, SpiffeId, TrustDomain};
use countersign_keys::Algorithm;

/// A workload identifier, and with it a profile of the drafts. Implemented by [`SpiffeId`] and [`WorkloadUri`],
/// and by nobody else.
pub trait Subject: Sized + Clone + sealed::Sealed {
    /// How long a proof may live. The replay cache has to remember it that long.
    const PROOF_LIFETIME_MAX: Duration;

    /// Reads a `sub`; `None` if it names no workload.
    fn read(sub: &str) -> Option<Self>;

    /// As it stands in `sub`.
    fn as_str(&self) -> &str;

    /// Whose name this is: only a key of this trust domain may sign for it.
    fn trust_domain(&self) -> &TrustDomain;

    /// May a key of this kind sign a WIT, or be named in one?
    fn permits(algorithm: Algorithm) -> bool;
}

/// The SPIFFE WIT-SVID profile. EdDSA is missing from its table of algorithms (section 2.3).
impl Subject for SpiffeId {
    const PROOF_LIFETIME_MAX: Duration = Duration::from_secs(60);

    fn read(sub: &str) -> Option<Self> {
        sub.parse::<Self>().ok().filter(|id| id.kind() != IdKind::TrustDomain)
    }

    fn as_str(&self) -> &str {
        self.as_str()
    }

    fn trust_domain(&self) -> &TrustDomain {
        self.trust_domain()
    }

    fn permits(algorithm: Algorithm) -> bool {
        matches!(algorithm, Algorithm::EcdsaP256)
    }
}

/// The generic profile: any workload identifier (draft-ietf-wimse-identifier section 4.1), which is an absolute
/// URI whose authority is a trust domain, without port, query or fragment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WorkloadUri {
    text: String,
    trust_domain: TrustDomain,
}

impl Subject for WorkloadUri {
    const PROOF_LIFETIME_MAX: Duration = Duration::from_secs(600);

    fn read(sub: &str) -> Option<Self> {
        let (scheme, rest) = sub.split_once("://")?;
        let scheme_is_one = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
        let (authority, path) = rest.split_at(rest.find('/')?);
        let path_is_one = path.len() > 1
            && path.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '"' | '\\'));
        let trust_domain = TrustDomain::parse(authority).ok()?;
        (sub.len() <= URI_BYTES_MAX && scheme_is_one && path_is_one)
            .then(|| Self { text: sub.to_owned(), trust_domain })
    }

    fn as_str(&self) -> &str {
        &self.text
    }

    fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    fn permits(_: Algorithm) -> bool {
        true
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for countersign_identity::SpiffeId {}
    impl Sealed for super::WorkloadUri {}
}

/// Longest workload identifier, in bytes: that of a SPIFFE ID.
const URI_BYTES_MAX: usize = countersign_identity::SPIFFE_ID_BYTES_MAX;
