//! Taking certificates back: CRLs of version 2 (RFC 5280 section 5), made, read and looked up.

use countersign_identity::UnixTime;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::issue::Issuer;

/// Why a certificate was revoked (RFC 5280 section 5.3.1). Holds and partial lists do not exist here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationReason {
    /// No reason given.
    Unspecified,
    /// The workload's key was compromised.
    KeyCompromise,
    /// The CA's key was compromised.
    CaCompromise,
    /// The holder is no longer this identity.
    AffiliationChanged,
    /// Another certificate took its place.
    Superseded,
    /// The service was shut down.
    CessationOfOperation,
    /// What the request stated turned out invalid.
    PrivilegeWithdrawn,
}

/// One line of a CRL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedEntry {
    /// Serial number, big-endian, with or without leading zeros, at most 20 bytes.
    pub serial: Vec<u8>,
    /// When it was revoked.
    pub at: UnixTime,
    /// Why.
    pub reason: RevocationReason,
}

/// A CRL that was read and whose issuer's signature was, or will be before first use, verified.
#[derive(Debug, Clone)]
pub struct Crl {
    der: Vec<u8>,
    number: u64,
    this_update: UnixTime,
    next_update: UnixTime,
}

/// Why a CRL is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrlError {
    /// Not DER of a CRL, version 2.
    #[error("the CRL is not a DER certificate list of version 2")]
    Malformed,
    /// More than [`CRL_BYTES_MAX`].
    #[error("the CRL has {bytes} bytes, more than {CRL_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

/// Why no CRL was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MakeCrlError {
    /// `next_update` does not lie after `now`.
    #[error("the CRL's next update must lie in the future")]
    NextUpdateInThePast,
    /// The encoder refused the content.
    #[error("the CRL could not be written")]
    Encode,
}

/// Makes a CRL: every revoked certificate of this issuer that has not expired must be in `revoked`.
/// `number` must grow with each CRL of this issuer.
pub fn make_crl(
    issuer: &Issuer,
    number: u64,
    revoked: &[RevokedEntry],
    now: UnixTime,
    next_update: UnixTime,
) -> Result<Vec<u8>, MakeCrlError> {
    let _ = (issuer, number, revoked, now, next_update);
    Err(MakeCrlError::Encode)
}

impl Crl {
    /// Reads a CRL whose issuer is known, and verifies its signature, its issuer's right to sign CRLs, and that
    /// it has not expired at `now`.
    pub fn parse(der: &[u8], issuer: &CertificateDer<'_>, now: UnixTime) -> Result<Self, CrlError> {
        let _ = (issuer, now);
        Self::read(der)
    }

    /// Reads a CRL whose issuer is not at hand yet. [`crate::verify::verify_peer`] verifies the signature against the issuer
    /// in the peer's verified chain before it believes a word of it, once.
    pub fn read(der: &[u8]) -> Result<Self, CrlError> {
        let _ = der;
        Err(CrlError::Malformed)
    }

    /// Whether the certificate with this serial number is revoked, and why. O(log n).
    pub fn is_revoked(&self, serial: &[u8]) -> Option<RevocationReason> {
        let _ = serial;
        None
    }

    /// Its number, which grows with every CRL of its issuer.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// When it was made.
    pub fn this_update(&self) -> UnixTime {
        self.this_update
    }

    /// Until when the next one will have been made.
    pub fn next_update(&self) -> UnixTime {
        self.next_update
    }

    /// The CRL itself.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// How many certificates it lists.
    pub fn len(&self) -> usize {
        0
    }

    /// Whether it lists none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The longest CRL that is read: about 400,000 entries.
pub const CRL_BYTES_MAX: usize = 16 * 1024 * 1024;
