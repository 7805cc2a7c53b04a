//! Why routes do not load, and why a request has none.

use countersign_identity::ServiceNameError;

use super::{ALIKE_MAX, ROUTES_MAX};
use crate::guard::GuardError;
use crate::headers::HeaderRuleError;

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
    /// A target is neither an upstream nor a service name.
    #[error("route `{path}`: `{to}` names no service and no upstream: {source}")]
    Target {
        /// Path of the route.
        path: String,
        /// As configured.
        to: String,
        /// What is wrong with the name.
        source: ServiceNameError,
    },
    /// Its rule for other origins or a limit does not load.
    #[error("route `{path}`: {source}")]
    Guard {
        /// Path of the route.
        path: String,
        /// What is wrong with the rule.
        source: GuardError,
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
    /// Neither or both of `to` and `split`, or shares that cannot be told apart.
    #[error("route `{path}`: {why}; write to = \"ads\", or split = [{{ to = \"ads\", weight = 95 }}, …]")]
    Lead {
        /// Path of the route.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A header that a route cannot ask for.
    #[error("route `{path}`: match_headers `{name}`: {why}")]
    MatchHeader {
        /// Path of the route.
        path: String,
        /// As configured.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Not a prefix that a canonical path can have.
    #[error(
        "route `{path}`: rewrite_prefix `{prefix}` is no plain path; write / or /v2, without holes and last slash"
    )]
    Rewrite {
        /// Path of the route.
        path: String,
        /// As configured.
        prefix: String,
    },
    /// A WebSocket begins in HTTP/1.1.
    #[error("route `{path}`: upgrade leads to an upstream with http2 = true; name one that speaks HTTP/1.1")]
    UpgradeOverHttp2 {
        /// Path of the route.
        path: String,
    },
    /// More routes for one path than are looked through for one request.
    #[error("{count} routes for {path}, at most {ALIKE_MAX}; split them by path or host")]
    TooManyAlike {
        /// Their path.
        path: String,
        /// How many there are.
        count: usize,
    },
    /// Two routes match the same requests.
    #[error("two routes match {what}; give them different methods, hosts or match_headers, or keep one")]
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
