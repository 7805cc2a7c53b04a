//! The column `idp`, login only: accounts, and tokens for those who prove that they own one.

use std::{
    net::IpAddr,
    sync::{Arc, PoisonError},
    time::Duration,
};

use axum::{
    Extension, Json,
    extract::{OriginalUri, State},
};
use countersign_accounts::{
    AccountName, Password, UserId,
    login::{self, Attempt, LoginVerdict},
    password,
    user::Role,
};
use countersign_identity::{IdKind, UnixTime};
use countersign_keys::{SystemRandom, hash::hex, random_bytes};
use countersign_ledger::{
    Event,
    event::{LoginOutcome, Stage},
};
use countersign_sdk::{accept::Connection, clock};
use countersign_store::users::User as Stored;
use countersign_token::{AccessToken, Confirmation};
use countersign_wire::{
    SecretText,
    api::{
        Page, PageQuery,
        users::{CLIENT_ADDRESS_HEADER, CLIENT_KEY_HEADER, LoggedIn, Login, NewPassword, NewUser, User},
    },
    codes::Code,
    problem::Problem,
};
use http::{HeaderMap, Version};

use super::{ApiError, Body, Params, PathParam};
use crate::{http::Actor, journal::Change, state::Authority};

/// Life of an access token.
const ACCESS_TOKEN_LIFE: Duration = Duration::from_secs(600);
/// Whom the token was given to (RFC 9068 section 2.2): our own first-party client.
const CLIENT_ID: &str = "countersign";
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// A password for an access token. Whatever is wrong, the answer and the work are the same.
#[utoipa::path(post, path = "/api/v1/login", tag = "idp", request_body = Login,
    responses((status = 200, body = LoggedIn), (status = 401, body = Problem), (status = 429, body = Problem),
        (status = 503, body = Problem)))]
pub(crate) async fn login(
    State(authority): State<Arc<Authority>>,
    Extension(connection): Extension<Connection>,
    OriginalUri(uri): OriginalUri,
    version: Version,
    headers: HeaderMap,
    Body(body): Body<Login>,
) -> Result<Json<LoggedIn>, ApiError> {
    let address = client_address(&authority, &connection, &headers);
    throttle(&authority, address)?;
    let confirmation = match client_key(&authority, &connection, &headers)? {
        Some(told) => Some(told),
        None => {
            let proof = authority.sts.proven_key(&uri, &headers, version, clock::now())?;
            proof.map(|proof| Confirmation::Key(proof.jkt().to_owned()))
        }
    };
    let (user, verdict) = judge(&authority, &body, address).await?;
    let outcome = outcome(&verdict);
    metrics::counter!("countersign_logins_total", "outcome" => outcome.as_str()).increment(1);
    let pseudonym = user.as_ref().map(|user| authority.pseudonym(&user.id));
    let address = address.map(|address| address.to_string());
    let event = Event::Login { user: pseudonym.clone(), address, outcome };
    let (Some(user), LoginVerdict::Accepted { rehash }) = (user, verdict) else {
        authority.journal.record(vec![event]).await?;
        return Err(Code::LoginFailed.into());
    };
    let now = clock::now();
    let token_type = if confirmation.is_some() { "DPoP" } else { "Bearer" };
    let (token, minted) = mint(&authority, &user, pseudonym.unwrap_or_default(), confirmation, now)?;
    authority.db.clear_attempts(&user.id).await?;
    authority.journal.record(vec![event, minted]).await?;
    if rehash {
        refresh_hash(&authority, &user, &body.password).await;
    }
    Ok(Json(LoggedIn {
        access_token: SecretText::new(token),
        token_type: token_type.to_owned(),
        expires_in: ACCESS_TOKEN_LIFE.as_secs(),
    }))
}

