//! Certification path validation (RFC 5280 section 6), below the rules of SPIFFE.
//!
//! `webpki` finds the path and checks signatures, times, names, path lengths and critical extensions. What it
//! leaves out is done here, on every certificate of the candidate path including the root: key usage, key
//! identifiers, serial numbers, criticality, and the root's own lifetime and path length.

use std::cell::RefCell;

use countersign_identity::UnixTime;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime as PkiTime};
use webpki::{EndEntityCert, VerifiedPath, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, NameConstraints, ParsedExtension};

use crate::x509;

/// What the leaf's holder does; every extended key usage on the path must allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It opens connections.
    Client,
    /// It accepts connections.
    Server,
    /// It signs tokens and requests: id-kp-jwt (RFC 9509).
    Signing,
}

/// A root that was judged once, when it was taken in.
#[derive(Debug, Clone)]
pub struct Anchor {
    trust_anchor: TrustAnchor<'static>,
    not_before: UnixTime,
    not_after: UnixTime,
    path_length: Option<u32>,
    key: IssuerKey,
}

/// A path from leaf to root, every certificate of which holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// Leaf first; the root has no link of its own.
    pub(crate) links: Vec<Link>,
    /// The earliest end of all its certificates, the root among them.
    pub(crate) not_after: UnixTime,
}

/// One certificate below the root, as revocation needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) serial: Vec<u8>,
    /// Content of the issuer's Name.
    pub(crate) issuer_name: Vec<u8>,
    pub(crate) issuer: IssuerKey,
}

/// With what an issuer signs, and whether that may be CRLs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IssuerKey {
    pub(crate) spki_der: Vec<u8>,
    pub(crate) key_id: Option<Vec<u8>>,
    pub(crate) signs_crls: bool,
}

/// Why there is no valid path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A certificate or extension cannot be read, or holds what it may not hold.
    #[error("a certificate of the chain is malformed")]
    Malformed,
    /// Not version 3.
    #[error("a certificate of the chain is not X.509 version 3")]
    Version,
    /// An extension occurs twice.
    #[error("a certificate of the chain has the same extension twice")]
    DuplicateExtension,
    /// No root of the bundle signed this.
    #[error(
        "no path leads to a root of the bundle; is it from another authority, or is the intermediate missing?"
    )]
    UnknownIssuer,
    /// The leaf signed itself.
    #[error("the certificate is self-signed; only chained certificates count")]
    SelfSigned,
    /// A signature does not fit the issuer's key.
    #[error(
        "a signature in the chain does not fit its issuer's key; is it from another authority of the same name?"
    )]
    Signature,
    /// The two statements of the signature algorithm differ, or it is weak or unknown.
    #[error("a certificate of the chain is signed with an algorithm that is not accepted")]
    Algorithm,
    /// A certificate of the chain has ended.
    #[error("a certificate of the chain has expired")]
    Expired,
    /// A certificate of the chain has not begun.
    #[error("a certificate of the chain is not valid yet")]
    NotYetValid,
    /// It ends before it begins.
    #[error("a certificate of the chain ends before it begins")]
    InvalidValidity,
    /// The root has ended or not begun.
    #[error("the root is not valid now; replace it in the bundle")]
    RootNotValid,
    /// A CA is presented as a leaf.
    #[error("a CA certificate is used as a leaf")]
    CaAsLeaf,
    /// A leaf signed a certificate.
    #[error("a certificate of the chain signs others without being a CA")]
    LeafAsCa,
    /// The key usage of a CA does not allow signing certificates.
    #[error("a CA of the chain lacks the key usage keyCertSign")]
    NoKeyCertSign,
    /// The key usage of a leaf allows signing certificates.
    #[error("a leaf has the key usage keyCertSign")]
    LeafSignsCertificates,
    /// Basic constraints of a CA are not critical.
    #[error("the basic constraints of a CA of the chain are not critical")]
    NonCriticalBasicConstraints,
    /// More CAs than one of them allows.
    #[error("the chain is longer than one of its CAs allows")]
    TooLong,
    /// Names lie outside a CA's name constraints, or the constraint is of a kind that cannot be judged.
    #[error("a name in the chain lies outside the name constraints of a CA, or they cannot be judged")]
    NameConstraint,
    /// Name constraints on a leaf.
    #[error("a leaf carries name constraints")]
    NameConstraintsInLeaf,
    /// Name or policy constraints that are not critical.
    #[error("name or policy constraints in the chain are not critical")]
    NonCriticalConstraints,
    /// The extended key usage of a certificate of the path does not allow this purpose.
    #[error("the extended key usages in the chain do not allow this purpose")]
    ExtendedKeyUsage,
    /// A critical extension that is not understood.
    #[error("a certificate of the chain has a critical extension that is not understood")]
    UnknownCriticalExtension,
    /// An authority or subject key identifier is missing or marked critical.
    #[error("a certificate of the chain lacks a key identifier, or marks it critical")]
    KeyIdentifier,
    /// A serial number is zero, negative or longer than 20 octets.
    #[error("a serial number in the chain is not a positive number of at most 20 octets")]
    SerialNumber,
    /// A CA has no name, or a certificate does not name its issuer.
    #[error("a CA of the chain has no name")]
    EmptyName,
    /// The subject is empty, and the alternative names are missing or not critical.
    #[error("the subject is empty and the alternative names are not critical")]
    SanNotCritical,
    /// Finding the path took too many steps.
    #[error("the chain is too complex to be judged")]
    TooComplex,
    /// Something else that the path validator refuses.
    #[error("the chain is refused: {0}")]
    Other(String),
}

