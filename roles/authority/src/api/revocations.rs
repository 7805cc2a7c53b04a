//! Taking tokens back before they expire: one of them, all of a user, all of a key.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State};
use countersign_accounts::AccountName;
use countersign_ledger::Event;
use countersign_sdk::clock;
use countersign_store::revoked::{Revoked, RevokedKind};
use countersign_token::{bearer, jws, macaroon::HeldMacaroon};
use countersign_wire::{
    api::revocations::{NewRevocation, Revocation, RevocationKind},
    codes::Code,
    problem::Problem,
};

use super::{ApiError, Body};
use crate::{bearer_desk, http::Actor, journal::Change, snapshot, state::Authority};

/// No token that is revoked by its id or its user lives longer than this from its issue.
pub(crate) const TOKEN_LIFE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// A key could sign as long as somebody lists it.
const KEY_REVOKED_FOR: Duration = Duration::from_secs(366 * 24 * 3600);
/// Longest id: a `kid` or `jti` of somebody else's making.
const ID_BYTES_MAX: usize = 256;

/// What counts no longer.
#[utoipa::path(get, path = "/api/v1/revocations", tag = "sts", responses((status = 200, body = Vec<Revocation>)))]
pub(crate) async fn list(State(authority): State<Arc<Authority>>) -> Result<Json<Vec<Revocation>>, ApiError> {
    let rows = authority.db.revocations(clock::now()).await?;
    Ok(Json(rows.into_iter().map(describe).collect()))
}

/// Revokes; every data plane knows within two seconds.
#[utoipa::path(post, path = "/api/v1/revocations", tag = "sts", request_body = NewRevocation,
    responses((status = 200, body = Revocation), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(crate) async fn revoke(
    State(authority): State<Arc<Authority>>,
    Extension(Actor(by)): Extension<Actor>,
    Body(body): Body<NewRevocation>,
) -> Result<Json<Revocation>, ApiError> {
    let now = clock::now();
    let NewRevocation { kind, id } = body;
    if let Some(why) = token_itself(&id) {
        return Err(ApiError::because(Code::ParameterInvalid, why));
    }
    if id.is_empty() || id.len() > ID_BYTES_MAX || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ApiError::because(Code::ParameterInvalid, "`id` is not 1 to 256 visible characters"));
    }
    if let (RevocationKind::Token, Some(token)) = (kind, authority.db.bearer(&id, now).await?) {
        bearer_desk::revoke(&authority, &token, &by).await?;
        let until = token.expires_at;
        let row = Revoked { kind: RevokedKind::Token, id, issued_before: now, until, by };
        return Ok(Json(describe(row)));
    }
    let (kind, id, life) = match kind {
        RevocationKind::Token => (RevokedKind::Token, id, TOKEN_LIFE_MAX),
        RevocationKind::Key => (RevokedKind::Key, id, KEY_REVOKED_FOR),
        RevocationKind::User => {
            let name = AccountName::parse(&id).map_err(|_| Code::ObjectUnknown)?;
            let user = authority.db.user_by_name(name.as_str()).await?.ok_or(Code::ObjectUnknown)?;
            (RevokedKind::User, user.id, TOKEN_LIFE_MAX)
        }
    };
    let row = Revoked { kind, id, issued_before: now, until: now.saturating_add(life), by };
    take_back(&authority, row.clone()).await?;
    Ok(Json(describe(row)))
}

/// What to give instead, where `id` is a token. As an id it is one that nobody has: the token would go on to count,
/// and ledger and snapshots would tell it to everybody.
fn token_itself(id: &str) -> Option<String> {
    if bearer::claims_to_be(id) {
        return Some(match bearer::BearerToken::parse(id) {
            Ok(token) => format!("`id` is the token itself and not its id: give {}", token.id()),
            Err(_) => "`id` is a token itself and not its id: give the 16 characters after csb_".to_owned(),
        });
    }
    let is_token = jws::claimed_typ(id).is_ok() || HeldMacaroon::parse(id).is_ok();
    is_token.then(|| "`id` is the token itself and not its id: countersign inspect shows that".to_owned())
}

/// Durable and recorded, then told to everybody.
pub(crate) async fn take_back(authority: &Arc<Authority>, row: Revoked) -> Result<(), ApiError> {
    let id = match row.kind {
        RevokedKind::User => authority.pseudonym(&row.id),
        RevokedKind::Token | RevokedKind::Key => row.id.clone(),
    };
    let event = Event::TokenRevoked { what: row.kind.as_str().to_owned(), id, revoked_by: row.by.clone() };
    authority
        .journal
        .with(vec![event], |db, records| async move {
            db.revoke(&row, &records, clock::now()).await.map(Change::Recorded)
        })
        .await?;
    snapshot::publish_change(authority).await;
    Ok(())
}

fn describe(row: Revoked) -> Revocation {
    Revocation {
        kind: match row.kind {
            RevokedKind::Token => RevocationKind::Token,
            RevokedKind::User => RevocationKind::User,
            RevokedKind::Key => RevocationKind::Key,
        },
        id: row.id,
        issued_before: row.issued_before,
        until: row.until,
        revoked_by: row.by,
    }
}