/// Whose login it is: the peer's, or that of the client which a gateway of ours passes on and tells of.
fn client_address(authority: &Authority, connection: &Connection, headers: &HeaderMap) -> Option<IpAddr> {
    let peer = connection.address().map(|address| address.ip());
    let told = headers.get(CLIENT_ADDRESS_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
    told.filter(|_| comes_from_our_gateway(authority, connection)).or(peer)
}

fn comes_from_our_gateway(authority: &Authority, connection: &Connection) -> bool {
    connection.spiffe_id().is_some_and(|id| {
        matches!(id.kind(), IdKind::Gateway(_)) && *id.trust_domain() == authority.trust_domain
    })
}

/// The key that the token is bound to, where a gateway of ours saw it proven (RFC 9449 section 5).
fn client_key(
    authority: &Authority,
    connection: &Connection,
    headers: &HeaderMap,
) -> Result<Option<Confirmation>, ApiError> {
    let Some(told) = headers.get(CLIENT_KEY_HEADER) else { return Ok(None) };
    if !comes_from_our_gateway(authority, connection) {
        return Err(Code::HeaderAmbiguous.into());
    }
    let thumbprint = told.to_str().map_err(|_| ApiError::from(Code::HeaderAmbiguous))?;
    Ok(Some(Confirmation::Key(thumbprint.to_owned())))
}

/// Before anything costs anything. At the admin socket nobody has an address, and nobody is a stranger.
fn throttle(authority: &Authority, address: Option<IpAddr>) -> Result<(), ApiError> {
    let Some(address) = address else { return Ok(()) };
    let now = clock::now();
    let taken = authority.throttle.lock().unwrap_or_else(PoisonError::into_inner).take(address, now);
    taken.map_err(|throttled| {
        let outcome = LoginOutcome::Throttled;
        metrics::counter!("countersign_logins_total", "outcome" => outcome.as_str()).increment(1);
        let event = || Event::Login { user: None, address: Some(address.to_string()), outcome };
        authority.journal.refuse_stranger(
            address,
            Stage::Quota,
            Code::TooManyRequests.entry().public.as_str(),
            event,
        );
        ApiError::from(Code::TooManyRequests).retry_after(throttled.retry_after)
    })
}

/// One attempt: a place at the desk, then the count, then the password. The count comes before the look at the
/// password, so that parallel guesses cannot outrun it, and after the queue, so that who is sent away is not counted.
async fn judge(
    authority: &Authority,
    body: &Login,
    address: Option<IpAddr>,
) -> Result<(Option<Stored>, LoginVerdict), ApiError> {
    let busy = |_| {
        let outcome = LoginOutcome::Busy;
        metrics::counter!("countersign_logins_total", "outcome" => outcome.as_str()).increment(1);
        if let Some(address) = address {
            let event = || Event::Login { user: None, address: Some(address.to_string()), outcome };
            authority.journal.refuse_stranger(
                address,
                Stage::Quota,
                Code::Overloaded.entry().public.as_str(),
                event,
            );
        }
        ApiError::from(Code::Overloaded).retry_after(BUSY_RETRY)
    };
    let turn = authority.desk.turn().await.map_err(busy)?;
    let user = match AccountName::parse(&body.name) {
        Ok(name) => authority.db.user_by_name(name.as_str()).await?,
        Err(_) => None,
    };
    let number = match &user {
        Some(user) => authority.db.count_attempt(&user.id, clock::now()).await?,
        // As long a wait for the disk as for somebody who exists.
        None => authority.db.count_attempt_of_nobody().await?,
    };
    let (typed, stored) = (body.password.clone(), user.as_ref().map(|user| user.password.clone()));
    let peppers = authority.keys.load().peppers.clone();
    let judged = turn.work(move || {
        let attempt = Attempt { password: typed.expose(), stored: stored.as_deref(), number };
        login::judge(&attempt, &peppers)
    });
    Ok((user, judged.await.map_err(busy)?))
}

fn outcome(verdict: &LoginVerdict) -> LoginOutcome {
    match verdict {
        LoginVerdict::Accepted { .. } => LoginOutcome::Accepted,
        LoginVerdict::WrongPassword => LoginOutcome::WrongPassword,
        LoginVerdict::UnknownUser => LoginOutcome::UnknownUser,
        LoginVerdict::Locked => LoginOutcome::Locked,
        LoginVerdict::UnusableHash(problem) => {
            tracing::warn!(%problem, "an account has a hash that is never verified; set a new password");
            LoginOutcome::WrongPassword
        }
    }
}

fn mint(
    authority: &Authority,
    user: &Stored,
    pseudonym: String,
    confirmation: Option<Confirmation>,
    now: UnixTime,
) -> Result<(String, Event), ApiError> {
    let failed = |error: &dyn std::fmt::Display| ApiError::internal("no access token", error);
    let jti = hex(&random_bytes::<16>(&SystemRandom::new()).map_err(|error| failed(&error))?);
    let expires = now.saturating_add(ACCESS_TOKEN_LIFE);
    let token = AccessToken {
        issuer: authority.issuer.clone(),
        audience: authority.audience.clone(),
        user_id: user.id.clone(),
        name: user.name.clone(),
        roles: user.roles.clone(),
        client_id: CLIENT_ID.to_owned(),
        jti: jti.clone(),
        expires,
        confirmation,
    };
    let minted =
        token.mint(authority.keys.load().access_token.current(), now).map_err(|error| failed(&error))?;
    Ok((minted, Event::TokenMinted { typ: "at+jwt".to_owned(), id: jti, user: pseudonym, expires }))
}

/// Parameters or pepper have changed since the hash was made. A failure costs nothing: the next login tries again.
async fn refresh_hash(authority: &Authority, user: &Stored, typed: &SecretText) {
    let Ok(password) = Password::read(typed.expose()) else { return };
    match hash(authority, password).await {
        Ok(phc) => {
            if let Err(error) = authority.db.renew_password_hash(&user.id, &user.password, &phc).await {
                tracing::warn!(%error, "a password hash could not be renewed");
            }
        }
        Err(error) => tracing::debug!(code = %error.code, "a password hash was not renewed"),
    }
}

async fn hash(authority: &Authority, password: Password) -> Result<String, ApiError> {
    let busy = |_| ApiError::from(Code::Overloaded).retry_after(BUSY_RETRY);
    let salt = random_bytes(&SystemRandom::new()).map_err(|error| ApiError::internal("no salt", &error))?;
    let peppers = authority.keys.load().peppers.clone();
    let turn = authority.desk.turn().await.map_err(busy)?;
    let hashed = turn.work(move || password::hash(&password, peppers.current(), salt)).await.map_err(busy)?;
    hashed.map_err(|error| ApiError::internal("a password could not be hashed", &error))
}

/// Accounts by name.
#[utoipa::path(get, path = "/api/v1/users", tag = "idp",
    params(("limit" = Option<u32>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, body = Page<User>)))]
