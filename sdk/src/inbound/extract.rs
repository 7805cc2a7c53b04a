//! Extractors for axum: the caller and the user as arguments of a handler.

use std::convert::Infallible;

use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use countersign_identity::{User, Verified};
use countersign_wire::codes::Code;
use http::request::Parts;
use thiserror::Error;

use super::{Caller, Challenge, Denial, new_decision_id};

/// A handler asks who is calling where nobody was asked to prove it: a mistake in the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("caller extracted but no countersign layer is installed on this route")]
pub struct CallerMissing;

/// The user on whose behalf the caller calls. As `Option<EndUser>` it may be absent; as `EndUser` it may not.
#[derive(Clone, Debug)]
pub struct EndUser(Verified<User>);

/// Why there is no [`EndUser`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UserMissing {
    /// See [`CallerMissing`].
    #[error(transparent)]
    NoCaller(#[from] CallerMissing),
    /// The caller acts for itself.
    #[error("this route is for users, and the caller passed none on")]
    NoUser,
}

impl std::ops::Deref for EndUser {
    type Target = User;

    fn deref(&self) -> &User {
        &self.0
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = CallerMissing;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, CallerMissing> {
        parts.extensions.get::<Self>().cloned().ok_or(CallerMissing)
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for EndUser {
    type Rejection = UserMissing;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, UserMissing> {
        let caller = parts.extensions.get::<Caller>().ok_or(CallerMissing)?;
        caller.user().cloned().map(Self).ok_or(UserMissing::NoUser)
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for EndUser {
    type Rejection = CallerMissing;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, CallerMissing> {
        let caller = parts.extensions.get::<Caller>().ok_or(CallerMissing)?;
        Ok(caller.user().cloned().map(Self))
    }
}

impl IntoResponse for CallerMissing {
    fn into_response(self) -> Response {
        let decision = new_decision_id();
        tracing::error!(%decision, "{self}");
        Denial::new(Code::Internal, self.to_string()).response(decision).map(axum::body::Body::new)
    }
}

impl IntoResponse for UserMissing {
    fn into_response(self) -> Response {
        match self {
            Self::NoCaller(missing) => missing.into_response(),
            Self::NoUser => {
                let denial = Denial::new(Code::TokenMissing, self.to_string());
                let denial = denial.with_challenge(Challenge::TxnToken);
                denial.response(new_decision_id()).map(axum::body::Body::new)
            }
        }
    }
}
