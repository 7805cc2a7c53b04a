//! What every certificate of ours contains. The only home of that rule: issuing writes what is said here,
//! verifying reads it.
//!
//! | profile | lifetime | why |
//! |---|---|---|
//! | workload root | 10 years | replaced by hand, its key is used a few times a year |
//! | issuing CA | 90 days | online, so it is replaced by the authority itself long before it ends |
//! | workload, server only, signing | 1 hour (1 minute to 24 hours) | a stolen key dies before most people notice the theft |
//! | edge root | 10 years | people install it in their trust stores: replacing it is work for them |
//! | edge server | 30 days (at most 90) | renewed by the authority, and no client holds on to it |
//!
//! A leaf is backdated by [`CLOCK_SKEW`], and its lifetime counts from the moment of issue.

use std::net::IpAddr;
use std::time::Duration;

use countersign_identity::{CLOCK_SKEW, IdKind, SpiffeId, TrustDomain, UnixTime};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints, SanType, SerialNumber,
};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::x509;

/// The kinds of certificates that exist here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// The root of a trust domain's workloads: self-signed, path length 1, URI SAN of the trust domain.
    WorkloadRoot,
    /// Signs workload certificates and CRLs: path length 0.
    Issuing,
    /// An X.509-SVID: exactly one URI SAN, clientAuth and serverAuth.
    Workload,
    /// An X.509-SVID for a process that only accepts connections: serverAuth alone.
    WorkloadServerOnly,
    /// For signing tokens and requests: exactly one URI SAN and id-kp-jwt (RFC 9509) alone, so that neither end of a
    /// TLS connection accepts it.
    Signing,
    /// The root for HTTPS at the edge: self-signed, path length 0, name-constrained. Never signs workloads.
    EdgeRoot,
    /// An HTTPS server's certificate: DNS and IP names, serverAuth alone.
    EdgeServer,
}

/// How long a workload's certificate lives: 1 minute to 24 hours, 1 hour unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeafTtl(Duration);

/// A lifetime outside its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TtlError {
    /// Below [`LEAF_TTL_MIN`].
    #[error("a lifetime of {} s is below one minute", .asked.as_secs())]
    TooShort {
        /// What was asked for.
        asked: Duration,
    },
    /// Above the profile's limit.
    #[error("a lifetime of {} s is above the limit of {} s", .asked.as_secs(), .limit.as_secs())]
    TooLong {
        /// What was asked for.
        asked: Duration,
        /// The limit.
        limit: Duration,
    },
}

impl LeafTtl {
    /// A lifetime within [`LEAF_TTL_MIN`] and [`LEAF_TTL_MAX`].
    pub fn new(asked: Duration) -> Result<Self, TtlError> {
        Ok(Self(within(asked, LEAF_TTL_MAX)?))
    }

    /// The lifetime.
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl Default for LeafTtl {
    fn default() -> Self {
        Self(LEAF_TTL_DEFAULT)
    }
}

/// The names an edge certificate carries, or that an edge root may ever certify.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EdgeNames {
    /// DNS names, lower case.
    pub dns: Vec<String>,
    /// IP addresses.
    pub ips: Vec<IpAddr>,
}

impl EdgeNames {
    /// What a deployment on one machine needs: the trust domain's own name, `localhost` and the loopback addresses.
    pub fn local(trust_domain: &TrustDomain) -> Self {
        Self {
            dns: vec![trust_domain.as_str().to_owned(), "localhost".to_owned()],
            ips: vec![IpAddr::from([127, 0, 0, 1]), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)],
        }
    }
}

