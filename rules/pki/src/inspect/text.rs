//! How the parts of an X.509 object are written for people.

use std::net::IpAddr;

use countersign_identity::UnixTime;
use countersign_keys::hash::hex;
use time::format_description::well_known::Rfc3339;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, KeyUsage, ParsedExtension};
use x509_parser::objects::{oid_registry, oid2sn};
use x509_parser::oid_registry::Oid;
use x509_parser::prelude::X509Extension;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name};

use super::AlgorithmDescription;

pub(super) fn rfc3339(time: UnixTime) -> String {
    crate::profile::at(time).format(&Rfc3339).unwrap_or_default()
}

pub(super) fn oid_name(oid: &Oid<'_>) -> Option<String> {
    oid2sn(oid, oid_registry()).ok().map(str::to_owned)
}

/// The curve is what matters of an elliptic-curve key, so it is part of the name.
pub(super) fn key_algorithm(key: &SubjectPublicKeyInfo<'_>) -> AlgorithmDescription {
    let algorithm = &key.algorithm;
    let curve = algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let name = oid_name(&algorithm.algorithm);
    AlgorithmDescription {
        oid: algorithm.algorithm.to_id_string(),
        name: match curve {
            Some(curve) => {
                let curve = oid_name(&curve).unwrap_or_else(|| curve.to_id_string());
                Some(format!("{} {curve}", name.unwrap_or_default()))
            }
            None => name,
        },
    }
}

pub(super) fn purposes(certificate: &X509Certificate<'_>) -> Vec<String> {
    match certificate.extended_key_usage() {
        Ok(Some(usage)) => extended_key_usages(usage.value),
        _ => Vec::new(),
    }
}

pub(super) fn extension_value(extension: &X509Extension<'_>) -> String {
    match extension.parsed_extension() {
        ParsedExtension::BasicConstraints(constraints) => match constraints.path_len_constraint {
            Some(length) => format!("cA={}, pathLen={length}", constraints.ca),
            None => format!("cA={}", constraints.ca),
        },
        ParsedExtension::KeyUsage(usage) => key_usages(usage).join(", "),
        ParsedExtension::ExtendedKeyUsage(usage) => extended_key_usages(usage).join(", "),
        ParsedExtension::SubjectAlternativeName(names) => {
            names.general_names.iter().map(general_name).collect::<Vec<_>>().join(", ")
        }
        ParsedExtension::SubjectKeyIdentifier(id) => hex(id.0),
        ParsedExtension::AuthorityKeyIdentifier(id) => {
            id.key_identifier.as_ref().map(|id| hex(id.0)).unwrap_or_default()
        }
        ParsedExtension::NameConstraints(constraints) => {
            let trees = |trees: &Option<Vec<x509_parser::extensions::GeneralSubtree<'_>>>| {
                let trees = trees.iter().flatten().map(|tree| general_name(&tree.base));
                trees.collect::<Vec<_>>().join(", ")
            };
            let (permitted, excluded) = (&constraints.permitted_subtrees, &constraints.excluded_subtrees);
            format!("permitted: {}; excluded: {}", trees(permitted), trees(excluded))
        }
        _ => hex(extension.value),
    }
}

/// A distinguished name. A stranger chose it: control characters do not reach a terminal.
pub(super) fn distinguished_name(name: &X509Name<'_>) -> String {
    name.to_string().chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// The well-known public CA that issued this, going by the organisation it names.
pub(super) fn public_ca(certificate: &X509Certificate<'_>) -> Option<&'static str> {
    let mut organisations = certificate.issuer().iter_organization().filter_map(|name| name.as_str().ok());
    let organisation = organisations.next()?.to_lowercase();
    PUBLIC_CAS.into_iter().find(|known| organisation.contains(&known.to_lowercase()))
}

const PUBLIC_CAS: [&str; 6] =
    ["Let's Encrypt", "DigiCert", "Sectigo", "GlobalSign", "Google Trust Services", "Amazon"];

/// A stranger chose these bytes too.
fn general_name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::URI(uri) => format!("URI:{}", uri.escape_default()),
        GeneralName::DNSName(dns) => format!("DNS:{}", dns.escape_default()),
        GeneralName::RFC822Name(mail) => format!("email:{}", mail.escape_default()),
        GeneralName::DirectoryName(name) => format!("DirName:{}", distinguished_name(name)),
        GeneralName::IPAddress(octets) => format!("IP:{}", ip(octets)),
        other => other.to_string().escape_default().to_string(),
    }
}

/// An address, or an address with its mask as in name constraints.
fn ip(octets: &[u8]) -> String {
    let one = |octets: &[u8]| -> Option<IpAddr> {
        if let Ok(four) = <[u8; 4]>::try_from(octets) {
            return Some(four.into());
        }
        <[u8; 16]>::try_from(octets).ok().map(IpAddr::from)
    };
    let halves = octets.split_at_checked(octets.len() / 2);
    match (one(octets), halves) {
        // 8 and 32 octets are an address and its mask.
        (None, Some((address, mask))) => match (one(address), one(mask)) {
            (Some(address), Some(mask)) => format!("{address}/{mask}"),
            _ => hex(octets),
        },
        (Some(address), _) => address.to_string(),
        (None, None) => hex(octets),
    }
}

fn key_usages(usage: &KeyUsage) -> Vec<&'static str> {
    [
        (usage.digital_signature(), "digitalSignature"),
        (usage.non_repudiation(), "nonRepudiation"),
        (usage.key_encipherment(), "keyEncipherment"),
        (usage.data_encipherment(), "dataEncipherment"),
        (usage.key_agreement(), "keyAgreement"),
        (usage.key_cert_sign(), "keyCertSign"),
        (usage.crl_sign(), "cRLSign"),
        (usage.encipher_only(), "encipherOnly"),
        (usage.decipher_only(), "decipherOnly"),
    ]
    .into_iter()
    .filter_map(|(set, name)| set.then_some(name))
    .collect()
}

fn extended_key_usages(usage: &ExtendedKeyUsage<'_>) -> Vec<String> {
    [
        (usage.any, "any"),
        (usage.client_auth, "client"),
        (usage.server_auth, "server"),
        (usage.code_signing, "code_signing"),
        (usage.email_protection, "email"),
        (usage.time_stamping, "time_stamping"),
        (usage.ocsp_signing, "ocsp"),
    ]
    .into_iter()
    .filter(|(set, _)| *set)
    .map(|(_, name)| name.to_owned())
    .chain(usage.other.iter().map(Oid::to_id_string))
    .collect()
}
