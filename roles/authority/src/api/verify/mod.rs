//! Does this token count? For an administrator who holds one and asks, of every kind that this deployment issues or
//! recognises. The kinds' own rules judge it; what they would need of a request or a connection that is not at hand is
//! taken from the token itself, and the answer says that it was not judged.
//!
//! Whatever is found, the token stays here: no answer, log line or event repeats it.

mod checks;
mod macaroon;
mod opaque;
mod signed;

use std::sync::Arc;

use axum::{Json, extract::State};
use countersign_identity::{SpiffeId, UnixTime};
use countersign_request::CanonicalRequest;
use countersign_sdk::{clock, live::TokenKeys};
use countersign_store::revoked::{Revoked as Row, RevokedKind};
use countersign_token::{Revoked, TokenKind, bearer, jws, macaroon::HeldMacaroon};
use countersign_wire::{
    api::verify::{TokenVerdict, VerifyRequest, VerifyToken},
    codes::Code,
    problem::Problem,
};
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header::HOST};

use super::{ApiError, Body, tokens};
use crate::{keys::Keys, state::Authority};

/// Judges a token of any kind.
#[utoipa::path(post, path = "/api/v1/tokens/verify", tag = "tokens", request_body = VerifyToken,
    responses((status = 200, body = TokenVerdict), (status = 422, body = Problem)))]
pub(crate) async fn verify(
    State(authority): State<Arc<Authority>>,
    Body(body): Body<VerifyToken>,
) -> Result<Json<TokenVerdict>, ApiError> {
    let kind = Kind::of(body.token.expose())?;
    let callee = match &body.callee {
        Some(name) => Some(tokens::callee(&authority, name).await?),
        None => None,
    };
    let request = body.request.as_ref().map(canonical).transpose()?;
    let now = clock::now();
    let live = authority.sts.live().ok_or(Code::NotReady)?;
    // The database knows what was taken back before any snapshot does.
    let revoked = revoked(authority.db.revocations(now).await?);
    let keys = TokenKeys { revoked, ..live.tokens().clone() };
    let question = Question {
        token: body.token.expose(),
        chain: body.chain.as_deref(),
        callee: callee.as_ref(),
        request: request.as_ref(),
        keys: &keys,
        secrets: &authority.keys.load_full(),
        now,
    };
    Ok(Json(match kind {
        Kind::Signed(kind) => signed::judge(&question, kind, &authority.trust)?,
        Kind::Bearer => opaque::judge(&question, &authority.db).await?,
        Kind::Macaroon => macaroon::judge(&question),
    }))
}

/// A token, and all that it is judged by.
struct Question<'a> {
    token: &'a str,
    chain: Option<&'a str>,
    callee: Option<&'a SpiffeId>,
    request: Option<&'a CanonicalRequest>,
    keys: &'a TokenKeys,
    secrets: &'a Keys,
    now: UnixTime,
}

enum Kind {
    Signed(TokenKind),
    Bearer,
    Macaroon,
}

impl Kind {
    /// Who reads it strictly.
    fn of(token: &str) -> Result<Self, ApiError> {
        if bearer::claims_to_be(token) {
            return Ok(Self::Bearer);
        }
        if !token.contains('.') {
            let read = HeldMacaroon::parse(token).map(|_| Self::Macaroon);
            return read.map_err(|_| unreadable("it is no bearer token, no JWT and no macaroon"));
        }
        let typ = jws::claimed_typ(token).map_err(|error| unreadable(error.to_string()))?;
        let kind = TokenKind::of(&typ).ok_or_else(|| unreadable("its typ is none that is used here"))?;
        Ok(Self::Signed(kind))
    }
}

fn unreadable(why: impl Into<String>) -> ApiError {
    ApiError::because(Code::ParameterInvalid, format!("`token` cannot be judged: {}", why.into()))
}

/// The request as a callee would read it.
fn canonical(request: &VerifyRequest) -> Result<CanonicalRequest, ApiError> {
    let refused = |why: String| ApiError::because(Code::ParameterInvalid, format!("`request`: {why}"));
    let method = Method::from_bytes(request.method.as_bytes()).map_err(|error| refused(error.to_string()))?;
    let target = match &request.query {
        Some(query) => format!("{}?{query}", request.path),
        None => request.path.clone(),
    };
    let uri: Uri = target.parse().map_err(|_| refused("path and query are no request target".to_owned()))?;
    // Whom it is addressed to is the callee's name, and no caveat asks for the host.
    let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("callee"))]);
    CanonicalRequest::parse(&method, &uri, &headers, Version::HTTP_11)
        .map_err(|error| refused(error.to_string()))
}

fn revoked(rows: Vec<Row>) -> Revoked {
    let mut all = Revoked::default();
    for row in rows {
        match row.kind {
            RevokedKind::Token => all.token(row.id),
            RevokedKind::User => all.subject(row.id, row.issued_before),
            RevokedKind::Key => all.key(row.id),
        }
    }
    all
}
