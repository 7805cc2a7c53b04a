//! The last stage of a request that leaves HTTP, and the stages that are asked again as long as it lasts.

use std::sync::Arc;

use bytes::Bytes;
use countersign_identity::UnixTime;
use countersign_keys::SystemRandom;
use countersign_policy::{Permit, decide};
use countersign_request::CanonicalRequest;
use countersign_sdk::accept::RequestBody;
use countersign_sdk::authenticate::{AccessCredential, access_credential};
use countersign_sdk::clock;
use countersign_sdk::live::Live;
use countersign_sdk::outbound::{InternalToken, Switched};
use countersign_sdk::trace::TraceContext;
use countersign_token::DpopProof;
use http::Response;
use http_body_util::Empty;

use super::onward::Answerer;
use super::{Asked, Judged, Pipeline};
use crate::body::{BodyFault, BoundedBody, Pace};
use crate::filter::Changes;
use crate::forward::{self, EdgeBody};
use crate::listener::Arrival;
use crate::record::{Check, Trace, Unheard};
use crate::refusal::Refusal;
use crate::route::{Route, Target};
use crate::settings::UserNeed;
use crate::token::Session;
use crate::upgrade::{EdgeTenure, Leaving, Newest, Tenure, Tunnel, WEBSOCKET, Way, accepts, dress_request};
use crate::upstream::ClusterSwitched;

/// A handshake that was permitted.
struct Asking<'a> {
    request: &'a CanonicalRequest,
    arrival: &'a Arrival,
    context: TraceContext,
    from: Answerer<'a>,
    token: Option<InternalToken>,
    changes: Changes,
}

/// What the target said.
enum Said {
    Yes(Response<()>, Way),
    No(Response<EdgeBody>),
}

impl Pipeline {
    /// Takes the permit: nothing leaves HTTP without one.
    pub(super) async fn leave(
        &self,
        judged: Judged<'_>,
        (request, newest): (&CanonicalRequest, Newest),
        (arrival, context, pace): (&Arrival, TraceContext, &Pace),
        trace: &mut Trace,
    ) -> Result<Response<EdgeBody>, Refusal> {
        let Judged { permit, route, target, session, changes } = judged;
        let session = session.as_deref();
        let tenure = EdgeTenure {
            newest,
            request: request.clone(),
            arrival: arrival.clone(),
            target: target.as_str().to_owned(),
            proof: self.proof_of(route, request, arrival)?,
            user_until: session.map(Session::user_until),
            filters: self.filters.panel(route.filters.as_deref()),
            trace: trace.clone(),
        };
        let token = session.map(|session| self.countersign_for_long(&permit, session)).transpose()?;
        let from = Answerer { target, route, with_user: token.is_some(), pace };
        let asking = Asking { request, arrival, context, from, token, changes };
        let (answer, way) = match self.ask_to_leave(permit, asking, trace).await? {
            Said::No(answer) => return Ok(answer),
            Said::Yes(answer, _) if !accepts(answer.headers()) => {
                return Err(Refusal::UnaskedUpgrade { target: target.to_string() });
            }
            Said::Yes(answer, way) => (answer, way),
        };
        trace.pass(Check::Upstream, answer.status().as_u16().to_string());
        let (rules, limits) = ([&self.rules, &route.headers], self.response_body_limits());
        let answer = answer.map(|()| Empty::<Bytes>::new());
        let mut answer = forward::outbound_answer(answer, rules, target.as_str(), (limits, pace));
        let (tenure, idle) = (Tenure::Edge(Box::new(tenure)), self.limits.upgrade_idle_timeout());
        answer.extensions_mut().insert(Leaving::by(Tunnel { way, tenure, idle }));
        Ok(answer)
    }

