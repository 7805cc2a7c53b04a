//! A key of our own that signs requests and nothing else, certified by the authority or registered there.

use std::fmt;

use countersign_identity::{SpiffeId, UnixTime};
use countersign_keys::{KeyPair, SystemRandom, sha256};
use countersign_pki::csr;
use countersign_wire::agent::{CertificatePurpose, IssueResponse};
use http::HeaderValue;
use rustls::pki_types::CertificateDer;

use super::{Credential, CredentialError};
use crate::{agent::AgentApi, clock, renewal, signing_chains::write_chain, tls::Identity};

/// The signing key with what callees need to believe it, prepared once.
pub struct SigningIdentity {
    id: SpiffeId,
    key: KeyPair,
    /// None: callees know the key from the snapshot.
    certificate: Option<Certificate>,
}

struct Certificate {
    chain: HeaderValue,
    leaf_sha256: [u8; 32],
    not_after: UnixTime,
    renew_at: UnixTime,
}

impl SigningIdentity {
    /// What signs.
    #[must_use]
    pub const fn key(&self) -> &KeyPair {
        &self.key
    }

    /// Value of `Countersign-Signing-Chain`: the leaf and its issuer, as byte sequences of RFC 9651. A registered key has
    /// none.
    #[must_use]
    pub fn chain(&self) -> Option<&HeaderValue> {
        self.certificate.as_ref().map(|certificate| &certificate.chain)
    }

    /// SHA-256 over the leaf's DER: the JOSE header `x5t#S256` (RFC 7515 section 4.1.8). A registered key has none.
    #[must_use]
    pub fn leaf_sha256(&self) -> Option<&[u8; 32]> {
        self.certificate.as_ref().map(|certificate| &certificate.leaf_sha256)
    }

    /// In whose name it signs.
    #[must_use]
    pub const fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// A key of `id` whose public half is registered at the authority: it stands until it is withdrawn there.
    pub(super) const fn registered(id: SpiffeId, key: KeyPair) -> Self {
        Self { id, key, certificate: None }
    }
}

pub(super) async fn get(agent: &AgentApi, id: &SpiffeId) -> Result<SigningIdentity, CredentialError> {
    let key = KeyPair::generate(&SystemRandom::new()).map_err(|_| CredentialError::NoKey)?;
    let request = csr::make(&key, None).map_err(|_| CredentialError::NoKey)?;
    let answer = agent.issue(request, CertificatePurpose::Signing).await?;
    read(answer, key, id, clock::now())
}

fn read(
    answer: IssueResponse,
    key: KeyPair,
    id: &SpiffeId,
    now: UnixTime,
) -> Result<SigningIdentity, CredentialError> {
    let chain = answer.chain.iter().cloned().map(CertificateDer::from).collect();
    let certified = Identity::workload(chain, &key)?;
    if certified.id() != Some(id) {
        let got = certified.id().map(ToString::to_string).unwrap_or_default();
        return Err(CredentialError::OtherId { want: id.clone(), got });
    }
    let leaf = certified.chain().first().map(|leaf| sha256(leaf)).unwrap_or_default();
    let not_after = certified.not_after();
    let certificate = Certificate {
        leaf_sha256: leaf,
        chain: HeaderValue::try_from(write_chain(certified.chain()))
            .map_err(|_| CredentialError::Unusable { why: "its chain does not fit into a header" })?,
        not_after,
        renew_at: now.saturating_add(renewal::half_of(not_after.since(now))),
    };
    Ok(SigningIdentity { id: id.clone(), key, certificate: Some(certificate) })
}

impl Credential for SigningIdentity {
    fn expires(&self) -> UnixTime {
        self.certificate.as_ref().map_or(FOR_EVER, |certificate| certificate.not_after)
    }

    fn renew_at(&self) -> UnixTime {
        self.certificate.as_ref().map_or(FOR_EVER, |certificate| certificate.renew_at)
    }
}

/// A registered key is withdrawn, it does not run out.
const FOR_EVER: UnixTime = UnixTime::from_millis(i64::MAX);

impl fmt::Debug for SigningIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningIdentity({:?})", self.key)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    use countersign_identity::TrustDomain;
    use countersign_pki::{
        csr::Csr,
        issue::{Issuer, Root, issue_signing, make_issuing, make_root},
        profile::LeafTtl,
    };

    fn key() -> KeyPair {
        KeyPair::generate(&SystemRandom::new()).unwrap()
    }

    fn issuer(td: &TrustDomain) -> Issuer {
        let now = clock::now();
        let root = make_root(Root::Workload, td, key(), now, [1; 16]).unwrap();
        make_issuing(&root, td, key(), now, [2; 16]).unwrap()
    }

    fn answer(issuer: &Issuer, key: &KeyPair, id: &SpiffeId) -> IssueResponse {
        let csr = Csr::parse(&csr::make(key, None).unwrap()).unwrap();
        let ttl = LeafTtl::new(Duration::from_hours(1)).unwrap();
        let issued = issue_signing(issuer, &csr, id, ttl, clock::now(), [3; 16]).unwrap();
        let chain = vec![issued.der.to_vec(), issuer.certificate().to_vec()];
        IssueResponse { chain, spiffe_id: id.to_string(), snapshot_keys: Vec::new() }
    }

    #[test]
    fn prepares_once_what_each_request_shows() {
        let td = TrustDomain::parse("fleamarket.test").unwrap();
        let (issuer, key, ads) = (issuer(&td), key(), SpiffeId::service(&td, "ads").unwrap());
        let answer = answer(&issuer, &key, &ads);
        let leaf = answer.chain.first().unwrap().clone();
        let identity = read(answer, key, &ads, clock::now()).unwrap();
        assert_eq!(identity.leaf_sha256(), Some(&sha256(&leaf)));
        let items: Vec<_> = identity.chain().unwrap().to_str().unwrap().split(", ").collect();
        assert_eq!(items.len(), 2);
        assert!(items.iter().all(|item| item.starts_with(':') && item.ends_with(':')), "{items:?}");
        assert!(identity.renew_at() < identity.expires());
    }

    #[test]
    fn rejects_a_certificate_that_names_another() {
        let td = TrustDomain::parse("fleamarket.test").unwrap();
        let [ads, chat] = ["ads", "chat"].map(|name| SpiffeId::service(&td, name).unwrap());
        let (issuer, key) = (issuer(&td), key());
        let refused = read(answer(&issuer, &key, &chat), key, &ads, clock::now()).map(|_| ());
        assert_eq!(refused, Err(CredentialError::OtherId { want: ads, got: chat.to_string() }));
    }
}
