//! The column `sts`: `/oauth2/token`, `/oauth2/introspect`, `/oauth2/revoke`.
//!
//! A token for another one (RFC 8693), four steps as everywhere: the client and the subject token are authenticated
//! ([`client`], [`subject`]), `sts.cedar` decides with the target as its resource, the new token is made of what
//! `countersign_token::exchange` leaves of the old one, and the ledger records it. An exchange needs no database: it
//! reads the snapshot that all others read.
//!
//! A client learns the OAuth error and the id of the decision, never the reason ([`error`]).

mod client;
mod error;
mod exchange;
mod form;
mod introspect;
mod proof;
mod recognise;
mod request;
mod revoke;
mod said;
mod subject;
mod target;

use std::{num::NonZeroU32, sync::Arc};

use arc_swap::ArcSwapOption;
use axum::{
    Extension, Json,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use countersign_identity::{Caller, SpiffeId, UnixTime, WorkloadProof};
use countersign_ledger::{CheckRecord, CheckResult};
use countersign_policy::{Explainer, Quota};
use countersign_sdk::{
    accept::Connection,
    clock,
    inbound::DecisionDraft,
    live::{CompileError, Live},
    replay::ReplayGuard,
    signing_chains::SigningChains,
    tls::TrustState,
    trace::Hop,
};
use countersign_token::DpopNonces;
use countersign_wire::{SecretText, codes::Code, snapshot::Snapshot};
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};

pub(crate) use self::{
    error::{DPOP_NONCE, OAuthError, answer},
    form::Form,
    proof::ProofRefusal,
    request::{Exchange, Presented, TOKEN_EXCHANGE, TokenType},
    said::Said,
};
use super::TOKEN_ENDPOINT;
use crate::{http::record_refusal, keys::Keys, state::Authority};

/// What the token service is called in policies and in the ledger.
pub(crate) const STS: &str = "sts";
/// RFC 7662.
pub(crate) const INTROSPECTION_ENDPOINT: &str = "/oauth2/introspect";
/// RFC 7009.
pub(crate) const REVOCATION_ENDPOINT: &str = "/oauth2/revoke";

/// What the token service keeps between requests: all of it in memory.
pub(crate) struct Sts {
    /// The newest snapshot, compiled; `None` until the first one.
    live: ArcSwapOption<Live>,
    chains: SigningChains,
    replay: ReplayGuard,
    nonces: DpopNonces,
    explainer: Explainer,
    /// How often a client may take tokens back.
    revocations: Quota<SpiffeId>,
}

/// Revocations per second and client, after [`REVOCATIONS_AT_ONCE`].
const REVOCATIONS_PER_SECOND: NonZeroU32 = NonZeroU32::MIN;
const REVOCATIONS_AT_ONCE: NonZeroU32 = NonZeroU32::MIN.saturating_add(31);
/// Clients whose revocations are counted.
const CLIENTS_MAX: usize = 4096;

impl Sts {
    /// Has seen nothing, in a process that started at `now`.
    pub(crate) fn new(keys: &Keys, trust: Arc<TrustState>, now: UnixTime) -> Self {
        Self {
            live: ArcSwapOption::empty(),
            chains: SigningChains::new(trust),
            replay: ReplayGuard::new(now),
            nonces: DpopNonces::new(keys.dpop_nonce.clone()),
            explainer: Explainer::default(),
            revocations: Quota::per_second(REVOCATIONS_PER_SECOND, REVOCATIONS_AT_ONCE, CLIENTS_MAX),
        }
    }

    /// By what tokens are judged at the moment; `None` until the first snapshot.
    pub(crate) fn live(&self) -> Option<Arc<Live>> {
        self.live.load_full()
    }

    /// Judges by this snapshot from now on.
    pub(crate) fn take(&self, snapshot: Snapshot) -> Result<(), CompileError> {
        let previous = self.live.load_full();
        let live = Live::compile_after(previous.as_deref(), snapshot, Some(STS))?;
        self.live.store(Some(Arc::new(live)));
        Ok(())
    }
}

/// One request to the token service, with everything that it is judged by.
pub(crate) struct Asked<'a> {
    authority: &'a Authority,
    sts: &'a Sts,
    live: &'a Live,
    caller: &'a Caller,
    headers: &'a HeaderMap,
    uri: &'a Uri,
    version: Version,
    now: UnixTime,
}

/// Exchanges a token (RFC 8693).
#[utoipa::path(post, path = "/oauth2/token", tag = "sts",
    request_body(content_type = "application/x-www-form-urlencoded"),
    responses((status = 200), (status = 400), (status = 401)))]
pub(crate) async fn token(
    State(authority): State<Arc<Authority>>,
    Extension(connection): Extension<Connection>,
    Extension(caller): Extension<Arc<Caller>>,
    request: Request,
) -> Response {
    let door = Door { authority: &authority, connection: &connection, caller: &caller };
    door.answer(TOKEN_ENDPOINT, request, |asked, form, draft| {
        let issued = exchange::exchange(asked, form, draft)?;
        authority.journal.note(issued.event);
        metrics::counter!("countersign_sts_exchanges_total", "issued" => issued.kind.name()).increment(1);
        let mut response = Json(issued.answer).into_response();
        if let Some(nonce) = issued.nonce.and_then(|nonce| HeaderValue::from_str(&nonce).ok()) {
            response.headers_mut().insert(DPOP_NONCE, nonce);
        }
        Ok(match issued.remembered {
            Some(token) => Act::Remember(token, response),
            None => Act::Answer(response),
        })
    })
    .await
}

