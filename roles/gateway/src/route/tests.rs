//! Which routes load, and which of them a request meets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
use countersign_request::{CanonicalRequest, RouteTemplate};
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Version};
use proptest::prelude::*;

use super::*;
use crate::settings::UserNeed;

fn route(path: &str, methods: &[&str], host: Option<&str>, to: &str) -> RouteSettings {
    RouteSettings {
        upgrade: Vec::new(),
        path: path.to_owned(),
        host: host.map(str::to_owned),
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
        to: Some(to.to_owned()),
        split: Vec::new(),
        sticky: None,
        match_headers: Default::default(),
        rewrite_prefix: None,
        user: UserNeed::Required,
        access: Default::default(),
        limit: None,
        cors: None,
        filters: None,
        headers: crate::settings::HeaderRules::default(),
    }
}

fn compile(settings: &[RouteSettings]) -> Result<RouteTable, RouteError> {
    RouteTable::compile(settings, &Upstreams::default(), &mut Counted::default())
}

fn request(method: &str, path: &str, host: &str) -> CanonicalRequest {
    let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_str(host).unwrap())]);
    CanonicalRequest::parse(&method.parse().unwrap(), &path.parse().unwrap(), &headers, Version::HTTP_11)
        .unwrap()
}

fn target(table: &RouteTable, method: &str, path: &str, host: &str) -> Result<String, NoRoute> {
    table.find(&request(method, path, host)).map(|route| route.lead.to_string())
}

#[test]
fn the_most_exact_template_wins_whatever_the_order() {
    let routes = [
        route("/ads/*", &[], None, "rest"),
        route("/ads/{id}", &[], None, "one"),
        route("/ads/near", &[], None, "near"),
        route("/ads/{id}/buy", &["POST"], None, "buy"),
    ];
    let mut reversed = routes.clone();
    reversed.reverse();
    for routes in [routes, reversed] {
        let table = compile(&routes).unwrap();
        assert_eq!(target(&table, "GET", "/ads/near", "a.test").unwrap(), "near");
        assert_eq!(target(&table, "GET", "/ads/7", "a.test").unwrap(), "one");
        assert_eq!(target(&table, "POST", "/ads/7/buy", "a.test").unwrap(), "buy");
        assert_eq!(target(&table, "GET", "/ads/7/pictures", "a.test").unwrap(), "rest");
        assert_eq!(target(&table, "GET", "/users", "a.test"), Err(NoRoute::Unknown));
    }
}

#[test]
fn a_method_that_a_template_does_not_take_is_told_what_it_takes() {
    let table = compile(&[
        route("/ads/{id}/buy", &["POST", "PUT"], None, "buy"),
        route("/ads/{id}/buy", &["DELETE"], None, "other"),
        route("/ads/*", &[], None, "lax"),
    ])
    .unwrap();
    let refused = target(&table, "GET", "/ads/7/buy", "a.test").unwrap_err();
    assert_eq!(refused, NoRoute::Method { allow: vec!["DELETE".into(), "POST".into(), "PUT".into()] });
    assert_eq!(target(&table, "DELETE", "/ads/7/buy", "a.test").unwrap(), "other");
}

#[test]
fn head_goes_where_get_goes() {
    let table = compile(&[route("/ads", &["GET"], None, "ads")]).unwrap();
    assert_eq!(target(&table, "HEAD", "/ads", "a.test").unwrap(), "ads");
}

#[test]
fn a_host_with_routes_of_its_own_has_no_others() {
    let table =
        compile(&[route("/a", &[], None, "any"), route("/b", &[], Some("Admin.Test."), "admin")]).unwrap();
    assert_eq!(target(&table, "GET", "/b", "ADMIN.test:8443").unwrap(), "admin");
    assert_eq!(target(&table, "GET", "/a", "admin.test"), Err(NoRoute::Unknown));
    assert_eq!(target(&table, "GET", "/a", "other.test").unwrap(), "any");
    assert_eq!(target(&table, "GET", "/b", "other.test"), Err(NoRoute::Unknown));
}

