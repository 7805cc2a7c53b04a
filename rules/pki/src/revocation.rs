//! Taking certificates back: CRLs of version 2 (RFC 5280 section 5), made, read and looked up.

mod read;

use std::cmp::Ordering;
use std::sync::OnceLock;
use std::time::Duration;

use countersign_identity::UnixTime;
use countersign_keys::sha256;
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::der::{self, Reader};
use crate::issue::Issuer;
use crate::path::IssuerKey;
use crate::{profile, x509};
use read::{Entry, Facts, compare, entry_at};

/// Why a certificate was revoked (RFC 5280 section 5.3.1). Holds and partial lists do not exist here.
/// In JSON as [`RevocationReason::as_str`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub enum RevocationReason {
    /// No reason given, or one that is not used here.
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

/// A revoked certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedEntry {
    /// Serial number, big-endian, with or without leading zeros, at most 20 bytes.
    pub serial: Vec<u8>,
    /// When it was revoked.
    pub at: UnixTime,
    /// Why.
    pub reason: RevocationReason,
    /// When the certificate itself ends.
    pub not_after: UnixTime,
}

/// A CRL. It keeps its DER once, beside four bytes per entry for looking up.
#[derive(Debug, Clone)]
pub struct Crl {
    der: Vec<u8>,
    /// Where each entry starts in `der`, ordered by serial number.
    entries: Vec<u32>,
    facts: Facts,
    /// SHA-256 of the public key that verified the signature, once one has.
    verified_by: OnceLock<[u8; 32]>,
}

/// Why a CRL is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrlError {
    /// Not DER of a CRL, version 2, in the form of RFC 5280.
    #[error("the CRL is not a DER certificate list of version 2")]
    Malformed,
    /// More than [`CRL_BYTES_MAX`].
    #[error("the CRL has {bytes} bytes, more than {CRL_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Without a number nobody can tell which of two CRLs is newer.
    #[error("the CRL has no number")]
    NoNumber,
    /// Without its issuer's key identifier.
    #[error("the CRL does not identify its issuer's key")]
    NoAuthorityKeyId,
    /// A critical extension, such as those of partial, delta and indirect CRLs.
    #[error(
        "the CRL has a critical extension that is not understood; partial and delta CRLs are not supported"
    )]
    UnknownCriticalExtension,
    /// The CA that was given is not a certificate.
    #[error("the issuer of the CRL is not a DER certificate")]
    IssuerMalformed,
    /// Another CA issued it.
    #[error("the CRL was issued by another CA")]
    OtherIssuer,
    /// The CA may not sign CRLs.
    #[error("the issuer of the CRL lacks the key usage cRLSign")]
    IssuerNotCrlSigner,
    /// The signature does not fit.
    #[error("the CRL's signature does not fit its issuer's key")]
    Signature,
    /// Past its next update.
    #[error("the CRL expired at {} (unix seconds); fetch the current one", .next_update.secs())]
    Expired {
        /// When the next one was due.
        next_update: UnixTime,
    },
    /// Dated ahead of now.
    #[error("the CRL is dated ahead of now; check the clock")]
    NotYetValid,
}

/// Why no CRL was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MakeCrlError {
    /// `next_update` does not lie after `now`, or lies so far ahead that entries would leave too early.
    #[error("the CRL's next update must lie within {} hours", CRL_LIFE_MAX.as_secs() / 3600)]
    NextUpdate,
    /// A serial number that no certificate of ours has.
    #[error("a revoked serial number is empty, zero or longer than 20 octets")]
    Serial,
    /// The encoder refused the content.
    #[error("the CRL could not be written")]
    Encode,
}

/// Makes a CRL from every certificate of this issuer that was ever revoked.
///
/// Which of them are listed is decided here: a certificate leaves the list only when it has been expired for
/// longer than any CRL lives, so that it was on one issued after its end (RFC 5280 section 3.3).
/// `number` must grow with each CRL of this issuer.
pub fn make_crl(
    issuer: &Issuer,
    number: u64,
    revoked: &[RevokedEntry],
    now: UnixTime,
    next_update: UnixTime,
) -> Result<Vec<u8>, MakeCrlError> {
    if next_update.secs() <= now.secs() || next_update > now.saturating_add(CRL_LIFE_MAX) {
        return Err(MakeCrlError::NextUpdate);
    }
    let listed = revoked.iter().filter(|entry| entry.is_listed(now));
    let params = CertificateRevocationListParams {
        this_update: profile::at(now),
        next_update: profile::at(next_update),
        crl_number: SerialNumber::from_slice(&number.to_be_bytes()),
        issuing_distribution_point: None,
        revoked_certs: listed.map(RevokedEntry::params).collect::<Result<_, _>>()?,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = params.signed_by(issuer.signer()).map_err(|_| MakeCrlError::Encode)?;
    Ok(list.der().to_vec())
}

impl RevokedEntry {
    /// Whether a CRL made at `now` names it.
    pub fn is_listed(&self, now: UnixTime) -> bool {
        now < self.not_after.saturating_add(CRL_LIFE_MAX)
    }

    fn params(&self) -> Result<RevokedCertParams, MakeCrlError> {
        let serial = x509::magnitude(&self.serial);
        let fits =
            !serial.is_empty() && serial.len() <= 20 && (serial.len() < 20 || serial.first() < Some(&0x80));
        if !fits {
            return Err(MakeCrlError::Serial);
        }
        Ok(RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: profile::at(self.at),
            reason_code: self.reason.to_code(),
            invalidity_date: None,
        })
    }
}

