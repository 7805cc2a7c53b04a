//! The decision.

use std::sync::Arc;

use cedar_policy::{AuthorizationError, Authorizer, Decision, Policy};
use thiserror::Error;

use crate::{
    AdminAsk, AdminPolicies, Ask, Generation, PolicySet,
    facts::Facts,
    model::{Model, Unaskable},
    parse::PolicyFile,
};

/// Proof that the policy allowed exactly this. Made by [`decide`], [`decide_admin`] and
/// [`crate::DecisionCache::decide`] alone, and neither copied nor stored: whoever acts takes it by value.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit(Arc<Granted>);

/// What a permit says. Apart from it, because a cache may remember what was granted, and nothing else may.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    who: String,
    action: String,
    resource: String,
    policies: Vec<String>,
    holds_for_route: bool,
    generation: Generation,
}

impl Permit {
    /// Who was permitted: a SPIFFE ID, an opaque user id, `uid:N`, or `stranger`.
    #[must_use]
    pub fn who(&self) -> &str {
        &self.0.who
    }

    /// The method, or the method and route of our own API.
    #[must_use]
    pub fn action(&self) -> &str {
        &self.0.action
    }

    /// The service and its route, such as `ads /ads/{id}/buy`.
    #[must_use]
    pub fn resource(&self) -> &str {
        &self.0.resource
    }

    /// The names of the rules that permitted, in order; at least one.
    #[must_use]
    pub fn policies(&self) -> &[String] {
        &self.0.policies
    }

    /// Does the same caller, with the same evidence on the same axes, get the same answer for every path of this
    /// route, as long as the rules are those of [`Permit::generation`]?
    ///
    /// No rule that could apply reads anything else that changes from request to request, and none can read a
    /// clock: how long it holds is how long the caller's evidence does.
    #[must_use]
    pub fn holds_for_route(&self) -> bool {
        self.0.holds_for_route
    }

    /// The rules that permitted it.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.0.generation
    }

    pub(crate) const fn of(granted: Arc<Granted>) -> Self {
        Self(granted)
    }

    pub(crate) const fn granted(&self) -> &Arc<Granted> {
        &self.0
    }
}

/// The policy does not allow this. For the log, the ledger and `explain`; the caller is told only
/// that it was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{kind}")]
pub struct Refusal {
    kind: RefusalKind,
    policies: Vec<String>,
    detail: Option<String>,
}

/// Why the policy does not allow something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum RefusalKind {
    /// No rule permits it.
    #[error("no rule permits this")]
    NotPermitted,
    /// A rule forbids it.
    #[error("a rule forbids this")]
    Forbidden,
    /// A rule failed while it was evaluated. Louder than a denial: the policy is broken.
    #[error("a rule failed while it was evaluated: correct the policy")]
    RuleFailed,
    /// There are no rules about this service.
    #[error("there are no rules about this service: it accepts nobody")]
    NoPolicies,
    /// The schema has no such action.
    #[error("there is no such action")]
    UnknownAction,
}

impl Refusal {
    pub(crate) const fn new(kind: RefusalKind, policies: Vec<String>, detail: Option<String>) -> Self {
        Self { kind, policies, detail }
    }

    /// Why.
    #[must_use]
    pub const fn kind(&self) -> RefusalKind {
        self.kind
    }

    /// The names of the rules that forbade or failed, in order.
    #[must_use]
    pub fn policies(&self) -> &[String] {
        &self.policies
    }

    /// What went wrong with a rule that failed.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }
}

/// Decides whether a caller may use a route of a service.
///
/// # Errors
/// Everything that is not clearly permitted; see [`RefusalKind`].
pub fn decide(policies: &PolicySet, ask: &Ask<'_>) -> Result<Permit, Refusal> {
    let Some(file) = policies.files.get(ask.target) else {
        return Err(Refusal::new(RefusalKind::NoPolicies, Vec::new(), None));
    };
    judge(&policies.model, file, &Facts::of(ask))
}

/// Decides whether a caller may use a route of our own API.
///
/// # Errors
/// Everything that is not clearly permitted; see [`RefusalKind`].
pub fn decide_admin(policies: &AdminPolicies, ask: &AdminAsk<'_>) -> Result<Permit, Refusal> {
    judge(&policies.model, &policies.file, &Facts::of_admin(ask))
}

fn judge(model: &Model, file: &PolicyFile, facts: &Facts<'_>) -> Result<Permit, Refusal> {
    let question = model.question(facts).map_err(unknown)?;
    if file.rules.is_empty() {
        return Err(Refusal::new(RefusalKind::NoPolicies, Vec::new(), None));
    }
    let answer = Authorizer::new().is_authorized(&question.request, &file.rules, &question.entities);
    let mut failed: Vec<(String, String)> = answer.diagnostics().errors().map(failure).collect();
    failed.sort();
    if let Some((_, detail)) = failed.first() {
        let detail = Some(detail.clone());
        let rules = failed.iter().map(|(id, _)| id.clone()).collect();
        return Err(Refusal::new(RefusalKind::RuleFailed, rules, detail));
    }
    let mut policies: Vec<String> = answer.diagnostics().reason().map(ToString::to_string).collect();
    policies.sort();
    match answer.decision() {
        Decision::Allow => Ok(Permit(Arc::new(Granted {
            who: facts.principal.id.to_owned(),
            action: facts.action.to_owned(),
            resource: facts.resource.id(),
            policies,
            holds_for_route: !file.rules.policies().any(Policy::has_non_scope_constraint),
            generation: model.generation,
        }))),
        Decision::Deny if policies.is_empty() => Err(Refusal::new(RefusalKind::NotPermitted, policies, None)),
        Decision::Deny => Err(Refusal::new(RefusalKind::Forbidden, policies, None)),
    }
}

fn failure(error: &AuthorizationError) -> (String, String) {
    match error {
        AuthorizationError::PolicyEvaluationError(error) => {
            (error.policy_id().to_string(), error.inner().to_string())
        }
    }
}

fn unknown(unaskable: Unaskable) -> Refusal {
    Refusal::new(RefusalKind::UnknownAction, Vec::new(), Some(unaskable.detail))
}
