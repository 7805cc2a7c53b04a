//! Over HTTP: NGINX' `auth_request`, and the forward-auth of Traefik and Caddy.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use axum::routing::any;
use countersign_sdk::accept::Connection;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, StatusCode};

use super::question::{Question, QuestionError, Told};
use super::verdict::Verdict;
use crate::reload::Current;

/// Both addresses. The method of the question is not that of the request: any will do.
pub(super) fn router(current: Arc<Current>) -> Router {
    Router::new()
        .route("/auth/request", any(auth_request))
        .route("/auth/forward", any(forward_auth))
        .with_state(current)
}

/// NGINX takes 2xx, 401 and 403; everything else it turns into a 500. So what is refused for any other reason is a 403.
async fn auth_request(
    State(current): State<Arc<Current>>,
    Extension(connection): Extension<Connection>,
    request: Request<Body>,
) -> Response {
    let verdict = current.pipeline().ask(question(request.headers(), &AUTH_REQUEST), &connection).await;
    let mut answer = answer(verdict);
    if answer.status().is_client_error() && answer.status() != StatusCode::UNAUTHORIZED {
        *answer.status_mut() = StatusCode::FORBIDDEN;
    }
    answer
}

async fn forward_auth(
    State(current): State<Arc<Current>>,
    Extension(connection): Extension<Connection>,
    request: Request<Body>,
) -> Response {
    answer(current.pipeline().ask(question(request.headers(), &FORWARD_AUTH), &connection).await)
}

/// Which headers say what of the client's request.
struct Dialect {
    method: HeaderName,
    target: HeaderName,
    host: HeaderName,
}

const AUTH_REQUEST: Dialect = Dialect {
    method: HeaderName::from_static("x-original-method"),
    target: HeaderName::from_static("x-original-uri"),
    host: header::HOST,
};
const FORWARD_AUTH: Dialect = Dialect {
    method: HeaderName::from_static("x-forwarded-method"),
    target: HeaderName::from_static("x-forwarded-uri"),
    host: HeaderName::from_static("x-forwarded-host"),
};

fn question(headers: &HeaderMap, dialect: &Dialect) -> Result<Question, QuestionError> {
    let client = once(headers, &FORWARDED_FOR, "address of the client")?;
    let mut clients = headers.clone();
    for name in OF_THE_ASKER.iter().chain([&header::HOST, &dialect.method, &dialect.target]) {
        clients.remove(name);
    }
    Question::of(Told {
        method: once(headers, &dialect.method, "method")?,
        scheme: once(headers, &FORWARDED_PROTO, "scheme")?,
        host: once(headers, &dialect.host, "host")?,
        target: once(headers, &dialect.target, "path")?,
        // The last address is the one that the asker saw itself.
        client: client.rsplit(',').next().unwrap_or_default().trim(),
        headers: clients,
    })
}

/// The one value of a header.
pub(super) fn once<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    what: &'static str,
) -> Result<&'a str, QuestionError> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or(QuestionError::Missing { what })?;
    if values.next().is_some() {
        return Err(QuestionError::Twice { what });
    }
    value.to_str().map_err(|_| QuestionError::Unreadable { what })
}

fn answer(verdict: Verdict) -> Response {
    match verdict {
        Verdict::Stop(answer) => answer.map(Body::new),
        Verdict::Go(edits) => {
            let mut answer = Response::new(Body::empty());
            *answer.headers_mut() = edits.set;
            answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            answer
        }
    }
}

pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Headers of the question itself, and of the connection that it came over.
const OF_THE_ASKER: [HeaderName; 7] = [
    FORWARDED_FOR,
    FORWARDED_PROTO,
    HeaderName::from_static("x-forwarded-host"),
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
];
