//! May X do Y to Z.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{administrator, caller, stranger, user, workload};
use countersign_identity::Caller;
use countersign_policy::{
    AdminAsk, AdminPolicies, Ask, Permit, PolicySet, Refusal, RefusalKind, decide, decide_admin,
};
use http::Method;

const ADS: &str = r#"
@id("browse")
permit (
    principal == Workload::"spiffe://fleamarket.test/svc/gateway",
    action == Action::"GET",
    resource == Route::"ads /ads"
);

@id("buy")
permit (
    principal == Workload::"spiffe://fleamarket.test/svc/gateway",
    action == Action::"POST",
    resource == Route::"ads /ads/{id}/buy"
)
when { context.proof.workload == "certificate" }
when { context has user && context.user.roles.contains("buyer") };

@id("no-banned-users")
forbid (principal, action, resource)
when { context has user && context.user.roles.contains("banned") };
"#;

fn ask(caller: &Caller, method: &Method, route: &str) -> Result<Permit, Refusal> {
    let policies = PolicySet::load([("ads", ADS)]).unwrap();
    decide(&policies, &Ask { caller, target: "ads", method, route, path: route })
}

fn kind(answer: Result<Permit, Refusal>) -> RefusalKind {
    answer.unwrap_err().kind()
}

#[test]
fn a_permit_says_who_may_do_what_and_by_which_rule() {
    let buyer = caller(Some(workload("gateway")), Some(user("u_alice", &["buyer"])));
    let permit = ask(&buyer, &Method::POST, "/ads/{id}/buy").unwrap();
    assert_eq!(permit.who(), "spiffe://fleamarket.test/svc/gateway");
    assert_eq!(permit.action(), "POST");
    assert_eq!(permit.resource(), "ads /ads/{id}/buy");
    assert_eq!(permit.policies(), ["buy"]);
}

#[test]
fn what_no_rule_permits_is_refused() {
    let guest = caller(Some(workload("gateway")), Some(user("u_eve", &["guest"])));
    assert_eq!(kind(ask(&guest, &Method::POST, "/ads/{id}/buy")), RefusalKind::NotPermitted);
    assert_eq!(kind(ask(&guest, &Method::DELETE, "/ads/{id}")), RefusalKind::NotPermitted);
    assert_eq!(kind(ask(&guest, &Method::GET, "/ads/")), RefusalKind::NotPermitted);
}

#[test]
fn a_missing_attribute_denies() {
    let cron_job = caller(Some(workload("gateway")), None);
    assert_eq!(kind(ask(&cron_job, &Method::POST, "/ads/{id}/buy")), RefusalKind::NotPermitted);
}

#[test]
fn policy_never_takes_an_unproven_workload_for_a_proven_one() {
    // The caller's proof claims a certificate; there is no verified workload behind the claim.
    let pretender = caller(None, Some(user("spiffe://fleamarket.test/svc/gateway", &["buyer"])));
    assert_eq!(kind(ask(&pretender, &Method::POST, "/ads/{id}/buy")), RefusalKind::NotPermitted);
    assert_eq!(kind(ask(&stranger(), &Method::GET, "/ads")), RefusalKind::NotPermitted);
}

#[test]
fn another_service_with_a_valid_certificate_is_refused() {
    let chat = caller(Some(workload("chat")), Some(user("u_alice", &["buyer"])));
    assert_eq!(kind(ask(&chat, &Method::GET, "/ads")), RefusalKind::NotPermitted);
}

#[test]
fn a_forbid_wins_over_every_permit_and_is_named() {
    let banned = caller(Some(workload("gateway")), Some(user("u_x", &["buyer", "banned"])));
    let refusal = ask(&banned, &Method::POST, "/ads/{id}/buy").unwrap_err();
    assert_eq!(refusal.kind(), RefusalKind::Forbidden);
    assert_eq!(refusal.policies(), ["no-banned-users"]);
}

#[test]
fn a_rule_that_fails_denies_loudly_even_if_another_permits() {
    let broken = r#"
        @id("anybody") permit (principal, action, resource);
        @id("broken") forbid (principal, action, resource) when { 9223372036854775807 + 1 > 0 };
    "#;
    let policies = PolicySet::load([("ads", broken)]).unwrap();
    let ask = Ask { caller: &stranger(), target: "ads", method: &Method::GET, route: "/ads", path: "/ads" };
    let refusal = decide(&policies, &ask).unwrap_err();
    assert_eq!(refusal.kind(), RefusalKind::RuleFailed);
    assert_eq!(refusal.policies(), ["broken"]);
    assert!(refusal.detail().unwrap().contains("overflow"), "{refusal:?}");
}

#[test]
fn a_service_without_rules_accepts_nobody() {
    let gateway = caller(Some(workload("gateway")), None);
    for files in [vec![], vec![("ads", "")], vec![("ads", "// nothing yet\n")]] {
        let policies = PolicySet::load(files).unwrap();
        let ask = Ask { caller: &gateway, target: "ads", method: &Method::GET, route: "/ads", path: "/ads" };
        assert_eq!(kind(decide(&policies, &ask)), RefusalKind::NoPolicies);
    }
}

