//! Reading certificates: the few fields that several rules need, each read in one way.

use countersign_identity::UnixTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Extension};
use x509_parser::time::ASN1Time;

/// A whole certificate of version 3 and nothing after it, at most [`CERTIFICATE_BYTES_MAX`] long.
pub(crate) fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return None;
    }
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    (rest.is_empty() && certificate.version().0 == VERSION_3).then_some(certificate)
}

/// Whether this is a certificate of version 1 or 2: readable, and without the extensions that would bound it.
pub(crate) fn is_of_older_version(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(rest, old)| rest.is_empty() && old.version().0 < VERSION_3)
}

/// X.509 counts whole seconds.
pub(crate) fn unix(time: ASN1Time) -> UnixTime {
    UnixTime::from_secs(time.timestamp())
}

/// From when and until when a certificate counts.
pub(crate) fn validity(certificate: &X509Certificate<'_>) -> (UnixTime, UnixTime) {
    (unix(certificate.validity().not_before), unix(certificate.validity().not_after))
}

/// The one extension for which `pick` answers. `Err` if there are two of them, or one that cannot be read.
pub(crate) fn extension<'c, 'a, T>(
    certificate: &'c X509Certificate<'a>,
    oid: &[u8],
    pick: impl Fn(&'c ParsedExtension<'a>) -> Option<T>,
) -> Result<Option<(bool, T)>, BadExtension> {
    let mut found = None;
    for extension in certificate.extensions().iter().filter(|e| e.oid.as_bytes() == oid) {
        let value = pick(extension.parsed_extension()).ok_or(BadExtension::Unreadable)?;
        if found.replace((extension.critical, value)).is_some() {
            return Err(BadExtension::Duplicate);
        }
    }
    Ok(found)
}

/// What is wrong with an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadExtension {
    Duplicate,
    Unreadable,
}

/// An extension that occurs twice (RFC 5280 section 4.2 forbids it).
pub(crate) fn duplicate_extension<'c, 'a>(
    extensions: &'c [X509Extension<'a>],
) -> Option<&'c X509Extension<'a>> {
    let mut earlier = extensions.iter().enumerate();
    earlier
        .find(|(at, one)| extensions.iter().take(*at).any(|other| one.oid == other.oid))
        .map(|(_, one)| one)
}

/// The names of the subject alternative name extension, and whether it is critical.
pub(crate) fn subject_alt_names<'c>(
    certificate: &'c X509Certificate<'_>,
) -> Result<Option<(bool, &'c [GeneralName<'c>])>, BadExtension> {
    extension(certificate, OID_SUBJECT_ALT_NAME, |parsed| match parsed {
        ParsedExtension::SubjectAlternativeName(names) => Some(names.general_names.as_slice()),
        _ => None,
    })
}

/// The subject key identifier, if there is exactly one.
pub(crate) fn subject_key_id<'c>(certificate: &'c X509Certificate<'_>) -> Option<&'c [u8]> {
    let found = extension(certificate, OID_SUBJECT_KEY_ID, |parsed| match parsed {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    });
    found.ok().flatten().map(|(_, id)| id)
}

/// A serial number as it is written everywhere: lower-case hexadecimal without leading zeros, `0` for zero.
pub fn serial_hex(serial: &[u8]) -> String {
    let digits = countersign_keys::hash::hex(magnitude(serial));
    let trimmed = digits.strip_prefix('0').unwrap_or(&digits);
    if trimmed.is_empty() { "0".into() } else { trimmed.into() }
}

/// A number's octets without leading zeros.
pub(crate) fn magnitude(number: &[u8]) -> &[u8] {
    let first = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    number.get(first..).unwrap_or_default()
}

/// The longest certificate that is read. Ours have under 700 bytes.
pub const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;

const VERSION_3: u32 = 2;

// id-ce (RFC 5280 section 4.2.1): 2.5.29.N
pub(crate) const OID_SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 14];
pub(crate) const OID_KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
pub(crate) const OID_SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 17];
pub(crate) const OID_BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
pub(crate) const OID_CRL_NUMBER: &[u8] = &[0x55, 0x1d, 20];
pub(crate) const OID_CRL_REASON: &[u8] = &[0x55, 0x1d, 21];
pub(crate) const OID_NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 30];
pub(crate) const OID_AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 35];
pub(crate) const OID_POLICY_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 36];
pub(crate) const OID_EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
/// id-kp-jwt, 1.3.6.1.5.5.7.3.37 (RFC 9509 section 3).
pub(crate) const OID_KP_JWT: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 37];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_is_written_without_leading_zeros() {
        assert_eq!(serial_hex(&[0, 0x0a, 0xff]), "aff");
        assert_eq!(serial_hex(&[0xab]), "ab");
        assert_eq!(serial_hex(&[0, 0]), "0");
        assert_eq!(serial_hex(&[]), "0");
    }
}