pub(crate) async fn list(
    State(authority): State<Arc<Authority>>,
    Params(query): Params<PageQuery>,
) -> Result<Json<Page<User>>, ApiError> {
    let limit = query.items();
    let stored = authority.db.users(query.after.as_deref().unwrap_or_default(), limit).await?;
    let full = stored.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let next = stored.last().filter(|_| full).map(|last| last.name.clone());
    Ok(Json(Page { items: stored.into_iter().map(describe).collect(), next }))
}

/// Makes an account.
#[utoipa::path(post, path = "/api/v1/users", tag = "idp", request_body = NewUser,
    responses((status = 200, body = User), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(crate) async fn add(
    State(authority): State<Arc<Authority>>,
    Extension(Actor(by)): Extension<Actor>,
    Body(body): Body<NewUser>,
) -> Result<Json<User>, ApiError> {
    let name = canonical(&body.name)?;
    let mut roles =
        body.roles.iter().map(|role| Role::parse(role)).collect::<Result<Vec<_>, _>>().map_err(unfit)?;
    roles.sort();
    roles.dedup();
    let password = chosen(&authority, &name, &body.password)?;
    let phc = hash(&authority, password).await?;
    let id = random_bytes(&SystemRandom::new()).map_err(|error| ApiError::internal("no user id", &error))?;
    let id = UserId::from_random(id);
    let now = clock::now();
    let roles: Vec<String> = roles.into_iter().map(String::from).collect();
    let event =
        Event::UserAdded { user: authority.pseudonym(id.as_str()), roles: roles.clone(), added_by: by };
    let user = Stored {
        id: id.as_str().to_owned(),
        name: name.as_str().to_owned(),
        roles,
        password: phc,
        attempts: 0,
        created_at: now,
        changed_at: now,
    };
    let stored = user.clone();
    let add = move |db: countersign_store::Db, records: Vec<countersign_ledger::Record>| async move {
        db.add_user(&stored, &records, now).await.map(Change::Recorded)
    };
    match authority.journal.with(vec![event], add).await {
        Ok(()) => Ok(Json(describe(user))),
        Err(countersign_store::StoreError::Conflict { .. }) => Err(Code::Conflict.into()),
        Err(error) => Err(error.into()),
    }
}

/// Sets a new password, which also unlocks the account.
#[utoipa::path(post, path = "/api/v1/users/{name}/password", tag = "idp", request_body = NewPassword,
    params(("name" = String, Path)),
    responses((status = 200, body = User), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(crate) async fn set_password(
    State(authority): State<Arc<Authority>>,
    Extension(Actor(by)): Extension<Actor>,
    PathParam(name): PathParam,
    Body(body): Body<NewPassword>,
) -> Result<Json<User>, ApiError> {
    let name = canonical(&name)?;
    let user = authority.db.user_by_name(name.as_str()).await?.ok_or(Code::ObjectUnknown)?;
    let phc = hash(&authority, chosen(&authority, &name, &body.password)?).await?;
    let now = clock::now();
    let event = Event::PasswordChanged { user: authority.pseudonym(&user.id), changed_by: by };
    let id = user.id.clone();
    authority
        .journal
        .with(vec![event], move |db, records| async move {
            db.set_password(&id, &phc, &records, now).await.map(Change::Recorded)
        })
        .await?;
    Ok(Json(describe(user)))
}

fn canonical(name: &str) -> Result<AccountName, ApiError> {
    AccountName::parse(name).map_err(unfit)
}

fn chosen(authority: &Authority, name: &AccountName, typed: &SecretText) -> Result<Password, ApiError> {
    Password::choose(typed.expose(), &[name.as_str(), authority.trust_domain.as_str()]).map_err(unfit)
}

/// Their messages never repeat a password.
fn unfit(error: impl ToString) -> ApiError {
    ApiError::because(Code::ParameterInvalid, error.to_string())
}

fn describe(stored: Stored) -> User {
    User { id: stored.id, name: stored.name, roles: stored.roles, created_at: stored.created_at }
}
