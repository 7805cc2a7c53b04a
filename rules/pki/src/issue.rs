//! Issuing: profile + key + name + time = certificate. Nothing of a request but its key is ever copied.

use std::fmt;
use std::time::Duration;

use countersign_identity::{CLOCK_SKEW, IdKind, SpiffeId, TrustDomain, UnixTime};
use countersign_keys::{KeyPair, PublicKey};
use rustls_pki_types::{CertificateDer, DnsName};

use crate::csr::Csr;
use crate::path::{self, Anchor, PathError, Purpose};
use crate::profile::{self, EDGE_NAMES_MAX, EdgeNames, LeafTtl, Profile, Subject, TtlError};
use crate::x509;

/// A CA: its certificate and its key, known to belong together.
pub struct Issuer {
    certificate: CertificateDer<'static>,
    signer: rcgen::Issuer<'static, Signer>,
    profile: Profile,
    trust_domain: Option<TrustDomain>,
    serial_hex: String,
    not_before: UnixTime,
    not_after: UnixTime,
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
    /// The issuer has not begun, has ended, or has less than a minute left.
    #[error("the issuing certificate is not valid now, or ends within a minute; replace it first")]
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
    /// A name that the edge root's name constraints exclude.
    #[error("the edge root may not certify one of these names: {reason}")]
    NameNotPermitted {
        /// What path validation says.
        reason: PathError,
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
        let parsed = x509::parse(&certificate).ok_or(IssuerError::Malformed)?;
        let profile = Profile::of_ca(&parsed).ok_or(IssuerError::NotACa)?;
        if parsed.public_key().raw != key.public_key().spki_der() {
            return Err(IssuerError::KeyMismatch);
        }
        let (not_before, not_after) = x509::validity(&parsed);
        let signer =
            rcgen::Issuer::from_ca_cert_der(&certificate, Signer(key)).map_err(|_| IssuerError::Malformed)?;
        Ok(Self {
            profile,
            trust_domain: profile::trust_domain_of_ca(&parsed),
            serial_hex: x509::serial_hex(parsed.raw_serial()),
            not_before,
            not_after,
            signer,
            certificate,
        })
    }

    /// The CA's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The CA's key, to be sealed and stored.
    pub fn key(&self) -> &KeyPair {
        &self.signer.key().0
    }

    /// What kind of CA it is.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// When it began: its issue minus the clock skew.
    pub fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// When it ends.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// Its serial number, lower-case hexadecimal without leading zeros.
    pub fn serial_hex(&self) -> &str {
        &self.serial_hex
    }

    pub(crate) fn signer(&self) -> &rcgen::Issuer<'static, Signer> {
        &self.signer
    }

    /// Until when something made now may live: never longer than the issuer.
    fn end(&self, ttl: Duration, now: UnixTime) -> Result<UnixTime, IssueError> {
        let end = now.saturating_add(ttl).min(self.not_after);
        let begun = now >= self.not_before;
        if begun && end >= now.saturating_add(profile::LEAF_TTL_MIN.min(ttl)) {
            Ok(end)
        } else {
            Err(IssueError::IssuerNotValid)
        }
    }

    fn must_be(&self, issuer: Profile, wanted: Profile) -> Result<(), IssueError> {
        if self.profile == issuer {
            Ok(())
        } else {
            Err(IssueError::WrongIssuer { issuer: self.profile, wanted })
        }
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issuer({:?} {})", self.profile, self.serial_hex)
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
    let (profile, subject) = match root {
        Root::Workload => (Profile::WorkloadRoot, Subject::Authority(trust_domain)),
        Root::Edge(names) => {
            check_names(names)?;
            (Profile::EdgeRoot, Subject::EdgeRoot(trust_domain, names))
        }
    };
    let not_after = whole_seconds(now).saturating_add(profile::ROOT_TTL);
    let params =
        profile.params(&subject, not_after, now, positive(serial)?).map_err(|_| IssueError::Encode)?;
    let signer = Signer(key);
    let certificate = params.self_signed(&signer).map_err(|_| IssueError::Encode)?;
    Issuer::new(certificate.into(), signer.0).map_err(|_| IssueError::Encode)
}

