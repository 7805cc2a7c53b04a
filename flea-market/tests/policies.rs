//! Who may do what, decided by the files as they are shipped.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use countersign_flea_market::{EDGE_ROUTES, POLICIES, policies_for};
use countersign_identity::{
    Binding, Caller, Freshness, Possession, Proof, SpiffeId, TrustDomain, UnixTime, User, UserProof,
    Verified, Workload, WorkloadProof,
};
use countersign_policy::{Ask, PolicySet, RefusalKind, decide};
use http::Method;

fn person(role: &str) -> Verified<User> {
    Verified::vouch(User {
        id: format!("u_{role}"),
        name: role.to_owned(),
        roles: vec![role.to_owned()],
        txn: "t".to_owned(),
        requested_by: None,
        actors: Vec::new(),
        possession: Possession::None,
        not_after: UnixTime::from_secs(4_000_000_000),
    })
}

fn at_the_edge(role: &str) -> Caller {
    let proof = Proof { user: UserProof::AccessToken, freshness: Freshness::Reusable, ..Proof::NONE };
    Caller::new(None, Some(person(role)), Vec::new(), proof)
}

fn through(id: &SpiffeId, role: Option<&str>) -> Caller {
    let workload = Verified::vouch(Workload { id: id.clone(), certificate: None });
    let proof = Proof {
        workload: WorkloadProof::Certificate,
        binding: Binding::CHANNEL,
        user: UserProof::InternalToken,
        user_possession: Possession::None,
        freshness: Freshness::Connection,
    };
    Caller::new(Some(workload), role.map(person), Vec::new(), proof)
}

fn gateway() -> SpiffeId {
    SpiffeId::gateway(&TrustDomain::parse("fleamarket.test").unwrap(), "edge").unwrap()
}

fn shipped() -> PolicySet {
    PolicySet::load(POLICIES).expect("the shipped policies load")
}

fn may(policies: &PolicySet, caller: &Caller, target: &str, method: &str, route: &str) -> bool {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    decide(policies, &Ask { caller, target, method: &method, route, path: route }).is_ok()
}

/// Method, route, service, and the roles that may.
const RIGHTS: [(&str, &str, &str, &[&str]); 22] = [
    ("GET", "/ads", "ads", &["buyer", "seller", "moderator", "guest"]),
    ("POST", "/ads", "ads", &["seller"]),
    ("GET", "/ads/{id}", "ads", &["buyer", "seller", "moderator", "guest"]),
    ("DELETE", "/ads/{id}", "ads", &["seller", "moderator"]),
    ("POST", "/ads/{id}/buy", "ads", &["buyer"]),
    ("POST", "/ads/{id}/rent", "ads", &["buyer"]),
    ("POST", "/ads/{id}/swap", "ads", &["buyer"]),
    ("GET", "/users/me", "users", &["buyer", "seller", "moderator", "guest"]),
    ("PUT", "/users/me", "users", &["buyer", "seller", "moderator"]),
    ("GET", "/users/{handle}", "users", &["buyer", "seller", "moderator", "guest"]),
    ("GET", "/chats", "chat", &["buyer", "seller", "moderator"]),
    ("POST", "/chats", "chat", &["buyer", "seller", "moderator"]),
    ("GET", "/chats/{id}", "chat", &["buyer", "seller", "moderator"]),
    ("POST", "/media", "media", &["seller"]),
    ("GET", "/media/{id}", "media", &["buyer", "seller", "moderator", "guest"]),
    ("GET", "/subscriptions", "subscriptions", &["buyer", "seller", "moderator"]),
    ("POST", "/subscriptions", "subscriptions", &["buyer", "seller", "moderator"]),
    ("DELETE", "/subscriptions/{id}", "subscriptions", &["buyer", "seller", "moderator"]),
    ("GET", "/subscriptions/notifications", "subscriptions", &["buyer", "seller", "moderator"]),
    ("GET", "/reports", "reports", &["moderator"]),
    ("POST", "/reports", "reports", &["buyer", "seller", "moderator"]),
    ("POST", "/reports/{id}/close", "reports", &["moderator"]),
];
const ROLES: [&str; 4] = ["buyer", "seller", "moderator", "guest"];

#[test]
fn every_role_may_at_each_service_exactly_what_the_table_says() {
    let policies = shipped();
    for (method, route, service, allowed) in RIGHTS {
        for role in ROLES {
            let caller = through(&gateway(), Some(role));
            let expected = allowed.contains(&role);
            assert_eq!(may(&policies, &caller, service, method, route), expected, "{role} {method} {route}");
        }
        assert!(!may(&policies, &through(&gateway(), None), service, method, route), "{method} {route}");
    }
}

#[test]
fn whoever_may_at_the_service_may_pass_the_gateway() {
    let policies = shipped();
    for (method, route, _, allowed) in RIGHTS {
        for role in allowed {
            assert!(may(&policies, &at_the_edge(role), "gateway", method, route), "{role} {method} {route}");
        }
    }
}

