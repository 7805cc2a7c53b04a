//! The few facts of a leaf certificate that are needed before, or without, judging it.

use countersign_identity::{IdKind, SpiffeId, UnixTime};
use rustls::pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, prelude::X509Certificate};

/// What a certificate says about itself. Proves nothing.
pub(super) struct Leaf {
    /// The first URI among its names that is a SPIFFE ID of a workload. A trust domain is none.
    pub(super) id: Option<SpiffeId>,
    /// DNS names, in lower case: `flea.test`, `*.flea.test`.
    pub(super) dns_names: Vec<String>,
    pub(super) serial_hex: String,
    pub(super) not_before: UnixTime,
    pub(super) not_after: UnixTime,
}

impl Leaf {
    pub(super) fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            id: first_spiffe_id(&certificate),
            dns_names: dns_names(&certificate),
            serial_hex: countersign_pki::serial_hex(certificate.raw_serial()),
            not_before: UnixTime::from_secs(validity.not_before.timestamp()),
            not_after: UnixTime::from_secs(validity.not_after.timestamp()),
        })
    }
}

fn first_spiffe_id(certificate: &X509Certificate<'_>) -> Option<SpiffeId> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => SpiffeId::parse(uri).ok().filter(|id| id.kind() != IdKind::TrustDomain),
        _ => None,
    })
}

fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.into_iter().flat_map(|names| &names.value.general_names);
    let dns = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    dns.collect()
}
