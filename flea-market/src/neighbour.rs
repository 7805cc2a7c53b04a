//! Calling another service and reading its JSON, within a time and a size.

use std::time::Duration;

use countersign_sdk::{
    inbound::Caller,
    outbound::{CallError, OutboundRequest, ServiceClient},
};
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Another service, as one of ours sees it.
#[derive(Clone, Debug)]
pub struct Neighbour {
    client: ServiceClient,
    patience: Duration,
}

/// Why a neighbour's answer cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NeighbourError {
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
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
        Self { client, patience }
    }

    /// `GET`, on behalf of whoever called us.
    ///
    /// # Errors
    /// See [`NeighbourError`].
    pub async fn get<T: DeserializeOwned>(&self, caller: &Caller, path: &str) -> Result<T, NeighbourError> {
        let client = self.client.clone().on_behalf_of(caller);
        self.read(client.get(path)).await
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
        let client = self.client.clone().on_behalf_of(caller);
        self.read(client.post(path).json(body)).await
    }

    async fn read<T: DeserializeOwned>(&self, request: OutboundRequest) -> Result<T, NeighbourError> {
        let answer = tokio::time::timeout(self.patience, async {
            let response = request.send().await?;
            if !response.status().is_success() {
                return Err(NeighbourError::Refused(response.status()));
            }
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            body.map(|body| body.to_bytes()).map_err(|_| NeighbourError::Unreadable)
        });
        let bytes = answer.await.map_err(|_| NeighbourError::Late(self.patience))??;
        serde_json::from_slice(&bytes).map_err(|_| NeighbourError::Unreadable)
    }
}
