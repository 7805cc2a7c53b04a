//! One request to an upstream: choose an endpoint, get a connection, wait for the answer, and try again where that is
//! safe and within the budget.

use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use countersign_policy::Permit;
use countersign_sdk::outbound::{Outgoing, empty};
use http::header::{HOST, TE};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::time::Instant;

use super::body::{Hold, Progress, UpstreamBody, Watched};
use super::cluster::{Cluster, Lease, Outcome};
use super::endpoint::Endpoint;
use super::error::UpstreamError;
use super::pool::{Http1, Http2};
use super::retry::is_idempotent;
use crate::body::state_framing;

/// A connection for one request.
enum Line {
    Http1(Http1),
    Http2(Http2),
}

/// A try without an answer.
struct Failed {
    error: UpstreamError,
    /// The request, if nothing of it was sent.
    unsent: Option<Request<Outgoing>>,
    /// A byte of an answer was there, or might have been.
    answer_began: bool,
}

impl Cluster {
    /// Sends a request whose URI has the authority that the client asked for, and waits for the head of the answer.
    ///
    /// Takes the permit: nothing is forwarded without one.
    ///
    /// # Errors
    /// See [`UpstreamError`].
    pub(crate) async fn send(
        &self,
        _permit: Permit,
        request: Request<Outgoing>,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        let Some(whole) = self.timeouts.whole() else { return self.tries(request, None).await };
        let end = Instant::now() + whole;
        let tries = self.tries(request, Some(end));
        match tokio::time::timeout_at(end, tries).await {
            Ok(answer) => answer,
            Err(_) => Err(UpstreamError::TookTooLong {
                upstream: self.name.clone(),
                after_ms: self.timeouts.whole_ms.unwrap_or_default(),
            }),
        }
    }

    async fn tries(
        &self,
        request: Request<Outgoing>,
        end: Option<Instant>,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        let replay = self.replay_of(&request);
        let (mut request, mut tried) = (self.aimed(request)?, Vec::new());
        loop {
            let lease = self.pick_other(&tried)?;
            let endpoint = Arc::clone(lease.endpoint());
            let failed = match self.one_try(lease, request, end).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            tracing::warn!(upstream = self.name, endpoint = %endpoint.place(), error = %failed.error,
                "a request to an upstream failed");
            self.note_trouble(failed.error.to_string());
            let again = match failed.unsent {
                Some(unsent) => Some(unsent),
                None if failed.answer_began => None,
                None => replay.as_ref().map(|head| Request::from_parts(head.clone(), empty())),
            };
            let Some(again) = again else { return Err(failed.error) };
            if tried.len() >= self.tries_max() || !self.may_retry() {
                return Err(failed.error);
            }
            tried.push(endpoint.id());
            request = again;
        }
    }

    fn tries_max(&self) -> usize {
        usize::try_from(self.retry.tries_max).unwrap_or(usize::MAX)
    }

    /// What a second try would be made of, where a request may be sent twice: no body, and no harm in it.
    fn replay_of(&self, request: &Request<Outgoing>) -> Option<Parts> {
        let may = self.retry.tries_max > 0
            && is_idempotent(request.method())
            && request.body().size_hint().exact() == Some(0);
        let mut copy = Request::new(());
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.version_mut() = request.version();
        if may {
            copy.headers_mut().clone_from(request.headers());
        }
        let copy = may.then(|| self.aimed(copy.map(|()| empty())).ok())??;
        Some(copy.into_parts().0)
    }

    /// In the form of the upstream's protocol: `Host` in HTTP/1.1, `:authority` in HTTP/2.
    pub(super) fn aimed(&self, mut request: Request<Outgoing>) -> Result<Request<Outgoing>, UpstreamError> {
        let unfit = || UpstreamError::NotHttp {
            upstream: self.name.clone(),
            endpoint: "no endpoint yet".to_owned(),
            protocol: "HTTP",
            why: "the request has no path or no host to send".to_owned(),
        };
        let path = request.uri().path_and_query().cloned().ok_or_else(unfit)?;
        let asked = request.uri().authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
        let host = self.host.clone().or(asked).ok_or_else(unfit)?;
        if self.dialer.speaks_http2() {
            let scheme = if self.dialer.is_plain() { "http" } else { "https" };
            let uri = Uri::builder().scheme(scheme).authority(host.as_bytes()).path_and_query(path);
            *request.uri_mut() = uri.build().map_err(|_| unfit())?;
            *request.version_mut() = Version::HTTP_2;
            request.headers_mut().remove(HOST);
        } else {
            *request.uri_mut() = Uri::from(path);
            *request.version_mut() = Version::HTTP_11;
            let (mut head, body) = request.into_parts();
            head.headers.insert(HOST, host);
            head.headers.remove(TE);
            state_framing(&mut head.headers, &body);
            request = Request::from_parts(head, body);
        }
        Ok(request)
    }

