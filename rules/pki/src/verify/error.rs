//! Why a peer is refused: one enum for each of the five checks.

use countersign_identity::{IdError, SpiffeId, TrustDomain};

use super::{CHAIN_CERTIFICATES_MAX, CheckName};
use crate::path::PathError;
use crate::revocation::{CrlError, RevocationReason};
use crate::x509::CERTIFICATE_BYTES_MAX;

/// Why a peer is refused: the check that failed, and its reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The certificate may not be used so.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// It is not valid now.
    #[error(transparent)]
    Validity(#[from] ValidityError),
    /// It does not lead to a root of its own trust domain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// It is revoked, or nobody can say.
    #[error(transparent)]
    Revocation(#[from] RevocationError),
    /// It names nobody, or somebody else.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl PeerError {
    /// Which of the five checks failed.
    pub fn check(&self) -> CheckName {
        match self {
            Self::Usage(_) => CheckName::Usage,
            Self::Validity(_) => CheckName::Validity,
            Self::Chain(_) => CheckName::Chain,
            Self::Revocation(_) => CheckName::Revocation,
            Self::Identity(_) => CheckName::Identity,
        }
    }
}

/// Check 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// It presented none.
    #[error("the peer presented no certificate; direct connections must be mutually authenticated")]
    NoCertificate,
    /// More certificates than [`CHAIN_CERTIFICATES_MAX`], or one that is too long.
    #[error(
        "the peer presented more than {CHAIN_CERTIFICATES_MAX} certificates or one above {CERTIFICATE_BYTES_MAX} bytes"
    )]
    TooMuch,
    /// What it presented is no certificate.
    #[error("the peer's certificate is not a DER X.509 certificate of version 3")]
    Malformed,
    /// A CA is no peer.
    #[error("the peer's certificate is a CA; a workload presents a leaf")]
    Ca,
    /// Key usage is missing, not critical, or lacks digitalSignature.
    #[error("the peer's certificate lacks a critical key usage with digitalSignature")]
    NoDigitalSignature,
    /// It could sign certificates or CRLs.
    #[error("the peer's certificate has the key usage keyCertSign or cRLSign; a workload signs neither")]
    SignsCertificates,
    /// Extended key usage without clientAuth (1.3.6.1.5.5.7.3.2).
    #[error("the peer's certificate is not for client authentication; issue it with the workload profile")]
    NoClientAuth,
    /// Extended key usage without serverAuth (1.3.6.1.5.5.7.3.1).
    #[error("the peer's certificate is not for server authentication; issue it with the workload profile")]
    NoServerAuth,
    /// Extended key usage that is not id-kp-jwt (1.3.6.1.5.5.7.3.37) alone.
    #[error("the certificate is not for signing tokens alone; issue it with the signing profile")]
    NotForSigning,
}

/// Check 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValidityError {
    /// It has ended.
    #[error("the peer's certificate expired {} s ago; it should have been renewed at half its life", .by.as_secs())]
    Expired {
        /// How long ago.
        by: std::time::Duration,
    },
    /// It has not begun.
    #[error("the peer's certificate is not valid for another {} s; compare the clocks", .by.as_secs())]
    NotYetValid {
        /// How long until it is.
        by: std::time::Duration,
    },
}

/// Check 3.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// We hold no bundle of its trust domain.
    #[error("there is no bundle of the trust domain {trust_domain}; federate with it first")]
    NoBundle {
        /// The trust domain in its name.
        trust_domain: TrustDomain,
    },
    /// No path to a root of that bundle holds.
    #[error(transparent)]
    Path(#[from] PathError),
}

/// Check 4.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// It, or a CA above it, is listed.
    #[error("certificate {serial_hex} is revoked ({})", .reason.as_str())]
    Revoked {
        /// Which certificate of the chain.
        serial_hex: String,
        /// Why.
        reason: RevocationReason,
    },
    /// No CRL of its issuer is in the bundle.
    #[error("the bundle holds no CRL of the certificate's issuer; the revocation state is unknown")]
    NoCrl,
    /// The CRL of its issuer does not count.
    #[error("the CRL of the certificate's issuer does not count")]
    Crl(#[from] CrlError),
}

/// Check 5.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// No alternative names.
    #[error("the peer's certificate names nobody; an X.509-SVID has exactly one URI name")]
    NoName,
    /// The alternative names cannot be read, or one of them holds a control byte.
    #[error("a name in the peer's certificate cannot be read or holds a control byte")]
    MalformedName,
    /// More than one URI, of whatever scheme.
    #[error("the peer's certificate has {count} URI names, not exactly one")]
    UriCount {
        /// How many.
        count: usize,
    },
    /// The URI is no SPIFFE ID.
    #[error("the URI name in the peer's certificate is no SPIFFE ID")]
    NotASpiffeId(#[source] IdError),
    /// A trust domain is no workload.
    #[error("the peer's certificate names a whole trust domain, not a workload")]
    NotAWorkload,
    /// The subject is empty and the name is not critical.
    #[error("the peer's certificate has an empty subject, but its name is not critical")]
    NameNotCritical,
    /// A valid certificate of somebody else.
    #[error("the peer is {got}, which is not the expected one")]
    Unexpected {
        /// Who it is.
        got: SpiffeId,
    },
    /// A valid certificate of the same name, but not the pinned one.
    #[error("the certificate of {got} is not the pinned one")]
    OtherThumbprint {
        /// Who it is.
        got: SpiffeId,
    },
}