#[test]
fn the_gateway_itself_stops_what_is_coarse() {
    let policies = shipped();
    assert!(!may(&policies, &at_the_edge("guest"), "gateway", "POST", "/ads/{id}/buy"));
    assert!(!may(&policies, &at_the_edge("buyer"), "gateway", "GET", "/reports"));
    let stranger = Caller::new(None, None, Vec::new(), Proof::NONE);
    for (method, route, ..) in RIGHTS {
        assert!(!may(&policies, &stranger, "gateway", method, route), "{method} {route}");
    }
}

#[test]
fn removing_the_coarse_rule_for_buying_leaves_the_fine_one() {
    let buy = "@id(\"edge-buy\")";
    let open = "@id(\"anything\") permit (principal is User, action, resource);";
    let files = POLICIES.map(|(name, text)| match name {
        "gateway" => (name, text.replace(buy, open).replacen(open, &format!("{open}\n{buy}"), 1)),
        _ => (name, text.to_owned()),
    });
    let policies = PolicySet::load(files.iter().map(|(name, text)| (*name, text.as_str()))).unwrap();
    assert!(may(&policies, &at_the_edge("guest"), "gateway", "POST", "/ads/{id}/buy"), "the edge is open");
    let eve = through(&gateway(), Some("guest"));
    let ask = Ask {
        caller: &eve,
        target: "ads",
        method: &Method::POST,
        route: "/ads/{id}/buy",
        path: "/ads/1/buy",
    };
    assert_eq!(decide(&policies, &ask).unwrap_err().kind(), RefusalKind::NotPermitted);
}

#[test]
fn removing_the_fine_rule_leaves_nobody_in() {
    let files = POLICIES.map(|(name, text)| (name, if name == "ads" { "" } else { text }));
    let policies = PolicySet::load(files).unwrap();
    assert!(may(&policies, &at_the_edge("buyer"), "gateway", "POST", "/ads/{id}/buy"));
    assert!(!may(&policies, &through(&gateway(), Some("buyer")), "ads", "POST", "/ads/{id}/buy"));
}

#[test]
fn a_service_exchanges_tokens_for_those_whom_it_calls_and_for_nobody_else() {
    let policies = shipped();
    let td = TrustDomain::parse("fleamarket.test").unwrap();
    let calls = [("ads", "users"), ("ads", "subscriptions"), ("chat", "users"), ("reports", "ads")];
    let services = ["ads", "users", "chat", "media", "subscriptions", "reports"];
    for target in services {
        let route = format!("/exchange/{target}");
        assert!(may(&policies, &through(&gateway(), Some("buyer")), "sts", "POST", &route));
        assert!(!may(&policies, &through(&gateway(), None), "sts", "POST", &route), "for nobody");
        for client in services {
            let client_id = through(&SpiffeId::service(&td, client).unwrap(), Some("buyer"));
            let expected = calls.contains(&(client, target));
            assert_eq!(may(&policies, &client_id, "sts", "POST", &route), expected, "{client} for {target}");
        }
    }
    assert!(!may(&policies, &through(&gateway(), Some("buyer")), "sts", "POST", "/txn/unsigned-json"));
}

#[test]
fn no_service_is_called_by_a_service_that_has_no_business_there() {
    let policies = shipped();
    let td = TrustDomain::parse("fleamarket.test").unwrap();
    let permitted = [
        ("ads", "users", "GET", "/users/previews"),
        ("chat", "users", "GET", "/users/previews"),
        ("ads", "subscriptions", "POST", "/subscriptions/matches"),
        ("reports", "ads", "GET", "/ads/{id}"),
    ];
    let services = ["ads", "users", "chat", "media", "subscriptions", "reports"];
    let internal = permitted.map(|(_, target, method, route)| (method, route, target));
    let routes = RIGHTS.iter().map(|(method, route, target, _)| (*method, *route, *target));
    for (method, route, target) in routes.chain(internal) {
        for caller in services {
            let id = SpiffeId::service(&td, caller).unwrap();
            let allowed = permitted.contains(&(caller, target, method, route));
            for role in ROLES {
                let may = may(&policies, &through(&id, Some(role)), target, method, route);
                assert!(!may || allowed, "{caller} for {role}: {target} {method} {route}");
            }
        }
    }
}

#[test]
fn the_same_name_in_another_trust_domain_is_somebody_else() {
    let other = SpiffeId::gateway(&TrustDomain::parse("elsewhere.test").unwrap(), "edge").unwrap();
    let caller = through(&other, Some("buyer"));
    assert!(!may(&shipped(), &caller, "ads", "GET", "/ads"));

    let theirs = policies_for("elsewhere.test");
    let theirs = PolicySet::load(theirs.iter().map(|(name, text)| (*name, text.as_str()))).unwrap();
    assert!(may(&theirs, &caller, "ads", "GET", "/ads"));
    assert!(!may(&theirs, &through(&gateway(), Some("buyer")), "ads", "GET", "/ads"));
}

#[test]
fn every_route_at_the_edge_has_a_rule_and_every_rule_a_route() {
    for (path, service) in EDGE_ROUTES {
        let has_rights = RIGHTS.iter().any(|(_, route, target, _)| *route == path && *target == service);
        assert!(has_rights, "{path} → {service}");
    }
    for (method, route, service, _) in RIGHTS {
        assert!(EDGE_ROUTES.contains(&(route, service)), "{method} {route}");
    }
}
