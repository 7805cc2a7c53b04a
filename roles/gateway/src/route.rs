//! Which service a request is for. The canonical path decides, the most exact template first.
//!
//! A method filter narrows a template, it never hands the request on: once a template has matched, a method that none of
//! its routes names is 405. So a request cannot slip from a guarded path to a laxer, less exact route by a change of
//! method. In the same way a host that has routes of its own has no others.

use std::collections::BTreeMap;

use countersign_identity::{ServiceName, ServiceNameError};
use countersign_request::{Authority, CanonicalRequest, RouteTemplate};
use http::Method;

use crate::headers::{HeaderRuleError, Rules};
use crate::settings::{RouteSettings, UserNeed};

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
    pub(crate) target: ServiceName,
    pub(crate) user: UserNeed,
    pub(crate) headers: Rules,
    /// None named means all.
    methods: Vec<Method>,
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
    pub(crate) fn compile(settings: &[RouteSettings]) -> Result<Self, RouteError> {
        if settings.len() > ROUTES_MAX {
            return Err(RouteError::TooMany { count: settings.len() });
        }
        let mut hosts: BTreeMap<Option<String>, BTreeMap<&str, Vec<Route>>> = BTreeMap::new();
        for route in settings {
            let host = route.host.as_deref().map(|text| host(text, &route.path)).transpose()?;
            let siblings = hosts.entry(host).or_default().entry(&route.path).or_default();
            let route = Route::compile(route)?;
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

    /// Every service that some route leads to, each once.
    pub(crate) fn targets(&self) -> Vec<ServiceName> {
        let tables = self.by_host.values().chain([&self.any_host]);
        let routes = tables.flat_map(|table| table.iter().flat_map(|(_, routes)| routes));
        let mut targets: Vec<ServiceName> = routes.map(|route| route.target.clone()).collect();
        targets.sort();
        targets.dedup();
        targets
    }
}

impl Route {
    fn compile(settings: &RouteSettings) -> Result<Self, RouteError> {
        let path = || settings.path.clone();
        let template = RouteTemplate::parse(&settings.path)
            .map_err(|source| RouteError::Path { path: path(), source })?;
        let target =
            ServiceName::parse(&settings.to).map_err(|source| RouteError::Target { path: path(), source })?;
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
