//! Our index and our evaluation of conditions, held against Cedar alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use cedar_policy::{AuthorizationError, Authorizer, Decision};
use countersign_identity::{Binding, Bound, Freshness, Possession, Proof, UserProof, WorkloadProof};

use super::judge;
use crate::{
    PolicySet, RefusalKind,
    facts::{Facts, Person, Principal, PrincipalKind, Resource, STRANGER},
    model::Model,
    parse::{PolicyFile, Rule},
};

/// Sets of rules that are compared, each with one question.
const SETS: usize = 10_000;
/// Most rules of a set.
const RULES_MAX: usize = 6;
/// Random rules that sets are drawn from, as files and rules of each: to read a rule takes longer than all else.
const POOL: (usize, usize) = (10, 100);

const PRINCIPALS: [&str; 12] = [
    "principal",
    "principal",
    "principal",
    "principal is User",
    "principal is Workload",
    "principal is Stranger",
    r#"principal == Workload::"spiffe://fleamarket.test/svc/gateway""#,
    r#"principal in Workload::"spiffe://fleamarket.test/svc/gateway""#,
    r#"principal is Workload in Workload::"spiffe://fleamarket.test/svc/ads""#,
    r#"principal is User in Workload::"spiffe://fleamarket.test/svc/ads""#,
    r#"principal == User::"u_alice""#,
    r#"principal == Stranger::"stranger""#,
];
const ACTIONS: [&str; 6] = [
    "action",
    "action",
    r#"action == Action::"GET""#,
    r#"action == Action::"POST""#,
    r#"action in [Action::"GET", Action::"POST"]"#,
    r#"action in Action::"DELETE""#,
];
const RESOURCES: [&str; 11] = [
    "resource",
    "resource",
    "resource is Route",
    "resource is Service",
    r#"resource in Service::"ads""#,
    r#"resource is Route in Service::"ads""#,
    r#"resource == Route::"ads /ads""#,
    r#"resource == Route::"ads /ads/{id}/buy""#,
    r#"resource in Route::"ads /ads""#,
    r#"resource is Route in Route::"ads /ads""#,
    r#"resource == Service::"ads""#,
];

/// What conditions are made of. The second half is for Cedar alone.
const ATOMS: [&str; 42] = [
    "true",
    "context has user",
    r#"(context has user && context.user.roles.contains("buyer"))"#,
    r#"(context has user && context.user.roles.containsAny(["buyer", "seller"]))"#,
    r#"(context has user && context.user.roles.containsAll(["buyer", "seller"]))"#,
    r#"(context has user && ["u_alice", "u_bob"].contains(context.user.id))"#,
    r#"(context has user && context.user.id == "u_alice")"#,
    r#"(context has user && context.user.name != "Somebody")"#,
    r#"(context has user && context.user.id == context.user.name)"#,
    r#"context.proof.workload == "certificate""#,
    r#""signed_request" == context.proof.workload"#,
    r#"["certificate", "macaroon"].contains(context.proof.workload)"#,
    "context.proof.workload_possession",
    "context.proof.user_possession",
    r#"context.proof.user == "access_token""#,
    r#"context.proof.freshness != "none""#,
    r#"context.proof.binding.contains("channel")"#,
    r#"context.proof.binding.containsAll(["channel", "body"])"#,
    r#"["body", "target"].containsAny(context.proof.binding)"#,
    r#"context.path like "/ads*""#,
    r#"context.path like "*/b*y""#,
    r#"context.path like "/ads/\*""#,
    r#"context.path like "*/*/*y""#,
    r#"context.path == "/ads""#,
    "principal is Workload",
    r#"(principal is Workload && principal.trust_domain == "fleamarket.test")"#,
    r#"principal == Workload::"spiffe://fleamarket.test/svc/gateway""#,
    r#"principal in [Workload::"spiffe://fleamarket.test/svc/ads", Workload::"spiffe://fleamarket.test/svc/gateway"]"#,
    r#"action == Action::"GET""#,
    r#"action in [Action::"GET", Action::"DELETE"]"#,
    r#"resource == Route::"ads /ads""#,
    r#"resource in Service::"ads""#,
    r#"resource in [Service::"ads"]"#,
    "resource is Route",
    // Evaluated by Cedar.
    "9223372036854775807 + 1 > 0",
    "9223372036854775807 + 1 > 0",
    "1 + 1 == 2",
    r#"(if context has user then context.user.id == "u_alice" else context.path == "/ads")"#,
    r#"ip("10.0.0.1").isLoopback()"#,
    "context.proof.workload_possession == context.proof.user_possession",
    "context == context",
    "context.proof has workload",
];

