//! Issuing: profile + key + name + time = certificate. Nothing of a request but its key is ever copied.

use std::time::Duration;

use countersign_identity::{SpiffeId, TrustDomain, UnixTime};
use countersign_keys::{KeyPair, PublicKey};
use rustls_pki_types::CertificateDer;

use crate::csr::Csr;
use crate::profile::{EdgeNames, LeafTtl, Profile, TtlError};

/// A CA: its certificate and its key, known to belong together.
pub struct Issuer {
    certificate: CertificateDer<'static>,
    key: KeyPair,
    profile: Profile,
}

/// Which root to make.
#[derive(Debug, Clone, Copy)]
pub enum Root<'a> {
    /// For workloads.
    Workload,
    /// For HTTPS at the edge, able to certify these names, what lies below the DNS names, and no other.
    Edge(&'a EdgeNames),
}

/// A certificate that was just made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// Its serial number, lower-case hexadecimal without leading zeros.
    pub serial_hex: String,
    /// From when it counts: issue minus the clock skew.
    pub not_before: UnixTime,
    /// Until when it counts.
    pub not_after: UnixTime,
}

/// Why nothing was issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// This CA may not sign such a certificate.
    #[error("a {issuer:?} does not sign a {wanted:?}; use the issuer that the profile names")]
    WrongIssuer {
        /// What the issuer is.
        issuer: Profile,
        /// What was to be made.
        wanted: Profile,
    },
    /// The issuer is past its end, or not valid yet.
    #[error("the issuing certificate is not valid now; replace it first")]
    IssuerNotValid,
    /// The request names somebody else.
    #[error("the CSR asks for {asked}, but its sender is {entitled}")]
    OtherId {
        /// The name in the request.
        asked: SpiffeId,
        /// The name it may have.
        entitled: SpiffeId,
    },
    /// The name is not of the issuer's trust domain.
    #[error("{id} is not of the issuer's trust domain")]
    ForeignTrustDomain {
        /// The name.
        id: SpiffeId,
    },
    /// The name has no path: a trust domain is no workload.
    #[error("{id} names a trust domain, not a workload; add a path")]
    NotAWorkload {
        /// The name.
        id: SpiffeId,
    },
    /// The lifetime is out of bounds.
    #[error(transparent)]
    Ttl(#[from] TtlError),
    /// No name, or too many.
    #[error("an edge certificate carries 1 to {} names, not {count}", crate::profile::EDGE_NAMES_MAX)]
    NameCount {
        /// How many were asked for.
        count: usize,
    },
    /// A name that is no DNS name.
    #[error("`{name}` is not a DNS name in lower case")]
    NotADnsName {
        /// The name.
        name: String,
    },
    /// A serial number of zero, which RFC 5280 section 4.1.2.2 forbids.
    #[error("a serial number of zero is not positive; draw 128 random bits")]
    SerialZero,
    /// The encoder refused the content.
    #[error("the certificate could not be written")]
    Encode,
}

/// Why a certificate and a key make no CA.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// Not a certificate.
    #[error("the CA certificate is not a DER certificate")]
    Malformed,
    /// Not a CA of one of our profiles.
    #[error("the certificate is not a CA of this system")]
    NotACa,
    /// The key is of another certificate.
    #[error("the private key does not belong to the CA certificate")]
    KeyMismatch,
}

impl Issuer {
    /// Brings a stored certificate and its key together again.
    pub fn new(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, IssuerError> {
        let _ = (&certificate, &key);
        Err(IssuerError::Malformed)
    }

    /// The CA's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The CA's key, to be sealed and stored.
    pub fn key(&self) -> &KeyPair {
        &self.key
    }

    /// What kind of CA it is.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// When it ends.
    pub fn not_after(&self) -> UnixTime {
        UnixTime::from_secs(0)
    }

    /// Its serial number, lower-case hexadecimal without leading zeros.
    pub fn serial_hex(&self) -> String {
        String::new()
    }
}

/// Makes a root, self-signed by `key`.
pub fn make_root(
    root: Root<'_>,
    trust_domain: &TrustDomain,
    key: KeyPair,
    now: UnixTime,
    serial: [u8; 16],
) -> Result<Issuer, IssueError> {
    let _ = (root, trust_domain, key, now, serial);
    Err(IssueError::Encode)
}

/// Makes an issuing CA under the workload root.
pub fn make_issuing(
    root: &Issuer,
    trust_domain: &TrustDomain,
    key: KeyPair,
    now: UnixTime,
    serial: [u8; 16],
) -> Result<Issuer, IssueError> {
    let _ = (root, trust_domain, key, now, serial);
    Err(IssueError::Encode)
}

/// Issues an X.509-SVID for `id`, of which the caller knows that the sender of the request is entitled to it.
pub fn issue_workload(
    issuer: &Issuer,
    csr: &Csr,
    id: &SpiffeId,
    ttl: LeafTtl,
    now: UnixTime,
    serial: [u8; 16],
) -> Result<Issued, IssueError> {
    issue_svid(issuer, csr, id, Profile::Workload, ttl, now, serial)
}

/// As [`issue_workload`], but for accepting connections only (`--profile server`).
pub fn issue_workload_server_only(
    issuer: &Issuer,
    csr: &Csr,
    id: &SpiffeId,
    ttl: LeafTtl,
    now: UnixTime,
    serial: [u8; 16],
) -> Result<Issued, IssueError> {
    issue_svid(issuer, csr, id, Profile::WorkloadServerOnly, ttl, now, serial)
}

/// Issues an HTTPS server's certificate under the edge root.
pub fn issue_edge_server(
    issuer: &Issuer,
    public_key: &PublicKey,
    names: &EdgeNames,
    ttl: Duration,
    now: UnixTime,
    serial: [u8; 16],
) -> Result<Issued, IssueError> {
    let _ = (issuer, public_key, names, ttl, now, serial);
    Err(IssueError::Encode)
}

/// The share of its life that a certificate has used, counted from issue: 0.0 fresh, 1.0 and more expired.
pub fn life_used(certificate: &CertificateDer<'_>, now: UnixTime) -> Option<f32> {
    let _ = (certificate, now);
    None
}

fn issue_svid(
    issuer: &Issuer,
    csr: &Csr,
    id: &SpiffeId,
    profile: Profile,
    ttl: LeafTtl,
    now: UnixTime,
    serial: [u8; 16],
) -> Result<Issued, IssueError> {
    let _ = (issuer, csr, id, profile, ttl, now, serial);
    Err(IssueError::Encode)
}
