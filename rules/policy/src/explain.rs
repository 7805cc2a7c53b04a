//! Why was this refused? Clause by clause, which Cedar does not tell.
//!
//! Cedar says `Deny` and no reason when no rule permits. So each rule is taken apart: its scope
//! alone, then its scope and first clause, then two, … The first step that fails is the reason.
//! Clauses are added and not isolated, because a later one may rely on an earlier `has`.
//! This costs milliseconds: run it when somebody asks; for records there is [`crate::Explainer`].

use cedar_policy::{Authorizer, Decision, Policy};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    AdminAsk, AdminPolicies, Ask, PolicySet, RefusalKind, decide, decide_admin,
    facts::Facts,
    model::{self, Question},
    parse::PolicyFile,
};

/// Most rules that an explanation shows.
pub const RULES_TRACED_MAX: usize = 32;

/// Why the policy decides as it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Whether it permits.
    pub permitted: bool,
    /// Who asks, as the policy sees it: `Workload::"spiffe://…"`.
    pub principal: String,
    /// What for: `Action::"POST"`.
    pub action: String,
    /// On what: `Route::"ads /ads/{id}/buy"`.
    pub resource: String,
    /// The rules, the nearest to a permit first; at most [`RULES_TRACED_MAX`].
    pub rules: Vec<RuleTrace>,
    /// The name of the rule that decided or came nearest.
    pub nearest: Option<String>,
    /// What to change, in one sentence.
    pub fix: String,
}

/// One rule, step by step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleTrace {
    /// Its name.
    pub id: String,
    /// What it does when it applies.
    pub effect: RuleEffect,
    /// Whether principal, action and resource are the ones that it is about.
    pub scope: [ClauseTrace; 3],
    /// Its conditions in order. A condition joined by `&&` is shown as several.
    pub clauses: Vec<ClauseTrace>,
    /// Whether it applies.
    pub applies: bool,
}

/// What a rule does when it applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleEffect {
    /// Allows, unless another forbids.
    Permit,
    /// Forbids, whatever another allows.
    Forbid,
}

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClauseTrace {
    /// What has to hold, in Cedar's words; the condition of an `unless` is shown negated.
    pub text: String,
    /// How it came out.
    pub result: ClauseResult,
}

/// How a step came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClauseResult {
    /// It holds.
    Pass,
    /// It does not hold.
    Fail,
    /// An earlier step did not hold.
    NotReached,
    /// It could not be evaluated: louder than a failure, for the policy is broken.
    Error(String),
}

/// Explains what [`decide`] says about this.
#[must_use]
pub fn explain(policies: &PolicySet, ask: &Ask<'_>) -> Explanation {
    let verdict = decide(policies, ask).map(drop).map_err(|refusal| refusal.kind());
    let question = policies.model.question(&Facts::of(ask));
    let file = policies.files.get(ask.target);
    let place = format!("{}.cedar", ask.target);
    match question {
        Ok(question) => trace(file, &question, verdict, &place),
        Err(_) => unaskable(ask.method.as_str(), ask.route),
    }
}

/// Explains what [`decide_admin`] says about this.
#[must_use]
pub fn explain_admin(policies: &AdminPolicies, ask: &AdminAsk<'_>) -> Explanation {
    let verdict = decide_admin(policies, ask).map(drop).map_err(|refusal| refusal.kind());
    match policies.model.question(&Facts::of_admin(ask)) {
        Ok(question) => trace(Some(&policies.file), &question, verdict, "admin.cedar"),
        Err(_) => unaskable(ask.action, model::API),
    }
}

fn trace(
    file: Option<&PolicyFile>,
    question: &Question,
    verdict: Result<(), RefusalKind>,
    place: &str,
) -> Explanation {
    let mut rules: Vec<RuleTrace> = file
        .into_iter()
        .flat_map(|file| &file.rules)
        .filter_map(|rule| trace_rule(&rule.policy, question))
        .collect();
    rules.sort_by(|a, b| nearness(b, verdict).cmp(&nearness(a, verdict)).then_with(|| a.id.cmp(&b.id)));
    rules.truncate(RULES_TRACED_MAX);
    let nearest = rules.first().filter(|rule| is_near(rule));
    Explanation {
        permitted: verdict.is_ok(),
        principal: question.principal.to_string(),
        action: question.action.to_string(),
        resource: question.resource.to_string(),
        nearest: nearest.map(|rule| rule.id.clone()),
        fix: fix(verdict, nearest, question, place),
        rules,
    }
}

