//! A client of the authority's local administration socket (`admin.sock`).
//!
//! The socket knows the caller by its uid, so no credential is sent: whoever may open the socket is the owner.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use countersign_wire::codes::{Exit, Public};
use countersign_wire::problem::Problem;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::error::CliError;

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to one deployment's authority, opened anew for each call: commands make few.
#[derive(Debug, Clone)]
pub struct Admin {
    socket: PathBuf,
}

impl Admin {
    /// The authority whose state lies in `state_dir`.
    pub fn of(state_dir: &Path) -> Self {
        Self { socket: state_dir.join("admin.sock") }
    }

    /// `GET` a JSON document.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        parse(self.call(Method::GET, path, Bytes::new()).await?)
    }

    /// `POST` a JSON document and read one back.
    pub async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, CliError> {
        let body = serde_json::to_vec(body)
            .map_err(|e| CliError::failed("the request cannot be written as JSON", e, "report this"))?;
        parse(self.call(Method::POST, path, body.into()).await?)
    }

    /// `DELETE` of a path; there is nothing to read.
    ///
    /// # Errors
    /// As [`Admin::get`].
    pub async fn delete(&self, path: &str) -> Result<(), CliError> {
        self.call(Method::DELETE, path, Bytes::new()).await.map(drop)
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, CliError> {
        match tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(method, path, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable("no answer within 30 seconds")),
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, CliError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.unreachable(e))?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| CliError::usage(format!("{path} is not a request path"), e, ""))?;
        let response = sender.send_request(request).await.map_err(|e| self.unreachable(e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|e| self.unreachable(e))?
            .to_bytes();
        driver.abort();
        if status.is_success() { Ok(body) } else { Err(refused(status, &body, path)) }
    }

    fn unreachable(&self, why: impl std::fmt::Display) -> CliError {
        CliError::unreachable(
            format!("the authority does not answer on {}", self.socket.display()),
            why,
            "countersign up, or name the right deployment with --state-dir",
        )
    }
}

fn parse<T: DeserializeOwned>(body: Bytes) -> Result<T, CliError> {
    serde_json::from_slice(&body).map_err(|e| {
        CliError::failed(
            "the authority's answer cannot be read",
            e,
            "use one version of countersign throughout",
        )
    })
}

/// An error answer becomes the operator's error: the socket is the owner's, so it carries the facts. Which exit code
/// a refusal has, the registry of codes says.
fn refused(status: StatusCode, body: &[u8], path: &str) -> CliError {
    let problem: Option<Problem> = serde_json::from_slice(body).ok();
    let title = problem.as_ref().map_or_else(|| status.to_string(), |p| p.title.clone());
    let detail =
        problem.as_ref().and_then(|p| p.detail.clone()).unwrap_or_else(|| format!("asked for {path}"));
    match problem.as_ref().and_then(Problem::public).map(Public::exit) {
        Some(Exit::Denied) => CliError::denied(title, detail, "countersign explain last"),
        Some(Exit::Usage) => CliError::usage(
            title,
            detail,
            "countersign service list, user list or cert list show what there is",
        ),
        Some(Exit::Unreachable) => CliError::unreachable(title, detail, "try again in a moment"),
        _ => CliError::failed(title, detail, "countersign audit tail"),
    }
}
