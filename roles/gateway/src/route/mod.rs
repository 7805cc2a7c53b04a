//! Which target a request is for. The canonical path decides, the most exact template first.
//!
//! A method filter narrows a template, it never hands the request on: once a template has matched, a method that none of
//! its routes names is 405. So a request cannot slip from a guarded path to a laxer, less exact route by a change of
//! method. In the same way a host that has routes of its own has no others, and a path whose routes all ask for headers
//! that the request does not have is 404.
//!
//! Whatever two routes could both take, one of them must ask for more; if neither does, they do not load.

mod error;
mod lead;
mod one;
mod rewrite;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use countersign_identity::ServiceName;
use countersign_request::{Authority, Head};

pub use error::{NoRoute, RouteError};
pub(crate) use lead::Target;
pub(crate) use one::Route;
pub use rewrite::RewriteError;

use crate::guard::limits::Counted;
use crate::settings::RouteSettings;
use crate::upstream::Upstreams;

/// All routes.
#[derive(Debug)]
pub(crate) struct RouteTable {
    by_host: BTreeMap<String, HostTable>,
    any_host: HostTable,
}

/// Routes of one host; those with the same template differ in their methods or headers, the more exact first.
type HostTable = countersign_request::RouteTable<Vec<Route>>;

impl RouteTable {
    /// The limits of routes go on with what the same ones have `counted` before.
    pub(crate) fn compile(
        settings: &[RouteSettings],
        upstreams: &Upstreams,
        counted: &mut Counted,
    ) -> Result<Self, RouteError> {
        if settings.len() > ROUTES_MAX {
            return Err(RouteError::TooMany { count: settings.len() });
        }
        let mut hosts: BTreeMap<Option<String>, BTreeMap<&str, Vec<Route>>> = BTreeMap::new();
        for route in settings {
            let host = route.host.as_deref().map(|text| host(text, &route.path)).transpose()?;
            let siblings = hosts.entry(host).or_default().entry(&route.path).or_default();
            let route = Route::compile(route, upstreams, counted)?;
            if siblings.iter().any(|sibling| sibling.is_confused_with(&route)) {
                return Err(RouteError::Ambiguous {
                    what: format!("the same requests to {}", route.template),
                });
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
    pub(crate) fn find(&self, request: &impl Head) -> Result<&Route, NoRoute> {
        let table = self.by_host.get(request.authority().host()).unwrap_or(&self.any_host);
        let (_, routes) = table.find(request).ok_or(NoRoute::Unknown)?;
        let mut taken = routes.iter().filter(|route| route.takes(request.method())).peekable();
        if taken.peek().is_none() {
            return Err(no_method(routes));
        }
        taken.find(|route| route.is_meant_by(request)).ok_or(NoRoute::Unknown)
    }

    /// Every service that some route leads to, each once; upstreams are not among them.
    pub(crate) fn services(&self) -> Vec<ServiceName> {
        let mut services: Vec<ServiceName> = self
            .routes()
            .flat_map(|route| route.lead.targets())
            .filter_map(|target| match target {
                Target::Service(name) => Some(name.clone()),
                Target::Upstream(_) => None,
            })
            .collect();
        services.sort();
        services.dedup();
        services
    }

    /// Every route.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Route> {
        let tables = self.by_host.values().chain([&self.any_host]);
        tables.flat_map(|table| table.iter().flat_map(|(_, routes)| routes))
    }
}

fn no_method(routes: &[Route]) -> NoRoute {
    let methods = routes.iter().flat_map(Route::methods);
    let mut allow: Vec<String> = methods.map(|method| method.as_str().to_owned()).collect();
    allow.sort();
    allow.dedup();
    NoRoute::Method { allow }
}

fn host_table(routes: BTreeMap<&str, Vec<Route>>) -> Result<HostTable, RouteError> {
    let mut entries = Vec::with_capacity(routes.len());
    for (path, mut siblings) in routes {
        if siblings.len() > ALIKE_MAX {
            return Err(RouteError::TooManyAlike { path: path.to_owned(), count: siblings.len() });
        }
        siblings.sort_by_key(|route| std::cmp::Reverse(route.exactness()));
        let Some(first) = siblings.first() else { continue };
        entries.push((first.template.clone(), siblings));
    }
    HostTable::new(entries).map_err(|countersign_request::RouteTableError::Ambiguous { first, second }| {
        RouteError::Ambiguous { what: format!("the same paths, {first} and {second}") }
    })
}

/// In the form in which a canonical request has it.
fn host(text: &str, path: &str) -> Result<String, RouteError> {
    match Authority::parse(text) {
        Ok(authority) if authority.port().is_none() => Ok(authority.host().to_owned()),
        _ => Err(RouteError::Host { path: path.to_owned(), host: text.to_owned() }),
    }
}

const ROUTES_MAX: usize = 10_000;
/// Routes with one template, of which each request looks through all.
const ALIKE_MAX: usize = 64;
