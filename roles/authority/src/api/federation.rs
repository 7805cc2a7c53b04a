//! The column `federation`: bundles of other trust domains in, ours out.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{FromRequest, Request, State},
};
use countersign_identity::TrustDomain;
use countersign_ledger::Event;
use countersign_sdk::clock;
use countersign_store::{StoreError, federation::PeerBundle};
use countersign_wire::{
    api::federation::{BundleDocument, Federate, Federated},
    codes::Code,
    problem::Problem,
};

use super::{ApiError, PathParam, read_json};
use crate::{
    federation::{self, BUNDLE_BYTES_MAX, FEDERATION_BYTES_MAX, Peer},
    http::Actor,
    journal::Change,
    snapshot,
    state::Authority,
};

/// Our own bundle, for other trust domains.
#[utoipa::path(get, path = "/api/v1/bundle/spiffe", tag = "federation",
    responses((status = 200, body = BundleDocument)))]
pub(crate) async fn own(State(authority): State<Arc<Authority>>) -> Result<Json<BundleDocument>, ApiError> {
    let meta = authority.db.meta().await?.ok_or(StoreError::NotFounded)?;
    let crls = authority.db.crls().await?;
    Ok(Json(federation::own(&authority, &authority.keys.load(), crls, meta.snapshot_sequence)))
}

/// The trust domains that we recognise.
#[utoipa::path(get, path = "/api/v1/federation", tag = "federation",
    responses((status = 200, body = Vec<Federated>)))]
pub(crate) async fn list(State(authority): State<Arc<Authority>>) -> Result<Json<Vec<Federated>>, ApiError> {
    let peers = federation::stored_peers(&authority).await?;
    Ok(Json(peers.iter().map(|(stored, peer)| peer.describe(stored)).collect()))
}

/// Longer than other bodies: revocation lists are in it.
pub(crate) struct BundleBody(Federate);

impl<S: Send + Sync> FromRequest<S> for BundleBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        read_json(request, BUNDLE_BYTES_MAX).await.map(Self)
    }
}

/// Recognises another trust domain by its bundle, or by a newer one.
#[utoipa::path(post, path = "/api/v1/federation", tag = "federation", request_body = Federate,
    responses((status = 200, body = Federated), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(crate) async fn take(
    State(authority): State<Arc<Authority>>,
    Extension(Actor(by)): Extension<Actor>,
    BundleBody(body): BundleBody,
) -> Result<Json<Federated>, ApiError> {
    let peer = Peer::read(&authority.trust_domain, &body.trust_domain, &body.bundle)
        .map_err(|error| ApiError::because(Code::ParameterInvalid, error.to_string()))?;
    let document = serde_json::to_string(&body.bundle)
        .map_err(|error| ApiError::internal("a bundle cannot be written", &error))?;
    let others = authority.db.federation().await?;
    let others =
        others.iter().filter(|other| other.peer != body.trust_domain).map(|other| other.document.len());
    if others.sum::<usize>().saturating_add(document.len()) > FEDERATION_BYTES_MAX {
        let why = format!("all bundles together have more than {FEDERATION_BYTES_MAX} bytes");
        return Err(ApiError::because(Code::ParameterInvalid, why));
    }
    let stored = PeerBundle {
        peer: body.trust_domain,
        sequence: body.bundle.spiffe_sequence.unwrap_or_default(),
        document,
        stored_at: clock::now(),
        stored_by: by,
    };
    let answer = peer.describe(&stored);
    let event = Event::FederationChanged {
        trust_domain: stored.peer.to_string(),
        sequence: Some(stored.sequence),
        changed_by: stored.stored_by.clone(),
    };
    let store = move |db: countersign_store::Db, records: Vec<countersign_ledger::Record>| async move {
        db.federate(&stored, &records).await.map(Change::Recorded)
    };
    match authority.journal.with(vec![event], store).await {
        Ok(()) => {
            snapshot::publish_change(&authority).await;
            Ok(Json(answer))
        }
        Err(StoreError::NotNewer { newest, .. }) => {
            let older = format!("the bundle at hand has the number {newest}, which is newer");
            Err(ApiError::because(Code::Conflict, older))
        }
        Err(StoreError::Conflict { .. }) => Err(Code::Conflict.into()),
        Err(error) => Err(error.into()),
    }
}

/// Recognises a trust domain no longer.
#[utoipa::path(delete, path = "/api/v1/federation/{trust_domain}", tag = "federation",
    params(("trust_domain" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
pub(crate) async fn end(
    State(authority): State<Arc<Authority>>,
    Extension(Actor(by)): Extension<Actor>,
    PathParam(name): PathParam,
) -> Result<http::StatusCode, ApiError> {
    let peer = TrustDomain::parse(&name)
        .map_err(|error| ApiError::because(Code::ParameterInvalid, error.to_string()))?;
    let event = Event::FederationChanged { trust_domain: peer.to_string(), sequence: None, changed_by: by };
    let end = move |db: countersign_store::Db, records: Vec<countersign_ledger::Record>| async move {
        db.end_federation(&peer, &records, clock::now()).await.map(Change::Recorded)
    };
    match authority.journal.with(vec![event], end).await {
        Ok(()) => {
            snapshot::publish_change(&authority).await;
            Ok(http::StatusCode::NO_CONTENT)
        }
        Err(StoreError::Missing { .. }) => Err(Code::ObjectUnknown.into()),
        Err(error) => Err(error.into()),
    }
}
