//! Who a peer is: the five checks of mutual TLS, in order, each with its result.
//!
//! The first failure ends the judgement; what was not looked at any more is *not reached*. A chain whose
//! name cannot be read has no trust domain, hence no bundle: then the identity fails, and the chain and
//! revocation before it were not reached.

mod error;

pub use error::{ChainError, IdentityError, PeerError, RevocationError, UsageError, ValidityError};

use countersign_identity::{CertificateFacts, IdKind, SpiffeId, UnixTime, Verified, Workload};
use countersign_keys::{constant_time_eq, sha256, sha256_hex};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName};

use crate::bundle::{Bundle, BundleSet};
use crate::path::{self, Link, Path, Purpose};
use crate::x509::{self, CERTIFICATE_BYTES_MAX};

/// In which role the peer presents its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// It opened the connection: clientAuth.
    Client,
    /// It accepted the connection: serverAuth.
    Server,
    /// It signed a token or a request: id-kp-jwt (RFC 9509) and nothing else. There is no connection.
    Signing,
}

/// Whom we expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expectation<'a> {
    /// Anyone whose trust domain's bundle we hold.
    AnyInBundle,
    /// This one.
    Exactly(&'a SpiffeId),
    /// One of these.
    OneOf(&'a [SpiffeId]),
    /// The holder of the certificate with this SHA-256 thumbprint. It must be chained all the same.
    Thumbprint(&'a [u8; 32]),
}

/// What to do where no current CRL speaks for the issuer of the peer's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrlPolicy {
    /// Refuse: the leaf's issuer needs a CRL that has not expired. (CAs further up are looked up in whatever
    /// CRLs the bundle holds of their issuers.)
    Require,
    /// Believe the certificate. What an expired CRL lists stays revoked.
    AcceptMissing,
}

/// The five checks, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CheckName {
    /// The certificate may be used so: leaf, key usage, extended key usage.
    Usage,
    /// It has begun and not ended.
    Validity,
    /// It leads to a root of its own trust domain.
    Chain,
    /// Neither it nor its issuers are revoked.
    Revocation,
    /// It names one workload, the expected one.
    Identity,
}

/// What came out of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckResult {
    /// Fulfilled.
    Pass,
    /// Not fulfilled.
    Fail(PeerError),
    /// Not looked at, since an earlier failure left nothing to look at.
    NotReached,
}

/// One check and its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Which check.
    pub name: CheckName,
    /// What came out.
    pub result: CheckResult,
}

/// All five checks, and whom they prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Every check, in order, whether reached or not.
    pub checks: [Check; 5],
    /// The peer, or the failed check's reason.
    pub outcome: Result<Verified<Workload>, PeerError>,
    /// When the first certificate of the path ends, the root among them; nothing where the peer is refused. Revocation
    /// lists may end earlier.
    pub path_ends: Option<UnixTime>,
}

