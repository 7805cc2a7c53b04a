//! What the authority itself shows: its SVID to agents, an edge certificate to browsers and command lines. Both keys
//! live in memory alone and are made anew at every start and renewal.

use std::sync::Arc;

use countersign_identity::UnixTime;
use countersign_keys::{KeyPair, SystemRandom};
use countersign_pki::{CertificateDer, csr, profile::EDGE_SERVER_TTL_DEFAULT};
use countersign_sdk::tls::{Identity, TrustState};

use crate::{
    AuthorityError, boot,
    issuance::{self, Delivery, Order, OrderError, Requester},
    state::Authority,
};

/// Renews whatever has used half of its life, or is not there yet.
pub(crate) async fn renew(authority: &Arc<Authority>, now: UnixTime) -> Result<(), AuthorityError> {
    if is_due(&authority.trust, now) {
        let order = Order::Workload { id: authority.id.clone(), ttl: authority.svid_ttl };
        let (mut delivery, key) = issue(authority, &order).await?;
        // The root too: an agent that joins finds in this chain the one root that its token names.
        delivery.chain.push(delivery.root);
        let identity = Identity::workload(chain(delivery.chain), &key).map_err(|error| ca(&error))?;
        authority.trust.set_identity(identity);
    }
    if is_due(&authority.edge, now) {
        let names = boot::edge_names_of_listener(&authority.settings);
        let order = Order::Edge { names, ttl: EDGE_SERVER_TTL_DEFAULT };
        let (delivery, key) = issue(authority, &order).await?;
        authority.edge.set_identity(Identity::edge(chain(delivery.chain), &key).map_err(|error| ca(&error))?);
    }
    Ok(())
}

fn is_due(shown: &TrustState, now: UnixTime) -> bool {
    let trust = shown.load();
    let Some(identity) = trust.identity() else { return true };
    now.since(identity.not_before()) >= identity.not_after().since(identity.not_before()) / 2
}

async fn issue(authority: &Arc<Authority>, order: &Order) -> Result<(Delivery, KeyPair), AuthorityError> {
    let key = KeyPair::generate(&SystemRandom::new()).map_err(|error| ca(&error))?;
    let csr = csr::make(&key, None).map_err(|error| ca(&error))?;
    let requester = Requester {
        name: authority.id.to_string(),
        agent: None,
        attestation: "the authority's own process".to_owned(),
    };
    match issuance::issue(authority, &csr, order, &requester).await {
        Ok(delivery) => Ok((delivery, key)),
        Err(OrderError::Store(error)) => Err(error.into()),
        Err(OrderError::Issue(error)) if matches!(order, Order::Edge { .. }) => {
            Err(AuthorityError::Setting {
                name: "authority.names",
                why: format!("{error}; the names of an edge root are fixed when it is made"),
            })
        }
        Err(error) => Err(ca(&error)),
    }
}

fn chain(ders: Vec<Vec<u8>>) -> Vec<CertificateDer<'static>> {
    ders.into_iter().map(CertificateDer::from).collect()
}

fn ca(error: &dyn std::fmt::Display) -> AuthorityError {
    AuthorityError::Ca(error.to_string())
}
