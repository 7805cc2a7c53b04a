//! Why was this refused?
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{administrator, caller, stranger, user, workload};
use countersign_identity::UnixTime;
use countersign_policy::{
    AdminAsk, AdminPolicies, Ask, ClauseResult, Explainer, Explanation, PolicySet, RULES_TRACED_MAX,
    RuleEffect, explain, explain_admin,
};
use http::Method;

const USERS: &str = r#"
@id("users-preview")
permit (
    principal == Workload::"spiffe://fleamarket.test/svc/ads",
    action == Action::"GET",
    resource == Route::"users /users/{id}/preview"
)
when { context.proof.workload == "certificate" }
when { context has user && context.user.roles.contains("buyer") }
unless { context.user.name == "Nobody" };

@id("users-list")
permit (principal is User, action == Action::"GET", resource == Route::"users /users");

@id("no-deletes")
forbid (principal, action == Action::"DELETE", resource);

@id("anybody-may-delete")
permit (principal, action == Action::"DELETE", resource);
"#;

fn explanation(text: &str, who: &countersign_identity::Caller, method: &Method, route: &str) -> Explanation {
    let policies = PolicySet::load([("users", text)]).unwrap();
    explain(&policies, &Ask { caller: who, target: "users", method, route, path: route })
}

fn results(explanation: &Explanation, rule: &str) -> Vec<(String, ClauseResult)> {
    let rule = explanation.rules.iter().find(|trace| trace.id == rule).unwrap();
    rule.clauses.iter().map(|clause| (clause.text.clone(), clause.result.clone())).collect()
}

