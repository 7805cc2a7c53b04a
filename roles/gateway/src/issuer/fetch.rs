//! One small document of an issuer, over HTTPS: bounded in time and size, no redirect, nothing kept open.

use std::time::Duration;

use bytes::Bytes;
use countersign_keys::JwkSetError;
use countersign_keys::jwk_set::JWK_SET_BYTES_MAX;
use http::{Request, StatusCode, Uri, header, uri::Scheme};
use http_body_util::Full;
use rustls::pki_types::CertificateDer;

use crate::https::{self, Https};

/// Why there is no document. For the log alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("{url} is no url that keys are taken from; it must be https")]
    Url { url: String },
    #[error("{url} does not answer: {why}")]
    Call { url: String, why: String },
    #[error("{url} did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    TimedOut { url: String },
    #[error("{url} answered {status}")]
    Status { url: String, status: u16 },
    #[error("{url} is no OpenID provider metadata: {why}")]
    Metadata { url: String, why: String },
    #[error("{url} says that it is the metadata of {got}")]
    OtherIssuer { url: String, got: String },
    #[error("{url}: {source}")]
    Keys { url: String, source: JwkSetError },
}

/// Whom a fetch believes.
#[derive(Clone, Debug)]
pub(super) struct Fetcher {
    /// Where an issuer on this machine has no certificate, none is believed.
    https: Option<Https>,
    /// Also plain HTTP, to this machine alone.
    insecure_on_loopback: bool,
}

impl Fetcher {
    /// Believes certificates below `roots`.
    pub(super) fn new(roots: &[CertificateDer<'static>], insecure_on_loopback: bool) -> Result<Self, String> {
        let https = match Https::trusting(roots) {
            Ok(https) => Some(https),
            Err(_) if insecure_on_loopback => None,
            Err(why) => return Err(why),
        };
        Ok(Fetcher { https, insecure_on_loopback })
    }

    /// `GET` of `url`: at most [`JWK_SET_BYTES_MAX`] bytes.
    pub(super) async fn get(&self, url: &str) -> Result<Bytes, FetchError> {
        let fetched = tokio::time::timeout(ANSWER_TIMEOUT, self.call(url)).await;
        fetched.unwrap_or_else(|_| Err(FetchError::TimedOut { url: url.to_owned() }))
    }

    async fn call(&self, url: &str) -> Result<Bytes, FetchError> {
        let refused = || FetchError::Url { url: url.to_owned() };
        let failed = |why: String| FetchError::Call { url: url.to_owned(), why };
        let uri: Uri = url.parse().map_err(|_| refused())?;
        let (is_https, port) = (uri.scheme() == Some(&Scheme::HTTPS), uri.port_u16());
        let host = https::bare_host(&uri).ok_or_else(refused)?.to_owned();
        let request = Request::get(uri).header(header::ACCEPT, "application/json").body(Full::default());
        let request = request.map_err(|_| refused())?;
        let answer = if is_https {
            let https =
                self.https.as_ref().ok_or_else(|| failed("no root certificate is believed".to_owned()))?;
            https.send(request, JWK_SET_BYTES_MAX).await
        } else if request.uri().scheme() == Some(&Scheme::HTTP)
            && self.insecure_on_loopback
            && is_loopback(&host)
        {
            let tcp = https::connect(&host, port.unwrap_or(80)).await.map_err(failed)?;
            https::exchange(tcp, request, JWK_SET_BYTES_MAX).await
        } else {
            return Err(refused());
        };
        let answer = answer.map_err(failed)?;
        match answer.status() {
            StatusCode::OK => Ok(answer.into_body()),
            other => Err(FetchError::Status { url: url.to_owned(), status: other.as_u16() }),
        }
    }
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// From the connection to the last byte.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