/// A small generator with a seed, so that a failure can be had again (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    fn condition(&mut self, depth: usize) -> String {
        match (depth, self.below(6)) {
            (1.., 0) => format!("({} && {})", self.condition(depth - 1), self.condition(depth - 1)),
            (1.., 1) => format!("({} || {})", self.condition(depth - 1), self.condition(depth - 1)),
            (1.., 2) => format!("!({})", self.condition(depth - 1)),
            _ => self.pick(&ATOMS).to_owned(),
        }
    }

    fn rule(&mut self, id: &str) -> String {
        let effect = self.pick(&["permit", "permit", "permit", "forbid"]);
        let (who, what, place) = (self.pick(&PRINCIPALS), self.pick(&ACTIONS), self.pick(&RESOURCES));
        let clauses: String = (0..self.below(3))
            .map(|_| format!(" {} {{ {} }}", self.pick(&["when", "unless"]), self.condition(2)))
            .collect();
        format!("@id(\"{id}\") {effect} ({who}, {what}, {place}){clauses};\n")
    }

    /// Rules named after the file and their place, so that all of the pool can stand together.
    fn pool(&mut self, file: usize) -> PolicySet {
        let rules: String = (0..POOL.1).map(|rule| self.rule(&format!("r{file}-{rule}"))).collect();
        PolicySet::load([("ads", rules.as_str())]).unwrap()
    }

    fn proof(&mut self) -> Proof {
        let bound: Vec<Bound> = Bound::ALL.iter().copied().filter(|_| self.below(2) == 0).collect();
        Proof {
            workload: WorkloadProof::ALL[self.below(WorkloadProof::ALL.len())],
            binding: Binding::of(&bound),
            user: UserProof::ALL[self.below(UserProof::ALL.len())],
            user_possession: Possession::ALL[self.below(Possession::ALL.len())],
            freshness: Freshness::ALL[self.below(Freshness::ALL.len())],
        }
    }

    fn facts<'a>(&mut self, roles: &'a [Vec<String>]) -> Facts<'a> {
        let user = [None, Some("u_alice"), Some("u_bob"), Some("Somebody"), Some(ADS)][self.below(5)];
        let user = user.map(|id| Person { id, name: "Somebody", roles: &roles[self.below(roles.len())] });
        let principal = match (self.pick(&["gateway", "gateway", "ads", ""]), user) {
            ("", None) => Principal { kind: PrincipalKind::Stranger, id: STRANGER, trust_domain: None },
            ("", Some(user)) => Principal { kind: PrincipalKind::User, id: user.id, trust_domain: None },
            (name, _) => Principal {
                kind: PrincipalKind::Workload,
                id: if name == "ads" { ADS } else { GATEWAY },
                trust_domain: Some("fleamarket.test"),
            },
        };
        Facts {
            principal,
            action: self.pick(&["GET", "POST", "DELETE"]),
            resource: Resource::Route {
                service: "ads",
                template: self.pick(&["/ads", "/ads/{id}/buy", "/other"]),
            },
            path: self.pick(&PATHS),
            path_read: Cell::new(false),
            user,
            proof: self.proof(),
        }
    }
}

const GATEWAY: &str = "spiffe://fleamarket.test/svc/gateway";
const ADS: &str = "spiffe://fleamarket.test/svc/ads";
const PATHS: [&str; 6] = ["/ads", "/ads/7/buy", "/ads/*", "/adsby", "/other", "/béby"];

