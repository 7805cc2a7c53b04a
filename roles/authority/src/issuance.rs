//! Certificates (figure 3.1, steps 2 to 5): judged, signed, durable, and only then handed out.

use std::sync::Arc;

use countersign_identity::{SpiffeId, UnixTime};
use countersign_keys::{RandomError, SystemRandom, WeakKey, random_bytes, sha256_hex};
use countersign_ledger::{Event, Record};
use countersign_pki::{
    csr::{Csr, CsrError},
    issue::{self, IssueError, Issued, Issuer},
    profile::{EdgeNames, LeafTtl},
};
use countersign_sdk::clock;
use countersign_store::{StoreError, certificates::Certificate};
use countersign_wire::codes::Code;

use crate::{error::store_code, journal::Change, state::Authority};

/// What a certificate is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// An X.509-SVID.
    Workload { id: SpiffeId, ttl: LeafTtl },
    /// As above, for accepting connections only.
    Server { id: SpiffeId, ttl: LeafTtl },
    /// For signing tokens and requests alone.
    Signing { id: SpiffeId, ttl: LeafTtl },
    /// An HTTPS server below the edge root.
    Edge { names: EdgeNames, ttl: std::time::Duration },
}

/// Who asks, as the ledger keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Requester {
    /// `uid:0`, or the agent's SPIFFE ID.
    pub(crate) name: String,
    /// The agent that attested a workload.
    pub(crate) agent: Option<SpiffeId>,
    /// What it saw of the process.
    pub(crate) attestation: String,
}

/// A durable certificate: only this may leave the house.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) certificate: Certificate,
    /// Leaf first, without the root.
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) root: Vec<u8>,
}

/// A certificate that was signed and is not stored yet.
pub(crate) struct Signed {
    pub(crate) delivery: Delivery,
    pub(crate) events: Vec<Event>,
}

/// Why no certificate is handed out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrderError {
    /// The request itself.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// What was ordered.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// No serial number could be drawn.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// It is not durable, so nobody gets it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Signs what `csr` proves possession of and stores it with its events, in one transaction.
pub(crate) async fn issue(
    authority: &Arc<Authority>,
    csr: &[u8],
    order: &Order,
    requester: &Requester,
) -> Result<Delivery, OrderError> {
    let now = clock::now();
    let Signed { delivery, events } = sign(authority, csr, order, requester, now)?;
    let certificate = delivery.certificate.clone();
    authority
        .journal
        .with(events, move |db, records: Vec<Record>| async move {
            db.issue_and_record(&certificate, &records, now).await.map(Change::Recorded)
        })
        .await?;
    Ok(delivery)
}

/// Says that the certificate is on its way (step 5). Called when the answer is complete.
pub(crate) fn delivered(authority: &Authority, certificate: &Certificate) {
    metrics::counter!("countersign_certificates_issued_total", "profile" => certificate.profile.clone())
        .increment(1);
    if let Some(spiffe_id) = certificate.spiffe_id.clone() {
        let serial = certificate.serial.clone();
        authority.journal.note(Event::CertificateDelivered { spiffe_id, serial });
    }
}

/// Signs without storing: the caller stores the certificate with the events, or nobody gets it.
pub(crate) fn sign(
    authority: &Authority,
    csr: &[u8],
    order: &Order,
    requester: &Requester,
    now: UnixTime,
) -> Result<Signed, OrderError> {
    let csr = Csr::parse(csr)?;
    let serial = random_bytes(&SystemRandom::new())?;
    let keys = authority.keys.load_full();
    let issuing = keys.issuing.last().ok_or(IssueError::IssuerNotValid)?;
    let (issuer, issued, profile) = match order {
        Order::Workload { id, ttl } => {
            (issuing, issue::issue_workload(issuing, &csr, id, *ttl, now, serial)?, "workload")
        }
        Order::Server { id, ttl } => {
            (issuing, issue::issue_workload_server_only(issuing, &csr, id, *ttl, now, serial)?, "server")
        }
        Order::Signing { id, ttl } => {
            (issuing, issue::issue_signing(issuing, &csr, id, *ttl, now, serial)?, "signing")
        }
        Order::Edge { names, ttl } => {
            let edge = &keys.edge_root;
            (edge, issue::issue_edge_server(edge, csr.public_key(), names, *ttl, now, serial)?, "edge")
        }
    };
    let key = csr.public_key().thumbprint().to_string();
    let certificate = certificate(order.id(), profile, issuer, &issued, &key, requester, now);
    let mut chain = vec![certificate.der.clone()];
    if order.id().is_some() {
        chain.push(issuer.certificate().to_vec());
    }
    let root = if order.id().is_some() { &keys.workload_root } else { &keys.edge_root };
    let events = events(order, requester, &certificate);
    Ok(Signed { delivery: Delivery { certificate, chain, root: root.certificate().to_vec() }, events })
}

fn certificate(
    id: Option<&SpiffeId>,
    profile: &str,
    issuer: &Issuer,
    issued: &Issued,
    key: &str,
    requester: &Requester,
    now: UnixTime,
) -> Certificate {
    Certificate {
        serial: issued.serial_hex.clone(),
        spiffe_id: id.cloned(),
        profile: profile.to_owned(),
        issuer: issuer.serial_hex().to_owned(),
        thumbprint: sha256_hex(&issued.der),
        key: key.to_owned(),
        der: issued.der.to_vec(),
        requested_by: requester.name.clone(),
        issued_at: now,
        not_before: issued.not_before,
        not_after: issued.not_after,
        revocation: None,
    }
}

