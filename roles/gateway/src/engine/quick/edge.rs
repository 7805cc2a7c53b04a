//! The edge's own pipeline, asked about borrowed heads.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use countersign_http1::{BodyLength, RequestHead, encode};
use countersign_identity::{Caller, DecisionId, Possession, UserProof};
use countersign_policy::DecisionCache;
use countersign_request::{DPOP, Field, Head as _};
use countersign_sdk::clock;
use countersign_sdk::inbound::{DecisionDraft, Recalled};
use countersign_sdk::trace::{Hop, TRACEPARENT, TRACESTATE};
use http::{HeaderName, Method, header};

use super::journal::{Call, Journal, Made, Said, StandingKey, Unrecorded, number_of};
use super::throttle::Taken;
use super::{AnswerLimits, Entropy, Errand, Permitted, Quick, Way};
use crate::headers::forwarded_headers;
use crate::listener::Arrival;
use crate::pipeline::{GATEWAY, Pipeline};
use crate::record::{Check, Trace, Unheard};
use crate::reload::Current;
use crate::route::{Route, Target};
use crate::settings::UserNeed;
use crate::upstream::Cluster;

/// The pipeline of one port, on one worker.
pub(crate) struct EdgeQuick {
    current: Arc<Current>,
    /// Number of the pipeline that was asked last: what is remembered under its addresses is forgotten when another
    /// takes its place.
    asked: Cell<u64>,
    scheme: &'static str,
    decisions: RefCell<DecisionCache>,
    taken: Taken,
    /// What was said last of where requests come from: nearly always the same is said next.
    forwarded: RefCell<Forwarded>,
}

#[derive(Default)]
struct Forwarded {
    of: Option<(IpAddr, String)>,
    lines: encode::FieldLines,
}

impl EdgeQuick {
    pub(crate) fn new(current: Arc<Current>, scheme: &'static str) -> Self {
        Self {
            current,
            asked: Cell::new(0),
            scheme,
            decisions: RefCell::new(DecisionCache::new(DECISIONS_MAX)),
            taken: Taken::default(),
            forwarded: RefCell::default(),
        }
    }

    /// Could the full carrier do anything that this one does not?
    fn knows(pipeline: &Pipeline, head: &RequestHead<'_>, arrival: &Arrival) -> bool {
        let is_preflight =
            *head.canonical.method() == Method::OPTIONS && head.canonical.header(&PREFLIGHT).is_some();
        let plain = head.upgrade.is_none()
            // It is answered by the rule of the route that it asks about, not of the one that it would take.
            && !is_preflight
            && !head.expects_continue
            && !matches!(head.body, BodyLength::Chunked | BodyLength::UntilClose)
            && head.canonical.header(&PROOF).is_none()
            && head.canonical.header(&UPGRADE).is_none();
        let length = match head.body {
            BodyLength::Exact(bytes) => bytes,
            _ => 0,
        };
        plain
            && pipeline.guard.is_idle()
            && length <= pipeline.limits.body_bytes_max
            && !pipeline.is_login(&head.canonical)
            && arrival.server_name().is_none_or(|name| name == head.canonical.authority().host())
    }

    /// The one upstream of a route, if the way there is one that this carrier knows.
    fn way<'p>(pipeline: &Pipeline, route: &'p Route) -> Option<&'p Arc<Cluster>> {
        let Some(Target::Upstream(cluster)) = route.lead.only() else { return None };
        let has_rules = [&pipeline.rules, &route.headers].iter().any(|rules| !rules.is_empty());
        let filters = route.filters.as_ref().map_or(!pipeline.filters.is_empty(), |names| !names.is_empty());
        let plain = route.rewrite.is_none()
            && !filters
            && route.guard.is_idle()
            && !has_rules
            && !cluster.dialer().speaks_http2()
            && cluster.host().is_none()
            && cluster.timeouts().whole().is_none()
            && !(cluster.takes_user_token() && route.user != UserNeed::None);
        plain.then_some(cluster)
    }

    fn write_head(
        &self,
        head: &RequestHead<'_>,
        arrival: &Arrival,
        hop: &Hop,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        out.clear();
        let mut writer = encode::request_head(out, &head.canonical).ok()?;
        for field in head.canonical.onward() {
            // The credential was for us, and the trace goes on as we say.
            let is_ours = match field.name.len() {
                10 if !hop.keeps_state() => field.name.eq_ignore_ascii_case(TRACESTATE.as_str()),
                11 => field.name.eq_ignore_ascii_case(TRACEPARENT.as_str()),
                13 => field.name.eq_ignore_ascii_case(header::AUTHORIZATION.as_str()),
                _ => false,
            };
            if !is_ours {
                writer.copied(field);
            }
        }
        let (address, authority) = (arrival.address(), head.canonical.authority());
        let mut forwarded = self.forwarded.borrow_mut();
        let said = forwarded.of.as_ref().is_some_and(|(of, host)| {
            *of == address && authority.port().is_none() && host == authority.host()
        });
        if !said {
            let lines = forwarded_headers(address, self.scheme, &authority.to_string());
            forwarded.lines = encode::FieldLines::new(&lines);
            forwarded.of = Some((address, authority.to_string()));
        }
        writer.prepared(&forwarded.lines);
        writer.copied(&Field { name: TRACEPARENT.as_str(), value: &hop.header() });
        writer.finish(head.body);
        Some(())
    }
}

