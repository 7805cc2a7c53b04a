//! The listener's own CA, and how it judges whoever connects.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use countersign_identity::{SpiffeId, TrustDomain, UnixTime};
use countersign_keys::{KeyPair, PublicKey, SystemRandom, random_bytes};
use countersign_pki::{
    Bundle, BundleSet, CertificateDer, CheckName, Crl, CrlPolicy, Expectation, PeerError, RevocationReason,
    Usage,
    csr::{self, Csr},
    issue::{
        Issuer, Root, issue_signing, issue_workload, issue_workload_server_only, make_issuing, make_root,
    },
    path::PathError,
    profile::LeafTtl,
    revocation::{RevokedEntry, make_crl},
    verify::{ChainError, IdentityError, RevocationError, UsageError, ValidityError},
    verify_peer, verify_signer,
};
use countersign_sdk::clock;
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, parse_x509_certificate, time::ASN1Time,
};

use super::{NoListener, Weak, Weakness};
use crate::attack::{AttackError, Ca, Held, Kind};

/// Root, issuing CA, and what was taken back.
pub(super) struct Authority {
    trust_domain: TrustDomain,
    root: Issuer,
    issuing: Issuer,
    revoked: Mutex<Vec<RevokedEntry>>,
}

/// Roots and revocation lists, in DER.
type Published = (Vec<CertificateDer<'static>>, Vec<Vec<u8>>);

impl Authority {
    pub(super) fn new(trust_domain: &TrustDomain) -> Result<Self, NoListener> {
        let failed = |error: &dyn std::fmt::Display| NoListener::new("a ca", error);
        let key = || KeyPair::generate(&SystemRandom::new()).map_err(|error| failed(&error));
        let begin = clock::now().saturating_sub(DAY);
        let serial = || serial().map_err(|error| failed(&error));
        let root = make_root(Root::Workload, trust_domain, key()?, begin, serial()?);
        let root = root.map_err(|error| failed(&error))?;
        let issuing = make_issuing(&root, trust_domain, key()?, begin, serial()?);
        let issuing = issuing.map_err(|error| failed(&error))?;
        Ok(Self { trust_domain: trust_domain.clone(), root, issuing, revoked: Mutex::default() })
    }

    pub(super) fn certified(
        &self,
        id: &SpiffeId,
        kind: Kind,
        life: Duration,
        at: UnixTime,
    ) -> Result<Held, AttackError> {
        let failed = |why: &dyn std::fmt::Display| AttackError::equipment("a certificate", why);
        let key = KeyPair::generate(&SystemRandom::new()).map_err(|error| failed(&error))?;
        let csr = csr::make(&key, None).map_err(|error| failed(&error))?;
        let csr = Csr::parse(&csr).map_err(|error| failed(&error))?;
        let life = LeafTtl::new(life).map_err(|error| failed(&error))?;
        let issue = match kind {
            Kind::Workload => issue_workload,
            Kind::ServerOnly => issue_workload_server_only,
            Kind::Signing => issue_signing,
        };
        let serial = serial().map_err(|error| failed(&error))?;
        let issued = issue(&self.issuing, &csr, id, life, at, serial).map_err(|error| failed(&error))?;
        let chain = vec![issued.der, self.issuing.certificate().clone()];
        Ok(Held { id: id.clone(), chain, key, serial: issued.serial_hex })
    }

    /// A chain for the key of a request, in this name.
    pub(super) fn chain_for(
        &self,
        csr: &Csr,
        id: &SpiffeId,
    ) -> Result<Vec<CertificateDer<'static>>, AttackError> {
        let failed = |why: &dyn std::fmt::Display| AttackError::equipment("a certificate", why);
        let life = LeafTtl::new(HOUR).map_err(|error| failed(&error))?;
        let serial = serial().map_err(|error| failed(&error))?;
        let issued = issue_workload(&self.issuing, csr, id, life, clock::now(), serial);
        let issued = issued.map_err(|error| failed(&error))?;
        Ok(vec![issued.der, self.issuing.certificate().clone()])
    }

    pub(super) fn revoke(&self, held: &Held) -> Result<(), AttackError> {
        let serial = u128::from_str_radix(&held.serial, 16)
            .map_err(|error| AttackError::equipment("a serial number", error))?;
        let entry = RevokedEntry {
            serial: serial.to_be_bytes().to_vec(),
            at: clock::now(),
            reason: RevocationReason::KeyCompromise,
            not_after: clock::now().saturating_add(DAY),
        };
        self.revoked.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
        Ok(())
    }

    pub(super) fn ca(&self) -> Result<Ca, AttackError> {
        Ca::with_key(self.issuing.certificate(), self.issuing.key())
    }

    fn has_signed(&self, leaf: &X509Certificate<'_>) -> bool {
        let issuing = parse_x509_certificate(self.issuing.certificate());
        issuing.is_ok_and(|(_, issuing)| leaf.verify_signature(Some(issuing.public_key())).is_ok())
    }

    /// Roots and revocation list, as they are published.
    pub(super) fn published(&self) -> Result<Published, AttackError> {
        let now = clock::now();
        let revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let crl = make_crl(&self.issuing, 1, &revoked, now, now.saturating_add(DAY));
        let crl = crl.map_err(|error| AttackError::equipment("a revocation list", error))?;
        Ok((vec![self.root.certificate().clone()], vec![crl]))
    }

    /// What is trusted, with the newest list; nothing if it cannot be made, which then refuses everybody.
    fn bundles(&self) -> BundleSet {
        self.roots_of(&self.trust_domain)
    }

    /// The own roots and lists, in the name of this trust domain.
    fn roots_of(&self, trust_domain: &TrustDomain) -> BundleSet {
        let Ok((roots, lists)) = self.published() else { return BundleSet::default() };
        let lists = lists.iter().filter_map(|der| Crl::read(der).ok());
        Bundle::new(trust_domain.clone(), roots, lists.collect()).into_iter().collect()
    }
}

