//! What is remembered of decisions, and when it is forgotten.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::num::NonZeroUsize;

use common::{caller, named, stranger, user, workload};
use countersign_identity::{Binding, Caller, Freshness, Possession, Proof, UserProof, WorkloadProof};
use countersign_policy::{Ask, DecisionCache, PolicySet, RefusalKind, decide};
use http::Method;

fn load(rules: &str) -> PolicySet {
    PolicySet::load([("ads", rules)]).unwrap()
}

fn cache(entries: usize) -> DecisionCache {
    DecisionCache::new(NonZeroUsize::new(entries).unwrap())
}

const fn browse<'a>(caller: &'a Caller, path: &'a str) -> Ask<'a> {
    Ask { caller, target: "ads", method: &Method::GET, route: "/ads/{id}", path }
}

const EVERYBODY: &str = r#"@id("all") permit (principal, action, resource);"#;
const BELOW_ONE: &str =
    r#"@id("one") permit (principal, action, resource) when { context.path like "/ads/1*" };"#;
const BUYERS: &str = r#"
@id("buyers") permit (principal, action, resource)
when { context has user && context.user.roles.contains("buyer") };"#;

#[test]
fn answers_from_memory_as_the_rules_would() {
    let (policies, mut cache) = (load(EVERYBODY), cache(8));
    let who = caller(Some(workload("gateway")), None);
    for path in ["/ads/1", "/ads/2", "/ads/1"] {
        let ask = browse(&who, path);
        assert_eq!(cache.decide(&policies, &ask), decide(&policies, &ask));
    }
    assert_eq!(cache.len(), 1, "no rule reads the path: one answer for all of them");
}

#[test]
fn a_permit_by_a_rule_that_reads_the_path_holds_for_that_path_alone() {
    let (policies, mut cache) = (load(BELOW_ONE), cache(8));
    let who = stranger();
    let permit = cache.decide(&policies, &browse(&who, "/ads/1")).unwrap();
    assert!(!permit.holds_for_route());
    let refusal = cache.decide(&policies, &browse(&who, "/ads/2")).unwrap_err();
    assert_eq!(refusal.kind(), RefusalKind::NotPermitted);
    assert!(cache.decide(&policies, &browse(&who, "/ads/12")).is_ok());
    assert_eq!(cache.len(), 2);
}

#[test]
fn a_permit_by_rules_that_read_no_path_holds_for_its_route() {
    let (policies, who) = (load(EVERYBODY), stranger());
    let permit = decide(&policies, &browse(&who, "/ads/1")).unwrap();
    assert!(permit.holds_for_route());
    assert_eq!(permit.generation(), policies.generation());
}

#[test]
fn forgets_everything_under_other_rules() {
    let mut cache = cache(8);
    let who = stranger();
    let (before, after) = (load(EVERYBODY), load(""));
    assert_ne!(before.generation(), after.generation());
    assert!(cache.decide(&before, &browse(&who, "/ads/1")).is_ok());
    let refusal = cache.decide(&after, &browse(&who, "/ads/1")).unwrap_err();
    assert_eq!(refusal.kind(), RefusalKind::NoPolicies);
    assert!(cache.is_empty());
}

#[test]
fn never_remembers_a_refusal() {
    let (policies, mut cache) = (load(BUYERS), cache(8));
    let guest = caller(None, Some(user("u_eve", &["guest"])));
    for _ in 0..2 {
        let refusal = cache.decide(&policies, &browse(&guest, "/ads/1")).unwrap_err();
        assert_eq!(refusal.kind(), RefusalKind::NotPermitted);
        assert!(cache.is_empty());
    }
}

#[test]
fn holds_no_more_than_its_bound_and_keeps_what_is_used() {
    let (policies, mut cache) = (load(EVERYBODY), cache(8));
    let regular = caller(None, Some(user("u_alice", &[])));
    for number in 0..100 {
        let passing = caller(None, Some(user(&format!("u_{number}"), &[])));
        cache.decide(&policies, &browse(&passing, "/ads/1")).unwrap();
        cache.decide(&policies, &browse(&regular, "/ads/1")).unwrap();
        assert!(cache.len() <= 8, "{}", cache.len());
    }
}

