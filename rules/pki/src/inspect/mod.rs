//! What a file holds, for people: certificates, requests and CRLs, in PEM or DER, whatever it is called
//! (`.crt`, `.pem`, `.cer`, `.der`). Describing is not verifying: nothing here says that anything counts.

mod text;

use serde::Serialize;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::prelude::{FromDer, X509Extension};
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use crate::pem::{self, PemError};
use crate::revocation::{Crl, CrlError};
use crate::x509;

/// One described object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Description {
    /// A certificate.
    Certificate(CertificateDescription),
    /// A certificate signing request.
    CertificateRequest(RequestDescription),
    /// A certificate revocation list.
    RevocationList(CrlDescription),
    /// A private key, of which nothing is told.
    PrivateKey {
        /// The label of its PEM block.
        label: String,
    },
    /// A PEM block of some other kind, or one whose content cannot be read.
    Unreadable {
        /// The label of its PEM block.
        label: String,
        /// Length of its content.
        bytes: usize,
    },
}

/// The fields of a certificate: `tbsCertificate`, `signatureAlgorithm`, `signatureValue` (RFC 5280 section 4.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateDescription {
    /// 3 for everything of today.
    pub version: u32,
    /// Lower-case hexadecimal without leading zeros.
    pub serial: String,
    /// Whose, as a distinguished name; empty on leaves of ours.
    pub subject: String,
    /// Who signed, as a distinguished name.
    pub issuer: String,
    /// From when, RFC 3339 in UTC.
    pub not_before: String,
    /// Until when, RFC 3339 in UTC.
    pub not_after: String,
    /// The key.
    pub public_key: KeyDescription,
    /// With what it is signed.
    pub signature_algorithm: AlgorithmDescription,
    /// The signature, hexadecimal.
    pub signature: String,
    /// In their order.
    pub extensions: Vec<ExtensionDescription>,
    /// `root`, `intermediate` or `leaf`, by its own statement.
    pub structure: &'static str,
    /// What it may be used for: `client`, `server`, `code_signing`, `email`, `time_stamping`, `ocsp`, `any`,
    /// or other object identifiers; empty if it does not say.
    pub purposes: Vec<String>,
    /// Whether issuer and subject are the same.
    pub self_issued: bool,
    /// The well-known public CA that it names as its issuer, if it names one.
    pub public_ca: Option<&'static str>,
    /// SHA-256 over the DER, hexadecimal.
    pub thumbprint_sha256: String,
}

/// The fields of a certificate signing request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RequestDescription {
    /// The subject it names.
    pub subject: String,
    /// The key to be certified.
    pub public_key: KeyDescription,
    /// With what it is signed.
    pub signature_algorithm: AlgorithmDescription,
    /// The signature, hexadecimal.
    pub signature: String,
    /// What it asks for.
    pub requested_extensions: Vec<ExtensionDescription>,
    /// Why this authority would refuse it, if it would.
    pub refused: Option<String>,
}

/// The fields of a CRL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CrlDescription {
    /// Who signed, as a distinguished name.
    pub issuer: String,
    /// Grows with every CRL of its issuer.
    pub number: u64,
    /// When it was made, RFC 3339 in UTC.
    pub this_update: String,
    /// When the next one is due, RFC 3339 in UTC.
    pub next_update: String,
    /// How many certificates it lists.
    pub count: usize,
    /// The first [`ENTRIES_SHOWN_MAX`] of them.
    pub entries: Vec<CrlEntryDescription>,
}

/// One line of a CRL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CrlEntryDescription {
    /// Lower-case hexadecimal without leading zeros.
    pub serial: String,
    /// When it was revoked, RFC 3339 in UTC.
    pub revoked_at: String,
    /// Why.
    pub reason: &'static str,
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyDescription {
    /// What kind.
    pub algorithm: AlgorithmDescription,
    /// Its length, where that makes sense.
    pub bits: Option<usize>,
    /// SHA-256 over the `SubjectPublicKeyInfo`, hexadecimal.
    pub spki_sha256: String,
}

/// An algorithm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AlgorithmDescription {
    /// Its object identifier in dots.
    pub oid: String,
    /// Its name, where known.
    pub name: Option<String>,
}

/// An extension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExtensionDescription {
    /// Its object identifier in dots.
    pub oid: String,
    /// Its name, where known.
    pub name: Option<String>,
    /// Whether whoever does not understand it must refuse.
    pub critical: bool,
    /// What it says; hexadecimal where it is not understood here.
    pub value: String,
}

/// Why nothing can be said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// Nothing there.
    #[error("there is nothing to inspect: the file is empty")]
    Empty,
    /// It looks like PEM and is not.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// It is a CRL, but not one that counts anywhere here.
    #[error(transparent)]
    Crl(#[from] CrlError),
    /// Neither PEM nor DER of something known.
    #[error("this is neither PEM nor DER of a certificate, a certificate request or a CRL")]
    Unknown,
}