/// Rules that decided come first, then permits by how many steps they got through.
fn nearness(rule: &RuleTrace, verdict: Result<(), RefusalKind>) -> (bool, bool, bool, usize, usize) {
    let has_error = rule.clauses.iter().any(|clause| matches!(clause.result, ClauseResult::Error(_)));
    let decided = match verdict {
        Ok(()) => rule.applies && rule.effect == RuleEffect::Permit,
        Err(RefusalKind::Forbidden) => rule.applies && rule.effect == RuleEffect::Forbid,
        Err(RefusalKind::RuleFailed) => has_error,
        Err(_) => false,
    };
    let passed = |steps: &[ClauseTrace]| steps.iter().filter(|s| s.result == ClauseResult::Pass).count();
    (decided, rule.effect == RuleEffect::Permit, is_near(rule), passed(&rule.scope), passed(&rule.clauses))
}

/// A rule that is about another action or another route is nobody's near miss.
fn is_near(rule: &RuleTrace) -> bool {
    let [_, action, resource] = &rule.scope;
    action.result == ClauseResult::Pass && resource.result == ClauseResult::Pass
}

fn fix(
    verdict: Result<(), RefusalKind>,
    nearest: Option<&RuleTrace>,
    question: &Question,
    place: &str,
) -> String {
    let Question { principal, action, resource, .. } = question;
    let (rule, first_bad) = match nearest {
        Some(rule) => (rule.id.as_str(), first_bad(rule)),
        None => ("", None),
    };
    match (verdict, first_bad) {
        (Ok(()), _) => "nothing to fix: this is permitted".to_owned(),
        (Err(RefusalKind::Forbidden), _) => {
            format!("rule {rule:?} of {place} forbids this: narrow that rule if it should be allowed")
        }
        (Err(RefusalKind::RuleFailed), Some(bad)) => {
            format!("rule {rule:?} of {place} cannot be evaluated: correct `{}`", bad.text)
        }
        (Err(RefusalKind::NotPermitted), Some(bad)) => {
            format!("rule {rule:?} of {place} would permit this if it held: `{}`", bad.text)
        }
        _ => format!(
            "add to {place}: @id(\"…\") permit \
             (principal == {principal}, action == {action}, resource == {resource});"
        ),
    }
}

fn first_bad(rule: &RuleTrace) -> Option<&ClauseTrace> {
    rule.scope.iter().chain(&rule.clauses).find(|step| step.result != ClauseResult::Pass)
}

fn unaskable(action: &str, resource: &str) -> Explanation {
    Explanation {
        permitted: false,
        principal: String::new(),
        action: action.to_owned(),
        resource: resource.to_owned(),
        rules: Vec::new(),
        nearest: None,
        fix: format!("there is no action {action:?}: no rule can permit it"),
    }
}

fn trace_rule(rule: &Policy, question: &Question) -> Option<RuleTrace> {
    let parts = Parts::of(rule)?;
    let scope = ["principal", "action", "resource"].map(|part| ClauseTrace {
        text: parts.scope_text(part),
        result: parts.only(part).evaluate(question),
    });
    let mut reached = scope.iter().all(|step| step.result == ClauseResult::Pass);
    let mut clauses = Vec::with_capacity(parts.conditions.len());
    for (position, condition) in parts.conditions.iter().enumerate() {
        let result = if reached {
            parts.up_to(position.saturating_add(1)).evaluate(question)
        } else {
            ClauseResult::NotReached
        };
        reached = result == ClauseResult::Pass;
        clauses.push(ClauseTrace { text: condition_text(condition), result });
    }
    let effect = match rule.effect() {
        cedar_policy::Effect::Permit => RuleEffect::Permit,
        cedar_policy::Effect::Forbid => RuleEffect::Forbid,
    };
    Some(RuleTrace { id: rule.id().to_string(), effect, scope, clauses, applies: reached })
}