#[test]
fn indexed_decisions_equal_full_cedar_on_ten_thousand_random_policy_sets() {
    let mut random = Random(0xc0de_5167);
    let pool: Vec<PolicySet> = (0..POOL.0).map(|file| random.pool(file)).collect();
    let rules: Vec<&Rule> = pool.iter().flat_map(|set| &set.files["ads"].rules).collect();
    let roles = [vec!["buyer"], vec!["buyer", "seller"], vec!["guest"], vec![]]
        .map(|roles| roles.into_iter().map(str::to_owned).collect::<Vec<String>>());
    let mut seen = Seen::default();
    for _ in 0..SETS {
        let drawn = (0..=random.below(RULES_MAX)).map(|_| random.pick(&rules));
        let drawn: BTreeMap<&str, &Rule> = drawn.map(|rule| (rule.id(), rule)).collect();
        let file = PolicyFile::of(drawn.into_values().cloned().collect());
        let (facts, another_path) = (random.facts(&roles), random.pick(&PATHS));
        compare(&pool[0].model, &file, &facts, another_path, &mut seen);
    }
    let Seen { permits, for_routes, refusals } = &seen;
    assert!(*permits > SETS / 10 && *for_routes > SETS / 20 && for_routes < permits, "{seen:?}");
    assert!(refusals.len() == 3 && refusals.values().all(|count| *count > SETS / 100), "{seen:?}");
}

/// How often each verdict came, so that the test cannot pass by comparing nothing but refusals.
#[derive(Debug, Default)]
struct Seen {
    permits: usize,
    for_routes: usize,
    refusals: BTreeMap<String, usize>,
}

type Answer = Result<Vec<String>, (RefusalKind, Vec<String>)>;

fn compare(model: &Model, file: &PolicyFile, facts: &Facts<'_>, another_path: &str, seen: &mut Seen) {
    let decided = judge(model, file, facts);
    let mut paths = vec![facts.path()];
    match &decided {
        Ok(permit) if permit.holds_for_route() => {
            seen.for_routes += 1;
            seen.permits += 1;
            paths.push(another_path);
        }
        Ok(_) => seen.permits += 1,
        Err(refusal) => *seen.refusals.entry(refusal.kind().to_string()).or_default() += 1,
    }
    let ours: Answer = decided
        .map(|permit| permit.policies().to_vec())
        .map_err(|refusal| (refusal.kind(), refusal.policies().to_vec()));
    for path in paths {
        let facts = Facts { path, path_read: Cell::new(false), ..*facts };
        assert_eq!(ours, full_cedar(model, file, &facts), "{:#?}\n{facts:?}", file.rules);
    }
}

/// Every rule, with nothing of ours between.
fn full_cedar(model: &Model, file: &PolicyFile, facts: &Facts<'_>) -> Answer {
    let question = model.question(facts).ok().unwrap();
    let rules = cedar_policy::PolicySet::from_policies(file.rules.iter().map(|rule| rule.policy.clone()));
    let answer = Authorizer::new().is_authorized(&question.request, &rules.unwrap(), &question.entities);
    let failed = answer
        .diagnostics()
        .errors()
        .map(|AuthorizationError::PolicyEvaluationError(error)| error.policy_id().to_string());
    let failed: BTreeSet<String> = failed.collect();
    let reasons: BTreeSet<String> = answer.diagnostics().reason().map(ToString::to_string).collect();
    let (failed, reasons): (Vec<_>, Vec<_>) = (failed.into_iter().collect(), reasons.into_iter().collect());
    match answer.decision() {
        _ if !failed.is_empty() => Err((RefusalKind::RuleFailed, failed)),
        Decision::Allow => Ok(reasons),
        Decision::Deny if reasons.is_empty() => Err((RefusalKind::NotPermitted, reasons)),
        Decision::Deny => Err((RefusalKind::Forbidden, reasons)),
    }
}
