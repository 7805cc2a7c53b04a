//! Probes and metrics, on a loopback address only.
//!
//! `/readyz` says no until the agent has its own certificate, a snapshot and its entries, and when one of them
//! has run out. An authority out of reach does not turn it off: workloads keep what they have, and the answer
//! says for how long.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_identity::UnixTime;
use countersign_sdk::accept::{self, Limits, RequestBody, Transport};
use countersign_sdk::clock;
use countersign_sdk::live::Freshness;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::agent::Core;
use crate::error::AgentError;
use crate::node::Contact;

/// Connections at one time.
const CONNECTIONS_MAX: usize = 32;
const DRAIN: Duration = Duration::from_secs(1);

/// A bound loopback address.
#[derive(Debug)]
pub(crate) struct AdminListener(std::net::TcpListener);

impl AdminListener {
    /// Binds `address`, which must be loopback.
    pub(crate) fn bind(address: SocketAddr) -> Result<Self, AgentError> {
        if !address.ip().is_loopback() {
            return Err(AgentError::AdminNotLoopback(address));
        }
        let bound = std::net::TcpListener::bind(address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(|e| AgentError::AdminListen { address, kind: e.kind() })?;
        Ok(Self(bound))
    }
}

/// Serves until `ending`.
pub(crate) async fn serve(
    listener: AdminListener,
    core: Arc<Core>,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    ending: CancellationToken,
) {
    let listener = match TcpListener::from_std(listener.0) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "probes are not served");
            return;
        }
    };
    let service = tower::service_fn(move |request: Request<RequestBody>| {
        let answer = answer(&request, &core, metrics.as_ref());
        async move { Ok::<_, Infallible>(answer) }
    });
    let limits = Limits { connections_max: CONNECTIONS_MAX, drain: DRAIN, ..Limits::default() };
    accept::serve(listener, Transport::Plain, service, limits, ending).await;
}

fn answer(
    request: &Request<RequestBody>,
    core: &Core,
    metrics: &(dyn Fn() -> String + Send + Sync),
) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" | "/healthz" => {
            let checks = checks(core, clock::now());
            let ready = checks.iter().all(|check| check.state != State::Failed);
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let verbose = request.uri().query().is_some_and(|q| q.split('&').any(|p| p == "verbose"));
            text(status, if verbose || !ready { verbose_text(&checks, ready) } else { "ok\n".to_owned() })
        }
        "/metrics" => {
            gauges(core);
            text(StatusCode::OK, metrics())
        }
        _ => text(StatusCode::NOT_FOUND, "try /livez, /readyz?verbose or /metrics\n".to_owned()),
    }
}

/// One line of `/readyz?verbose`.
#[derive(Debug, PartialEq, Eq)]
struct Check {
    name: &'static str,
    state: State,
    detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    /// To be looked at, while the agent still does its work.
    Warning,
    /// Not ready.
    Failed,
}

fn checks(core: &Core, now: UnixTime) -> [Check; 5] {
    [credential(core, now), snapshot(core, now), entries(core), authority(core, now), ledger(core)]
}

fn credential(core: &Core, now: UnixTime) -> Check {
    let not_after = core.credential.borrow().as_ref().map(|c| c.not_after);
    let (state, detail) = match not_after {
        None => (State::Failed, "not joined yet".to_owned()),
        Some(until) if until <= now => (State::Failed, "the agent's own certificate has expired".to_owned()),
        Some(until) => (State::Ok, format!("expires {}", from_now(until, now))),
    };
    Check { name: "credential", state, detail }
}

fn snapshot(core: &Core, now: UnixTime) -> Check {
    let held = core.snapshots.borrow().clone();
    let (state, detail) = match (core.health().snapshot_not_understood.clone(), held) {
        (Some(why), _) => (State::Failed, why),
        (None, None) => (State::Failed, "none yet".to_owned()),
        (None, Some(held)) => {
            let snapshot = held.live.snapshot();
            let state = match held.live.freshness(now) {
                Freshness::Fresh => State::Ok,
                Freshness::Grace => State::Warning,
                Freshness::Stale => State::Failed,
            };
            (
                state,
                format!("sequence {}, expires {}", snapshot.sequence, from_now(snapshot.valid_until, now)),
            )
        }
    };
    Check { name: "snapshot", state, detail }
}

