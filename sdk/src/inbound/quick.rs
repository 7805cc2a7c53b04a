//! The door for a carrier that borrows heads: asked about requests whose only evidence is the certificate of their
//! connection.
//!
//! It has no rule of its own. Who the certificate proves is judged by the same door as always, and repeated on the same
//! connection under the same snapshot, as long as the peer passes every check; the decision is that of the same rules. What
//! it is not sure of, refusals among it, it leaves to the layer.

use std::{cell::RefCell, fmt, num::NonZeroUsize, sync::Arc};

use countersign_identity::{self as identity, DecisionId, Mode, UnixTime};
use countersign_keys::sha256;
use countersign_ledger::{CheckRecord, CheckResult};
use countersign_policy::{Ask, DecisionCache};
use countersign_request::{
    CanonicalRequest, DPOP, Head, SIGNING_CHAIN, TXN_TOKEN, USER_TOKEN, WORKLOAD_IDENTITY_TOKEN,
    WORKLOAD_PROOF_TOKEN,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version,
    header::{AUTHORIZATION, HOST},
};

use super::{
    Caller, DecisionDraft, Denial, Door, Guarded, UNMATCHED,
    layer::{measure, measure_many},
};
use crate::{
    accept::Connection,
    authenticate::Rules,
    clock,
    live::{Freshness, Live},
    trace::Hop,
};

/// The door of a service, for one thread.
pub struct QuickDoor {
    door: Arc<Door>,
    decisions: RefCell<DecisionCache>,
}

/// Who the certificate of a connection proved when it was judged last: one for each connection.
#[derive(Default)]
pub struct Recalled(RefCell<Option<Proven>>);

struct Proven {
    /// Under this snapshot and no other.
    live: Arc<Live>,
    caller: Arc<identity::Caller>,
    mark: CallerMark,
    checks: Vec<CheckRecord>,
    mode: Mode,
}

/// Stands for a workload by its name: the first half of its SHA-256.
pub type CallerMark = [u8; 16];

/// A request that was let in.
pub struct Entered {
    /// Who is calling, with the permit.
    pub caller: Caller,
    /// The same for all requests of this connection until it is judged again.
    pub standing: Arc<identity::Caller>,
    /// Of the workload.
    pub mark: CallerMark,
    /// When it was judged.
    pub at: UnixTime,
}

/// What to record of requests that were let in, without the door.
#[derive(Clone)]
pub struct DoorRecorder(Arc<Door>);

impl<S> Guarded<S> {
    /// The same door, for a carrier that borrows heads.
    #[must_use]
    pub fn quick(&self) -> QuickDoor {
        QuickDoor {
            door: Arc::clone(self.door()),
            decisions: RefCell::new(DecisionCache::new(DECISIONS_MAX)),
        }
    }
}

impl QuickDoor {
    /// Who is calling, if it is permitted and proven by the certificate alone. `None`: ask the layer.
    pub fn enter(
        &self,
        head: &impl Head,
        body_bytes: u64,
        connection: &Connection,
        recalled: &Recalled,
        call: (DecisionId, Hop),
    ) -> Option<Entered> {
        let door = &*self.door;
        let is_plain = door.skipped.is_empty()
            && door.demands.is_empty()
            && body_bytes <= door.limits.body_bytes_max
            && EVIDENCE.iter().all(|name| head.header(name).is_none());
        if !is_plain {
            return None;
        }
        let (live, now) = (door.live.peek(), clock::now());
        if live.freshness(now) == Freshness::Stale {
            return None;
        }
        let (standing, mark) = self.proven(&live, connection, recalled, now)?;
        let route = route(door, &live, head);
        let ask = Ask {
            caller: &standing,
            target: &door.target,
            method: head.method(),
            route: &route,
            path: head.path(),
        };
        let permit = self.decisions.borrow_mut().decide(live.policy().ok()?, &ask).ok()?;
        let caller = Caller::new(Arc::clone(&standing), permit, (call.0, route), (None, None), call.1.into());
        Some(Entered { caller, standing, mark, at: now })
    }