#[test]
fn rejects_routes_that_match_the_same_requests() {
    let ambiguous = |routes: &[RouteSettings]| matches!(compile(routes), Err(RouteError::Ambiguous { .. }));
    assert!(ambiguous(&[route("/a", &[], None, "x"), route("/a", &["GET"], None, "y")]));
    assert!(ambiguous(&[route("/a", &["GET", "PUT"], None, "x"), route("/a", &["PUT"], None, "y")]));
    assert!(ambiguous(&[route("/{a}", &[], None, "x"), route("/{b}", &[], None, "y")]));
    assert!(!ambiguous(&[route("/a", &["GET"], None, "x"), route("/a", &["PUT"], None, "y")]));
    assert!(!ambiguous(&[route("/a", &[], None, "x"), route("/a", &[], Some("b.test"), "y")]));
}

#[test]
fn rejects_more_routes_than_are_kept() {
    let routes: Vec<_> = (0..=ROUTES_MAX).map(|n| route(&format!("/{n}"), &[], None, "x")).collect();
    assert!(compile(&routes[..ROUTES_MAX]).is_ok());
    assert_eq!(compile(&routes).unwrap_err(), RouteError::TooMany { count: ROUTES_MAX + 1 });
}

fn segment() -> impl Strategy<Value = String> {
    prop_oneof!["[ab]", Just("{x}".to_owned())]
}

fn template() -> impl Strategy<Value = String> {
    (prop::collection::vec(segment(), 1..4), any::<bool>()).prop_map(|(mut segments, rest)| {
        if rest {
            segments.push("*".to_owned());
        }
        format!("/{}", segments.join("/"))
    })
}

fn routes() -> impl Strategy<Value = Vec<RouteSettings>> {
    prop::collection::btree_set(template(), 1..8).prop_map(|paths| {
        let named = |(n, path): (usize, String)| {
            route(&path, if n % 2 == 0 { &[] } else { &["GET"] }, None, &format!("t{n}"))
        };
        paths.into_iter().enumerate().map(named).collect()
    })
}

/// What a template demands, the more exact the smaller.
fn shape(path: &str) -> Vec<u8> {
    let rank = |segment: &str| match segment {
        "*" => 2,
        hole if hole.starts_with('{') => 1,
        _ => 0,
    };
    path.split('/').skip(1).map(rank).collect()
}

proptest! {
    #[test]
    fn routing_does_not_depend_on_the_order_in_the_file(
        routes in routes(), path in "(/[abc]){1,5}", swap in any::<prop::sample::Index>(),
    ) {
        let mut other = routes.clone();
        let place = swap.index(other.len());
        other.rotate_left(place);
        let (one, two) = (compile(&routes), compile(&other));
        prop_assert_eq!(one.is_ok(), two.is_ok());
        if let (Ok(one), Ok(two)) = (one, two) {
            prop_assert_eq!(target(&one, "GET", &path, "a.test"), target(&two, "GET", &path, "a.test"));
        }
    }

    #[test]
    fn nothing_that_matches_is_more_exact_than_the_chosen_route(routes in routes(), path in "(/[abc]){1,5}") {
        let Ok(table) = compile(&routes) else { return Ok(()) };
        let wanted = request("GET", &path, "a.test");
        let matching = routes.iter().filter(|route| RouteTemplate::parse(&route.path).unwrap().matches(&wanted));
        let best = matching.map(|route| shape(&route.path)).min();
        let chosen = table.find(&wanted).ok().map(|route| shape(route.template.as_str()));
        prop_assert_eq!(chosen, best);
    }

    #[test]
    fn a_change_of_method_never_changes_the_template(routes in routes(), path in "(/[abc]){1,5}") {
        let Ok(table) = compile(&routes) else { return Ok(()) };
        let template = |method| table.find(&request(method, &path, "a.test")).map(|route| route.template.to_string());
        match (template("GET"), template("POST")) {
            (Ok(get), Ok(post)) => prop_assert_eq!(get, post),
            (get, Err(NoRoute::Unknown)) => prop_assert_eq!(get, Err(NoRoute::Unknown)),
            (get, Err(NoRoute::Method { .. })) => prop_assert!(get.is_ok()),
            (Err(_), Ok(_)) => prop_assert!(false, "POST found a route that GET did not, yet every route takes GET"),
        }
    }
}

fn routes_of(toml: &str) -> Result<RouteTable, RouteError> {
    #[derive(serde::Deserialize)]
    struct File {
        route: Vec<RouteSettings>,
    }
    compile(&toml::from_str::<File>(toml).unwrap().route)
}

