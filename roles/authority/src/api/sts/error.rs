//! What a client of an OAuth endpoint learns when it is refused (RFC 6749 section 5.2), and nothing more.

use axum::response::{IntoResponse, Response};
use countersign_identity::DecisionId;
use countersign_sdk::inbound::Denial;
use countersign_wire::codes::{Code, Public};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;

use super::proof::ProofRefusal;

/// Carries the nonce for the next DPoP proof (RFC 9449 section 8).
pub(crate) const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// A refusal: a code for the client, the facts for the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OAuthError {
    pub(crate) denial: Box<Denial>,
    /// About what the client itself sent, and safe to say.
    description: Option<String>,
    /// A fresh nonce, where one could help.
    nonce: Option<String>,
}

#[derive(Serialize)]
struct Answer<'a> {
    error: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_description: Option<&'a str>,
    /// The id under which the operator finds the reasons.
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<String>,
}

impl OAuthError {
    /// Refused because of `reason`, which the client is not told.
    pub(crate) fn new(code: Code, reason: impl Into<String>) -> Self {
        Denial::new(code, reason).into()
    }

    /// What is wrong with the form of the request, which its sender may know.
    pub(crate) fn form(description: impl Into<String>) -> Self {
        let description = description.into();
        Self { description: Some(description.clone()), ..Self::new(Code::ExchangeMalformed, description) }
    }

    /// Something failed here: the reason is logged, and not told.
    pub(crate) fn internal(what: &'static str, cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "{what}");
        Self::new(Code::Internal, what)
    }

    /// The answer, under the id of its decision.
    pub(crate) fn answer(&self, decision: Option<DecisionId>) -> Response {
        let mut response = answer(self.denial.code, self.description.as_deref(), decision);
        let nonce = self.nonce.as_ref().and_then(|nonce| HeaderValue::from_str(nonce).ok());
        if let Some(nonce) = nonce {
            response.headers_mut().insert(DPOP_NONCE, nonce);
        }
        response
    }
}

impl From<Denial> for OAuthError {
    fn from(denial: Denial) -> Self {
        Self { denial: Box::new(denial), description: None, nonce: None }
    }
}

impl From<ProofRefusal> for OAuthError {
    fn from(refusal: ProofRefusal) -> Self {
        Self { nonce: refusal.nonce, ..Self::new(refusal.code, refusal.reason) }
    }
}

/// The answer that an OAuth endpoint gives for a code, whoever refused.
pub(crate) fn answer(code: Code, description: Option<&str>, decision: Option<DecisionId>) -> Response {
    let public = code.entry().public;
    let status = StatusCode::from_u16(public.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let decision = decision.map(|id| id.to_string());
    let body = Answer { error: public.oauth(), error_description: description, decision };
    let mut response = (status, axum::Json(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if public == Public::InvalidClient {
        let need = HeaderValue::from_static(r#"Countersign need="certificate""#);
        headers.insert(header::WWW_AUTHENTICATE, need);
    }
    response
}
