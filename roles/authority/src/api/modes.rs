//! How services prove themselves to each other: changed for one, lowered for a while, switched for a demonstration.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State};
use countersign_identity::{IdKind, SpiffeId};
use countersign_sdk::clock;
use countersign_store::services::{Lowered, Modes, Service};
use countersign_wire::{
    api::modes::{ChangeModes, LowerFloor, ModesChanged, SwitchDemo},
    codes::Code,
    problem::Problem,
};

use super::{ApiError, Body, PathParam, nodes};
use crate::{
    http::Actor,
    modes::{self, Turn, Wanted},
    state::Authority,
};

/// The longest time for which a floor may be lowered.
const LOWERED_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Changes the modes of a service. A floor can be raised here, and never lowered.
#[utoipa::path(post, path = "/api/v1/services/{name}/modes", tag = "ca", params(("name" = String, Path)),
    request_body = ChangeModes,
    responses((status = 200, body = ModesChanged), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(crate) async fn change(
    State(authority): State<Arc<Authority>>,
    Extension(Actor(by)): Extension<Actor>,
    PathParam(name): PathParam,
    Body(body): Body<ChangeModes>,
) -> Result<Json<ModesChanged>, ApiError> {
    let turn = Turn::wait(&authority).await;
    let service = authority.db.service(&name).await?.ok_or(Code::ObjectUnknown)?;
    let held = service.modes();
    let wanted = Modes {
        accepts: body.accepts.unwrap_or_else(|| held.accepts.clone()),
        sends: body.sends.unwrap_or(held.sends),
        user_context: body.user_context.unwrap_or(held.user_context),
        wimse: body.wimse.unwrap_or(held.wimse),
    };
    possible(&authority, &wanted)?;
    if modes::lowers(&held.accepts, &wanted.accepts) {
        let why = format!("this lowers the floor of {name}: that is a change of its own, with an end");
        return Err(ApiError::because(Code::ParameterInvalid, why));
    }
    let lowered = modes::still_lowered(service.lowered.as_ref(), &wanted);
    switched(&authority, turn, vec![(service, wanted, lowered)], &by).await
}

/// Lowers the floor of a service for a while; a right of its own.
#[utoipa::path(post, path = "/api/v1/services/{name}/floor", tag = "ca", params(("name" = String, Path)),
    request_body = LowerFloor,
    responses((status = 200, body = ModesChanged), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(crate) async fn lower(
    State(authority): State<Arc<Authority>>,
    Extension(Actor(by)): Extension<Actor>,
    PathParam(name): PathParam,
    Body(body): Body<LowerFloor>,
) -> Result<Json<ModesChanged>, ApiError> {
    let span = Duration::from_secs(body.for_s);
    if span.is_zero() || span > LOWERED_MAX {
        return Err(ApiError::because(Code::LifetimeOutOfRange, "`for_s` is not within 1 and 604800"));
    }
    let turn = Turn::wait(&authority).await;
    let service = authority.db.service(&name).await?.ok_or(Code::ObjectUnknown)?;
    let wanted = Modes { accepts: body.accepts, ..service.modes() };
    // A floor that is low already and is lowered further comes back to where it stood at first.
    let from = service.lowered.as_ref().map_or_else(|| service.modes(), |lowered| lowered.from.clone());
    let lowered = Lowered { until: clock::now().saturating_add(span), from };
    switched(&authority, turn, vec![(service, wanted, Some(lowered))], &by).await
}

/// Switches every service of a demonstration, callers and callees, while they run.
#[utoipa::path(post, path = "/api/v1/demo/mode", tag = "ca", request_body = SwitchDemo,
    responses((status = 200, body = ModesChanged), (status = 403, body = Problem), (status = 422, body = Problem)))]
pub(crate) async fn switch_demo(
    State(authority): State<Arc<Authority>>,
    Extension(Actor(by)): Extension<Actor>,
    Body(body): Body<SwitchDemo>,
) -> Result<Json<ModesChanged>, ApiError> {
    if !authority.settings.demonstration {
        let why = "this deployment is not a demonstration: change one service after the other";
        return Err(ApiError::because(Code::AdminNotPermitted, why));
    }
    let SwitchDemo { mode, user_context, wimse } = body;
    let wanted = Modes { accepts: vec![mode], sends: mode, user_context, wimse };
    let turn = Turn::wait(&authority).await;
    let services = authority.db.services().await?;
    let all = services.into_iter().map(|service| (service, wanted.clone(), None)).collect();
    switched(&authority, turn, all, &by).await
}

fn possible(authority: &Authority, modes: &Modes) -> Result<(), ApiError> {
    modes::check(authority, modes).map_err(|why| ApiError::because(Code::ParameterInvalid, why))
}

async fn switched(
    authority: &Arc<Authority>,
    turn: Turn,
    changes: Vec<(Service, Modes, Option<Lowered>)>,
    by: &str,
) -> Result<Json<ModesChanged>, ApiError> {
    let mut wanted = Vec::with_capacity(changes.len());
    for (service, modes, lowered) in changes {
        possible(authority, &modes)?;
        // Nobody calls a gateway over these edges: it only sends.
        let is_gateway = matches!(service.spiffe_id.kind(), IdKind::Gateway(_));
        let modes = if is_gateway { Modes { accepts: service.accepts, ..modes } } else { modes };
        wanted.push(Wanted { name: service.name, modes, lowered });
    }
    let names: Vec<String> = wanted.iter().map(|want| want.name.to_string()).collect();
    // A switch that has begun goes on, whoever hangs up.
    let (worker, by) = (Arc::clone(authority), by.to_owned());
    let done = tokio::spawn(async move { modes::switch(&worker, turn, wanted, &by).await }).await;
    let unconfirmed: Vec<SpiffeId> =
        done.map_err(|error| ApiError::internal("a switch broke off", &error))??;
    let mut services = Vec::with_capacity(names.len());
    for name in names {
        services.extend(authority.db.service(&name).await?.map(nodes::describe));
    }
    Ok(Json(ModesChanged { services, unconfirmed }))
}
