//! What a relay does with a request.

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Path, State},
};
use bytes::Bytes;
use countersign_sdk::{
    Caller, ServiceClient, Workload,
    outbound::{CallError, CallLimits, Channel, InternalToken, Target, empty},
    tls::{Connector, Expected},
};
use http::{Request, Response, StatusCode};

use super::Settings;
use crate::experiment::data::Connections;

/// Route of a head: how many edges, how long an answer, over which connections.
pub(super) const CALL: &str = "/call/{edges}/{bytes}/{connections}";
/// Route of every other relay: how many edges are left after this one, and the rest likewise.
pub(super) const HOP: &str = "/hop/{left}/{bytes}/{connections}";

/// Longest answer, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// One relay. Its whole state besides the workload's own.
pub(super) struct Relay {
    workload: Workload,
    next: Option<Next>,
    delay: Duration,
    payload: Bytes,
    user: RwLock<Option<InternalToken>>,
    /// Why the last call failed, for whoever wonders about a trial.
    trouble: Mutex<Option<String>>,
}

/// The way to the next relay.
enum Next {
    /// As every service goes it.
    Service { kept: Box<ServiceClient>, fresh: Box<ServiceClient> },
    /// Over TLS to a callee that is proven, by a caller that is not.
    WithoutProof { name: String, kept: OnceLock<Channel> },
}

/// What of a request the next one is asked for.
type Asked = Path<(u8, usize, Connections)>;

impl Relay {
    pub(super) fn new(settings: &Settings, workload: Workload) -> Arc<Self> {
        let next = settings.next.as_ref().map(|name| {
            if settings.calls_without_proof_over_tls {
                return Next::WithoutProof { name: name.clone(), kept: OnceLock::new() };
            }
            let kept = Box::new(workload.client(name));
            let fresh = Box::new(kept.as_ref().clone().connecting_anew_for_every_request());
            Next::Service { kept, fresh }
        });
        Arc::new(Self {
            workload,
            next,
            delay: settings.delay,
            payload: Bytes::from(vec![b'x'; PAYLOAD_BYTES_MAX]),
            user: RwLock::default(),
            trouble: Mutex::default(),
        })
    }

    /// Asks the next relay; `by` says for whom.
    async fn pass_on(
        &self,
        (left, bytes, connections): (u8, usize, Connections),
        by: impl FnOnce(ServiceClient) -> ServiceClient,
    ) -> Response<Body> {
        let path = format!("/hop/{left}/{bytes}/{}", connections.as_str());
        let answer = match &self.next {
            None => return told(StatusCode::NOT_FOUND, "the chain ends here"),
            Some(Next::Service { kept, fresh }) => {
                let client = if connections == Connections::Kept { kept } else { fresh };
                let answer = by(client.as_ref().clone()).get(&path).send().await;
                answer.map(|answer| answer.map(Body::new))
            }
            Some(Next::WithoutProof { name, kept }) => {
                self.without_proof(name, kept, connections, &path).await
            }
        };
        match answer {
            Ok(answer) if answer.status().is_success() => answer,
            Ok(answer) => self.failed(&format!("{} answered {}", path, answer.status())),
            Err(error) => self.failed(&error),
        }
    }

    async fn without_proof(
        &self,
        name: &str,
        kept: &OnceLock<Channel>,
        connections: Connections,
        path: &str,
    ) -> Result<Response<Body>, CallError> {
        let channel = match (connections, kept.get()) {
            (Connections::Kept, Some(channel)) => channel.clone(),
            (Connections::Kept, None) => {
                let channel = self.open(name)?;
                kept.get_or_init(|| channel).clone()
            }
            (Connections::Fresh, _) => self.open(name)?,
        };
        let request = Request::get(path).body(empty()).map_err(|_| CallError::BadRequest)?;
        channel.send(request).await.map(|answer| answer.map(Body::new))
    }

    fn open(&self, name: &str) -> Result<Channel, CallError> {
        let live = self.workload.live();
        let entry = live.service(name).ok_or_else(|| CallError::UnknownService { name: name.to_owned() })?;
        let expected = Expected::exactly(entry.spiffe_id.clone());
        let connector = Connector::new(Arc::clone(self.workload.trust()), expected).showing_none();
        let (address, authority) = (entry.address.clone(), name.to_owned());
        Ok(Channel::new(Target::Workload { address, authority, connector }, CallLimits::default()))
    }

    fn failed(&self, why: &dyn fmt::Display) -> Response<Body> {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_string());
        told(StatusCode::BAD_GATEWAY, "the next relay did not answer well")
    }
}

/// The head's part: the load generator's request becomes the first authenticated one.
pub(super) async fn call(
    State(relay): State<Arc<Relay>>,
    Path((edges, bytes, connections)): Asked,
) -> Response<Body> {
    let Some(left) = edges.checked_sub(1) else {
        return told(StatusCode::BAD_REQUEST, "a chain has at least one edge");
    };
    let user = relay.user.read().unwrap_or_else(PoisonError::into_inner).clone();
    let by = |client: ServiceClient| match user {
        Some(user) => client.with_token(user),
        None => client,
    };
    relay.pass_on((left, bytes, connections), by).await
}

/// The part of every other relay. Runs only for callers whom the policy permits.
pub(super) async fn hop(
    State(relay): State<Arc<Relay>>,
    caller: Caller,
    Path((left, bytes, connections)): Asked,
) -> Response<Body> {
    metrics::counter!(REQUESTS, "user" => caller.proof().user.as_str()).increment(1);
    if let Some(left) = left.checked_sub(1) {
        return relay.pass_on((left, bytes, connections), |client| client.on_behalf_of(&caller)).await;
    }
    if !relay.delay.is_zero() {
        // The runtime's timers count whole milliseconds, and what is found shall be what was planted.
        let delay = relay.delay;
        let _ = tokio::task::spawn_blocking(move || std::thread::sleep(delay)).await;
    }
    if bytes > PAYLOAD_BYTES_MAX {
        return told(StatusCode::BAD_REQUEST, "no answer is that long");
    }
    Response::new(Body::from(relay.payload.slice(..bytes)))
}

pub(super) async fn ready(State(relay): State<Arc<Relay>>) -> (StatusCode, String) {
    match relay.workload.ready() {
        Ok(()) => (StatusCode::OK, "[+]identity ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("[-]identity {why}\n")),
    }
}

/// Why the last call failed.
pub(super) async fn trouble(State(relay): State<Arc<Relay>>) -> String {
    relay.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
}

/// Takes the internal token with which all further calls are made.
pub(super) async fn take_user(State(relay): State<Arc<Relay>>, token: String) {
    *relay.user.write().unwrap_or_else(PoisonError::into_inner) = Some(InternalToken::minted(token));
}

fn told(status: StatusCode, why: &'static str) -> Response<Body> {
    let mut answer = Response::new(Body::from(why));
    *answer.status_mut() = status;
    answer
}

/// Requests that were let in, by how their user was proven.
pub(crate) const REQUESTS: &str = "countersign_lab_requests_total";