impl Crl {
    /// Reads a CRL whose issuer is known, and verifies its signature, its issuer's right to sign CRLs, and that
    /// it has not expired at `now`.
    pub fn parse(der: &[u8], issuer: &CertificateDer<'_>, now: UnixTime) -> Result<Self, CrlError> {
        let crl = Self::read(der)?;
        let issuer = x509::parse(issuer).ok_or(CrlError::IssuerMalformed)?;
        if issuer.subject().as_raw() != crl.issuer_name() {
            return Err(CrlError::OtherIssuer);
        }
        crl.verify(&IssuerKey::of(&issuer))?;
        crl.check_current(now)?;
        Ok(crl)
    }

    /// Reads a CRL whose issuer is not at hand yet. [`crate::verify_peer`] verifies the signature against the
    /// issuer in the peer's own verified chain before it believes a word of it, and remembers that it has.
    pub fn read(der: &[u8]) -> Result<Self, CrlError> {
        if der.len() > CRL_BYTES_MAX {
            return Err(CrlError::TooLong { bytes: der.len() });
        }
        let facts = Facts::read(der)?;
        let mut entries = Vec::new();
        let mut list = Reader::new(der.get(facts.list.0..facts.list.1).unwrap_or_default());
        let mut at = facts.list.0;
        while !list.is_empty() {
            let entry = list.any().ok_or(CrlError::Malformed)?;
            Entry::read(entry.whole)?;
            entries.push(u32::try_from(at).map_err(|_| CrlError::Malformed)?);
            at += entry.whole.len();
        }
        entries.shrink_to_fit();
        let serial_at = |start: &u32| entry_at(der, *start).map(|entry| entry.serial).unwrap_or_default();
        entries.sort_unstable_by(|left, right| compare(serial_at(left), serial_at(right)));
        Ok(Self { der: der.to_vec(), entries, facts, verified_by: OnceLock::new() })
    }

    /// Whether the certificate with this serial number is revoked. O(log n) in the length of the list.
    pub fn is_revoked(&self, serial: &[u8]) -> bool {
        self.reason(serial).is_some()
    }

    /// Whether `certificate` is on the list: serial numbers are unique below one issuer only. The signature of the list is
    /// not looked at.
    pub fn revokes(&self, certificate: &CertificateDer<'_>) -> bool {
        x509::parse(certificate).is_some_and(|certificate| {
            certificate.issuer().as_raw() == self.issuer_name() && self.is_revoked(certificate.raw_serial())
        })
    }

    /// Why the certificate with this serial number (big-endian, leading zeros or not) is revoked, if it is.
    pub fn reason(&self, serial: &[u8]) -> Option<RevocationReason> {
        let wanted = x509::magnitude(serial);
        let found = self.entries.binary_search_by(|start| {
            entry_at(&self.der, *start).map_or(Ordering::Less, |entry| compare(entry.serial, wanted))
        });
        let start = self.entries.get(found.ok()?)?;
        entry_at(&self.der, *start).map(|entry| entry.reason)
    }

    /// Its number, which grows with every CRL of its issuer.
    pub fn number(&self) -> u64 {
        self.facts.number
    }

    /// When it was made.
    pub fn this_update(&self) -> UnixTime {
        self.facts.this_update
    }

    /// Until when the next one will have been made.
    pub fn next_update(&self) -> UnixTime {
        self.facts.next_update
    }

    /// The CRL itself.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// How many certificates it lists.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it lists none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Memory that it holds: its DER and four bytes per entry.
    pub fn heap_bytes(&self) -> usize {
        self.der.capacity() + self.entries.capacity() * size_of::<u32>()
    }