/// Describes everything in `bytes` (one DER object, or PEM with any number of blocks), in order.
pub fn describe(bytes: &[u8]) -> Result<Vec<Description>, InspectError> {
    if bytes.is_empty() {
        return Err(InspectError::Empty);
    }
    // DER of everything known here starts with a SEQUENCE, which no line of PEM can be mistaken for.
    if bytes.first() == Some(&crate::der::SEQUENCE) {
        return describe_der(bytes).map(|one| vec![one]);
    }
    match pem::decode(bytes) {
        Ok(blocks) => Ok(blocks.iter().map(describe_block).collect()),
        Err(PemError::NoBlock) => Err(InspectError::Unknown),
        Err(error) => Err(error.into()),
    }
}

/// The most entries of a CRL that a description lists.
pub const ENTRIES_SHOWN_MAX: usize = 1000;

fn describe_block(block: &pem::Block) -> Description {
    let label = block.label.clone();
    if label.ends_with(pem::PRIVATE_KEY) {
        return Description::PrivateKey { label };
    }
    describe_der(&block.der).unwrap_or(Description::Unreadable { label, bytes: block.der.len() })
}

fn describe_der(der: &[u8]) -> Result<Description, InspectError> {
    if let Ok((rest, certificate)) = X509Certificate::from_der(der)
        && rest.is_empty()
    {
        return Ok(Description::Certificate(describe_certificate(&certificate)));
    }
    if let Ok((rest, request)) = X509CertificationRequest::from_der(der)
        && rest.is_empty()
    {
        return Ok(Description::CertificateRequest(describe_request(&request)));
    }
    match Crl::read(der) {
        Ok(crl) => Ok(Description::RevocationList(describe_crl(&crl))),
        Err(CrlError::Malformed) => Err(InspectError::Unknown),
        Err(error) => Err(error.into()),
    }
}

fn describe_certificate(certificate: &X509Certificate<'_>) -> CertificateDescription {
    let (not_before, not_after) = x509::validity(certificate);
    let self_issued = certificate.subject().as_raw() == certificate.issuer().as_raw();
    CertificateDescription {
        version: certificate.version().0 + 1,
        serial: x509::serial_hex(certificate.raw_serial()),
        subject: text::distinguished_name(certificate.subject()),
        issuer: text::distinguished_name(certificate.issuer()),
        not_before: text::rfc3339(not_before),
        not_after: text::rfc3339(not_after),
        public_key: describe_key(certificate.public_key()),
        signature_algorithm: describe_algorithm(&certificate.signature_algorithm),
        signature: countersign_keys::hash::hex(&certificate.signature_value.data),
        extensions: certificate.extensions().iter().map(describe_extension).collect(),
        structure: match (certificate.is_ca(), self_issued) {
            (true, true) => "root",
            (true, false) => "intermediate",
            (false, _) => "leaf",
        },
        purposes: text::purposes(certificate),
        self_issued,
        public_ca: text::public_ca(certificate),
        thumbprint_sha256: countersign_keys::sha256_hex(certificate.as_raw()),
    }
}

fn describe_request(request: &X509CertificationRequest<'_>) -> RequestDescription {
    let info = &request.certification_request_info;
    let requested = info.iter_attributes().filter_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(request) => Some(&request.extensions),
        _ => None,
    });
    RequestDescription {
        subject: text::distinguished_name(&info.subject),
        public_key: describe_key(&info.subject_pki),
        signature_algorithm: describe_algorithm(&request.signature_algorithm),
        signature: countersign_keys::hash::hex(&request.signature_value.data),
        requested_extensions: requested.flatten().map(describe_extension).collect(),
        refused: crate::csr::Csr::parse(request.as_raw()).err().map(|reason| reason.to_string()),
    }
}

fn describe_crl(crl: &Crl) -> CrlDescription {
    let issuer = x509_parser::x509::X509Name::from_der(crl.issuer_name());
    CrlDescription {
        issuer: issuer.map(|(_, name)| text::distinguished_name(&name)).unwrap_or_default(),
        number: crl.number(),
        this_update: text::rfc3339(crl.this_update()),
        next_update: text::rfc3339(crl.next_update()),
        count: crl.len(),
        entries: crl
            .entries()
            .take(ENTRIES_SHOWN_MAX)
            .map(|(serial, at, reason)| CrlEntryDescription {
                serial: x509::serial_hex(serial),
                revoked_at: text::rfc3339(at),
                reason: reason.as_str(),
            })
            .collect(),
    }
}

fn describe_key(key: &SubjectPublicKeyInfo<'_>) -> KeyDescription {
    KeyDescription {
        algorithm: text::key_algorithm(key),
        bits: key.parsed().ok().map(|parsed| parsed.key_size()).filter(|bits| *bits > 0),
        spki_sha256: countersign_keys::sha256_hex(key.raw),
    }
}

fn describe_algorithm(algorithm: &AlgorithmIdentifier<'_>) -> AlgorithmDescription {
    AlgorithmDescription {
        oid: algorithm.algorithm.to_id_string(),
        name: text::oid_name(&algorithm.algorithm),
    }
}

fn describe_extension(extension: &X509Extension<'_>) -> ExtensionDescription {
    ExtensionDescription {
        oid: extension.oid.to_id_string(),
        name: text::oid_name(&extension.oid),
        critical: extension.critical,
        value: text::extension_value(extension),
    }
}