/// A rule in Cedar's JSON form, to be put together again from some of its parts.
struct Parts {
    scope: [(&'static str, Value); 3],
    conditions: Vec<Value>,
}

impl Parts {
    fn of(rule: &Policy) -> Option<Self> {
        let json = rule.to_json().ok()?;
        let part = |name: &'static str| Some((name, json.get(name)?.clone()));
        let conditions = json.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        Some(Self {
            scope: [part("principal")?, part("action")?, part("resource")?],
            conditions: conditions.iter().flat_map(split).collect(),
        })
    }

    /// Asks about one part of the scope and nothing else.
    fn only(&self, part: &str) -> Probe {
        let scope = self
            .scope
            .iter()
            .map(|(name, value)| (*name, if *name == part { value.clone() } else { json!({ "op": "All" }) }));
        Probe::new(scope, &[])
    }

    /// Asks about the scope and the first `count` conditions.
    fn up_to(&self, count: usize) -> Probe {
        Probe::new(self.scope.iter().cloned(), self.conditions.get(..count).unwrap_or_default())
    }

    fn scope_text(&self, part: &str) -> String {
        let only = self.only(part).0;
        let text = only.and_then(|rule| rule.to_cedar()).unwrap_or_default();
        let scope = text.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'));
        let mut parts = scope.map_or("", |(scope, _)| scope).split(',').map(str::trim);
        parts.find(|text| text.starts_with(part)).unwrap_or(part).to_owned()
    }
}

/// `a && b` in one `when` means the same as two, and `a || b` in one `unless` too.
fn split(condition: &Value) -> Vec<Value> {
    let kind = condition.get("kind").and_then(Value::as_str).unwrap_or("when");
    let joint = if kind == "unless" { "||" } else { "&&" };
    let mut waiting: Vec<&Value> = condition.get("body").into_iter().collect();
    let mut clauses = Vec::new();
    while let Some(body) = waiting.pop() {
        let sides = body.get(joint).and_then(|both| Some((both.get("left")?, both.get("right")?)));
        match sides {
            Some((left, right)) => waiting.extend([right, left]),
            None => clauses.push(json!({ "kind": kind, "body": body })),
        }
    }
    clauses
}

/// What has to hold; Cedar writes the condition of an `unless` as its negation.
fn condition_text(condition: &Value) -> String {
    let everything = ["principal", "action", "resource"].map(|name| (name, json!({ "op": "All" })));
    let alone = Probe::new(everything.into_iter(), std::slice::from_ref(condition)).0;
    let text = alone.and_then(|rule| rule.to_cedar()).unwrap_or_default();
    let body = text.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
    body.map_or("", |(body, _)| body.trim()).to_owned()
}

/// A rule made for one question; nothing when the parts do not fit together.
struct Probe(Option<Policy>);

impl Probe {
    fn new(scope: impl Iterator<Item = (&'static str, Value)>, conditions: &[Value]) -> Self {
        let mut json = json!({ "effect": "permit", "conditions": conditions });
        if let Some(fields) = json.as_object_mut() {
            fields.extend(scope.map(|(name, value)| (name.to_owned(), value)));
        }
        Self(Policy::from_json(None, json).ok())
    }

    fn evaluate(self, question: &Question) -> ClauseResult {
        let mut set = cedar_policy::PolicySet::new();
        let added = self.0.is_some_and(|rule| set.add(rule).is_ok());
        if !added {
            return ClauseResult::Error("the rule cannot be taken apart".to_owned());
        }
        let answer = Authorizer::new().is_authorized(&question.request, &set, &question.entities);
        if let Some(error) = answer.diagnostics().errors().next() {
            return ClauseResult::Error(error.to_string());
        }
        match answer.decision() {
            Decision::Allow => ClauseResult::Pass,
            Decision::Deny => ClauseResult::Fail,
        }
    }
}
