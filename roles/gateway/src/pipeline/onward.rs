//! The stage that forwards: what is permitted goes on, and what comes back is made fit for the client.

use bytes::Bytes;
use countersign_policy::Permit;
use countersign_request::CanonicalRequest;
use countersign_sdk::accept::RequestBody;
use countersign_sdk::inbound::is_grpc;
use countersign_sdk::outbound::InternalToken;
use countersign_sdk::trace::TraceContext;
use http::{Response, StatusCode};
use http_body::Body;

use super::Pipeline;
use crate::body::{BodyFault, BodyLimits, Pace};
use crate::filter::Changes;
use crate::forward::{self, EdgeBody};
use crate::listener::Arrival;
use crate::record::{Check, Trace};
use crate::refusal::Refusal;
use crate::route::{Route, Target};
use crate::settings::UserNeed;

impl Pipeline {
    /// Takes the permit: nothing is forwarded without one.
    pub(super) async fn forward(
        &self,
        permit: Permit,
        route: &Route,
        outgoing: Outgoing<'_>,
        arrival: &Arrival,
        trace: &mut Trace,
    ) -> Result<Response<EdgeBody>, Refusal> {
        let Outgoing { request, target, body, changes, token, context, pace } = outgoing;
        let with_user = token.is_some();
        let rules = [&self.rules, &route.headers];
        let (fault, limits) =
            (BodyFault::default(), self.request_body_limits(streams(request, arrival, target)));
        let body = forward::inbound_body(request.headers(), body, limits, &fault)?.paced(pace.clone());
        let path = match &route.rewrite {
            Some(rewrite) => rewrite.apply(request)?,
            None => request.path_and_query(),
        };
        let outbound = forward::outbound_request(request, &path, &changes, rules, body)?;
        let forwarded = forward::forwarded(request, arrival);
        let blame = |refusal| fault.seen().map_or(refusal, Refusal::Body);
        let from = Answerer { target, route, with_user, pace };
        match target {
            Target::Service(service) => {
                let mut client =
                    self.workload.client(service.as_str()).in_trace(context).with_forwarded(forwarded);
                if let Some(token) = token {
                    client = client.with_token(token);
                }
                let answer = client.send(outbound).await.map_err(|error| blame(Refusal::Upstream(error)))?;
                drop(permit);
                self.answer(answer, &from, self.response_body_limits(), trace)
            }
            Target::Upstream(cluster) => {
                let added = forward::Added { token, trace: context, forwarded };
                let outbound = forward::for_upstream(outbound, request, cluster, added)?;
                let answer = cluster.send(permit, outbound).await;
                let answer = answer.map_err(|error| blame(Refusal::Cluster(error)))?;
                let idle_timeout = cluster.timeouts().body_idle();
                let limits = BodyLimits { idle_timeout, ..self.response_body_limits() };
                self.answer(answer, &from, limits, trace)
            }
        }
    }

    /// What came back, as the client may see it.
    pub(super) fn answer<B>(
        &self,
        answer: Response<B>,
        from: &Answerer<'_>,
        limits: BodyLimits,
        trace: &mut Trace,
    ) -> Result<Response<EdgeBody>, Refusal>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let Answerer { target, route, with_user, pace } = *from;
        if forward::is_internal_challenge(&answer) {
            // It may have seen first that what both of us look at is over.
            if let Some(error) = pace.over() {
                return Err(Refusal::Body(error));
            }
            // The service wants a user and none came: the client can help that. Anything else it cannot.
            let could_help = !with_user && route.user != UserNeed::None;
            let target = target.to_string();
            return Err(if could_help { Refusal::NoToken } else { Refusal::UpstreamChallenge { target } });
        }
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Refusal::UnaskedUpgrade { target: target.to_string() });
        }
        let status = answer.status().as_u16();
        let told =
            if route.lead.only().is_some() { status.to_string() } else { format!("{status} of {target}") };
        trace.pass(Check::Upstream, told);
        let rules = [&self.rules, &route.headers];
        Ok(forward::outbound_answer(answer, rules, target.as_str(), (limits, pace)))
    }

    /// `streams`: it is a stream of gRPC, which may have little to say.
    pub(super) fn request_body_limits(&self, streams: bool) -> BodyLimits {
        BodyLimits {
            bytes_max: self.limits.body_bytes_max,
            idle_timeout: self.limits.body_idle_timeout(),
            slowest: (!streams).then(|| self.limits.slowest_body()),
        }
    }

    pub(super) fn response_body_limits(&self) -> BodyLimits {
        BodyLimits {
            bytes_max: self.limits.response_bytes_max,
            idle_timeout: self.limits.body_idle_timeout(),
            slowest: None,
        }
    }
}

/// Is it gRPC from end to end? Over HTTP/1.1 anybody can call a body so, and nobody streams it.
pub(super) fn streams(request: &CanonicalRequest, arrival: &Arrival, target: &Target) -> bool {
    is_grpc(request.headers()) && !arrival.is_http_1 && target.takes_streams()
}

/// What goes upstream, before it is put together.
pub(super) struct Outgoing<'a> {
    pub(super) request: &'a CanonicalRequest,
    pub(super) target: &'a Target,
    pub(super) body: RequestBody,
    pub(super) changes: Changes,
    pub(super) token: Option<InternalToken>,
    pub(super) context: TraceContext,
    pub(super) pace: &'a Pace,
}

/// Whose answer it is.
pub(super) struct Answerer<'a> {
    pub(super) target: &'a Target,
    pub(super) route: &'a Route,
    pub(super) with_user: bool,
    pub(super) pace: &'a Pace,
}
