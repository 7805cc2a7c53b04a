//! Between a connection and the pipeline: how a request came in, and what becomes of handshakes.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use countersign_http1::RequestHeadError;
use countersign_identity::{Caller, SpiffeId, Verified, Workload};
use countersign_sdk::accept::RequestBody;
use countersign_sdk::accept::{Connection, Limits as AcceptLimits};
use countersign_sdk::authenticate::behind_proxy;
use countersign_sdk::inbound::HandshakeRecorder;
use countersign_sdk::spool::Spool;
use countersign_sdk::tls::{HandshakeObserver, HandshakeOutcome, HandshakeReport};
use http::{Request, Version};

use crate::engine::quick::{EdgeQuick, Quick};
use crate::engine::{Answering, Answers};
use crate::pipeline::GATEWAY;
use crate::refusal::Refusal;
use crate::reload::Current;
use crate::settings::Limits;
use crate::upgrade::{Newest, asks_to_leave};

/// Hands each request of a listener to the pipeline.
#[derive(Clone)]
pub(crate) struct EdgeService {
    current: Arc<Current>,
    scheme: &'static str,
}

impl EdgeService {
    /// `scheme`: what this listener speaks, `http` or `https`.
    pub(crate) fn new(current: Arc<Current>, scheme: &'static str) -> Self {
        EdgeService { current, scheme }
    }
}

impl Answers for EdgeService {
    fn answer(&self, mut request: Request<RequestBody>) -> Answering {
        if asks_to_leave(request.headers()) {
            request.extensions_mut().insert(Newest(Arc::clone(&self.current)));
        }
        let pipeline = self.current.pipeline();
        let arrival = Arrival::of(&request, self.scheme);
        Box::pin(async move { pipeline.handle(request, &arrival).await })
    }

    fn is_balancer(&self, peer: IpAddr) -> bool {
        self.current.peek().guard.is_balancer(peer)
    }

    fn quick(&self) -> Option<Rc<dyn Quick>> {
        Some(Rc::new(EdgeQuick::new(Arc::clone(&self.current), self.scheme)))
    }

    fn refuse(&self, error: &RequestHeadError, connection: &Connection) -> Answering {
        let (pipeline, refusal) = (self.current.pipeline(), Refusal::from(error));
        let connection = Some(connection.clone());
        let arrival =
            Arrival { connection, scheme: self.scheme, client: None, is_http_1: true, through: None };
        Box::pin(async move { pipeline.refuse(&refusal, &arrival).await })
    }
}

/// How a request came in.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    /// Its connection; the accept loop always says which.
    pub(crate) connection: Option<Connection>,
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// Whose request it is by the word of a listed proxy in front of us.
    pub(crate) client: Option<IpAddr>,
    /// HTTP/1 frames requests by what they say of themselves: after one that was not understood the connection ends.
    pub(crate) is_http_1: bool,
    /// The other proxy whose request it was before, if it proved itself.
    pub(crate) through: Option<Through>,
}

/// Another proxy, proven and listed, and whom else it brought along.
#[derive(Debug, Clone)]
pub(crate) struct Through {
    pub(crate) proxy: SpiffeId,
    /// Whose certificate its client showed, which was verified again.
    pub(crate) workload: Option<Verified<Workload>>,
}

impl Arrival {
    /// Over HTTP/1.x.
    pub(crate) fn over(connection: &Connection) -> Self {
        let scheme = if connection.exporter.is_some() { "https" } else { "http" };
        Arrival { connection: Some(connection.clone()), scheme, client: None, is_http_1: true, through: None }
    }

    pub(crate) fn of(request: &Request<RequestBody>, scheme: &'static str) -> Self {
        let connection = request.extensions().get::<Connection>().cloned();
        let is_http_1 = request.version() < Version::HTTP_2;
        Arrival { connection, scheme, client: None, is_http_1, through: None }
    }

    /// Was it brought by somebody who proved itself, or is listed? The word of others on what we keep does not count.
    pub(crate) fn is_known(&self) -> bool {
        let is_proven = self.connection.as_ref().is_some_and(|connection| connection.peer.is_some());
        is_proven || self.client.is_some() || self.through.is_some()
    }

    /// Whose request it is. Should nobody say, all such requests share one quota.
    pub(crate) fn address(&self) -> IpAddr {
        let peer = || self.connection.as_ref().and_then(Connection::address).map(|address| address.ip());
        self.client.or_else(peer).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// The caller, as it comes through the other proxy, if it does.
    pub(crate) fn caller<'a>(&self, caller: Cow<'a, Caller>) -> Cow<'a, Caller> {
        match self.through.as_ref().and_then(|through| Some((through, through.workload.clone()?))) {
            Some((through, workload)) => Cow::Owned(behind_proxy(&caller, workload, through.proxy.clone())),
            None => caller,
        }
    }

    /// What the ledger says of how it came.
    pub(crate) fn note(&self) -> String {
        self.through.as_ref().map(|through| format!("through {}", through.proxy)).unwrap_or_default()
    }

    /// The host that the TLS handshake named, without a trailing dot. Through another proxy it is that one's handshake,
    /// which names nothing that the request must repeat.
    pub(crate) fn server_name(&self) -> Option<&str> {
        if self.through.is_some() {
            return None;
        }
        let name = self.connection.as_ref()?.server_name.as_deref()?;
        Some(name.strip_suffix('.').unwrap_or(name))
    }
}

/// Brings refused handshakes into the ledger, and times all others.
pub(crate) struct HandshakeMeter(HandshakeRecorder);

impl HandshakeMeter {
    pub(crate) fn new(spool: Arc<Spool>) -> Self {
        HandshakeMeter(HandshakeRecorder::new(GATEWAY.to_owned(), spool))
    }
}

impl HandshakeObserver for HandshakeMeter {
    fn handshake(&self, report: &HandshakeReport) {
        self.0.handshake(report);
        match report.outcome {
            HandshakeOutcome::Refused(_) => {
                metrics::counter!("countersign_handshake_failures_total").increment(1);
            }
            HandshakeOutcome::Admitted | HandshakeOutcome::Anonymous => {
                metrics::histogram!("countersign_handshake_duration_seconds", "resumed" => "false")
                    .record(report.took.as_secs_f64());
            }
        }
    }
}

/// The gateway's settings in the accept loop's terms.
pub(crate) fn accept_limits(limits: &Limits) -> AcceptLimits {
    AcceptLimits {
        handshake: limits.handshake_timeout(),
        header_read: limits.head_read_timeout(),
        idle: limits.idle_timeout(),
        connection_age: limits.connection_age_max(),
        drain: limits.drain_timeout(),
        cut: CUT_WITHIN,
        connections_max: limits.connections_max,
        streams_max: limits.streams_max,
        header_bytes_max: u32::try_from(limits.head_bytes_max).unwrap_or(u32::MAX),
        headers_max: limits.headers_max,
    }
}

/// End users have no workload certificate that could be revoked: nothing is ever cut at the edge.
const CUT_WITHIN: Duration = Duration::from_millis(500);
