//! Properties of the decision (AZ-2).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod common;

use common::{caller, stranger, user, workload};
use countersign_identity::Caller;
use countersign_policy::{AdminPolicies, Ask, PolicySet, decide, explain};
use http::Method;
use proptest::prelude::*;

/// A rule without its name; some permit, some forbid, one fails when it is evaluated.
fn rule() -> impl Strategy<Value = String> {
    let effect = prop_oneof![3 => Just("permit"), 1 => Just("forbid")];
    let principal = prop::sample::select(vec![
        "principal",
        "principal is User",
        r#"principal == Workload::"spiffe://fleamarket.test/svc/gateway""#,
        r#"principal == Workload::"spiffe://fleamarket.test/svc/ads""#,
        r#"principal == User::"u_alice""#,
    ]);
    let action = prop::sample::select(vec![
        "action",
        r#"action == Action::"GET""#,
        r#"action in [Action::"GET", Action::"POST"]"#,
    ]);
    let resource = prop::sample::select(vec![
        "resource",
        r#"resource in Service::"ads""#,
        r#"resource == Route::"ads /ads""#,
        r#"resource == Route::"ads /ads/{id}/buy""#,
    ]);
    let condition = prop_oneof![8 => prop::sample::select(vec![
        "",
        r#"when { context has user && context.user.roles.contains("buyer") }"#,
        r#"unless { context has user && context.user.roles.contains("guest") }"#,
        r#"when { context.proof.workload == "certificate" }"#,
        r#"when { context.path like "/ads*" }"#,
    ]), 1 => Just("when { 9223372036854775807 + 1 > 0 }")];
    (effect, principal, action, resource, condition)
        .prop_map(|(e, p, a, r, c)| format!("{e} ({p}, {a}, {r}) {c};"))
}

fn rules() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(rule(), 0..6)
}

fn somebody() -> impl Strategy<Value = Caller> {
    prop::sample::select(vec![
        stranger(),
        caller(None, Some(user("u_alice", &["buyer"]))),
        caller(Some(workload("gateway")), None),
        caller(Some(workload("gateway")), Some(user("u_alice", &["buyer"]))),
        caller(Some(workload("ads")), Some(user("u_eve", &["guest"]))),
    ])
}

fn request() -> impl Strategy<Value = (Method, &'static str)> {
    let method = prop::sample::select(vec![Method::GET, Method::POST, Method::DELETE]);
    (method, prop::sample::select(vec!["/ads", "/ads/{id}/buy", "/other"]))
}

fn load(named: &[(usize, String)]) -> PolicySet {
    let text: String = named.iter().map(|(id, rule)| format!("@id(\"r{id}\") {rule}\n")).collect();
    PolicySet::load([("ads", text.as_str())]).unwrap()
}

fn named(rules: &[String]) -> Vec<(usize, String)> {
    rules.iter().cloned().enumerate().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn adding_a_forbid_never_turns_a_denial_into_a_permit(
        rules in rules(), added in rule(), who in somebody(), (method, route) in request(),
    ) {
        let ask = Ask { caller: &who, target: "ads", method: &method, route, path: route };
        let before = decide(&load(&named(&rules)), &ask).is_ok();
        let forbid = added.replacen("permit", "forbid", 1);
        let mut more = rules.clone();
        more.push(forbid);
        let after = decide(&load(&named(&more)), &ask).is_ok();
        prop_assert!(before || !after);
    }

    #[test]
    fn the_order_of_rules_makes_no_difference(
        (rules, shuffled) in rules().prop_flat_map(|r| (Just(named(&r)), Just(named(&r)).prop_shuffle())),
        who in somebody(), (method, route) in request(),
    ) {
        let ask = Ask { caller: &who, target: "ads", method: &method, route, path: route };
        let said = |rules| decide(&load(rules), &ask).map(|permit| permit.policies().to_vec());
        prop_assert_eq!(said(&rules), said(&shuffled));
    }

    #[test]
    fn an_explanation_agrees_with_the_decision(
        rules in rules(), who in somebody(), (method, route) in request(),
    ) {
        let policies = load(&named(&rules));
        let ask = Ask { caller: &who, target: "ads", method: &method, route, path: route };
        let decision = decide(&policies, &ask);
        let explanation = explain(&policies, &ask);
        prop_assert_eq!(explanation.permitted, decision.is_ok());
        let applying = |rule: &&countersign_policy::RuleTrace| rule.applies;
        if let Ok(permit) = decision {
            let mut ids: Vec<_> = explanation.rules.iter().filter(applying).map(|r| r.id.clone()).collect();
            ids.sort();
            prop_assert_eq!(permit.policies(), ids);
        }
    }

    #[test]
    fn no_text_makes_the_loader_panic(text in any::<String>(), rules in rules(), cut in any::<prop::sample::Index>()) {
        let _ = PolicySet::load([("ads", text.as_str())]);
        let _ = AdminPolicies::load(&text, &[&text]);
        let whole = rules.concat();
        let cut = cut.index(whole.len() + 1);
        let _ = PolicySet::load([("ads", &whole[..cut])]);
    }
}
