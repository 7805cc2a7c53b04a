//! Who is asking, as a handler sees it: the same whether the SDK's layer stands in front of the service or a sidecar.

use axum::{
    extract::{FromRequestParts, Request},
    middleware::Next,
    response::{IntoResponse, Response},
};
use countersign_sdk::inbound as sdk;
use http::{HeaderMap, HeaderName, HeaderValue, request::Parts};
use percent_encoding::percent_decode_str;

use crate::fault::Fault;

/// Whoever called, to be passed on with our own calls.
#[derive(Clone, Debug)]
pub struct Caller(pub(crate) Source);

/// Who told us.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// The SDK's layer in this process.
    Sdk(sdk::Caller),
    /// Our sidecar, in a text that only it can read.
    Sidecar(Option<HeaderValue>),
}

/// The user on whose behalf we are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndUser {
    /// Immutable, never reused.
    pub id: String,
    /// For people to read.
    pub name: String,
    /// What the user may be.
    pub roles: Vec<String>,
}

/// What the sidecar said, once its headers were read.
#[derive(Clone, Debug)]
struct Told {
    context: Option<HeaderValue>,
    user: Option<EndUser>,
}

/// Believes the sidecar's headers. Only for a router that nobody but the sidecar can reach.
pub(crate) async fn told_by_the_sidecar(mut request: Request, next: Next) -> Response {
    let told = Told { context: request.headers().get(CONTEXT).cloned(), user: user(request.headers()) };
    request.extensions_mut().insert(told);
    next.run(request).await
}

fn no_user() -> Fault {
    Fault::NotYours("this route is for users, and the caller passed none on".to_owned())
}

fn user(headers: &HeaderMap) -> Option<EndUser> {
    let text = |name: HeaderName| decoded(headers.get(name)?.to_str().ok()?);
    let (id, name) = (text(USER)?, text(USER_NAME)?);
    let roles = headers.get(USER_ROLES)?.to_str().ok()?;
    let roles = roles.split(',').filter(|role| !role.is_empty()).map(decoded).collect::<Option<_>>()?;
    Some(EndUser { id, name, roles })
}

fn decoded(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        if let Some(told) = parts.extensions.get::<Told>() {
            return Ok(Self(Source::Sidecar(told.context.clone())));
        }
        let caller = <sdk::Caller as FromRequestParts<S>>::from_request_parts(parts, state).await;
        caller.map(|caller| Self(Source::Sdk(caller))).map_err(IntoResponse::into_response)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for EndUser {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        if let Some(told) = parts.extensions.get::<Told>() {
            return told.user.clone().ok_or_else(|| no_user().into_response());
        }
        let user = <sdk::EndUser as FromRequestParts<S>>::from_request_parts(parts, state).await;
        let user = user.map_err(IntoResponse::into_response)?;
        Ok(Self { id: user.id.clone(), name: user.name.clone(), roles: user.roles.clone() })
    }
}

/// What our sidecar says of the user, and what it wants back with calls on behalf of that user.
pub(crate) const CONTEXT: HeaderName = HeaderName::from_static("countersign-context");
const USER: HeaderName = HeaderName::from_static("countersign-user");
const USER_NAME: HeaderName = HeaderName::from_static("countersign-user-name");
const USER_ROLES: HeaderName = HeaderName::from_static("countersign-user-roles");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sidecar_s_headers_are_read_as_they_were_written() {
        let headers = HeaderMap::from_iter([
            (USER, HeaderValue::from_static("u-1")),
            (USER_NAME, HeaderValue::from_static("Zo%C3%AB%2C%20x")),
            (USER_ROLES, HeaderValue::from_static("buyer,two%2Cthree")),
        ]);
        let roles = vec!["buyer".to_owned(), "two,three".to_owned()];
        assert_eq!(user(&headers), Some(EndUser { id: "u-1".into(), name: "Zoë, x".into(), roles }));
    }

    #[test]
    fn half_a_user_is_none() {
        assert_eq!(user(&HeaderMap::from_iter([(USER, HeaderValue::from_static("u-1"))])), None);
    }
}