/// The shortest life of a leaf.
pub const LEAF_TTL_MIN: Duration = Duration::from_secs(60);
/// The longest life of a workload's certificate.
pub const LEAF_TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// The usual life of a workload's certificate.
pub const LEAF_TTL_DEFAULT: Duration = Duration::from_secs(3600);
/// Life of both roots: 10 years.
pub const ROOT_TTL: Duration = Duration::from_secs(3650 * DAY_SECS);
/// Life of an issuing CA: 90 days.
pub const ISSUING_TTL: Duration = Duration::from_secs(90 * DAY_SECS);
/// The usual life of an edge server's certificate: 30 days.
pub const EDGE_SERVER_TTL_DEFAULT: Duration = Duration::from_secs(30 * DAY_SECS);
/// The longest life of an edge server's certificate: 90 days.
pub const EDGE_SERVER_TTL_MAX: Duration = Duration::from_secs(90 * DAY_SECS);
/// From this share of its life on, a CA is to be replaced.
pub const LIFE_USED_WARNING: f32 = 0.8;
/// id-kp-jwt (RFC 9509 section 3): its key signs JSON Web Tokens.
pub const ID_KP_JWT: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 37];
/// Names in one edge certificate.
pub const EDGE_NAMES_MAX: usize = 64;
const DAY_SECS: u64 = 24 * 3600;

pub(crate) fn within(asked: Duration, limit: Duration) -> Result<Duration, TtlError> {
    if asked < LEAF_TTL_MIN {
        return Err(TtlError::TooShort { asked });
    }
    if asked > limit {
        return Err(TtlError::TooLong { asked, limit });
    }
    Ok(asked)
}

/// What is certified, besides the key.
pub(crate) enum Subject<'a> {
    /// A CA of this trust domain.
    Authority(&'a TrustDomain),
    /// An edge root of this trust domain, for these names and what lies below them.
    EdgeRoot(&'a TrustDomain, &'a EdgeNames),
    /// A workload.
    Workload(&'a SpiffeId),
    /// An edge server.
    Edge(&'a EdgeNames),
}

impl Profile {
    /// Whether certificates of this kind sign others.
    pub fn is_ca(self) -> bool {
        matches!(self, Self::WorkloadRoot | Self::Issuing | Self::EdgeRoot)
    }

    /// How many CA certificates may follow below one of this kind; `None` for a leaf.
    pub fn path_length(self) -> Option<u8> {
        match self {
            Self::WorkloadRoot => Some(1),
            Self::Issuing | Self::EdgeRoot => Some(0),
            Self::Workload | Self::WorkloadServerOnly | Self::Signing | Self::EdgeServer => None,
        }
    }

    /// Critical key usage (RFC 5280 section 4.2.1.3).
    pub fn key_usages(self) -> Vec<KeyUsagePurpose> {
        if self.is_ca() {
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign]
        } else {
            vec![KeyUsagePurpose::DigitalSignature]
        }
    }

    /// Extended key usage (RFC 5280 section 4.2.1.12); none on a CA.
    pub fn extended_key_usages(self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Self::Workload => vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
            Self::WorkloadServerOnly | Self::EdgeServer => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Self::Signing => vec![ExtendedKeyUsagePurpose::Other(ID_KP_JWT.to_vec())],
            Self::WorkloadRoot | Self::Issuing | Self::EdgeRoot => Vec::new(),
        }
    }

    /// Which kind of CA this certificate is, by its content; `None` if it is none of ours.
    pub(crate) fn of_ca(certificate: &X509Certificate<'_>) -> Option<Self> {
        let constraints = certificate.basic_constraints().ok()??;
        let usage = certificate.key_usage().ok()??;
        if !constraints.value.ca || !usage.value.key_cert_sign() || !usage.value.crl_sign() {
            return None;
        }
        let self_issued = certificate.subject().as_raw() == certificate.issuer().as_raw();
        let for_workloads = trust_domain_of_ca(certificate).is_some();
        [Self::WorkloadRoot, Self::Issuing, Self::EdgeRoot].into_iter().find(|profile| {
            profile.path_length().map(u32::from) == constraints.value.path_len_constraint
                && self_issued == (*profile != Self::Issuing)
                && for_workloads == (*profile != Self::EdgeRoot)
        })
    }

    /// The common name of a CA. Leaves have an empty subject: their name is in the critical SAN and nowhere else.
    fn common_name(self) -> Option<&'static str> {
        match self {
            Self::WorkloadRoot => Some("Countersign workload root"),
            Self::Issuing => Some("Countersign issuing CA"),
            Self::EdgeRoot => Some("Countersign edge root"),
            Self::Workload | Self::WorkloadServerOnly | Self::Signing | Self::EdgeServer => None,
        }
    }

    /// The whole content but for the key and the issuer.
    pub(crate) fn params(
        self,
        subject: &Subject<'_>,
        not_after: UnixTime,
        now: UnixTime,
        serial: [u8; 16],
    ) -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.not_before = at(now.saturating_sub(CLOCK_SKEW));
        params.not_after = at(not_after);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.distinguished_name = self.distinguished_name(subject, serial);
        params.subject_alt_names = names(subject)?;
        params.is_ca = match self.path_length() {
            Some(length) => IsCa::Ca(BasicConstraints::Constrained(length)),
            None => IsCa::ExplicitNoCa,
        };
        params.key_usages = self.key_usages();
        params.extended_key_usages = self.extended_key_usages();
        params.name_constraints = constraints(subject);
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    /// A CA's name ends in the start of its serial, so that two generations never share a name and a path
    /// through the wrong one is not even tried.
    fn distinguished_name(self, subject: &Subject<'_>, serial: [u8; 16]) -> DistinguishedName {
        let mut name = DistinguishedName::new();
        if let (Some(common), Subject::Authority(domain) | Subject::EdgeRoot(domain, _)) =
            (self.common_name(), subject)
        {
            let generation = serial.get(..4).map(countersign_keys::hash::hex).unwrap_or_default();
            // X.520 allows 64 characters for an organisation; a longer trust domain is in the URI SAN in full.
            name.push(DnType::OrganizationName, domain.as_str().chars().take(64).collect::<String>());
            name.push(DnType::CommonName, format!("{common} {generation}"));
        }
        name
    }
}

