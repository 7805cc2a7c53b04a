//! The three things that the thesis reads off a certificate.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use countersign_keys::PublicKey;
use countersign_pki::CertificateDer;
use x509_parser::{
    certificate::X509Certificate, oid_registry::OID_PKCS1_RSAENCRYPTION, parse_x509_certificate,
};

/// `certificate.subject`: the common name, as figure 5.2 writes it into `iss`. A subject without exactly one is no
/// name.
#[must_use]
pub fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = parse(certificate)?;
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?.to_owned();
    names.next().is_none().then_some(name)
}

/// The certificate's RSA key. The thesis knows no other kind.
pub(super) fn rsa_key(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
    let certificate = parse(certificate)?;
    let key = certificate.public_key();
    let rsa = key.algorithm.algorithm == OID_PKCS1_RSAENCRYPTION;
    PublicKey::from_rsa_der(&key.subject_public_key.data).ok().filter(|_| rsa)
}

/// The `kid` of figure 5.2: SHA-1 over the certificate in 40 upper-case hexadecimal digits, as .NET calls a
/// certificate's thumbprint. The only use of SHA-1 in this repository; it chooses a key, it protects nothing.
#[must_use]
pub fn sha1_thumbprint(certificate: &CertificateDer<'_>) -> String {
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, certificate);
    countersign_keys::hash::hex(digest.as_ref()).to_ascii_uppercase()
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    let (rest, certificate) = parse_x509_certificate(certificate).ok()?;
    rest.is_empty().then_some(certificate)
}