impl Anchor {
    /// Judges a root certificate. Its lifetime is judged at each use.
    pub fn new(certificate: &CertificateDer<'_>) -> Result<Self, PathError> {
        if x509::is_of_older_version(certificate) {
            return Err(PathError::Version);
        }
        let trust_anchor =
            anchor_from_trusted_cert(certificate).map_err(|e| PathError::from_webpki(&e))?.to_owned();
        let parsed = x509::parse(certificate).ok_or(PathError::Malformed)?;
        judge(&parsed, Role::Root)?;
        let (not_before, not_after) = x509::validity(&parsed);
        let constraints = parsed.basic_constraints().map_err(|_| PathError::Malformed)?;
        Ok(Self {
            trust_anchor,
            not_before,
            not_after,
            path_length: constraints.and_then(|c| c.value.path_len_constraint),
            key: IssuerKey::of(&parsed),
        })
    }
}

/// Finds and validates a path from `leaf` through `intermediates` to one of `anchors`.
pub fn validate(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    anchors: &[Anchor],
    now: UnixTime,
    purpose: Purpose,
) -> Result<Path, PathError> {
    let end_entity = EndEntityCert::try_from(leaf).map_err(|error| match x509::parse(leaf) {
        Some(parsed) if x509::duplicate_extension(parsed.extensions()).is_some() => {
            PathError::DuplicateExtension
        }
        _ => PathError::from_webpki(&error),
    })?;
    let trust_anchors: Vec<TrustAnchor<'_>> = anchors.iter().map(|a| a.trust_anchor.clone()).collect();
    // The finder tries one candidate after the other; what we say against a candidate is remembered here.
    let objection = RefCell::new(None);
    let judged = RefCell::new(None);
    let judge_candidate = |candidate: &VerifiedPath<'_>| match judge_path(candidate, anchors, now) {
        Ok(path) => {
            judged.replace(Some(path));
            Ok(())
        }
        Err(reason) => {
            objection.replace(Some(reason));
            Err(webpki::Error::UnknownIssuer)
        }
    };
    let found = end_entity.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &trust_anchors,
        intermediates,
        pki_time(now),
        match purpose {
            Purpose::Client => webpki::KeyUsage::client_auth(),
            Purpose::Server => webpki::KeyUsage::server_auth(),
            Purpose::Signing => webpki::KeyUsage::required_if_present(x509::OID_KP_JWT),
        },
        None,
        Some(&judge_candidate),
    );
    match found.map(|_| ()) {
        Ok(()) => judged.into_inner().ok_or(PathError::UnknownIssuer),
        Err(error) => Err(objection.into_inner().unwrap_or_else(|| match PathError::from_webpki(&error) {
            PathError::UnknownIssuer if end_entity.issuer().is_empty() => PathError::EmptyName,
            PathError::UnknownIssuer if end_entity.issuer() == end_entity.subject() => PathError::SelfSigned,
            reason => reason,
        })),
    }
}

