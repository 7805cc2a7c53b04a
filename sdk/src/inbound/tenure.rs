//! Whether what was let in once would be let in still: for calls that leave HTTP and last.

use std::{fmt, sync::Arc, time::Duration};

use countersign_identity::{Caller, Mode, UnixTime};
use countersign_ledger::{CheckRecord, CheckResult};
use countersign_policy::{Ask, decide};
use countersign_request::CanonicalRequest;
use countersign_wire::codes::Code;
use http::StatusCode;

use super::{DecisionDraft, Denial, Door};
use crate::{
    accept::Connection,
    authenticate::Rules,
    live::{Freshness, Live},
};

/// A call that was let in, to be asked for as long as it lasts: the same evidence is judged by the same door under the
/// newest snapshot. In the extensions of requests that ask to leave HTTP.
#[derive(Clone)]
pub struct Tenure(Arc<Held>);

struct Held {
    door: Arc<Door>,
    request: CanonicalRequest,
    route: String,
    connection: Option<Connection>,
    mode: Mode,
    user_until: Option<UnixTime>,
    draft: DecisionDraft,
}

impl Tenure {
    pub(super) fn new(
        door: &Arc<Door>,
        (request, route): (CanonicalRequest, String),
        connection: Option<Connection>,
        caller: &Caller,
        draft: DecisionDraft,
    ) -> Self {
        let door = Arc::clone(door);
        let user_until = caller.user().map(|user| user.not_after);
        Self(Arc::new(Held { door, request, route, connection, mode: caller.mode(), user_until, draft }))
    }

    /// Can the evidence be asked for again? A proof of single use cannot: it counted, and counts no more.
    ///
    /// # Errors
    /// It cannot.
    pub fn is_lasting(&self) -> Result<(), Denial> {
        match self.0.mode {
            Mode::None | Mode::Bearer | Mode::Macaroon | Mode::Mtls => Ok(()),
            mode @ (Mode::Jwt | Mode::Wimse | Mode::MtlsJwt) => {
                let why =
                    format!("a call in mode {mode} proves itself once, and nothing could be asked later");
                Err(Denial::new(Code::UpgradeRefused, why))
            }
        }
    }

    /// The snapshot that counts now: as long as it is the same, only time can end what it permits.
    #[must_use]
    pub fn live(&self) -> Arc<Live> {
        self.0.door.live.load()
    }

    /// Tells of each new snapshot.
    #[must_use]
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.door.live.subscribe()
    }

    /// When the user's evidence expires.
    #[must_use]
    pub fn user_until(&self) -> Option<UnixTime> {
        self.0.user_until
    }

    /// Would the call be let in at `now`?
    ///
    /// # Errors
    /// It would not.
    pub fn judge(&self, now: UnixTime) -> Result<(), Denial> {
        let Held { door, request, route, connection, .. } = &*self.0;
        let live = door.live.load();
        if live.freshness(now) == Freshness::Stale {
            return Err(Denial::new(Code::SnapshotStale, "the snapshot is past its grace period"));
        }
        // What a route demands of a caller's own token is demanded in modes that do not last.
        let rules = Rules { keys: live.tokens(), accepts: live.accepts(&door.target), required: &[], now };
        let judged = door.authenticator.judge(request, connection.as_ref(), &rules);
        let caller = judged.claimed.and_then(|claimed| claimed.confirm(&[]))?;
        let policies = live.policy().map_err(|error| Denial::new(Code::PolicyError, error.to_string()))?;
        let (method, path) = (request.method(), request.path());
        let ask = Ask { caller: &caller, target: &door.target, method, route, path };
        decide(policies, &ask).map(drop).map_err(|refusal| {
            let fix = door.explainer.reason(policies, &ask, now).fix;
            Denial::of_policy(&refusal, fix, caller.workload().is_none(), false)
        })
    }

    /// Records that the call ended, after so long; with `denial`, because it would be let in no longer.
    pub async fn ended(self, how: &str, lasted: Duration, denial: Option<&Denial>) {
        let spool = &self.0.door.spool;
        let draft = self.0.draft.ended(how, lasted, denial);
        match denial {
            None => spool.record(draft.into_event()),
            Some(_) => {
                if let Err(error) = spool.record_durably(draft.into_event()).await {
                    tracing::error!(%error, "the end of a call could not be recorded");
                }
            }
        }
    }
}

impl DecisionDraft {
    /// The record of the end of a call that left HTTP: a decision of its own, whose check `upgrade` names the one that
    /// let it in.
    #[must_use]
    pub fn ended(&self, how: &str, lasted: Duration, denial: Option<&Denial>) -> Self {
        let mut draft = self.anew();
        let result = if denial.is_some() { CheckResult::Fail } else { CheckResult::Pass };
        let detail = format!("of decision {}: {how}", self.id());
        if let Some(denial) = denial {
            draft.denied(denial);
        }
        draft.check(CheckRecord { name: "upgrade".to_owned(), result, detail });
        draft.answered_after(denial.map_or(StatusCode::SWITCHING_PROTOCOLS, Denial::status), lasted);
        draft
    }
}

impl fmt::Debug for Tenure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tenure({})", self.0.draft.id())
    }
}