#[test]
fn the_near_miss_names_the_one_clause_that_does_not_hold() {
    let seller = caller(Some(workload("ads")), Some(user("u_bob", &["seller"])));
    let explained = explanation(USERS, &seller, &Method::GET, "/users/{id}/preview");
    assert!(!explained.permitted);
    assert_eq!(explained.nearest.as_deref(), Some("users-preview"));
    assert_eq!(
        results(&explained, "users-preview"),
        [
            (r#"context.proof.workload == "certificate""#.to_owned(), ClauseResult::Pass),
            ("context has user".to_owned(), ClauseResult::Pass),
            (r#"context.user.roles.contains("buyer")"#.to_owned(), ClauseResult::Fail),
            (r#"!(context.user.name == "Nobody")"#.to_owned(), ClauseResult::NotReached),
        ]
    );
    assert_eq!(
        explained.fix,
        r#"rule "users-preview" of users.cedar would permit this if it held: `context.user.roles.contains("buyer")`"#
    );
}

#[test]
fn a_clause_behind_a_missing_user_is_not_reached_instead_of_an_error() {
    let cron_job = caller(Some(workload("ads")), None);
    let explained = explanation(USERS, &cron_job, &Method::GET, "/users/{id}/preview");
    let results: Vec<_> = results(&explained, "users-preview").into_iter().map(|(_, r)| r).collect();
    use ClauseResult::{Fail, NotReached, Pass};
    assert_eq!(results, [Pass, Fail, NotReached, NotReached]);
}

#[test]
fn the_wrong_caller_is_shown_in_the_scope() {
    let chat = caller(Some(workload("chat")), Some(user("u_alice", &["buyer"])));
    let explained = explanation(USERS, &chat, &Method::GET, "/users/{id}/preview");
    let nearest = explained.rules.first().unwrap();
    let [principal, action, resource] = &nearest.scope;
    assert_eq!(nearest.id, "users-preview");
    assert_eq!(principal.result, ClauseResult::Fail);
    assert_eq!(principal.text, r#"principal == Workload::"spiffe://fleamarket.test/svc/ads""#);
    assert_eq!((&action.result, &resource.result), (&ClauseResult::Pass, &ClauseResult::Pass));
    assert_eq!(explained.principal, r#"Workload::"spiffe://fleamarket.test/svc/chat""#);
    assert!(explained.fix.contains("would permit this if it held: `principal =="), "{}", explained.fix);
}

#[test]
fn where_no_rule_is_near_the_fix_is_a_rule_that_loads_and_permits() {
    let chat = caller(Some(workload("chat")), None);
    let explained = explanation(USERS, &chat, &Method::POST, "/users/{id}/block");
    assert_eq!(explained.nearest, None);
    let (_, rule) = explained.fix.split_once("add to users.cedar: ").unwrap();
    let rule = rule.replace('…', "new-rule");
    assert!(explanation(&(USERS.to_owned() + &rule), &chat, &Method::POST, "/users/{id}/block").permitted);
}

#[test]
fn a_forbid_that_decided_comes_first() {
    let explained = explanation(USERS, &stranger(), &Method::DELETE, "/users/{id}");
    let first = explained.rules.first().unwrap();
    assert_eq!((first.id.as_str(), first.effect, first.applies), ("no-deletes", RuleEffect::Forbid, true));
    assert!(explained.fix.starts_with(r#"rule "no-deletes" of users.cedar forbids this"#));
}

#[test]
fn a_rule_that_cannot_be_evaluated_is_shown_as_an_error_and_comes_first() {
    let text = USERS.to_owned()
        + r#"@id("broken") permit (principal, action, resource) when { 9223372036854775807 + 1 > 0 };"#;
    let explained = explanation(&text, &stranger(), &Method::GET, "/users");
    let first = explained.rules.first().unwrap();
    assert_eq!(first.id, "broken");
    assert!(matches!(first.clauses.first().unwrap().result, ClauseResult::Error(_)));
    assert!(
        explained.fix.contains(r#"rule "broken" of users.cedar cannot be evaluated"#),
        "{}",
        explained.fix
    );
}

#[test]
fn a_permitted_request_has_nothing_to_fix() {
    let alice = caller(None, Some(user("u_alice", &[])));
    let explained = explanation(USERS, &alice, &Method::GET, "/users");
    assert!(explained.permitted);
    assert_eq!(explained.nearest.as_deref(), Some("users-list"));
    assert_eq!(explained.fix, "nothing to fix: this is permitted");
}

#[test]
fn a_service_without_rules_and_an_unknown_action_are_explained_too() {
    let policies = PolicySet::load([]).unwrap();
    let who = stranger();
    let ask = Ask { caller: &who, target: "users", method: &Method::GET, route: "/x", path: "/x" };
    assert!(explain(&policies, &ask).fix.starts_with("add to users.cedar: @id"));
    let ask = Ask { method: &Method::TRACE, ..ask };
    assert_eq!(explain(&policies, &ask).fix, "there is no action \"TRACE\": no rule can permit it");
}

#[test]
fn an_explanation_is_bounded() {
    let many: String =
        (0..200).map(|i| format!("@id(\"r{i}\") permit (principal is User, action, resource);\n")).collect();
    let explained = explanation(&many, &stranger(), &Method::GET, "/users");
    assert_eq!(explained.rules.len(), RULES_TRACED_MAX);
}

#[test]
fn administration_is_explained_like_everything_else() {
    let text = r#"@id("admins") permit (principal is Admin, action, resource);"#;
    let policies = AdminPolicies::load(text, &["GET /api/v1/users"]).unwrap();
    let (root, nobody) = (administrator(0), stranger());
    let ask = |caller| AdminAsk { caller, action: "GET /api/v1/users", path: "/api/v1/users" };
    assert!(explain_admin(&policies, &ask(&root)).permitted);
    let refused = explain_admin(&policies, &ask(&nobody));
    assert_eq!(refused.nearest.as_deref(), Some("admins"));
    assert!(refused.fix.contains("admin.cedar would permit this if it held: `principal is Admin`"));
}

#[test]
fn a_flood_of_refusals_buys_no_flood_of_explanations() {
    let policies = PolicySet::load([("users", USERS)]).unwrap();
    let who = caller(Some(workload("chat")), Some(user("u_1", &["buyer"])));
    let (method, route) = (&Method::GET, "/users/{id}/preview");
    let ask = Ask { caller: &who, target: "users", method, route, path: "/users/7/preview" };
    let explainer = Explainer::default();
    let now = UnixTime::from_secs(1_800_000_000);
    let mut explained = 0;
    for _ in 0..100 {
        let reason = explainer.reason(&policies, &ask, now);
        assert!(!reason.fix.is_empty());
        explained += usize::from(reason.nearest.is_some());
    }
    assert_eq!(explained, 20);
    let later = now.saturating_add(std::time::Duration::from_secs(1));
    let reason = explainer.reason(&policies, &ask, later);
    assert_eq!(reason.nearest.as_deref(), Some("users-preview"));
}
