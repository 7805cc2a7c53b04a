//! What a workload asks for: a key that it holds, and at most its own name (PKCS #10, RFC 2986).

use countersign_identity::{IdError, SpiffeId};
use countersign_keys::{KeyPair, PublicKey, PublicKeyError, WeakKey};
use rcgen::{CertificateParams, DistinguishedName, SanType};
use x509_parser::certification_request::{X509CertificationRequest, X509CertificationRequestInfo};
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, KeyUsage, ParsedExtension};
use x509_parser::oid_registry::Oid;
use x509_parser::prelude::{FromDer, X509Extension};

use crate::der::{self, Reader};
use crate::issue::Signer;
use crate::x509;

/// A certificate signing request that was judged: the key is fit, its holder signed, and nothing is asked for
/// beyond at most one SPIFFE ID. The subject of a request is ignored: certificates get their content from
/// [`crate::profile`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csr {
    public_key: PublicKey,
    requested_id: Option<SpiffeId>,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Longer than [`CSR_BYTES_MAX`].
    #[error("the CSR has {bytes} bytes, more than {CSR_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not DER of PKCS #10.
    #[error("the CSR is not a DER certification request; make one with `openssl req -new -outform DER`")]
    Malformed,
    /// Something follows the request.
    #[error("the CSR is followed by {bytes} more bytes")]
    TrailingData {
        /// How many.
        bytes: usize,
    },
    /// The key is weak or foreign.
    #[error("the CSR's key is refused: {0}")]
    Key(#[from] WeakKey),
    /// Signed with something else than ECDSA and SHA-256.
    #[error("the CSR is signed with {oid}, not with ecdsa-with-SHA256")]
    SignatureAlgorithm {
        /// The algorithm's object identifier in dots.
        oid: String,
    },
    /// The signature is not by the key inside: possession is not proven.
    #[error("the CSR is not signed by the key that it holds; sign it with that key's private half")]
    NotPossessed,
    /// An attribute other than one extension request.
    #[error("the CSR carries the attribute {oid}; ask for extensions once, and for nothing else")]
    Attribute {
        /// The attribute's object identifier in dots.
        oid: String,
    },
    /// More than one name, or a name that is not a URI.
    #[error("the CSR asks for the name {name}; a workload is named by one SPIFFE ID alone")]
    AsksForOtherNames {
        /// The first name too many.
        name: String,
    },
    /// The URI is no SPIFFE ID.
    #[error("the CSR asks for a name that is no SPIFFE ID: {0}")]
    AsksForInvalidId(#[source] IdError),
    /// It wants to be a CA.
    #[error("the CSR asks to become a CA; workloads are leaves")]
    AsksToBeCa,
    /// A key usage beyond digitalSignature.
    #[error("the CSR asks for key usages beyond digitalSignature")]
    AsksForKeyUsage,
    /// An extended key usage beyond clientAuth and serverAuth.
    #[error("the CSR asks for extended key usages beyond clientAuth and serverAuth")]
    AsksForExtendedKeyUsage,
    /// Any other extension.
    #[error("the CSR asks for the extension {oid}; leave it out, the profile decides")]
    AsksForExtension {
        /// The extension's object identifier in dots.
        oid: String,
    },
}

/// A request could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MakeCsrError {
    /// The encoder refused the content, or the key could not sign.
    #[error("the CSR could not be written and signed")]
    Encode,
}

impl Csr {
    /// Reads and judges DER.
    pub fn parse(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > CSR_BYTES_MAX {
            return Err(CsrError::TooLong { bytes: der.len() });
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::TrailingData { bytes: rest.len() });
        }
        let info = &request.certification_request_info;
        let public_key = PublicKey::from_spki_der(info.subject_pki.raw)
            .map_err(|PublicKeyError::Weak(reason)| CsrError::Key(reason))?;
        let signature = signature_of(der)?;
        public_key.verify_asn1(info.raw, signature).map_err(|_| CsrError::NotPossessed)?;
        Ok(Self { public_key, requested_id: requested_id(requested_extensions(info)?)? })
    }

    /// The key to certify.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The name asked for, if any. Whether it may have it is decided when issuing.
    pub fn requested_id(&self) -> Option<&SpiffeId> {
        self.requested_id.as_ref()
    }
}

/// Makes a request for `key`, in DER; naming `id` is optional and grants nothing.
pub fn make(key: &KeyPair, id: Option<&SpiffeId>) -> Result<Vec<u8>, MakeCsrError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(id) = id {
        let uri = id.as_str().try_into().map_err(|_| MakeCsrError::Encode)?;
        params.subject_alt_names.push(SanType::URI(uri));
    }
    let request = params.serialize_request(&Signer(key.clone())).map_err(|_| MakeCsrError::Encode)?;
    Ok(request.der().to_vec())
}