fn entries(core: &Core) -> Check {
    let registered = core.registry.len();
    let (state, detail) = if core.registry.knows_entries() {
        (State::Ok, format!("{registered} processes registered"))
    } else if matches!(core.node.contact(), Contact::Lost(_)) && core.snapshots.borrow().is_some() {
        (State::Warning, format!("not heard since the start; {registered} processes kept their registration"))
    } else {
        (State::Failed, "not heard yet".to_owned())
    };
    Check { name: "entries", state, detail }
}

fn authority(core: &Core, now: UnixTime) -> Check {
    let (state, detail) = match core.node.contact() {
        Contact::Untried => (State::Warning, "not tried yet".to_owned()),
        Contact::Answers => (State::Ok, "answers".to_owned()),
        Contact::Lost(since) => {
            let mut detail = format!("out of reach since {}", from_now(since, now));
            if let Some((first, last)) = core.keeps_until() {
                let (first, last) = (from_now(first, now), from_now(last, now));
                let _ = write!(
                    detail,
                    "; workloads keep what they have: certificates begin to expire {first}, the last {last}"
                );
            }
            (State::Warning, detail)
        }
    };
    Check { name: "authority", state, detail }
}

fn ledger(core: &Core) -> Check {
    let (state, detail) = match core.health().ledger_alarm.clone() {
        None => (State::Ok, "continues".to_owned()),
        Some(finding) => (State::Warning, format!("ALARM: {finding}")),
    };
    Check { name: "ledger", state, detail }
}

fn verbose_text(checks: &[Check], ready: bool) -> String {
    let mut out = String::new();
    for Check { name, state, detail } in checks {
        let mark = match state {
            State::Ok => '+',
            State::Warning => '!',
            State::Failed => '-',
        };
        let _ = writeln!(out, "[{mark}]{name} {detail}");
    }
    out.push_str(if ready { "readyz check passed\n" } else { "readyz check failed\n" });
    out
}

fn gauges(core: &Core) {
    let registered = u32::try_from(core.registry.len()).unwrap_or(u32::MAX);
    metrics::gauge!("countersign_agent_registered_processes").set(registered);
    let lost = matches!(core.node.contact(), Contact::Lost(_));
    metrics::gauge!("countersign_agent_authority_reachable").set(if lost { 0.0 } else { 1.0 });
    let alarm = core.health().ledger_alarm.is_some();
    metrics::gauge!("countersign_ledger_alarm").set(if alarm { 1.0 } else { 0.0 });
}

/// `in 12m 3s`, or `12m 3s ago`.
fn from_now(then: UnixTime, now: UnixTime) -> String {
    let (span, ahead) = if then >= now { (then.since(now), true) } else { (now.since(then), false) };
    let seconds = span.as_secs();
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let span = match (h, m) {
        (0, 0) => format!("{s}s"),
        (0, _) => format!("{m}m {s}s"),
        _ => format!("{h}h {m}m"),
    };
    if ahead { format!("in {span}") } else { format!("{span} ago") }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn probes_are_refused_a_public_address() {
        let address = "0.0.0.0:0".parse().unwrap();
        assert_eq!(AdminListener::bind(address).unwrap_err(), AgentError::AdminNotLoopback(address));
    }

    #[test]
    fn a_taken_address_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = AdminListener::bind(address).unwrap_err();
        assert_eq!(error, AgentError::AdminListen { address, kind: std::io::ErrorKind::AddrInUse });
    }

    #[test]
    fn spans_are_told_as_people_say_them() {
        let at = UnixTime::from_secs;
        assert_eq!(from_now(at(10), at(0)), "in 10s");
        assert_eq!(from_now(at(0), at(61)), "1m 1s ago");
        assert_eq!(from_now(at(7260), at(0)), "in 2h 1m");
    }
}