    async fn ask_to_leave(
        &self,
        permit: Permit,
        asking: Asking<'_>,
        trace: &mut Trace,
    ) -> Result<Said, Refusal> {
        let Asking { request, arrival, context, from, token, changes } = asking;
        let path = match &from.route.rewrite {
            Some(rewrite) => rewrite.apply(request)?,
            None => request.path_and_query(),
        };
        let limits = self.request_body_limits(false);
        let nothing = BoundedBody::new(RequestBody::from(Bytes::new()), limits, BodyFault::default());
        let rules = [&self.rules, &from.route.headers];
        let outbound = forward::outbound_request(request, &path, &changes, rules, nothing)?;
        let forwarded = forward::forwarded(request, arrival);
        let limits = self.response_body_limits();
        match from.target {
            Target::Service(service) => {
                let client = self.workload.client(service.as_str());
                let mut client = client.in_trace(context).with_forwarded(forwarded);
                if let Some(token) = token {
                    client = client.with_token(token);
                }
                let answer = client.switch(WEBSOCKET, outbound.map(drop)).await?;
                drop(permit);
                match answer {
                    Switched::Yes(answer, stream) => {
                        let (io, held, lost) = stream.into_parts();
                        Ok(Said::Yes(answer, Way::new(io, held, lost)))
                    }
                    Switched::No(answer) => self.answer(answer, &from, limits, trace).map(Said::No),
                }
            }
            Target::Upstream(cluster) => {
                let added = forward::Added { token, trace: context, forwarded };
                let mut outbound = forward::for_upstream(outbound, request, cluster, added)?;
                dress_request(outbound.headers_mut());
                match cluster.switch(permit, outbound).await? {
                    ClusterSwitched::Yes(answer, way) => Ok(Said::Yes(answer, way)),
                    ClusterSwitched::No(answer) => self.answer(answer, &from, limits, trace).map(Said::No),
                }
            }
        }
    }

    /// The stages that decide, asked again about what was permitted: by the newest rules, with the evidence that came.
    pub(crate) fn still_permits(&self, held: &EdgeTenure, now: UnixTime) -> Result<(), Refusal> {
        let EdgeTenure { request, arrival, .. } = held;
        let route = self.routes.find(request)?;
        if !route.upgrades || !route.lead.targets().any(|target| target.as_str() == held.target) {
            return Err(Refusal::Upgrade);
        }
        self.guard.admit(arrival.address())?;
        self.guard.admit_to(&route.guard, arrival.address())?;
        held.filters.is_still(&self.filters.panel(route.filters.as_deref()))?;
        let live = self.live()?;
        let session = match &held.proof {
            None => self.authenticate(route, request, arrival, &live, &mut Unheard)?,
            Some(proof) => self.authenticate_held(request, proof, &live, now)?,
        };
        let asked = Asked {
            route: route.template.as_str(),
            session: session.as_deref(),
            arrival,
            token_counts: route.user != UserNeed::None,
        };
        self.decide(request, asked, &live, &mut Unheard, decide).map(drop)
    }

    /// As at the handshake, where the proof counted; the token has to count still.
    fn authenticate_held(
        &self,
        request: &CanonicalRequest,
        proof: &DpopProof,
        live: &Live,
        now: UnixTime,
    ) -> Result<Option<Arc<Session>>, Refusal> {
        let Some(AccessCredential::Dpop { token, .. }) = access_credential(request)? else {
            return Err(Refusal::NoToken);
        };
        let session = self.tokens.verify(token, Some(proof), &self.access_rules(live), now);
        session.map(Some).map_err(Refusal::HeldEvidence)
    }

    /// The proof that was judged with the handshake, if the token is bound to a key.
    fn proof_of(
        &self,
        route: &Route,
        request: &CanonicalRequest,
        arrival: &Arrival,
    ) -> Result<Option<DpopProof>, Refusal> {
        if route.user == UserNeed::None {
            return Ok(None);
        }
        let Some(AccessCredential::Dpop { token, proof }) = access_credential(request)? else {
            return Ok(None);
        };
        let judged = self.proofs.judge(proof, arrival.scheme, request, Some(token), clock::now())?;
        Ok(Some(judged.proof))
    }

    /// A token of its own: the one that the session's requests share may be nearly over.
    fn countersign_for_long(&self, _permit: &Permit, session: &Session) -> Result<InternalToken, Refusal> {
        let now = clock::now();
        // It may have ended since it was looked at, while filters were asked or limits counted.
        session.still_lives(now).map_err(|ended| Refusal::Evidence(ended.into()))?;
        let token = self.tokens.internal_for_long(session, &SystemRandom::new(), now)?;
        self.recorder.event(self.minted(&token, session)?);
        Ok(InternalToken::minted(token.token.expose().clone()))
    }
}