fn with_headers(table: &RouteTable, headers: &[(&'static str, &str)]) -> Result<String, NoRoute> {
    let mut map = HeaderMap::from_iter([(HOST, HeaderValue::from_static("a.test"))]);
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    let request =
        CanonicalRequest::parse(&Method::GET, &"/a".parse().unwrap(), &map, Version::HTTP_11).unwrap();
    table.find(&request).map(|route| route.lead.to_string())
}

#[test]
fn the_route_that_asks_for_more_headers_wins_and_each_header_counts_only_once() {
    let table = routes_of(
        r#"
        [[route]]
        path = "/a"
        to   = "plain"
        [[route]]
        path = "/a"
        to   = "beta"
        match_headers = { "X-Beta" = "1" }
        [[route]]
        path = "/a"
        to   = "beta-of-somebody"
        match_headers = { x-beta = "1", x-who = "*" }
        "#,
    )
    .unwrap();
    let to = |headers: &[(&'static str, &str)]| with_headers(&table, headers).unwrap();
    assert_eq!(to(&[]), "plain");
    assert_eq!(to(&[("x-beta", "2")]), "plain");
    assert_eq!(to(&[("x-beta", "1")]), "beta");
    assert_eq!(to(&[("x-beta", "1"), ("x-who", "me")]), "beta-of-somebody");
    assert_eq!(to(&[("x-beta", "1"), ("x-beta", "2")]), "plain");
}

#[test]
fn a_path_whose_routes_all_ask_for_headers_is_unknown_without_them_and_not_handed_on() {
    let table = routes_of(
        r#"
        [[route]]
        path = "/a"
        to   = "beta"
        match_headers = { x-beta = "1" }
        [[route]]
        path = "/*"
        to   = "lax"
        "#,
    )
    .unwrap();
    assert_eq!(with_headers(&table, &[("x-beta", "1")]).unwrap(), "beta");
    assert_eq!(with_headers(&table, &[]), Err(NoRoute::Unknown));
}

#[test]
fn rejects_headers_of_which_a_request_could_have_those_of_both() {
    let pair = |one: &str, two: &str| {
        let route = |to: &str, headers: &str| {
            format!("[[route]]\npath = \"/a\"\nto = \"{to}\"\nmatch_headers = {{ {headers} }}\n")
        };
        routes_of(&(route("x", one) + &route("y", two)))
    };
    for (one, two) in [("a = '1'", "b = '1'"), ("a = '1'", "a = '*'"), ("a = '1'", "a = '1'")] {
        assert!(matches!(pair(one, two), Err(RouteError::Ambiguous { .. })), "{one} {two}");
    }
    for (one, two) in [("a = '1'", "a = '2'"), ("", "a = '1'"), ("a = '1'", "a = '1', b = '2'")] {
        assert!(pair(one, two).is_ok(), "{one} {two}");
    }
}

#[test]
fn rejects_headers_that_choose_no_route() {
    for bad in ["authorization", "cookie", "x-forwarded-user", "txn-token", "host", "a b"] {
        let toml = format!("[[route]]\npath = \"/a\"\nto = \"x\"\nmatch_headers = {{ '{bad}' = '1' }}");
        assert!(matches!(routes_of(&toml), Err(RouteError::MatchHeader { .. })), "{bad}");
        let toml = format!(
            "[[route]]\npath = \"/a\"\nsplit = [{{ to = 'x' }}, {{ to = 'y' }}]\nsticky = {{ header = '{bad}' }}"
        );
        assert!(matches!(routes_of(&toml), Err(RouteError::MatchHeader { .. })) || bad == "host", "{bad}");
    }
    let twice = "[[route]]\npath = \"/a\"\nto = \"x\"\nmatch_headers = { 'X-A' = '1', 'x-a' = '2' }";
    assert!(matches!(routes_of(twice), Err(RouteError::MatchHeader { .. })));
}

#[test]
fn rejects_more_routes_of_one_path_than_a_request_looks_through() {
    let route =
        |n: usize| format!("[[route]]\npath = \"/a\"\nto = \"x\"\nmatch_headers = {{ a = \"{n}\" }}\n");
    let toml = |count: usize| (0..count).map(route).collect::<String>();
    assert!(routes_of(&toml(ALIKE_MAX)).is_ok());
    assert!(matches!(routes_of(&toml(ALIKE_MAX + 1)), Err(RouteError::TooManyAlike { count: 65, .. })));
}

#[test]
fn rejects_a_route_that_leads_nowhere_or_to_too_many() {
    let refused = |lead: &str| routes_of(&format!("[[route]]\npath = \"/a\"\n{lead}")).unwrap_err();
    for bad in [
        "",
        "split = [{ to = 'x' }]",
        "to = 'x'\nsplit = [{ to = 'x' }, { to = 'y' }]",
        "to = 'x'\nsticky = 'user'",
        "split = [{ to = 'x' }, { to = 'x', weight = 2 }]",
    ] {
        assert!(matches!(refused(bad), RouteError::Lead { .. }), "{bad}");
    }
    assert!(matches!(refused("to = 'No Name'"), RouteError::Target { .. }));
    assert!(matches!(refused("to = 'x'\nrewrite_prefix = 'v2'"), RouteError::Rewrite { .. }));
}

const CANARY: &str = r#"
[[route]]
path = "/a"
split = [{ to = "ads", weight = 95 }, { to = "ads-canary", weight = 5 }]
"#;

#[test]
fn a_split_gives_each_target_its_share() {
    let table = routes_of(CANARY).unwrap();
    let request = request("GET", "/a", "a.test");
    let lead = &table.find(&request).unwrap().lead;
    let canary =
        (0..20_000).filter(|_| lead.choose(&request, None).unwrap().as_str() == "ads-canary").count();
    // 1,000 are expected, with a standard deviation of 31: eight of them are room enough.
    assert!((750..1_250).contains(&canary), "{canary}");
    assert_eq!(lead.to_string(), "ads or ads-canary");
    assert_eq!(table.services().len(), 2);
}

#[test]
fn a_sticky_split_sends_the_same_user_to_the_same_target_and_users_to_both() {
    let table = routes_of(&format!("{CANARY}sticky = \"user\"")).unwrap();
    let request = request("GET", "/a", "a.test");
    let lead = &table.find(&request).unwrap().lead;
    let of = |user: &str| lead.choose(&request, Some(user)).unwrap().to_string();
    let users: Vec<String> = (0..2_000).map(|n| format!("u_{n}")).collect();
    let canary = users.iter().filter(|user| of(user) == "ads-canary").count();
    assert!((50..170).contains(&canary), "{canary}");
    assert!(users.iter().all(|user| (0..3).all(|_| of(user) == of(user))));
}

#[test]
fn a_split_may_stick_to_a_header() {
    let table = routes_of(&format!("{CANARY}sticky = {{ header = \"x-session\" }}")).unwrap();
    let of = |session: &str| {
        let headers = HeaderMap::from_iter([
            (HOST, HeaderValue::from_static("a.test")),
            ("x-session".parse().unwrap(), HeaderValue::from_str(session).unwrap()),
        ]);
        let request =
            CanonicalRequest::parse(&Method::GET, &"/a".parse().unwrap(), &headers, Version::HTTP_11)
                .unwrap();
        table.find(&request).unwrap().lead.choose(&request, None).unwrap().to_string()
    };
    let sessions: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    assert!(sessions.iter().any(|session| of(session) == "ads-canary"));
    assert!(sessions.iter().all(|session| of(session) == of(session)));
}

#[test]
fn rejects_a_rule_for_other_origins_that_does_not_load() {
    let refused = routes_of("[[route]]\npath = \"/a\"\nto = \"ads\"\ncors.origins = []").unwrap_err();
    let source = crate::guard::GuardError::Cors(crate::guard::CorsError::Nobody);
    assert_eq!(refused, RouteError::Guard { path: "/a".into(), source });
}

#[test]
fn rejects_an_upgrade_to_an_upstream_over_which_nothing_can_leave_http() {
    let trust = countersign_sdk::tls::TrustState::new(
        Default::default(),
        countersign_pki::verify::CrlPolicy::Require,
    );
    let text = "name = \"echo\"\nendpoints = [\"127.0.0.1:1\"]\nhttp2 = true";
    let upstream = |text: &str| {
        Upstreams::load(&[toml::from_str(text).unwrap()], &trust, &Upstreams::default()).unwrap()
    };
    let upgrades = RouteSettings {
        upgrade: vec![crate::upgrade::Upgrade::Websocket],
        ..route("/chat", &[], None, "echo")
    };
    let compile = |upstreams: &Upstreams| {
        RouteTable::compile(std::slice::from_ref(&upgrades), upstreams, &mut Counted::default()).map(drop)
    };
    let refused = compile(&upstream(text)).unwrap_err();
    assert_eq!(refused, RouteError::UpgradeOverHttp2 { path: "/chat".to_owned() });
    assert_eq!(compile(&upstream(&text.replace("true", "false"))), Ok(()));
}