#[test]
fn decides_without_remembering_a_caller_of_endless_roles() {
    let (policies, mut cache) = (load(BUYERS), cache(8));
    let mut roles = vec!["buyer"];
    roles.resize(400, "member");
    let joiner = caller(None, Some(user("u_alice", &roles)));
    assert!(cache.decide(&policies, &browse(&joiner, "/ads/1")).is_ok());
    assert!(cache.is_empty());
}

/// Two questions that differ in nothing but one fact, where a rule permits the first alone.
#[test]
fn tells_apart_whatever_a_rule_can_read() {
    let proof = Proof {
        workload: WorkloadProof::Certificate,
        binding: Binding::CHANNEL,
        user: UserProof::InternalToken,
        user_possession: Possession::Key,
        freshness: Freshness::Connection,
    };
    let who = |name: &str, person: Option<(&str, &[&str])>, proof| {
        Caller::new(Some(workload(name)), person.map(|(id, roles)| user(id, roles)), Vec::new(), proof)
    };
    let buyer = Some(("u_alice", &["buyer", "seller"][..]));
    let right = who("gateway", buyer, proof);
    let others = [
        (who("ads", buyer, proof), r#"principal == Workload::"spiffe://fleamarket.test/svc/gateway""#),
        (who("gateway", None, Proof { user: UserProof::None, ..proof }), "context has user"),
        (
            who("gateway", Some(("u_bob", &["buyer", "seller"])), proof),
            r#"context has user && context.user.id == "u_alice""#,
        ),
        (
            who("gateway", Some(("u_alice", &["buyer"])), proof),
            r#"context has user && context.user.roles.contains("seller")"#,
        ),
        (
            who("gateway", Some(("u_alice", &["buyers", "eller"])), proof),
            r#"context has user && context.user.roles.contains("seller")"#,
        ),
        (
            who("gateway", buyer, Proof { workload: WorkloadProof::Macaroon, ..proof }),
            r#"context.proof.workload == "certificate""#,
        ),
        (
            who("gateway", buyer, Proof { workload: WorkloadProof::Bearer, ..proof }),
            "context.proof.workload_possession",
        ),
        (
            who("gateway", buyer, Proof { binding: Binding::NONE, ..proof }),
            r#"context.proof.binding.contains("channel")"#,
        ),
        (
            who("gateway", buyer, Proof { user: UserProof::AccessToken, ..proof }),
            r#"context.proof.user == "internal_token""#,
        ),
        (
            who("gateway", buyer, Proof { user_possession: Possession::None, ..proof }),
            "context.proof.user_possession",
        ),
        (
            who("gateway", buyer, Proof { freshness: Freshness::SingleUse, ..proof }),
            r#"context.proof.freshness == "connection""#,
        ),
    ];
    let renamed = Some(named("u_alice", "Alice", &["buyer", "seller"]));
    let renamed = Caller::new(Some(workload("gateway")), renamed, Vec::new(), proof);
    let named = (renamed, r#"context has user && context.user.name == "Somebody""#);
    for (other, condition) in others.into_iter().chain([named]) {
        let policies =
            load(&format!("@id(\"r\") permit (principal, action, resource) when {{ {condition} }};"));
        let mut cache = cache(8);
        assert!(cache.decide(&policies, &browse(&right, "/ads/1")).is_ok(), "{condition}");
        assert!(cache.decide(&policies, &browse(&other, "/ads/1")).is_err(), "{condition}");
    }
}

#[test]
fn tells_apart_methods_routes_and_targets() {
    let rule = r#"@id("r") permit (principal, action == Action::"GET", resource == Route::"ads /ads/{id}");"#;
    let policies = load(rule);
    let (who, mut cache) = (stranger(), cache(8));
    let ask = browse(&who, "/ads/1");
    assert!(cache.decide(&policies, &ask).is_ok());
    assert!(cache.decide(&policies, &Ask { method: &Method::PUT, ..ask }).is_err());
    assert!(cache.decide(&policies, &Ask { route: "/ads", ..ask }).is_err());
    assert!(cache.decide(&policies, &Ask { target: "users", ..ask }).is_err());
}
