//! Which service a request is for. The canonical path decides, the most exact template first.
//!
//! A method filter narrows a template, it never hands the request on: once a template has matched, a method that none of
//! its routes names is 405. So a request cannot slip from a guarded path to a laxer, less exact route by a change of
//! method. In the same way a host that has routes of its own has no others.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use countersign_identity::{ServiceName, ServiceNameError};
use countersign_request::{Authority, CanonicalRequest, RouteTemplate};
use http::Method;

use crate::headers::{HeaderRuleError, Rules};
use crate::settings::{RouteSettings, UserNeed};
use crate::upstream::{Cluster, Upstreams};

/// Why the routes do not load.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The path is not a template.
    #[error("route `{path}`: {source}")]
    Path {
        /// As configured.
        path: String,
        /// What is wrong with it.
        source: countersign_request::RouteError,
    },
    /// The target is not a service name.
    #[error("route `{path}`: `to` names no service: {source}")]
    Target {
        /// Path of the route.
        path: String,
        /// What is wrong with the name.
        source: ServiceNameError,
    },
    /// Not a method that a route can have.
    #[error(
        "route `{path}`: method `{method}` cannot be routed; use GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS"
    )]
    Method {
        /// Path of the route.
        path: String,
        /// As configured.
        method: String,
    },
    /// The host is not a host name.
    #[error("route `{path}`: `{host}` is not a host name; write it without scheme and port")]
    Host {
        /// Path of the route.
        path: String,
        /// As configured.
        host: String,
    },
    /// A header rule does not load.
    #[error("route `{path}`: {source}")]
    Header {
        /// Path of the route.
        path: String,
        /// What is wrong with the rule.
        source: HeaderRuleError,
    },
    /// Two routes match the same requests.
    #[error("two routes match {what}; give them different methods or hosts, or keep one")]
    Ambiguous {
        /// What both match.
        what: String,
    },
    /// More routes than are kept.
    #[error("{count} routes, at most {ROUTES_MAX}")]
    TooMany {
        /// How many were configured.
        count: usize,
    },
}

/// Why a request has no route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    /// No template matches.
    #[error("no route for this host and path")]
    Unknown,
    /// The template matches, the method does not.
    #[error("this path takes {}", allow.join(", "))]
    Method {
        /// What it does take, sorted, for `Allow`.
        allow: Vec<String>,
    },
}

/// One compiled route.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) template: RouteTemplate,
    pub(crate) target: Target,
    pub(crate) user: UserNeed,
    pub(crate) headers: Rules,
    /// None named means all.
    methods: Vec<Method>,
}

/// Who answers.
#[derive(Clone)]
pub(crate) enum Target {
    /// A service of the snapshot, called as every service is.
    Service(ServiceName),
    /// An upstream of the configuration.
    Upstream(Arc<Cluster>),
}

impl Target {
    /// The name that the route says, and metrics and records after it.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Service(name) => name.as_str(),
            Self::Upstream(cluster) => cluster.name(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self})")
    }
}

/// All routes.
#[derive(Debug)]
pub(crate) struct RouteTable {
    by_host: BTreeMap<String, HostTable>,
    any_host: HostTable,
}

/// Routes of one host; those with the same template differ in their methods.
type HostTable = countersign_request::RouteTable<Vec<Route>>;

impl RouteTable {
    pub(crate) fn compile(settings: &[RouteSettings], upstreams: &Upstreams) -> Result<Self, RouteError> {
        if settings.len() > ROUTES_MAX {
            return Err(RouteError::TooMany { count: settings.len() });
        }
        let mut hosts: BTreeMap<Option<String>, BTreeMap<&str, Vec<Route>>> = BTreeMap::new();
        for route in settings {
            let host = route.host.as_deref().map(|text| host(text, &route.path)).transpose()?;
            let siblings = hosts.entry(host).or_default().entry(&route.path).or_default();
            let route = Route::compile(route, upstreams)?;
            if siblings.iter().any(|sibling| sibling.shares_a_method_with(&route)) {
                return Err(RouteError::Ambiguous { what: format!("the same method of {}", route.template) });
            }
            siblings.push(route);
        }
        let any_host = host_table(hosts.remove(&None).unwrap_or_default())?;
        let by_host = hosts
            .into_iter()
            .filter_map(|(host, routes)| Some((host?, routes)))
            .map(|(host, routes)| Ok((host, host_table(routes)?)))
            .collect::<Result<_, RouteError>>()?;
        Ok(RouteTable { by_host, any_host })
    }

    /// The one route of a request.
    pub(crate) fn find(&self, request: &CanonicalRequest) -> Result<&Route, NoRoute> {
        let table = self.by_host.get(request.authority().host()).unwrap_or(&self.any_host);
        let (_, routes) = table.find(request).ok_or(NoRoute::Unknown)?;
        routes.iter().find(|route| route.takes(request.method())).ok_or_else(|| {
            let mut allow: Vec<String> = routes
                .iter()
                .flat_map(|route| &route.methods)
                .map(|method| method.as_str().to_owned())
                .collect();
            allow.sort();
            NoRoute::Method { allow }
        })
    }