/// The candidate, if every certificate on it holds by our own checks too.
fn judge_path(candidate: &VerifiedPath<'_>, anchors: &[Anchor], now: UnixTime) -> Result<Path, PathError> {
    let anchor = anchors
        .iter()
        .find(|anchor| {
            anchor.trust_anchor.subject == candidate.anchor().subject
                && anchor.trust_anchor.subject_public_key_info == candidate.anchor().subject_public_key_info
                && anchor.valid_at(now)
        })
        .ok_or(PathError::RootNotValid)?;

    let leaf = candidate.end_entity().der();
    let intermediates: Vec<_> = candidate.intermediate_certificates().map(|cert| cert.der()).collect();
    let leaf = x509::parse(&leaf).ok_or(PathError::Malformed)?;
    let authorities: Vec<_> = intermediates
        .iter()
        .map(|der| x509::parse(der).ok_or(PathError::Malformed))
        .collect::<Result<_, _>>()?;

    judge(&leaf, Role::Leaf)?;
    authorities.iter().try_for_each(|authority| judge(authority, Role::Intermediate))?;
    let counted = authorities.iter().filter(|ca| ca.subject().as_raw() != ca.issuer().as_raw()).count();
    if anchor.path_length.is_some_and(|most| counted > most as usize) {
        return Err(PathError::TooLong);
    }

    let certificates = || std::iter::once(&leaf).chain(&authorities);
    let issuers = authorities.iter().map(IssuerKey::of).chain([anchor.key.clone()]);
    let ends = certificates().map(|certificate| x509::validity(certificate).1);
    Ok(Path {
        not_after: ends.fold(anchor.not_after, UnixTime::min),
        links: certificates()
            .zip(issuers)
            .map(|(certificate, issuer)| Link::of(certificate, issuer))
            .collect(),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Leaf,
    Intermediate,
    Root,
}

/// What RFC 5280 section 4 demands of one certificate and `webpki` does not look at.
fn judge(certificate: &X509Certificate<'_>, role: Role) -> Result<(), PathError> {
    if x509::duplicate_extension(certificate.extensions()).is_some() {
        return Err(PathError::DuplicateExtension);
    }
    if certificate.raw_serial().len() > SERIAL_OCTETS_MAX || !is_positive(certificate.raw_serial()) {
        return Err(PathError::SerialNumber);
    }
    judge_constraints(certificate, role)?;
    judge_names(certificate, role)?;
    judge_key_identifiers(certificate, role)?;
    judge_key_usage(certificate, role)?;
    // Of intermediates and leaves, webpki refuses unknown critical extensions; of roots it does not.
    let known = |oid: &[u8]| KNOWN_EXTENSIONS.contains(&oid);
    match certificate.extensions().iter().any(|e| e.critical && !known(e.oid.as_bytes())) {
        true => Err(PathError::UnknownCriticalExtension),
        false => Ok(()),
    }
}

fn judge_names(certificate: &X509Certificate<'_>, role: Role) -> Result<(), PathError> {
    let nameless = |name: &x509_parser::x509::X509Name<'_>| name.iter().next().is_none();
    if nameless(certificate.issuer()) || (role != Role::Leaf && nameless(certificate.subject())) {
        return Err(PathError::EmptyName);
    }
    let names = x509::subject_alt_names(certificate).map_err(|_| PathError::Malformed)?;
    if nameless(certificate.subject()) && !names.is_some_and(|(critical, _)| critical) {
        return Err(PathError::SanNotCritical);
    }
    Ok(())
}

fn judge_key_identifiers(certificate: &X509Certificate<'_>, role: Role) -> Result<(), PathError> {
    let authority = x509::extension(certificate, x509::OID_AUTHORITY_KEY_ID, |parsed| match parsed {
        ParsedExtension::AuthorityKeyIdentifier(id) => Some(id.key_identifier.is_some()),
        _ => None,
    });
    let subject = x509::extension(certificate, x509::OID_SUBJECT_KEY_ID, |parsed| match parsed {
        ParsedExtension::SubjectKeyIdentifier(_) => Some(()),
        _ => None,
    });
    let self_signed = role == Role::Root && certificate.subject().as_raw() == certificate.issuer().as_raw();
    let authority_holds = match authority {
        Ok(Some((critical, present))) => !critical && (present || self_signed),
        Ok(None) => self_signed,
        Err(_) => false,
    };
    let subject_holds = match subject {
        Ok(Some((critical, ()))) => !critical,
        Ok(None) => role == Role::Leaf,
        Err(_) => false,
    };
    if authority_holds && subject_holds { Ok(()) } else { Err(PathError::KeyIdentifier) }
}

fn judge_key_usage(certificate: &X509Certificate<'_>, role: Role) -> Result<(), PathError> {
    let usage = certificate.key_usage().map_err(|_| PathError::Malformed)?;
    let signs = usage.map(|usage| usage.value.key_cert_sign());
    match (role, signs) {
        (Role::Leaf, Some(true)) if !certificate.is_ca() => Err(PathError::LeafSignsCertificates),
        (Role::Intermediate | Role::Root, Some(false)) => Err(PathError::NoKeyCertSign),
        _ => Ok(()),
    }
}

fn judge_constraints(certificate: &X509Certificate<'_>, role: Role) -> Result<(), PathError> {
    let basic = certificate.basic_constraints().map_err(|_| PathError::Malformed)?;
    if role != Role::Leaf {
        match basic {
            Some(basic) if !basic.value.ca => return Err(PathError::LeafAsCa),
            None => return Err(PathError::LeafAsCa),
            Some(basic) if !basic.critical => return Err(PathError::NonCriticalBasicConstraints),
            Some(_) => {}
        }
    }
    let has = |oid: &[u8]| certificate.extensions().iter().find(|extension| extension.oid.as_bytes() == oid);
    if role == Role::Leaf && has(x509::OID_NAME_CONSTRAINTS).is_some() {
        return Err(PathError::NameConstraintsInLeaf);
    }
    let constraints = [has(x509::OID_NAME_CONSTRAINTS), has(x509::OID_POLICY_CONSTRAINTS)];
    if constraints.into_iter().flatten().any(|extension| !extension.critical) {
        return Err(PathError::NonCriticalConstraints);
    }
    let names = certificate.name_constraints().map_err(|_| PathError::Malformed)?;
    match names.is_some_and(|names| has_leading_period(names.value)) {
        true => Err(PathError::NameConstraint),
        false => Ok(()),
    }
}

/// RFC 5280 section 4.2.1.10 gives a leading period a meaning in URI constraints only; whoever wrote one
/// before a DNS name meant something that is not what it would do.
fn has_leading_period(constraints: &NameConstraints<'_>) -> bool {
    let trees = constraints.permitted_subtrees.iter().chain(&constraints.excluded_subtrees).flatten();
    trees
        .map(|tree| &tree.base)
        .any(|base| matches!(base, GeneralName::DNSName(name) if name.starts_with('.')))
}

impl Anchor {
    /// Whether a path of before ends here.
    pub(crate) fn ends(&self, path: &Path) -> bool {
        path.links.last().is_some_and(|link| link.issuer == self.key)
    }

    fn valid_at(&self, now: UnixTime) -> bool {
        // X.509 counts whole seconds, both ends inclusive.
        (self.not_before.secs()..=self.not_after.secs()).contains(&now.secs())
    }
}

impl IssuerKey {
    pub(crate) fn of(certificate: &X509Certificate<'_>) -> Self {
        let usage = certificate.key_usage().ok().flatten();
        Self {
            spki_der: certificate.public_key().raw.to_vec(),
            key_id: x509::subject_key_id(certificate).map(<[u8]>::to_vec),
            // A CA that does not say what its key is for does not say that it is for CRLs.
            signs_crls: usage.is_some_and(|usage| usage.value.crl_sign()),
        }
    }
}

impl Link {
    fn of(certificate: &X509Certificate<'_>, issuer: IssuerKey) -> Self {
        Self {
            serial: certificate.raw_serial().to_vec(),
            issuer_name: certificate.issuer().as_raw().to_vec(),
            issuer,
        }
    }
}

impl PathError {
    fn from_webpki(error: &webpki::Error) -> Self {
        use webpki::Error as E;
        match error {
            E::BadDer | E::BadDerTime | E::TrailingData(_) | E::ExtensionValueInvalid => Self::Malformed,
            E::MalformedExtensions | E::MalformedDnsIdentifier | E::InvalidSerialNumber => Self::Malformed,
            E::UnsupportedCertVersion => Self::Version,
            E::UnknownIssuer => Self::UnknownIssuer,
            E::InvalidSignatureForPublicKey => Self::Signature,
            E::SignatureAlgorithmMismatch
            | E::UnsupportedSignatureAlgorithmContext(_)
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Self::Algorithm,
            E::CertExpired { .. } => Self::Expired,
            E::CertNotValidYet { .. } => Self::NotYetValid,
            E::InvalidCertValidity => Self::InvalidValidity,
            E::CaUsedAsEndEntity => Self::CaAsLeaf,
            E::EndEntityUsedAsCa => Self::LeafAsCa,
            E::PathLenConstraintViolated | E::MaximumPathDepthExceeded => Self::TooLong,
            E::NameConstraintViolation
            | E::MalformedNameConstraint
            | E::InvalidNetworkMaskConstraint
            | E::UnsupportedNameType => Self::NameConstraint,
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Self::ExtendedKeyUsage,
            E::UnsupportedCriticalExtension => Self::UnknownCriticalExtension,
            E::MaximumPathBuildCallsExceeded
            | E::MaximumSignatureChecksExceeded
            | E::MaximumNameConstraintComparisonsExceeded => Self::TooComplex,
            other => Self::Other(format!("{other:?}")),
        }
    }
}

fn is_positive(serial: &[u8]) -> bool {
    serial.first().is_some_and(|first| first & 0x80 == 0) && !x509::magnitude(serial).is_empty()
}

fn pki_time(now: UnixTime) -> PkiTime {
    PkiTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(now.secs()).unwrap_or(0)))
}

/// RFC 5280 section 4.1.2.2.
const SERIAL_OCTETS_MAX: usize = 20;

/// What may be critical: each of these is looked at, here or by `webpki`.
const KNOWN_EXTENSIONS: [&[u8]; 5] = [
    x509::OID_KEY_USAGE,
    x509::OID_SUBJECT_ALT_NAME,
    x509::OID_BASIC_CONSTRAINTS,
    x509::OID_NAME_CONSTRAINTS,
    x509::OID_EXTENDED_KEY_USAGE,
];