impl Weak {
    /// Who shows this chain in a handshake.
    pub(super) fn peer(&self, chain: &[CertificateDer<'_>]) -> Result<String, PeerError> {
        let named = SpiffeId::parse(&first_name(chain));
        let bundles = match &named {
            Ok(named) if self.makes(Weakness::OnePoolOfRoots) => self.pki.roots_of(named.trust_domain()),
            _ => self.pki.bundles(),
        };
        let (usage, anyone) = (Usage::Client, Expectation::AnyInBundle);
        match verify_peer(chain, &bundles, clock::now(), usage, anyone, CrlPolicy::Require).outcome {
            Ok(workload) => Ok(workload.id.to_string()),
            Err(error) if self.overlooks(&error) => self.other_checks(chain, error.check(), &bundles),
            Err(error) => Err(error),
        }
    }

    /// One check is not made; the others are, as plainly as they can be said.
    fn other_checks(
        &self,
        chain: &[CertificateDer<'_>],
        skipped: CheckName,
        bundles: &BundleSet,
    ) -> Result<String, PeerError> {
        let leaf = chain.first().ok_or(UsageError::NoCertificate)?;
        let (_, leaf) = parse_x509_certificate(leaf).map_err(|_| UsageError::Malformed)?;
        for check in CheckName::ALL.into_iter().filter(|check| *check != skipped) {
            match check {
                // The first: whatever else failed, it has passed.
                CheckName::Usage => {}
                CheckName::Validity if !is_valid_now(&leaf) => {
                    return Err(ValidityError::Expired { by: Duration::ZERO }.into());
                }
                CheckName::Chain if !self.pki.has_signed(&leaf) => {
                    return Err(ChainError::Path(PathError::UnknownIssuer).into());
                }
                CheckName::Revocation if is_listed(&leaf, bundles) => {
                    return Err(RevocationError::NoCrl.into());
                }
                CheckName::Identity if names(&leaf).len() != 1 => {
                    return Err(IdentityError::UriCount { count: names(&leaf).len() }.into());
                }
                _ => {}
            }
        }
        Ok(first_name(chain))
    }

    /// The check that failed is one that is not made.
    fn overlooks(&self, error: &PeerError) -> bool {
        self.makes(match error.check() {
            CheckName::Usage => Weakness::AnyPurpose,
            CheckName::Validity => Weakness::AnyAge,
            CheckName::Chain => Weakness::AnyIssuer,
            CheckName::Revocation => Weakness::NoRevocation,
            CheckName::Identity => Weakness::FirstNameCounts,
        })
    }

    /// Whose key signed a token, by the chain that came with it.
    pub(super) fn signer(&self, chain: &[CertificateDer<'_>]) -> Result<(PublicKey, SpiffeId), PeerError> {
        let (now, anyone) = (clock::now(), Expectation::AnyInBundle);
        let crls =
            if self.makes(Weakness::SignerForEver) { CrlPolicy::AcceptMissing } else { CrlPolicy::Require };
        let bundles = match self.makes(Weakness::SignerForEver) {
            true => self.pki.without_lists(),
            false => self.pki.bundles(),
        };
        let (verdict, signer) = verify_signer(chain, &bundles, now, anyone, crls);
        verdict.outcome?;
        let found = signer.map(|signer| (signer.key().clone(), signer.id().clone()));
        found.ok_or(PeerError::Usage(UsageError::NoCertificate))
    }
}

impl Authority {
    fn without_lists(&self) -> BundleSet {
        let roots = vec![self.root.certificate().clone()];
        Bundle::new(self.trust_domain.clone(), roots, Vec::new()).into_iter().collect()
    }
}

/// The first URI of the leaf, whatever else is there.
fn first_name(chain: &[CertificateDer<'_>]) -> String {
    let leaf = chain.first().and_then(|leaf| parse_x509_certificate(leaf).ok());
    let first = leaf.and_then(|(_, leaf)| names(&leaf).into_iter().next());
    first.unwrap_or_else(|| "somebody".to_owned())
}

/// Every URI.
fn names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let names = leaf.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    uris.collect()
}

fn is_valid_now(leaf: &X509Certificate<'_>) -> bool {
    ASN1Time::from_timestamp(clock::now().secs()).is_ok_and(|now| leaf.validity().is_valid_at(now))
}

fn is_listed(leaf: &X509Certificate<'_>, bundles: &BundleSet) -> bool {
    let mut lists = bundles.iter().flat_map(|bundle| bundle.crls());
    lists.any(|list| list.is_revoked(leaf.raw_serial()))
}

fn serial() -> Result<[u8; 16], countersign_keys::RandomError> {
    let mut serial: [u8; 16] = random_bytes(&SystemRandom::new())?;
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    Ok(serial)
}

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