impl Quick for EdgeQuick {
    fn judge(
        &self,
        head: &RequestHead<'_>,
        arrival: &Arrival,
        _recalled: &Recalled,
        entropy: &Entropy,
        journal: &Journal,
        out: &mut Vec<u8>,
    ) -> Option<Errand> {
        let began = Instant::now();
        let pipeline = self.current.peek();
        if self.asked.replace(pipeline.number) != pipeline.number {
            journal.forget();
        }
        if !Self::knows(&pipeline, head, arrival) {
            return None;
        }
        let cluster = Self::way(&pipeline, pipeline.routes.find(&head.canonical).ok()?)?;
        // Before anything that costs: whoever is over the quota has no signature looked at. What is refused after this is
        // counted once more, by the full carrier that says so.
        if !self.taken.one(&pipeline.throttle, arrival.address(), clock::now()) {
            return None;
        }
        let mut decisions = self.decisions.borrow_mut();
        let judged = pipeline
            .judge(&head.canonical, arrival, &mut Unheard, |rules, ask| decisions.decide(rules, ask))
            .ok()?;
        let decision = DecisionId::from_random(entropy.draw()?);
        let mut hop = Hop::of_head(&head.canonical, &|| entropy.draw())?;
        if !arrival.is_known() {
            hop = hop.decided_here(&|| entropy.draw());
        }
        let user = judged.session.as_deref().and_then(|session| pipeline.pseudonym_of(session));
        let key = StandingKey {
            route: std::ptr::from_ref(judged.route).addr(),
            target: std::ptr::from_ref(judged.target).addr(),
            method: number_of(head.canonical.method()),
            caller: judged.session.as_deref().map_or(0, |session| kind_of(&session.caller)),
        };
        let standing =
            journal.standing(key, judged.route.template.as_str(), judged.permit.policies(), || {
                // Said once more, this time to somebody who listens.
                let mut said = Trace::new(DecisionDraft::begin(GATEWAY, hop), arrival.address());
                said.pass(Check::Request, "");
                said.pass(Check::Quota, "");
                pipeline
                    .judge(&head.canonical, arrival, &mut said, |rules, ask| decisions.decide(rules, ask))
                    .ok()?;
                said.without(Check::Filter);
                Some(Made { said: Said::Edge(Box::new(said), Arc::clone(&pipeline)), keeps: None })
            })?;
        self.write_head(head, arrival, &hop, out)?;
        let lease = cluster.pick().ok()?;
        let connection = arrival.connection.as_ref()?;
        let (connection, peer) = (connection.id, connection.address());
        let call = Call { decision, hop, user, connection, peer, began };
        let limits = AnswerLimits {
            head_within: cluster.timeouts().answer().min(pipeline.limits.request_timeout()),
            http1: cluster.answer_head().http1(),
            bytes_max: pipeline.limits.response_bytes_max,
            pause_max: cluster.timeouts().body_idle(),
            ends: None,
            user: judged.session.as_deref().map(|session| pipeline.user_term(session)),
        };
        let limits = limits.within(began, pipeline.limits.total_timeout());
        let way = Way::Upstream { cluster: Arc::clone(cluster), lease };
        let unrecorded = Unrecorded::new(standing, call);
        Some(Errand { permit: Permitted::ByEdge(judged.permit), way, unrecorded, limits })
    }
}

/// What of a user's proof the records tell.
fn kind_of(caller: &Caller) -> usize {
    let bound = usize::from(caller.proof().user_possession == Possession::Key);
    let proof = match caller.proof().user {
        UserProof::None => 1,
        UserProof::InternalToken => 2,
        UserProof::AccessToken => 3,
        UserProof::HopToken => 4,
        UserProof::ForeignToken => 5,
        UserProof::LocalUid => 6,
    };
    (proof << 1) | bound
}

static PROOF: HeaderName = DPOP;
static PREFLIGHT: HeaderName = header::ACCESS_CONTROL_REQUEST_METHOD;
static UPGRADE: HeaderName = header::UPGRADE;
const DECISIONS_MAX: NonZeroUsize = match NonZeroUsize::new(16_384) {
    Some(most) => most,
    None => NonZeroUsize::MIN,
};