    /// What the record says of such a request, but for what it was given at the last moment.
    pub fn draft(
        &self,
        head: &impl Head,
        connection: &Connection,
        recalled: &Recalled,
        entered: &Entered,
    ) -> Option<DecisionDraft> {
        let recalled = recalled.0.borrow();
        let proven = recalled.as_ref()?;
        let mut draft = DecisionDraft::begin(&self.door.target, entered.caller.trace().hop());
        draft.came_over(connection);
        draft.asks_for(head.method(), entered.caller.route());
        draft.checked(proven.checks.clone());
        draft.proven(proven.caller.workload().map(|workload| &workload.id), proven.mode);
        draft.comes_from(&proven.caller, proven.live.pseudonyms());
        let (name, detail) = ("policy".to_owned(), entered.caller.permit().policies().join(", "));
        draft.check(CheckRecord { name, result: CheckResult::Pass, detail });
        draft.permitted(entered.caller.permit());
        Some(draft)
    }

    /// Where to record.
    #[must_use]
    pub fn recorder(&self) -> DoorRecorder {
        DoorRecorder(Arc::clone(&self.door))
    }

    /// As the last time on this connection, if nothing moved; else judged anew.
    fn proven(
        &self,
        live: &Arc<Live>,
        connection: &Connection,
        recalled: &Recalled,
        now: UnixTime,
    ) -> Option<(Arc<identity::Caller>, CallerMark)> {
        let peer = connection.peer.as_ref()?;
        if let Some(proven) = &*recalled.0.borrow()
            && Arc::ptr_eq(&proven.live, live)
            && peer.is_believed(now)
        {
            return Some((Arc::clone(&proven.caller), proven.mark));
        }
        let rules =
            Rules { keys: live.tokens(), accepts: live.accepts(&self.door.target), required: &[], now };
        let judged = self.door.authenticator.judge(&bare_request()?, Some(connection), &rules);
        let claimed = judged.claimed.ok().filter(|claimed| !claimed.is_bound_to_the_body())?;
        let caller = Arc::new(claimed.confirm(&[]).ok()?);
        let mark = *sha256(caller.workload()?.id.as_str().as_bytes()).first_chunk()?;
        let proven = Proven {
            live: Arc::clone(live),
            caller: Arc::clone(&caller),
            mark,
            checks: judged.checks,
            mode: judged.mode,
        };
        recalled.0.replace(Some(proven));
        Some((caller, mark))
    }
}

impl DoorRecorder {
    /// Metrics of many calls that were let in, each with its seconds and how many took so long.
    pub fn measure(&self, draft: &DecisionDraft, status: u16, samples: impl Iterator<Item = (f64, usize)>) {
        measure_many(draft, status, samples);
    }

    /// Records a call that was let in and went no further, as the layer does: on disk before the caller hears of it.
    /// `bytes`: of the answer.
    pub async fn refused(
        &self,
        draft: DecisionDraft,
        denial: &Denial,
        status: StatusCode,
        bytes: Option<u64>,
    ) {
        self.0.record_refusal(draft, denial, status, bytes).await;
    }

    /// Records a call that was let in, with the next batch.
    pub fn record(&self, draft: DecisionDraft) {
        measure(&draft);
        draft.record_allowed(&self.0.spool);
    }
}

/// The template of the route.
fn route(door: &Door, live: &Live, head: &impl Head) -> String {
    let declared = door.routes.as_ref().and_then(|routes| routes.find(head));
    let named = || if door.routes_of_policies { live.routes().find(head) } else { None };
    let found = declared.or_else(named);
    found.map_or_else(|| UNMATCHED.to_owned(), |(template, ())| template.as_str().to_owned())
}

/// A request that brings nothing along: what is judged of it is the connection.
fn bare_request() -> Option<CanonicalRequest> {
    let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("connection.invalid"))]);
    CanonicalRequest::parse(&http::Method::GET, &Uri::from_static("/"), &headers, Version::HTTP_11).ok()
}

impl fmt::Debug for QuickDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QuickDoor({})", self.door.target)
    }
}

/// Headers that a door reads as evidence, or that change how it answers.
static EVIDENCE: [HeaderName; 9] = [
    AUTHORIZATION,
    DPOP,
    SIGNING_CHAIN,
    TXN_TOKEN,
    USER_TOKEN,
    WORKLOAD_IDENTITY_TOKEN,
    WORKLOAD_PROOF_TOKEN,
    HeaderName::from_static("signature"),
    HeaderName::from_static("signature-input"),
];
const DECISIONS_MAX: NonZeroUsize = match NonZeroUsize::new(16_384) {
    Some(most) => most,
    None => NonZeroUsize::MIN,
};