/// Steps 2 to 4 of figure 3.1. An edge certificate is no workload's: it is only signed.
fn events(order: &Order, requester: &Requester, certificate: &Certificate) -> Vec<Event> {
    let mut events = Vec::with_capacity(3);
    if let Some(id) = order.id() {
        events.push(Event::EnrolmentRequested {
            spiffe_id: id.clone(),
            agent: requester.agent.clone(),
            attestation: requester.attestation.clone(),
        });
        events.push(Event::CsrBuilt { spiffe_id: id.clone(), key: certificate.key.clone() });
        events.push(Event::CertificateSigned {
            spiffe_id: id.clone(),
            serial: certificate.serial.clone(),
            key: certificate.key.clone(),
            profile: certificate.profile.clone(),
            requested_by: requester.name.clone(),
            not_after: certificate.not_after,
        });
    }
    events
}

impl Order {
    /// Whose it is; an edge server has no SPIFFE ID.
    pub(crate) fn id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Workload { id, .. } | Self::Server { id, .. } | Self::Signing { id, .. } => Some(id),
            Self::Edge { .. } => None,
        }
    }
}

impl OrderError {
    /// The registered code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Csr(error) => csr_code(error),
            Self::Issue(error) => issue_code(error),
            Self::Random(_) => Code::Internal,
            Self::Store(error) => store_code(error),
        }
    }
}

fn csr_code(error: &CsrError) -> Code {
    match error {
        CsrError::Key(WeakKey::RsaTooShort { .. }) => Code::CsrWeakKey,
        CsrError::Key(_) | CsrError::SignatureAlgorithm { .. } => Code::CsrForeignKey,
        CsrError::NotPossessed => Code::CsrSignature,
        CsrError::AsksForOtherNames { .. }
        | CsrError::AsksForInvalidId(_)
        | CsrError::AsksToBeCa
        | CsrError::AsksForKeyUsage
        | CsrError::AsksForExtendedKeyUsage
        | CsrError::AsksForExtension { .. }
        | CsrError::Attribute { .. } => Code::CsrAsksForMore,
        _ => Code::CsrMalformed,
    }
}

fn issue_code(error: &IssueError) -> Code {
    match error {
        IssueError::OtherId { .. } => Code::CsrAsksForMore,
        IssueError::Ttl(_) => Code::LifetimeOutOfRange,
        IssueError::IssuerNotValid => Code::IssuerExpiring,
        IssueError::NameCount { .. }
        | IssueError::NotADnsName { .. }
        | IssueError::NameNotPermitted { .. } => Code::ParameterInvalid,
        IssueError::ForeignTrustDomain { .. } | IssueError::NotAWorkload { .. } => Code::EntryUnknown,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use countersign_keys::{KeyPair, SystemRandom};
    use countersign_pki::csr;

    use super::*;
    use crate::serve::testing;

    #[test]
    fn every_reason_has_its_registered_code() {
        let id = SpiffeId::parse("spiffe://fleamarket.test/svc/ads").unwrap();
        for (error, code) in [
            (OrderError::Csr(CsrError::Malformed), Code::CsrMalformed),
            (OrderError::Csr(CsrError::NotPossessed), Code::CsrSignature),
            (OrderError::Csr(CsrError::Key(WeakKey::RsaTooShort { bits: 1024 })), Code::CsrWeakKey),
            (OrderError::Csr(CsrError::Key(WeakKey::Ed25519)), Code::CsrForeignKey),
            (OrderError::Csr(CsrError::AsksToBeCa), Code::CsrAsksForMore),
            (
                OrderError::Issue(IssueError::OtherId { asked: id.clone(), entitled: id }),
                Code::CsrAsksForMore,
            ),
            (OrderError::Issue(IssueError::IssuerNotValid), Code::IssuerExpiring),
            (OrderError::Issue(IssueError::NameCount { count: 0 }), Code::ParameterInvalid),
            (OrderError::Issue(IssueError::SerialZero), Code::Internal),
            (OrderError::Random(RandomError::Unavailable), Code::Internal),
            (OrderError::Store(StoreError::Busy), Code::DatabaseBusy),
        ] {
            assert_eq!(error.code(), code, "{error}");
        }
    }

    #[tokio::test]
    async fn nothing_is_handed_out_that_is_not_durable() {
        let (_dir, authority) = testing::authority().await;
        let key = KeyPair::generate(&SystemRandom::new()).unwrap();
        let csr = csr::make(&key, None).unwrap();
        let id = SpiffeId::service(&authority.trust_domain, "ads").unwrap();
        let order = Order::Workload { id, ttl: authority.svid_ttl };
        let requester = Requester { name: "uid:0".to_owned(), agent: None, attestation: String::new() };
        let delivery = issue(&authority, &csr, &order, &requester).await.unwrap();
        assert!(authority.db.certificate(&delivery.certificate.serial).await.unwrap().is_some());
        authority.db.close().await;
        let failed = issue(&authority, &csr, &order, &requester).await.unwrap_err();
        assert!(matches!(failed, OrderError::Store(_)), "{failed}");
    }
}
