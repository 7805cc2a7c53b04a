//! The decision.

use cedar_policy::{AuthorizationError, Authorizer, Decision};
use thiserror::Error;

use crate::{
    AdminAsk, AdminPolicies, Ask, PolicySet,
    model::{self, Question, Unaskable},
    parse::PolicyFile,
};

/// Proof that the policy allowed exactly this. Made by [`decide`] and [`decide_admin`] alone, and
/// neither copied nor stored: whoever acts takes it by value.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    who: String,
    action: String,
    resource: String,
    policies: Vec<String>,
}

impl Permit {
    /// Who was permitted: a SPIFFE ID, an opaque user id, `uid:N`, or `stranger`.
    #[must_use]
    pub fn who(&self) -> &str {
        &self.who
    }

    /// The method, or the method and route of our own API.
    #[must_use]
    pub fn action(&self) -> &str {
        &self.action
    }

    /// The service and its route, such as `ads /ads/{id}/buy`.
    #[must_use]
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// The names of the rules that permitted, in order; at least one.
    #[must_use]
    pub fn policies(&self) -> &[String] {
        &self.policies
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
    let question = model::application_question(&policies.types, &policies.schema, ask).map_err(unknown)?;
    judge(file, &question)
}

/// Decides whether a caller may use a route of our own API.
///
/// # Errors
/// Everything that is not clearly permitted; see [`RefusalKind`].
pub fn decide_admin(policies: &AdminPolicies, ask: &AdminAsk<'_>) -> Result<Permit, Refusal> {
    let question = model::admin_question(&policies.types, &policies.schema, ask).map_err(unknown)?;
    judge(&policies.file, &question)
}

fn judge(file: &PolicyFile, question: &Question) -> Result<Permit, Refusal> {
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
        Decision::Allow => Ok(Permit {
            who: question.principal.id().unescaped().to_owned(),
            action: question.action.id().unescaped().to_owned(),
            resource: question.resource.id().unescaped().to_owned(),
            policies,
        }),
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