/// Tells whether a token counts (RFC 7662): to those whom it concerns.
#[utoipa::path(post, path = "/oauth2/introspect", tag = "sts",
    request_body(content_type = "application/x-www-form-urlencoded"),
    responses((status = 200), (status = 400), (status = 401)))]
pub(crate) async fn introspect(
    State(authority): State<Arc<Authority>>,
    Extension(connection): Extension<Connection>,
    Extension(caller): Extension<Arc<Caller>>,
    request: Request,
) -> Response {
    let door = Door { authority: &authority, connection: &connection, caller: &caller };
    door.answer(INTROSPECTION_ENDPOINT, request, |asked, form, _| introspect::introspect(asked, form)).await
}

/// Takes a token back (RFC 7009).
#[utoipa::path(post, path = "/oauth2/revoke", tag = "sts",
    request_body(content_type = "application/x-www-form-urlencoded"),
    responses((status = 200), (status = 400), (status = 401)))]
pub(crate) async fn revoke(
    State(authority): State<Arc<Authority>>,
    Extension(connection): Extension<Connection>,
    Extension(caller): Extension<Arc<Caller>>,
    request: Request,
) -> Response {
    let door = Door { authority: &authority, connection: &connection, caller: &caller };
    door.answer(REVOCATION_ENDPOINT, request, |asked, form, _| {
        Ok(match revoke::judge(asked, form)? {
            Some(row) => Act::TakeBack(row),
            None => Act::Answer(().into_response()),
        })
    })
    .await
}

/// What comes of a request that was judged.
enum Act {
    Answer(Response),
    /// Before anybody gets it: a bearer's token that nobody could take back would outlive its owner.
    Remember(countersign_store::issued_tokens::IssuedToken, Response),
    TakeBack(countersign_store::revoked::Revoked),
    /// What an opaque token is, only the database knows. Without a client an administrator asks.
    LookUp {
        token: SecretText,
        client: Option<SpiffeId>,
    },
}

/// The one way through an OAuth endpoint: read, judge, answer or refuse, and never be kept by a cache.
struct Door<'a> {
    authority: &'a Arc<Authority>,
    connection: &'a Connection,
    caller: &'a Caller,
}

impl Door<'_> {
    async fn answer(
        &self,
        route: &str,
        request: Request,
        judge: impl FnOnce(&Asked<'_>, &Form, &mut DecisionDraft) -> Result<Act, OAuthError>,
    ) -> Response {
        let mut draft = DecisionDraft::begin(STS, Hop::of_request(request.headers()));
        draft.came_over(self.connection);
        draft.asks_for(&Method::POST, route);
        draft.comes_from(self.caller, None);
        let (head, body) = request.into_parts();
        let form = Form::read(&head.headers, body).await;
        let acted = match form.and_then(|form| self.judge(&head, &form, &mut draft, judge)) {
            Ok(Act::Answer(response)) => Ok(response),
            Ok(Act::Remember(token, response)) => {
                let kept = self.authority.db.add_issued_token(&token, &[], clock::now()).await;
                kept.map(|()| response)
                    .map_err(|error| OAuthError::internal("a token is not remembered", &error))
            }
            Ok(Act::TakeBack(row)) => self.take_back(row).await,
            Ok(Act::LookUp { token, client }) => {
                let claims = introspect::look_up(self.authority, token.expose(), client.as_ref()).await;
                claims.map(|claims| Json(claims).into_response())
            }
            Err(error) => Err(error),
        };
        let mut response = acted.unwrap_or_else(|error| self.refuse(draft, &error));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response.headers_mut().insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
        response
    }

    fn judge(
        &self,
        head: &http::request::Parts,
        form: &Form,
        draft: &mut DecisionDraft,
        judge: impl FnOnce(&Asked<'_>, &Form, &mut DecisionDraft) -> Result<Act, OAuthError>,
    ) -> Result<Act, OAuthError> {
        let sts = &self.authority.sts;
        let live = sts.live.load();
        let live =
            live.as_ref().ok_or_else(|| OAuthError::new(Code::NotReady, "there is no snapshot yet"))?;
        let asked = Asked {
            authority: self.authority,
            sts,
            live,
            caller: self.caller,
            headers: &head.headers,
            uri: &head.uri,
            version: head.version,
            now: clock::now(),
        };
        judge(&asked, form, draft)
    }

    async fn take_back(&self, row: countersign_store::revoked::Revoked) -> Result<Response, OAuthError> {
        match super::revocations::take_back(self.authority, row).await {
            Ok(()) => Ok(().into_response()),
            Err(error) => Err(OAuthError::new(error.code, "the revocation could not be stored")),
        }
    }

    fn refuse(&self, mut draft: DecisionDraft, error: &OAuthError) -> Response {
        let detail = error.denial.reason.clone();
        draft.check(CheckRecord { name: "token".to_owned(), result: CheckResult::Fail, detail });
        draft.denied(&error.denial);
        metrics::counter!("countersign_sts_refusals_total", "code" => error.denial.code.to_string())
            .increment(1);
        let known = draft.record().source.is_some() || self.caller.proof().workload != WorkloadProof::None;
        let id = record_refusal(&self.authority.journal, self.connection, known, draft, &error.denial);
        error.answer(Some(id))
    }
}

#[cfg(test)]
mod tests;
