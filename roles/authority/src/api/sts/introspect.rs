//! Does a token count (RFC 7662)? Whoever it does not concern learns that it does not, whatever it is.

use axum::{Json, response::IntoResponse as _};
use countersign_identity::{SpiffeId, UserProof};
use countersign_sdk::clock;
use countersign_store::bearer::Bearer;
use countersign_token::bearer;
use countersign_wire::{SecretText, codes::Code};
use serde_json::{Map, Value, json};

use super::{Act, Asked, Form, OAuthError, client, recognise::recognise};
use crate::{bearer_desk::Known, state::Authority};

/// All that a token says, to whom it was issued and to those whom it is for; to all others no more than that it
/// counts for nothing. An administrator may know about every token.
pub(crate) fn introspect(asked: &Asked<'_>, form: &Form) -> Result<Act, OAuthError> {
    let client = match asked.caller.proof().user {
        UserProof::LocalUid => None,
        _ => Some(client::authenticate(asked, form)?),
    };
    let client = client.as_ref().map(|client| client.id());
    let token = form.required("token")?;
    if bearer::claims_to_be(token) {
        return Ok(Act::LookUp { token: SecretText::new(token.to_owned()), client: client.cloned() });
    }
    let concerns = |client: &SpiffeId| {
        let home = &asked.live.tokens().trust_domain;
        recognise(asked, token).filter(|token| token.concerns(client, home))
    };
    let found = client.map_or_else(|| recognise(asked, token), concerns);
    Ok(Act::Answer(Json(told(found.map(|token| token.claims))).into_response()))
}

/// The same of an opaque token: nothing can be read in it, so all there is to tell is what was stored when it was issued.
pub(crate) async fn look_up(
    authority: &Authority,
    token: &str,
    client: Option<&SpiffeId>,
) -> Result<Map<String, Value>, OAuthError> {
    let now = clock::now();
    let live =
        authority.sts.live().ok_or_else(|| OAuthError::new(Code::NotReady, "there is no snapshot yet"))?;
    let failed = |error| OAuthError::internal("a token cannot be looked up", &error);
    let known = Known::of(&authority.db, token, None).await.map_err(failed)?;
    let concerns = |known: &Known| {
        let Bearer { owner, scope, .. } = &known.stored;
        client.is_none_or(|client| owner == client || scope.contains(client))
    };
    let counts = |known: &Known| {
        let holder = known.judge(token, &authority.keys.load(), now).ok()?;
        known.not_revoked(&holder, &live.tokens().revoked, now).ok()
    };
    let known = known.filter(concerns).filter(|known| counts(known).is_some());
    Ok(told(known.map(|known| claims(&known.stored))))
}

fn told(claims: Option<Map<String, Value>>) -> Map<String, Value> {
    let active = claims.is_some();
    let mut answer = claims.unwrap_or_default();
    answer.insert("active".to_owned(), json!(active));
    answer
}

/// RFC 7662 section 2.2. What such a token is good for is to be believed at the services that its scope names.
fn claims(token: &Bearer) -> Map<String, Value> {
    let scope: Vec<&str> = token.scope.iter().map(SpiffeId::as_str).collect();
    let claims = [
        ("token_type", json!("Bearer")),
        ("jti", json!(token.id)),
        ("sub", json!(token.owner)),
        ("aud", json!(scope)),
        ("scope", json!(scope.join(" "))),
        ("iat", json!(token.issued_at.secs())),
        ("exp", json!(token.expires_at.secs())),
    ];
    claims.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
