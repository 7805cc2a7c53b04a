//! The decision.

use std::{collections::HashSet, sync::Arc};

use cedar_policy::{AuthorizationError, Authorizer, Effect, PolicyId};
use thiserror::Error;

use crate::{
    AdminAsk, AdminPolicies, Ask, Generation, PolicySet,
    facts::Facts,
    model::{Model, Unaskable},
    parse::{PolicyFile, Rule},
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
    /// The path is all that a rule can read of one request alone, and none can read a clock: how long it holds is
    /// how long the caller's evidence does.
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
    if !model.has_action(facts.action) {
        return Err(Refusal::new(RefusalKind::UnknownAction, Vec::new(), None));
    }
    if file.rules.is_empty() {
        return Err(Refusal::new(RefusalKind::NoPolicies, Vec::new(), None));
    }
    let (mut applying, mut open) = (Vec::new(), Vec::new());
    for rule in file.candidates(facts) {
        match rule.condition.as_ref().and_then(|condition| condition.holds(facts)) {
            Some(true) => applying.push(rule),
            Some(false) => {}
            None => open.push(rule),
        }
    }
    if !open.is_empty() {
        applying.extend(ask_cedar(model, facts, open)?);
    }
    let names = |effect| {
        let of_effect = applying.iter().filter(|rule| rule.policy.effect() == effect);
        let mut names: Vec<String> = of_effect.map(|rule| rule.id().to_owned()).collect();
        names.sort();
        names
    };
    let forbidding = names(Effect::Forbid);
    if !forbidding.is_empty() {
        return Err(Refusal::new(RefusalKind::Forbidden, forbidding, None));
    }
    let policies = names(Effect::Permit);
    if policies.is_empty() {
        return Err(Refusal::new(RefusalKind::NotPermitted, policies, None));
    }
    Ok(Permit(Arc::new(Granted {
        who: facts.principal.id.to_owned(),
        action: facts.action.to_owned(),
        resource: facts.resource.id(),
        policies,
        holds_for_route: !facts.path_was_read(),
        generation: model.generation,
    })))
}

/// Which of these rules apply. Where one forbids, Cedar does not name those that permit; nobody would ask.
fn ask_cedar<'a>(model: &Model, facts: &Facts<'_>, rules: Vec<&'a Rule>) -> Result<Vec<&'a Rule>, Refusal> {
    let question = model.question(facts).map_err(unknown)?;
    let set = cedar_policy::PolicySet::from_policies(rules.iter().map(|rule| rule.policy.clone()))
        .map_err(|error| failed(&[], error.to_string()))?;
    let answer = Authorizer::new().is_authorized(&question.request, &set, &question.entities);
    let mut failures: Vec<(String, String)> = answer.diagnostics().errors().map(failure).collect();
    failures.sort();
    if let Some((_, detail)) = failures.first() {
        return Err(failed(&failures, detail.clone()));
    }
    let reasons: HashSet<&PolicyId> = answer.diagnostics().reason().collect();
    Ok(rules.into_iter().filter(|rule| reasons.contains(rule.policy.id())).collect())
}

fn failed(failures: &[(String, String)], detail: String) -> Refusal {
    let rules = failures.iter().map(|(rule, _)| rule.clone()).collect();
    Refusal::new(RefusalKind::RuleFailed, rules, Some(detail))
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

#[cfg(test)]
mod tests;
