//! Calling another service and reading its JSON, within a time and a size.

use std::time::Duration;

use bytes::Bytes;
use countersign_sdk::outbound::{CallError, ServiceClient};
use http::{Method, Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, Limited};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::asking::{Caller, Source};
use crate::sidecar::Sidecar;

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Another service, as one of ours sees it.
#[derive(Clone, Debug)]
pub struct Neighbour {
    way: Way,
    patience: Duration,
}

/// How it is reached.
#[derive(Clone, Debug)]
enum Way {
    /// By the SDK in this process.
    Sdk(ServiceClient),
    /// Through our sidecar, which proves who we are.
    Sidecar(Sidecar, &'static str),
}

/// Why a neighbour's answer cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NeighbourError {
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Our sidecar does not answer.
    #[error("our sidecar does not answer: {0}")]
    Sidecar(String),
    /// Its answer took longer than we wait.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// It answered, and said no.
    #[error("answered {0}")]
    Refused(StatusCode),
    /// It answered what we do not understand.
    #[error("answer cannot be read")]
    Unreadable,
}

impl Neighbour {
    /// The service behind `client`, which has `patience` long to answer.
    #[must_use]
    pub const fn new(client: ServiceClient, patience: Duration) -> Self {
        Self { way: Way::Sdk(client), patience }
    }

    /// The service of that name, through our sidecar.
    #[must_use]
    pub const fn through(sidecar: Sidecar, name: &'static str, patience: Duration) -> Self {
        Self { way: Way::Sidecar(sidecar, name), patience }
    }

    /// `GET`, on behalf of whoever called us.
    ///
    /// # Errors
    /// See [`NeighbourError`].
    pub async fn get<T: DeserializeOwned>(&self, caller: &Caller, path: &str) -> Result<T, NeighbourError> {
        self.ask(caller, Method::GET, path, Vec::new()).await
    }

    /// `POST` of JSON, on behalf of whoever called us.
    ///
    /// # Errors
    /// See [`NeighbourError`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        caller: &Caller,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, NeighbourError> {
        let body = serde_json::to_vec(body).map_err(|_| NeighbourError::Unreadable)?;
        self.ask(caller, Method::POST, path, body).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        caller: &Caller,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, NeighbourError> {
        let asked = tokio::time::timeout(self.patience, self.send(caller, method, path, body));
        let bytes = asked.await.map_err(|_| NeighbourError::Late(self.patience))??;
        serde_json::from_slice(&bytes).map_err(|_| NeighbourError::Unreadable)
    }

    async fn send(
        &self,
        caller: &Caller,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Bytes, NeighbourError> {
        let mut request = Request::builder().method(method).uri(path);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::from(body)).map_err(|_| NeighbourError::Unreadable)?;
        match (&self.way, &caller.0) {
            (Way::Sdk(client), Source::Sdk(caller)) => {
                let request = request.map(|body| body.map_err(|never| match never {}).boxed_unsync());
                read(client.clone().on_behalf_of(caller).send(request).await?).await
            }
            (Way::Sidecar(sidecar, name), Source::Sidecar(context)) => {
                read(sidecar.send(name, context.as_ref(), request).await?).await
            }
            // A service has the SDK or a sidecar, for both directions.
            (Way::Sdk(_), Source::Sidecar(_)) | (Way::Sidecar(..), Source::Sdk(_)) => {
                Err(NeighbourError::Unreadable)
            }
        }
    }
}

async fn read<B>(answer: http::Response<B>) -> Result<Bytes, NeighbourError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if !answer.status().is_success() {
        return Err(NeighbourError::Refused(answer.status()));
    }
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|_| NeighbourError::Unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sidecar_that_is_not_there_is_told_from_a_service_that_says_no() {
        let nowhere = Sidecar::at("/nonexistent/out.sock".into());
        let users = Neighbour::through(nowhere, "users", Duration::from_secs(5));
        let asked = users.get::<serde_json::Value>(&Caller(Source::Sidecar(None)), "/users/7").await;
        assert!(matches!(asked, Err(NeighbourError::Sidecar(_))), "{asked:?}");
    }
}
