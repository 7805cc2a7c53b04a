//! What a service answers when it cannot do what it was asked (RFC 9457).

use axum::response::{IntoResponse, Response};
use countersign_wire::{
    codes::Public,
    problem::{PROBLEM_JSON, Problem},
};
use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use thiserror::Error;

use crate::store::StoreError;

/// Why there is no better answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// Body, query or path cannot be read; says where and why.
    #[error("{0}")]
    Malformed(String),
    /// It can be read, and a value is not acceptable.
    #[error("{0}")]
    Invalid(String),
    /// The body is of another kind.
    #[error("body is not {expected}: set content-type")]
    MediaType {
        /// What it should be.
        expected: &'static str,
    },
    /// The body is too long.
    #[error("body has more than {max} bytes")]
    TooLarge {
        /// How long it may be.
        max: usize,
    },
    /// Nothing there, or nothing that this person may know of.
    #[error("{0}")]
    NotFound(String),
    /// The route exists, for another method.
    #[error("this route does not have this method")]
    Method,
    /// It cannot be done any more, or not twice.
    #[error("{0}")]
    Conflict(String),
    /// Not theirs.
    #[error("{0}")]
    NotYours(String),
    /// Another service is needed, and did not answer.
    #[error("{service} does not answer: try again later")]
    Unavailable {
        /// Which one.
        service: &'static str,
    },
    /// Our own fault. The details are for the log.
    #[error("something went wrong here")]
    Internal,
}

impl Fault {
    const fn public(&self) -> Public {
        match self {
            Self::Malformed(_) => Public::MalformedRequest,
            Self::Invalid(_) => Public::InvalidRequest,
            Self::MediaType { .. } => Public::UnsupportedMediaType,
            Self::TooLarge { .. } => Public::BodyTooLarge,
            Self::NotFound(_) => Public::NotFound,
            Self::Method => Public::MethodNotAllowed,
            Self::Conflict(_) => Public::Conflict,
            Self::NotYours(_) => Public::AccessDenied,
            Self::Unavailable { .. } => Public::Unavailable,
            Self::Internal => Public::InternalError,
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let public = self.public();
        let problem = Problem {
            kind: public.type_uri(),
            title: public.title().to_owned(),
            status: public.status(),
            code: public.as_str().to_owned(),
            decision: None,
            detail: Some(self.to_string()),
        };
        let status = StatusCode::from_u16(public.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let content_type = (CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        (status, [content_type], problem.to_json()).into_response()
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        if let StoreError::NameTaken { .. } = error {
            return Self::Conflict(error.to_string());
        }
        tracing::error!(%error, "the database failed");
        Self::Internal
    }
}

/// The answer where no route is.
pub(crate) async fn no_route() -> Fault {
    Fault::NotFound("there is nothing at this path".to_owned())
}

/// The answer where a route has other methods.
pub(crate) async fn no_method() -> Fault {
    Fault::Method
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn every_fault_is_a_problem_with_its_own_status() {
        let said = || "said".to_owned();
        for (fault, status, code) in [
            (Fault::Malformed(said()), 400, "malformed_request"),
            (Fault::Invalid(said()), 422, "invalid_request"),
            (Fault::MediaType { expected: "image/png" }, 415, "unsupported_media_type"),
            (Fault::TooLarge { max: 7 }, 413, "body_too_large"),
            (Fault::NotFound(said()), 404, "not_found"),
            (Fault::Method, 405, "method_not_allowed"),
            (Fault::Conflict(said()), 409, "conflict"),
            (Fault::NotYours(said()), 403, "access_denied"),
            (Fault::Unavailable { service: "users" }, 503, "unavailable"),
            (Fault::Internal, 500, "internal_error"),
        ] {
            let detail = fault.to_string();
            let response = fault.into_response();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((&body["status"], &body["code"]), (&status.into(), &code.into()));
            assert_eq!(body["detail"], detail);
        }
    }

    #[test]
    fn what_the_database_says_is_for_the_log_alone() {
        let leaky = StoreError::Statement { why: "no such table: secrets".to_owned() };
        assert_eq!(Fault::from(leaky), Fault::Internal);
        let taken = StoreError::NameTaken { handle: "alice".to_owned() };
        assert!(matches!(Fault::from(taken), Fault::Conflict(_)));
    }
}
