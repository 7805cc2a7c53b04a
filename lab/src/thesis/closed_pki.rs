//! Section 3.2.2: the project's closed PKI. One root, and RSA certificates of its services directly below.

use std::time::Duration;

use countersign_identity::{SpiffeId, TrustDomain, UnixTime};
use countersign_keys::{KeyPair, SystemRandom, random_bytes};
use countersign_pki::CertificateDer;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber, SubjectPublicKeyInfo,
};
use time::OffsetDateTime;

/// A root with its key.
pub struct ClosedPki {
    trust_domain: TrustDomain,
    root: CertificateDer<'static>,
    issuer: Issuer<'static, rcgen::KeyPair>,
}

/// A service with its key and certificate.
#[derive(Clone, Debug)]
pub struct ServiceIdentity {
    /// `service1.swapindo.com`: subject of the certificate, issuer of tokens, name of the server.
    pub name: String,
    /// The key of the certificate, which signs tokens too.
    pub key: KeyPair,
    /// The leaf; the root signed it.
    pub chain: Vec<CertificateDer<'static>>,
}

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClosedPkiError {
    /// The service's name is no part of a DNS name.
    #[error("`{name}` is no name of a service; use lower-case letters, digits and hyphens")]
    Name {
        /// What was asked for.
        name: String,
    },
    /// The encoder or the generator failed.
    #[error("the certificate could not be made")]
    Failed,
}

impl ClosedPki {
    /// A new root for `trust_domain`, good for ten years from `now`.
    ///
    /// # Errors
    /// [`ClosedPkiError::Failed`]
    pub fn new(trust_domain: TrustDomain, now: UnixTime) -> Result<Self, ClosedPkiError> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = params(&format!("{trust_domain} closed PKI"), now, ROOT_LIFE)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).map_err(failed)?.der().clone();
        let issuer = Issuer::from_ca_cert_der(&root, key).map_err(failed)?;
        Ok(Self { trust_domain, root, issuer })
    }

    /// Certifies `key` for the service `label`, whose name is `label.trust-domain`.
    ///
    /// # Errors
    /// [`ClosedPkiError`]
    pub fn certify(
        &self,
        label: &str,
        key: KeyPair,
        now: UnixTime,
        life: Duration,
    ) -> Result<ServiceIdentity, ClosedPkiError> {
        let refused = || ClosedPkiError::Name { name: label.escape_default().take(64).collect() };
        let name = format!("{label}.{}", self.trust_domain);
        let id = SpiffeId::service(&self.trust_domain, label).map_err(|_| refused())?;
        let mut params = params(&name, now, life)?;
        params.subject_alt_names = vec![
            SanType::URI(id.to_string().try_into().map_err(|_| refused())?),
            SanType::DnsName(name.clone().try_into().map_err(|_| refused())?),
        ];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let public = SubjectPublicKeyInfo::from_der(&key.public_key().spki_der()).map_err(failed)?;
        let leaf = params.signed_by(&public, &self.issuer).map_err(failed)?;
        Ok(ServiceIdentity { name, key, chain: vec![leaf.der().clone()] })
    }

    /// A list of revoked certificates, DER, current for a day.
    ///
    /// # Errors
    /// [`ClosedPkiError::Failed`]
    pub fn revoke(&self, serials: &[&[u8]], now: UnixTime) -> Result<Vec<u8>, ClosedPkiError> {
        let (this_update, next_update) = (moment(now)?, moment(now.saturating_add(CRL_LIFE))?);
        let revoked = |serial: &&[u8]| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: this_update,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update,
            next_update,
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer).map_err(failed)?.der().to_vec())
    }

    /// The root's certificate, which every service trusts.
    #[must_use]
    pub const fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// Whose root it is.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
}

fn params(name: &str, now: UnixTime, life: Duration) -> Result<CertificateParams, ClosedPkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = moment(now)?;
    params.not_after = moment(now.saturating_add(life))?;
    let mut serial: [u8; 16] = random_bytes(&SystemRandom::new()).map_err(|_| ClosedPkiError::Failed)?;
    // Positive and of full length, whatever was drawn.
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn moment(at: UnixTime) -> Result<OffsetDateTime, ClosedPkiError> {
    OffsetDateTime::from_unix_timestamp(at.secs()).map_err(|_| ClosedPkiError::Failed)
}

fn failed(_: rcgen::Error) -> ClosedPkiError {
    ClosedPkiError::Failed
}

const ROOT_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);
const CRL_LIFE: Duration = Duration::from_secs(24 * 3600);