    /// Every service that some route leads to, each once; upstreams are not among them.
    pub(crate) fn services(&self) -> Vec<ServiceName> {
        let tables = self.by_host.values().chain([&self.any_host]);
        let routes = tables.flat_map(|table| table.iter().flat_map(|(_, routes)| routes));
        let mut services: Vec<ServiceName> = routes
            .filter_map(|route| match &route.target {
                Target::Service(name) => Some(name.clone()),
                Target::Upstream(_) => None,
            })
            .collect();
        services.sort();
        services.dedup();
        services
    }
}

impl Route {
    fn compile(settings: &RouteSettings, upstreams: &Upstreams) -> Result<Self, RouteError> {
        let path = || settings.path.clone();
        let template = RouteTemplate::parse(&settings.path)
            .map_err(|source| RouteError::Path { path: path(), source })?;
        let target = match upstreams.find(&settings.to) {
            Some(cluster) => Target::Upstream(Arc::clone(cluster)),
            None => ServiceName::parse(&settings.to)
                .map(Target::Service)
                .map_err(|source| RouteError::Target { path: path(), source })?,
        };
        let headers = Rules::compile(&settings.headers)
            .map_err(|source| RouteError::Header { path: path(), source })?;
        let methods =
            settings.methods.iter().map(|text| method(text, &settings.path)).collect::<Result<_, _>>()?;
        Ok(Route { template, target, user: settings.user, headers, methods })
    }

    /// `HEAD` is `GET` without the body; policy still sees which of them it was.
    fn takes(&self, wanted: &Method) -> bool {
        let named = |method: &Method| self.methods.contains(method);
        self.methods.is_empty() || named(wanted) || (wanted == Method::HEAD && named(&Method::GET))
    }

    fn shares_a_method_with(&self, other: &Route) -> bool {
        self.methods.is_empty()
            || other.methods.is_empty()
            || self.methods.iter().any(|method| other.methods.contains(method))
    }
}

fn host_table(routes: BTreeMap<&str, Vec<Route>>) -> Result<HostTable, RouteError> {
    let entries = routes
        .into_values()
        .filter_map(|siblings| Some((siblings.first()?.template.clone(), siblings)))
        .collect::<Vec<_>>();
    HostTable::new(entries).map_err(|countersign_request::RouteTableError::Ambiguous { first, second }| {
        RouteError::Ambiguous { what: format!("the same paths, {first} and {second}") }
    })
}

fn method(text: &str, path: &str) -> Result<Method, RouteError> {
    ROUTABLE
        .iter()
        .find(|method| method.as_str() == text)
        .cloned()
        .ok_or_else(|| RouteError::Method { path: path.to_owned(), method: text.to_owned() })
}

/// In the form in which a canonical request has it.
fn host(text: &str, path: &str) -> Result<String, RouteError> {
    match Authority::parse(text) {
        Ok(authority) if authority.port().is_none() => Ok(authority.host().to_owned()),
        _ => Err(RouteError::Host { path: path.to_owned(), host: text.to_owned() }),
    }
}

const ROUTES_MAX: usize = 10_000;
const ROUTABLE: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use http::header::HOST;
    use http::{HeaderMap, HeaderValue, Version};
    use proptest::prelude::*;

    use super::*;

    fn route(path: &str, methods: &[&str], host: Option<&str>, to: &str) -> RouteSettings {
        RouteSettings {
            path: path.to_owned(),
            host: host.map(str::to_owned),
            methods: methods.iter().map(|method| (*method).to_owned()).collect(),
            to: to.to_owned(),
            user: UserNeed::Required,
            headers: crate::settings::HeaderRules::default(),
        }
    }

    fn compile(settings: &[RouteSettings]) -> Result<RouteTable, RouteError> {
        RouteTable::compile(settings, &Upstreams::default())
    }

    fn request(method: &str, path: &str, host: &str) -> CanonicalRequest {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_str(host).unwrap())]);
        CanonicalRequest::parse(&method.parse().unwrap(), &path.parse().unwrap(), &headers, Version::HTTP_11)
            .unwrap()
    }

    fn target(table: &RouteTable, method: &str, path: &str, host: &str) -> Result<String, NoRoute> {
        table.find(&request(method, path, host)).map(|route| route.target.to_string())
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
        let table = compile(&[route("/a", &[], None, "any"), route("/b", &[], Some("Admin.Test."), "admin")])
            .unwrap();
        assert_eq!(target(&table, "GET", "/b", "ADMIN.test:8443").unwrap(), "admin");
        assert_eq!(target(&table, "GET", "/a", "admin.test"), Err(NoRoute::Unknown));
        assert_eq!(target(&table, "GET", "/a", "other.test").unwrap(), "any");
        assert_eq!(target(&table, "GET", "/b", "other.test"), Err(NoRoute::Unknown));
    }

    #[test]
    fn rejects_routes_that_match_the_same_requests() {
        let ambiguous =
            |routes: &[RouteSettings]| matches!(compile(routes), Err(RouteError::Ambiguous { .. }));
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
}