/// The longest request that is read.
pub const CSR_BYTES_MAX: usize = 8 * 1024;

/// The signature, read strictly: nothing signs these outer bytes, so they have one accepted form.
fn signature_of(der: &[u8]) -> Result<&[u8], CsrError> {
    let body = Reader::new(der).read(der::SEQUENCE).ok_or(CsrError::Malformed)?;
    let mut body = Reader::new(body);
    body.read(der::SEQUENCE).ok_or(CsrError::Malformed)?;
    let mut algorithm = Reader::new(body.read(der::SEQUENCE).ok_or(CsrError::Malformed)?);
    let oid = algorithm.read(der::OBJECT_IDENTIFIER).ok_or(CsrError::Malformed)?;
    if oid != OID_ECDSA_WITH_SHA256 {
        return Err(CsrError::SignatureAlgorithm { oid: Oid::new(oid.into()).to_id_string() });
    }
    let bits = body.read(der::BIT_STRING).ok_or(CsrError::Malformed)?;
    match bits.strip_prefix(&[0]) {
        Some(signature) if algorithm.is_empty() && body.is_empty() => Ok(signature),
        _ => Err(CsrError::Malformed),
    }
}

/// The extensions asked for. One extension request is the only attribute there may be.
fn requested_extensions<'c>(
    info: &'c X509CertificationRequestInfo<'_>,
) -> Result<&'c [X509Extension<'c>], CsrError> {
    match info.attributes() {
        [] => Ok(&[]),
        [first, rest @ ..] => match (first.parsed_attribute(), rest) {
            (ParsedCriAttribute::ExtensionRequest(request), []) => Ok(&request.extensions),
            (ParsedCriAttribute::ExtensionRequest(_), [second, ..]) => {
                Err(CsrError::Attribute { oid: second.oid.to_id_string() })
            }
            _ => Err(CsrError::Attribute { oid: first.oid.to_id_string() }),
        },
    }
}

/// What is asked for must not go beyond what every workload gets anyway; a name is carried along to be judged.
fn requested_id(extensions: &[X509Extension<'_>]) -> Result<Option<SpiffeId>, CsrError> {
    if let Some(twice) = x509::duplicate_extension(extensions) {
        return Err(CsrError::AsksForExtension { oid: twice.oid.to_id_string() });
    }
    let mut id = None;
    for extension in extensions {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => id = Some(one_id(&names.general_names)?),
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                return Err(CsrError::AsksToBeCa);
            }
            ParsedExtension::BasicConstraints(_) => {}
            ParsedExtension::KeyUsage(usage) => key_usage_within_profile(usage)?,
            ParsedExtension::ExtendedKeyUsage(usage) => extended_key_usage_within_profile(usage)?,
            _ => return Err(CsrError::AsksForExtension { oid: extension.oid.to_id_string() }),
        }
    }
    Ok(id)
}

fn one_id(names: &[GeneralName<'_>]) -> Result<SpiffeId, CsrError> {
    match names {
        [GeneralName::URI(uri)] => SpiffeId::parse(uri).map_err(CsrError::AsksForInvalidId),
        [GeneralName::URI(_), other, ..] | [other, ..] => {
            // Names come from a stranger: shorten them before they reach a log.
            let name = other.to_string().escape_default().take(NAME_CHARS_MAX).collect();
            Err(CsrError::AsksForOtherNames { name })
        }
        [] => Err(CsrError::AsksForOtherNames { name: "(none)".into() }),
    }
}

fn key_usage_within_profile(usage: &KeyUsage) -> Result<(), CsrError> {
    if usage.flags & !DIGITAL_SIGNATURE == 0 { Ok(()) } else { Err(CsrError::AsksForKeyUsage) }
}

fn extended_key_usage_within_profile(usage: &ExtendedKeyUsage<'_>) -> Result<(), CsrError> {
    let beyond = usage.any
        || usage.code_signing
        || usage.email_protection
        || usage.time_stamping
        || usage.ocsp_signing
        || !usage.other.is_empty();
    if beyond { Err(CsrError::AsksForExtendedKeyUsage) } else { Ok(()) }
}

const NAME_CHARS_MAX: usize = 128;
/// Bit 0 of KeyUsage as the parser stores it.
const DIGITAL_SIGNATURE: u16 = 1;
/// 1.2.840.10045.4.3.2
const OID_ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