    /// Everything it lists, by serial number: the serial, when it was revoked, and why.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], UnixTime, RevocationReason)> {
        self.entries.iter().filter_map(|start| {
            entry_at(&self.der, *start).map(|entry| (entry.serial, entry.at, entry.reason))
        })
    }

    /// The issuer's Name, DER.
    pub(crate) fn issuer_name(&self) -> &[u8] {
        self.der.get(self.facts.issuer.0..self.facts.issuer.1).unwrap_or_default()
    }

    /// Past its next update, or dated ahead?
    pub(crate) fn check_current(&self, now: UnixTime) -> Result<(), CrlError> {
        if now > self.facts.next_update {
            return Err(CrlError::Expired { next_update: self.facts.next_update });
        }
        if now.saturating_add(countersign_identity::CLOCK_SKEW) < self.facts.this_update {
            return Err(CrlError::NotYetValid);
        }
        Ok(())
    }

    /// Whether this CA signed it and may. The costly part is done once per CRL.
    pub(crate) fn verify(&self, issuer: &IssuerKey) -> Result<(), CrlError> {
        if !issuer.signs_crls {
            return Err(CrlError::IssuerNotCrlSigner);
        }
        let key_id = self.der.get(self.facts.key_id.0..self.facts.key_id.1);
        if issuer.key_id.as_deref() != key_id {
            return Err(CrlError::OtherIssuer);
        }
        let key = sha256(&issuer.spki_der);
        if self.verified_by.get() == Some(&key) {
            return Ok(());
        }
        self.verify_signature(&issuer.spki_der).ok_or(CrlError::Signature)?;
        // Somebody else may have been faster, with the same result.
        let _ = self.verified_by.set(key);
        Ok(())
    }

    fn verify_signature(&self, spki_der: &[u8]) -> Option<()> {
        let mut certificate_list = Reader::new(Reader::new(&self.der).read(der::SEQUENCE)?);
        let signed = certificate_list.element(der::SEQUENCE)?.whole;
        let algorithm = certificate_list.read(der::SEQUENCE)?;
        let signature = certificate_list.read(der::BIT_STRING)?.strip_prefix(&[0])?;
        let mut spki = Reader::new(Reader::new(spki_der).read(der::SEQUENCE)?);
        let key_algorithm = spki.read(der::SEQUENCE)?;
        let key = spki.read(der::BIT_STRING)?.strip_prefix(&[0])?;
        webpki::ALL_VERIFICATION_ALGS
            .iter()
            .filter(|known| known.signature_alg_id().as_ref() == algorithm)
            .filter(|known| known.public_key_alg_id().as_ref() == key_algorithm)
            .any(|known| known.verify_signature(key, signed, signature).is_ok())
            .then_some(())
    }
}

impl RevocationReason {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::CaCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::PrivilegeWithdrawn,
    ];

    /// Its name on the command line and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::CaCompromise => "cACompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
            Self::PrivilegeWithdrawn => "privilegeWithdrawn",
        }
    }

    /// The reason with this name, however it is hyphenated: `keyCompromise`, `key-compromise`, `key_compromise`.
    pub fn parse(name: &str) -> Option<Self> {
        let bare: String = name.chars().filter(|c| !matches!(c, '-' | '_')).collect();
        Self::ALL.into_iter().find(|reason| reason.as_str().eq_ignore_ascii_case(&bare))
    }

    /// RFC 5280 says to leave out the code for "unspecified".
    fn to_code(self) -> Option<rcgen::RevocationReason> {
        match self {
            Self::Unspecified => None,
            Self::KeyCompromise => Some(rcgen::RevocationReason::KeyCompromise),
            Self::CaCompromise => Some(rcgen::RevocationReason::CaCompromise),
            Self::AffiliationChanged => Some(rcgen::RevocationReason::AffiliationChanged),
            Self::Superseded => Some(rcgen::RevocationReason::Superseded),
            Self::CessationOfOperation => Some(rcgen::RevocationReason::CessationOfOperation),
            Self::PrivilegeWithdrawn => Some(rcgen::RevocationReason::PrivilegeWithdrawn),
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::KeyCompromise,
            2 => Self::CaCompromise,
            3 => Self::AffiliationChanged,
            4 => Self::Superseded,
            5 => Self::CessationOfOperation,
            9 => Self::PrivilegeWithdrawn,
            // Foreign CRLs may hold others (certificateHold); listed is revoked, whatever the reason.
            _ => Self::Unspecified,
        }
    }
}

impl From<RevocationReason> for &'static str {
    fn from(reason: RevocationReason) -> Self {
        reason.as_str()
    }
}

impl TryFrom<String> for RevocationReason {
    type Error = UnknownReason;

    fn try_from(name: String) -> Result<Self, UnknownReason> {
        Self::parse(&name).ok_or(UnknownReason)
    }
}

/// There is no such revocation reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown revocation reason; use one of RFC 5280, such as keyCompromise")]
pub struct UnknownReason;

/// The longest CRL that is read: about 400,000 entries.
pub const CRL_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The longest time from one CRL to the next, and how long an expired certificate stays listed.
pub const CRL_LIFE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
