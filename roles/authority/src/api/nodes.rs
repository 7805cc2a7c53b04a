//! Registration: which services exist, and the tokens with which agents join.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{SpiffeId, UserContext, WimseProof};
use countersign_keys::{SystemRandom, hash::hex, random_bytes, sha256};
use countersign_ledger::Event;
use countersign_sdk::clock;
use countersign_store::{certificates::CertificateQuery, nodes, services as stored};
use countersign_wire::{
    SecretText,
    api::{
        nodes::{JoinToken, NewJoinToken},
        services::{NewService, Service, ServiceDetail},
    },
    codes::Code,
    problem::Problem,
};

use super::{ApiError, Body, PathParam, ca};
use crate::{entries, http::Actor, journal::Change, modes, settings::LOCAL_NODE, snapshot, state::Authority};

/// How long a join token counts, unless the request says otherwise.
const JOIN_TOKEN_LIFE: Duration = Duration::from_secs(600);
const JOIN_TOKEN_LIFE_MAX: Duration = Duration::from_secs(86_400);
/// Certificates that `service show` tells of.
const CERTIFICATES_SHOWN_MAX: u32 = 20;

/// Registered services by name.
#[utoipa::path(get, path = "/api/v1/services", tag = "ca", responses((status = 200, body = Vec<Service>)))]
pub(crate) async fn services(
    State(authority): State<Arc<Authority>>,
) -> Result<Json<Vec<Service>>, ApiError> {
    Ok(Json(authority.db.services().await?.into_iter().map(describe).collect()))
}

/// One service, with its newest certificates: the link from an identity to its keys.
#[utoipa::path(get, path = "/api/v1/services/{name}", tag = "ca", params(("name" = String, Path)),
    responses((status = 200, body = ServiceDetail), (status = 404, body = Problem)))]
pub(crate) async fn service(
    State(authority): State<Arc<Authority>>,
    PathParam(name): PathParam,
) -> Result<Json<ServiceDetail>, ApiError> {
    let entry = authority.db.service(&name).await?.ok_or(Code::ObjectUnknown)?;
    let spiffe_id = Some(entry.spiffe_id.clone());
    let query = CertificateQuery { spiffe_id, limit: CERTIFICATES_SHOWN_MAX, ..CertificateQuery::default() };
    let certificates = authority.db.certificates(&query).await?;
    Ok(Json(ServiceDetail {
        id: entry.id.clone(),
        launch_by: entry.launch_by.clone(),
        created_at: entry.created_at,
        service: describe(entry),
        certificates: certificates.into_iter().map(ca::describe).collect(),
    }))
}

/// Registers a service for the local node, or replaces the entry of the same name; other nodes are named in the
/// authority's file.
#[utoipa::path(post, path = "/api/v1/services", tag = "ca", request_body = NewService,
    responses((status = 200, body = Service), (status = 422, body = Problem)))]
pub(crate) async fn register(
    State(authority): State<Arc<Authority>>,
    Extension(Actor(by)): Extension<Actor>,
    Body(body): Body<NewService>,
) -> Result<Json<Service>, ApiError> {
    if body.address.parse::<SocketAddr>().is_err() {
        return Err(ApiError::because(Code::ParameterInvalid, "`address` is not IP:PORT"));
    }
    let spiffe_id = SpiffeId::service(&authority.trust_domain, body.name.as_str())
        .map_err(|error| ApiError::because(Code::ParameterInvalid, error.to_string()))?;
    // Where it may run and under which identity stays as it was registered: this route cannot widen that.
    let before = authority.db.service(body.name.as_str()).await?;
    let local = SpiffeId::agent(&authority.trust_domain, LOCAL_NODE)
        .map_err(|error| ApiError::internal("the local node has no name", &error))?;
    modes::check(&authority, &modes_of(&body))
        .map_err(|why| ApiError::because(Code::ParameterInvalid, why))?;
    let entry = stored::NewService {
        id: entries::new_id()?,
        name: body.name,
        spiffe_id: before.as_ref().map_or(spiffe_id, |entry| entry.spiffe_id.clone()),
        address: body.address,
        accepts: body.accepts,
        sends: body.sends,
        user_context: UserContext::default(),
        wimse: WimseProof::default(),
        launch_by: body.launch_by,
        nodes: before.map_or_else(|| vec![local], |entry| entry.nodes),
    };
    let entry = entries::register(&authority, entry, &by).await?;
    snapshot::publish_change(&authority).await;
    Ok(Json(describe(entry)))
}

/// A new service may begin with any floor that the deployment allows; one that exists keeps its own.
fn modes_of(body: &NewService) -> stored::Modes {
    stored::Modes {
        accepts: body.accepts.clone(),
        sends: body.sends,
        user_context: UserContext::default(),
        wimse: WimseProof::default(),
    }
}

pub(crate) fn describe(entry: stored::Service) -> Service {
    Service {
        name: entry.name,
        spiffe_id: entry.spiffe_id,
        address: entry.address,
        accepts: entry.accepts,
        sends: entry.sends,
        user_context: entry.user_context,
        wimse: entry.wimse,
        lowered_until: entry.lowered.map(|lowered| lowered.until),
    }
}

/// A token with which one agent may join, once (figure 3.1, step 1).
#[utoipa::path(post, path = "/api/v1/join-tokens", tag = "ca", request_body = NewJoinToken,
    responses((status = 200, body = JoinToken), (status = 422, body = Problem)))]
pub(crate) async fn join_token(
    State(authority): State<Arc<Authority>>,
    Body(body): Body<NewJoinToken>,
) -> Result<Json<JoinToken>, ApiError> {
    let life = body.ttl_s.map_or(JOIN_TOKEN_LIFE, Duration::from_secs);
    if life.is_zero() || life > JOIN_TOKEN_LIFE_MAX {
        return Err(ApiError::because(Code::LifetimeOutOfRange, "`ttl_s` is not within 1 and 86400"));
    }
    let agent = SpiffeId::agent(&authority.trust_domain, body.node.as_str())
        .map_err(|error| ApiError::because(Code::ParameterInvalid, error.to_string()))?;
    let random = |what: &'static str| {
        random_bytes::<32>(&SystemRandom::new()).map_err(|error| ApiError::internal(what, &error))
    };
    let secret = URL_SAFE_NO_PAD.encode(random("no join token")?);
    let public: Vec<u8> = random("no join token")?.into_iter().take(8).collect();
    let now = clock::now();
    let expires_at = now.saturating_add(life);
    let token = nodes::JoinToken {
        id: format!("jt_{}", hex(&public)),
        spiffe_id: agent.clone(),
        created_at: now,
        expires_at,
        used: None,
    };
    let credential = token.id.clone();
    let event = Event::BootstrapCredentialIssued { credential, node: Some(agent), expires: expires_at };
    let hashed = secret.clone();
    authority
        .journal
        .with(vec![event], move |db, records| async move {
            db.add_join_token(hashed.as_bytes(), &token, &records, now).await.map(Change::Recorded)
        })
        .await?;
    let pin =
        URL_SAFE_NO_PAD.encode(sha256(&authority.keys.load().workload_root.key().public_key().spki_der()));
    Ok(Json(JoinToken { token: SecretText::new(format!("csj_{secret}.{pin}")), expires_at }))
}
