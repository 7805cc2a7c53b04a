//! What is written for an authority of the outside that certifies host names (ACME, RFC 8555): the request for a
//! certificate, and the certificate that shows that we hold a host (RFC 8737).

use countersign_identity::{CLOCK_SKEW, UnixTime};
use countersign_keys::KeyPair;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, SanType, SerialNumber};
use rustls_pki_types::CertificateDer;

use crate::issue::Signer;
use crate::profile;

/// Why nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcmeWriteError {
    /// The host is no DNS name.
    #[error("`{host}` is no DNS name")]
    NotADnsName {
        /// What was to be written.
        host: String,
    },
    /// The encoder refused the content, or the key could not sign.
    #[error("request or certificate for a host could not be written and signed")]
    Encode,
}

/// A certification request (PKCS #10, RFC 2986) in DER, for one host and nothing else.
///
/// # Errors
/// See [`AcmeWriteError`].
pub fn request_for_host(key: &KeyPair, host: &str) -> Result<Vec<u8>, AcmeWriteError> {
    let request = params(host)?.serialize_request(&Signer(key.clone()));
    Ok(request.map_err(|_| AcmeWriteError::Encode)?.der().to_vec())
}

/// The self-signed certificate of a tls-alpn-01 challenge (RFC 8737 section 3): the one host, and in a critical
/// extension the SHA-256 of the key authorization. It proves something to whoever drew the token, and to nobody else.
///
/// # Errors
/// See [`AcmeWriteError`].
pub fn challenge_certificate(
    key: &KeyPair,
    host: &str,
    key_authorization_sha256: [u8; 32],
    now: UnixTime,
    serial: [u8; 16],
) -> Result<CertificateDer<'static>, AcmeWriteError> {
    let mut params = params(host)?;
    params.not_before = profile::at(now.saturating_sub(CLOCK_SKEW));
    params.not_after = profile::at(now.saturating_add(profile::LEAF_TTL_MAX));
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&key_authorization_sha256)];
    let certificate = params.self_signed(&Signer(key.clone())).map_err(|_| AcmeWriteError::Encode)?;
    Ok(certificate.into())
}

/// One host, and no subject: names stand in the extension alone.
fn params(host: &str) -> Result<CertificateParams, AcmeWriteError> {
    let refused = || AcmeWriteError::NotADnsName { host: host.to_owned() };
    rustls_pki_types::DnsName::try_from(host).map_err(|_| refused())?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::DnsName(host.try_into().map_err(|_| refused())?)];
    Ok(params)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use countersign_keys::SystemRandom;
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    use x509_parser::prelude::FromDer as _;

    use super::*;

    #[test]
    fn a_request_names_its_host_alone_and_is_signed_by_its_key() {
        let key = KeyPair::generate(&SystemRandom::new()).unwrap();
        let der = request_for_host(&key, "shop.example").unwrap();
        let (rest, request) = X509CertificationRequest::from_der(&der).unwrap();
        assert!(rest.is_empty());
        request.verify_signature().unwrap();
        assert_eq!(request.certification_request_info.subject_pki.raw, key.public_key().spki_der());
        let names: Vec<_> = request
            .requested_extensions()
            .unwrap()
            .filter_map(|extension| match extension {
                ParsedExtension::SubjectAlternativeName(names) => Some(names.general_names.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        assert_eq!(names, [GeneralName::DNSName("shop.example")]);
    }

    #[test]
    fn a_challenge_carries_the_digest_in_a_critical_extension() {
        let key = KeyPair::generate(&SystemRandom::new()).unwrap();
        let now = UnixTime::from_secs(1_800_000_000);
        let der = challenge_certificate(&key, "shop.example", [7; 32], now, [1; 16]).unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        let oid = x509_parser::der_parser::oid!(1.3.6.1.5.5.7.1.31);
        let found = certificate.get_extension_unique(&oid).unwrap().unwrap();
        assert!(found.critical);
        assert_eq!(found.value, [&[0x04, 0x20][..], &[7; 32]].concat(), "an OCTET STRING of 32 bytes");
        let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names, &[GeneralName::DNSName("shop.example")]);
        assert!(
            certificate
                .validity()
                .is_valid_at(x509_parser::time::ASN1Time::from_timestamp(now.secs()).unwrap())
        );
    }

    #[test]
    fn rejects_what_is_no_dns_name() {
        let key = KeyPair::generate(&SystemRandom::new()).unwrap();
        for host in ["", "a b", "127.0.0.1", "*.shop.example", "shöp.example"] {
            let refused = Err(AcmeWriteError::NotADnsName { host: host.to_owned() });
            assert_eq!(request_for_host(&key, host), refused, "{host}");
        }
        assert!(AcmeWriteError::Encode.to_string().contains("could not be written"));
    }
}
