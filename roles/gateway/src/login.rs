//! `POST /login`: the authority's login, reachable through the only entry point.
//!
//! The gateway reads the body once, passes on exactly the members it knows, and keeps neither password nor token. It
//! shows the authority its workload certificate, so that the client's address in [`CLIENT_ADDRESS_HEADER`] counts there
//! and the authority's own throttle meets the client, not the gateway. A client that proves a key gets a token that is
//! bound to it: the gateway judges the proof, since it was made for the gateway, and tells the authority which key.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_policy::Permit;
use countersign_sdk::outbound::{CallError, CallLimits, Channel, EdgeTarget, Target, full};
use countersign_sdk::tls::TrustState;
use countersign_token::DpopProof;
use countersign_wire::api::users::{CLIENT_ADDRESS_HEADER, CLIENT_KEY_HEADER, LoggedIn, Login};
use countersign_wire::json;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Where logins go.
pub(crate) struct LoginDesk(Channel);

/// Why `authority_url` or `authority_ca` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginSettingsError {
    /// Not a URL that can be called.
    #[error("authority_url: {why}")]
    Url {
        /// What is wrong with it.
        why: String,
    },
    /// There is a URL, but no root to check the certificate with.
    #[error(
        "authority_url needs authority_ca: the PEM file of the root that the authority's certificate comes from"
    )]
    NoRoot,
    /// The root cannot be used.
    #[error("authority_ca {path}: {why}")]
    Root {
        /// As configured.
        path: String,
        /// What is wrong.
        why: String,
    },
}

/// How a login ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LoginAnswer {
    /// The JSON body of the answer.
    Accepted(Bytes),
    /// Name or password, or the account is locked: never said which.
    Refused,
    /// The authority's own throttle; seconds to wait.
    Throttled { retry_after_s: u64 },
}

/// Why there was no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LoginError {
    #[error("the body is not a login: {0}")]
    Body(#[from] json::JsonError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the authority answered {status}")]
    Answer { status: u16 },
}

impl LoginDesk {
    /// `trust`: as whom the gateway shows itself.
    pub(crate) fn new(
        url: &str,
        root: Option<&Path>,
        trust: &Arc<TrustState>,
    ) -> Result<Self, LoginSettingsError> {
        let roots = read_roots(root.ok_or(LoginSettingsError::NoRoot)?)?;
        let target = EdgeTarget::new(url, &roots)
            .map_err(|error| LoginSettingsError::Url { why: error.to_string() })?;
        let limits =
            CallLimits { answer: ANSWER_TIMEOUT, in_flight_max: LOGINS_MAX, ..CallLimits::default() };
        Ok(LoginDesk(Channel::new(Target::Edge(target.showing(Arc::clone(trust))), limits)))
    }

    /// Asks the authority, for whom the policy lets try. `key`: what the client proved to hold, if it did.
    pub(crate) async fn ask(
        &self,
        _permit: Permit,
        body: &[u8],
        client: IpAddr,
        key: Option<&DpopProof>,
    ) -> Result<LoginAnswer, LoginError> {
        let login: Login = json::from_slice(body, LOGIN_BYTES_MAX)?;
        let unsent = |_| LoginError::Call(CallError::BadRequest);
        let body = serde_json::to_vec(&login).map_err(|_| LoginError::Call(CallError::BadRequest))?;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri("/api/v1/login")
            .header(header::CONTENT_TYPE, "application/json")
            .header(CLIENT_ADDRESS_HEADER, client.to_canonical().to_string());
        if let Some(key) = key {
            request = request.header(CLIENT_KEY_HEADER, key.jkt());
        }
        let request = request.body(full(body)).map_err(unsent)?;
        let (head, body) = self.0.send(request).await?.into_parts();
        let unreadable = LoginError::Answer { status: head.status.as_u16() };
        let body = tokio::time::timeout(ANSWER_TIMEOUT, Limited::new(body, ANSWER_BYTES_MAX).collect());
        let Ok(Ok(body)) = body.await else { return Err(unreadable) };
        answer(&head, &body.to_bytes(), key.is_some())
    }
}

/// Only what we understand goes to the client, and no bearer token to one that wanted a bound one.
fn answer(head: &http::response::Parts, body: &[u8], bound: bool) -> Result<LoginAnswer, LoginError> {
    match head.status {
        StatusCode::OK => {
            let unreadable = || LoginError::Answer { status: head.status.as_u16() };
            let logged_in: LoggedIn = json::from_slice(body, ANSWER_BYTES_MAX).map_err(|_| unreadable())?;
            if bound != (logged_in.token_type == "DPoP") {
                return Err(unreadable());
            }
            let body = serde_json::to_vec(&logged_in).map_err(|_| unreadable())?;
            Ok(LoginAnswer::Accepted(Bytes::from(body)))
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(LoginAnswer::Refused),
        StatusCode::TOO_MANY_REQUESTS => {
            let seconds =
                head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            Ok(LoginAnswer::Throttled { retry_after_s: seconds.unwrap_or(60) })
        }
        other => Err(LoginError::Answer { status: other.as_u16() }),
    }
}

fn read_roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoginSettingsError> {
    let wrong = |why: String| LoginSettingsError::Root { path: path.display().to_string(), why };
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let roots: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(error.to_string()))?;
    if roots.is_empty() {
        return Err(wrong("no PEM certificate in it".to_owned()));
    }
    Ok(roots)
}

/// Bytes of a login's body.
pub(crate) const LOGIN_BYTES_MAX: usize = 8 * 1024;
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Logins at one time; one core hashes about 65 passwords a second.
const LOGINS_MAX: usize = 64;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