    async fn one_try(
        &self,
        lease: Lease,
        request: Request<Outgoing>,
        end: Option<Instant>,
    ) -> Result<Response<UpstreamBody>, Failed> {
        let mut request = request;
        loop {
            let (line, pooled) = match self.line(lease.endpoint()).await {
                Ok(line) => line,
                Err(error) => {
                    if !matches!(error, UpstreamError::Full { .. }) {
                        lease.report(Outcome::Failed);
                    }
                    return Err(Failed { error, unsent: Some(request), answer_began: false });
                }
            };
            match self.exchange(line, &lease, request).await {
                Ok((answer, line)) => {
                    lease.report(Outcome::Answered(answer.status().as_u16()));
                    let upgraded = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
                    let hold = Hold { lease, line: line.filter(|_| !upgraded) };
                    return Ok(answer.map(|body| UpstreamBody::new(body, hold, end)));
                }
                // It was closed while it waited: that says nothing of the endpoint. A new one will tell.
                Err(Failed { unsent: Some(unsent), .. }) if pooled => request = unsent,
                Err(failed) => return Err(failed),
            }
        }
    }

    /// A connection to this endpoint; true if it was there before.
    async fn line(&self, endpoint: &Arc<Endpoint>) -> Result<(Line, bool), UpstreamError> {
        if self.dialer.speaks_http2() { self.http2(endpoint).await } else { self.http1(endpoint).await }
    }

    async fn http1(&self, endpoint: &Arc<Endpoint>) -> Result<(Line, bool), UpstreamError> {
        let (pool, idle) = (endpoint.pool(), self.timeouts.idle());
        if let Some(line) = pool.take_http1(idle) {
            return Ok((Line::Http1(line), true));
        }
        let seat = match endpoint.seat() {
            Some(seat) => seat,
            None => {
                let Some(_waiting) = endpoint.queue() else {
                    self.meter.refused("pending_max");
                    return Err(self.full(endpoint, "pending_max", self.breaker().pending_max));
                };
                let waited = tokio::time::timeout(self.timeouts.connect(), self.wait(endpoint)).await;
                match waited.map_err(|_| self.dialer.timed_out(endpoint))? {
                    Ok(line) => return Ok((Line::Http1(line), true)),
                    Err(seat) => seat,
                }
            }
        };
        let dialed = self.dialer.dial(endpoint, Some(seat)).await?;
        self.meter.connected();
        let line =
            Http1::open(dialed, &self.answer_head).await.map_err(|error| self.broken(endpoint, &error))?;
        Ok((Line::Http1(line), false))
    }

    /// Waits for a connection to come back, or for the right to make one.
    async fn wait(&self, endpoint: &Endpoint) -> Result<Http1, super::endpoint::Seat> {
        let pool = endpoint.pool();
        loop {
            let returned = pool.returned.notified();
            if let Some(line) = pool.take_http1_anywhere(self.timeouts.idle()) {
                return Ok(line);
            }
            tokio::select! {
                Some(seat) = endpoint.wait_for_seat() => return Err(seat),
                () = returned => {}
            }
        }
    }

    async fn http2(&self, endpoint: &Arc<Endpoint>) -> Result<(Line, bool), UpstreamError> {
        let pool = endpoint.pool();
        if let Some(line) = pool.http2() {
            return Ok((Line::Http2(line), true));
        }
        let _turn = tokio::time::timeout(self.timeouts.connect(), pool.connecting.lock())
            .await
            .map_err(|_| self.dialer.timed_out(endpoint))?;
        if let Some(line) = pool.http2() {
            return Ok((Line::Http2(line), true));
        }
        let Some(seat) = endpoint.seat() else {
            self.meter.refused("connections_max");
            return Err(self.full(endpoint, "connections_max", self.breaker().connections_max.get()));
        };
        let dialed = self.dialer.dial(endpoint, Some(seat)).await?;
        self.meter.connected();
        let line =
            Http2::open(dialed, &self.answer_head).await.map_err(|error| self.not_http(endpoint, &error))?;
        pool.keep_http2(line.clone());
        Ok((Line::Http2(line), false))
    }