/// Judges a peer by its certificate chain, leaf first.
///
/// The bundle is that of the trust domain in the leaf's own name; other bundles are never consulted (SPF-3).
pub fn verify_peer(
    chain: &[CertificateDer<'_>],
    bundles: &BundleSet,
    now: UnixTime,
    usage: Usage,
    expected: Expectation<'_>,
    crl_policy: CrlPolicy,
) -> Verdict {
    let mut passed = Vec::with_capacity(CheckName::ALL.len());
    let judged = judge(chain, bundles, now, usage, expected, crl_policy, &mut passed);
    let path_ends = judged.as_ref().ok().map(|(_, path)| path.not_after);
    Verdict::of(judged.map(|(workload, _)| workload), path_ends, &passed)
}

impl Verdict {
    pub(crate) fn of(
        outcome: Result<Verified<Workload>, PeerError>,
        path_ends: Option<UnixTime>,
        passed: &[CheckName],
    ) -> Self {
        let failed = outcome.as_ref().err();
        let checks = CheckName::ALL.map(|name| Check {
            name,
            result: match failed {
                Some(reason) if reason.check() == name => CheckResult::Fail(reason.clone()),
                _ if passed.contains(&name) => CheckResult::Pass,
                _ => CheckResult::NotReached,
            },
        });
        Self { checks, outcome, path_ends }
    }
}

pub(crate) fn judge(
    chain: &[CertificateDer<'_>],
    bundles: &BundleSet,
    now: UnixTime,
    usage: Usage,
    expected: Expectation<'_>,
    crl_policy: CrlPolicy,
    passed: &mut Vec<CheckName>,
) -> Result<(Verified<Workload>, Path), PeerError> {
    let (leaf_der, intermediates) = chain.split_first().ok_or(UsageError::NoCertificate)?;
    let too_long = chain.iter().any(|certificate| certificate.len() > CERTIFICATE_BYTES_MAX);
    if chain.len() > CHAIN_CERTIFICATES_MAX || too_long {
        return Err(UsageError::TooMuch.into());
    }
    let leaf = x509::parse(leaf_der).ok_or(UsageError::Malformed)?;

    check_usage(&leaf, usage)?;
    passed.push(CheckName::Usage);
    let not_after = check_validity(&leaf, now)?;
    passed.push(CheckName::Validity);

    let id = read_identity(&leaf)?;
    let trust_domain = id.trust_domain();
    let bundle = bundles
        .of(trust_domain)
        .ok_or_else(|| ChainError::NoBundle { trust_domain: trust_domain.clone() })?;
    let purpose = match usage {
        Usage::Client => Purpose::Client,
        Usage::Server => Purpose::Server,
        Usage::Signing => Purpose::Signing,
    };
    let path =
        path::validate(leaf_der, intermediates, bundle.anchors(), now, purpose).map_err(ChainError::Path)?;
    passed.push(CheckName::Chain);
    check_revocation(&path, bundle, now, crl_policy)?;
    passed.push(CheckName::Revocation);
    check_expected(&id, leaf_der, expected)?;
    passed.push(CheckName::Identity);

    let certificate = CertificateFacts {
        serial_hex: x509::serial_hex(leaf.raw_serial()),
        thumbprint_sha256_hex: sha256_hex(leaf_der),
        not_after,
    };
    Ok((Verified::vouch(Workload { id, certificate: Some(certificate) }), path))
}

/// Check 1: X509-SVID section 4 on constraints and usages.
fn check_usage(leaf: &X509Certificate<'_>, usage: Usage) -> Result<(), UsageError> {
    let constraints = leaf.basic_constraints().map_err(|_| UsageError::Malformed)?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(UsageError::Ca);
    }
    let key_usage =
        leaf.key_usage().map_err(|_| UsageError::Malformed)?.ok_or(UsageError::NoDigitalSignature)?;
    if key_usage.value.key_cert_sign() || key_usage.value.crl_sign() {
        return Err(UsageError::SignsCertificates);
    }
    if !key_usage.critical || !key_usage.value.digital_signature() {
        return Err(UsageError::NoDigitalSignature);
    }
    let extended = leaf.extended_key_usage().map_err(|_| UsageError::Malformed)?.map(|usage| usage.value);
    // X509-SVID section 4.4: when the extension is there, it must have both.
    let (client, server) =
        extended.map_or((true, true), |extended| (extended.client_auth, extended.server_auth));
    match (usage, client, server) {
        // A key that also opens connections would let one theft serve for both: nothing else may be there.
        (Usage::Signing, ..) if extended.is_some_and(is_signing_alone) => Ok(()),
        (Usage::Signing, ..) => Err(UsageError::NotForSigning),
        (_, true, true) => Ok(()),
        (Usage::Client, false, _) | (Usage::Server, false, true) => Err(UsageError::NoClientAuth),
        (_, _, false) => Err(UsageError::NoServerAuth),
    }
}

/// Check 2. Both ends are inclusive (RFC 5280 section 4.1.2.5); no leeway, since certificates are backdated.
fn check_validity(leaf: &X509Certificate<'_>, now: UnixTime) -> Result<UnixTime, ValidityError> {
    let (not_before, not_after) = x509::validity(leaf);
    if now.secs() < not_before.secs() {
        return Err(ValidityError::NotYetValid { by: not_before.since(now) });
    }
    if now.secs() > not_after.secs() {
        return Err(ValidityError::Expired { by: now.since(not_after) });
    }
    Ok(not_after)
}

/// id-kp-jwt, once, and no other purpose.
fn is_signing_alone(extended: &ExtendedKeyUsage<'_>) -> bool {
    let named = extended.any
        || extended.server_auth
        || extended.client_auth
        || extended.code_signing
        || extended.email_protection
        || extended.time_stamping
        || extended.ocsp_signing;
    let [only] = extended.other.as_slice() else { return false };
    !named && only.as_bytes() == x509::OID_KP_JWT
}

/// Check 4: each certificate of the path against the CRLs of its own issuer.
pub(crate) fn check_revocation(
    path: &Path,
    bundle: &Bundle,
    now: UnixTime,
    policy: CrlPolicy,
) -> Result<(), RevocationError> {
    for (position, link) in path.links.iter().enumerate() {
        let required = position == 0 && policy == CrlPolicy::Require;
        match look_up(link, bundle, now)? {
            Ok(()) => {}
            Err(reason) if required => return Err(reason),
            Err(_) => {}
        }
    }
    Ok(())
}

/// Outer error: revoked, whatever the policy. Inner error: no current CRL says that it is not.
fn look_up(
    link: &Link,
    bundle: &Bundle,
    now: UnixTime,
) -> Result<Result<(), RevocationError>, RevocationError> {
    let mut state = Err(RevocationError::NoCrl);
    for crl in bundle.crls().iter().filter(|crl| crl.issuer_name() == link.issuer_name) {
        if let Err(reason) = crl.verify(&link.issuer) {
            state = state.or(Err(reason.into()));
            continue;
        }
        if let Some(reason) = crl.reason(&link.serial) {
            return Err(RevocationError::Revoked { serial_hex: x509::serial_hex(&link.serial), reason });
        }
        state = match crl.check_current(now) {
            Ok(()) => Ok(()),
            Err(reason) => state.or(Err(reason.into())),
        };
    }
    Ok(state)
}

/// The first half of check 5: the one name in the certificate (X509-SVID sections 2 and 5.2).
fn read_identity(leaf: &X509Certificate<'_>) -> Result<SpiffeId, IdentityError> {
    let names = x509::subject_alt_names(leaf).map_err(|_| IdentityError::MalformedName)?;
    let (critical, names) = names.ok_or(IdentityError::NoName)?;
    if names.iter().any(is_malformed) {
        return Err(IdentityError::MalformedName);
    }
    let uris: Vec<&str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let [uri] = uris.as_slice() else { return Err(IdentityError::UriCount { count: uris.len() }) };
    let id = SpiffeId::parse(uri).map_err(IdentityError::NotASpiffeId)?;
    if id.kind() == IdKind::TrustDomain {
        return Err(IdentityError::NotAWorkload);
    }
    if leaf.subject().iter().next().is_none() && !critical {
        return Err(IdentityError::NameNotCritical);
    }
    Ok(id)
}

/// A NUL or another control byte in a name of any kind has fooled enough verifiers (CVE-2025-66220): the
/// certificate is refused, not the name skipped.
fn is_malformed(name: &GeneralName<'_>) -> bool {
    match name {
        GeneralName::URI(text) | GeneralName::DNSName(text) | GeneralName::RFC822Name(text) => {
            text.bytes().any(|byte| byte < 0x20 || byte == 0x7f)
        }
        GeneralName::Invalid(..) => true,
        _ => false,
    }
}

/// The second half of check 5.
fn check_expected(
    id: &SpiffeId,
    leaf: &CertificateDer<'_>,
    expected: Expectation<'_>,
) -> Result<(), IdentityError> {
    match expected {
        _ if expected.admits(id, leaf) => Ok(()),
        Expectation::Thumbprint(_) => Err(IdentityError::OtherThumbprint { got: id.clone() }),
        _ => Err(IdentityError::Unexpected { got: id.clone() }),
    }
}

impl Expectation<'_> {
    /// Is the holder of `leaf`, whose proven name is `id`, expected?
    pub fn admits(&self, id: &SpiffeId, leaf: &CertificateDer<'_>) -> bool {
        match self {
            Self::AnyInBundle => true,
            Self::Exactly(one) => id == *one,
            Self::OneOf(some) => some.contains(id),
            Self::Thumbprint(pin) => constant_time_eq(&sha256(leaf), *pin),
        }
    }
}

impl CheckName {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [Self::Usage, Self::Validity, Self::Chain, Self::Revocation, Self::Identity];

    /// Its name in decision records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Validity => "validity",
            Self::Chain => "chain",
            Self::Revocation => "revocation",
            Self::Identity => "identity",
        }
    }
}

/// The most certificates a peer may present: leaf, issuing CA, and room for a cross-signed or nested one.
pub const CHAIN_CERTIFICATES_MAX: usize = 6;
