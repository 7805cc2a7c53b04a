//! Decisions per CPU second with 10, 100 and 1,000 rules: questions that nobody asked before, questions that come again,
//! and Cedar alone over the same rules, whose question is ready-made and not counted. Then the memory behind it.
//!
//! `cargo bench -p countersign-policy`
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops when it cannot go on"
)]

use std::{hint::black_box, num::NonZeroUsize, str::FromStr};

use cedar_policy::{Authorizer, Context, Entities, EntityUid, Request};
use countersign_identity::Caller;
use countersign_policy::{Ask, DecisionCache, PolicySet, decide};
use countersign_testkit::measure::{memory, per_cpu_second};
use http::Method;
use serde_json::json;

#[path = "../tests/common/mod.rs"]
mod common;

/// Rules of one file.
const RULES: usize = 250;
/// Permits that a cache holds, and callers that come one after the other: so many more that none is remembered.
const REMEMBERED: usize = 4096;
const CALLERS: usize = 4 * REMEMBERED;
/// Callers that come again and again.
const REGULARS: usize = 1000;
/// The rule that applies, and the route that it names where heads do.
const ASKED: usize = 4;
/// Questions of one measurement between two looks at the clock.
const BATCH: usize = 100;

fn main() {
    let callers: Vec<Caller> = (0..CALLERS)
        .map(|number| {
            let user = common::user(&format!("u_{number:026}"), &["buyer", "seller"]);
            common::caller(Some(common::workload("gateway")), Some(user))
        })
        .collect();
    println!(
        "{:<28} {:>6} {:>12} {:>12} {:>12} {:>12}",
        "decisions per CPU second", "rules", "new", "new, cached", "repeated", "full Cedar"
    );
    for rules in [10, 100, 1000] {
        row("heads name a route", rules, &callers, |service, route| {
            let method = ["GET", "POST"][route % 2];
            format!(
                "(principal == Workload::\"spiffe://fleamarket.test/svc/gateway\", \
                 action == Action::\"{method}\", resource == Route::\"s{service} /r{route}\")"
            )
        });
    }
    row("heads name nobody and nothing", 250, &callers, |_, _| "(principal, action, resource)".to_owned());
    flat(&callers);
}

fn row(name: &str, rules: usize, callers: &[Caller], head: impl Fn(usize, usize) -> String) {
    let texts: Vec<(String, String)> = (0..rules.div_ceil(RULES))
        .map(|service| {
            let rule = |route| {
                let role = if route == ASKED { "buyer".to_owned() } else { format!("role-{route}") };
                format!(
                    "@id(\"s{service}-r{route}\") permit {}\n\
                     when {{ context.proof.workload == \"certificate\" }}\n\
                     when {{ context has user && context.user.roles.contains(\"{role}\") }};\n",
                    head(service, route)
                )
            };
            (format!("s{service}"), (0..rules.min(RULES)).map(rule).collect())
        })
        .collect();
    let policies = PolicySet::load(texts.iter().map(|(name, text)| (name.as_str(), text.as_str()))).unwrap();
    let asks: Vec<Ask<'_>> = callers.iter().map(|caller| ask(caller, "s0", "/r4", "/r4")).collect();
    let new = through(&asks, |ask| decide(&policies, ask).is_ok());
    let mut cache = DecisionCache::new(NonZeroUsize::new(REMEMBERED).unwrap());
    let cached = through(&asks, |ask| cache.decide(&policies, ask).is_ok());
    let repeated = through(&asks[..REGULARS], |ask| cache.decide(&policies, ask).is_ok());
    let all: String = texts.iter().map(|(_, text)| text.as_str()).collect();
    println!("{name:<28} {rules:>6} {new:>12.0} {cached:>12.0} {repeated:>12.0} {:>12.0}", cedar(&all));
}

const fn ask<'a>(caller: &'a Caller, target: &'a str, route: &'a str, path: &'a str) -> Ask<'a> {
    Ask { caller, target, method: &Method::GET, route, path }
}

/// One question after the other, from the first again after the last; all of them are permitted.
fn through(asks: &[Ask<'_>], mut decide: impl FnMut(&Ask<'_>) -> bool) -> f64 {
    let mut turns = asks.iter().cycle();
    let batches =
        per_cpu_second(|| turns.by_ref().take(BATCH).for_each(|ask| assert!(decide(black_box(ask)))));
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let batch = BATCH as f64;
    batches * batch
}

fn cedar(rules: &str) -> f64 {
    let rules = cedar_policy::PolicySet::from_str(rules).unwrap();
    let gateway = json!({ "type": "Workload", "id": "spiffe://fleamarket.test/svc/gateway" });
    let (service, route) =
        (json!({ "type": "Service", "id": "s0" }), json!({ "type": "Route", "id": "s0 /r4" }));
    let entities = json!([
        { "uid": gateway, "attrs": { "trust_domain": "fleamarket.test" }, "parents": [] },
        { "uid": route, "attrs": {}, "parents": [service] },
        { "uid": service, "attrs": {}, "parents": [] },
    ]);
    let context = json!({
        "user": { "id": "u_0", "name": "Somebody", "roles": ["buyer", "seller"] },
        "proof": {
            "workload": "certificate", "workload_possession": true, "binding": ["channel"],
            "user": "internal_token", "user_possession": false, "freshness": "connection",
        },
        "path": "/r4",
    });
    let [principal, action, resource] = [gateway, json!({ "type": "Action", "id": "GET" }), route]
        .map(|uid| EntityUid::from_json(uid).unwrap());
    let context = Context::from_json_value(context, None).unwrap();
    let request = Request::new(principal, action, resource, context, None).unwrap();
    let entities = Entities::from_json_value(entities, None).unwrap();
    per_cpu_second(|| Authorizer::new().is_authorized(&request, &rules, &entities))
}

/// A cache that sees new callers and new paths for ever holds no more than its bound.
fn flat(callers: &[Caller]) {
    let rules = "@id(\"r\") permit (principal, action, resource) when { context.path like \"/r/*\" };";
    let policies = PolicySet::load([("s0", rules)]).unwrap();
    let mut cache = DecisionCache::new(NonZeroUsize::new(REMEMBERED).unwrap());
    println!("{:<28} {:>6} {:>12}", "memory under new questions", "held", "RSS KiB");
    for round in 0..4 {
        for (number, caller) in callers.iter().enumerate().cycle().take(4 * CALLERS) {
            let path = format!("/r/{round}/{number}");
            cache.decide(&policies, &ask(caller, "s0", "/r/{a}/{b}", &path)).unwrap();
        }
        let questions = (round + 1) * 4 * CALLERS;
        println!("{questions:>28} {:>6} {:>12}", cache.len(), memory(std::process::id()).rss);
    }
}