    /// Sends the request and waits for the head of its answer.
    async fn exchange(
        &self,
        line: Line,
        lease: &Lease,
        request: Request<Outgoing>,
    ) -> Result<(Response<Incoming>, Option<Http1>), Failed> {
        let progress = Progress::new();
        let request = request.map(|body| Watched::new(body, &progress));
        let endpoint = lease.endpoint();
        let stalled = progress.stalled(self.timeouts.answer());
        match line {
            Line::Http1(mut line) => {
                let before = line.read.load(Ordering::Relaxed);
                let answer = tokio::select! {
                    answer = line.send.try_send_request(request) => answer,
                    () = stalled => return Err(self.answer_timed_out(lease)),
                };
                let began = || line.read.load(Ordering::Relaxed) != before;
                match answer {
                    Ok(answer) => Ok((answer, Some(line))),
                    Err(error) => Err(self.failed(lease, error, &progress, began())),
                }
            }
            Line::Http2(mut line) => {
                let answer = tokio::select! {
                    answer = line.send.try_send_request(request) => answer,
                    () = stalled => return Err(self.answer_timed_out(lease)),
                };
                let answer = answer.map_err(|error| {
                    endpoint.pool().forget_http2();
                    self.failed(lease, error, &progress, false)
                })?;
                match self.too_many_headers(&answer, lease) {
                    None => Ok((answer, None)),
                    Some(error) => Err(Failed { error, unsent: None, answer_began: true }),
                }
            }
        }
    }

    /// HTTP/2 counts the bytes of a head, and not its lines.
    fn too_many_headers(&self, answer: &Response<Incoming>, lease: &Lease) -> Option<UpstreamError> {
        let (headers, most) = (answer.headers().len(), self.answer_head.headers_max());
        let why = || format!("the head of its answer has {headers} headers, at most {most} are read");
        (headers > most).then(|| self.unreadable(lease, &why()))
    }

    fn failed(
        &self,
        lease: &Lease,
        mut error: TrySendError<Request<Watched>>,
        progress: &Progress,
        answer_began: bool,
    ) -> Failed {
        let unsent = error.take_message().map(|request| request.map(Watched::into_inner));
        let (endpoint, error) = (lease.endpoint(), error.into_error());
        // Neither a connection that closed while it waited nor a client that broke off tells something of the endpoint.
        if unsent.is_none() && !progress.is_broken() {
            lease.report(Outcome::Failed);
        }
        let error =
            if error.is_parse() { self.not_http(endpoint, &error) } else { self.broken(endpoint, &error) };
        Failed { error, unsent, answer_began: answer_began || progress.is_broken() }
    }

    fn answer_timed_out(&self, lease: &Lease) -> Failed {
        lease.report(Outcome::Failed);
        let error = UpstreamError::AnswerTimedOut {
            upstream: self.name.clone(),
            endpoint: lease.endpoint().place().to_string(),
            after_ms: self.timeouts.answer_ms,
        };
        // Whoever is too slow once is not helped by being asked twice.
        Failed { error, unsent: None, answer_began: true }
    }

    fn broken(&self, endpoint: &Endpoint, error: &hyper::Error) -> UpstreamError {
        let endpoint = endpoint.place().to_string();
        UpstreamError::Broken { upstream: self.name.clone(), endpoint, why: chain(error) }
    }

    fn not_http(&self, endpoint: &Endpoint, error: &hyper::Error) -> UpstreamError {
        UpstreamError::NotHttp {
            upstream: self.name.clone(),
            endpoint: endpoint.place().to_string(),
            protocol: self.dialer.protocol(),
            why: chain(error),
        }
    }
}

/// The outer message says "connection error"; what explains it lies beneath.
fn chain(error: &hyper::Error) -> String {
    let mut why = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        why = format!("{why}: {inner}");
        cause = inner.source();
    }
    why
}
