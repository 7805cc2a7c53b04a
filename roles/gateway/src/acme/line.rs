//! The way to an authority: every exchange bounded in time and size, over HTTPS alone, and what it says of when to come
//! again is remembered.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use countersign_identity::UnixTime;
use countersign_sdk::clock;
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use super::schedule::ASKED_MAX;
use crate::https::Https;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LineError {
    #[error("{url} is no https url")]
    Url { url: String },
    #[error("{url} does not answer: {why}")]
    Call { url: String, why: String },
    #[error("{url} did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    TimedOut { url: String },
    #[error("{url} answered {status}, and does not say why")]
    Status { url: String, status: u16 },
}

/// Cheap to clone; clones remember together.
#[derive(Clone, Debug)]
pub(super) struct Line {
    https: Https,
    asked: Arc<Mutex<Option<Duration>>>,
}

impl Line {
    pub(super) fn new(https: Https) -> Self {
        Line { https, asked: Arc::default() }
    }

    /// How long the authority asked us to wait since the last time that this was asked, if it did.
    pub(super) fn take_asked(&self) -> Option<Duration> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn exchange(self, request: Request<BodyWrapper<Bytes>>) -> Result<Response<Bytes>, LineError> {
        let url = request.uri().to_string();
        if request.uri().scheme() != Some(&Scheme::HTTPS) {
            return Err(LineError::Url { url });
        }
        let is_get = request.method() == Method::GET;
        let (mut head, body) = request.into_parts();
        head.headers.insert(header::USER_AGENT, USER_AGENT);
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(impossible) => match impossible {},
        };
        let request = Request::from_parts(head, Full::new(body));
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.https.send(request, ANSWER_BYTES_MAX)).await;
        let mut answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => return Err(LineError::Call { url, why }),
            Err(_) => return Err(LineError::TimedOut { url }),
        };
        let status = answer.status();
        let asked = bounded_retry_after(answer.headers_mut(), clock::now());
        if !status.is_success() {
            *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = asked;
            if is_get || !is_problem(answer.headers()) {
                return Err(LineError::Status { url, status: status.as_u16() });
            }
        }
        Ok(answer)
    }
}

impl HttpClient for Line {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let exchange = self.clone().exchange(request);
        Box::pin(async move {
            let answer = exchange.await.map_err(|error| Error::Other(Box::new(error)))?;
            Ok(BytesResponse::from(answer.map(Full::new)))
        })
    }
}

/// What `Retry-After` says (RFC 9110 section 10.2.3), written back in seconds within bounds: whoever reads it after us
/// adds it to a clock.
fn bounded_retry_after(headers: &mut HeaderMap, now: UnixTime) -> Option<Duration> {
    let said = headers.remove(header::RETRY_AFTER)?;
    let said = said.to_str().ok()?.trim();
    let seconds = || said.parse().ok().map(Duration::from_secs);
    let date = || {
        let date = httpdate::parse_http_date(said).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(UnixTime::from_secs(i64::try_from(date.as_secs()).ok()?).since(now))
    };
    let asked = seconds().or_else(date)?.min(ASKED_MAX);
    headers.insert(header::RETRY_AFTER, HeaderValue::from(asked.as_secs()));
    Some(asked)
}

fn is_problem(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/problem+json") || kind.eq_ignore_ascii_case("application/json")
}

/// RFC 8555 section 6.1.
const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("countersign/", env!("CARGO_PKG_VERSION"), " instant-acme/0.8"));
/// From the connection to the last byte of the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A chain of certificates is the longest answer.
const ANSWER_BYTES_MAX: usize = 128 * 1024;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use countersign_identity::TrustDomain;
    use countersign_keys::{KeyPair, SystemRandom};
    use countersign_pki::issue::{Root, make_root};
    use countersign_pki::profile::EdgeNames;

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(784_111_777);

    /// What is understood, and what is handed on.
    fn asked(said: &str) -> (Option<u64>, Option<String>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, said.parse().unwrap());
        let asked = bounded_retry_after(&mut headers, NOW).map(|asked| asked.as_secs());
        (asked, headers.get(header::RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn when_to_come_again_is_read_as_seconds_and_as_a_date_and_within_bounds() {
        assert_eq!(asked("120"), (Some(120), Some("120".into())));
        assert_eq!(asked("Sun, 06 Nov 1994 08:50:37 GMT"), (Some(60), Some("60".into())));
        assert_eq!(asked("Sun, 06 Nov 1994 08:00:00 GMT"), (Some(0), Some("0".into())), "in the past");
        // Added to a clock, it would be past the end of time.
        assert_eq!(asked(&u64::MAX.to_string()), (Some(604_800), Some("604800".into())));
        assert_eq!(asked("soon"), (None, None));
    }

    #[tokio::test]
    async fn nothing_is_asked_without_tls() {
        countersign_sdk::tls::install_provider();
        let (rng, names) = (SystemRandom::new(), EdgeNames { dns: vec!["ca.test".into()], ips: Vec::new() });
        let key = KeyPair::generate(&rng).unwrap();
        let td = TrustDomain::parse("ca.test").unwrap();
        let root = make_root(Root::Edge(&names), &td, key, NOW, [1; 16]).unwrap();
        let https = Https::trusting(&[root.certificate().clone()]).unwrap();
        let request = Request::get("http://127.0.0.1:9/").body(BodyWrapper::default()).unwrap();
        let refused = Line::new(https).exchange(request).await.unwrap_err();
        assert_eq!(refused, LineError::Url { url: "http://127.0.0.1:9/".into() });
    }
}
