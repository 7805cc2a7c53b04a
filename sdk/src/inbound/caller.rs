//! What a handler learns about a request that was let in.

use std::{fmt, ops::Deref, sync::Arc};

use countersign_identity::{self as identity, DecisionId};
use countersign_policy::Permit;

use crate::{authenticate::UserTerm, outbound::InternalToken, trace::TraceContext};

/// Who is calling, and why they were let in. Derefs to the caller itself; cheap to clone.
///
/// Pass it to [`crate::outbound::ServiceClient::on_behalf_of`] and the user's context goes along.
#[derive(Clone)]
pub struct Caller(Arc<Context>);

struct Context {
    caller: Arc<identity::Caller>,
    permit: Permit,
    decision: DecisionId,
    route: String,
    token: Option<InternalToken>,
    term: Option<UserTerm>,
    trace: TraceContext,
}

impl Caller {
    pub(crate) fn new(
        caller: impl Into<Arc<identity::Caller>>,
        permit: Permit,
        (decision, route): (DecisionId, String),
        (token, term): (Option<InternalToken>, Option<UserTerm>),
        trace: TraceContext,
    ) -> Self {
        let caller = caller.into();
        Self(Arc::new(Context { caller, permit, decision, route, token, term, trace }))
    }

    /// What was permitted, and by which rules.
    #[must_use]
    pub fn permit(&self) -> &Permit {
        &self.0.permit
    }

    /// Under which id the decision is recorded.
    #[must_use]
    pub fn decision(&self) -> DecisionId {
        self.0.decision
    }

    /// The template of the route that was asked for, as policies and the ledger call it.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.0.route
    }

    /// Joins the hops of one call.
    #[must_use]
    pub fn trace(&self) -> &TraceContext {
        &self.0.trace
    }

    /// For how long a stream in the user's name may go on, if there is a user.
    #[must_use]
    pub fn user_term(&self) -> Option<&UserTerm> {
        self.0.term.as_ref()
    }

    /// The internal token that was verified with this request: what may be passed on.
    pub(crate) fn token(&self) -> Option<&InternalToken> {
        self.0.token.as_ref()
    }
}

impl Deref for Caller {
    type Target = identity::Caller;

    fn deref(&self) -> &identity::Caller {
        &self.0.caller
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workload = self.workload().map(|workload| &workload.id);
        let user = self.user().map(|user| &user.id);
        f.debug_struct("Caller").field("workload", &workload).field("user", &user).finish_non_exhaustive()
    }
}
