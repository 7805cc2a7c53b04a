//! A trust domain with its authorities, and ways to make certificates that our own issuing would not make.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use countersign_identity::{SpiffeId, TrustDomain, UnixTime};
use countersign_keys::{KeyPair, SystemRandom};
use countersign_pki::issue::{self, Issued, Issuer, Root};
use countersign_pki::profile::LeafTtl;
use countersign_pki::revocation::{Crl, RevocationReason, RevokedEntry, make_crl};
use countersign_pki::{
    Bundle, BundleSet, CertificateDer, CrlPolicy, Expectation, Usage, Verdict, csr, verify_peer,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType,
};

pub(crate) const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct House {
    pub(crate) domain: TrustDomain,
    pub(crate) root: Issuer,
    pub(crate) issuing: Issuer,
}

pub(crate) fn house(domain: &str) -> House {
    let domain = TrustDomain::parse(domain).unwrap();
    let root = issue::make_root(Root::Workload, &domain, key(), NOW, serial()).unwrap();
    let issuing = issue::make_issuing(&root, &domain, key(), NOW, serial()).unwrap();
    House { domain, root, issuing }
}

pub(crate) fn key() -> KeyPair {
    KeyPair::generate(&SystemRandom::new()).unwrap()
}

/// Distinct and easy to read in a failure.
pub(crate) fn serial() -> [u8; 16] {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 40);
    let mut serial = [0x5a; 16];
    serial[1..9].copy_from_slice(&NEXT.fetch_add(1 << 40, Ordering::Relaxed).to_be_bytes());
    serial
}

impl House {
    pub(crate) fn id(&self, name: &str) -> SpiffeId {
        SpiffeId::service(&self.domain, name).unwrap()
    }

    pub(crate) fn issue(&self, name: &str) -> Issued {
        let request = csr::Csr::parse(&csr::make(&key(), None).unwrap()).unwrap();
        let ttl = LeafTtl::default();
        issue::issue_workload(&self.issuing, &request, &self.id(name), ttl, NOW, serial()).unwrap()
    }

    pub(crate) fn chain(&self, leaf: &Issued) -> Vec<CertificateDer<'static>> {
        vec![leaf.der.clone(), self.issuing.certificate().clone()]
    }

    pub(crate) fn bundle(&self, crls: Vec<Crl>) -> Bundle {
        Bundle::new(self.domain.clone(), vec![self.root.certificate().clone()], crls).unwrap()
    }

    pub(crate) fn bundles(&self, crls: Vec<Crl>) -> BundleSet {
        [self.bundle(crls)].into_iter().collect()
    }

    /// A CRL of the issuing CA, as a peer reads it.
    pub(crate) fn crl(&self, revoked: &[&Issued]) -> Crl {
        let entries: Vec<_> = revoked.iter().map(|issued| entry(issued)).collect();
        Crl::read(&make_crl(&self.issuing, 1, &entries, NOW, NOW.saturating_add(HOUR)).unwrap()).unwrap()
    }

    /// A leaf signed by the issuing CA, good but for what `change` does to it.
    pub(crate) fn forge(&self, change: impl FnOnce(&mut CertificateParams)) -> Vec<CertificateDer<'static>> {
        let mut params = leaf_params(&self.id("ads"));
        change(&mut params);
        vec![sign(&params, &self.issuing), self.issuing.certificate().clone()]
    }

    /// What this house thinks of a client, with no CRLs about.
    pub(crate) fn judge(&self, chain: &[CertificateDer<'_>]) -> Verdict {
        judge_in(&self.bundles(Vec::new()), chain)
    }
}

pub(crate) fn judge_in(bundles: &BundleSet, chain: &[CertificateDer<'_>]) -> Verdict {
    verify_peer(chain, bundles, NOW, Usage::Client, Expectation::AnyInBundle, CrlPolicy::AcceptMissing)
}

pub(crate) fn entry(issued: &Issued) -> RevokedEntry {
    RevokedEntry {
        serial: unhex(&issued.serial_hex),
        at: NOW,
        reason: RevocationReason::KeyCompromise,
        not_after: issued.not_after,
    }
}

/// What our own profile says, written down a second time.
pub(crate) fn leaf_params(id: &SpiffeId) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = at(NOW.saturating_sub(Duration::from_secs(60)));
    params.not_after = at(NOW.saturating_add(HOUR));
    params.subject_alt_names = vec![uri(id.as_str())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

/// A CA below another, with what our profile says of one.
pub(crate) fn ca_params(name: &str, path_length: Option<u8>) -> CertificateParams {
    let mut params = leaf_params(&SpiffeId::parse("spiffe://unused.test/x").unwrap());
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.subject_alt_names.clear();
    params.extended_key_usages.clear();
    params.is_ca =
        IsCa::Ca(path_length.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn at(time: UnixTime) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(time.secs()).unwrap()
}

/// A fresh key certified by one of our CAs with any content.
pub(crate) fn sign(params: &CertificateParams, issuer: &Issuer) -> CertificateDer<'static> {
    sign_key(params, &rcgen_key(&key()), issuer)
}

pub(crate) fn sign_key(
    params: &CertificateParams,
    subject: &rcgen::KeyPair,
    issuer: &Issuer,
) -> CertificateDer<'static> {
    let signer = rcgen::Issuer::from_ca_cert_der(issuer.certificate(), rcgen_key(issuer.key())).unwrap();
    params.signed_by(subject, &signer).unwrap().into()
}

pub(crate) fn rcgen_key(key: &KeyPair) -> rcgen::KeyPair {
    rcgen::KeyPair::try_from(key.to_pkcs8().unwrap().expose().as_slice()).unwrap()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let padded = if text.len() % 2 == 1 { format!("0{text}") } else { text.to_owned() };
    (0..padded.len()).step_by(2).map(|at| u8::from_str_radix(&padded[at..at + 2], 16).unwrap()).collect()
}