/// Makes an issuing CA under the workload root.
pub fn make_issuing(
    root: &Issuer,
    trust_domain: &TrustDomain,
    key: KeyPair,
    now: UnixTime,
    serial: [u8; 16],
) -> Result<Issuer, IssueError> {
    root.must_be(Profile::WorkloadRoot, Profile::Issuing)?;
    let subject = Subject::Authority(trust_domain);
    let issued = sign(root, Profile::Issuing, &subject, key.public_key(), profile::ISSUING_TTL, now, serial)?;
    Issuer::new(issued.der, key).map_err(|_| IssueError::Encode)
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

/// As [`issue_workload`], but for accepting connections only (`--profile server`). Our own verifier refuses
/// it on both sides, since an X.509-SVID with an extended key usage must have both; it is for servers that
/// other software talks to.
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

/// Issues a certificate for a key with which `id` signs tokens and requests, and nothing else: TLS refuses it on
/// both sides. The key is another one than that of its X.509-SVID (RFC 9509).
pub fn issue_signing(
    issuer: &Issuer,
    csr: &Csr,
    id: &SpiffeId,
    ttl: LeafTtl,
    now: UnixTime,
    serial: [u8; 16],
) -> Result<Issued, IssueError> {
    issue_svid(issuer, csr, id, Profile::Signing, ttl, now, serial)
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
    issuer.must_be(Profile::EdgeRoot, Profile::EdgeServer)?;
    check_names(names)?;
    let ttl = profile::within(ttl, profile::EDGE_SERVER_TTL_MAX)?;
    let issued = sign(issuer, Profile::EdgeServer, &Subject::Edge(names), public_key, ttl, now, serial)?;
    // The root's name constraints decide; ask the verifier that clients will ask.
    let anchor = Anchor::new(&issuer.certificate).map_err(|_| IssueError::Encode)?;
    path::validate(&issued.der, &[], &[anchor], now, Purpose::Server)
        .map_err(|reason| IssueError::NameNotPermitted { reason })?;
    Ok(issued)
}

/// The share of its life that a certificate has used, counted from issue: 0.0 fresh, 1.0 and more expired.
/// `None` if it is no certificate.
pub fn life_used(certificate: &CertificateDer<'_>, now: UnixTime) -> Option<f32> {
    let (not_before, not_after) = x509::validity(&x509::parse(certificate)?);
    let issued = not_before.saturating_add(CLOCK_SKEW);
    let whole = not_after.since(issued).as_secs_f32();
    let used = now.since(issued).as_secs_f32();
    Some(if whole > 0.0 { used / whole } else { 1.0 })
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
    issuer.must_be(Profile::Issuing, profile)?;
    if id.kind() == IdKind::TrustDomain {
        return Err(IssueError::NotAWorkload { id: id.clone() });
    }
    if issuer.trust_domain.as_ref() != Some(id.trust_domain()) {
        return Err(IssueError::ForeignTrustDomain { id: id.clone() });
    }
    match csr.requested_id() {
        Some(asked) if asked != id => {
            return Err(IssueError::OtherId { asked: asked.clone(), entitled: id.clone() });
        }
        _ => {}
    }
    sign(issuer, profile, &Subject::Workload(id), csr.public_key(), ttl.duration(), now, serial)
}

fn sign(
    issuer: &Issuer,
    profile: Profile,
    subject: &Subject<'_>,
    public_key: &PublicKey,
    ttl: Duration,
    now: UnixTime,
    serial: [u8; 16],
) -> Result<Issued, IssueError> {
    let now = whole_seconds(now);
    let not_after = issuer.end(ttl, now)?;
    let params =
        profile.params(subject, not_after, now, positive(serial)?).map_err(|_| IssueError::Encode)?;
    let certificate =
        params.signed_by(&Certified(public_key), &issuer.signer).map_err(|_| IssueError::Encode)?;
    Ok(Issued {
        der: certificate.into(),
        serial_hex: x509::serial_hex(&serial),
        not_before: now.saturating_sub(CLOCK_SKEW),
        not_after,
    })
}

/// 128 random bits are at most 17 octets as a positive INTEGER, below the 20 that RFC 5280 allows.
fn positive(serial: [u8; 16]) -> Result<[u8; 16], IssueError> {
    if serial == [0; 16] { Err(IssueError::SerialZero) } else { Ok(serial) }
}

fn whole_seconds(time: UnixTime) -> UnixTime {
    UnixTime::from_secs(time.secs())
}

fn check_names(names: &EdgeNames) -> Result<(), IssueError> {
    let count = names.dns.len() + names.ips.len();
    if count == 0 || count > EDGE_NAMES_MAX {
        return Err(IssueError::NameCount { count });
    }
    let is_dns = |name: &str| {
        DnsName::try_from(name).is_ok() && name.to_ascii_lowercase() == name && !name.ends_with('.')
    };
    match names.dns.iter().find(|name| !is_dns(name)) {
        Some(name) => Err(IssueError::NotADnsName { name: name.clone() }),
        None => Ok(()),
    }
}

/// Lets the certificate encoder sign with a key of ours.
pub(crate) struct Signer(pub(crate) KeyPair);

impl rcgen::PublicKeyData for Signer {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().subject_public_key()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign_asn1(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// Lets the certificate encoder certify a key of somebody else.
struct Certified<'a>(&'a PublicKey);

impl rcgen::PublicKeyData for Certified<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.subject_public_key()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}