/// Whose CA this is: the trust domain in its one URI SAN.
pub(crate) fn trust_domain_of_ca(certificate: &X509Certificate<'_>) -> Option<TrustDomain> {
    match x509::subject_alt_names(certificate).ok()?? {
        (_, [GeneralName::URI(uri)]) => SpiffeId::parse(uri)
            .ok()
            .filter(|id| id.kind() == IdKind::TrustDomain)
            .map(|id| id.trust_domain().clone()),
        _ => None,
    }
}

fn names(subject: &Subject<'_>) -> Result<Vec<SanType>, rcgen::Error> {
    Ok(match subject {
        Subject::Authority(domain) => vec![SanType::URI(format!("spiffe://{}", domain.as_str()).try_into()?)],
        Subject::EdgeRoot(..) => Vec::new(),
        Subject::Workload(id) => vec![SanType::URI(id.as_str().try_into()?)],
        Subject::Edge(names) => {
            let dns = names.dns.iter().map(|name| Ok(SanType::DnsName(name.as_str().try_into()?)));
            let ips = names.ips.iter().map(|ip| Ok(SanType::IpAddress(*ip)));
            dns.chain(ips).collect::<Result<_, rcgen::Error>>()?
        }
    })
}

/// DNS and IP names only: name constraints on URIs cannot be verified by our own verifier
/// (RUSTSEC-2026-0098), and certificates that carry them are refused by it.
fn constraints(subject: &Subject<'_>) -> Option<NameConstraints> {
    let Subject::EdgeRoot(_, permitted) = subject else { return None };
    let dns = permitted.dns.iter().map(|name| GeneralSubtree::DnsName(name.clone()));
    let ips = permitted.ips.iter().map(|ip| {
        let whole = if ip.is_ipv4() { 32 } else { 128 };
        GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(*ip, whole))
    });
    // A kind of name of which nothing is permitted would otherwise be unconstrained.
    let mut excluded_subtrees = Vec::new();
    if permitted.dns.is_empty() {
        excluded_subtrees.push(GeneralSubtree::DnsName(String::new()));
    }
    if permitted.ips.is_empty() {
        let everything = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
        let subnets = everything.map(|ip| GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(ip, 0)));
        excluded_subtrees.extend(subnets);
    }
    Some(NameConstraints { permitted_subtrees: dns.chain(ips).collect(), excluded_subtrees })
}

/// X.509 counts whole seconds.
pub(crate) fn at(time: UnixTime) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time.secs()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