#[test]
fn a_rule_of_one_service_says_nothing_about_another() {
    let everything = r#"@id("all") permit (principal, action, resource);"#;
    let nothing = r#"@id("none") forbid (principal, action, resource);"#;
    let policies = PolicySet::load([("ads", everything), ("users", nothing)]).unwrap();
    let gateway = caller(Some(workload("gateway")), None);
    let ads = Ask { caller: &gateway, target: "ads", method: &Method::GET, route: "/x", path: "/x" };
    assert!(decide(&policies, &ads).is_ok());
    assert_eq!(kind(decide(&policies, &Ask { target: "users", ..ads })), RefusalKind::Forbidden);
}

#[test]
fn an_action_that_the_schema_does_not_know_is_refused_even_by_a_rule_for_everything() {
    let everything = r#"@id("all") permit (principal, action, resource);"#;
    let policies = PolicySet::load([("ads", everything)]).unwrap();
    for method in [Method::TRACE, Method::CONNECT, Method::from_bytes(b"BREW").unwrap()] {
        let ask = Ask { caller: &stranger(), target: "ads", method: &method, route: "/x", path: "/x" };
        assert_eq!(kind(decide(&policies, &ask)), RefusalKind::UnknownAction);
    }
}

#[test]
fn a_rule_for_every_action_permits_every_method_that_a_request_can_have() {
    let everything = r#"@id("all") permit (principal, action, resource);"#;
    let policies = PolicySet::load([("ads", everything)]).unwrap();
    let methods = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    for method in methods {
        let ask = Ask { caller: &stranger(), target: "ads", method: &method, route: "/x", path: "/x" };
        assert!(decide(&policies, &ask).is_ok(), "{method}");
    }
    let named = r#"@id("ask") permit (principal, action == Action::"OPTIONS", resource);"#;
    let policies = PolicySet::load([("ads", named)]).unwrap();
    let ask = Ask { caller: &stranger(), target: "ads", method: &Method::GET, route: "/x", path: "/x" };
    assert!(decide(&policies, &Ask { method: &Method::OPTIONS, ..ask }).is_ok());
    assert_eq!(kind(decide(&policies, &ask)), RefusalKind::NotPermitted);
}

#[test]
fn text_of_a_caller_is_never_read_as_policy() {
    let sly = caller(Some(workload("gateway")), Some(user("u\" || true || \"", &["x\"].contains(\"buyer"])));
    assert_eq!(kind(ask(&sly, &Method::POST, "/ads/{id}/buy")), RefusalKind::NotPermitted);
    let route = "/ads\" || true //";
    assert_eq!(kind(ask(&sly, &Method::GET, route)), RefusalKind::NotPermitted);
}

const ADMIN: &str = r#"
@id("administrators")
permit (principal is Admin, action, resource);

@id("bundle-is-public")
permit (principal, action == Action::"GET /api/v1/bundle", resource);
"#;
const ACTIONS: [&str; 2] = ["GET /api/v1/bundle", "POST /api/v1/users"];

#[test]
fn administration_is_for_local_administrators_and_what_is_public() {
    let policies = AdminPolicies::load(ADMIN, &ACTIONS).unwrap();
    let ask = |caller: &Caller, action: &str| {
        decide_admin(&policies, &AdminAsk { caller, action, path: "/" }).map_err(|refusal| refusal.kind())
    };
    let root = administrator(0);
    assert_eq!(ask(&root, "POST /api/v1/users").unwrap().who(), "uid:0");
    assert!(ask(&stranger(), "GET /api/v1/bundle").is_ok());
    assert_eq!(ask(&stranger(), "POST /api/v1/users"), Err(RefusalKind::NotPermitted));
    assert_eq!(ask(&root, "DELETE /api/v1/users"), Err(RefusalKind::UnknownAction));
}

#[test]
fn neither_an_application_token_nor_a_service_is_ever_an_administrator() {
    let policies = AdminPolicies::load(ADMIN, &ACTIONS).unwrap();
    // A user whose id reads like an administrator's, proven by a token and not by the system.
    let alice = caller(None, Some(user("uid:0", &["admin"])));
    let ads = caller(Some(workload("ads")), Some(user("uid:0", &["admin"])));
    for caller in [&alice, &ads] {
        let ask = AdminAsk { caller, action: "POST /api/v1/users", path: "/" };
        assert_eq!(kind(decide_admin(&policies, &ask)), RefusalKind::NotPermitted);
    }
}

#[test]
fn administration_without_rows_permits_nothing() {
    let policies = AdminPolicies::load("", &[]).unwrap();
    let root = administrator(0);
    let ask = AdminAsk { caller: &root, action: "GET /api/v1/status", path: "/" };
    assert_eq!(kind(decide_admin(&policies, &ask)), RefusalKind::UnknownAction);
}
