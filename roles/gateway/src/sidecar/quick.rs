//! The quick carrier of a sidecar: callers who prove themselves by their certificate alone, let in by the SDK's own door.

use std::cell::Cell;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_http1::{BodyLength, RequestHead, encode};
use countersign_identity::DecisionId;
use countersign_request::{Field, Head as _};
use countersign_sdk::context::{CONTEXT, ContextKey};
use countersign_sdk::inbound::{Entered, QuickDoor, Recalled};
use countersign_sdk::trace::{Hop, TRACEPARENT, TRACESTATE};
use http::HeaderName;

use super::app::{App, SocketId};
use super::headers::{CALLER, DECISION};
use crate::engine::quick::{
    AnswerLimits, Call, Entropy, Errand, Journal, Made, Permitted, Quick, Said, StandingKey, Unrecorded, Way,
    number_of,
};
use crate::listener::Arrival;

/// The door and what is behind it, on one worker.
pub(super) struct InboundQuick {
    door: QuickDoor,
    app: Arc<App>,
    contexts: ContextKey,
    routes: RandomState,
    limits: AnswerLimits,
    /// Of the whole exchange.
    total: Option<Duration>,
    /// What was found where the service should listen, and when that was.
    looked: Cell<Option<(Instant, Option<SocketId>)>>,
}

impl InboundQuick {
    pub(super) fn new(
        door: QuickDoor,
        app: App,
        contexts: ContextKey,
        (limits, total): (AnswerLimits, Option<Duration>),
    ) -> Self {
        let (app, routes) = (Arc::new(app), RandomState::new());
        Self { door, app, contexts, routes, limits, total, looked: Cell::new(None) }
    }

    /// The service's socket, if it is there and the service's alone: a connection that is kept must not outlive that. `None`
    /// is for the full carrier, which looks every time, and says what is wrong.
    fn socket(&self, now: Instant) -> Option<SocketId> {
        if let Some((at, found)) = self.looked.get()
            && now.saturating_duration_since(at) < LOOKS_EVERY
        {
            return found;
        }
        let found = self.app.check().ok();
        self.looked.set(Some((now, found)));
        found
    }

    /// The head as the service sees it: as the full carrier writes it.
    fn write_head(&self, head: &RequestHead<'_>, entered: &Entered, out: &mut Vec<u8>) -> Option<()> {
        let caller = &entered.caller;
        let hop = caller.trace().hop();
        out.clear();
        let mut writer = encode::request_head(out, &head.canonical).ok()?;
        for field in head.canonical.onward() {
            let is_ours = field.name.eq_ignore_ascii_case(TRACEPARENT.as_str())
                || !hop.keeps_state() && field.name.eq_ignore_ascii_case(TRACESTATE.as_str());
            if !is_ours {
                writer.copied(field);
            }
        }
        writer.copied(&Field { name: DECISION.as_str(), value: &caller.decision().to_text() });
        if let Some(workload) = caller.workload() {
            writer.copied(&Field { name: CALLER.as_str(), value: workload.id.as_str().as_bytes() });
        }
        writer.copied(&Field { name: TRACEPARENT.as_str(), value: &hop.header() });
        let sealed = self.contexts.seal(caller, entered.at).ok()?;
        writer.copied(&Field { name: CONTEXT.as_str(), value: sealed.as_bytes() });
        writer.finish(head.body);
        Some(())
    }
}

impl Quick for InboundQuick {
    fn judge(
        &self,
        head: &RequestHead<'_>,
        arrival: &Arrival,
        recalled: &Recalled,
        entropy: &Entropy,
        journal: &Journal,
        out: &mut Vec<u8>,
    ) -> Option<Errand> {
        let began = Instant::now();
        let bytes = match head.body {
            BodyLength::None => 0,
            BodyLength::Exact(bytes) => bytes,
            BodyLength::Chunked | BodyLength::UntilClose => return None,
        };
        if head.upgrade.is_some() || head.expects_continue || head.canonical.header(&UPGRADE).is_some() {
            return None;
        }
        let socket = self.socket(began)?;
        let connection = arrival.connection.as_ref()?;
        let decision = DecisionId::from_random(entropy.draw()?);
        let hop = Hop::of_head(&head.canonical, &|| entropy.draw())?;
        let entered = self.door.enter(&head.canonical, bytes, connection, recalled, (decision, hop))?;
        let route = entered.caller.route();
        let key = StandingKey {
            route: usize::try_from(self.routes.hash_one(route)).unwrap_or_default(),
            target: 0,
            method: number_of(head.canonical.method()),
            caller: Arc::as_ptr(&entered.standing).addr(),
        };
        let policies = entered.caller.permit().policies();
        let standing = journal.standing(key, route, policies, || {
            let draft = self.door.draft(&head.canonical, connection, recalled, &entered)?;
            Some(Made {
                said: Said::Door(Box::new(draft), self.door.recorder()),
                keeps: Some(Arc::clone(&entered.standing) as Arc<dyn std::any::Any + Send + Sync>),
            })
        })?;
        self.write_head(head, &entered, out)?;
        let (connection, peer) = (connection.id, connection.address());
        let call = Call { decision, hop, user: None, connection, peer, began };
        Some(Errand {
            way: Way::App { app: Arc::clone(&self.app), socket, caller: entered.mark },
            unrecorded: Unrecorded::new(standing, call),
            permit: Permitted::ByDoor(entered.caller),
            // With the caller's certificate its connection ends, and there is nobody else whom it is for.
            limits: self.limits.clone().within(began, self.total),
        })
    }
}

/// As often as the sweep that asks whether peers are still believed.
const LOOKS_EVERY: Duration = Duration::from_millis(250);
static UPGRADE: HeaderName = http::header::UPGRADE;
